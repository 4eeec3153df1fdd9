"""The table of jobs: the truth about what was accepted, is at work, and has ended. SQLite, in a folder of the daemon's.

A row is one clip as it lay in a watched folder. It is in exactly one state, and every change of state is one
transaction that is on the disk when the call returns. Of several rows of the same path, only the newest is `current`:
the others are what that path held before it was replaced, and have ended.

    waiting ──claim──> running ──finish──> done
       ^  ^               │
       │  └───release─────┘
       └──────retry────────────────────────── any that has ended and is current
    waiting, running ──fail──> failed   ──block──> blocked   ──cancel──> cancelled <──cancel── blocked
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import database, rows
from pipeline.database import Damaged, Database, set_aside
from pipeline.errors import ConfigError, TableError
from pipeline.rows import ENDED, OPEN, Entry, Known, Mark, State

__all__ = ["FILE", "Damaged", "Entry", "Known", "Mark", "Refused", "State", "Table", "set_aside"]

#: What the table is called in the daemon's folder.
FILE = "jobs.sqlite"

GONE = "the clip is gone"
REPLACED = "replaced before it was begun"
CANCELLED = "cancelled"

_MOST = 1_000_000


_COLUMNS = ", ".join(rows.COLUMNS)
_INSERT = f"INSERT INTO jobs ({_COLUMNS}) VALUES ({', '.join('?' * len(rows.COLUMNS))})"  # noqa: S608  our own names
_CHANGES = ", ".join(f"{column} = ?" for column in rows.COLUMNS[rows.FIXED :])
_UPDATE = f"UPDATE jobs SET {_CHANGES} WHERE id = ?"  # noqa: S608


class Refused(TableError, ValueError):  # noqa: N818  the word says enough
    """There is no such job, or what is asked for cannot be done to a job in its state. Nothing has been changed."""

    exit_code = ConfigError.exit_code


@dataclass(frozen=True, slots=True)
class _Move:
    """What may be done to a job: to one in which states, and what it is in after that (None: the same)."""

    called: str
    before: frozenset[State]
    after: State | None


_CLAIM = _Move("begun", frozenset({State.WAITING}), State.RUNNING)
_RELEASE = _Move("put back", frozenset({State.RUNNING}), State.WAITING)
_FINISH = _Move("finished", frozenset({State.RUNNING}), State.DONE)
_FAIL = _Move("failed", OPEN, State.FAILED)
_BLOCK = _Move("blocked", OPEN, State.BLOCKED)
_CANCEL = _Move("cancelled", OPEN | {State.BLOCKED}, State.CANCELLED)
_RETRY = _Move("tried again", ENDED, State.WAITING)
_WISH = _Move("told anything", frozenset({State.RUNNING}), None)
_PRIORITISE = _Move("given a priority", OPEN | {State.BLOCKED}, None)
_RENEW = _Move("given another mark", frozenset(State), None)


class Table:
    """The table, for the thread that opened it. Everything raises TableError where it cannot be read or written.

    Whatever changes a job gives its entry as it is then, and raises Refused where that cannot be done.
    """

    def __init__(self, held: Database, keep: int, clock: Callable[[], float]) -> None:
        """Use `open` or `looking`."""
        self._held = held
        self._keep = keep
        self._clock = clock

    @classmethod
    def open(cls, path: Path, keep: int = 100_000, make: bool = True, clock: Callable[[], float] = time.time) -> Table:
        """For reading and writing; with `make`, a table that is not there is made, and is `new`.

        `keep` is how many rows are kept of clips whose path holds another one, or none, by now.

        Raises:
            Damaged: it cannot be used as it is; `set_aside` makes room for another.
            TableError: it is not there (`errno` ENOENT), may not be written, or its disk is full.
        """
        return cls(database.opened(path, rows.SCHEMA, make), keep, clock)

    @classmethod
    def looking(cls, path: Path) -> Table:
        """For reading alone, whether or not the daemon runs. Raises Damaged, TableError (`errno` ENOENT), as `open`."""
        return cls(database.looked_at(path, rows.SCHEMA), 0, time.time)

    @property
    def path(self) -> Path:
        """Its file."""
        return self._held.path

    @property
    def new(self) -> bool:
        """Whether there was none, and what had ended before has not been put in yet: nobody has called `filled`."""
        return not self._held.read("SELECT 1 FROM milestones WHERE name = 'filled'")

    def filled(self) -> None:
        """Says that what had ended before the table was made is in it."""
        with self._held.writing():
            self._held.write("INSERT OR IGNORE INTO milestones VALUES ('filled')")

    def close(self) -> None:
        """Nothing can be read or written any more."""
        self._held.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All changes within become one transaction: all of them are kept, or none where anything is raised."""
        with self._held.writing():
            yield

    # Changing

    def accept(self, folder: str, source: str, target: str, mark: Mark, priority: int, seen: float) -> Entry:
        """A new job for what the path holds now. What it held before is not current any more, and not begun any more.

        Raises Refused where that is running.
        """
        now = self._clock()
        with self._held.writing():
            before = self.current(source)
            if before is not None and before.state is State.RUNNING:
                raise Refused(f"job {before.id} is running on {source}; nothing else can be made of that path")
            if before is not None:
                self._retire(before, REPLACED, now)
            new = Entry(0, folder, source, target, State.WAITING, mark, priority, seen=seen, accepted=now)
            number = self._insert(new)
            if number % max(1, self._keep // 100) == 0:
                self._trim()
            return replace(new, id=number)

    def put(self, entry: Entry) -> Entry:
        """A row for what ended before the table was lost; it keeps its number where that is free.

        Raises Refused where the path has a job, or the entry has not ended.
        """
        with self._held.writing():
            if entry.state in OPEN or not entry.current or self.current(entry.source) is not None:
                raise Refused(f"{entry.source} cannot be entered as {entry.state}")
            free = 0 < entry.id < 2**40 and self.entry(entry.id) is None
            return replace(entry, id=self._insert(entry if free else replace(entry, id=0)))

    def claim(self, number: int, now: float) -> Entry:
        """Begins a job."""
        return self._move(number, _CLAIM, lambda job: replace(job, attempts=job.attempts + 1, claimed=now))

    def release(self, number: int, reason: str, due: float, crashed: bool = False, counted: bool = True) -> Entry:
        """Puts a running job back, not to be begun before `due`; one that somebody wished cancelled is cancelled.

        `crashed`: a process died of it. Not `counted`: nothing was wrong with it, so that was no attempt.
        """

        def change(job: Entry) -> Entry:
            attempts = job.attempts if counted else max(0, job.attempts - 1)
            return replace(job, attempts=attempts, crashes=job.crashes + crashed, due=due, reason=reason)

        with self._held.writing():
            released = self._move(number, _RELEASE, change)
            return self.cancel(number, CANCELLED, self._clock()) if released.wish == "cancel" else released

    def finish(self, number: int, frames: int, seconds: float, digest: str, now: float) -> Entry:
        """A running job's result has been published."""

        def change(job: Entry) -> Entry:
            done = replace(job, frames=frames, seconds=seconds, digest=digest, ended=now)
            return replace(done, reason="", failure=None, wish="")

        return self._move(number, _FINISH, change)

    def fail(self, number: int, reason: str, failure: dict[str, Any] | None, now: float) -> Entry:
        """A job is given up."""
        return self._move(number, _FAIL, lambda job: replace(job, reason=reason, failure=failure, ended=now, wish=""))

    def block(self, number: int, reason: str, now: float) -> Entry:
        """A job cannot be done before somebody has mended something."""
        return self._move(number, _BLOCK, lambda job: replace(job, reason=reason, ended=now, wish=""))

    def cancel(self, number: int, reason: str, now: float) -> Entry:
        """A job is not wanted any more. One that runs has to be stopped first: see `withdraw`."""
        return self._move(number, _CANCEL, lambda job: replace(job, reason=reason, ended=now, wish=""))

    def withdraw(self, number: int, now: float) -> Entry:
        """Somebody wants a job cancelled: one that waits or is blocked is, for one that runs the wish is noted."""
        with self._held.writing():
            running = self._must(number).state is State.RUNNING
            return self.wish(number, "cancel") if running else self.cancel(number, CANCELLED, now)

    def retry(self, number: int) -> Entry:
        """A job that has ended is done anew. Raises Refused where its path holds another clip, or none, by now."""

        def change(job: Entry) -> Entry:
            fresh = replace(job, frames=0, seconds=0.0, digest="", ended=0.0)
            return replace(fresh, attempts=0, crashes=0, due=0.0, reason="", failure=None)

        return self._move(number, _RETRY, change)

    def wish(self, number: int, what: str) -> Entry:
        """Notes what somebody wants of a running job ("cancel", or nothing any more); the daemon looks at `wishes`."""
        return self._move(number, _WISH, lambda job: replace(job, wish=what))

    def prioritise(self, number: int, priority: int) -> Entry:
        """Changes whose turn it is. Raises Refused also for less than -1,000,000 or more than that."""
        if abs(priority) > _MOST:
            raise Refused(f"a priority is from {-_MOST} to {_MOST}, not {priority}")
        return self._move(number, _PRIORITISE, lambda job: replace(job, priority=priority))

    def replace_mark(self, number: int, mark: Mark) -> Entry:
        """The same clip, but as a file it is another."""
        return self._move(number, _RENEW, lambda job: replace(job, mark=mark))

    def vanish(self, numbers: Collection[int]) -> None:
        """These clips are not where they were: the rows are current no more; what waits or is blocked is cancelled.

        Running ones stay as they are: they end first. Unknown ones are passed over.
        """
        now = self._clock()
        with self._held.writing():
            for number in numbers:
                entry = self.entry(number)
                if entry is not None and entry.current and entry.state is not State.RUNNING:
                    self._retire(entry, GONE, now)

    def recover(self, now: float) -> list[Entry]:
        """At the start: what was running when the last daemon ended waits again; gives those.

        That was no attempt: a machine that fails takes nothing of the patience that a clip deserves. Those that
        somebody wished cancelled are cancelled, and not given.
        """
        why = "the daemon ended while it was made"
        with self._held.writing():
            running = self._entries("state = 'running' ORDER BY id")
            return [
                entry
                for job in running
                if (entry := self.release(job.id, why, now, counted=False)).state is State.WAITING
            ]

    # Reading

    def entry(self, number: int) -> Entry | None:
        """The job of that number."""
        found = self._entries("id = ?", (number,)) if 0 < number < 2**63 else []
        return found[0] if found else None

    def span(self, first: int, last: int, limit: int = 100_000) -> list[Entry]:
        """The jobs numbered from first to last."""
        edge = 2**63 - 1
        return self._entries("id BETWEEN ? AND ? ORDER BY id LIMIT ?", (min(first, edge), min(last, edge), limit))

    def current(self, source: str) -> Entry | None:
        """The job for what the path holds now."""
        found = self._entries("source = ? AND current", (os.fsencode(source),))
        return found[0] if found else None

    def owner(self, target: str) -> Entry | None:
        """Whose result has, or will have, that name; of several, one that is done or running, then the oldest."""
        found = self._entries(
            "target = ? AND current AND state IN ('done', 'running', 'waiting') ORDER BY state = 'waiting', id LIMIT 1",
            (os.fsencode(target),),
        )
        return found[0] if found else None

    def known(self, folder: str) -> dict[bytes, Known]:
        """What the paths in a watched folder are known to hold, by path (`os.fsencode`)."""
        wanted = "SELECT source, mark, state, id, target FROM jobs WHERE current AND folder = ?"
        found = self._held.read(wanted, (os.fsencode(folder),))
        with _sound(self.path):
            return {row[0]: rows.as_known(row[1:]) for row in found}

    def waiting(self, now: float, limit: int, besides: Collection[str] = ()) -> list[Entry]:
        """Those that may be begun, in the order in which they shall be; none of the watched folders `besides`."""
        passed = f"folder NOT IN ({', '.join('?' * len(besides))})"
        condition = f"state = 'waiting' AND due <= ? AND {passed} ORDER BY priority DESC, id LIMIT ?"
        # Left to itself SQLite sorts all that wait, each time.
        return self._entries(condition, (now, *map(os.fsencode, besides), limit), "jobs INDEXED BY by_turn")

    def next_due(self, now: float) -> float | None:
        """When the next of those that may not be begun yet may be."""
        found = self._held.read("SELECT min(due) FROM jobs WHERE state = 'waiting' AND due > ?", (now,))
        return None if found[0][0] is None else float(found[0][0])

    def listing(
        self, states: Collection[State] = (), limit: int = 100, before_id: int = 0, search: str = ""
    ) -> list[Entry]:
        """Jobs, newest first: in these states (none: any), older than `before_id` (0: any), with `search` in the path.

        The search minds no difference between small and capital letters of ASCII.
        """
        wanted = [str(state) for state in (states or State)]
        conditions = [f"state IN ({', '.join('?' * len(wanted))})"]
        values: list[Any] = [*wanted]
        if before_id:
            conditions.append("id < ?")
            values.append(min(before_id, 2**63 - 1))
        if search:
            try:
                values.append(os.fsencode(search))
            except UnicodeEncodeError:
                return []  # no path can hold that
            # As bytes: a name need be no text.
            conditions.append("instr(CAST(lower(source) AS BLOB), CAST(lower(?) AS BLOB))")
        return self._entries(f"{' AND '.join(conditions)} ORDER BY id DESC LIMIT ?", (*values, limit))

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state, old rows included."""
        found = dict(self._held.read("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {state: int(found.get(str(state), 0)) for state in State}

    def wishes(self) -> list[Entry]:
        """Running jobs of which somebody wants something."""
        return self._entries("wish <> '' ORDER BY id")

    def changed(self) -> bool:
        """Whether another connection has changed anything since this was last asked."""
        return self._held.changed()

    # What these are made of

    def _move(self, number: int, move: _Move, change: Callable[[Entry], Entry]) -> Entry:
        """The one place where it is decided what may be done to a job."""
        with self._held.writing():
            job = self._must(number)
            if job.state not in move.before:
                raise Refused(f"job {number} cannot be {move.called}: it is {job.state}")
            if move.after in OPEN and not job.current:
                raise Refused(f"job {number} cannot be {move.called}: its clip is gone or was replaced")
            changed = replace(change(job), state=move.after or job.state)
            self._update(changed)
            return changed

    def _retire(self, entry: Entry, reason: str, now: float) -> None:
        if entry.state in (State.WAITING, State.BLOCKED):
            entry = self.cancel(entry.id, reason, now)
        self._update(replace(entry, current=False))

    def _must(self, number: int) -> Entry:
        entry = self.entry(number)
        if entry is None:
            raise Refused(f"there is no job {number}")
        return entry

    def _insert(self, entry: Entry) -> int:
        number, *row = rows.as_row(entry)
        return self._held.write(_INSERT, (number or None, *row))

    def _update(self, entry: Entry) -> None:
        self._held.write(_UPDATE, (*rows.as_row(entry)[rows.FIXED :], entry.id))

    def _trim(self) -> None:
        old = "SELECT id FROM jobs WHERE NOT current ORDER BY id DESC LIMIT -1 OFFSET ?"
        self._held.write(f"DELETE FROM jobs WHERE id IN ({old})", (self._keep,))  # noqa: S608

    def _entries(self, condition: str, values: Sequence[Any] = (), source: str = "jobs") -> list[Entry]:
        found = self._held.read(f"SELECT {_COLUMNS} FROM {source} WHERE {condition}", values)  # noqa: S608
        with _sound(self.path):
            return [rows.as_entry(row) for row in found]


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Says that the table is damaged where a row holds what no row of ours does."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise Damaged(f"the table of jobs {path} is damaged: a row cannot be read ({error})") from error
