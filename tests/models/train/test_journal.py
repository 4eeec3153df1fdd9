"""models.train.journal: what is written survives a kill at any byte, and no disk error ends a training."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.train import journal
from models.train.journal import FILE, MAX_LINE, ROLLED_BACK, Journal, Observers, Opening, Point, is_written, records

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def opening(iteration: int = 0) -> Opening:
    recipe = {"batch": 8, "transfer": {"start_from": Path("/x"), "freeze": ("encoder",)}}
    return Opening(iteration, ("a", "b"), "original", "sketch", 8, 16, "cpu", "fp32", 1, recipe=recipe)


def point(iteration: int, loss: float = 0.5) -> Point:
    return Point(iteration, 1.0 * iteration, {"a": loss, "b": loss / 2}, {"a": {"ssim": loss}}, 5e-5, 100.0, 0.1)


def written(folder: Path) -> list[dict[str, Any]]:
    return list(records(folder / FILE))


def test_every_record(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "new", now=lambda: NOON)
    kept.begin(opening())
    kept.point(point(10))
    kept.judged(10, {"ssim/a": 0.9, "identity/a>b": math.nan})
    kept.event(10, "saved", "line one\nline two")
    kept.end(12, "minutes", 12.5)
    kept.close()
    kept.close()
    lines = (tmp_path / "new" / FILE).read_text().splitlines()
    session, at, judged, event, end = (json.loads(line) for line in lines)
    assert {line["time"] for line in (session, at, judged, event, end)} == {"2026-01-31T12:00:00.000+00:00"}
    assert (session["kind"], session["number"], session["iteration"], session["overtakes"]) == ("session", 1, 0, None)
    assert session["people"] == ["a", "b"] and session["faces_per_step"] == 16 and session["world"] == 1
    assert session["recipe"] == {"batch": 8, "transfer": {"start_from": "/x", "freeze": ["encoder"]}}
    assert at["kind"] == "point" and at["loss"] == {"a": 0.5, "b": 0.25} and at["terms"] == {"a": {"ssim": 0.5}}
    assert (at["iteration"], at["seconds"], at["lr"], at["faces_per_s"], at["waiting"]) == (10, 10.0, 5e-5, 100.0, 0.1)
    assert judged["metrics"] == {"ssim/a": 0.9, "identity/a>b": None}
    assert (event["kind"], event["what"], event["text"]) == ("event", "saved", "line one\nline two")
    assert (end["kind"], end["iteration"], end["reason"], end["seconds"]) == ("end", 12, "minutes", 12.5)


def test_numbers_of_others_are_numbers(tmp_path: Path) -> None:
    kept = Journal(tmp_path)
    kept.point(Point(1, np.float32(2.5), {"a": np.float64(np.inf), "b": np.float32(0.1)}))  # type: ignore[arg-type]
    kept.close()
    (line,) = written(tmp_path)
    assert (line["seconds"], line["loss"]) == (2.5, {"a": None, "b": 0.1})


def test_taken_up_again(tmp_path: Path) -> None:
    for first, last in ((0, 30), (30, 50), (40, 60)):
        kept = Journal(tmp_path)
        kept.begin(opening(first))
        kept.point(point(last))
        kept.close()
    sessions = [line for line in written(tmp_path) if line["kind"] == "session"]
    assert [(s["number"], s["iteration"], s["overtakes"]) for s in sessions] == [
        (1, 0, None),
        (2, 30, None),
        (3, 40, 50),
    ]


def test_rolled_back_and_taken_up_there(tmp_path: Path) -> None:
    for _ in range(2):  # what the writer knows itself, and what it reads
        kept = Journal(tmp_path)
        kept.begin(opening(20))
        kept.point(point(50))
        kept.event(20, ROLLED_BACK, "the loss of a is nan")
        kept.begin(opening(20))
        kept.close()
    assert [s["overtakes"] for s in written(tmp_path) if s["kind"] == "session"] == [None] * 4


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_ended_and_nothing_is_lost(tmp_path: Path, cut: int) -> None:
    kept = Journal(tmp_path)
    kept.begin(opening())
    kept.point(point(1))
    kept.point(point(2))
    kept.close()
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:-cut])
    kept = Journal(tmp_path)
    kept.point(point(3))
    kept.close()
    assert (tmp_path / FILE).read_bytes().startswith(content[:-cut])
    # Only the newline was torn off: then the line is whole again.
    assert [line["iteration"] for line in written(tmp_path)] == ([0, 1, 2, 3] if cut == 1 else [0, 1, 3])


@settings(deadline=None, max_examples=60)
@given(junk=st.lists(st.binary(max_size=80), max_size=8))
def test_junk_between_records(tmp_path_factory: pytest.TempPathFactory, junk: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("junk")
    (folder / FILE).write_bytes(
        b"\n".join([*junk, b"[" * 100_000, b'"a"', b'{"kind": 3}', b'{"kind": "p", "x": 1e999}'])
    )
    kept = Journal(folder)
    kept.point(point(7))
    kept.close()
    assert written(folder)[-1]["iteration"] == 7


def test_a_line_without_end_is_passed_by(tmp_path: Path) -> None:
    record = b'{"kind": "point", "iteration": 1}\n'
    (tmp_path / FILE).write_bytes(record + b"x" * (2 * MAX_LINE) + record + record)
    assert len(written(tmp_path)) == 2


def test_a_disk_that_is_full_is_told_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    kept = Journal(tmp_path, told.append)
    kept.begin(opening())
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, line: write(handle, line[:20]))
    kept.point(point(1))  # half a line goes in, then nothing
    monkeypatch.setattr(os, "write", refusing)
    kept.point(point(2))
    kept.end(3, "stopped", 1)
    monkeypatch.setattr(os, "write", write)
    kept.point(point(4))
    kept.close()
    assert len(told) == 1 and "No space left on device" in told[0] and "training goes on" in told[0]
    assert [line["iteration"] for line in written(tmp_path)] == [0, 4]


def refusing(handle: int, line: bytes) -> int:
    raise OSError(28, "No space left on device")


def a_folder(file: Path) -> None:
    file.mkdir()


def a_fifo(file: Path) -> None:
    os.mkfifo(file)


def a_link(file: Path) -> None:
    (file.parent / "somebody's").write_text("mine")
    file.symlink_to("somebody's")


@pytest.mark.parametrize("made", [a_folder, a_fifo, a_link])
@pytest.mark.timeout(20)
def test_something_else_in_its_place(tmp_path: Path, made: Callable[[Path], None]) -> None:
    made(tmp_path / FILE)
    told: list[str] = []
    kept = Journal(tmp_path, told.append)
    kept.begin(opening())
    kept.point(point(1))
    kept.close()
    assert len(told) == 1 and str(tmp_path / FILE) in told[0]
    if made is a_link:
        assert (tmp_path / "somebody's").read_text() == "mine"


def test_the_default_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    Journal(tmp_path / "file").close()
    assert "cannot be written" in caplog.text


def test_who_writes_is_seen(tmp_path: Path) -> None:
    kept = Journal(tmp_path)
    assert is_written(tmp_path / FILE)
    kept.close()
    assert not is_written(tmp_path / FILE)


def test_killed_in_the_midst(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from models.train.journal import Journal, Point
kept = Journal(Path({str(tmp_path)!r}))
print("ready", flush=True)
for iteration in range(10**7):
    kept.point(Point(iteration, 1.0, {{"a": 0.5}}))
"""
    root = Path(journal.__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        while not (tmp_path / FILE).stat().st_size:
            pass
        child.send_signal(signal.SIGKILL)
    assert not is_written(tmp_path / FILE)
    found = [line["iteration"] for line in written(tmp_path)]
    assert found and found == list(range(len(found)))


def test_loads_nothing_but_the_standard_library() -> None:
    code = "import models.train.journal, sys; print({'torch', 'numpy', 'tensorboardX'} & set(sys.modules))"
    root = Path(journal.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "set()\n"


class Told:
    """Notes whatever it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.heard.append((name, *args))


def test_several_observers_as_one() -> None:
    one, other = Told(), Told()
    both = Observers(one, other)  # type: ignore[arg-type]
    both.begin(opening())
    both.point(point(1))
    both.judged(1, {"ssim": 0.5})
    both.event(1, "saved")
    both.end(1, "stopped", 2.0)
    both.close()
    assert one.heard == other.heard
    assert [call[0] for call in one.heard] == ["begin", "point", "judged", "event", "end", "close"]
