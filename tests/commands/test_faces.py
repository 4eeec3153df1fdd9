"""`extract` and `evaluate`: faces out of clips and pictures, and how well they were swapped."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from models import faceset
from stages.puppets.portrait import astronaut_file
from tests.program import Program, as_json, the_error


def test_a_clip_becomes_a_face_set(program: Program, face_clip: Path) -> None:
    code, out, err = program("extract", face_clip, "-o", "faces", "--every", "2", "--json")
    assert code == 0 and "error" not in err
    told = as_json(out)
    found = faceset.read("faces")
    assert told["counts"]["faces"] == len(found.faces) == 4
    assert [face.frame for face in found.faces] == [0, 2, 4, 6]
    assert (found.size, found.coverage) == (256, 1.5)
    landmarks = found.faces[0].landmarks
    assert landmarks is not None
    assert abs(landmarks.mean(0) - 128).max() < 30  # the face is in the middle of its crop


def test_pictures_one_by_one_and_in_a_folder(program: Program, face_clip: Path) -> None:
    Path("photos").mkdir()
    picture = cv2.imread(str(astronaut_file()))
    cv2.imwrite("photos/a.png", picture[:256, 96:352])
    cv2.imwrite("photos/b.jpg", picture[:300, 80:380])
    Path("photos/notes.txt").write_text("no picture")
    code, out, _ = program("extract", "photos", face_clip, "-o", "faces", "--json")
    assert code == 0
    assert as_json(out)["inputs"] == 3 and len(faceset.read("faces").faces) == 10


def test_choosing_a_person(program: Program) -> None:
    picture = cv2.imread(str(astronaut_file()))[:256, 96:352]
    smaller = cv2.copyMakeBorder(picture[::2, ::2], 64, 64, 64, 64, cv2.BORDER_CONSTANT)
    cv2.imwrite("two.png", np.hstack([picture, smaller]))
    for options, boxes in [
        (["--side", "left"], [True]),
        (["--side", "right"], [False]),
        (["--largest"], [True]),
        ([], [True, False]),
    ]:
        name = "-".join(["faces", *options])
        code, out, _ = program("extract", "two.png", "-o", name, *options)
        found = faceset.read(name)
        lefts = [face.box[0] < 250 for face in found.faces if face.box]
        assert code == 0 and sorted(lefts) == sorted(boxes), options
        assert out.startswith(f"{name}: {len(boxes)} faces")
        assert ("choose one with --side" in out) == (len(boxes) > 1)


@pytest.mark.parametrize(
    ("inputs", "options", "code", "said"),
    [
        (["plain.png"], [], 3, "plain.png: no face was found"),
        (["empty"], [], 3, "the folder empty holds no pictures"),
        (["none.mp4"], [], 3, "none.mp4 does not exist"),
        (["text.png"], [], 3, "cannot be read as a picture"),
        (["face.png"], ["--min-size", "900"], 3, "none of its 1 faces was kept: 1 are smaller than"),
        (["face.png"], ["--side", "right"], 3, "1 were not the one asked for"),
        (["face.png"], ["--every", "0"], 2, "extract.every must be at least 1, not 0"),
    ],
)
def test_nothing_to_extract(program: Program, inputs: list[str], options: list[str], code: int, said: str) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("no picture")
    cv2.imwrite("plain.png", np.full((64, 64, 3), 90, np.uint8))
    if inputs == ["face.png"]:
        cv2.imwrite("face.png", np.hstack([cv2.imread(str(astronaut_file()))[:256, 96:352], np.zeros((256, 256, 3))]))
    found, out, err = program("extract", *inputs, "-o", "faces", *options)
    assert (found, out) == (code, "") and said in the_error(err.replace(f"{Path.cwd()}/", ""))
    assert not Path("faces").exists()


def test_nothing_to_extract_leaves_an_identity_as_it_is(program: Program) -> None:
    cv2.imwrite("plain.png", np.full((64, 64, 3), 90, np.uint8))
    Path("faces").mkdir()
    Path("faces/identity.yaml").write_text("whose")
    for options in ([], ["--add"]):
        code, _, err = program("extract", "plain.png", "-o", "faces", *options)
        assert code == 3 and "no face was found" in the_error(err)
        assert [file.name for file in Path("faces").iterdir()] == ["identity.yaml"]


def test_who_has_not_said_whose_faces_they_are_is_told_how(program: Program, face_clip: Path) -> None:
    code, out, _ = program("extract", face_clip, "-o", "my faces", "--every", "4")
    assert code == 0 and "before you train: understudy identity add 'my faces' --self" in out
    Path("my faces/identity.yaml").write_text("whose")
    code, out, _ = program("extract", face_clip, "-o", "my faces", "--add")
    assert code == 0 and "identity add" not in out
    Path("file").touch()
    code, _, err = program("extract", face_clip, "-o", "file", "--add")
    assert code == 3 and "file cannot be written" in the_error(err)


def test_several_inputs_of_no_use(program: Program) -> None:
    cv2.imwrite("plain.png", np.full((64, 64, 3), 90, np.uint8))
    code, _, err = program("extract", "none.mp4", "plain.png", "-o", "faces")
    said = [line.removeprefix("understudy: error: ").replace(f"{Path.cwd()}/", "") for line in err.splitlines()]
    assert code == 3
    assert said[0] == "none.mp4 does not exist"
    assert said[-1] == "none.mp4 and 1 more: no face was found; 1 inputs could not be read"


def test_a_face_set_is_never_overwritten(program: Program, face_clip: Path) -> None:
    Path("faces").mkdir()
    Path("faces/precious").write_text("x")
    code, _, err = program("extract", face_clip, "-o", "faces")
    assert code == 3 and "is not empty" in the_error(err)
    assert [file.name for file in Path("faces").iterdir()] == ["precious"]


def test_faces_are_added_to_a_set(program: Program, face_clip: Path) -> None:
    picture = cv2.imread(str(astronaut_file()))[:256, 96:352]
    cv2.imwrite("two.png", np.hstack([picture, picture[:, ::-1]]))
    assert program("extract", face_clip, "-o", "faces", "--every", "4")[0] == 0
    code, out, _ = program("extract", "two.png", "-o", "faces", "--side", "right", "--add")
    assert code == 0 and out.startswith("faces: 1 faces added; passed over: 1 other people")
    found = faceset.read("faces")
    assert [Path(face.source).name for face in found.faces] == ["face.mp4", "face.mp4", "two.png"] and not found.junk
    assert found.faces[2].box is not None and found.faces[2].box[0] > 250
    code, out, _ = program("extract", "two.png", face_clip, "-o", "faces", "--add")
    assert code == 0 and "faces: 7 faces added; passed over: 3 there already" in out
    assert len(faceset.read("faces").faces) == 10
    code, out, _ = program("extract", "two.png", "-o", "faces", "--add")
    assert code == 0 and "faces: 0 faces added; passed over: 2 there already" in out
    assert program("extract", "two.png", "-o", "new", "--add")[0] == 0


def test_an_addition_that_fails_leaves_the_set_as_it_was(program: Program, face_clip: Path) -> None:
    assert program("extract", face_clip, "-o", "faces")[0] == 0
    before = sorted((str(file), file.read_bytes()) for file in Path("faces").rglob("*") if file.is_file())
    cv2.imwrite("plain.png", np.full((64, 64, 3), 90, np.uint8))
    for inputs, options, said in [
        ("plain.png", [], "plain.png: no face was found"),
        ("none.mp4", [], "none.mp4 does not exist"),
        (face_clip, ["--crop", "head"], "has crop face, what would be added head"),
        (face_clip, ["--set", "extract.size=128"], "has size 256, what would be added 128"),
    ]:
        code, _, err = program("extract", inputs, "-o", "faces", "--add", *options)
        assert code == 3 and said in the_error(err.replace(f"{Path.cwd()}/", ""))
        after = sorted((str(file), file.read_bytes()) for file in Path("faces").rglob("*") if file.is_file())
        assert [name for name, _ in after] == [name for name, _ in before] and after == before


def test_head_crops(program: Program, face_clip: Path) -> None:
    options = ["--every", "4", "--set", "extract.coverage=1.0"]
    assert program("extract", face_clip, "-o", "faces", *options)[0] == 0
    assert program("extract", face_clip, "-o", "heads", "--crop", "head", *options)[0] == 0
    face, head = faceset.read("faces"), faceset.read("heads")
    assert (face.crop, head.crop) == ("face", "head")
    in_face, in_head = face.faces[0].landmarks, head.faces[0].landmarks
    assert in_face is not None and in_head is not None
    assert np.ptp(in_face[:, 1]) / np.ptp(in_head[:, 1]) == pytest.approx(1.5, rel=0.03)
    assert in_head[:, 1].mean() > in_face[:, 1].mean() + 10  # the face lies in the lower part of a head


def test_a_clip_compared_with_itself(program: Program, face_clip: Path) -> None:
    assert program("extract", face_clip, "-o", "a")[0] == 0
    mirrored = [cv2.imread(str(crop))[::-1] for crop in sorted(Path("a/crops").iterdir())]
    Path("b").mkdir()
    for number, crop in enumerate(mirrored):
        cv2.imwrite(f"b/{number}.png", crop)
    code, out, _ = program("evaluate", face_clip, face_clip, "--a", "a", "--b", "b", "--json")
    told = json.loads(out)
    assert code == 0 and told["faces"] == told["frames"] == 8 and told["faces_lost"] == 0
    assert told["expression_error"] == 0.0
    assert told["identity"] == told["identity_before"] == 0.0
    code, out, _ = program("evaluate", face_clip, face_clip, "--a", "a", "--b", "b", "--every", "4")
    assert code == 0 and "identity: 0 % of 2 swapped faces are called B" in out
