"""Standard logging: to stderr as plain lines for people or JSON lines for machines, and what a daemon keeps of it.

A record's `fields` (given as `extra={"fields": {...}}`) are the machine's part of it: JSON lines carry them, plain
lines leave them out, but for two: `job` and `clip`, which say what the line is about. `for_job` gives a logger whose
lines have both, and within `about` all lines of a thread have them, however deep they come from.

File names may hold anything, so nothing is written before `printable` has seen it; JSON escapes what is not ASCII.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

#: The log of a daemon, in its folder; its predecessors are FILE.1 (the newest) and so on.
FILE = "log.jsonl"

_TRACEBACK = "Traceback (most recent call last):"

_ABOUT: ContextVar[Mapping[str, Any]] = ContextVar("about", default={})  # noqa: B039  never changed, only replaced


def printable(text: str) -> str:
    """`text` on one line and safe to print: control characters and bytes that are no UTF-8 become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class ForJob(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines carry the job and the clip."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Adds them to the fields that the call has given."""
        extra = kwargs.get("extra") or {}
        return msg, {**kwargs, "extra": {**extra, "fields": {**(self.extra or {}), **extra.get("fields", {})}}}


def for_job(logger: logging.Logger, job: int, source: str) -> ForJob:
    """`logger` for what concerns one job, whose clip is `source`."""
    return ForJob(logger, {"job": job, "clip": source})


@contextmanager
def about(job: int, source: str) -> Iterator[None]:
    """All that this thread logs within it is about this job, unless it says otherwise."""
    token = _ABOUT.set({"job": job, "clip": source})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record has for machines. Right only in the thread that logs, while it does."""
    own: Mapping[str, Any] = getattr(record, "fields", {})
    return dict(own) if "job" in own or "clip" in own else {**_ABOUT.get(), **own}


def subject(about: Mapping[str, Any]) -> str:
    """`[12 a.mp4] ` for the fields of a record about a job; empty for others."""
    words = []
    if isinstance(job := about.get("job"), int):
        words.append(str(job))
    if isinstance(clip := about.get("clip"), str) and clip:
        words.append(printable(clip.rpartition("/")[2]))
    return f"[{' '.join(words)}] " if words else ""


def plain(when: datetime, level: str, about: Mapping[str, Any], message: str, traceback: str = "") -> str:
    """`2026-01-31 12:00:00 warning [12 a.mp4] message`; a traceback, where there is one, follows on its own lines."""
    said = [*_lines(message), *map(printable, traceback.splitlines())]
    return f"{when:%Y-%m-%d %H:%M:%S} {printable(level)} {subject(about)}" + "\n".join(said)


def _lines(message: str) -> list[str]:
    """A message as it is printed: one line. But a traceback, which comes as text from a stage's process, keeps its."""
    return [printable(line) for line in (message.splitlines() if message.startswith(_TRACEBACK) else [message])]


class PlainLines(logging.Formatter):
    """Lines as `plain` makes them, in local time; without their subject if they are not `named`."""

    def __init__(self, named: bool = True) -> None:
        super().__init__()
        self._named = named

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        when = datetime.fromtimestamp(record.created)
        about = fields(record) if self._named else {}
        return plain(when, record.levelname.lower(), about, record.getMessage(), _traceback(self, record))


class JournalLines(logging.Formatter):
    """`<4>[12 a.mp4] message`: the journal notes the time itself, and reads how grave a line is from its head."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text, each of its lines with the head."""
        said = [*_lines(record.getMessage()), *map(printable, _traceback(self, record).splitlines())]
        said[0] = subject(fields(record)) + said[0]
        grave = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{grave}>{line}" for line in said)


#: As syslog counts them.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line of ASCII."""
        entry = _entry(record.created, record.levelname, record.name, record.getMessage()) | fields(record)
        if record.exc_info:
            entry["traceback"] = _traceback(self, record)
        return json.dumps(entry, default=str)


def _entry(when: float, level: str, logger: str, message: str) -> dict[str, Any]:
    moment = datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds")
    return {"time": moment, "level": level.lower(), "logger": logger, "message": message}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""


class LastLines(logging.Handler):
    """Remembers the last that was said about each of the last jobs, for whoever asks why one of them failed."""

    MOST_JOBS, MOST_LINES, LONGEST = 200, 50, 500

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(PlainLines(named=False))
        self._jobs: OrderedDict[int, deque[str]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps what is about a job."""
        job = fields(record).get("job")
        if not isinstance(job, int):
            return
        try:
            said = self.format(record).splitlines()
        except Exception:  # noqa: BLE001  as in every handler: a record that cannot be formatted is shown, not raised
            self.handleError(record)
            return
        self._jobs.setdefault(job, deque(maxlen=self.MOST_LINES)).extend(line[: self.LONGEST] for line in said)
        self._jobs.move_to_end(job)
        if len(self._jobs) > self.MOST_JOBS:
            self._jobs.popitem(last=False)

    def lines(self, job: int) -> list[str]:
        """The last lines about `job`, at most MOST_LINES of LONGEST characters; any thread may ask."""
        self.acquire()
        try:
            return list(self._jobs.get(job, ()))
        finally:
            self.release()


class LogFile(RotatingFileHandler):
    """JSON lines in a file that rotates. What cannot be written is dropped and counted, and nobody is troubled with it:
    a full disk must not end a daemon. The first line that can be written again is preceded by one that says so.
    """

    def __init__(self, path: Path, limit_bytes: int, kept: int) -> None:
        """Opens nothing yet."""
        super().__init__(path, maxBytes=limit_bytes, backupCount=kept, encoding="ascii", delay=True)
        self.setFormatter(JsonLines())
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, or counts it."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  as above
            self.handleError(record)
            return
        try:
            self._append(line)
        except OSError as error:
            self.dropped += 1
            self._trouble = error.strerror or type(error).__name__
            if self.stream is not None:  # opened anew the next time: what was mounted there may be another by then
                self.stream.close()
                self.stream = None

    def _append(self, line: str) -> None:
        """A line is there as a whole or not at all. Nothing goes through the stream itself, whose buffer would keep
        what the disk refuses.
        """
        if self.dropped:
            message = f"{self.dropped} lines are missing here, which could not be written: {self._trouble}"
            line = json.dumps(_entry(time.time(), "warning", __name__, message)) + "\n" + line
        content = f"{line}\n".encode("ascii")
        descriptor, size = self._opened()
        if size and size + len(content) > self.maxBytes:
            self.doRollover()
            descriptor, size = self._opened()
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        self.dropped = 0

    def _opened(self) -> tuple[int, int]:
        """The file's descriptor, opened if need be, and its size in bytes."""
        if self.stream is None:
            self.stream = self._open()
        descriptor = self.stream.fileno()
        return descriptor, os.fstat(descriptor).st_size


def to_file(folder: Path, limit_bytes: int = 10 << 20, kept: int = 5) -> LogFile:
    """A handler that writes FILE in a daemon's `folder`, and leaves `kept` of its predecessors there.

    For one process at a time: for whoever holds the folder's lock.
    """
    return LogFile(folder / FILE, limit_bytes, kept)


@contextmanager
def keeping(folder: Path) -> Iterator[LastLines]:
    """Within it the log goes to the file in `folder` and to the memory that it gives, too: all from INFO on, even if
    what `set_up` made is to say less.
    """
    root, last, file = logging.getLogger(), LastLines(), to_file(folder)
    before = root.level
    levels = [(handler, handler.level) for handler in root.handlers]
    for handler, level in levels:
        handler.setLevel(max(level, before))
    root.setLevel(min(before, logging.INFO))
    for added in (last, file):
        root.addHandler(added)
    try:
        yield last
    finally:
        for added in (last, file):
            root.removeHandler(added)
            added.close()
        root.setLevel(before)
        for handler, level in levels:
            handler.setLevel(level)


def under_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether systemd's journal reads `stream`: JOURNAL_STREAM in `environ` names its device and inode."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def set_up(level: int, as_json: bool = False, stream: TextIO | None = None, journal: bool = False) -> None:
    """Sends records of `level` and above to `stream` (stderr); replaces what an earlier call set up.

    Plain lines look as the `journal` likes them, if that reads the stream (see `under_journal`).
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else JournalLines() if journal else PlainLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
