"""`analyse`: the sessions of a model, for people, spreadsheets and machines."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.reports import curves, history
from models.train.journal import FILE
from tests.models.reports.journals import night
from tests.program import Program, as_json, the_error

DAY, NEXT = "2026-01-31", "2026-02-01"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def fonts_are_open() -> None:
    """Matplotlib opens its fonts once and keeps them."""
    curves.draw(history.History())


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield night(tmp_path / "model")
    time.tzset()


def test_for_people(program: Program, trained: Path) -> None:
    code, out, err = program("analyse", trained)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [re.split(r"  +", line.strip()) for line in lines[:4]] == [
        ["no.", "start", "end", "iterations", "from", "to", "batch", "faces/s", "ended", "loss"],
        [
            "1",
            f"{DAY} 22:00:00",
            f"{DAY} 22:16:41",
            "2 000",
            "0",
            "2 000",
            "8",
            "32.0",
            "minutes",
            "a 0.0701, b 0.0733",
        ],
        [
            "2",
            f"{DAY} 23:00:00",
            f"{DAY} 23:23:00",
            "2 760",
            "2 000",
            "4 260",
            "8",
            "32.0",
            "killed",
            "a 0.0430, b 0.0477",
        ],
        [
            "3",
            f"{NEXT} 07:00:00",
            f"{NEXT} 07:08:20",
            "2 000",
            "4 000",
            "6 000",
            "4",
            "32.0",
            "stopped",
            "a 0.0469, b 0.0527",
        ],
    ]
    assert len({line.index(word) for line, word in zip(lines[1:4], ("minutes", "killed", "stopped"), strict=True)}) == 1
    assert lines[4:] == [
        "",
        "3 sessions, 48 min 2 s: 6 760 iterations, 760 of them taken back or lost, 92 160 faces, 32.0 a second; "
        "the model is at iteration 6 000",
    ]


def test_for_machines(program: Program, trained: Path) -> None:
    code, out, _ = program("analyse", trained, "--json")
    found = as_json(out)
    assert code == 0 and [s["ended"] for s in found["sessions"]] == ["minutes", "killed", "stopped"]
    assert found["sessions"][0]["start"] == "2026-01-31T22:00:00+00:00"
    second = found["sessions"][1]
    assert second["loss"] == pytest.approx({"a": 0.0430052, "b": 0.0477199}, rel=1e-5) and second["people"] == [
        "a",
        "b",
    ]
    counts = {"sessions": 3, "iterations": 6760, "last": 6000, "faces": 92160}
    assert found["total"] == counts | {"seconds": 2881.5, "faces_per_s": 31.98}
    assert found["judgement"]["iteration"] == 6000 and len(found["events"]) == 11


def test_for_spreadsheets(program: Program, trained: Path, tmp_path: Path) -> None:
    code, out, _ = program("analyse", trained, "--csv", tmp_path / "s.csv")
    assert code == 0 and "3 sessions" in out
    text = (tmp_path / "s.csv").read_text()
    assert program("analyse", trained, "--csv", "-")[:2] == (0, text)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 3 and rows[2]["iterations"] == "2000" and rows[2]["ended"] == "stopped"
    assert [row["loss/a"] for row in rows] == ["0.0701267", "0.0430052", "0.0468517"]
    assert [row["faces_per_s"] for row in rows] == ["31.97", "32.0", "31.97"]


def test_a_journal_that_lies(program: Program, tmp_path: Path) -> None:
    session = {"kind": "session", "iteration": 0, "architecture": "=HYPERLINK(1)", "preset": 'a,"b"\n', "time": 5}
    lines = [session, {"kind": "end", "iteration": 1, "reason": "\x1b[2Jgone"}]
    (tmp_path / FILE).write_text("junk\n" + "".join(json.dumps(line) + "\n" for line in lines))
    _, text, _ = program("analyse", tmp_path, "--csv", "-")
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["architecture"] == "'=HYPERLINK(1)" and row["preset"] == 'a,"b"\n'
    code, out, _ = program("analyse", tmp_path)
    assert code == 0 and "\x1b" not in out and "\\x1b[2Jgone" in out and "1 session, 0 s: 1 iterations" in out


def test_the_report(program: Program, trained: Path) -> None:
    file = trained / "report.html"
    assert program("analyse", trained, "--report", file)[0] == 0
    text = file.read_text()
    assert text.startswith("<!doctype html>") and text.count("data:image/png;base64,") == 1 and "killed" in text


def test_refusals(program: Program, trained: Path, tmp_path: Path) -> None:
    def refused(*argv: str | Path) -> tuple[int, str]:
        code, out, err = program("analyse", *argv)
        assert not out
        return code, the_error(err)

    code, said = refused(tmp_path / "no")
    assert code == 5 and "no does not exist" in said
    (tmp_path / "empty").mkdir()
    code, said = refused(tmp_path / "empty")
    assert code == 3 and "holds no journal.jsonl with a session in it" in said
    code, said = refused(trained, "--csv", tmp_path / "no" / "s.csv")
    assert code == 6 and "s.csv cannot be written: No such file" in said
    code, said = refused(trained, "--report", tmp_path / "no" / "r.html")
    assert code == 5 and "r.html cannot be written" in said
    (trained / FILE).unlink()
    (trained / FILE).mkdir()
    code, said = refused(trained)
    assert code == 5 and "cannot be read" in said


def test_loads_no_torch(trained: Path) -> None:
    code = f"""
import sys
from pipeline.__main__ import main
assert main(["analyse", {str(trained)!r}, "--report", {str(trained / "r.html")!r}]) == 0
assert not {{"torch", "mediapipe", "cv2", "av", "matplotlib.pyplot"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
