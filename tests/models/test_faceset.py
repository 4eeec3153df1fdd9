"""models.faceset: what is written is read; junk is named and passed over."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faceset import FaceSetWriter, read, sharpness
from pipeline.errors import InputError


def crop(seed: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def points(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 64, (478, 2)).astype(np.float32)


def fill(folder: Path, count: int = 3) -> Path:
    with FaceSetWriter(folder, 64, 1.5) as writer:
        for i in range(count):
            mask = np.zeros((32, 32), np.float32)
            mask[8:24, 8:24] = 1
            writer.add(
                crop(i), mask, points(i), source="a.mp4", frame=i, pts=40 * i, track=0, score=0.9, box=(1, 2, 3, 4)
            )
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = read(fill(tmp_path / "set"))
    assert (found.size, found.coverage, found.junk) == (64, 1.5, ())
    assert [f.frame for f in found.faces] == [0, 1, 2]
    face = found.faces[1]
    assert (face.source, face.pts, face.track, face.score, face.box) == ("a.mp4", 40, 0, 0.9, (1, 2, 3, 4))
    assert face.landmarks is not None
    np.testing.assert_allclose(face.landmarks, points(1), atol=0.01)
    picture, mask = found.load(face)
    np.testing.assert_array_equal(picture, crop(1))  # RGB comes back as RGB
    assert mask is not None
    assert mask.shape == (64, 64)
    assert mask[32, 32] == 255
    assert mask[2, 2] == 0
    assert face.sharpness == pytest.approx(sharpness(crop(1)), abs=0.01)


def test_blur_lowers_sharpness() -> None:
    assert sharpness(cv2.GaussianBlur(crop(0), (5, 5), 1)) < sharpness(crop(0)) / 4


def test_a_failing_extraction_keeps_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="detector"), FaceSetWriter(tmp_path / "s", 64) as writer:
        writer.add(crop(0), np.ones((64, 64), np.uint8) * 255, points(0), source="x", frame=0)
        raise RuntimeError("detector")
    assert len(read(tmp_path / "s").faces) == 1
    assert writer.count == 1


def test_a_killed_extraction_is_told_from_a_whole_one(tmp_path: Path) -> None:
    (fill(tmp_path / "s") / "faceset.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        read(tmp_path / "s")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    fill(tmp_path / "s")
    with pytest.raises(InputError, match="is not empty"):
        FaceSetWriter(tmp_path / "s")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        FaceSetWriter(tmp_path / "file")


def test_crops_of_another_size_are_refused(tmp_path: Path) -> None:
    with FaceSetWriter(tmp_path, 32) as writer, pytest.raises(InputError, match="takes uint8 crops of 32 px"):
        writer.add(crop(0), np.ones((8, 8)), points(0), source="x", frame=0)


def test_junk_is_listed_once_each(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s", 6)
    lines = (folder / "faces.jsonl").read_text().splitlines()
    (folder / "crops" / "000001.png").unlink()
    lines[2] = "{}"
    lines[3] = lines[3].replace("000003.png", "../../../etc/passwd")
    lines[4] = json.dumps(json.loads(lines[4]) | {"landmarks": [[1, 2]]})
    lines.append(lines[0])
    (folder / "faces.jsonl").write_text("\n".join(lines) + "\n")
    found = read(folder)
    assert [f.frame for f in found.faces] == [0, 5]
    assert len(found.junk) == 5
    assert "000001.png is missing" in found.junk[0]
    assert "is there twice" in found.junk[-1]


def test_a_damaged_crop_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s")
    (folder / "crops" / "000001.png").write_bytes(b"")
    (folder / "crops" / "000002.png").write_bytes(b"not a picture")
    found = read(folder)
    for face in found.faces[1:]:
        with pytest.raises(InputError, match=f"{face.crop.name} is no picture"):
            found.load(face)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "does not describe a face set"),
        ("[]", "does not describe a face set"),
        ("{}", "does not describe a face set"),
        ('{"version": 9, "size": 64, "coverage": 1}', "version 9"),
        ('{"version": 1, "size": -1, "coverage": 1}', "out of range"),
        ('{"version": 1, "size": 64, "coverage": "wide"}', "out of range"),
    ],
)
def test_a_wrong_description(tmp_path: Path, content: str, words: str) -> None:
    (fill(tmp_path / "s") / "faceset.json").write_text(content)
    with pytest.raises(InputError, match=words):
        read(tmp_path / "s")


def test_plain_folders_of_pictures(tmp_path: Path) -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = (255, 0, 10)  # BGR
    cv2.imwrite(str(tmp_path / "one.png"), wide)
    cv2.imwrite(str(tmp_path / "two.jpg"), crop(0))
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "fake.png").write_text("hello")
    found = read(tmp_path, plain_coverage=1.2, plain_crop="head")
    assert [f.crop.name for f in found.faces] == ["one.png", "two.jpg"]
    assert found.junk[0].startswith("fake.png is no picture or is damaged")
    assert found.junk[1:] == ("note.txt is no picture",)
    picture, mask = found.load(found.faces[0])
    assert (picture == (10, 0, 255)).all()
    assert picture.shape == (52, 52, 3)  # the median of 40 and 64
    assert mask is None
    assert (found.coverage, found.crop) == (1.2, "head")


def test_folders_without_faces(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no usable face"):
        read(tmp_path)
    (tmp_path / "x.txt").touch()
    with pytest.raises(InputError, match=r"x\.txt is no picture"):
        read(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read(tmp_path / "x.txt")
