"""From what lies in the watched folders to rows in the table: what each clip shall become, and whether it is a new one.

Results keep their place: IN/day 1/a.mkv becomes OUT/day 1/a.mp4. Where another clip's result has that name already
(a.mkv beside a.mp4), the whole name is kept: a.mkv.mp4. A file that is not ours is never written over; one of ours is
where its clip was replaced.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline import live, result
from pipeline.daemon_config import Setup, Watched
from pipeline.inbox import Arrival, mark_of
from pipeline.jobs import Entry, State, Table
from pipeline.logs import for_job
from pipeline.lookout import Lookout, Seen
from pipeline.originals import digest, namesakes
from pipeline.rebuild import ended

_log = logging.getLogger(__name__)

#: So many clips are seen to in one transaction.
_AT_ONCE = 100

#: A job whose clip is not what it was waits so long, for whoever looks to see what lies there now.
_LOOK_S = 1.0

#: The same where it cannot be read.
_UNREADABLE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A clip that may have been done already, which its content tells: the `answer` is as what; None: it is new."""

    folder: Watched
    arrival: Arrival
    answer: Future[Entry | None]


class Intake:
    """Puts what has arrived into the table; keeps what the table would not take for the next time."""

    def __init__(self, setup: Setup, table: Table, wake: Callable[[], None], refused: Callable[[Entry], None]) -> None:
        """`wake` is called, in other threads, when `take` has something to do; `refused` about what failed before it
        was begun."""
        self._setup = setup
        self._table = table
        self._wake = wake
        self._refused = refused
        self._seen: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        self._news: deque[tuple[Watched, Arrival | Path]] = deque()  # a path: what lay there is gone
        self._doubts: dict[Path, _Doubt] = {}
        self._missed: set[int] = set()  # jobs whose clips were not there
        self._stopping = False
        self._reader = ThreadPoolExecutor(1, "digests")
        self._lookouts: dict[str, Lookout] = {}

    def begin(self) -> None:
        """Begins to look. Raises TableError; nothing has begun then."""
        config, folders = self._setup.config, self._setup.folders
        own = [place for folder in folders for place in folder.config.own_folders.values()]
        known = {folder.name: self._table.known(folder.name) for folder in folders}
        for folder in folders:
            nested = [Path(other.name) for other in folders if other is not folder]
            excluded = [config.state, config.work_folder, *own, *nested]
            self._lookouts[folder.name] = Lookout(folder, known[folder.name], excluded, self._told)

    def close(self) -> None:
        """Looks no more, and gives up what is being compared; it will come again."""
        self._stopping = True
        for lookout in self._lookouts.values():
            lookout.close()
        self._reader.shutdown(cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Whether anything has arrived that is not in the table yet, or may be about to."""
        settled = all(lookout.settled for lookout in self._lookouts.values())  # asked first: it tells, then it settles
        return not (settled and self._seen.empty()) or bool(self._news or self._doubts)

    @property
    def shown(self) -> tuple[live.Folder, ...]:
        """The watched folders for those who look."""
        return tuple(lookout.shown for lookout in self._lookouts.values())

    # --- what arrives and goes --------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Puts into the table what has become ready, some of it, if it is much; whether there was anything.

        Raises TableError; nothing is lost then.
        """
        with suppress(queue.Empty):
            while True:
                seen = self._seen.get_nowait()
                self._news.extend((seen.folder, path) for path in seen.gone)
                self._news.extend((seen.folder, arrival) for arrival in seen.arrivals)
        answered = [doubt for doubt in self._doubts.values() if doubt.answer.done()]
        some = list(islice(self._news, _AT_ONCE))
        if not answered and not some:
            return False
        with self._table.together():
            changed = [self._decide(doubt) for doubt in answered]
            changed += [self._heed(folder, what) for folder, what in some]
        for doubt in answered:
            if self._doubts.get(doubt.arrival.source) is doubt:  # no other one by now
                del self._doubts[doubt.arrival.source]
        for _ in some:
            self._news.popleft()
        for entry in changed:
            if entry is not None:
                self._say(entry)
        if self._news:
            self._wake()
        return True

    def look(self, entry: Entry) -> None:
        """Has somebody look again at where a job's clip lies: it may be another one by now."""
        if (lookout := self._lookouts.get(entry.folder)) is not None:
            lookout.look(Path(entry.source), entry.mark)

    def _told(self, seen: Seen) -> None:
        self._seen.put(seen)
        self._wake()

    def _heed(self, folder: Watched, what: Arrival | Path) -> Entry | None:
        """The row that has changed, where somebody is to hear of that."""
        return self._vanish(what) if isinstance(what, Path) else self._arrive(folder, what)

    def _vanish(self, source: Path) -> Entry | None:
        entry = self._table.current(str(source))
        if entry is None or entry.state is State.RUNNING:
            return None  # that ends first
        self._table.vanish([entry.id])
        if (lookout := self._lookouts.get(entry.folder)) is not None:
            lookout.forget(source)
        return self._table.entry(entry.id) if entry.state in (State.WAITING, State.BLOCKED) else None

    def _arrive(self, folder: Watched, arrival: Arrival) -> Entry | None:
        known = self._table.current(str(arrival.source))
        if known is not None and _is_seen_to(known, arrival):
            return None
        question = self._question(folder, arrival, known)
        if question is None:
            return self._accept(folder, arrival)
        before = self._doubts.get(arrival.source)
        if before is None or before.arrival != arrival:
            self._doubts[arrival.source] = _Doubt(folder, arrival, self._reader.submit(self._answer, question))
        return None

    def _accept(self, folder: Watched, arrival: Arrival) -> Entry:
        source = str(arrival.source)
        target, priority = self._target(folder, arrival.source), folder.config.priority
        entry = self._table.accept(folder.name, source, str(target), arrival.mark, priority, arrival.seen)
        return self._table.fail(entry.id, arrival.fault, None, time.time()) if arrival.fault else entry

    def _target(self, folder: Watched, source: Path) -> Path:
        """What the clip becomes: the first name that is no other clip's result.

        Where originals are put away, an earlier clip of this name is another one, and may be known by its result alone.
        """
        targets = folder.targets(source)
        keeps = folder.config.on_done != "leave"
        for target in (*targets, *(islice(namesakes(targets[0]), 1, None) if keeps else ())):
            owner = self._table.owner(str(target))
            if (owner is None or owner.source == str(source)) and not (keeps and os.path.lexists(target)):
                return target
        return targets[-1]

    def _say(self, entry: Entry) -> None:
        log = for_job(_log, entry.id, entry.source)
        match entry.state:
            case State.WAITING:
                log.info("taken")
            case State.DONE:
                log.info("done already: this is the same clip")
            case State.CANCELLED:
                log.warning("cancelled: the clip is gone")
            case _:
                self._refused(entry)

    # --- what may have been done --------------------------------------------------------------------------------------

    def _question(self, folder: Watched, arrival: Arrival, known: Entry | None) -> Callable[[], Entry | None] | None:
        """What is to be found out about a clip that may have been done; None where that cannot be."""
        if known is not None:
            doubtful = arrival.moved and known.state is State.DONE and known.digest and not arrival.fault
            return partial(self._same, known) if doubtful else None
        reports = [str(result.path_for(str(target))) for target in folder.targets(arrival.source)]
        return partial(self._made, folder, arrival.source) if any(map(os.path.isfile, reports)) else None

    def _answer(self, question: Callable[[], Entry | None]) -> Entry | None:
        try:
            return question()
        finally:
            self._wake()

    def _same(self, done: Entry) -> Entry | None:
        """What has the size and date of a clip that is done, but is another file."""
        return done if digest(Path(done.source), lambda: self._stopping) == done.digest else None

    def _made(self, folder: Watched, source: Path) -> Entry | None:
        """What is new to the table, but beside whose result lies a report: the table may have been lost."""
        found = ended(folder.place, source, lambda: not self._stopping)
        return found if found is not None and found.state is State.DONE else None

    def _decide(self, doubt: _Doubt) -> Entry | None:
        arrival = doubt.arrival
        known = self._table.current(str(arrival.source))
        if known is not None and _is_seen_to(known, arrival):
            return None
        try:
            done = doubt.answer.result()
        except OSError:  # it is gone, or not to be read now
            if known is not None:
                self.look(known)
            return None
        if done is not None and known is None:
            return self._table.put(done)
        if done is not None and known is not None and (known.id, known.state) == (done.id, State.DONE):
            return self._table.replace_mark(known.id, arrival.mark)
        return self._accept(doubt.folder, arrival)

    # --- what shall begin ---------------------------------------------------------------------------------------------

    @property
    def unreadable(self) -> set[str]:
        """The folders whose clips cannot be got at now."""
        return {name for name, lookout in self._lookouts.items() if lookout.shown.trouble}

    def is_there(self, entry: Entry) -> bool:
        """Whether the clip of a job that shall begin lies there unchanged; else it is seen to."""
        source = Path(entry.source)
        try:
            mark = mark_of(source)
        except OSError as error:
            self._postpone(entry, f"it cannot be read: {error.strerror}", _UNREADABLE_S)
            return False
        if mark == entry.mark:
            self._missed.discard(entry.id)
            return True
        if mark is None and entry.id in self._missed and self._lookouts[entry.folder].has_obeyed:
            self._missed.discard(entry.id)
            if (gone := self._vanish(source)) is not None:
                self._say(gone)
            return False
        if mark is None:  # is it gone, or all of the share? Whoever looks finds out
            self._missed.add(entry.id)
        self.look(entry)
        self._postpone(entry, "the clip is gone or has changed since it was taken", _LOOK_S)
        return False

    def _postpone(self, entry: Entry, reason: str, seconds: float) -> None:
        now = time.time()
        with self._table.together():
            self._table.claim(entry.id, now)
            self._table.release(entry.id, reason, now + seconds, counted=False)

    def hindrance(self, entry: Entry) -> str:
        """What is in the way of the result of a job that shall begin, in a sentence; empty where nothing is."""
        owner = self._table.owner(entry.target)
        if owner is not None and owner.source != entry.source:
            return f"{entry.target} is the result of {owner.source}; rename this clip"
        if os.path.lexists(entry.target) and not _is_made_from(entry.source, entry.target):
            return f"{entry.target} exists already and was not made from this clip; move it away, then retry"
        return ""


def _is_seen_to(known: Entry, arrival: Arrival) -> bool:
    """Whether nothing has to be done about a clip. One that runs is looked at again when that has ended."""
    return known.state is State.RUNNING or known.mark == arrival.mark


def _is_made_from(source: str, target: str) -> bool:
    report = result.read(result.path_for(target))
    made = report.get("source") if report else None
    return isinstance(made, dict) and made.get("path") == source
