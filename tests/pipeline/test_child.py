"""Spawned processes and what they print."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import time
from contextlib import suppress

import pytest

from pipeline.child import CHILD_ENVIRONMENT, PEER_GONE, Child, Line, begin, listen
from pipeline.errors import UnderstudyError
from pipeline.messages import Cancel, Ready, pack


def chatter(lines: int, line: Line) -> None:
    """Says one word amid much printing; exits with 3."""
    begin("chatter", line.output)
    print("first", flush=True)
    for number in range(lines):
        os.write(2, b"%d %s\n" % (number, b"x" * 1000))
    line.events.send_bytes(pack(Ready()))
    line.events.send_bytes(pack(Cancel(lines)))
    os.write(2, b"half a bar\rlast \xff line\nand the beginning of")
    os._exit(3)


def deaf(seconds: int, line: Line) -> None:
    """Sends itself the signals that a terminal and a service manager send."""
    begin("deaf", line.output)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    os.write(1, "".join(f"{k}={os.environ.get(k)}\n" for k in CHILD_ENVIRONMENT).encode())
    line.events.send_bytes(pack(Ready()))
    time.sleep(seconds)


def crash(_: int, line: Line) -> None:
    """Breaks below Python."""
    begin("crash", line.output)
    os.kill(os.getpid(), signal.SIGSEGV)


def until_dead(child: Child) -> list[object]:
    said: list[object] = []
    deadline = time.monotonic() + 60
    while child.alive and time.monotonic() < deadline:
        listen([child], 0.1)
        said += child.hear(4)
    return said + list(child.hear(4))


def test_megabytes_of_printing_block_nobody_and_the_last_lines_are_kept(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    child = Child("chatter", chatter, 3000)
    with caplog.at_level(logging.DEBUG, "pipeline.child"):
        said = until_dead(child)
    assert said == [Cancel(3000)] and child.ready
    assert child.end == "exited with code 3" and child.at_fault and child.killed_by == 0
    lines = child.last_lines.splitlines()
    assert lines[-3:] == ["half a bar", "last � line", "and the beginning of"]
    assert len(lines) == 41 and all(len(line) <= 500 for line in lines)
    assert lines[-4].startswith("2999 xxx")
    child.bury()
    assert len(caplog.records) == 3003, "every whole line is logged"
    assert {r.fields["stage"] for r in caplog.records} == {"chatter"}  # type: ignore[attr-defined]
    assert {r.fields["job"] for r in caplog.records} == {4}  # type: ignore[attr-defined]
    assert capfd.readouterr() == ("", ""), "nothing reaches the terminal"


def test_signals_are_the_parents_and_the_environment_is_the_childs() -> None:
    before = dict(os.environ)
    child = Child("deaf", deaf, 60)
    assert dict(os.environ) == before
    while not child.ready:
        listen([child], 1.0)
        child.hear()
    assert child.alive
    while len(child.last_lines.splitlines()) < len(CHILD_ENVIRONMENT):
        listen([child], 1.0)
        child.hear()
    assert child.last_lines.splitlines() == [f"{k}={v}" for k, v in CHILD_ENVIRONMENT.items()]
    child.kill("was not wanted")
    assert (child.end, child.killed_by, child.at_fault) == ("was not wanted", 9, True)
    child.bury()


def test_a_crash_below_python_says_where() -> None:
    child = Child("crash", crash, 0)
    until_dead(child)
    assert child.end == "was killed by SIGSEGV" and child.killed_by == signal.SIGSEGV
    assert "Segmentation fault" in child.last_lines and "in crash" in child.last_lines
    child.bury()


def test_burying_the_living_ends_them() -> None:
    child = Child("deaf", deaf, 60)
    child.bury()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_leaving_for_others_is_no_fault() -> None:
    child = Child("leave", leave, PEER_GONE)
    until_dead(child)
    assert not child.at_fault
    child.bury()


def leave(code: int, line: Line) -> None:
    """Exits."""
    begin("leave", line.output)
    sys.exit(code)


def test_a_system_without_room_for_a_process_says_so() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    held = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        os.close(held.pop())
        os.close(held.pop())
        with pytest.raises(UnderstudyError, match="no process could be started for leave: Too many open files"):
            Child("leave", leave, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
