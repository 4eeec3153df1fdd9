"""Engines in threads of their own: the daemon hands them jobs and hears how these end, and never waits for any of them.

A *station* is all that the clips of some folders have in common: a model, a person, settings. A *lane* is an engine for
one station on one device, in a thread that makes it, feeds it and closes it. There are at most so many lanes at once as
the configuration says, whatever the number of folders and models; one that rests makes room for one that is needed.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline import live
from pipeline.errors import UnderstudyError
from pipeline.progress import shares, since
from pipeline.specs import Outcome, StageStats
from pipeline.types import Clip, Job

_log = logging.getLogger(__name__)

#: Jobs that a lane is given at once: one being published, one at work, one being opened.
DEPTH = 3

#: How often a lane that has work looks at its orders, and how long one that has none waits for them.
_TURN_S, _REST_S = 0.1, 1.0


class Engine(Protocol):
    """What a lane needs of an engine."""

    restarts: int

    def start(self) -> None: ...

    def stop_soon(self) -> None: ...

    def submit(self, job: Job) -> None: ...

    def cancel(self, job_id: int) -> None: ...

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Also of a closed one: what had ended before it was."""
        ...

    def stats(self) -> tuple[StageStats, ...]: ...

    def clip(self, job_id: int) -> Clip | None: ...

    @property
    def busy(self) -> bool: ...

    @property
    def finishing(self) -> Mapping[int, tuple[int, int | None]]: ...

    def close(self, patience_s: float = 5.0) -> None: ...


@dataclass(frozen=True, slots=True)
class Station:
    """What the clips of some folders have in common.

    Attributes:
        key: the digest of all that shapes the result: the model's weights and every setting of the stages.
        terms: the digest of what else its engines go by and what is no part of the pictures: who has to have agreed to
            what, who signs, where that is written down.
        model: the model's folder; `to` whose face is put there; `device` "auto" or one that the settings name.
        on_device_fault: what is done when its device fails: "restart", "cpu" or "stop" (see swap.Config).
        about: the same for reports.
        make: an engine that is not started yet, for a device, with memory halved so many times. Called in the lane's
            thread, and raises what starting it may raise.
    """

    key: str
    model: str
    to: str
    device: str
    on_device_fault: str
    about: Mapping[str, Any] = field(compare=False)
    make: Callable[[str, int], Engine] = field(compare=False, repr=False)
    terms: str = ""

    @property
    def engine_key(self) -> str:
        """The same for stations that may share engines; of those, and of others, jobs are gone on with by `key`."""
        return f"{self.key} {self.terms}"


@dataclass(frozen=True, slots=True)
class Ended:
    """A job of a lane has ended."""

    lane: Lane
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Left:
    """A lane's thread is over: what is left of its `jobs` has not ended. `error` says why where nobody asked for it."""

    lane: Lane
    error: UnderstudyError | None


Event = Ended | Left


@dataclass(frozen=True, slots=True)
class Now:
    """What a lane does: the stages' counts since it began, the clips that are open, what is being published."""

    stats: tuple[StageStats, ...] = ()
    clips: Mapping[int, Clip] = field(default_factory=dict)
    finishing: Mapping[int, tuple[int, int | None]] = field(default_factory=dict)
    restarts: int = 0


