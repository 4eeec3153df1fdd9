"""Reading the log of a daemon that is at it: nothing missed, nothing twice, whatever lies there."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import logbook, logs
from pipeline.logbook import Line, Logbook, parse


def said(*lines: Line) -> list[str]:
    return [line.entry["message"] for line in lines]


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("x", level, "", 0, message, (), None)


@pytest.fixture
def writer(tmp_path: Path) -> logs.LogFile:
    return logs.to_file(tmp_path, limit_bytes=1000, kept=20)


def write(writer: logs.LogFile, *numbers: int) -> None:
    for number in numbers:
        writer.handle(record(f"line {number}"))
    writer.close()


def names(*numbers: int) -> list[str]:
    return [f"line {number}" for number in numbers]


def test_the_last_lines(tmp_path: Path, writer: logs.LogFile) -> None:
    write(writer, *range(40))
    assert len(list(tmp_path.iterdir())) > 3
    for most in (0, 1, 5, 30, 40):
        with Logbook(tmp_path) as book:
            assert said(*book.last(most)) == names(*range(40 - most, 40))
            assert book.new() == []
    for all_of_them in (None, 99):
        with Logbook(tmp_path) as book:
            assert said(*book.last(all_of_them)) == names(*range(40))
            assert book.new() == []


def test_only_what_is_wanted_counts(tmp_path: Path, writer: logs.LogFile) -> None:
    write(writer, *range(40))
    for most, expected in ((2, names(20, 30)), (None, names(0, 10, 20, 30))):
        with Logbook(tmp_path) as book:
            assert said(*book.last(most, lambda line: line.entry["message"].endswith("0"))) == expected


def test_what_comes_later(tmp_path: Path, writer: logs.LogFile) -> None:
    with Logbook(tmp_path) as book:
        assert list(book.last(5)) == book.new() == []
        write(writer, 1, 2)
        assert said(*book.new()) == names(1, 2)
        with (tmp_path / logs.FILE).open("ab") as file:
            raw = json.dumps({"time": "2026-01-31T12:00:00+00:00", "level": "info", "message": "in two parts"}).encode()
            file.write(raw[:30])
            file.flush()
            assert book.new() == []
            file.write(raw[30:] + b"\n")
        assert said(*book.new()) == ["in two parts"]
        write(writer, *range(3, 40))  # several files later
        assert said(*book.new()) == names(*range(3, 40))
        assert book.new() == []


def test_a_log_that_is_emptied_or_deleted(tmp_path: Path, writer: logs.LogFile) -> None:
    write(writer, *range(20))
    with Logbook(tmp_path) as book:
        assert len(list(book.last(None))) == 20
        os.truncate(tmp_path / logs.FILE, 0)
        assert book.new() == []
        write(writer, 20)
        assert said(*book.new()) == names(20)
        time.sleep(0.05)  # files are told apart by their age where the one that was read is gone
        (tmp_path / logs.FILE).unlink()
        write(writer, 21)
        assert said(*book.new()) == names(21)
        time.sleep(0.05)
        for file in tmp_path.iterdir():
            file.unlink()
        write(writer, *range(22, 40))
        assert said(*book.new()) == names(*range(22, 40))


def test_a_reader_that_slept_through_many_rotations(tmp_path: Path) -> None:
    writer = logs.to_file(tmp_path, limit_bytes=300, kept=2)
    write(writer, 0)
    with Logbook(tmp_path) as book:
        list(book.last(1))
        write(writer, *range(1, 30))
        numbers = [int(message.split()[1]) for message in said(*book.new())]
        gaps = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
        assert (numbers[0], numbers[-1]) == (1, 29) and len(gaps) == 1  # what it had open, then what is left


def test_following_while_it_rotates(tmp_path: Path) -> None:
    writer = logs.to_file(tmp_path, limit_bytes=2000, kept=500)
    total = 3000

    def talk() -> None:
        for number in range(total):
            writer.handle(record(f"line {number}"))
        writer.close()

    with Logbook(tmp_path) as book:
        thread = threading.Thread(target=talk)
        thread.start()
        found = said(*book.last(3))
        begun = int(found[0].split()[1]) if found else 0
        deadline = time.monotonic() + 30
        while len(found) + begun < total and time.monotonic() < deadline:
            found += said(*book.new())
        thread.join()
    assert found == names(*range(begun, total))
    assert (tmp_path / f"{logs.FILE}.100").exists()


def test_rotations_while_it_looks_for_the_files(
    tmp_path: Path, writer: logs.LogFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the newest file and its predecessors, and between all of them, the daemon goes on."""
    write(writer, *range(5))
    written = 5
    looking = logbook._opened

    def slowly(path: Path) -> BinaryIO | None:
        nonlocal written
        file = looking(path)
        if written < 90:
            write(writer, *range(written, written + 15))  # a file or two
            written += 15
        return file

    with Logbook(tmp_path) as book:
        found = said(*book.last(1))
        monkeypatch.setattr(logbook, "_opened", slowly)
        while written < 90:
            found += said(*book.new())
        found += said(*book.new())
    assert found == names(*range(4, written))


def test_what_is_no_entry_is_passed_over(tmp_path: Path, writer: logs.LogFile) -> None:
    write(writer, 1)
    hostile = [
        *(b"", b"\xff\x00\x1b[2J", b"null", b"[]", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000),
        *(b'{"message": 3, "level": "info", "time": "2026-01-31"}', b'{"message": "a", "level": [], "time": "2026"}'),
        *(b'{"message": "a", "level": "info", "time": "x"}', b'{"message": "a", "level": "info", "time": 3}'),
        *(b'{"message": "a", "level": "loud", "time": "2026-01-31"}', b'{"message": "a", "level": "info"}'),
        b'{"message": "a", "level": "info", "time": "0001-01-01T00:00:00+14:00"}',
    ]
    with (tmp_path / logs.FILE).open("ab") as file:
        file.write(b"\n".join(hostile) + b"\n")
    write(writer, 2)
    (tmp_path / f"{logs.FILE}.3").mkdir()
    os.mkfifo(tmp_path / f"{logs.FILE}.4")
    (tmp_path / f"{logs.FILE}.5").symlink_to("nowhere")
    for name in ("x", "99999999999999999999", "²", "-1"):
        (tmp_path / f"{logs.FILE}.{name}").write_bytes(hostile[-1] + b"\n")
    with Logbook(tmp_path) as book:
        assert said(*book.last(None)) == names(1, 2)


@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_an_entry_prints_as_the_record_did(message: str) -> None:
    made = record("%s", logging.WARNING)
    made.args = (message,)
    made.fields = {"job": 12, "clip": f"/in/{message}.mp4"}
    line = parse(logs.JsonLines().format(made).encode())
    assert line is not None and line.job == 12
    assert line.plain() == logs.PlainLines().format(made)


def test_an_entry_of_a_stranger_prints_safely() -> None:
    entry = {"time": "2026-01-31T12:00:00", "level": "info", "message": "a\x1b[2J", "job": [1], "clip": {"a": 1}}
    line = parse(json.dumps({**entry, "traceback": ["\x1b", 3]}).encode())
    assert (
        line is not None and "\x1b" not in line.plain() and line.plain().startswith("2026-01-31 12:00:00 info a\\x1b")
    )
