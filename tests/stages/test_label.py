"""Label: upright, large enough, in the box alone, on from the first picture on, in every format."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline import config
from pipeline.errors import ConfigError
from pipeline.pixels import PIXEL_FORMATS, PixelFormat, Plane
from pipeline.types import Array, Clip, Colour, Picture
from stages.label import SHORT, Config, Label
from stages.lettering import Font
from stages.upright import shown_size, upright
from tests.clips import MATRICES

ALL = list(PIXEL_FORMATS)
YUV = PIXEL_FORMATS["yuv420p"]


def clip_of(width: int, height: int, format: PixelFormat = YUV, turn: str = "", sar: Fraction = Fraction(1)) -> Clip:
    matrix = MATRICES[turn] if turn else None
    rate = Fraction(1, 25)
    return Clip(1, "", "", "", width, height, format, rate, sample_aspect_ratio=sar, display_matrix=matrix)


def noise(clip: Clip, seed: int = 0) -> Picture:
    """Noise in every bit of every sample, unused low bits included."""
    draw = np.random.default_rng(seed)
    format = clip.pixel_format
    planes: list[Any] = []
    for shape in format.shapes(clip.width, clip.height):
        samples = draw.integers(0, format.peak + 1, shape) << format.shift
        samples |= draw.integers(0, 1 << format.shift, shape)
        planes.append(samples.astype(format.dtype))
    made: tuple[Plane, ...] = tuple(planes)
    return Picture(format, clip.width, clip.height, made)


def flat(clip: Clip, share: float = 0.5) -> Picture:
    """Every sample at the same share of the format's peak."""
    format = clip.pixel_format
    value = int(format.peak * share) << format.shift
    planes: Any = tuple(np.full(shape, value, format.dtype) for shape in format.shapes(clip.width, clip.height))
    return Picture(format, clip.width, clip.height, planes)


def copy(picture: Picture) -> Picture:
    return Picture(picture.format, picture.width, picture.height, tuple(plane.copy() for plane in picture.planes))


def touched(before: Picture, after: Picture) -> Array:
    """(height, width) bool: the px that any changed sample of any plane covers."""
    found = np.zeros((before.height, before.width), bool)
    for layout, old, new in zip(before.format.planes, before.planes, after.planes, strict=True):
        changed = old != new
        changed = changed if changed.ndim == 2 else changed.any(axis=2)
        whole = np.repeat(np.repeat(changed, 1 << layout.log2_h, 0), 1 << layout.log2_w, 1)
        found |= whole[: before.height, : before.width]
    return found


def drawn(clip: Clip, **settings: object) -> tuple[Picture, Array]:
    """A labelled grey picture, and which of its px are not as they were."""
    picture = flat(clip)
    before = copy(picture)
    assert Label(Config(**settings), clip).draw(picture, 0.0)  # type: ignore[arg-type]
    return picture, touched(before, picture)


def box_of(mask: Array) -> tuple[int, int, int, int]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return x, y, x + w, y + h


def letters(clip: Clip, picture: Picture) -> Array:
    """(h, w) bool of the picture as it is shown: where the letters' white is."""
    return upright(clip, picture, shown_size(clip)[1]).min(axis=2) > 200


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(320, 180), (319, 181)])
def test_outside_its_box_no_sample_changes(name: str, size: tuple[int, int]) -> None:
    clip = clip_of(*size, PIXEL_FORMATS[name])
    picture = noise(clip)
    before = copy(picture)
    Label(Config(), clip).draw(picture, 0.0)
    mask = touched(before, picture)
    x0, y0, x1, y1 = box_of(mask)
    assert 0.01 < mask.mean() < 0.25 and x0 < 20 and y1 > size[1] - 20
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = True
    for layout, old, new in zip(before.format.planes, before.planes, picture.planes, strict=True):
        kept = ~inside[:: 1 << layout.log2_h, :: 1 << layout.log2_w]
        np.testing.assert_array_equal(old[kept], new[kept])
    low = (1 << clip.pixel_format.shift) - 1
    for old, new in zip(before.planes, picture.planes, strict=True):
        np.testing.assert_array_equal(old & low, new & low)  # bits that mean nothing


