"""`jobs`: what people are told of the table, and do to it, with the daemon up or down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import result
from pipeline.jobs import FILE, Entry, Mark, State, Table
from tests.program import Program, as_json, the_error

MARK = Mark(1000, 1_790_000_000_000_000_000, 7)


@pytest.fixture
def table(program: Program, tmp_path: Path) -> Iterator[Table]:
    """The table in the folder that `daemon.state` names, with a job in each state; the daemon has it open, too."""
    Path("config.yaml").write_text("daemon: {state: kept here}\n")
    with Table.open(Path("kept here") / FILE) as table:
        for name in ("done", "failed", "blocked", "cancelled", "running"):
            add(table, f"{name}.mp4")
        table.finish(table.claim(1, 60.0).id, 25, 1.5, "abc", 70.0)
        table.fail(table.claim(2, 60.0).id, "/in/failed.mp4: decode failed", {"stage": "decode", "frame": 3}, 70.0)
        table.block(3, "no model", 70.0)
        table.cancel(4, "cancelled", 70.0)
        table.claim(5, 60.0)
        add(table, os.fsdecode(b"sub/-a\nb\xff<i>.mp4"))
        add(table, "later.mp4", priority=5)
        yield table


def add(table: Table, name: str, priority: int = 0) -> Entry:
    return table.accept("/in", f"/in/{name}", f"/out/{name}", MARK, priority, seen=40.0)


def states(table: Table) -> dict[int, str]:
    return {job.id: str(job.state) for job in table.listing()}


def test_list(program: Program, table: Table) -> None:
    code, out, err = program("jobs", "list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["id", "state", "priority", "age", "clip", "reason"]
    assert [line.split()[0] for line in lines[1:]] == ["5", "7", "6", "4", "3", "2", "1"]
    assert "sub/-a\\nb\\udcff<i>.mp4" in lines[3]
    assert lines[6].split()[-3:] == ["failed.mp4", "decode", "failed"]
    _, out, _ = program("jobs", "list", "-n", "2")
    assert len(out.splitlines()) == 4 and out.splitlines()[-1] == "and 5 more: see --all, -n and --only"
    _, out, _ = program("jobs", "list", "--only", "failed,waiting", "-n", "2", "--all")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["7", "6", "2"]


def test_list_for_machines(program: Program, table: Table) -> None:
    found = as_json(program("jobs", "--json", "list")[1])
    assert as_json(program("jobs", "list", "--json")[1]) == found
    assert [job["id"] for job in found["jobs"]] == [5, 7, 6, 4, 3, 2, 1]
    assert found["jobs"][2]["source"] == os.fsdecode(b"/in/sub/-a\nb\xff<i>.mp4")
    assert found["counts"] == {state: 2 if state == "waiting" else 1 for state in map(str, State)}
    assert as_json(program("jobs", "list", "--only", "done", "--json")[1])["jobs"][0]["digest"] == "abc"


def test_show(program: Program, table: Table, tmp_path: Path) -> None:
    target = tmp_path / "made.mp4"
    job = table.accept("/in", "/in/made.mp4", str(target), MARK, 0, 40.0)
    table.finish(table.claim(job.id, 60.0).id, 25, 1.5, "abc", 70.0)
    result.path_for(str(target)).write_text(json.dumps({"version": 1, "job": job.id, "faces": 50, "model": {"a": 1}}))
    line = {"time": "2026-01-31T12:00:00+00:00", "level": "info", "logger": "x", "message": "published"}
    log = [json.dumps(line | {"job": number, "clip": "made.mp4"}) for number in (job.id, 1)]
    Path("kept here/log.jsonl").write_text("\n".join(log) + "\n")
    code, out, _ = program("jobs", "show", str(job.id))
    assert code == 0
    shown = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert shown["job"].strip() == f"{job.id}, done" and shown["frames"].strip() == "25 in 1.5 s"
    assert shown["  faces"].strip() == "50" and out.count("published") == 1
    told = as_json(program("jobs", "show", str(job.id), "--json")[1])
    assert told["report"]["model"] == {"a": 1} and [entry["job"] for entry in told["log"]] == [job.id]
    assert told["frames"] == 25 and told["mark"]["size"] == 1000
    out = program("jobs", "show", "2")[1]
    assert "  stage:" in out and "  frame:" in out and "decode failed" in out
    assert "sub/-a\\nb\\udcff<i>.mp4" in program("jobs", "show", "6")[1]


def test_a_report_of_another_job_is_not_shown(program: Program, table: Table, tmp_path: Path) -> None:
    target = tmp_path / "made.mp4"
    job = table.accept("/in", "/in/made.mp4", str(target), MARK, 0, 40.0)
    result.path_for(str(target)).write_text(json.dumps({"version": 1, "job": 1, "faces": 50}))
    assert as_json(program("jobs", "show", str(job.id), "--json")[1])["report"] is None


def test_retry(program: Program, table: Table) -> None:
    assert program("jobs", "retry", "2")[0] == 0
    assert states(table)[2] == "waiting" and table.changed()
    code, out, _ = program("jobs", "retry", "1-100")
    assert code == 0 and [line.split()[0] for line in out.splitlines()[1:]] == ["3", "4"]
    assert states(table)[1] == "done", "a range means what did not go well"
    assert as_json(program("jobs", "retry", "1", "--json")[1])["jobs"][0]["state"] == "waiting"


def test_retry_all_that_failed_or_are_blocked(program: Program, table: Table) -> None:
    table.fail(add(table, "gone.mp4").id, "broken", None, 70.0)
    table.vanish([8])
    assert program("jobs", "retry", "--failed")[1].splitlines()[1].split()[:2] == ["2", "waiting"]
    assert states(table)[8] == "failed", "its clip is gone"
    assert len(program("jobs", "retry", "--failed", "--blocked")[1].splitlines()) == 2
    assert program("jobs", "retry", "--failed") == (0, "no jobs\n", "")


def test_cancel_and_priority(program: Program, table: Table) -> None:
    code, out, _ = program("jobs", "cancel", "5", "6", "6")
    assert code == 0 and len(out.splitlines()) == 3 and "(to be cancelled)" in out
    assert [job.id for job in table.wishes()] == [5] and states(table)[6] == "cancelled"
    assert program("jobs", "priority", "7", "3-5", "-3")[0] == 0
    assert [(job.id, job.priority) for job in table.span(3, 7)] == [(3, -3), (4, 0), (5, -3), (6, 0), (7, -3)]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("show 99", "there is no job 99; `understudy jobs list` tells which there are"),
        ("retry 2 99", "there is no job 99"),
        ("retry 50-60", "there are no jobs from 50 to 60"),
        ("retry 2 5", "job 5 cannot be tried again: it is running"),
        ("cancel 7 1", "job 1 cannot be cancelled: it is done"),
        ("priority 7 1 4", "job 1 cannot be given a priority: it is done"),
        ("priority 7 10000000", "a priority is from -1000000 to 1000000"),
        ("retry", "say which jobs are to be tried again"),
        ("retry 2 --failed", "say which jobs are to be tried again"),
        ("retry x", "argument ID: 'x' is no number"),
        ("retry 5-3", "argument ID: '5-3' ends before it begins"),
        ("retry 1-99999999999999999999", "is no number"),
        ("show -1", "argument ID: '-1' is no number"),
        ("list --only new", "argument --only: 'new' is none of waiting, running"),
        ("", "the following arguments are required: WHAT"),
    ],
)
def test_what_is_refused_changes_nothing(program: Program, table: Table, argv: str, said: str) -> None:
    before = table.listing()
    code, out, err = program("jobs", *argv.split())
    assert (code, out) == (2, "") and said in the_error(err)
    assert table.listing() == before and table.wishes() == []


@pytest.mark.parametrize("what", ["list", "show 1", "retry 1", "cancel 1", "priority 1 2"])
def test_where_no_daemon_has_run(program: Program, what: str) -> None:
    code, _, err = program("jobs", *what.split())
    assert code == 8 and "no daemon has run here: " in the_error(err) and not Path(".understudy").exists()


def test_a_damaged_table_is_left_alone(program: Program, table: Table) -> None:
    table.close()
    path = Path("kept here") / FILE
    path.write_bytes(b"no table" * 1000)
    for what in ("list", "retry 1"):
        code, _, err = program("jobs", *what.split())
        assert code == 8 and "is damaged" in the_error(err)
    assert path.read_bytes() == b"no table" * 1000


def test_options_may_stand_anywhere(program: Program, table: Table, tmp_path: Path) -> None:
    Path("config.yaml").unlink()
    state = f"daemon.state={tmp_path}/here/kept here"
    for argv in (
        ("jobs", "--set", state, "list"),
        ("jobs", "list", "--set", state),
        ("jobs", "--state", "kept here", "list", "-q"),
        ("jobs", "list", "--state", "kept here"),
        ("jobs", "--set", state, "list", "--set", "daemon.engines=1"),
    ):
        assert program(*argv)[0] == 0, argv
    assert program("jobs", "list")[0] == 8


def test_shells_complete_it(program: Program) -> None:
    for shell in ("bash", "zsh", "tcsh"):
        code, out, _ = program("completion", shell)
        assert code == 0 and "retry" in out
        assert shell == "tcsh" or "--blocked" in out  # tcsh is told of no options that deep
