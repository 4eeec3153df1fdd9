"""What a running daemon holds, and what it does with it again and again."""

from __future__ import annotations

import errno
import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pipeline import live, outcomes
from pipeline.clerk import Clerk
from pipeline.daemon_config import Setup, Watched
from pipeline.dispatch import BLOCKING, GOES_ON, Dispatch, Lanes, Turn
from pipeline.errors import ConfigError, ConsentError, InputError, PublishError, TableError, UnderstudyError
from pipeline.inbox import WatchConfig
from pipeline.intake import Intake
from pipeline.jobs import Entry, Refused, State, Table
from pipeline.lanes import Ended, Event, Lane, Left, Station
from pipeline.logs import for_job
from pipeline.retries import Kind, Verdict
from pipeline.space import FULL, Space
from pipeline.specs import Outcome
from pipeline.telling import Teller
from pipeline.types import Job

_log = logging.getLogger(__name__)

#: Looked up so often, whatever happens.
_TICK_S = 1.0

#: Waiting jobs that are looked at in one go.
_SOME = 32

#: Of the table's own: it goes on when these have passed.
_PASSING = FULL | {errno.EIO, errno.EBUSY, errno.EAGAIN}

#: After a stop, engines may take so much longer than what is being published.
_LEAVING_S = 8.0

#: After these a clip is not begun again by itself.
_FINAL = (Kind.FAILED, Kind.SET_ASIDE, Kind.BLOCKED)

#: What is left of jobs that have ended is looked for so often.
_SWEEP_S = 60.0

#: Whether those have agreed by now without whom nothing is made is asked so often.
_ASK_S = 10.0


