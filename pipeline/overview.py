"""A daemon seen from outside, by what it leaves in its folder: what it last said of itself, and its table of jobs."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import live
from pipeline.errors import TableError
from pipeline.jobs import FILE, Damaged, Entry, State, Table

#: A daemon that has said nothing for longer than this is down, or stuck.
SILENT_S = 15.0

#: States of jobs that wait for somebody to do something.
TROUBLED = (State.FAILED, State.BLOCKED)


@dataclass(frozen=True, slots=True)
class Overview:
    """What can be seen of a daemon at the time `now` (seconds since the epoch).

    Attributes:
        folder: the daemon's.
        live: what it last said; None where there is nothing of it.
        there: whether its process is there.
        counts: of jobs, by state; None where there is no table, or none that can be read.
        troubled: the last jobs that failed or are blocked, newest first, but for those whose clip was replaced since;
            `more` whether there are others.
        trouble: why the table cannot be read, in a sentence.
    """

    folder: Path
    now: float
    live: live.Live | None = None
    there: bool = False
    counts: dict[State, int] | None = None
    troubled: tuple[Entry, ...] = ()
    more: bool = False
    trouble: str = ""

    @property
    def up(self) -> bool:
        """Whether the daemon runs: its process is there, and it has been heard lately."""
        return self.there and self.silent_s <= SILENT_S

    @property
    def silent_s(self) -> float:
        """For how long nothing has been heard of it."""
        return abs(self.now - self.live.time) if self.live is not None else float("inf")

    @property
    def state(self) -> str:
        """As `live.Live.state`, or "down"."""
        return self.live.state if self.live is not None and self.up else "down"


def look(folder: Path, now: float, most: int = 5) -> Overview:
    """What can be seen at `now`, with the `most` last troubled jobs. Raises nothing: what cannot be read is said."""
    said = live.read(folder)
    there = said is not None and _is_there(said.pid)
    try:
        with Table.looking(folder / FILE) as table:
            counts = table.counts()
            last = table.listing(TROUBLED, limit=20 * most)
            troubled = [entry for entry in last if entry.current or table.current(entry.source) is None]
    except TableError as error:
        trouble = "" if error.errno == errno.ENOENT else said_of(error)
        return Overview(folder, now, said, there, trouble=trouble)
    return Overview(folder, now, said, there, counts, tuple(troubled[:most]), len(troubled) > most)


def said_of(error: TableError) -> str:
    """What is wrong with a table, and what becomes of it."""
    mended = "; the daemon keeps it and makes another one from the folders when it is started"
    return f"{error}{mended if isinstance(error, Damaged) else ''}"


def as_json(seen: Overview, mending: Sequence[str]) -> dict[str, Any]:
    """The overview for machines; `mending` are the words before a job's number that have it tried again."""
    return {
        "up": seen.up,
        "state": seen.state,
        "folder": str(seen.folder),
        "live": asdict(seen.live) if seen.live is not None else None,
        "counts": seen.counts and {str(state): count for state, count in seen.counts.items()},
        "failures": [
            {
                "job": entry.id,
                "state": str(entry.state),
                "source": entry.source,
                "target": entry.target,
                "reason": entry.reason,
                "failure": entry.failure,
                "attempts": entry.attempts,
                "ended": entry.ended,
                "retry": [*mending, str(entry.id)] if entry.current else None,
            }
            for entry in seen.troubled
        ],
        "trouble": seen.trouble,
    }


def _is_there(pid: int) -> bool:
    if pid < 1:  # to the system these are groups of processes
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
