"""`train`: from face sets to a model, on from where it was, and saved when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.__main__ import _terminate
from pipeline.commands import train
from pipeline.errors import InputError
from tests.faces import face_set, plain_folder
from tests.program import Program, as_json, the_error

SMALL = ("--preset", "sketch", "--batch", "2", "--set", "train.threads=1", "--set", "train.device=cpu")
BARE = (*SMALL, "--set", "train.monitor.preview=false", "--set", "train.monitor.report=false")


@pytest.fixture
def sets(program: Program) -> tuple[str, str]:
    """Two plain folders of pictures in the program's folder."""
    for person in ("a", "b"):
        plain_folder(Path(person), person)
    return "a", "b"


def described(model: str = "model") -> dict[str, object]:
    content: dict[str, object] = json.loads(Path(model, "model.json").read_text())
    return content


def test_a_model_is_made_and_trained_on(program: Program, sets: tuple[str, str]) -> None:
    code, out, err = program("train", *sets, "-o", "model", *SMALL, "--iterations", "2", "--json")
    assert code == 0 and "error" not in err
    said = as_json(out)
    assert said["description"]["iterations"] == 2 and said["ended"] == "iterations" and said["steps"] == 2
    assert Path(said["preview"]).samefile("model/preview.png") and Path("model/report.html").is_file()
    code, out, err = program("train", *sets, "-o", "model", *BARE, "--iterations", "3")
    assert code == 0
    assert out.startswith("model: done after 1 steps in") and "; 3 steps in all, loss a 0." in out
    assert "preview" not in out


def test_what_the_face_sets_lack_is_said_first(program: Program, sets: tuple[str, str]) -> None:
    Path("a/notes.txt").write_text("red")
    code, _, err = program("train", *sets, "-o", "model", *BARE, "--iterations", "1")
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert code == 0
    assert [note for note in notes if "faces of a" in note or "a has" in note], notes
    assert notes.count("note: a: notes.txt is no picture") == 1


def test_three_people_by_name_some_in_several_sets(program: Program) -> None:
    face_set(Path("monday"), "a")
    face_set(Path("tuesday"), "a")
    face_set(Path("b"), "b")
    face_set(Path("c"), "c")
    people = ("anna=monday", "anna=tuesday", "bert=b", "carl=c")
    code, out, _ = program("train", *people, "-o", "many", *BARE, "--iterations", "1", "--json")
    assert code == 0 and as_json(out)["description"]["people"] == ["anna", "bert", "carl"]
    code, _, err = program("train", "anna=monday", "bert=b", "-o", "many", *BARE)
    assert code == 2 and "knows anna and bert and carl, not anna and bert" in the_error(err)


def test_the_command_line_comes_before_the_settings(program: Program, sets: tuple[str, str]) -> None:
    Path("config.yaml").write_text("train: {architecture: dfaker, preset: sketch, iterations: 9, batch: 9}\n")
    arch = ("--arch", "original", "--iterations", "1", "--batch", "3")
    code, out, _ = program("train", *sets, "-o", "model", *BARE[:2], *arch, *BARE[4:], "--json")
    assert code == 0
    told = as_json(out)["description"]
    assert (told["architecture"], told["iterations"], told["faces"]) == ("original", 1, 6)


def test_plain_pictures_show_what_the_model_sees(program: Program, sets: tuple[str, str]) -> None:
    wide = ("--set", "train.coverage=1.3", "--set", "train.crop=head")
    assert program("train", *sets, "-o", "model", *BARE, *wide, "--iterations", "1")[0] == 0
    code, out, err = program("train", *sets, "-o", "model", *BARE[2:], "--iterations", "2", "--json")
    assert code == 0, err
    assert (as_json(out)["description"]["coverage"], as_json(out)["description"]["crop"]) == (1.3, "head")


def test_a_step_size_is_found_and_nothing_else_is_kept(program: Program, sets: tuple[str, str]) -> None:
    code, out, _ = program("train", *sets, "-o", "model", *BARE, "--find-lr", "--json")
    found = as_json(out)
    assert code == 0 and found.keys() == {"suggested", "diverged", "picture"}
    assert [entry.name for entry in Path("model").iterdir()] == ["lr.png"]
    assert found["suggested"] is None or 1e-8 <= found["suggested"] <= 0.1
    assert program("train", *sets, "-o", "model", *BARE, "--iterations", "1")[0] == 0


