"""The preview of the frame being made: only while somebody looks, rarely, whole, and never at the clip's cost."""

from __future__ import annotations

import logging
import os
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.checkpoints import PREVIEW, WATCHED
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Clip, Frame, Picture, Pulled
from stages import live_preview
from stages.blend import Blend, Config
from stages.geometry import square_matrix
from stages.live_preview import LivePreview
from tests.clips import MATRICES
from tests.stages.test_blend import made_face


def shown(name: str, width: int, height: int, level: int) -> Picture:
    """A picture whose left half is dark and whose right half has that level."""
    picture_format = PIXEL_FORMATS[name]
    planes = []
    for layout, shape in zip(picture_format.planes, picture_format.shapes(width, height), strict=True):
        middle = 128 << (picture_format.depth - 8)
        plane = np.full(shape, middle if layout.components in ("u", "v", "uv") else 20, picture_format.dtype)
        if layout.components in ("y", "rgb"):
            plane[:, width // 2 :] = level << (picture_format.depth - 8)
        planes.append(plane)
    return Picture(picture_format, width, height, tuple(planes))


def clip_of(picture: Picture, work: Path | str = "", **facts: object) -> Clip:
    size = (picture.width, picture.height)
    return Clip(1, "", "", "", *size, picture.format, Fraction(1, 25), work=str(work), **facts)  # type: ignore[arg-type]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder that somebody watches."""
    (tmp_path / WATCHED).touch()
    folder = tmp_path / "1-abc"
    folder.mkdir()
    return folder


def seen(work: Path) -> Array:
    assert [path.name for path in work.iterdir()] == [PREVIEW]
    return np.asarray(cv2.imread(str(work / PREVIEW))[..., ::-1])


def test_before_is_on_the_left_and_after_on_the_right(work: Path) -> None:
    picture = shown("yuv420p10le", 200, 100, 200)
    clip = clip_of(picture, work)
    face = made_face(square_matrix((50, 50), 80, 0.0, 96), (255, 0, 0))
    list(Blend(Config(colour="none"))(clip, Pulled([Frame(1, 0, 0, picture, (face,))])))
    preview = seen(work)
    assert preview.shape == (100, 400, 3)
    before, after = preview[:, :200].astype(int), preview[:, 200:].astype(int)
    assert before[50, 50].max() < 40
    assert after[50, 50, 0] > 200
    assert after[50, 50, 1:].max() < 60
    assert np.abs(before - after)[:, 120:].max() < 12


@pytest.mark.parametrize("matrix", ["90", "270", "mirrored"])
def test_it_is_upright_and_small(matrix: str, work: Path) -> None:
    picture = shown("rgb24", 1600, 1200, 200)
    clip = clip_of(picture, work, display_matrix=MATRICES[matrix], sample_aspect_ratio=Fraction(1))
    live = LivePreview(str(work))
    before = live.before(clip, picture)
    assert before is not None
    live.after(clip, picture, before)
    preview = seen(work)
    height, width = (480, 360) if matrix != "mirrored" else (480, 640)
    assert preview.shape == (height, 2 * width, 3)
    bright = preview[:, :width].mean(2) > 100
    side = {"90": bright[-40:], "270": bright[:40], "mirrored": bright[:, :40]}[matrix]
    assert side.all()
    assert bright.mean() == pytest.approx(0.5, abs=0.02)


def test_a_wide_strip_stays_a_small_picture(work: Path) -> None:
    picture = shown("gray", 16000, 90, 200)
    live = LivePreview(str(work))
    before = live.before(clip_of(picture, work), picture)
    assert before is not None
    assert before.shape == (7, 1244, 3)


def test_while_nobody_looks_there_is_one_look_a_second(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = shown("gray", 40, 30, 200)
    clock = [100.0]
    monkeypatch.setattr(live_preview.time, "monotonic", lambda: clock[0])
    looks = []
    live = LivePreview(str(work))
    monkeypatch.setattr(live, "_is_watched", lambda: bool(looks.append(clock[0])))
    for _ in range(320):
        assert live.before(clip_of(picture, work), picture) is None
        clock[0] += 0.0101
    assert looks == pytest.approx([100, 101, 102, 103], abs=0.1)


@pytest.mark.parametrize(("age_s", "watched"), [(0, True), (8, True), (12, False), (-8, True), (-60, False)])
def test_somebody_looks_who_has_looked_lately(age_s: float, watched: bool, work: Path) -> None:
    picture = shown("gray", 40, 30, 200)
    then = time.time() - age_s
    os.utime(work.parent / WATCHED, (then, then))
    found = LivePreview(str(work)).before(clip_of(picture, work), picture)
    assert (found is not None) == watched


def test_nobody_looks_where_there_is_no_such_file(work: Path) -> None:
    (work.parent / WATCHED).unlink()
    picture = shown("gray", 40, 30, 200)
    list(Blend(Config())(clip_of(picture, work), Pulled([Frame(1, 0, 0, picture)])))
    assert list(work.iterdir()) == []


def test_the_picture_before_is_no_view_of_the_planes(work: Path) -> None:
    picture = shown("rgb24", 40, 30, 200)
    before = LivePreview(str(work)).before(clip_of(picture, work), picture)
    assert before is not None
    kept = before.copy()
    picture.planes[0][:] = 0
    np.testing.assert_array_equal(before, kept)


def test_no_room_for_a_preview_fails_nothing(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture = shown("gray", 40, 30, 200)
    clip = clip_of(picture, work)
    live = LivePreview(str(work), every_s=0.0)
    work.rmdir()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            before = live.before(clip, picture)
            assert before is not None
            live.after(clip, picture, before)
    assert len(caplog.records) == 1, "said once"
    assert "no preview: No such file or directory" in caplog.text


def test_without_a_work_folder_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LivePreview, "before", lambda *_: pytest.fail("looked"))
    picture = shown("gray", 40, 30, 200)
    list(Blend(Config())(clip_of(picture), Pulled([Frame(1, 0, 0, picture)])))
