"""Two daemons are never at the same folders, and a dead one is at none: with real processes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import lock
from pipeline.errors import ConfigError
from pipeline.lock import claimed, holder

ROOT = Path(__file__).parents[2]

HOLD = """
import sys
from pathlib import Path
from pipeline.errors import ConfigError
from pipeline.lock import claimed
state, *inboxes = map(Path, sys.argv[1:])
try:
    with claimed(state, inboxes):
        print("held", flush=True)
        sys.stdin.read()
except ConfigError as error:
    print(error, flush=True)
"""


@contextmanager
def another(*folders: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that claims the folders; it has said how that went."""
    command = [sys.executable, "-c", HOLD, *map(str, folders)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    places = {name: tmp_path / name for name in ("state", "other", "a", "b", "c")}
    for place in places.values():
        place.mkdir()
    return places


def test_a_second_daemon_is_told_who_has_the_state_folder(places: dict[str, Path]) -> None:
    with another(places["state"]) as process:
        assert said(process) == "held"
        assert holder(places["state"]) == process.pid
        with pytest.raises(ConfigError, match=f"state is in use by process {process.pid}; stop"):
            claimed(places["state"], []).__enter__()


def test_another_state_folder_does_not_help_where_an_inbox_is_shared(places: dict[str, Path]) -> None:
    with another(places["state"], places["a"], places["b"]) as process:
        assert said(process) == "held"
        with pytest.raises(ConfigError, match=f"folder .*/b is watched by process {process.pid} already"):
            claimed(places["other"], [places["c"], places["b"]]).__enter__()
        with claimed(places["other"], [places["c"]]):
            pass  # what was refused has left nothing locked


def test_an_inbox_by_another_name_is_the_same_inbox(places: dict[str, Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(places["a"])
    with another(places["state"], places["a"]) as process:
        assert said(process) == "held"
        with pytest.raises(ConfigError, match="link is watched by"):
            claimed(places["other"], [link]).__enter__()
    with claimed(places["other"], [link, places["a"], places["a"]]):
        pass  # one's own twice is no conflict


def test_killed_holders_leave_nothing_locked(places: dict[str, Path]) -> None:
    for _ in range(8):
        with another(places["state"], places["a"]) as process:
            assert said(process) == "held"
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert holder(places["state"]) is None
            assert (places["state"] / lock.FILE).read_text() == f"{process.pid}\n"  # stale, and nobody minds
    with claimed(places["state"], [places["a"]]):
        assert (places["state"] / lock.FILE).read_text() == f"{os.getpid()}\n"
    assert (places["state"] / lock.FILE).read_text() == ""


def test_children_do_not_hold_what_their_parent_held(places: dict[str, Path]) -> None:
    with claimed(places["state"], [places["a"]]):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with another(places["state"], places["a"]) as process:
            assert said(process) == "held"
    finally:
        child.kill()
        child.communicate()


def test_a_pid_of_somebody_else_in_the_file_means_nothing(places: dict[str, Path]) -> None:
    (places["state"] / lock.FILE).write_text("1\n")
    assert holder(places["state"]) is None
    with claimed(places["state"], []):
        pass


def test_other_folders_can_be_watched_later(places: dict[str, Path]) -> None:
    with claimed(places["state"], [places["a"], places["b"]]) as claim:
        with another(places["other"], places["c"]) as process:
            assert said(process) == "held"
            with pytest.raises(ConfigError, match=f"/c is watched by process {process.pid}"):
                claim.hold([places["b"], places["c"]])
        with another(places["other"], places["a"]) as process:
            assert f"/a is watched by process {os.getpid()} already" in said(process)  # all is as it was
        claim.hold([places["b"], places["c"]])
        with another(places["other"], places["a"]) as process:
            assert said(process) == "held"
        with another(places["other"], places["b"]) as process:
            assert "/b is watched by" in said(process)


def test_a_folder_that_comes_back_is_locked_anew(places: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with claimed(places["state"], [places["a"]]) as claim:
        places["a"].rmdir()
        claim.hold([places["a"]])
        assert "cannot be locked against a second daemon: No such file" in caplog.text
        places["a"].mkdir()
        claim.hold([places["a"]])
        with another(places["other"], places["a"]) as process:
            assert "is watched by" in said(process)


def test_file_systems_without_locks_are_warned_of(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with claimed(places["state"], [places["a"]]):
        assert holder(places["state"]) == 0
    assert caplog.text.count("a second daemon would not be noticed") == 2


def test_a_lock_file_that_was_removed_is_no_lock(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock
    taken: list[int] = []

    def late(handle: int, how: int) -> None:
        real(handle, how)
        if not taken:
            (places["state"] / lock.FILE).unlink()
        taken.append(handle)

    monkeypatch.setattr(fcntl, "flock", late)
    with claimed(places["state"], []):
        monkeypatch.undo()
        assert holder(places["state"]) == os.getpid()


def test_asking_who_it_is_keeps_nobody_out(places: dict[str, Path]) -> None:
    (places["state"] / lock.FILE).touch()
    handle = os.open(places["state"] / lock.FILE, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as `holder` does, but slowly
    asker = threading.Timer(0.1, os.close, [handle])
    asker.start()
    with claimed(places["state"], []):
        asker.join()


@pytest.mark.parametrize("kind", ["missing", "link", "folder"])
def test_what_is_no_lock_file_is_refused(places: dict[str, Path], kind: str) -> None:
    file = places["state"] / lock.FILE
    if kind == "missing":
        places["state"].rmdir()
    elif kind == "link":
        file.symlink_to(places["other"] / "victim")
    else:
        file.mkdir()
    with pytest.raises(ConfigError, match=r"daemon\.state: .*lock cannot be written: "):
        claimed(places["state"], []).__enter__()
    assert not (places["other"] / "victim").exists()
