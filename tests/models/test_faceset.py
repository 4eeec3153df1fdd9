"""models.faceset: what is written is read; junk is named and passed over."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.faceset import FaceRecord, FaceSet, FaceSetWriter, divided, is_empty, joined, read, sharpness
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


@pytest.fixture
def open_to_all() -> Iterator[None]:
    """What is made without a word is for everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> set[str]:
    return {stat.filemode(file.stat().st_mode) for file in (folder, *folder.rglob("*"))}


@pytest.mark.usefixtures("open_to_all")
def test_faces_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path / "sets" / "anna")
    assert modes(folder) == {"drwx------", "-rw-------"}
    assert stat.S_IMODE((tmp_path / "sets").stat().st_mode) == 0o777
    for file in (folder, *folder.rglob("*")):  # a set from before
        file.chmod(0o777 if file.is_dir() else 0o666)
    with FaceSetWriter(folder, 64, 1.5, add=True) as writer:
        writer.add(crop(9), np.ones((64, 64), np.uint8) * 255, points(9), source="b.mp4", frame=9)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("crops/000003.png", "masks/000003.png", "faces.jsonl", "faceset.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("add", [False, True])
def test_an_identity_may_be_there_first(tmp_path: Path, add: bool) -> None:
    assert is_empty(tmp_path / "s")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "identity.yaml").write_text("whose")
    assert is_empty(tmp_path / "s")
    with FaceSetWriter(tmp_path / "s", 64, 1.5, add=add) as writer:
        writer.add(crop(0), np.ones((64, 64), np.uint8) * 255, points(0), source="x", frame=0)
    assert not is_empty(tmp_path / "s")
    assert len(read(tmp_path / "s").faces) == 1 and not read(tmp_path / "s").junk
    assert (tmp_path / "s" / "identity.yaml").read_text() == "whose"


def test_an_identity_among_plain_pictures_is_no_junk(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), crop(0))
    (tmp_path / "identity.yaml").write_text("whose")
    assert read(tmp_path).junk == ()


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
        ('{"version": 1, "size": 64, "coverage": 1, "crop": "hand"}', "crop must be face or head, not 'hand'"),
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


def test_what_crops_show_is_written_and_was_once_left_unsaid(tmp_path: Path) -> None:
    with FaceSetWriter(tmp_path, 64, 1.0, "head") as writer:
        writer.add(crop(0), np.ones((8, 8)), points(0), source="x", frame=0)
    assert read(tmp_path).crop == "head"
    about = json.loads((tmp_path / "faceset.json").read_text())
    del about["crop"]
    (tmp_path / "faceset.json").write_text(json.dumps(about))
    assert read(tmp_path).crop == "face"


def test_plain_pictures_of_no_use_are_junk_before_they_are_decoded(tmp_path: Path) -> None:
    for name, shape in (("good", (64, 48)), ("thin", (15, 400))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((*shape, 3), np.uint8))
    huge = bytearray((tmp_path / "good.png").read_bytes())
    huge[16:24] = (100_000).to_bytes(4, "big") * 2
    (tmp_path / "huge.png").write_bytes(huge)
    (tmp_path / "empty.jpg").touch()
    found = read(tmp_path)
    assert [face.crop.name for face in found.faces] == ["good.png"] and found.size == 48
    assert [line.split(" ")[0] for line in found.junk] == ["empty.jpg", "huge.png", "thin.png"]
    assert "100000x100000 px, more than" in found.junk[1] and "at least 16 px a side" in found.junk[2]
    with pytest.raises(InputError, match="100000x100000"):
        found.load(FaceRecord(tmp_path / "huge.png"))


def add(folder: Path, seeds: range, size: int = 64, coverage: float = 1.5, crops: str = "face") -> None:
    with FaceSetWriter(folder, size, coverage, crops, add=True) as writer:
        for i in seeds:
            writer.add(crop(i, size), np.ones((8, 8)), points(i), source="b.mp4", frame=i, box=(5, 6, 7, 8))