@pytest.mark.parametrize("name", ALL)
def test_it_is_white_on_dark_in_every_format(name: str) -> None:
    clip = clip_of(640, 360, PIXEL_FORMATS[name])
    picture, mask = drawn(clip)
    shown = upright(clip, picture, 360)
    x0, y0, x1, y1 = box_of(mask)
    inside = shown[y0:y1, x0:x1].astype(int)
    assert inside.max() > 250 and np.median(inside) < 90
    assert (inside.max(axis=2) - inside.min(axis=2)).mean() < 25  # grey, where the picture under it is
    white = letters(clip, picture)
    assert 0.05 < white[y0:y1, x0:x1].mean() < 0.4
    by_components = zip(picture.format.planes, picture.planes, strict=True)
    opaque = [p if p.ndim == 2 else p[..., -1] for one, p in by_components if one.components in ("a", "rgba", "ya")]
    assert all(plane.max() == picture.format.peak for plane in opaque)


TURNS = ["", *MATRICES]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("place", ["top-left", "bottom-right", "bottom", "top"])
def test_it_is_upright_and_where_it_shall_be(turn: str, place: str) -> None:
    clip = clip_of(480, 360, PIXEL_FORMATS["gray"], turn)
    picture, mask = drawn(clip, place=place, text="LEFT")
    seen = upright(clip, picture, shown_size(clip)[1]).min(axis=2)
    plain = clip_of(*shown_size(clip), PIXEL_FORMATS["gray"])
    expected, plain_mask = drawn(plain, place=place, text="LEFT")
    reference = upright(plain, expected, plain.height).min(axis=2)
    np.testing.assert_array_equal(seen, reference)
    assert mask.sum() == plain_mask.sum()
    x0, y0, x1, _ = box_of(plain_mask)
    width, height = shown_size(clip)
    assert ("left" in place) == (x0 < width / 10 and x1 < width / 2)
    assert place.startswith("top") == (y0 < height / 10)
    assert ("right" in place) == (x1 > width * 0.9)


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (640, 360), (720, 576), (853, 481)])
@pytest.mark.parametrize("sar", [Fraction(1), Fraction(16, 11), Fraction(8, 9)])
@pytest.mark.parametrize("turn", ["", "90"])
def test_letters_are_a_twentieth_of_the_shorter_side(size: tuple[int, int], sar: Fraction, turn: str) -> None:
    clip = clip_of(*size, PIXEL_FORMATS["gray"], turn, sar)
    picture, _ = drawn(clip, text="HHH")
    shown = shown_size(clip)
    rows = np.flatnonzero(letters(clip, picture).any(axis=1))
    least = min(shown) * 0.05
    assert least - 1 <= rows[-1] - rows[0] + 1 <= least * 1.25 + 3  # a px may be lost where rows were averaged down
    if sar == 1:
        assert rows[-1] - rows[0] + 1 >= least


@pytest.mark.parametrize("height", [0.05, 0.08, 0.2])
def test_its_height_is_the_users(height: float) -> None:
    clip = clip_of(960, 540, PIXEL_FORMATS["gray"])
    picture, _ = drawn(clip, text="HI", height=height)
    rows = np.flatnonzero(letters(clip, picture).any(axis=1))
    assert height * 540 <= rows[-1] - rows[0] + 1 <= height * 540 + 3