def test_a_breakdown_is_said_in_one_line(
    program: Program, sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.train import step

    monkeypatch.setattr(step.Objective, "__call__", lambda *_: {"mae": step.torch.full((), float("nan"))})
    code, out, err = program("train", *sets, "-o", "model", *BARE, "--iterations", "1")
    assert (code, out) == (5, "")
    assert "broke down at step 1: the loss of a is nan; the model of step 0 in model is kept" in the_error(err)
    assert err.count("back to step 0, with steps half as long") == 3


# Stopping


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_is_saved(
    program: Program, sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    before = signal.getsignal(number)
    during = []

    def show(step: train.Step, shown: object) -> None:
        if step.steps and not during:
            signal.raise_signal(number)
            during.append(signal.getsignal(number))

    monkeypatch.setattr(train, "show", show)
    found, out, _ = program("train", *sets, "-o", "model", *SMALL)
    assert found == code and out.startswith("model: stopped and saved after")
    iterations = described()["iterations"]
    assert isinstance(iterations, int) and iterations > 0
    assert signal.getsignal(number) == before
    assert during[0] in (signal.default_int_handler, _terminate), "a second one ends the program at once"
    assert Path("model/preview.png").is_file() and Path("model/survey.png").is_file()


def test_the_search_for_a_step_size_can_be_stopped(
    program: Program, sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.train.session import Session

    learn = Session.learn

    def stopped(session: Session, *args: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        learn(session, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "learn", stopped)
    code, out, err = program("train", *sets, "-o", "model", *BARE, "--find-lr")
    assert (code, out) == (143, "") and "error" not in err


def started(*argv: str, **environ: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline", "train", *argv, "--set", "train.safety.save_minutes=60"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environ)


def wait_until_it_learns(model: str, *running: subprocess.Popen[bytes]) -> None:
    """Until the journal has a point, which stands for some steps."""
    deadline = time.monotonic() + 120
    journal = Path(model, "journal.jsonl")
    while not journal.is_file() or b'"kind": "point"' not in journal.read_bytes():
        assert all(each.poll() is None for each in running) and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside_saves(program: Program, sets: tuple[str, str], number: int, code: int) -> None:
    """With what a training shows by default: that, too, is due before it ends."""
    running = started(*sets, "-o", "model", *SMALL)
    try:
        wait_until_it_learns("model", running)
        asked = time.time()
        running.send_signal(number)
        out, err = running.communicate(timeout=150)
        ended = time.time()
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == code, err
    assert out.startswith(b"model: stopped and saved after") and b"Traceback" not in err
    iterations = described()["iterations"]
    assert isinstance(iterations, int) and iterations > 0
    assert Path("model/model.json").stat().st_mtime - asked < 60
    assert ended - asked < 120  # ten seconds, where nothing else needs the cores
    last = json.loads(Path("model/journal.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["reason"], last["iteration"]) == ("end", "stopped", iterations)


@pytest.mark.slow
def test_several_processes_stop_when_one_of_them_is_told(program: Program, sets: tuple[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [started(*sets, "-o", "model", *BARE, **meeting, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    try:
        wait_until_it_learns("model", *ranks)
        ranks[1].send_signal(signal.SIGTERM)
        said = [rank.communicate(timeout=60) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert [rank.returncode for rank in ranks] == [143, 143], said
    assert said[0][0].startswith(b"model: stopped and saved after") and said[1] == (b"", b"")


# What cannot be trained


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["a", "nowhere"], 3, "nowhere"),
        (["a", "a/0.png"], 3, "0.png"),
        (["a"], 2, "there are faces of a alone; a swap takes two people or more"),
        (["x=a"], 2, "there are faces of x alone"),
        (["a", "a=b"], 2, "the name a stands for a folder without a name too"),
        (["a", "b", "--preset", "huge"], 2, "architecture original has no preset 'huge'; it has:"),
        (["a", "b", "--arch", "huge"], 2, "train.architecture: there is none named 'huge'; there are:"),
        (["a", "b", "--profile", "huge"], 2, "there is no profile 'huge'; there are:"),
        (["a", "b", "--minutes", "-1"], 2, "train.minutes must be from 0 to"),
        (["a", "b", "--set", "train.losses.terms.beauty=1"], 2, "there is no loss 'beauty'; there are:"),
        (["a", "b", "--set", "train.transfer.start_from=nowhere"], 5, "nowhere"),
        (["a", "b", "--set", "train.transfer.freeze=[tail]"], 2, "this model has no part 'tail'; it has:"),
        (["a", "b", "--set", "train.losses.true_face=1", "--arch", "iae"], 2, "set it to 0 or choose another"),
        (["a", "b", "--set", "train.precision=fp16", "--set", "train.device=cpu"], 2, "fp16 needs a CUDA device"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_trained(program: Program, sets: tuple[str, str], argv: list[str], code: int, said: str) -> None:
    found, out, err = program("train", *argv, "-o", "model")
    assert (found, out) == (code, "") and said in the_error(err)
    assert not Path("model").exists()


def test_a_model_that_is_none(program: Program, sets: tuple[str, str]) -> None:
    Path("model").mkdir()
    Path("model/model.json").write_text("{}")
    code, out, err = program("train", *sets, "-o", "model", *BARE)
    assert (code, out) == (5, "") and "model.json" in the_error(err)
    assert [entry.name for entry in Path("model").iterdir()] == ["model.json"]


def test_a_survey_that_cannot_be_drawn_ends_no_training(
    program: Program, sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InputError("the survey cannot be written: no room")

    monkeypatch.setattr("models.reports.survey_picture.write", full)
    code, out, err = program("train", *sets, "-o", "model", *SMALL, "--iterations", "2")
    assert code == 0 and "; 2 steps in all" in out and "the survey cannot be written: no room" in err
