"""`train`: from face sets to a model, on from where it was, and saved when it is stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import cv2
import pytest

from pipeline.commands import train
from stages.puppets.portrait import astronaut_file
from tests.program import Program, as_json, the_error

SMALL = ("--preset", "sketch", "--set", "train.batch=2", "--set", "train.threads=1")


@pytest.fixture
def sets(program: Program) -> tuple[str, str]:
    """Two plain folders of pictures, one of them mirrored, in the program's folder."""
    face = cv2.imread(str(astronaut_file()))[20:220, 120:320]
    for name, picture in (("a", face), ("b", face[:, ::-1])):
        Path(name).mkdir()
        for number in range(3):
            cv2.imwrite(f"{name}/{number}.png", picture[number : 190 + number])
    return "a", "b"


def test_a_model_is_made_and_trained_on(program: Program, sets: tuple[str, str]) -> None:
    code, out, err = program("train", *sets, "-o", "model", *SMALL, "--iterations", "2", "--json")
    assert code == 0 and "error" not in err
    assert as_json(out)["description"]["iterations"] == 2 and as_json(out)["ended"] == "iterations"
    code, out, _ = program("train", *sets, "-o", "model", *SMALL, "--iterations", "3")
    assert code == 0
    assert out.startswith("model: done after 1 steps in") and "; 3 steps in all, loss a 0." in out
    assert Path("model/preview.png").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_is_saved(
    program: Program, sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    before = signal.getsignal(number)
    once = iter([number])
    monkeypatch.setattr(train, "show", lambda *_: [signal.raise_signal(each) for each in once])
    found, out, _ = program("train", *sets, "-o", "model", *SMALL)
    assert found == code and out.startswith("model: stopped and saved after")
    assert json.loads(Path("model/model.json").read_text())["iterations"] > 0
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["a", "nowhere"], 3, "nowhere"),
        (["a", "a/0.png"], 3, "0.png"),
        (["a", "b", "--preset", "huge"], 2, "architecture original has no preset 'huge'; it has:"),
        (["a", "b", "--minutes", "-1"], 2, "train.minutes must be from 0 to"),
    ],
)
def test_what_cannot_be_trained(program: Program, sets: tuple[str, str], argv: list[str], code: int, said: str) -> None:
    found, out, err = program("train", *argv, "-o", "model")
    assert (found, out) == (code, "") and said in the_error(err)
    assert not Path("model").exists()
