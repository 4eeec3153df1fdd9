"""Whether there is room for what comes: asked before a clip is begun, so that a full disk is a pause and no failure.

A quota may be used up where the disk has room, and nobody can be asked about it in advance: whoever was refused a
write says so (`Space.refused`), and for a while, or until somebody has made room, that counts as no room.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

#: What a write is refused with where there is no room for it.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

#: Once there was too little, enough is so many times as much: no stop and go at the edge.
_ENOUGH = 1.25

#: How many files there must be room for, where a file system counts them: a few clips' segments.
_LEAST_FILES = 256

#: For how long a refused write counts as no room.
_WAIT_S = 60.0

#: So much more room, at least, and somebody has made some, bytes.
_MORE = 1 << 20

_UNITS = ("bytes", "kB", "MB", "GB")


def free_bytes(path: Path) -> int:
    """Bytes that we may still write at `path`, or where it would be made. Raises OSError."""
    room = _room(path)
    return room.f_bavail * room.f_frsize


def free_files(path: Path) -> int | None:
    """How many files we may still make there; None where the file system does not count them. Raises OSError."""
    room = _room(path)
    return room.f_favail if room.f_files else None


class Space:
    """The places that clips need room in. Asking may take as long as a file system does that does not answer."""

    def __init__(
        self, places: Mapping[str, Path], least_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`places` by what they are called in a sentence ("the out folder"); each needs `least_bytes`, 0: none."""
        self._places = dict(places)
        self._least_bytes = least_bytes
        self._clock = clock
        self._lacking: set[str] = set()  # of what there was too little when it was last asked
        self._refused = ("", -_WAIT_S)
        self._rooms: dict[Path, int] = {}  # what was free when that was said
        self._disks: dict[Path, int] = {}  # on which each lay when it was first seen

    def short(self) -> str:
        """Which place has too little room, how much it has and how much it needs, in a sentence; empty: all is well.

        Where nothing can be written there is none.
        """
        for name, path in self._places.items():
            if reason := self._lack(name, path):
                return f"{name} {path} {reason}"
        what, when = self._refused
        if what and (self._clock() - when >= _WAIT_S or self._has_grown()):
            self._refused = ("", -_WAIT_S)
        return self._refused[0]

    def refused(self, reason: str) -> None:
        """A write has been refused for want of room (`FULL`), whatever `short` says: see again in a minute."""
        self._refused = (f"{reason}; that is tried again every {_WAIT_S:g} s", self._clock())
        self._rooms = {path: _free(path) for path in self._places.values()}

    def _has_grown(self) -> bool:
        """Whether there is a good deal more room somewhere than when a write was refused."""
        more = max(self._least_bytes, _MORE)
        return any(_free(path) >= room + more for path, room in self._rooms.items())

    def _lack(self, name: str, path: Path) -> str:
        try:
            room, files = free_bytes(path), free_files(path)
            if _room(path).f_flag & os.ST_RDONLY:
                return "lies on a disk that is read-only; once it can be written to again, work goes on by itself"
            if (disk := _disk(path)) is not None and self._disks.setdefault(path, disk) != disk:
                return "is not on the disk that it was on; mount that again, and work goes on by itself, or restart"
        except OSError as error:
            return f"cannot be reached: {(error.strerror or str(error)).lower()}"
        if least := self._wanted(f"bytes of {name}", room, self._least_bytes):
            return f"has {_size(room)} left and needs {_size(least)}; make room, and work goes on by itself"
        least_files = _LEAST_FILES if self._least_bytes and files is not None else 0
        if least := self._wanted(f"files of {name}", files or 0, least_files):
            return f"has room for {files} files and needs it for {least}; remove some, and work goes on by itself"
        return ""

    def _wanted(self, what: str, there: int, least: int) -> int:
        """How much there would have to be, where there is too little; else 0."""
        enough = int(least * _ENOUGH) if what in self._lacking else least
        if there >= enough:
            self._lacking.discard(what)
            return 0
        self._lacking.add(what)
        return enough


def _disk(path: Path) -> int | None:
    """What tells the file system there from others; None where there is no such folder. Raises OSError."""
    try:
        return os.stat(path).st_dev  # noqa: PTH116  # as statvfs above
    except (FileNotFoundError, NotADirectoryError):
        return None


def _free(path: Path) -> int:
    """0 where nobody can tell."""
    try:
        return free_bytes(path)
    except OSError:
        return 0


def _room(path: Path) -> os.statvfs_result:
    place = path.absolute()
    while True:
        try:
            return os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            if place == place.parent:
                raise
            place = place.parent


def _size(count: int) -> str:
    power = min((len(str(count)) - 1) // 3, len(_UNITS) - 1)
    size = count / 1000**power
    return f"{size:.4g} {_UNITS[power]}" if size < 1000 else f"{size:.0f} {_UNITS[power]}"
