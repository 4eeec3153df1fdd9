"""`demo`: the whole way, in small; and that it touches nothing that is not its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.program import Program, the_error


@pytest.mark.slow
def test_the_whole_way(program: Program) -> None:
    options = ("--set", "train.preset=sketch", "--set", "train.batch=2")
    code, out, _ = program("demo", "--into", "shown", "--minutes", "0.02", "--seconds", "1.2", *options)
    assert code == 0
    made = {entry.name for entry in Path("shown").iterdir()}
    assert {"clips", "faces", "model", "watched", "out", "contact_sheet.png", "report.json"} <= made
    report = json.loads(Path("shown/report.json").read_text())
    assert {"identity", "expression_error", "frames_in", "frames_out", "fps", "seconds"} <= set(report)
    assert 0 <= report["identity"] <= 1 and report["frames_in"] == report["frames_out"] > 0
    assert set(report["stages"]) == {"decode", "detect", "align", "mask", "swap", "blend", "disclose", "encode"}
    assert all(set(stage) == {"fps", "busy"} for stage in report["stages"].values())
    assert Path(report["result"]).is_file() and report["result"] in out
    assert report["held_out"] is True


def test_a_folder_with_something_else_in_it_is_left_alone(program: Program) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    code, _, err = program("demo", "--into", "mine")
    assert code == 3 and "holds thesis.txt, which no demo made" in the_error(err)
    assert [entry.name for entry in Path("mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("made", "said"), [(None, "is no folder"), ("a.mp4", "holds no b*.mp4")])
def test_media_that_is_not_there(program: Program, made: str | None, said: str) -> None:
    if made:
        Path("media").mkdir()
        Path("media", made).touch()
    code, _, err = program("demo", "--into", "shown", "--media", "media")
    assert code == 3 and said in the_error("\n".join(line for line in err.splitlines() if "[1/6]" not in line))
