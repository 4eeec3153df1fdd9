"""`understudy survey`: what face sets hold and lack, in words, as JSON and as a picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faceset import FaceSetWriter
from tests.models.test_pose import head
from tests.program import Program, as_json, the_error


def make(folder: str, *yaws: float) -> None:
    with FaceSetWriter(folder, 64, 1.5) as writer:
        for number, yaw in enumerate(yaws):
            points = head(yaw, 0, 0, 40, (32, 32 + number / 50))
            crop = np.full((64, 64, 3), 99, np.uint8)
            crop[::2] = 100
            writer.add(crop, np.ones((8, 8)), points, source=f"{folder}.mp4", frame=number, box=(0, 0, 70, 70))


def test_words_and_a_picture(program: Program) -> None:
    make("one", *[0] * 10)
    make("two", *[-50] * 10)
    make("three", *[0] * 12)
    code, out, err = program("survey", "anna=one", "anna=two", "bert=three", "-o", "s.png")
    assert code == 0 and "error" not in err
    lines = out.splitlines()
    assert lines[0].startswith("anna: 20 faces from 2 sources, 70 px large there (median), sharpness")
    assert lines[1].startswith("bert: 12 faces from 1 source")
    assert "50 % of anna's faces have their like of bert" in lines
    assert any(
        line.startswith("note: bert has no face turned more than 30 degrees to the left, anna has 10") for line in lines
    )
    assert lines[-1] == "see s.png" and cv2.imread("s.png").shape[2] == 3


def test_json_and_plain_folders(program: Program) -> None:
    Path("photos").mkdir()
    cv2.imwrite("photos/a.png", np.zeros((40, 40, 3), np.uint8))
    Path("photos/note.txt").write_text("hello")
    code, out, _ = program("survey", "photos", "--face-px", "30", "--json")
    told = as_json(out)
    assert code == 0 and told["people"]["a"]["faces"] == 1 and told["people"]["a"]["tiny"] == 0
    assert told["picture"] is None and any("no landmarks" in note for note in told["notes"])
    code, out, _ = program("survey", "photos")
    assert code == 0 and "  passed over: note.txt is no picture" in out.splitlines()
    assert "1 tiny" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 3, "does not exist"),
        (["an na=one"], 2, "a person's name is"),
        (["one", "--face-px", "0"], 2, "--face-px must be from 1"),
        (["one", "-o", "no/where.png"], 3, "the survey no/where.png cannot be written"),
    ],
)
def test_what_is_refused(program: Program, words: list[str], code: int, said: str) -> None:
    make("one", 0)
    found, _, err = program("survey", *words)
    assert found == code and said in the_error(err)
