"""What is said to systemd: on a real socket, and nothing where there is none."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.notify import VARIABLES, Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd's, and the word for it in the environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@understudy-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(5)
        yield listener, name


def test_what_is_said_is_heard(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    before_us = time.monotonic_ns() // 1000
    said = [
        (lambda: notifier.ready("3 folders"), ["READY=1", "STATUS=3 folders"]),
        (lambda: notifier.ready(), ["READY=1"]),
        (lambda: notifier.status("clip\nREADY=1 \udcff é"), ["STATUS=clip\\nREADY=1 \\udcff é"]),
        (lambda: notifier.stopping("draining"), ["STOPPING=1", "STATUS=draining"]),
        (notifier.alive, ["WATCHDOG=1"]),
        (lambda: notifier.extend(2.5), ["EXTEND_TIMEOUT_USEC=2500000"]),
    ]
    for say, lines in said:
        assert say()
        assert listener.recv(4096).decode().split("\n") == lines
    assert notifier.reloading()
    first, second = listener.recv(4096).decode().split("\n")
    key, _, when = second.partition("=")
    assert (first, key) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before_us <= int(when) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens-here", "vsock:2:1", "/x" * 200, "name"])
def test_nothing_is_raised_where_nobody_listens(address: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    assert not any((notifier.ready("up"), notifier.alive(), notifier.reloading(), notifier.stopping()))


def test_an_empty_status_is_not_said(manager: tuple[socket.socket, str]) -> None:
    assert not Notifier(manager[1]).status("")


def test_a_manager_that_does_not_read_holds_nothing_up_for_long(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier(manager[1])
    begun = time.monotonic()
    while notifier.alive():  # until its queue is full
        assert time.monotonic() - begun < 5
    assert time.monotonic() - begun < 5


def test_no_descriptor_is_kept(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier(manager[1])
    before = set(Path("/proc/self/fd").iterdir())
    notifier.alive()
    assert set(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
        ({"WATCHDOG_USEC": "9" * 5000}, 999999999999.999999),
    ],
)
def test_the_watchdog_is_this_process_s_own(environ: dict[str, str], seconds: float) -> None:
    assert Notifier.from_environment(environ).watchdog_s == seconds


def test_the_environment_is_left_to_the_caller() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    Notifier.from_environment(environ)
    assert set(environ) == {*VARIABLES, "PATH"}
