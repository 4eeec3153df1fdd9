"""Logs: one record, one line, whatever a file is called."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import logs

_log = logging.getLogger("pipeline.test_logs")


@pytest.fixture(autouse=True)
def root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(as_json: bool, level: int = logging.INFO) -> io.StringIO:
    stream = io.StringIO()
    logs.set_up(level, as_json, stream)
    return stream


@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_printable_is_one_line_that_any_terminal_takes(text: str) -> None:
    shown = logs.printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert logs.printable(shown) == shown


def test_plain_lines() -> None:
    stream = written(as_json=False)
    _log.warning("a\n%s", "b\udcff päron")
    _log.debug("not this")
    assert stream.getvalue()[20:] == "warning a\\nb\\udcff päron\n"


def test_a_traceback_from_a_stage_keeps_its_lines() -> None:
    stream = written(as_json=False)
    _log.error("%s", 'Traceback (most recent call last):\n  File "x\x1b.py"\nKeyError')
    assert stream.getvalue()[20:].splitlines() == [
        "error Traceback (most recent call last):",
        '  File "x\\x1b.py"',
        "KeyError",
    ]


def test_json_lines() -> None:
    stream = written(as_json=True)
    try:
        raise KeyError("x")
    except KeyError:
        _log.exception("a\nb", extra={"fields": {"frames": 3}})
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["message"] == "a\nb" and entry["frames"] == 3 and entry["level"] == "error"
    assert entry["traceback"].startswith("Traceback") and entry["time"].endswith("+00:00")


def test_only_the_last_set_up_counts() -> None:
    first, second = written(as_json=False), written(as_json=False, level=logging.ERROR)
    _log.warning("quiet")
    _log.error("loud")
    assert first.getvalue() == "" and second.getvalue().endswith("error loud\n")


def test_lines_about_a_job_say_which() -> None:
    plain = written(as_json=False)
    log = logs.for_job(_log, 12, "/in/a\n\udcff<b>.mp4")
    log.info("taken")
    log.error("failed", extra={"fields": {"failure": {"frame": 3}}})
    _log.info("by hand", extra={"fields": {"clip": "/in/b.mp4"}})
    assert [line[20:] for line in plain.getvalue().splitlines()] == [
        "info [12 a\\n\\udcff<b>.mp4] taken",
        "error [12 a\\n\\udcff<b>.mp4] failed",
        "info [b.mp4] by hand",
    ]
    machine = written(as_json=True)
    log.error("failed", extra={"fields": {"failure": {"frame": 3}}})
    (entry,) = map(json.loads, machine.getvalue().splitlines())
    assert (entry["job"], entry["clip"], entry["failure"]) == (12, "/in/a\n\udcff<b>.mp4", {"frame": 3})
    assert machine.getvalue().isascii()


def test_what_is_logged_deeper_down_is_about_the_job_too() -> None:
    stream = written(as_json=False)
    with logs.about(12, "/in/a.mp4"):
        _log.info("inside", extra={"fields": {"frames": 3}})
        logs.for_job(_log, 13, "/in/b.mp4").info("another")
        _log.info("not taken", extra={"fields": {"clip": "/in/d.mp4"}})
        other = threading.Thread(target=_log.info, args=("another thread",))
        other.start()
        other.join()
        with logs.about(14, "/in/c.mp4"):
            _log.info("nested")
        _log.info("inside again")
    _log.info("outside")
    assert [line[20:] for line in stream.getvalue().splitlines()] == [
        "info [12 a.mp4] inside",
        "info [13 b.mp4] another",
        "info [d.mp4] not taken",
        "info another thread",
        "info [14 c.mp4] nested",
        "info [12 a.mp4] inside again",
        "info outside",
    ]


def test_the_journal_gets_priorities_and_no_times() -> None:
    stream = io.StringIO()
    logs.set_up(logging.DEBUG, stream=stream, journal=True)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logs.for_job(_log, 12, "a.mp4").log(level, "<0>said")
    _log.error("%s", "Traceback (most recent call last):\n  File\nKeyError")
    try:
        raise KeyError("x\x1b")
    except KeyError:
        _log.exception("a\nb")
    found = stream.getvalue().splitlines()
    assert found[:5] == [f"<{number}>[12 a.mp4] <0>said" for number in (7, 6, 4, 3, 2)]
    assert found[5:8] == ["<3>Traceback (most recent call last):", "<3>  File", "<3>KeyError"]
    assert found[8] == "<3>a\\nb" and all(line.startswith("<3>") for line in found[8:]) and "\x1b" not in found[-1]


def test_who_reads_standard_error(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        status = os.fstat(file.fileno())
        assert logs.under_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, file)
        for other in (f"{status.st_dev}:{status.st_ino + 1}", f"{status.st_ino}", "", ":", "x:y"):
            assert not logs.under_journal({"JOURNAL_STREAM": other}, file)
        assert not logs.under_journal({}, file)
    assert not logs.under_journal({"JOURNAL_STREAM": "1:2"}, file)  # closed
    assert not logs.under_journal({"JOURNAL_STREAM": "1:2"}, io.StringIO())


def test_the_last_lines_of_each_job_are_remembered(tmp_path: Path) -> None:
    written(as_json=False, level=logging.ERROR)
    with logs.keeping(tmp_path) as last:
        long = "/in/" + "x" * 255
        logs.for_job(_log, 1, long).warning("one\n%s", "y" * 9000)
        for number in range(60):
            logs.for_job(_log, 2, long).info("line %d", number)
        logs.for_job(_log, 3, long).debug("not this")
        assert [line[20:] for line in last.lines(1)] == [("warning one\\n" + "y" * 9000)[:480]]
        assert [line[20:] for line in last.lines(2)] == [f"info line {number}" for number in range(10, 60)]
        assert last.lines(3) == last.lines(4) == []
        logs.for_job(_log, 5, long).error("%s", "Traceback (most recent call last):\n  File\nKeyError")
        assert [line.split()[0] for line in last.lines(5)][1:] == ["File", "KeyError"]
        for job in range(100, 299):
            logs.for_job(_log, job, long).info("hello")
        assert len(last.lines(5)) == 3 and last.lines(2) == []  # the oldest went
        logs.for_job(_log, 5, long).info("still there")
        logs.for_job(_log, 299, long).info("hello")
        assert len(last.lines(5)) == 4 and last.lines(100) == []
    _log.info("to nobody")
    assert "to nobody" not in (tmp_path / logs.FILE).read_text()


def test_what_is_kept_does_not_depend_on_what_is_shown(tmp_path: Path) -> None:
    shown = written(as_json=False, level=logging.ERROR)
    with logs.keeping(tmp_path):
        _log.info("for the file")
        _log.error("for both")
    _log.info("for nobody")
    messages = [json.loads(line)["message"] for line in (tmp_path / logs.FILE).read_text().splitlines()]
    assert messages == ["for the file", "for both"]
    assert [line[20:] for line in shown.getvalue().splitlines()] == ["error for both"]
    assert logging.getLogger().level == logging.ERROR


def filled(folder: Path) -> list[str]:
    """The messages in a folder's logs, the newest at the end."""
    files = sorted(
        folder.glob(f"{logs.FILE}*"), key=lambda path: -int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0
    )
    return [json.loads(line)["message"] for file in files for line in file.read_text().splitlines()]


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("pipeline.test_logs", logging.INFO, "", 0, message, args, None)


