"""Where the daemon's page has it from: files that the daemon leaves, and its table of jobs.

The page can be started and stopped at any time and costs the daemon nothing. What somebody wants done is written into
the table, which is where the daemon finds it.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline import checkpoints, jobs, live, result
from pipeline.errors import TableError
from pipeline.jobs import Entry, State, Table
from pipeline.live import Live
from pipeline.metrics import is_alive
from pipeline.space import free_bytes

#: Bytes of a preview or a contact sheet that is shown.
_LARGEST = 16 << 20

_ROOM_S = 10.0  # what is free is asked so often, while somebody looks
_AT_ONCE_S = 0.05  # and waited for so long

#: The beginning of every JPEG.
_JPEG = b"\xff\xd8\xff"

#: Later than any job can be due.
_EVER = 1e18


@dataclass(frozen=True, slots=True)
class Now:
    """The daemon at one moment.

    Attributes:
        time: seconds since the epoch.
        live: what it last said; None where it has said nothing that can be read.
        counts: jobs by state; empty where the table cannot be read.
        trouble: why that is so.
        free: bytes that are free, by folder.
    """

    time: float
    live: Live | None
    counts: Mapping[State, int]
    trouble: str
    free: Mapping[str, int]

    @property
    def alive(self) -> bool:
        """Whether it was heard from lately."""
        return is_alive(self.live, self.time)

    @property
    def reason(self) -> str:
        """What is wrong with it, in a sentence; empty where all is well."""
        if self.live is None:
            return "no daemon has been heard from yet"
        if not self.alive:
            return f"the daemon has not been heard from for {self.time - self.live.time:.0f} s"
        return self.live.reason or self.trouble

    @property
    def ready(self) -> bool:
        """Whether clips are taken and can be made."""
        return self.alive and self.live is not None and self.live.ready


class Source(Protocol):
    """What the page asks. Threads may ask at the same time; TableError where the table cannot be read or written."""

    def now(self) -> Now:
        """The daemon as it is; what cannot be read is said in it."""
        ...

    def waiting(self, most: int) -> Sequence[Entry]:
        """The next jobs, in the order in which they will be begun."""
        ...

    def listing(self, states: Collection[State], most: int, before: int = 0, search: str = "") -> Sequence[Entry]:
        """As `jobs.Table.listing`."""
        ...

    def entry(self, job: int) -> Entry | None:
        """One job."""
        ...

    def report(self, entry: Entry) -> Mapping[str, Any] | None:
        """The report beside the result of a job that is done."""
        ...

    def preview(self, job: int) -> bytes | None:
        """A JPEG of the frame of a running clip that is being made, before and after; asking has it made."""
        ...

    def sheet(self, job: int) -> bytes | None:
        """A JPEG of frames of a finished clip."""
        ...

    def sheets(self, some: Collection[int]) -> frozenset[int]:
        """Of which of these jobs there is one."""
        ...

    def retry(self, job: int) -> None:
        """Has it done anew. Raises jobs.Refused."""
        ...

    def cancel(self, job: int) -> None:
        """Has it not done, or not done to its end. Raises jobs.Refused."""
        ...

    def prioritise(self, job: int, priority: int) -> None:
        """Has it done sooner or later than others. Raises jobs.Refused."""
        ...


class Files:
    """The source of a daemon whose state lies in a folder.

    Files are found by numbers alone, or by what the daemon has said: no name that came with a request is ever opened.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._table = state / jobs.FILE
        self._rooms = _Rooms()

    def now(self) -> Now:
        """As `Source.now`."""
        said = live.read(self._state)
        counts: Mapping[State, int] = {}
        trouble = ""
        try:
            with self._looking() as table:
                counts = table.counts()
        except TableError as error:
            trouble = str(error)
        return Now(time.time(), said, counts, trouble, self._rooms.free(said, self._state))

    def waiting(self, most: int) -> Sequence[Entry]:
        """As `Source.waiting`."""
        with self._looking() as table:
            return table.waiting(_EVER, most)

    def listing(self, states: Collection[State], most: int, before: int = 0, search: str = "") -> Sequence[Entry]:
        """As `Source.listing`."""
        with self._looking() as table:
            return table.listing(states, most, before, search)

    def entry(self, job: int) -> Entry | None:
        """As `Source.entry`."""
        with self._looking() as table:
            return table.entry(job)

    def report(self, entry: Entry) -> Mapping[str, Any] | None:
        """As `Source.report`."""
        return result.read(result.path_for(entry.target)) if entry.state is State.DONE else None

    def preview(self, job: int) -> bytes | None:
        """As `Source.preview`."""
        said = live.read(self._state)
        clip = next((clip for clip in said.running if clip.job == job), None) if said is not None else None
        if said is None or clip is None or Path(clip.preview).name != checkpoints.PREVIEW:
            return None
        with suppress(OSError):
            (Path(said.watched) / checkpoints.WATCHED).touch()
        return _picture(Path(clip.preview))

    def sheet(self, job: int) -> bytes | None:
        """As `Source.sheet`."""
        return _picture(self._sheet(job))

    def sheets(self, some: Collection[int]) -> frozenset[int]:
        """As `Source.sheets`."""
        return frozenset(job for job in some if self._sheet(job).exists())

    def retry(self, job: int) -> None:
        """As `Source.retry`."""
        self._change(lambda table: table.retry(job))

    def cancel(self, job: int) -> None:
        """As `Source.cancel`."""
        self._change(lambda table: table.withdraw(job, time.time()))

    def prioritise(self, job: int, priority: int) -> None:
        """As `Source.prioritise`."""
        self._change(lambda table: table.prioritise(job, priority))

    def _looking(self) -> Table:
        return Table.looking(self._table)

    def _change(self, change: Callable[[Table], object]) -> None:
        with Table.open(self._table, make=False) as table:
            change(table)

    def _sheet(self, job: int) -> Path:
        return self._state / "sheets" / f"{job:d}.jpg"


class _Rooms:
    """What is free in folders, as it was lately: a share that does not answer shall not keep the page from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Mapping[str, int] = {}
        self._asked = -_ROOM_S
        self._asking: threading.Thread | None = None

    def free(self, said: Live | None, state: Path) -> Mapping[str, int]:
        """Bytes by folder; nothing of those that have not answered yet."""
        folders = {str(state.absolute())}
        if said is not None:
            folders |= {folder.out for folder in said.folders} | {said.watched} - {""}
        with self._lock:
            if self._asking is None and time.monotonic() - self._asked >= _ROOM_S:
                self._asked = time.monotonic()
                self._asking = threading.Thread(target=self._ask, args=(sorted(folders),), name="room", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking is not None:
            asking.join(_AT_ONCE_S)
        return self._known

    def _ask(self, folders: Sequence[str]) -> None:
        found = {}
        for folder in folders:
            with suppress(OSError):
                found[folder] = free_bytes(Path(folder))
        self._known = found
        with self._lock:
            self._asking = None


def _picture(path: Path) -> bytes | None:
    """A JPEG's content; None where there is none, it is large, or it is something else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = file.read(_LARGEST + 1)
    return content if len(content) <= _LARGEST and content.startswith(_JPEG) else None
