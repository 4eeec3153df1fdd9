"""What a running daemon holds, and what it does with it again and again."""

from __future__ import annotations

import errno
import logging
import queue
import time
from collections import deque
from collections.abc import Callable

from pipeline.clerk import Clerk
from pipeline.daemon_config import Setup, Watched
from pipeline.dispatch import BLOCKING, Dispatch, Lanes
from pipeline.errors import ConfigError, PublishError, TableError, UnderstudyError
from pipeline.inbox import WatchConfig
from pipeline.intake import Intake
from pipeline.jobs import Entry, State, Table
from pipeline.lanes import Ended, Event, Lane, Left
from pipeline.retries import Kind, Verdict
from pipeline.space import FULL, Space
from pipeline.specs import Outcome
from pipeline.telling import Teller

_log = logging.getLogger(__name__)

#: Looked up so often, whatever happens.
_TICK_S = 1.0

#: Waiting jobs that are looked at in one go.
_SOME = 32

#: Of the table's own: it goes on when these have passed.
_PASSING = FULL | {errno.EIO, errno.EBUSY, errno.EAGAIN}

#: After a stop, engines may take so much longer than what is being published.
_LEAVING_S = 8.0


class Shift:
    """Does all that there is to do, turn by turn, in one thread. Every method but `close` may raise TableError."""

    def __init__(
        self,
        setup: Setup,
        table: Table,
        clerk: Clerk,
        events: queue.SimpleQueue[Event | None],
        tell: Callable[[Outcome, Lane], None],
    ) -> None:
        config = setup.config
        self.failed = 0
        self._setup = setup
        self._table = table
        self._clerk = clerk
        self._events = events
        self._tell = tell
        self._ended: deque[Event] = deque()
        self._refilled = 0.0
        self._draining = False
        self.lanes = Lanes(config.engines, config.devices, events.put)
        self._dispatch = Dispatch(table, self.lanes, config.work_folder, config.checkpoint_s)
        self._intake = Intake(setup, table, lambda: events.put(None))
        self._space = _space(setup)
        self.trouble = ""  # why nothing is begun now

    # --- life -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Makes up for what the last run had not come to, and begins to look."""
        folders = {folder.name: folder.config for folder in self._setup.folders}
        self._clerk.recover(folders)
        self._dispatch.sweep({entry.id for entry in self._table.listing([State.WAITING], limit=1 << 20)})
        for name, config in folders.items():
            self._clerk.catch_up(config, self._table.known(name))
        self._unblock()
        self._intake.begin()

    def change(self, setup: Setup) -> None:
        """Goes on with another configuration. Raises ConfigError for what cannot be changed on the way."""
        fixed = ("state", "work", "engines", "devices", "page", "retry")
        if changed := [name for name in fixed if getattr(setup.config, name) != getattr(self._setup.config, name)]:
            raise ConfigError(f"daemon.{' and daemon.'.join(changed)} can only be changed by a restart")
        intake = Intake(setup, self._table, lambda: self._events.put(None))
        self._intake.close()
        self._intake, self._setup, self._space = intake, setup, _space(setup)
        self._intake.begin()
        self.lanes.forgive()
        wanted = {folder.station().key for folder in setup.folders}
        for lane in self.lanes.all:
            if lane.station.key not in wanted:
                lane.stop()
        self._unblock()

    def drain(self) -> None:
        """Ends the lanes: what is being published may end, the rest is left at its last checkpoint."""
        self._draining = True
        self.lanes.stop(self._setup.config.drain_s)
        deadline = time.monotonic() + self._setup.config.drain_s + _LEAVING_S
        while (self.lanes.all or self._ended) and time.monotonic() < deadline:
            self.turn()

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

    # --- a turn ---------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Waits until something happens, or a moment, and does what there is to do."""
        self._hear()
        try:
            while self._ended:
                self._settle(self._ended[0])
                self._ended.popleft()
            if not self._draining:
                self._intake.take()
                self._heed_wishes()
                self._fill()
        except TableError as error:
            if error.errno not in _PASSING:
                raise
            self.trouble = str(error)
            time.sleep(0.2)

    def tell(self, teller: Teller, web: str) -> None:
        """Has the teller say what is going on; `web` is the page's address."""
        teller.tell(self.trouble, self._intake.shown(), self.lanes.all, self._draining, web)

    def _hear(self) -> None:
        try:
            event = self._events.get(timeout=_TICK_S)
            while True:
                if event is not None:
                    self._ended.append(event)
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _heed_wishes(self) -> None:
        """Stops what somebody wants cancelled. What is changed of jobs that wait is seen when they are looked at."""
        if not self._table.changed():
            return
        for entry in self._table.wishes():
            for lane in self.lanes.all:
                if entry.id in lane.jobs:
                    lane.cancel(entry.id)

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
        verdict = self._clerk.settle(outcome, self._config_of(number))
        entry = self._table.entry(number)
        if entry is None or entry.state not in (State.WAITING, State.RUNNING) or (verdict and verdict.afresh):
            self._dispatch.forget(number)
        if entry is not None:
            self._intake.look(entry)  # it may have been replaced in the meantime
        if outcome.ok:
            self.lanes.went_well(lane)
        if outcome.ok or (verdict is not None and verdict.kind in (Kind.FAILED, Kind.SET_ASIDE, Kind.BLOCKED)):
            self.failed += not outcome.ok
            self._tell(outcome, lane)
        if verdict is not None:
            self._mend(lane, outcome, verdict)

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
            if isinstance(error, BLOCKING):
                self._table.block(number, str(error), time.time())
            else:
                self._table.release(number, str(error or "left at a checkpoint"), 0.0, counted=False)
        lane.jobs.clear()
        self.lanes.left(lane, error)

    # --- what is to be begun --------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Begins what can be begun, in order."""
        self.trouble = self._space.short()
        if self.trouble:
            return
        for entry in self._table.waiting(time.time(), _SOME):
            if not self._begin(entry):
                return

    def _begin(self, entry: Entry) -> bool:
        """Whether those behind may begin, too."""
        folder = self._folder_of(entry)
        if folder is None:
            self._table.block(entry.id, f"{entry.folder} is not watched any more", time.time())
            return True
        if not self._intake.is_there(entry):
            return True
        try:
            return self._dispatch.begin(entry, folder.station())
        except BLOCKING as error:
            self._table.block(entry.id, str(error), time.time())
            _log.error("blocked: %s: %s", entry.source, error)
        except PublishError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                self._space.refused(str(error))
                return False
            self._table.block(entry.id, str(error), time.time())
            _log.error("blocked: %s: %s", entry.source, error)
        return True

    def _unblock(self) -> None:
        """What somebody had to mend may have been mended: what was blocked is tried again."""
        for entry in self._table.listing([State.BLOCKED], limit=1 << 20):
            if entry.current:
                self._table.retry(entry.id)

    def _folder_of(self, entry: Entry) -> Watched | None:
        return next((folder for folder in self._setup.folders if folder.name == entry.folder), None)

    def _config_of(self, number: int) -> WatchConfig | None:
        entry = self._table.entry(number)
        folder = self._folder_of(entry) if entry is not None else None
        return folder.config if folder is not None else None


def _space(setup: Setup) -> Space:
    places = {"the state folder": setup.config.state, "the work folder": setup.config.work_folder}
    outs = sorted({folder.config.out for folder in setup.folders})
    places |= {"the out folder" if len(outs) == 1 else f"the out folder {n}": out for n, out in enumerate(outs, 1)}
    return Space(places, setup.config.least_free_mb << 20)
