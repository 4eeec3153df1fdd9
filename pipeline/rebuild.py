"""Fills a table that is new because the old one was lost: what had been published is known by the reports beside it.

For a clip whose result and report are there and speak of this very clip, a finished job is put in; for one whose
failure was noted, a failed one. All else is left to be taken as new. Reports and notes are anybody's: what is in them
is believed as far as the files bear it out.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import result
from pipeline.errors import UnderstudyError
from pipeline.jobs import Entry, Mark, State, Table
from pipeline.originals import open_regular
from pipeline.set_aside import read_reason

_log = logging.getLogger(__name__)

_DIGEST = re.compile("[0-9a-f]{64}|")
_AT_ONCE = 500
_SAY_S = 5.0
_LONGEST_TEXT, _LONGEST_NAME = 4000, 100
_CHUNK_NBYTES = 1 << 20


class Place(NamedTuple):
    """A watched folder, and where its results and its notes of failure are.

    `targets_for` gives the names that a clip's result may have, the likeliest first; it may raise UnderstudyError for
    what is no clip.
    """

    inbox: Path
    out: Path
    failed: Path
    targets_for: Callable[[Path], Sequence[Path]]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many files were looked at, and how many of them had been done or had failed; the rest are new, or no clip."""

    files: int
    done: int
    failed: int


def rebuild(table: Table, places: Sequence[Place], going_on: Callable[[], bool] = lambda: True) -> Rebuilt:
    """Puts what had ended into the table, which is `new` no more then.

    It may be interrupted, and begun again: what is in the table stays. Where `going_on` says no, it stops and gives
    what it has done so far. Raises TableError.
    """
    tally = _Tally()
    for place in (Place(*given) for given in places):
        _log.info("rebuilding the table of jobs from %s and %s", place.inbox, place.out)
        if not place.inbox.is_dir():
            _log.warning("%s is not there; what has been made of its clips is not known", place.inbox)
        files = _files(place)
        while going_on() and (sources := list(islice(files, _AT_ONCE))):
            strange = [source for source in sources if table.current(str(source)) is None]
            found = [entry for source in strange if (entry := ended(place, source, going_on)) is not None]
            with table.together():
                for entry in found:
                    if entry.state is State.FAILED or table.owner(entry.target) is None:
                        tally.count(table.put(entry))
            tally.looked_at(len(sources))
    if going_on():
        table.filled()
    done = Rebuilt(tally.files, tally.ended[State.DONE], tally.ended[State.FAILED])
    _log.info("rebuilt: of %d files %d had been done and %d had failed", done.files, done.done, done.failed)
    return done


@dataclass(slots=True)
class _Tally:
    files: int = 0
    ended: dict[State, int] = field(default_factory=lambda: {State.DONE: 0, State.FAILED: 0})
    said: float = field(default_factory=time.monotonic)

    def count(self, entry: Entry) -> None:
        self.ended[entry.state] += 1

    def looked_at(self, files: int) -> None:
        self.files += files
        if time.monotonic() - self.said >= _SAY_S:
            self.said = time.monotonic()
            _log.info("%d files looked at, %d of them had been done", self.files, self.ended[State.DONE])


def _files(place: Place) -> Iterator[Path]:
    """All files below the inbox, but for those of the program's own folders."""
    own = {os.path.realpath(place.out), os.path.realpath(place.failed)}
    for folder, folders, names in os.walk(place.inbox):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if os.path.realpath(here / name) not in own)
        yield from (here / name for name in sorted(names))


def ended(place: Place, source: Path, going_on: Callable[[], bool] = lambda: True) -> Entry | None:
    """What has become of a clip that no table knows, for `Table.put`; None where nobody can tell.

    May have to read all of the clip, where it has another date than its report says.
    """
    mark = _mark(source)
    if mark is None:
        return None
    try:
        targets = place.targets_for(source)
    except UnderstudyError:
        return None  # it is no clip
    entry = Entry(0, str(place.inbox), str(source), str(targets[0]), State.WAITING, mark)
    for target in targets:
        if done := _done(replace(entry, target=str(target)), target, going_on):
            return done
    note = result.path_for(str(place.failed / source.relative_to(place.inbox)))
    return _failed(entry, note, going_on)


