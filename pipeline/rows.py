"""A row of the table of jobs: what it says of a clip, and how it lies in SQLite."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from pipeline.database import Schema


class State(StrEnum):
    """What has become of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"


#: By what they are called in SQLite; quicker than State(...).
_STATES = {str(state): state for state in State}

#: What a job is in before it has ended, and after that.
OPEN = frozenset({State.WAITING, State.RUNNING})
ENDED = frozenset(State) - OPEN


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells that a file is still the same one: bytes, time of change, inode."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table. Times are seconds since the epoch, 0 where there has been none.

    Attributes:
        folder: the watched folder, absolute; `source` the clip in it, `target` its result, absolute.
        priority: the higher, the sooner.
        attempts: how often it was begun; `crashes` how often a process died of it.
        due: not to be begun before then.
        reason: why it is not done, in a sentence; `failure` the same for machines (as `outcomes.as_json` has it).
        frames, seconds: of the result and of the work, where it is done; `digest` the SHA-256 of the source.
        seen: when the clip was first noticed; accepted, claimed, ended: when the row came to be, last began, ended.
        wish: what somebody asked for while it was running: "cancel" or nothing.
        current: whether the path still holds this clip.
    """

    id: int
    folder: str
    source: str
    target: str
    state: State
    mark: Mark
    priority: int = 0
    attempts: int = 0
    crashes: int = 0
    due: float = 0.0
    reason: str = ""
    failure: dict[str, Any] | None = field(default=None)
    frames: int = 0
    seconds: float = 0.0
    digest: str = ""
    seen: float = 0.0
    accepted: float = 0.0
    claimed: float = 0.0
    ended: float = 0.0
    wish: str = ""
    current: bool = True


class Known(NamedTuple):
    """What the table knows of a path."""

    mark: Mark
    state: State
    id: int
    target: str


#: In the order of the table; the fields of Entry.
COLUMNS = (
    *("id", "folder", "source", "target", "state", "mark", "priority", "attempts", "crashes", "due", "reason"),
    *("failure", "frames", "seconds", "digest", "seen", "accepted", "claimed", "ended", "wish", "current"),
)

#: From here on (`state`) a row's columns may change.
FIXED = 4

# Paths and sentences are bytes: they may hold what is no UTF-8. A mark is text: its numbers may need more than 64 bits.
SCHEMA = Schema(
    application=0x554E5354,
    version=1,
    statements=(
        """CREATE TABLE jobs (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            folder BLOB NOT NULL, source BLOB NOT NULL, target BLOB NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'blocked', 'cancelled')),
            mark TEXT NOT NULL, priority INTEGER NOT NULL,
            attempts INTEGER NOT NULL, crashes INTEGER NOT NULL, due REAL NOT NULL,
            reason BLOB NOT NULL, failure TEXT, frames INTEGER NOT NULL, seconds REAL NOT NULL, digest TEXT NOT NULL,
            seen REAL NOT NULL, accepted REAL NOT NULL, claimed REAL NOT NULL, ended REAL NOT NULL,
            wish TEXT NOT NULL, current INTEGER NOT NULL,
            CHECK (current OR state NOT IN ('waiting', 'running', 'blocked'))
        )""",
        "CREATE TABLE milestones (name TEXT PRIMARY KEY NOT NULL)",
        "CREATE UNIQUE INDEX current_source ON jobs (source) WHERE current",
        "CREATE INDEX current_target ON jobs (target) WHERE current",
        "CREATE INDEX by_state ON jobs (state, id)",
        "CREATE INDEX by_turn ON jobs (priority DESC, id) WHERE state = 'waiting'",
        "CREATE INDEX by_due ON jobs (due) WHERE state = 'waiting'",
        "CREATE INDEX wished ON jobs (id) WHERE wish <> ''",
        "CREATE INDEX old ON jobs (id) WHERE NOT current",
    ),
)


def as_row(entry: Entry) -> tuple[Any, ...]:
    """What SQLite is given, one value for each of COLUMNS."""
    mark = entry.mark
    changed = {
        "folder": os.fsencode(entry.folder),
        "source": os.fsencode(entry.source),
        "target": os.fsencode(entry.target),
        "state": str(entry.state),
        "mark": f"{mark.size} {mark.mtime_ns} {mark.inode}",
        "reason": as_bytes(entry.reason),
        "failure": None if entry.failure is None else json.dumps(entry.failure),
    }
    return tuple(changed[column] if column in changed else getattr(entry, column) for column in COLUMNS)


def as_entry(row: Sequence[Any]) -> Entry:
    """The entry that lies in these columns. Raises ValueError, TypeError, AttributeError where none does."""
    facts = dict(zip(COLUMNS, row, strict=True))
    for path in ("folder", "source", "target"):
        facts[path] = os.fsdecode(facts[path])
    facts["state"] = State(facts["state"])
    facts["mark"] = as_mark(facts["mark"])
    facts["reason"] = facts["reason"].decode("utf-8", "surrogatepass")
    facts["failure"] = facts["failure"] and json.loads(facts["failure"])
    facts["current"] = bool(facts["current"])
    return Entry(**facts)


def as_known(row: Sequence[Any]) -> Known:
    """The same for mark, state, id and target."""
    mark, state, number, target = row
    return Known(as_mark(mark), _STATES[state], number, os.fsdecode(target))


def as_mark(text: str) -> Mark:
    """The mark that lies in a column."""
    size, mtime_ns, inode = text.split()
    return Mark(int(size), int(mtime_ns), int(inode))


def as_bytes(text: str) -> bytes:
    """A sentence, whatever it holds."""
    return text.encode("utf-8", "surrogatepass")