@given(
    st.integers(24, 700),
    st.integers(24, 700),
    st.sampled_from(TURNS),
    st.sampled_from([Fraction(1), Fraction(4, 3), Fraction(3, 8), Fraction(1, 900)]),
)
def test_whatever_the_size_it_fits_and_can_be_seen(width: int, height: int, turn: str, sar: Fraction) -> None:
    clip = clip_of(width, height, PIXEL_FORMATS["gray"], turn, sar)
    assume(max(shown_size(clip)) < 3000 or sar == Fraction(1, 900))
    label = Label(Config(), clip)
    assert label.text in (Config().text, SHORT)
    picture = flat(clip)
    before = copy(picture)
    label.draw(picture, 0.0)
    x0, y0, x1, y1 = box_of(touched(before, picture))
    assert picture.planes[0].max() > 200
    assert (x1 - x0) * (y1 - y0) > 30
    lit = picture.planes[0] > 160
    assert not lit[0].any() and not lit[-1].any() and not lit[:, 0].any() and not lit[:, -1].any()  # nothing is cut off


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 3), (1, 400), (16, 16)])
def test_pictures_that_no_letter_fits_into_fail_nothing(size: tuple[int, int]) -> None:
    drawn(clip_of(*size, YUV))


@pytest.mark.parametrize(("size", "text"), [((64, 64), SHORT), ((320, 240), Config().text), ((40, 600), SHORT)])
def test_small_pictures_get_the_short_form(size: tuple[int, int], text: str) -> None:
    assert Label(Config(), clip_of(*size)).text == text


def test_long_texts_are_broken_into_lines() -> None:
    text = "This video was made with artificial intelligence and shows nobody as they are"
    clip = clip_of(480, 640)
    label = Label(Config(text), clip)
    assert label.text == text
    _, mask = drawn(clip, text=text)
    _, y0, x1, y1 = box_of(mask)
    assert y1 - y0 > 100 and x1 <= 480


@pytest.mark.parametrize(("seconds", "last"), [(2.0, 2.0), (4.0, 4.0), (7.5, 7.5), ("all", 1e9)])
def test_on_from_the_first_picture_for_so_long(seconds: float, last: float) -> None:
    label = Label(Config(seconds=seconds), clip_of(320, 180))
    assert all(label.draw(flat(clip_of(320, 180)), at) for at in (-0.5, 0.0, 1.0, 2.0, last))
    picture = flat(clip_of(320, 180))
    assert label.draw(picture, last + 0.01) is math.isinf(Config(seconds=seconds).until_s)
    if seconds != "all":
        np.testing.assert_array_equal(picture.planes[0], flat(clip_of(320, 180)).planes[0])


