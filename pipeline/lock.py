"""One daemon for a set of folders: two that take from the same inbox would make everything twice.

A daemon locks a file in its state folder, which also says its process id, and each folder that it watches. The kernel
lets go of these locks when the process ends, however that ends, so no lock is ever stale: what counts is the lock, not
the number in the file. On a network share a lock may hold on this machine alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ConfigError

FILE = "lock"

_LOCKS = Path("/proc/locks")

#: How often a lock is tried for before it counts as somebody's, and how long is waited in between.
_TRIES, _PAUSE_S = 5, 0.05

_log = logging.getLogger(__name__)


class Claim:
    """The watched folders that this process has for itself; see `claimed`. Not thread-safe."""

    def __init__(self) -> None:
        self._handles: dict[tuple[int, int], int] = {}  # by device and inode

    def hold(self, inboxes: Sequence[Path]) -> None:
        """Has these watched folders and no others; say it again when others are watched, or one has come back.

        A folder that is not there, or whose file system knows no locks, is gone without, and a warning says so.

        Raises:
            ConfigError: another process watches one of them; all is as it was then.
        """
        held: dict[tuple[int, int], int] = {}
        try:
            for inbox in inboxes:
                self._take(inbox, held)
        except BaseException:
            _close(handle for place, handle in held.items() if place not in self._handles)
            raise
        _close(handle for place, handle in self._handles.items() if place not in held)
        self._handles = held

    def _take(self, inbox: Path, held: dict[tuple[int, int], int]) -> None:
        try:
            handle = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            _log.warning("%s cannot be locked against a second daemon: %s", inbox, error.strerror)
            return
        place = _place(handle)
        if place in held or place in self._handles:
            os.close(handle)
            held.setdefault(place, self._handles.get(place, handle))
            return
        if not _lock(handle, inbox):
            who = _named(_holder(handle))
            os.close(handle)
            raise ConfigError(
                f"the folder {inbox} is watched by {who} already; stop that one first, or watch another folder"
            )
        held[place] = handle

    def release(self) -> None:
        """Lets go of all folders."""
        _close(self._handles.values())
        self._handles = {}


@contextmanager
def claimed(state: Path, inboxes: Sequence[Path]) -> Iterator[Claim]:
    """The state folder, which must be there, and the watched folders are this process's alone.

    A locked folder is an open one: its file system cannot be unmounted meanwhile.

    Raises:
        ConfigError: another process has one of them, or the state folder cannot be written.
    """
    handle = _claim_state(state)
    claim = Claim()
    try:
        claim.hold(inboxes)
        yield claim
    finally:
        claim.release()
        with suppress(OSError):
            os.ftruncate(handle, 0)
        os.close(handle)


def holder(state: Path) -> int | None:
    """The process id of the daemon that has this state folder; None where there is none, 0 where it cannot be told."""
    try:
        handle = os.open(state / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        return 0
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(handle) or _holder(handle)
    except OSError:
        return 0
    finally:
        os.close(handle)
    return None


def _claim_state(state: Path) -> int:
    """The open and locked file of the state folder, with our process id in it."""
    file = state / FILE
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise ConfigError(f"daemon.state: {file} cannot be written: {error.strerror}") from error
        if not _lock(handle, file):
            who = _named(_written(handle) or _holder(handle))
            os.close(handle)
            raise ConfigError(
                f"daemon.state: the folder {state} is in use by {who}; stop that one first, or give this one a "
                "folder of its own"
            )
        if _is(file, handle):
            break
        os.close(handle)  # somebody has removed the file in between: the lock would be on nothing
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)
    except OSError as error:  # a full disk; the lock holds all the same
        _log.warning("%s cannot say whose it is: %s", file, error.strerror)
    return handle


def _lock(handle: int, path: Path) -> bool:
    """Whether nobody else has it; a file system that knows no locks cannot say."""
    try:
        return _locked(handle)
    except OSError as error:
        _log.warning(
            "%s cannot be locked (%s), so a second daemon would not be noticed: see to it that there is none",
            path,
            error.strerror,
        )
    return True


def _locked(handle: int) -> bool:
    """Tries more than once: whoever asks for the `holder` has the lock for a moment, too. OSError: no locks here."""
    for left in reversed(range(_TRIES)):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_PAUSE_S if left else 0)
    return False


def _is(file: Path, handle: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        there = file.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == _place(handle)


def _place(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino


def _written(handle: int) -> int:
    """The process id that the lock's holder has written into it, or 0."""
    said = os.pread(handle, 32, 0).strip()
    return int(said) if said.isdigit() else 0


def _holder(handle: int) -> int:
    """The process that the kernel says has the lock, or 0: it is another machine's, or another container's."""
    device, inode = _place(handle)
    place = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    with suppress(OSError):
        for line in _LOCKS.read_text(encoding="ascii").splitlines():
            words = line.split()  # "1: FLOCK  ADVISORY  WRITE 3684 fe:00:2269412 0 EOF"; those that wait have a "->"
            if words[1:2] == ["FLOCK"] and words[5:6] == [place]:
                return int(words[4])
    return 0


def _named(pid: int) -> str:
    return f"process {pid}" if pid > 0 else "another process"


def _close(handles: Iterable[int]) -> None:
    for handle in handles:
        os.close(handle)
