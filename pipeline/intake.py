"""From what lies in the watched folders to rows in the table: what each clip shall become, and whether it is a new one.

Results keep their place: IN/day 1/a.mkv becomes OUT/day 1/a.mp4. Where another clip's result has that name already
(a.mkv beside a.mp4), the whole name is kept: a.mkv.mp4. A file that is not ours is never written over: the job is
blocked, and says so.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline import result
from pipeline.inbox import Arrival, Inbox, WatchConfig
from pipeline.jobs import Entry, State, Table
from pipeline.lanes import Station
from pipeline.logs import for_job
from pipeline.set_aside import digest

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """A watched folder and what becomes of the clips in it."""

    config: WatchConfig
    station: Station
    suffix_for: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A clip that has the size and date of one that is done, but is another file; its content decides."""

    inbox: Inbox
    arrival: Arrival
    entry: Entry
    sha256: Future[str]


class Intake:
    """Puts what has arrived into the table; keeps what the table would not take for the next time."""

    def __init__(self, table: Table, places: Mapping[Inbox, Place]) -> None:
        self.places = places
        self._table = table
        self._arrived: deque[tuple[Inbox, Arrival]] = deque()
        self._doubts: list[_Doubt] = []
        self._stopping = False
        self._reader = ThreadPoolExecutor(1, "digests")

    def close(self) -> None:
        """Gives up what is being compared; it will come again."""
        self._stopping = True
        self._reader.shutdown(cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Whether anything has arrived that is not in the table yet."""
        return bool(self._arrived or self._doubts)

    def take(self) -> None:
        """Accepts what has become ready. Raises TableError; nothing is lost then."""
        for inbox in self.places:
            self._arrived.extend((inbox, arrival) for arrival in inbox.take())
        for doubt in [doubt for doubt in self._doubts if doubt.sha256.done()]:
            self._decide(doubt)
            self._doubts.remove(doubt)
        while self._arrived:
            inbox, arrival = self._arrived[0]
            known = self._table.current(str(arrival.source))
            if arrival.moved and known is not None and known.state is State.DONE and known.digest:
                self._doubts.append(_Doubt(inbox, arrival, known, self._reader.submit(self._digest, arrival.source)))
            elif known is None or known.state is not State.RUNNING:
                self._accept(inbox, arrival)
            self._arrived.popleft()

    def _digest(self, source: Path) -> str:
        try:
            return digest(source, lambda: self._stopping)
        except OSError:
            return ""  # gone, or not to be read: it is looked at again

    def _decide(self, doubt: _Doubt) -> None:
        if doubt.sha256.result() == doubt.entry.digest:
            self._table.replace_mark(doubt.entry.id, doubt.arrival.mark)
            _log.info("%s is the clip that is done already", doubt.arrival.source)
        elif doubt.sha256.result():
            self._accept(doubt.inbox, doubt.arrival)

    def _accept(self, inbox: Inbox, arrival: Arrival) -> None:
        place, source = self.places[inbox], arrival.source
        target, trouble = self._target(place, source)
        config = place.config
        entry = self._table.accept(
            str(config.inbox.absolute()), str(source), str(target), arrival.mark, config.priority, arrival.seen
        )
        log = for_job(_log, entry.id, str(source))
        trouble = trouble or arrival.fault
        if arrival.fault:
            self._table.fail(entry.id, trouble, None, time.time())
            log.error("given up: %s", trouble)
        elif trouble:
            self._table.block(entry.id, trouble, time.time())
            log.error("blocked: %s", trouble)
        else:
            log.info("taken")

    def _target(self, place: Place, source: Path) -> tuple[Path, str]:
        """What the clip becomes, and why that cannot be; empty where it can."""
        config = place.config
        beside = config.out.absolute() / source.parent.relative_to(config.inbox.absolute())
        suffix = place.suffix_for(str(source))
        for name in (source.stem + suffix, source.name + suffix):
            target = beside / name
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