class Shift:
    """Does all that there is to do, turn by turn, in one thread. Every method but `close` may raise TableError."""

    def __init__(
        self,
        setup: Setup,
        table: Table,
        clerk: Clerk,
        events: queue.SimpleQueue[Event | None],
        tell: Callable[[Outcome, Lane | None], None],
        once: bool = False,
    ) -> None:
        """`tell` gets the outcome of each clip, and its lane where it came to one. `once`: it shall come to an end."""
        config = setup.config
        self.failed = 0
        self.trouble = ""  # why nothing is begun now
        self._setup = setup
        self._table = table
        self._clerk = clerk
        self._events = events
        self._tell = tell
        self._ended: deque[Event] = deque()
        self._draining = False
        self._deadline = 0.0
        self._swept = float("-inf")
        self._hopeful = False  # what is blocked may be tried again
        self._stations: dict[str, Station] = {}  # by folder, for one turn
        self._reasons: dict[str, str] = {}  # why the folder's last job was blocked
        self._unagreed: dict[str, set[int]] = {}  # by folder, the jobs that wait for somebody's consent
        self._asked = 0.0  # when that was last looked for
        self.lanes = Lanes(config.engines, config.devices, events.put, patient=not once)
        self._dispatch = Dispatch(table, self.lanes, config.work_folder, config.checkpoint_s)
        self._intake = self._intake_for(setup)
        self._space = _space(setup)

    def _intake_for(self, setup: Setup) -> Intake:
        return Intake(setup, self._table, lambda: self._events.put(None), self._refused)

    # --- life -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Makes up for what the last run had not come to, and begins to look."""
        folders = {folder.name: folder.config for folder in self._setup.folders}
        self._clerk.recover(folders)
        self._dispatch.sweep()
        for name, config in folders.items():
            self._clerk.catch_up(config, self._table.known(name))
        self._unblock()
        self._intake.begin()

    def change(self, setup: Setup) -> None:
        """Goes on with another configuration.

        Raises:
            ConfigError: something cannot be changed on the way. All is as it was then, as after any other error.
        """
        fixed = ("state", "work", "engines", "devices", "page", "retry")
        if changed := [name for name in fixed if getattr(setup.config, name) != getattr(self._setup.config, name)]:
            raise ConfigError(f"daemon.{' and daemon.'.join(changed)} can only be changed by a restart")
        wanted = _keys(setup)
        intake = self._intake_for(setup)
        intake.begin()
        self._intake.close()
        self._intake, self._setup, self._space = intake, setup, _space(setup)
        self._dispatch = Dispatch(self._table, self.lanes, setup.config.work_folder, setup.config.checkpoint_s)
        self.lanes.forgive()
        for lane in self.lanes.all:
            if lane.station.engine_key not in wanted:
                lane.stop()
        self._hopeful = True

    def drain(self) -> None:
        """Has the lanes end: what is being published may come to its end, the rest is left at its last checkpoint."""
        self._draining = True
        self._deadline = time.monotonic() + self._setup.config.drain_s + _LEAVING_S
        self.lanes.stop(self._setup.config.drain_s)

    @property
    def drained(self) -> bool:
        """Whether all has ended that `drain` has told to, or had the time to."""
        return not (self.lanes.all or self._ended) or time.monotonic() >= self._deadline

    def close(self) -> None:
        """Leaves nothing running."""
        self.lanes.stop(0.0)
        for lane in self.lanes.all:
            lane.join()
        self._intake.close()

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to do, nor anything about to arrive."""
        open_ = self._table.counts()
        return not (
            self._ended or self._intake.busy or open_[State.WAITING] or open_[State.RUNNING] or self._clerk.busy
        )

    @property
    def arriving(self) -> tuple[live.Arriving, ...]:
        """The files that are not taken yet."""
        return tuple(file for folder in self._intake.shown for file in folder.arriving)

    # --- a turn ---------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Waits until something happens, or a moment, and does what there is to do."""
        self._hear()
        try:
            while self._ended:
                self._settle(self._ended[0])
                self._ended.popleft()
            if not self._draining:
                if self._intake.take():
                    self._swept = float("-inf")  # some jobs may be no more
                self._heed()
                self._fill()
        except TableError as error:
            if error.errno not in _PASSING:
                raise
            self.trouble = str(error)
            time.sleep(0.2)

    def tell(self, teller: Teller, web: str) -> None:
        """Has the teller say what is going on; `web` is the page's address."""
        teller.tell(self.trouble, self._intake.shown, self.lanes, self._draining, web)

    def _hear(self) -> None:
        try:
            event = self._events.get(timeout=_TICK_S)
            while True:
                if event is not None:
                    self._ended.append(event)
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _heed(self) -> None:
        """Does what somebody wants. What is changed of jobs that wait is seen when they are looked at."""
        for entry in self._table.wishes():
            for lane in self.lanes.all:
                if entry.id in lane.jobs:
                    lane.cancel(entry.id)
        if self._table.changed():
            self.lanes.hope()
            self._swept = float("-inf")
        if time.monotonic() - self._swept > _SWEEP_S:
            self._dispatch.sweep()
            self._swept = time.monotonic()
        if self._hopeful:
            self._unblock()
            self._hopeful = False
        if self._unagreed and time.monotonic() - self._asked > _ASK_S:
            self._ask_again()

    # --- what has ended -------------------------------------------------------------------------------------------

    def _settle(self, event: Event) -> None:
        match event:
            case Ended(lane, outcome):
                self._outcome(lane, outcome)
                lane.jobs.discard(outcome.job.id)
            case Left(lane, error):
                self._left(lane, error)

    def _outcome(self, lane: Lane, outcome: Outcome) -> None:
        number = outcome.job.id
        verdict = self._clerk.settle(outcome, self._config_of(self._table.entry(number)))
        entry = self._table.entry(number)
        if entry is None or entry.state not in GOES_ON or (verdict and verdict.afresh):
            self._dispatch.forget(number)
        if entry is not None:
            self._intake.look(entry)  # it may have been replaced in the meantime
        if outcome.ok:
            self.lanes.went_well(lane)
        if outcome.ok or (verdict is not None and verdict.kind in _FINAL):
            self._told(outcome, lane)
        if verdict is not None:
            self._mend(lane, outcome, verdict)
        if entry is not None and outcome.failure is not None and outcome.failure.error == ConsentError.__name__:
            self._unagreed.setdefault(entry.folder, set()).add(number)

    def _mend(self, lane: Lane, outcome: Outcome, verdict: Verdict) -> None:
        """What a failure says of the machine rather than of the clip."""
        assert outcome.failure is not None
        if verdict.kind is Kind.SPACE:
            self._space.refused(f"{outcome.job.target}: {outcome.failure.reason}")
        if self.lanes.memory_ran_out(outcome.failure):
            self.lanes.halve(lane)
        elif verdict.replace_engine:
            self.lanes.fault(lane)

    def _left(self, lane: Lane, error: UnderstudyError | None) -> None:
        for number in sorted(lane.jobs):
            entry = self._table.entry(number)
            if entry is None or entry.state is not State.RUNNING:
                continue
            if self._clerk.was_published(entry, self._config_of(entry)):
                self._dispatch.forget(number)
            elif isinstance(error, BLOCKING):
                self._block(entry, error)
            else:
                self._table.release(number, str(error or "left at a checkpoint"), 0.0, counted=False)
            self._intake.look(entry)
        lane.jobs.clear()
        self.lanes.left(lane, error)

    def _told(self, outcome: Outcome, lane: Lane | None) -> None:
        self.failed += not outcome.ok
        self._tell(outcome, lane)

    def _refused(self, entry: Entry) -> None:
        """A clip has failed before it was begun."""
        if (config := self._config_of(entry)) is not None:
            self._clerk.refuse(entry, config)
        self._told(outcomes.failed(_job(entry), InputError(entry.reason)), None)

    # --- what is to be begun --------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Begins what can be begun, in order."""
        self.trouble = self._space.short()
        if self.trouble:
            return
        self._stations.clear()
        passed = self._intake.unreadable
        while some := self._table.waiting(time.time(), _SOME, passed):
            before = len(passed)
            for entry in some:
                turn = Turn.FULL if entry.folder in passed else self._begin(entry)
                if turn is Turn.NEXT:
                    return
                if turn is Turn.FULL:
                    passed.add(entry.folder)
            if len(passed) == before:
                if len(some) == _SOME:
                    self._events.put(None)  # there may be more
                return

    def _begin(self, entry: Entry) -> Turn:
        """Begins a job, unless something is to be done about it instead."""
        try:
            folder = self._folder_of(entry)
            if folder is None:
                self._block(entry, ConfigError(f"{entry.folder} is not watched any more"))
            elif self._intake.is_there(entry):
                return self._dispatched(entry, folder)
            else:
                self._swept = float("-inf")
        except Refused as error:  # somebody else has just changed it
            for_job(_log, entry.id, entry.source).info("%s", error)
        return Turn.BEGUN

    def _dispatched(self, entry: Entry, folder: Watched) -> Turn:
        try:
            if hindrance := self._intake.hindrance(entry):
                raise PublishError(hindrance)
            station = self._stations.get(folder.name) or self._stations.setdefault(folder.name, folder.station())
            return self._dispatch.begin(entry, station)
        except (*BLOCKING, PublishError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                self._space.refused(str(error))
                return Turn.NEXT
            self._block(entry, error)
        return Turn.BEGUN

    def _block(self, entry: Entry, error: UnderstudyError) -> None:
        """Puts a job by until somebody has mended something. What concerns all of a folder's is said aloud once."""
        self._table.block(entry.id, str(error), time.time())
        loud = self._reasons.get(entry.folder) != str(error)
        self._reasons[entry.folder] = str(error)
        if isinstance(error, ConsentError):
            self._unagreed.setdefault(entry.folder, set()).add(entry.id)
        for_job(_log, entry.id, entry.source).log(logging.ERROR if loud else logging.INFO, "blocked: %s", error)
        self._told(outcomes.failed(_job(entry), error), None)

    def _unblock(self) -> None:
        """What somebody had to mend may have been mended: what was blocked is tried again."""
        self._reasons.clear()
        self._unagreed.clear()
        with self._table.together():
            for entry in self._table.listing([State.BLOCKED], limit=1 << 20):
                if entry.current and self._folder_of(entry) is not None:
                    self._table.retry(entry.id)

    def _ask_again(self) -> None:
        """Has everybody agreed by now? Then what waited for that is tried again; another may stand in its way."""
        self._asked = time.monotonic()
        folders = {folder.name: folder for folder in self._setup.folders}
        for name, numbers in tuple(self._unagreed.items()):
            try:
                if name in folders:
                    folders[name].station()
            except ConsentError:
                continue
            except BLOCKING:
                pass
            self._reasons.pop(name, None)
            with self._table.together():  # nobody else retries one in between
                for number in sorted(numbers):
                    entry = self._table.entry(number)
                    if entry is not None and entry.current and entry.state is State.BLOCKED:
                        self._table.retry(number)
            del self._unagreed[name]  # not before: the table may have refused

    def _folder_of(self, entry: Entry) -> Watched | None:
        return next((folder for folder in self._setup.folders if folder.name == entry.folder), None)

    def _config_of(self, entry: Entry | None) -> WatchConfig | None:
        folder = self._folder_of(entry) if entry is not None else None
        return folder.config if folder is not None else None


def _keys(setup: Setup) -> set[str]:
    """Of the stations that are wanted; one for which somebody has not agreed is not."""
    keys = set()
    for folder in setup.folders:
        with suppress(ConsentError):
            keys.add(folder.station().engine_key)
    return keys


def _job(entry: Entry) -> Job:
    return Job(entry.id, entry.source, entry.target)


def _space(setup: Setup) -> Space:
    places = {"the state folder": setup.config.state, "the work folder": setup.config.work_folder}
    outs = sorted({folder.config.out for folder in setup.folders})
    places |= {"the out folder" if len(outs) == 1 else f"the out folder {n}": out for n, out in enumerate(outs, 1)}
    return Space(places, setup.config.least_free_mb << 20)
