"""models.reports.timelapse: every save is a frame of the film, in order and in its colours."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from models.reports import timelapse
from models.reports.timelapse import FILE, FOLDER, add, film
from pipeline.errors import WeightsError

STRIP = 32


def picture(level: int, height: int = 60, width: int = 81) -> np.ndarray:
    page = np.full((height, width, 3), level, np.uint8)
    page[:, : width // 2] = (200, 40, 20)
    return page


def frames(file: Path) -> list[np.ndarray]:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)
        return [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(stream)]


def test_a_film(tmp_path: Path) -> None:
    for place, iteration in enumerate((100, 2000, 30_000)):
        add(tmp_path, iteration, picture(60 * place + 60))
    assert film(tmp_path, tmp_path / FILE, fps=10) == tmp_path / FILE
    shown = frames(tmp_path / FILE)
    assert len(shown) == 3 + 20 and {frame.shape for frame in shown} == {(60 + STRIP, 82, 3)}
    for frame, level in zip(shown, (60, 120, 180, 180), strict=False):
        assert np.abs(frame[STRIP + 30, 60].astype(int) - level).max() < 8
        assert np.abs(frame[STRIP + 30, 15].astype(int) - (200, 40, 20)).max() < 12
        assert (frame[: STRIP - 4] > 128).any()  # the number of steps
    with av.open(str(tmp_path / FILE)) as container:
        assert container.streams.video[0].average_rate == 10
    assert sorted(f.name for f in tmp_path.iterdir()) == [FOLDER, FILE]


def test_pictures_of_what_is_no_more_go(tmp_path: Path) -> None:
    for iteration in (1, 2, 3, 2):
        add(tmp_path, iteration, picture(iteration))
    assert sorted(f.name for f in (tmp_path / FOLDER).iterdir()) == ["000000001.jpg", "000000002.jpg"]


def test_not_too_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelapse, "KEPT", 5)
    for iteration in range(50):
        add(tmp_path, iteration, picture(iteration, 16, 16))
    kept = sorted(int(f.stem) for f in (tmp_path / FOLDER).iterdir())
    assert len(kept) == 5 and (kept[0], kept[-1]) == (0, 49)


def test_large_sheets_are_made_smaller(tmp_path: Path) -> None:
    add(tmp_path, 1, picture(9, 400, 4000))
    assert cv2.imread(str(tmp_path / FOLDER / "000000001.jpg")).shape == (96, 960, 3)


def test_sizes_may_change_on_the_way(tmp_path: Path) -> None:
    add(tmp_path, 1, picture(90, 200, 50))
    add(tmp_path, 2, picture(90, 64, 64))
    film(tmp_path, tmp_path / FILE)
    first, second, *_ = frames(tmp_path / FILE)
    assert first.shape == second.shape == (64 + STRIP, 64, 3)
    assert first[STRIP + 32, 9:14].mean() > 60 and first[STRIP + 32, 20:].max() < 20  # 16 px wide now


def test_what_is_no_picture_is_left_out(tmp_path: Path) -> None:
    assert film(tmp_path, tmp_path / FILE) is None
    add(tmp_path, 5, picture(90))
    whole = (tmp_path / FOLDER / "000000005.jpg").read_bytes()
    (tmp_path / FOLDER / "000000006.jpg").write_bytes(whole[:100])
    (tmp_path / FOLDER / "000000007.jpg").mkdir()
    (tmp_path / FOLDER / "notes.jpg").write_text("mine")
    cv2.imwrite(str(tmp_path / FOLDER / "000000008.jpg"), np.zeros((1400, 1400, 3), np.uint8))  # none of ours
    film(tmp_path, tmp_path / FILE, fps=5)
    assert len(frames(tmp_path / FILE)) == 1 + 10
    (tmp_path / FOLDER / "000000005.jpg").unlink()
    assert film(tmp_path, tmp_path / "other.mp4") is None and not (tmp_path / "other.mp4").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(WeightsError, match=r"timelapse cannot be written"):
        add(tmp_path, 1, picture(1))
    (tmp_path / FOLDER).unlink()
    add(tmp_path, 1, picture(1))
    with pytest.raises(WeightsError, match=r"no/timelapse.mp4 cannot be made"):
        film(tmp_path, tmp_path / "no" / FILE)
