"""Which waiting job goes to which lane, and which lanes there are.

By priority, then by age. A job for which there is no lane yet holds up all behind it until one has nothing to do and
gives way, so none starves. One whose lane has as much as it takes, or whose engine has to rest, holds up only its like.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path

from pipeline import live
from pipeline.errors import ConfigError, ConsentError, InputError, RequirementError, UnderstudyError, WeightsError
from pipeline.jobs import Entry, State, Table
from pipeline.lanes import Event, Lane, Station
from pipeline.plan import make_folder
from pipeline.retries import CrashBudget
from pipeline.rows import OPEN
from pipeline.specs import Failure
from pipeline.types import Job

_log = logging.getLogger(__name__)

#: Memory is halved so many times at most.
_HALVINGS = 3

#: What of a model or a machine somebody has to mend before an engine can start.
BLOCKING = (ConfigError, ConsentError, WeightsError, RequirementError)

#: A job's work folder: its number and the digest of what shapes its result.
_WORK = re.compile("([1-9][0-9]*)-[0-9a-f]{16}")

#: What is gone on with some time; what was made of other jobs is of no use any more.
GOES_ON = OPEN | {State.BLOCKED}


class Turn(Enum):
    """What came of a job whose turn it was."""

    BEGUN = auto()
    FULL = auto()  # what it needs has enough to do, or rests: others may begin
    NEXT = auto()  # the next lane that can be had is for it: nobody else may begin


@dataclass(slots=True)
class _Health:
    """What is known of a station beyond its settings, as long as the daemon runs."""

    budget: CrashBudget = field(default_factory=lambda: CrashBudget(limit=3, window_s=300.0))
    halvings: int = 0
    faults: int = 0
    device: str = ""  # where it has to run from now on; empty: as configured
    broken: str = ""  # why no engine of it can start
    down: live.Lane | None = None  # the last lane, where that has ended badly and there is no other


class Lanes:
    """The lanes there are, at most `limit` of them."""

    def __init__(
        self, limit: int, devices: tuple[str, ...], told: Callable[[Event], None], patient: bool = True
    ) -> None:
        """Unless it is `patient`, an engine that would have to rest is not started any more."""
        self.all: list[Lane] = []
        self._patient = patient
        self._limit = limit or max(1, len(devices))
        self._devices = devices
        self._told = told
        self._health: dict[str, _Health] = {}
        self._killed = _killed_for_memory()

    def health(self, station: Station) -> _Health:
        """What is known of a station."""
        return self._health.setdefault(station.engine_key, _Health())

    @property
    def shown(self) -> tuple[live.Lane, ...]:
        """The lanes for those who look, and those that should be there but cannot."""
        down = [health.down for health in self._health.values() if health.down is not None]
        return (*(lane.shown() for lane in self.all), *down)

    def pick(self, station: Station) -> Lane | None:
        """A lane that takes a job of this station now; None where there is none yet. May start or stop lanes."""
        own = sorted(self._of(station), key=lambda lane: len(lane.jobs))
        free = [lane for lane in own if lane.room]
        if free and not free[0].jobs:
            return free[0]
        device = self._device(station)
        if device is not None and self.health(station).budget.ready(time.monotonic()):
            if len(self.all) < self._limit:
                return self._start(station, device)
            idle = [lane for lane in self.all if not lane.jobs and lane.room]
            if idle and not own:
                min(idle, key=lambda lane: lane.used).stop()
        return free[0] if free else None

    def is_next(self, station: Station) -> bool:
        """Whether a station for which there is no lane to `pick` shall have the next one that can be had."""
        return not self._of(station) and self.health(station).budget.ready(time.monotonic())

    def _of(self, station: Station) -> list[Lane]:
        """The lanes that take a station's jobs."""
        return [lane for lane in self.all if lane.station.engine_key == station.engine_key]

    def _device(self, station: Station) -> str | None:
        """The device with the fewest lanes; None where this station has one on each."""
        fixed = self.health(station).device
        devices = (fixed,) if fixed else self._devices or (station.device,)
        taken = {lane.device for lane in self._of(station)}
        load = Counter(lane.device for lane in self.all)
        return min((device for device in devices if device not in taken), key=lambda name: load[name], default=None)

    def _start(self, station: Station, device: str) -> Lane:
        lane = Lane(station, device, self.health(station).halvings, self._told)
        self.all.append(lane)
        self.health(station).down = None
        _log.info("loading the model %s on %s", station.model, device)
        return lane

    def left(self, lane: Lane, error: UnderstudyError | None) -> None:
        """A lane's thread is over."""
        lane.join()
        self.all.remove(lane)
        health = self.health(lane.station)
        if error is None:
            return
        _log.error("the engine for the model %s on %s is down: %s", lane.station.model, lane.device, error)
        rest_s = health.budget.died(time.monotonic())
        asked_anew = isinstance(error, ConsentError)  # before each job
        if (isinstance(error, BLOCKING) and not asked_anew) or (rest_s and not self._patient):
            health.broken = str(error)
        elif rest_s:
            _log.error("it keeps dying and now rests for %.0f s", rest_s)
        if not self._of(lane.station):
            health.down = replace(lane.shown(), state="down", reason=str(error), stages=())

    def went_well(self, lane: Lane) -> None:
        """A clip of the lane has ended as clips should."""
        self.health(lane.station).budget.went_well()

    def halve(self, lane: Lane) -> None:
        """Has the lane's work done with half the memory from now on."""
        health = self.health(lane.station)
        if health.halvings < _HALVINGS:
            health.halvings += 1
            _log.warning("memory ran out: the model %s now works with half of it", lane.station.model)
        lane.stop()

    def fault(self, lane: Lane) -> None:
        """The lane's device failed: another engine is started on it, or what the settings say instead."""
        health = self.health(lane.station)
        health.faults += 1
        match lane.station.on_device_fault:
            case "cpu" if health.faults > 1:
                health.device = "cpu"
                _log.error("%s failed again: the model %s now works on the cpu", lane.device, lane.station.model)
            case "stop":
                health.broken = f"{lane.device} failed; look after it, then retry what is blocked"
                _log.error("%s failed: nothing is made with the model %s", lane.device, lane.station.model)
            case _:
                _log.warning("%s failed: the model %s is loaded anew", lane.device, lane.station.model)
        lane.stop()

    def memory_ran_out(self, failure: Failure) -> bool:
        """Whether a process ended for want of memory: it said so, or the kernel has killed one since the last time."""
        killed = _killed_for_memory()
        rose, self._killed = killed > self._killed, killed
        if failure.errno == errno.ENOMEM:
            return failure.error != InputError.__name__  # decoders say so of damaged files
        return failure.signal == signal.SIGKILL and rose

    def forgive(self) -> None:
        """Forgets what was wrong with stations: somebody has looked after it."""
        self._health.clear()

    def hope(self) -> None:
        """Lets engines that cannot start be tried again: somebody may have mended what was wrong."""
        for health in self._health.values():
            if health.broken:
                health.broken, health.down = "", None

    def stop(self, patience_s: float) -> None:
        """Has all of them end."""
        for lane in self.all:
            lane.stop(patience_s)


