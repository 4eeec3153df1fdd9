"""models.train.data: faces in memory, what an error costs where."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faceset import FaceRecord, FaceSetWriter, read
from models.train.data import FEATURES, load, weights
from pipeline.errors import InputError


def made(folder: Path, count: int = 5, size: int = 96, coverage: float = 1.5) -> Path:
    with FaceSetWriter(folder, size, coverage) as writer:
        for i in range(count):
            crop = np.full((size, size, 3), (10 * i, 100, 200), np.uint8)
            mask = np.zeros((size, size), np.uint8)
            cv2.circle(mask, (size // 2, size // 2), size // 4, (255,), cv2.FILLED)
            writer.add(crop, mask, np.full((478, 2), size / 2), source="x", frame=i)
    return folder


def test_faces_are_decoded_at_the_size_training_needs(tmp_path: Path) -> None:
    faces = load(read(made(tmp_path)), 32, 1.0, 100)
    assert faces.pictures.shape == (5, 64, 64, 4)  # 32 * 1.5 * 1.25, to the next eight
    assert faces.reach == pytest.approx(1 / 1.5)
    assert faces.pictures[3, 0, 0, :3].tolist() == [30, 100, 200]


def test_memory_is_bounded_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    faces = load(read(made(tmp_path, 10)), 32, 1.0, 5 * 64 * 64 * 4 / 2**20)
    assert faces.pictures[:, 0, 0, 0].tolist() == [0, 20, 40, 60, 80]  # evenly spaced
    assert faces.passed_over == 5


def test_damaged_faces_are_passed_over_by_name(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "crops" / "000002.png").write_bytes(b"x")
    faces = load(read(tmp_path), 32, 1.0, 100)
    assert len(faces) == 4
    assert len(faces.junk) == 1
    assert "000002.png" in faces.junk[0]
    for file in (tmp_path / "crops").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(InputError, match="no face that can be read"):
        load(read(tmp_path), 32, 1.0, 100)


def test_crops_that_show_too_little_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"covers 1\.5 of a face, the model sees 2"):
        load(read(made(tmp_path)), 32, 2.0, 100)


def test_what_an_error_costs() -> None:
    mask = np.zeros((128, 128), np.uint8)
    cv2.circle(mask, (64, 64), 40, (255,), cv2.FILLED)
    landmarks = np.full((478, 2), 64, np.float32)
    landmarks[[33, 133, 159, 145]] = [[40, 50], [54, 50], [47, 47], [47, 53]]  # an eye
    rest = [i for i in range(478) if i not in (33, 133, 159, 145)]
    landmarks[rest] = [64, 84]
    landmarks[[7, 163, 144, 153, 154, 155, 173, 157, 158, 160, 161, 246]] = [47, 50]
    cost = weights(FaceRecord(Path(), landmarks=landmarks), mask, 128) / 255 * FEATURES
    assert cost[2, 2] == pytest.approx(0.1, abs=0.01)
    assert cost[64, 90] == pytest.approx(1, abs=0.02)
    assert cost[50, 47] == pytest.approx(FEATURES, abs=0.1)
    plain = weights(FaceRecord(Path()), None, 128) / 255 * FEATURES
    assert plain[64, 64] == pytest.approx(1, abs=0.02)
    assert plain[2, 2] == pytest.approx(0.1, abs=0.02)