def test_the_file_rotates(tmp_path: Path) -> None:
    handler = logs.to_file(tmp_path, limit_bytes=1000, kept=3)
    for number in range(50):
        handler.handle(record("line %d", number))
    handler.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [logs.FILE, *(f"{logs.FILE}.{number}" for number in (1, 2, 3))]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    messages = filled(tmp_path)
    assert messages == [f"line {number}" for number in range(50 - len(messages), 50)] and len(messages) > 20


def test_a_line_longer_than_the_limit_is_kept_whole(tmp_path: Path) -> None:
    handler = logs.to_file(tmp_path, limit_bytes=1000, kept=1)
    for number in range(3):
        handler.handle(record("%d" + "x" * 5000, number))
    handler.close()
    assert [message[0] for message in filled(tmp_path)] == ["1", "2"]


def test_what_cannot_be_written_is_counted_and_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = logs.to_file(tmp_path / "state")
    with logs.about(1, "a.mp4"):
        for number in range(3):
            handler.handle(record("line %d", number))
        assert handler.dropped == 3
        (tmp_path / "state").mkdir()
        for number in range(3, 5):
            handler.handle(record("line %d", number))
    handler.close()
    lost, *others = (json.loads(line) for line in (tmp_path / "state" / logs.FILE).read_text().splitlines())
    assert lost["message"] == "3 lines are missing here, which could not be written: No such file or directory"
    assert lost["level"] == "warning" and "job" not in lost
    assert [entry["message"] for entry in others] == ["line 3", "line 4"]
    assert capsys.readouterr() == ("", "")


def test_a_rotation_that_fails_loses_lines_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = logs.to_file(tmp_path, limit_bytes=400, kept=1)
    blocking = tmp_path / f"{logs.FILE}.1"
    blocking.mkdir()
    for number in range(10):
        handler.handle(record("line %d", number))
    assert handler.dropped > 5
    lost = handler.dropped
    blocking.rmdir()
    handler.handle(record("after"))
    handler.close()
    messages = filled(tmp_path)
    assert messages[: 10 - lost] == [f"line {number}" for number in range(10 - lost)]
    assert messages[10 - lost :] == [messages[-2], "after"] and messages[-2].startswith(f"{lost} lines are missing")
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: what fits of a line is written before the refusal."""
    program = f"""
import logging, resource
from pathlib import Path
from pipeline import logs
logs.set_up(logging.INFO)
with logs.keeping(Path({str(tmp_path)!r})):
    log = logging.getLogger("x")
    log.info("before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    for number in range(20):
        log.info("line %d " + "x" * 100, number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.info("after")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    messages = filled(tmp_path)
    assert messages[0] == "before" and messages[-1] == "after" and 3 < len(messages) < 10
    lost = 20 - (len(messages) - 3)
    assert messages[-2] == f"{lost} lines are missing here, which could not be written: File too large"
    assert len(done.stderr.splitlines()) == 22 and "Traceback" not in done.stderr


def test_a_call_that_cannot_be_formatted_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(as_json=False)
    with logs.keeping(tmp_path) as last:
        logs.for_job(_log, 1, "a.mp4").info("%d", "no number")
        logs.for_job(_log, 1, "a.mp4").info("fine")
        assert [line[20:] for line in last.lines(1)] == ["info fine"]
    assert filled(tmp_path) == ["fine"]
    assert "no number" in capsys.readouterr().err  # logging's own way of showing a defect


def test_threads_share_the_memory_and_the_file(tmp_path: Path) -> None:
    written(as_json=False)
    with logs.keeping(tmp_path) as last:

        def talk(job: int) -> None:
            with logs.about(job, f"{job}.mp4"):
                for number in range(40):
                    _log.info("line %d", number)
                    last.lines(job)

        threads = [threading.Thread(target=talk, args=(job,)) for job in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = [f"info line {number}" for number in range(40)]
        assert all([line[20:] for line in last.lines(job)] == expected for job in range(4))
    assert sorted(filled(tmp_path)) == sorted(4 * [f"line {number}" for number in range(40)])
