"""What a training writes about itself: MODEL/journal.jsonl, one JSON object a line, only ever added to.

    {"kind": "session", "number": 2, "iteration": 1200, "overtakes": 1261, "people": ["a", "b"], ...}
    {"kind": "point", "iteration": 1210, "seconds": 10.0, "loss": {"a": 0.031, "b": 0.028}, "lr": 5e-05, ...}
    {"kind": "judgement", "iteration": 2000, "metrics": {"ssim/a": 0.91, "identity/a>b": 0.97, "ssim": 0.9}}
    {"kind": "event", "iteration": 2000, "what": "saved", "text": ""}
    {"kind": "end", "iteration": 2400, "reason": "minutes", "seconds": 1800.2}

Each record also holds the "time" it was written (UTC, ISO 8601). Numbers are finite or null. A line that a kill or a
full disk tore is left as it is and ended, and readers pass it by. Where a model goes on from an earlier iteration than
the journal has reached (it was killed after its last save, rolled back or restored), what lies beyond is overtaken:
the session's record or the event "rolled back" says so, and readers drop those points.

Who writes holds a lock on the file, so that a reader can tell a session that runs from one that was killed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, TypeGuard

FILE = "journal.jsonl"

#: Bytes of a line; nothing this program writes comes near it, so a longer one is junk.
MAX_LINE = 1 << 20

#: The event after which training goes on from an earlier iteration: the event's.
ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session begins with.

    Attributes:
        iteration: steps the model has had.
        people: whom it learns; `batch` faces of each in a step, `faces_per_step` of all of them on all devices.
        device, precision, threads, world: what it runs on; `world` processes together.
        recipe: every setting, in JSON's types (paths may be `Path`).
    """

    iteration: int
    people: tuple[str, ...]
    architecture: str
    preset: str
    batch: int
    faces_per_step: int
    device: str
    precision: str
    threads: int
    world: int = 1
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """Where a training is.

    Attributes:
        seconds: of this session.
        loss: of each person; `terms` the parts it is made of, by person and by the term's name.
        lr: the step size; `faces_per_s` lately; `waiting` the share of time, 0..1, in which data was waited for.
    """

    iteration: int
    seconds: float
    loss: Mapping[str, float]
    terms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lr: float | None = None
    faces_per_s: float | None = None
    waiting: float | None = None


class Observer(Protocol):
    """Who is told how a training goes. Events are "saved", "backup", ROLLED_BACK, "out of memory" and the like."""

    def begin(self, opening: Opening) -> None: ...

    def point(self, point: Point) -> None: ...

    def judged(self, iteration: int, metrics: Mapping[str, float]) -> None: ...

    def event(self, iteration: int, what: str, text: str = "") -> None: ...

    def end(self, iteration: int, reason: str, seconds: float) -> None: ...

    def close(self) -> None: ...


