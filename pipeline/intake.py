"""From what lies in the watched folders to rows in the table: what each clip shall become, and whether it is a new one.

Results keep their place: IN/day 1/a.mkv becomes OUT/day 1/a.mp4. Where another clip's result has that name already
(a.mkv beside a.mp4), the whole name is kept: a.mkv.mp4. A file that is not ours is never written over: the job is
blocked, and says so.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import live, result
from pipeline.daemon_config import Setup, Watched
from pipeline.inbox import Arrival, mark_of
from pipeline.jobs import Entry, State, Table
from pipeline.logs import for_job
from pipeline.lookout import Lookout, Seen
from pipeline.originals import digest
from pipeline.rebuild import ended

_log = logging.getLogger(__name__)

#: So many clips are put into the table in one transaction.
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A clip that has the size and date of one that is done, but is another file; its content decides."""

    folder: Watched
    arrival: Arrival
    entry: Entry
    sha256: Future[str]


class Intake:
    """Puts what has arrived into the table; keeps what the table would not take for the next time."""

    def __init__(self, setup: Setup, table: Table, wake: Callable[[], None]) -> None:
        """`wake` is called, in other threads, when `take` has something to do."""
        self._setup = setup
        self._table = table
        self._wake = wake
        self._seen: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        self._arrived: deque[tuple[Watched, Arrival]] = deque()
        self._gone: deque[Path] = deque()
        self._doubts: list[_Doubt] = []
        self._stopping = False
        self._reader = ThreadPoolExecutor(1, "digests")
        self._lookouts: dict[str, Lookout] = {}

    def begin(self) -> None:
        """Begins to look."""
        config = self._setup.config
        own = [place for folder in self._setup.folders for place in folder.config.own_folders.values()]
        excluded = [config.state, config.work_folder, *own]
        for folder in self._setup.folders:
            known = self._table.known(folder.name)
            nested = [Path(other.name) for other in self._setup.folders if other is not folder]
            self._lookouts[folder.name] = Lookout(folder, known, [*excluded, *nested], self._told)

    def close(self) -> None:
        """Looks no more, and gives up what is being compared; it will come again."""
        self._stopping = True
        for lookout in self._lookouts.values():
            lookout.close()
        self._reader.shutdown(cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Whether anything has arrived that is not in the table yet, or may be about to."""
        waiting = bool(self._arrived or self._gone or self._doubts) or not self._seen.empty()
        return waiting or not all(lookout.settled for lookout in self._lookouts.values())

    def shown(self) -> tuple[live.Folder, ...]:
        """The watched folders for those who look."""
        return tuple(lookout.shown() for lookout in self._lookouts.values())

    def take(self) -> None:
        """Puts what has become ready into the table. Raises TableError; nothing is lost then."""
        with suppress(queue.Empty):
            while True:
                seen = self._seen.get_nowait()
                self._arrived.extend((seen.folder, arrival) for arrival in seen.arrivals)
                self._gone.extend(seen.gone)
        for doubt in [doubt for doubt in self._doubts if doubt.sha256.done()]:
            self._decide(doubt)
            self._doubts.remove(doubt)
        while self._arrived:
            some = [self._arrived[n] for n in range(min(_AT_ONCE, len(self._arrived)))]
            with self._table.together():
                for folder, arrival in some:
                    self._arrive(folder, arrival)
            for _ in some:
                self._arrived.popleft()
        while self._gone:
            self._vanish(self._gone[0])
            self._gone.popleft()

    def look(self, entry: Entry) -> None:
        """Has somebody look again at where a job's clip lies: it may be another one by now."""
        if (lookout := self._lookouts.get(entry.folder)) is not None:
            lookout.look(Path(entry.source), entry.mark)

    def is_there(self, entry: Entry) -> bool:
        """Whether the clip of a job that shall begin lies there unchanged; else it is seen to."""
        source = Path(entry.source)
        try:
            mark = mark_of(source)
        except OSError as error:
            self._table.claim(entry.id, time.time())
            self._table.release(entry.id, f"it cannot be read: {error.strerror}", time.time() + 10, counted=False)
            return False
        if mark is None:
            self._vanish(source)
            return False
        if mark != entry.mark:
            self.look(entry)
            self._postpone(entry)
            return False
        return True

    def _postpone(self, entry: Entry) -> None:
        """Not before whoever looks has had the time to see what lies there now."""
        self._table.claim(entry.id, time.time())
        self._table.release(entry.id, "the clip has changed since it was taken", time.time() + 5, counted=False)

    def _told(self, seen: Seen) -> None:
        self._seen.put(seen)
        self._wake()

    def _digest(self, source: Path) -> str:
        try:
            return digest(source, lambda: self._stopping)
        except OSError:
            return ""  # gone, or not to be read: it is looked at again
        finally:
            self._wake()

    def _decide(self, doubt: _Doubt) -> None:
        if doubt.sha256.result() == doubt.entry.digest:
            self._table.replace_mark(doubt.entry.id, doubt.arrival.mark)
            for_job(_log, doubt.entry.id, doubt.entry.source).info("done already: this is the same clip")
        elif doubt.sha256.result():
            self._accept(doubt.folder, doubt.arrival)

    def _vanish(self, source: Path) -> None:
        entry = self._table.current(str(source))
        if entry is not None and entry.state is not State.RUNNING:
            self._table.vanish([entry.id])
            if entry.state is State.WAITING:
                for_job(_log, entry.id, entry.source).warning("cancelled: the clip is gone")
            if (lookout := self._lookouts.get(entry.folder)) is not None:
                lookout.forget(source)

    def _arrive(self, folder: Watched, arrival: Arrival) -> None:
        known = self._table.current(str(arrival.source))
        if known is not None and known.state is State.RUNNING:
            return  # it is looked at again when that has ended
        if arrival.moved and known is not None and known.state is State.DONE and known.digest:
            self._doubts.append(_Doubt(folder, arrival, known, self._reader.submit(self._digest, arrival.source)))
        elif known is None and (before := ended(folder.place, arrival.source, lambda: not self._stopping)) is not None:
            entry = self._table.put(before)  # of a folder that could not be reached when the table was rebuilt
            for_job(_log, entry.id, entry.source).info("%s already, before the table was lost", entry.state)
        else:
            self._accept(folder, arrival)

    def _accept(self, folder: Watched, arrival: Arrival) -> None:
        source = str(arrival.source)
        target, trouble = self._target(folder, arrival.source)
        entry = self._table.accept(folder.name, source, str(target), arrival.mark, folder.config.priority, arrival.seen)
        log = for_job(_log, entry.id, source)
        if arrival.fault:
            self._table.fail(entry.id, arrival.fault, None, time.time())
            log.error("failed: %s", arrival.fault)
        elif trouble:
            self._table.block(entry.id, trouble, time.time())
            log.error("blocked: %s", trouble)
        else:
            log.info("taken")

    def _target(self, folder: Watched, source: Path) -> tuple[Path, str]:
        """What the clip becomes, and why that cannot be; empty where it can."""
        for target in folder.targets(source):
            owner = self._table.owner(str(target))
            if owner is not None and owner.source != str(source):
                continue
            if owner is None and target.exists() and not _made_from(target, source):
                return target, f"{target} exists already and was not made from this clip; move it away, then retry"
            return target, ""
        return target, f"{target} is another clip's result already; rename this clip"


def _made_from(target: Path, source: Path) -> bool:
    report = result.read(result.path_for(str(target)))
    made = report.get("source") if report else None
    return isinstance(made, dict) and made.get("path") == str(source)