def test_faces_are_added_to_a_set(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s")
    add(folder, range(10, 12))
    found = read(folder)
    assert [face.frame for face in found.faces] == [0, 1, 2, 10, 11] and not found.junk
    assert [face.crop.name for face in found.faces][3:] == ["000003.png", "000004.png"]
    np.testing.assert_array_equal(found.load(found.faces[1])[0], crop(1))
    np.testing.assert_array_equal(found.load(found.faces[3])[0], crop(10))
    about = json.loads((folder / "faceset.json").read_text())
    assert about["faces"] == 5
    assert about["sources"] == [{"file": "a.mp4", "faces": 3}, {"file": "b.mp4", "faces": 2}]
    assert sorted(file.name for file in folder.iterdir()) == ["crops", "faces.jsonl", "faceset.json", "masks"]


def test_a_set_knows_what_it_holds(tmp_path: Path) -> None:
    fill(tmp_path / "s")
    with FaceSetWriter(tmp_path / "s", 64, add=True) as writer:
        assert writer.holds("a.mp4", 1, (1.001, 2, 3, 4)) and not writer.holds("a.mp4", 1, (1.2, 2, 3, 4))
        assert not writer.holds("a.mp4", 7, (1, 2, 3, 4)) and not writer.holds("b.mp4", 1, (1, 2, 3, 4))
        writer.add(crop(9), np.ones((8, 8)), points(9), source="a.mp4", frame=7, box=(1, 2, 3, 4))
        assert writer.holds("a.mp4", 7, (1, 2, 3, 4)) and writer.count == 1


def test_adding_to_nothing_begins_a_set(tmp_path: Path) -> None:
    add(tmp_path / "new", range(2))
    assert len(read(tmp_path / "new").faces) == 2


def test_a_killed_addition_leaves_the_set_as_it_was(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s")
    before = (folder / "faceset.json").read_bytes(), (folder / "faces.jsonl").read_bytes()
    writer = FaceSetWriter(folder, 64, 1.5, add=True)
    writer.add(crop(7), np.ones((8, 8)), points(7), source="b.mp4", frame=7)
    writer._lines.close()  # and no more: the process is gone
    assert ((folder / "faceset.json").read_bytes(), (folder / "faces.jsonl").read_bytes()) == before
    assert len(read(folder).faces) == 3
    add(folder, range(20, 21))
    found = read(folder)
    assert [face.frame for face in found.faces] == [0, 1, 2, 20] and not found.junk
    assert found.faces[3].crop.name == "000004.png"  # nothing that is there is written over


def test_a_last_line_that_was_cut_off_does_not_swallow_the_next(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s")
    text = (folder / "faces.jsonl").read_text()
    (folder / "faces.jsonl").write_text(text[:-30])
    add(folder, range(5, 6))
    assert [face.frame for face in read(folder).faces] == [0, 1, 5]


def test_what_does_not_fit_is_not_added(tmp_path: Path) -> None:
    folder = fill(tmp_path / "s")
    for wrong, said in [
        ({"size": 32}, "has size 64, what would be added 32"),
        ({"coverage": 2.0}, r"has coverage 1\.5"),
        ({"crops": "head"}, "has crop face, what would be added head; add with extract.crop face"),
    ]:
        with pytest.raises(InputError, match=said):
            add(folder, range(1), **wrong)  # type: ignore[arg-type]
    assert len(read(folder).faces) == 3
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), crop(0))
    with pytest.raises(InputError, match="holds no face set that could be added to"):
        add(tmp_path / "photos", range(1))


def test_sets_of_one_person_are_joined(tmp_path: Path) -> None:
    fill(tmp_path / "a", 2)
    add(tmp_path / "b", range(3), size=128)
    (tmp_path / "b" / "crops" / "000002.png").unlink()
    both = joined([read(tmp_path / "a"), read(tmp_path / "b")])
    assert (both.size, both.coverage, len(both.faces)) == (128, 1.5, 4)
    assert both.junk == (f"{tmp_path / 'b'}: faces.jsonl line 3: 000002.png is missing",)
    small, large = both.faces[1].landmarks, both.faces[3].landmarks
    assert small is not None and large is not None
    np.testing.assert_allclose(small, points(1) * 2 + 0.5, atol=0.05)  # a px of 64 is two of 128, edge to edge
    np.testing.assert_allclose(large, points(1), atol=0.01)
    assert [both.load(face)[0].shape[0] for face in both.faces] == [128] * 4
    assert joined([both]) is both


def test_sets_that_differ_are_not_joined(tmp_path: Path) -> None:
    fill(tmp_path / "a", 2)
    add(tmp_path / "b", range(3), coverage=2.0)
    add(tmp_path / "c", range(3), crops="head")
    with pytest.raises(InputError, match=r"a \(face crops at coverage 1\.5\) and .*b \(face crops at coverage 2\)"):
        joined([read(tmp_path / "a"), read(tmp_path / "b")])
    with pytest.raises(InputError, match=r"c \(head crops"):
        joined([read(tmp_path / "a"), read(tmp_path / "c")])
    with pytest.raises(InputError, match="is given twice"):
        joined([read(tmp_path / "a"), read(tmp_path / "a")])


def set_of(lengths: list[int]) -> FaceSet:
    faces = [FaceRecord(Path(f"{s}-{f}"), source=str(s), frame=f) for s, n in enumerate(lengths) for f in range(n)]
    return FaceSet(Path("x"), 64, 1.0, tuple(faces))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.floats(0, 1))
def test_held_out_faces_are_the_ends_of_sources(lengths: list[int], share: float) -> None:
    faces = set_of(lengths)
    trained, held = divided(faces, share)
    assert sorted(map(str, (f.crop for f in (*trained.faces, *held.faces)))) == sorted(str(f.crop) for f in faces.faces)
    assert divided(faces, share) == (trained, held)
    total = len(faces.faces)
    assert len(held.faces) == (0 if total < 12 else min(round(share * total), total - 4))
    for number, length in enumerate(lengths):
        frames = [f.frame for f in held.faces if f.source == str(number)]
        assert frames == list(range(length - len(frames), length))
        assert abs(len(frames) - length * len(held.faces) / total) <= 1


def test_few_faces_are_all_trained_on_and_enough_are_left() -> None:
    assert [len(part.faces) for part in divided(set_of([11]), 0.5)] == [11, 0]
    assert [len(part.faces) for part in divided(set_of([12]), 0.5)] == [6, 6]
    assert [len(part.faces) for part in divided(set_of([12]), 1.0)] == [4, 8]
    trained, held = divided(set_of([20, 20]), 0.1)
    assert [(f.source, f.frame) for f in held.faces] == [("0", 18), ("0", 19), ("1", 18), ("1", 19)]
    assert trained.size == held.size == 64
