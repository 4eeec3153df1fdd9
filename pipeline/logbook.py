"""Reads the log that a daemon keeps in its folder, while it writes and rotates it: the last lines, then those to come.

A line that is no log entry, whoever wrote it there, is passed over.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pipeline.logs import FILE, plain

#: From the least to the most grave.
LEVELS = ("debug", "info", "warning", "error", "critical")

_MOST = 64 << 20  # bytes that are read of one file: several times what the daemon lets it become
_LOOKS = 100  # at files that are rotated each time; the next call looks again

_Identity = tuple[int, int]  # device and inode: what stays when a file is renamed


@dataclass(frozen=True, slots=True)
class Line:
    """One entry: when (in local time), how grave it is (one of LEVELS), and all of it as it was written."""

    when: datetime
    level: str
    entry: dict[str, Any]

    @property
    def job(self) -> object:
        """The number of the job that it is about; None where it is about none."""
        return self.entry.get("job")

    def plain(self) -> str:
        """As the daemon prints it for people."""
        return plain(self.when, self.level, self.entry, self.entry["message"], str(self.entry.get("traceback", "")))


def parse(raw: bytes) -> Line | None:
    """What one line says; None where it is no entry."""
    try:
        entry = json.loads(raw)
        if not isinstance(entry, dict) or not isinstance(entry["message"], str) or entry["level"] not in LEVELS:
            return None
        return Line(datetime.fromisoformat(entry["time"]).astimezone(), entry["level"], entry)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, OSError):  # the last two: odd times
        return None


class Logbook:
    """The log in a daemon's folder; use it in a `with`. A log that is not there yet has no lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None  # the newest, and as far as it is read
        self._rest = b""  # of it: a line that is not written to its end

    @property
    def found(self) -> bool:
        """Whether there was a log when it was last looked for."""
        return self._file is not None

    def last(self, most: int | None, wanted: Callable[[Line], bool] = lambda line: True) -> Iterator[Line]:
        """The last `most` lines that are wanted, or all of them, the newest at the end. Once, and before `new`."""
        with ExitStack() as stack:
            files = self._files()
            self._file, older = (files[0], files[1:]) if files else (None, [])
            for file in older:
                stack.enter_context(file)
            if most is None:
                for file in reversed(older):
                    yield from filter(wanted, _lines(_read_lines(file)))
                yield from filter(wanted, _lines(self._fresh()))
                return
            found: list[Line] = []
            readers: list[Callable[[], list[bytes]]] = [self._fresh, *(partial(_read_lines, file) for file in older)]
            for read in readers:
                found += islice(filter(wanted, _lines(reversed(read()))), most - len(found))
                if len(found) == most:
                    break
            yield from reversed(found)

    def new(self) -> list[Line]:
        """What has been written since, in however many files."""
        newer = self._newer()
        raw = self._fresh()  # after the look: nothing is added to a file that has a successor
        for file in newer:
            self.close()
            self._file = file
            raw += self._fresh()
        return list(_lines(raw))

    def close(self) -> None:
        """Closes the file, and forgets how far it was read."""
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, b""

    def __enter__(self) -> Logbook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fresh(self) -> list[bytes]:
        """The lines of the newest file that have come to their end since the last call."""
        if self._file is None:
            return []
        if os.fstat(self._file.fileno()).st_size < self._file.tell():  # somebody has emptied it
            self._file.seek(0)
            self._rest = b""
        *lines, self._rest = (self._rest + _read(self._file)).split(b"\n")
        return lines

    def _newer(self) -> list[BinaryIO]:
        """The files that have come after the one that is open, the oldest first, opened."""
        if self._file is None:
            return self._files()[::-1]
        mine = _identity(self._file)
        files = self._files(mine)
        if files and _identity(files[-1]) == mine:
            at = len(files) - 1
        else:  # it is deleted, by many rotations or by hand: the others are told apart by their age
            before = _changed(self._file)
            at = next((at for at, file in enumerate(files) if _changed(file) < before), len(files))
        _close(files[at:])
        return files[:at][::-1]

    def _files(self, last: _Identity | None = None) -> list[BinaryIO]:
        """The files there are, the newest first, opened; none beyond the `last` that is of interest.

        The daemon may rotate them meanwhile. While it renames them, upwards, one may be met again under its next
        number, but none is missed; once it has begun a new file, the look is taken again.
        """
        newest = self._folder / FILE
        for _ in range(_LOOKS):
            found: dict[_Identity, BinaryIO] = {}
            first = None
            for path in self._paths():
                file = _opened(path)
                if path == newest:
                    first = file and _identity(file)
                if file is not None and found.setdefault(_identity(file), file) is not file:
                    file.close()
                if last in found:
                    break
            if first == _identity_at(newest):
                break
            _close(found.values())
            found = {}
        return list(found.values())

    def _paths(self) -> Iterator[Path]:
        yield self._folder / FILE
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError:
            return
        ends = (name.removeprefix(f"{FILE}.") for name in names)
        most = max((int(end) for end in ends if end.isdecimal() and len(end) < 4), default=0)
        for number in range(1, most + 2):  # a list of what is just being renamed may have gaps
            yield self._folder / f"{FILE}.{number}"


def _opened(path: Path) -> BinaryIO | None:
    """None where no file is that can be read."""
    try:
        return path.open("rb") if path.is_file() else None  # opening a pipe would wait for its writer
    except OSError:
        return None


def _identity(file: BinaryIO) -> _Identity:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _identity_at(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _close(files: Iterable[BinaryIO]) -> None:
    for file in files:
        file.close()


def _changed(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_mtime_ns


def _read(file: BinaryIO) -> bytes:
    return file.read(_MOST)


def _read_lines(file: BinaryIO) -> list[bytes]:
    return _read(file).split(b"\n")


def _lines(raw: Iterable[bytes]) -> Iterator[Line]:
    return (line for one in raw if (line := parse(one)) is not None)
