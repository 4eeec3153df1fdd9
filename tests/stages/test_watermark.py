"""The invisible watermark's embedding: what it changes, by how much, and what that hangs on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.pixels import PIXEL_FORMATS, PixelFormat
from pipeline.types import Array, Clip, Colour, Picture
from stages.watermark import PEAK, Watermark, luma_of, read_key, strength

KEY = bytes(range(32))


def clip_of(format: PixelFormat, width: int, height: int, **facts: object) -> Clip:
    return replace(Clip(0, "", "", "", width, height, format, Fraction(1, 25), payload=0x1234_5678_9ABC), **facts)


def noise(clip: Clip, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Picture:
    """Samples of the whole range by chance, or of a share of it."""
    rng, format = np.random.default_rng(seed), clip.pixel_format
    planes = tuple(
        (rng.integers(int(low * format.peak), int(high * format.peak) + 1, shape) << format.shift).astype(format.dtype)
        for shape in format.shapes(clip.width, clip.height)
    )
    return Picture(format, clip.width, clip.height, planes)


def copy_of(picture: Picture) -> Picture:
    return replace(picture, planes=tuple(plane.copy() for plane in picture.planes))


def components(picture: Picture) -> dict[str, Array]:
    """Each component's samples, int64, without the format's shift."""
    found = {}
    for layout, plane in zip(picture.format.planes, picture.planes, strict=True):
        for at, name in enumerate(layout.components):
            samples = plane if plane.ndim == 2 else plane[..., at]
            found[name] = samples.astype(np.int64) >> picture.format.shift
    return found


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(sorted(PIXEL_FORMATS)),
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    seconds=st.sampled_from([None, 0.1, 7.0, 900.0]),
    full=st.booleans(),
    seed=st.integers(0, 9),
)
def test_changes_luma_alone_by_the_stated_peak_and_stays_legal(
    name: str, width: int, height: int, seconds: float | None, full: bool, seed: int
) -> None:
    format = PIXEL_FORMATS[name]
    clip = clip_of(format, width, height, duration_s=seconds, colour=Colour(range=2 if full else 1))
    before = noise(clip, seed)
    after = copy_of(before)
    Watermark(KEY, clip).apply(after)
    unit = 1 << (format.depth - 8)
    is_full = full or format.full_range_by_name
    low, high = (0, format.peak) if is_full else (16 * unit, 235 * unit)
    was, now = components(before), components(after)
    for component, samples in was.items():
        change = now[component] - samples
        assert np.abs(change).max() <= (PEAK * unit if component in "yrgb" else 0)
        legal = (samples >= low) & (samples <= high)
        assert ((now[component] >= low) & (now[component] <= high))[legal].all() or component not in "yrgb"
        assert (change[samples > high] <= 0).all() and (change[samples < low] >= 0).all()
    if format.model == "rgb":
        assert np.array_equal(now["r"] - was["r"], now["g"] - was["g"])
        assert np.array_equal(now["b"] - was["b"], now["g"] - was["g"])
    for plane, mine in zip(after.planes, before.planes, strict=True):
        assert not ((plane ^ mine) & ((1 << format.shift) - 1)).any()


def test_the_peak_is_reached_and_smooth_parts_get_less() -> None:
    clip = clip_of(PIXEL_FORMATS["gray"], 320, 180, duration_s=90.0)
    busy, smooth = noise(clip), noise(clip, low=0.5, high=0.5)
    changes = []
    for picture in (busy, smooth):
        before = picture.planes[0].astype(int)
        Watermark(KEY, clip).apply(picture)
        changes.append(np.abs(picture.planes[0] - before))
    assert changes[0].max() == PEAK
    assert changes[1].max() == 1
    assert changes[0].mean() > 1.5 * changes[1].mean() > 0


def test_black_stays_black() -> None:
    clip = clip_of(PIXEL_FORMATS["yuv420p"], 320, 180, colour=Colour(range=1))
    picture = noise(clip, low=16 / 255, high=16 / 255)
    Watermark(KEY, clip).apply(picture)
    assert (picture.planes[0] == 16).all()


def test_deeper_formats_get_finer_steps() -> None:
    clip = clip_of(PIXEL_FORMATS["yuv420p10le"], 320, 180, duration_s=30.0)
    picture = noise(clip, low=0.5, high=0.5)
    before = picture.planes[0].astype(int)
    Watermark(KEY, clip).apply(picture)
    assert set(np.unique(np.abs(picture.planes[0] - before))) >= {1, 2, 3}


def test_yuv_with_the_identity_matrix_is_marked_as_the_green_blue_and_red_that_it_is() -> None:
    clip = clip_of(PIXEL_FORMATS["yuv444p"], 160, 90, colour=Colour(matrix=0, range=2))
    picture = noise(clip, low=0.3, high=0.6)
    before = [plane.astype(int) for plane in picture.planes]
    Watermark(KEY, clip).apply(picture)
    changes = [plane - was for plane, was in zip(picture.planes, before, strict=True)]
    assert changes[0].any() and all(np.array_equal(changes[0], change) for change in changes)


def test_a_frame_is_marked_alike_alone_and_in_a_row() -> None:
    clip = clip_of(PIXEL_FORMATS["yuv420p"], 322, 182, duration_s=4.0)
    row = Watermark(KEY, clip)
    for seed in range(8):
        last = noise(clip, seed)
        alone = copy_of(last)
        row.apply(last)
    Watermark(KEY, clip).apply(alone)
    assert all(np.array_equal(one, other) for one, other in zip(last.planes, alone.planes, strict=True))


def test_planes_with_gaps_between_rows_are_marked_in_place() -> None:
    clip = clip_of(PIXEL_FORMATS["gray"], 100, 60)
    tight = noise(clip, low=0.2, high=0.8)
    wide = np.zeros((60, 128), np.uint8)
    wide[:, :100] = tight.planes[0]
    Watermark(KEY, clip).apply(replace(tight, planes=(wide[:, :100],)))
    Watermark(KEY, clip).apply(tight)
    assert np.array_equal(wide[:, :100], tight.planes[0])
    assert not wide[:, 100:].any()


def test_shorter_clips_and_smaller_pictures_are_marked_more_strongly() -> None:
    lengths = [0.0, 1.0, 3.0, 10.0, 59.0, 60.0, 1e6]
    levels = [strength(seconds, 720) for seconds in lengths]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == levels[1] > levels[2] and levels[-1] == levels[-2] < strength(None, 720)
    assert strength(5.0, 1) == strength(5.0, 360) > strength(5.0, 720) > strength(5.0, 1080) > strength(5.0, 4320) > 0.5


def test_another_clips_picture_is_refused() -> None:
    clip = clip_of(PIXEL_FORMATS["gray"], 64, 48)
    with pytest.raises(ValueError, match="not of the clip"):
        Watermark(KEY, clip).apply(noise(replace(clip, width=65)))


def test_luma_is_in_levels_of_8_bits_whatever_the_format() -> None:
    for name in ("yuv420p", "p010le", "gbrp12le", "bgr24", "ya8"):
        clip = clip_of(PIXEL_FORMATS[name], 8, 6)
        luma = luma_of(noise(clip, low=0.5, high=0.5))
        assert luma.shape == (6, 8)
        assert abs(float(luma.mean()) - 127.5) < 1


def test_a_key_file_is_32_bytes(tmp_path: Path) -> None:
    path = tmp_path / "watermark.key"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(str(path))
    for wrong in (b"", bytes(31), bytes(33)):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match="32 bytes"):
            read_key(str(path))
    path.write_bytes(KEY)
    assert read_key(str(path)) == KEY
