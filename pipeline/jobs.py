"""The table of jobs: the truth about what was accepted, is at work, and has ended. SQLite, in a folder of the daemon's.

A row is one clip as it lay in a watched folder. It is in exactly one state, and every change of state is one
transaction that is on the disk when the call returns. Of several rows of the same path, only the newest is `current`:
the others are what that path held before it was replaced.

    waiting ──claim──> running ──finish──> done
       ^  ^               │ ├────fail────> failed
       │  └───release─────┘ ├────block───> blocked
       └──────retry───────────────────────── any that has ended
    waiting, running ──cancel──> cancelled
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """What has become of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"


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