def test_every_frame_gets_the_same_whatever_came_before() -> None:
    clip = clip_of(320, 181, PIXEL_FORMATS["yuv422p10le"])
    old, new = Label(Config(), clip), Label(Config(), clip)
    for seed in range(3):
        old.draw(noise(clip, seed), seed / 10)
    a, b = noise(clip, 9), noise(clip, 9)
    old.draw(a, 1.0), new.draw(b, 1.0)
    for one, other in zip(a.planes, b.planes, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_picture_of_another_shape_is_labelled_as_it_is() -> None:
    clip = clip_of(320, 180)
    label = Label(Config(), clip)
    label.draw(flat(clip), 0.0)
    other = clip_of(640, 360, PIXEL_FORMATS["rgb24"])
    picture = flat(other)
    label.draw(picture, 0.0)
    assert touched(flat(other), picture).any()


@pytest.mark.parametrize(("transfer", "brightest"), [(1, 255), (16, 152), (18, 195)])
def test_letters_blind_nobody_in_hdr(transfer: int, brightest: int) -> None:
    clip = replace(clip_of(640, 360, PIXEL_FORMATS["yuv420p10le"]), colour=Colour(9, transfer, 9, 1))
    picture, _ = drawn(clip)
    assert brightest - 8 <= upright(clip, picture, 360).max() <= brightest


@pytest.mark.parametrize("name", ["yuv420p", "yuv411p", "yuv410p", "nv12"])
def test_the_box_is_as_large_whatever_chroma_is(name: str) -> None:
    for width in range(320, 324):
        clips = [clip_of(width, 181, PIXEL_FORMATS[one]) for one in (name, "gray")]
        coloured, grey = (np.flatnonzero(flat(clip).planes[0] != drawn(clip)[0].planes[0]) for clip in clips)
        np.testing.assert_array_equal(coloured, grey)


def test_chroma_fades_as_luma_does() -> None:
    clip = clip_of(320, 180)
    picture, mask = drawn(clip)
    x0, y0, x1, y1 = box_of(mask)
    assert {picture.planes[1][-1, 0], picture.planes[2][0, 0]} == {127}
    inside = picture.planes[1][y0 // 2 : y1 // 2, x0 // 2 : x1 // 2]
    assert set(np.unique(inside)) <= {127, 128}


def test_a_turn_that_is_no_quarter_is_taken_for_the_nearest() -> None:
    one = 1 << 16
    s, c = round(math.sin(0.2) * one), round(math.cos(0.2) * one)
    askew = replace(clip_of(480, 360), display_matrix=(c, s, 0, -s, c, 0, 0, 0, 1 << 30))
    straight, _ = drawn(clip_of(480, 360))
    crooked, _ = drawn(askew)
    np.testing.assert_array_equal(straight.planes[0], crooked.planes[0])


def dejavu() -> Path:
    found = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
    if not found.is_file():
        pytest.skip("no DejaVu font here")
    return found


def test_scripts_that_the_built_in_font_lacks_need_a_font() -> None:
    with pytest.raises(ConfigError, match=r"the font that is built in lacks: Сгенриова.*set disclose\.label\.font"):
        Label(Config("Сгенерировано ИИ"), clip_of(640, 360))
    label = Label(Config("Сгенерировано ИИ", font=dejavu()), clip_of(640, 360))
    assert label.text == "Сгенерировано ИИ"
    with pytest.raises(ConfigError, match=r"DejaVuSans\.ttf lacks: 人工智能生成"):
        Label(Config("人工智能生成", font=dejavu()), clip_of(640, 360))


def test_wide_characters_are_broken_anywhere() -> None:
    font = Font(dejavu())
    lines = font.lines("人工智能生成合成内容", 20, 120)  # signs for what it lacks, but as wide
    assert lines is not None and len(lines.text) > 1 and "".join(lines.text) == "人工智能生成合成内容"
    assert font.lines("Donaudampfschifffahrt", 20, 60) is None


@pytest.mark.parametrize(
    ("content", "says"), [(b"no font at all", "no font that can be read"), (None, "cannot be read: No such file")]
)
def test_fonts_that_are_none(content: bytes | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "a.ttf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        Label(Config(font=file), clip_of(64, 64))


def test_a_folder_and_a_device_are_no_fonts(tmp_path: Path) -> None:
    for place in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"disclose\.label\.font: .* cannot be read"):
            Font(place)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"text": "  "}, "text must be words"),
        ({"text": "a\nb"}, "printable"),
        ({"text": "x" * 121}, "at most 120 printable"),
        ({"height": 0.04}, r"height must be from 0\.05"),
        ({"text": "."}, r"text must be words; for none, say why in disclose\.label\.off_because"),
        ({"height": math.nan}, "height must be"),
        ({"seconds": 1.9}, "seconds must be all, or at least 2"),
        ({"seconds": math.nan}, "seconds must be a number or all"),
        ({"seconds": "never"}, "seconds must be a number or all"),
        ({"place": "middle"}, "place must be one of top-left"),
    ],
)
def test_settings_that_the_law_or_reason_forbids(wrong: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        config.apply(Config(), wrong, tmp_path)


def test_settings_from_a_file(tmp_path: Path) -> None:
    made = config.apply(Config(), {"seconds": "all", "font": "a.ttf", "text": "KI", "place": "top"}, tmp_path)
    assert made == Config("KI", "top", seconds="all", font=tmp_path / "a.ttf")
    assert config.apply(Config(), {"seconds": 3}, tmp_path).until_s == 3.0