def _done(entry: Entry, target: Path, going_on: Callable[[], bool]) -> Entry | None:
    path = result.path_for(str(target))
    report, made = result.read(path), _mark(target)
    if report is None or made is None:
        return None
    try:
        claim, size = _Claim.read(report), _integer(report["output"]["size"])
        frames, seconds = _whole(report["frames"]), _seconds(report["seconds"])
    except (ValueError, TypeError, KeyError) as error:
        _log.warning("the report %s is passed over: %s", path, error)
        return None
    if made.size != size:
        _log.warning("%s is not the file that its report speaks of; its clip is taken as new", target)
        return None
    if claim.path != entry.source and os.path.lexists(claim.path):
        return None  # it was made of a clip of nearly the same name
    if not claim.is_of(entry, going_on):
        return None
    done = replace(entry, id=claim.job, state=State.DONE, frames=frames, seconds=seconds, digest=claim.sha256)
    return replace(done, ended=made.mtime_ns / 1e9)


def _failed(entry: Entry, path: Path, going_on: Callable[[], bool]) -> Entry | None:
    note, written = read_reason(path), _mark(path)
    if note is None or written is None:
        return None
    try:
        claim = _Claim.read({"source": note["mark"] | {"path": "", "sha256": note["sha256"] or ""}, "job": note["job"]})
        reason = _text(note["what"])
    except (ValueError, TypeError, KeyError) as error:
        _log.warning("the note %s is passed over: %s", path, error)
        return None
    if not claim.is_of(entry, going_on):
        return None
    failure = _named(note)
    return replace(
        entry, id=claim.job, state=State.FAILED, reason=reason, failure=failure, ended=written.mtime_ns / 1e9
    )


def _named(note: Mapping[str, Any]) -> dict[str, str | int]:
    """What a note says of where it happened, as far as that is anything we would say."""
    texts = {name: note[name][:_LONGEST_NAME] for name in ("error", "stage") if isinstance(note.get(name), str)}
    frame = note.get("frame")
    return {**texts, "frame": frame} if isinstance(frame, int) and 0 <= frame < 2**63 else texts


@dataclass(frozen=True, slots=True)
class _Claim:
    """What is said of a job and of the clip it was about."""

    job: int
    path: str
    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> _Claim:
        """Raises ValueError, TypeError, KeyError where that is nothing we would say."""
        source = facts["source"]
        if not _DIGEST.fullmatch(_text(source["sha256"])):
            raise ValueError("its digest of the source is none")
        size, mtime_ns = _integer(source["size"]), _integer(source["mtime_ns"])
        return cls(_whole(facts["job"]), _text(source["path"]), size, mtime_ns, source["sha256"])

    def is_of(self, entry: Entry, going_on: Callable[[], bool]) -> bool:
        """Whether the clip is what the entry's path holds: of the same size and date or, if need be, content."""
        if self.size != entry.mark.size:
            return False
        return self.mtime_ns == entry.mark.mtime_ns or _sha256(Path(entry.source), going_on) == self.sha256


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{str(value)[:40]!r} is no whole number")
    return value


def _whole(value: object) -> int:
    """A number that the table can hold."""
    if not 0 <= _integer(value) < 2**63:
        raise ValueError(f"{str(value)[:40]} is out of range")
    return _integer(value)


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
        raise ValueError(f"{str(value)[:40]!r} is no time that it could take")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is no text")
    return value[:_LONGEST_TEXT]


def _mark(path: Path) -> Mark | None:
    """None where there is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Mark(status.st_size, status.st_mtime_ns, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _sha256(path: Path, going_on: Callable[[], bool]) -> str | None:
    """None where it cannot be read, or nobody wants to know any more."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while data := file.read(_CHUNK_NBYTES):
                digest.update(data)
                if not going_on():
                    return None
    except OSError as error:
        _log.warning("%s cannot be read: %s", path, error.strerror)
        return None
    return digest.hexdigest()
