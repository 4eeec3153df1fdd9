"""Planes: views and wrapped frames hold the same samples, whatever the format, size and strides."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Picture
from stages.planes import copied, nearest, padded, view, wrap
from tests.clips import picture, to_av

FORMATS = sorted(PIXEL_FORMATS)


def same(a: Picture, b: Picture) -> None:
    assert a.format == b.format
    for one, other in zip(a.planes, b.planes, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(16, 70), st.integers(16, 70))
def test_there_and_back(name: str, width: int, height: int) -> None:
    shown = picture(PIXEL_FORMATS[name], width, height)
    same(view(to_av(shown), shown.format), shown)
    same(view(wrap(shown), shown.format), shown)
    same(view(copied(shown), shown.format), shown)


@pytest.mark.parametrize("size", [(640, 482), (1918, 1078), (64, 50)])
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "nv12", "gbrp"])
def test_heights_that_are_not_a_multiple_of_four(size: tuple[int, int], name: str) -> None:
    shown = picture(PIXEL_FORMATS[name], *size)
    frame = wrap(shown)
    assert (frame.width, frame.height) == size
    same(view(frame, shown.format), shown)


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "yuv422p10le", "yuv444p", "gbrp", "gray", "yuva420p"])
def test_planar_pictures_are_wrapped_in_place(name: str) -> None:
    shown = picture(PIXEL_FORMATS[name], 64, 48)
    frame = wrap(shown)
    for plane in shown.planes:
        plane[:] = 7
    same(view(frame, shown.format), shown)


def test_strided_pictures_are_wrapped_in_place() -> None:
    roomy = np.zeros((48, 100), np.uint8)
    luma = roomy[:, :64]
    chroma = picture(PIXEL_FORMATS["yuv420p"], 64, 48).planes[1:]
    shown = Picture(PIXEL_FORMATS["yuv420p"], 64, 48, (luma, *chroma))
    frame = wrap(shown)
    luma[:] = 9
    same(view(frame, shown.format), shown)


def test_a_copy_has_a_life_of_its_own() -> None:
    shown = picture(PIXEL_FORMATS["yuv420p"], 64, 48)
    before = picture(PIXEL_FORMATS["yuv420p"], 64, 48)
    frame = copied(shown)
    shown.planes[0][:] = 0
    same(view(frame, shown.format), before)


def test_read_only_planes_are_copied_not_refused() -> None:
    shown = picture(PIXEL_FORMATS["yuv420p"], 64, 48)
    for plane in shown.planes:
        plane.flags.writeable = False
    same(view(wrap(shown), shown.format), shown)


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "nv12", "rgb24", "yuva420p"])
def test_padding_repeats_the_edge(name: str) -> None:
    shown = picture(PIXEL_FORMATS[name], 33, 17)
    grown = view(padded(shown, 34, 18), shown.format)
    for plane, source in zip(grown.planes, shown.planes, strict=True):
        rows, columns = source.shape[:2]
        np.testing.assert_array_equal(plane[:rows, :columns], source)
        np.testing.assert_array_equal(plane[rows:, :columns], np.broadcast_to(source[-1], plane[rows:, :columns].shape))
        np.testing.assert_array_equal(
            plane[:rows, columns:], np.repeat(source[:, -1:], plane.shape[1] - columns, axis=1)
        )


def test_nearest_is_the_format_itself_where_it_is_known() -> None:
    assert all(nearest(name).name == name for name in FORMATS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uyvy422", "yuv422p"),
        ("yuv420p10be", "yuv420p10le"),
        ("pal8", "gbrp"),
        ("monow", "gray"),
        ("rgba64be", "gbrap16le"),
        ("y210le", "yuv422p10le"),
    ],
)
def test_nearest_keeps_depth_chroma_and_alpha(name: str, expected: str) -> None:
    assert nearest(name).name == expected


def test_a_picture_stored_bottom_up_is_seen_the_right_way() -> None:
    shown = picture(PIXEL_FORMATS["yuv420p"], 64, 48)
    graph = av.filter.Graph()
    graph.threads = 1
    buffer = graph.add_buffer(width=64, height=48, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 25))
    graph.link_nodes(buffer, graph.add("vflip"), graph.add("buffersink")).configure()
    graph.vpush(to_av(shown))
    flipped = graph.vpull()
    assert flipped.planes[0].line_size < 0
    for plane, expected in zip(view(flipped, shown.format).planes, shown.planes, strict=True):
        np.testing.assert_array_equal(plane, expected[::-1])
