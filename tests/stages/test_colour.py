"""Colour: every format, matrix and range, against the standards' numbers and against FFmpeg's own converter."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pixels import PIXEL_FORMATS, PixelFormat
from pipeline.types import Array, Colour, Picture
from stages.chroma import averaged, upsampled
from stages.colour import chroma_offset, coding, matrix_of, region_to_rgb, small_rgb
from stages.planes import view

formats = st.sampled_from(list(PIXEL_FORMATS.values()))
colours = st.builds(
    Colour,
    matrix=st.sampled_from([0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 14]),
    range=st.integers(0, 2),
    chroma_location=st.integers(0, 6),
)


def random_picture(format: PixelFormat, width: int, height: int, seed: int = 0) -> Picture:
    """Noise in every plane."""
    draw = np.random.default_rng(seed)
    planes = [draw.integers(0, format.peak + 1, shape) << format.shift for shape in format.shapes(width, height)]
    return Picture(format, width, height, tuple(plane.astype(format.dtype) for plane in planes))


def flat_picture(format: PixelFormat, colour: Colour, rgb: tuple[int, int, int], width: int, height: int) -> Picture:
    """One colour everywhere, coded by the equations of `coding`."""
    code = coding(format, colour, width, height)
    values = np.clip(np.rint(code.from_rgb @ (*rgb, 1.0)), 0, format.peak).astype(int) << format.shift
    by_name = dict(zip(code.components, values, strict=True))
    planes = []
    for layout, shape in zip(format.planes, format.shapes(width, height), strict=True):
        samples = [by_name.get(name, 7) for name in layout.components]
        planes.append(np.full(shape, samples if len(samples) > 1 else samples[0], format.dtype))
    return Picture(format, width, height, tuple(planes))


def smooth_rgb(width: int, height: int) -> Array:
    y, x = np.mgrid[0:height, 0:width]
    waves = (np.sin(x / 90 + y / 70), np.cos(x / 110 - y / 50), np.sin(y / 60 + 2))
    return np.clip(np.stack([128 + 110 * wave for wave in waves], axis=-1), 0, 255).astype(np.uint8)


@given(format=formats, colour=colours, rgb=st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=300, deadline=None)
def test_a_colour_comes_back_from_every_format_matrix_and_range(format, colour, rgb):
    if format.model == "gray":
        rgb = (rgb[0],) * 3
    picture = flat_picture(format, colour, rgb, 9, 7)
    got = region_to_rgb(picture, colour, (0, 0, 9, 7)).astype(int)
    # One step of limited-range chroma is worth up to 2.1 levels of blue, and half of it is lost by rounding.
    assert np.abs(got - rgb).max() <= (2 if format.depth == 8 else 1)


@pytest.mark.parametrize(
    ("matrix", "rgb", "expected"),
    [
        (6, (255, 0, 0), (81, 90, 240)),
        (6, (0, 0, 255), (41, 240, 110)),
        (1, (255, 0, 0), (63, 102, 240)),
        (1, (0, 255, 0), (173, 42, 26)),
        (9, (0, 0, 255), (29, 240, 119)),
        (1, (255, 255, 255), (235, 128, 128)),
        (1, (0, 0, 0), (16, 128, 128)),
    ],
)
def test_known_code_values_of_the_standards(matrix, rgb, expected):
    code = coding(PIXEL_FORMATS["yuv420p"], Colour(matrix=matrix, range=1), 64, 64)
    assert tuple(np.rint(code.from_rgb @ (*rgb, 1.0)).astype(int)) == expected


def test_ten_bit_and_full_range_scale_as_the_standards_say():
    deep = coding(PIXEL_FORMATS["yuv420p10le"], Colour(matrix=1, range=1), 64, 64)
    assert np.allclose(deep.from_rgb @ (255, 255, 255, 1), (940, 512, 512))
    full = coding(PIXEL_FORMATS["yuv420p10le"], Colour(matrix=1, range=2), 64, 64)
    assert np.allclose(full.from_rgb @ (255, 255, 255, 1), (1023, 512, 512))


def test_untagged_pictures_are_601_in_sd_and_709_in_hd():
    format = PIXEL_FORMATS["yuv420p"]
    assert matrix_of(format, Colour(), 640, 480) == 6
    assert matrix_of(format, Colour(), 1280, 720) == 1
    assert matrix_of(format, Colour(), 1280, 534) == 1
    assert matrix_of(format, Colour(matrix=9), 640, 480) == 9


def test_untagged_range_is_limited_but_full_for_jpeg_names_and_gray():
    white = {name: coding(PIXEL_FORMATS[name], Colour(), 64, 64) for name in ("yuv420p", "yuvj420p", "gray")}
    assert [round((c.from_rgb @ (255, 255, 255, 1))[0]) for c in white.values()] == [235, 255, 255]


@given(
    format=formats,
    colour=colours,
    width=st.integers(1, 70),
    height=st.integers(1, 40),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_region_is_what_the_whole_picture_has_there(format, colour, width, height, seed, data):
    picture = random_picture(format, width, height, seed)
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    whole = region_to_rgb(picture, colour, (0, 0, width, height)).astype(int)
    region = region_to_rgb(picture, colour, (x0, y0, x1, y1))
    assert region.dtype == np.uint8
    # OpenCV's vector code and its tail may round a half differently.
    assert np.abs(region - whole[y0:y1, x0:x1]).max() <= 1


@pytest.mark.parametrize("box", [(0, 0, 0, 4), (-1, 0, 4, 4), (0, 0, 9, 4), (3, 5, 4, 5)])
def test_a_region_outside_the_picture_is_refused(box):
    with pytest.raises(ValueError, match="8x6"):
        region_to_rgb(random_picture(PIXEL_FORMATS["yuv420p"], 8, 6), Colour(), box)


@pytest.mark.parametrize("tags", [(1, 1), (1, 2), (6, 1), (6, 2), (9, 1)])
@pytest.mark.parametrize(
    "name",
    [
        "yuv420p",
        "yuv422p",
        "yuv444p",
        "yuv411p",
        "yuva420p",
        "nv12",
        "nv16",
        "yuv420p10le",
        "yuv422p10le",
        "p010le",
        "yuv444p12le",
        "gbrp",
        "gbrp10le",
        "rgb24",
        "bgra",
        "rgb48le",
    ],
)
def test_agreement_with_ffmpegs_converter(name, tags):
    matrix, colour_range = tags
    rgb = smooth_rgb(320, 180)
    # FFmpeg numbers its own colour spaces as the code points do, but calls 601 "5".
    space = 5 if matrix == 6 else matrix
    frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
        format=name,
        src_colorspace=space,
        dst_colorspace=space,
        src_color_range=2,
        dst_color_range=colour_range,
        interpolation=Interpolation.BICUBIC,
    )
    picture = view(frame, PIXEL_FORMATS[name])
    got = region_to_rgb(picture, Colour(matrix=matrix, range=colour_range, chroma_location=2), (0, 0, 320, 180))
    difference = np.abs(got.astype(int) - rgb)
    assert difference.max() <= 5
    assert difference.mean() <= 1.0


def test_deep_semi_planar_reads_as_planar():
    planar = random_picture(PIXEL_FORMATS["yuv420p10le"], 33, 17)
    y, u, v = (plane << 6 for plane in planar.planes)
    semi = Picture(PIXEL_FORMATS["p010le"], 33, 17, (y, np.dstack([u, v])))
    box = (3, 2, 30, 17)
    difference = region_to_rgb(semi, Colour(), box).astype(int) - region_to_rgb(planar, Colour(), box)
    assert np.abs(difference).max() <= 1


@given(location=st.integers(1, 6), log2=st.sampled_from([(1, 1), (1, 0), (2, 0), (2, 2), (0, 1)]))
def test_chroma_is_interpolated_from_where_it_lies(location, log2):
    """A chroma ramp that is linear in luma px comes out linear, exactly, inside the picture."""
    offset = chroma_offset(PIXEL_FORMATS["yuv420p"], Colour(chroma_location=location), *log2)
    x = offset[0] + np.arange(20) * (1 << log2[0])
    y = offset[1] + np.arange(16) * (1 << log2[1])
    plane = (100 + 3 * x[None, :] + 5 * y[:, None]).astype(np.float32)
    box = (9, 7, 16, 14)
    got = upsampled(plane, log2, offset, box)
    expected = 100 + 3 * np.arange(9, 16)[None, :] + 5 * np.arange(7, 14)[:, None]
    assert np.allclose(got, expected, atol=1e-3)


@given(location=st.integers(1, 6), log2=st.sampled_from([(1, 1), (1, 0), (2, 0), (2, 2), (0, 1)]))
def test_chroma_is_averaged_to_where_it_lies(location, log2):
    """A ramp of full-size samples has, at each chroma sample's place, that sample's value."""
    offset = chroma_offset(PIXEL_FORMATS["yuv420p"], Colour(chroma_location=location), *log2)
    factor = (1 << log2[0], 1 << log2[1])
    y, x = np.mgrid[-factor[1] : 16 + factor[1], -factor[0] : 32 + factor[0]]
    got = averaged((100 + 3 * x + 5 * y).astype(np.float32), log2, offset, factor)
    columns = offset[0] + np.arange(32 >> log2[0]) * factor[0]
    rows = offset[1] + np.arange(16 >> log2[1]) * factor[1]
    assert np.allclose(got, 100 + 3 * columns[None, :] + 5 * rows[:, None], atol=1e-3)


@pytest.mark.parametrize("name", ["yuv420p", "nv12", "yuv422p10le", "p010le", "rgb24", "gbrp", "gray", "yuv410p"])
def test_a_small_copy_is_the_picture_shrunk(name):
    format, (width, height) = PIXEL_FORMATS[name], (641, 361)
    smooth = [cv2.resize(smooth_rgb(64, 64)[..., 0], shape[1::-1]) for shape in format.shapes(width, height)]
    planes = [
        np.dstack([plane] * shape[2]) if len(shape) == 3 else plane
        for plane, shape in zip(smooth, format.shapes(width, height), strict=True)
    ]
    scale_up = 1 << (format.depth - 8 + format.shift)
    picture = Picture(format, width, height, tuple((p.astype(format.dtype) * scale_up) for p in planes))
    small, scale = small_rgb(picture, Colour(), 160)
    assert small.shape == (90, 160, 3)
    assert scale == pytest.approx(160 / 641)
    whole = region_to_rgb(picture, Colour(), (0, 0, width, height))
    expected = cv2.resize(whole, (160, 90), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - expected)[2:-2, 2:-2].mean() < 2.5


def test_a_small_picture_keeps_its_size():
    picture = random_picture(PIXEL_FORMATS["yuv420p"], 31, 17)
    small, scale = small_rgb(picture, Colour(), 64)
    assert scale == 1.0
    assert np.array_equal(small, region_to_rgb(picture, Colour(), (0, 0, 31, 17)))