class Dispatch:
    """Begins jobs."""

    def __init__(self, table: Table, lanes: Lanes, work: Path, segment_s: float) -> None:
        self._table = table
        self._lanes = lanes
        self._work = work
        self._segment_s = segment_s

    def begin(self, entry: Entry, station: Station) -> Turn:
        """Gives the job to a lane, where one takes it now. Raises TableError; nothing has begun then.

        Raises:
            PublishError: the folder of the result cannot be made, or that of the work.
            WeightsError: no engine can start for it.
        """
        if broken := self._lanes.health(station).broken:
            raise WeightsError(broken)
        lane = self._lanes.pick(station)
        if lane is None:
            return Turn.NEXT if self._lanes.is_next(station) else Turn.FULL
        work = self._folder(entry, station)
        make_folder(Path(entry.target).parent)
        make_folder(work)
        entry = self._table.claim(entry.id, time.time())
        about = {
            **station.about,
            "report": True,
            "job": entry.id,
            "attempts": entry.attempts,
            "mark": {"size": entry.mark.size, "mtime_ns": entry.mark.mtime_ns, "inode": entry.mark.inode},
            "times": {"seen": entry.seen, "accepted": entry.accepted, "claimed": entry.claimed},
        }
        lane.submit(Job(entry.id, entry.source, entry.target, str(work), self._segment_s, about))
        return Turn.BEGUN

    def _folder(self, entry: Entry, station: Station) -> Path:
        """The job's work folder; what was made of another file, by another model or with other settings goes."""
        shaping = f"{station.key} {entry.mark.size} {entry.mark.mtime_ns} {entry.mark.inode} {self._segment_s}"
        work = self._work / f"{entry.id}-{hashlib.sha256(shaping.encode()).hexdigest()[:16]}"
        for old, number in self._folders():
            if number == entry.id and old != work:
                shutil.rmtree(old, ignore_errors=True)
        return work

    def forget(self, job: int) -> None:
        """Removes what was made of a job."""
        for folder, number in self._folders():
            if number == job:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Removes what was made of jobs that have ended, or that nobody knows. Raises TableError."""
        for folder, number in self._folders():
            entry = self._table.entry(number)
            if entry is None or entry.state not in GOES_ON:
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> Iterator[tuple[Path, int]]:
        """The jobs' folders, with their numbers. What else lies there is somebody else's."""
        with suppress(OSError):  # the disk is away, which is said elsewhere
            for folder in [*self._work.iterdir()]:
                if (match := _WORK.fullmatch(folder.name)) is not None and folder.is_dir():
                    yield folder, int(match[1])


def _killed_for_memory() -> int:
    """How many processes the kernel has killed since the machine started because memory had run out."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