class Lane:
    """One engine in a thread; every method may be called from the daemon's."""

    def __init__(self, station: Station, device: str, halvings: int, told: Callable[[Event], None]) -> None:
        """Starts the thread. `told` is called in it with each Ended, and in the end with Left."""
        self.station = station
        self.device = device
        self.halvings = halvings
        self.state = "starting"
        self.jobs: set[int] = set()  # given to it and not ended, as far as its owner has heard
        self.now = Now()
        self.used = time.monotonic()
        self._told = told
        self._orders: queue.SimpleQueue[Callable[[Engine], None] | None] = queue.SimpleQueue()
        self._inside: set[int] = set()  # the same, as far as the thread knows
        self._patience_s = 5.0
        self._engine: Engine | None = None
        self._stopping = threading.Event()
        self._shares = _Shares()
        self._thread = threading.Thread(target=self._run, name=f"lane {station.to} {device}")
        self._thread.start()

    @property
    def room(self) -> int:
        """How many jobs it would take now."""
        return 0 if self._stopping.is_set() else DEPTH - len(self.jobs)

    def submit(self, job: Job) -> None:
        """Gives it a job."""
        self.jobs.add(job.id)
        self.used = time.monotonic()
        self._orders.put(lambda engine: self._submit(engine, job))

    def cancel(self, job_id: int) -> None:
        """Has a job stopped; its outcome says so, unless it ends otherwise before."""
        self._orders.put(lambda engine: engine.cancel(job_id))

    def stop(self, patience_s: float = 5.0) -> None:
        """Has it end, soon: what is being published gets so long; other jobs are given up where they are."""
        self._patience_s = patience_s
        self._stopping.set()
        if self._engine is not None:  # else the thread, which is making it, sees for itself
            self._engine.stop_soon()
        self._orders.put(None)

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits for the thread's end; whether it has come."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def shown(self) -> live.Lane:
        """The lane for those who look."""
        reason = f"works with memory halved {self.halvings} times" if self.halvings else ""
        stages = self._shares.take(self.now.stats, time.monotonic())
        station = self.station
        return live.Lane(station.model, station.to, self.device, self.state, self.now.restarts, reason, stages)

    def _submit(self, engine: Engine, job: Job) -> None:
        self._inside.add(job.id)
        engine.submit(job)

    def _run(self) -> None:
        error: UnderstudyError | None = None
        try:
            self._work()
        except UnderstudyError as known:
            error = known
        except Exception as defect:  # noqa: BLE001  nothing that happens to a lane may end the daemon
            _log.error("a defect in a lane", exc_info=defect)
            error = UnderstudyError(f"a defect: {type(defect).__name__}: {defect}")
        finally:
            self.state = "down"
            stopped = self._stopping.is_set()
            self._stopping.set()
            self._told(Left(self, None if stopped else error))

    def _work(self) -> None:
        self._engine = engine = self.station.make(self.device, self.halvings)
        try:
            if not self._stopping.is_set():  # or that was said before there was anybody to say it to
                engine.start()
            self.now = Now(engine.stats())
            while not self._stopping.is_set():
                self.state = "ready" if engine.busy else "resting"
                self._obey(engine)
                if self._stopping.is_set():
                    break
                self._poll(engine, _TURN_S if engine.busy else 0.0)
                clips = {number: clip for number in self._inside if (clip := engine.clip(number)) is not None}
                self.now = Now(engine.stats(), clips, dict(engine.finishing), engine.restarts)
        finally:
            self.state = "stopping"
            engine.close(self._patience_s)
            self._poll(engine, 0.0)  # what had ended by then, or was published meanwhile

    def _poll(self, engine: Engine, timeout_s: float) -> None:
        for outcome in engine.poll(timeout_s):
            self._inside.discard(outcome.job.id)
            self._told(Ended(self, outcome))

    def _obey(self, engine: Engine) -> None:
        """Carries out the orders there are; waits for one where there is nothing else to do."""
        wait = not engine.busy
        while True:
            try:
                order = self._orders.get(wait, _REST_S) if wait else self._orders.get_nowait()
            except queue.Empty:
                return
            wait = False
            if order is None:
                return
            order(engine)


class _Shares:
    """What the stages were doing between two looks."""

    def __init__(self) -> None:
        self._stats: Sequence[StageStats] = ()
        self._at = 0.0
        self._last: tuple[live.StageNow, ...] = ()

    def take(self, stats: Sequence[StageStats], now: float) -> tuple[live.StageNow, ...]:
        """Shares of the time since the last look, if that is some time ago, else what was said then."""
        seconds = now - self._at
        if len(stats) != len(self._stats):  # the first time, there is nothing to compare with
            self._stats, self._at = stats, now
            self._last = tuple(live.StageNow(stage.name, stage.workers, 0.0, 0.0, 0.0) for stage in stats)
        if seconds < 0.5 or self._at == now:
            return self._last
        rows = shares(since(stats, self._stats), seconds)
        self._last = tuple(
            live.StageNow(row.name, row.workers, *(round(min(1.0, max(0.0, part)), 3) for part in parts))
            for row in rows
            if (parts := (row.busy, row.wait_in, row.wait_out))
        )
        self._stats, self._at = stats, now
        return self._last