class Observers:
    """Several as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def begin(self, opening: Opening) -> None:
        """A session begins."""
        for observer in self._observers:
            observer.begin(opening)

    def point(self, point: Point) -> None:
        """Where it is."""
        for observer in self._observers:
            observer.point(point)

    def judged(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """How good the model is: "ssim/a", "identity/a>b", "ssim" (of all), ..."""
        for observer in self._observers:
            observer.judged(iteration, metrics)

    def event(self, iteration: int, what: str, text: str = "") -> None:
        """Something worth knowing has happened."""
        for observer in self._observers:
            observer.event(iteration, what, text)

    def end(self, iteration: int, reason: str, seconds: float) -> None:
        """The session ends."""
        for observer in self._observers:
            observer.end(iteration, reason, seconds)

    def close(self) -> None:
        """Nothing more will be told."""
        for observer in self._observers:
            observer.close()


def warn(sentence: str) -> None:
    """Into the log."""
    logging.getLogger(__name__).warning(sentence)


def utc_now() -> datetime:
    """The time, aware of its zone."""
    return datetime.now(UTC)


class Journal:
    """The journal of the model in `folder`.

    No error of the disk ends a training for its journal's sake: the first is told to `on_trouble` in one sentence, and
    writing is tried again with each record.
    """

    def __init__(
        self, folder: Path, on_trouble: Callable[[str], None] = warn, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._file = folder / FILE
        self._on_trouble: Callable[[str], None] | None = on_trouble
        self._now = now
        self._handle: int | None = None
        self._torn = False
        self._last = 0  # the iteration reached
        self._number = 0
        try:
            self._open(folder)
        except OSError as error:
            self._tell(error)

    def begin(self, opening: Opening) -> None:
        """A session begins."""
        overtaken = self._last if self._last > opening.iteration else None
        self._number += 1
        facts = {"number": self._number, "iteration": opening.iteration, "overtakes": overtaken}
        self._last = opening.iteration
        self._write("session", asdict(opening) | facts)

    def point(self, point: Point) -> None:
        """Where it is."""
        self._last = max(self._last, point.iteration)
        self._write("point", asdict(point))

    def judged(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """How good the model is."""
        self._write("judgement", {"iteration": iteration, "metrics": metrics})

    def event(self, iteration: int, what: str, text: str = "") -> None:
        """Something worth knowing has happened."""
        self._last = iteration if what == ROLLED_BACK else max(self._last, iteration)
        self._write("event", {"iteration": iteration, "what": what, "text": text})

    def end(self, iteration: int, reason: str, seconds: float) -> None:
        """The session ends; `reason` is "iterations", "minutes", "stopped", ..."""
        self._write("end", {"iteration": iteration, "reason": reason, "seconds": seconds})

    def close(self) -> None:
        """Lets go of the file. Closing again does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for record in records(self._file) if self._file.exists() else ():
            if record["kind"] == "session":
                number = record.get("number")
                self._number = number if is_count(number) else self._number + 1
            if is_count(reached := record.get("iteration")):
                went_back = record["kind"] == "session" or record.get("what") == ROLLED_BACK
                self._last = reached if went_back else max(self._last, reached)
        # No link is followed: a model's folder may come from anywhere, and this one is written to.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(self._file, flags, 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError("it is no regular file")
        self._handle = handle
        size = os.fstat(handle).st_size
        self._torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        with suppress(OSError):  # a file system without locks, or a reader who is just looking
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _write(self, kind: str, facts: Mapping[str, Any]) -> None:
        if self._handle is None:
            return
        time = self._now().astimezone(UTC).isoformat(timespec="milliseconds")
        line = json.dumps(_plain({"kind": kind, "time": time, **facts}), allow_nan=False).encode() + b"\n"
        whole = b"\n" + line if self._torn else line
        try:
            # One call for the whole line: a kill comes before or after it, or tears it where the next one mends it.
            self._torn = os.write(self._handle, whole) < len(whole)
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if self._on_trouble is not None:
            tell, self._on_trouble = self._on_trouble, None
            reason = error.strerror or str(error)
            tell(f"the journal {self._file} cannot be written ({reason}); training goes on without it")


def records(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal, in order; lines that are no records are passed by, whatever is in them.

    Never holds more than `MAX_LINE` bytes of it.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open(file, "rb", opener=_without_waiting) as lines:
        if not stat.S_ISREG(os.fstat(lines.fileno()).st_mode):
            raise OSError("it is no regular file")
        whole = True  # whether what is read next begins a line
        while line := lines.readline(MAX_LINE):
            begins, whole = whole, line.endswith(b"\n")
            if begins and whole and (record := _parsed(line)) is not None:
                yield record


def is_written(file: Path) -> bool:
    """Whether somebody is writing this journal now, as far as locks tell. Raises OSError."""
    handle = _without_waiting(str(file), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


def is_count(value: object) -> TypeGuard[int]:
    """Whether it is a whole number that can be one of steps, sessions or faces."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO in its place would wait for ever


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("kind"), str) else None


def _plain(value: Any) -> Any:
    """In JSON's types; numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, SupportsFloat):
        number = float(value)
        return float(f"{number:.7g}") if math.isfinite(number) else None
    return str(value)
