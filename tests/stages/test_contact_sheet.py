"""The contact sheet shows the same moments of both clips, upright."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import InputError, PublishError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Picture
from stages.contact_sheet import Moment, contact_sheet, layout, moments
from stages.viewing import views
from tests import clips

GRAY = PIXEL_FORMATS["yuv420p"]


def flat(value: int, width: int = 64, height: int = 48) -> Picture:
    """A picture of one grey."""
    luma = np.full((height, width), value, np.uint8)
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    return Picture(GRAY, width, height, (luma, chroma, chroma.copy()))


def ramp(path: Path, count: int, width: int = 64, height: int = 48) -> Path:
    """A clip whose n-th frame has luma 20 + n, exactly."""
    pictures = [flat(20 + index, width, height) for index in range(count)]
    return clips.make_clip(path, width=width, height=height, frames=count, codec="ffv1", pictures=pictures)


def luma(rgb: np.ndarray) -> float:
    """The luma that a grey was made of (limited range)."""
    return 16 + float(rgb.mean()) * 219 / 255


@pytest.mark.parametrize("count", [1, 2, 6, 7, 23, 24, 25, 97])
def test_moments_are_the_same_in_both_and_spread_evenly(tmp_path: Path, count: int) -> None:
    before, after = ramp(tmp_path / "a.mkv", count), ramp(tmp_path / "b.mkv", count)
    found = moments(before, after, 6, height=24)
    assert len(found) == min(6, count)
    places = [round(moment.seconds * 30) for moment in found]
    for place, moment in zip(places, found, strict=True):
        assert luma(moment.before) == pytest.approx(20 + place, abs=1.2)
        assert luma(moment.after) == pytest.approx(20 + place, abs=1.2)
    assert places[0] == 0
    if count > 1:
        assert places[-1] >= 0.8 * (count - 1)
        steps = np.diff(places)
        assert steps.min() > 0
        assert steps.max() <= 2 * steps.min() + 1


def test_the_shorter_clip_decides(tmp_path: Path) -> None:
    before, after = ramp(tmp_path / "a.mkv", 40), ramp(tmp_path / "b.mkv", 9)
    assert max(moment.seconds for moment in moments(before, after, 4, height=24)) <= 8.1 / 30


def test_the_sheet_is_a_picture_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    before, after = ramp(tmp_path / "a.mkv", 10), ramp(tmp_path / "b.mkv", 10)
    target = tmp_path / "sheet.png"
    contact_sheet(before, after, target, rows=2, columns=3, height=90)
    sheet = cv2.imread(str(target))
    assert sheet.shape == (2 * (18 + 90 + 8) + 8, 3 * (240 + 8) + 8, 3)
    contact_sheet(before, after, target, rows=1, columns=1, height=48)
    assert cv2.imread(str(target)).shape == (18 + 48 + 16, 128 + 16, 3)


def test_before_stands_left_and_colours_are_right() -> None:
    red, blue = (np.full((20, 30, 3), colour, np.uint8) for colour in ((200, 10, 10), (10, 10, 200)))
    sheet = layout([Moment(0.0, red, blue)], columns=2)
    assert sheet[18 + 8 + 5, 8 + 5].tolist() == [200, 10, 10]
    assert sheet[18 + 8 + 5, 8 + 35].tolist() == [10, 10, 200]


def test_colours_survive_the_file(tmp_path: Path) -> None:
    pictures = [flat(81)]
    pictures[0].planes[1][:], pictures[0].planes[2][:] = 90, 240  # BT.601's red
    clip = clips.make_clip(tmp_path / "red.mkv", frames=1, codec="ffv1", pictures=pictures)
    contact_sheet(clip, clip, tmp_path / "sheet.png", rows=1, columns=1, height=48)
    blue, green, red = cv2.imread(str(tmp_path / "sheet.png"))[18 + 8 + 20, 8 + 20]
    assert red > 230
    assert max(blue, green) < 25


@pytest.mark.parametrize(("turn", "corner"), [("90", "top right"), ("180", "bottom right"), ("mirrored", "top right")])
def test_pictures_are_seen_upright(tmp_path: Path, turn: str, corner: str) -> None:
    """A white corner at the stored picture's top left comes to lie where the display matrix takes it."""
    shown = flat(40)
    shown.planes[0][:16, :16] = 230
    clip = clips.make_clip(tmp_path / "turned.mp4", frames=1, pictures=[shown], display_matrix=clips.MATRICES[turn])
    (picture,) = [view.upright(96) for view in views(clip)]
    assert picture.shape == ((96, 72, 3) if turn == "90" else (96, 128, 3))
    height, width = picture.shape[:2]
    quarters = {
        "top left": picture[:8, :8],
        "top right": picture[:8, width - 8 :],
        "bottom left": picture[height - 8 :, :8],
        "bottom right": picture[height - 8 :, width - 8 :],
    }
    assert max(quarters, key=lambda name: quarters[name].mean()) == corner


def test_clips_of_other_sizes_fit_together(tmp_path: Path) -> None:
    before, after = ramp(tmp_path / "a.mkv", 3), ramp(tmp_path / "b.mkv", 3, width=128, height=80)
    (moment, *_) = moments(before, after, 2, height=24)
    assert moment.before.shape == moment.after.shape == (24, 32, 3)


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    clip = ramp(tmp_path / "a.mkv", 3)
    with pytest.raises(InputError, match=r"none\.mp4"):
        contact_sheet(clip, tmp_path / "none.mp4", tmp_path / "sheet.png")
    with pytest.raises(PublishError, match="no-such-folder"):
        contact_sheet(clip, clip, tmp_path / "no-such-folder" / "sheet.png")
