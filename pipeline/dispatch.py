"""Which waiting job goes to which lane, and which lanes there are.

Strictly by priority, then by age: a job that needs a lane that cannot be had yet holds up those behind it, so none
starves. A lane that has nothing to do gives way to one that is needed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ConfigError, RequirementError, UnderstudyError, WeightsError
from pipeline.jobs import Entry, Table
from pipeline.lanes import Event, Lane, Station
from pipeline.plan import make_folder
from pipeline.retries import CrashBudget
from pipeline.specs import Failure
from pipeline.types import Job

_log = logging.getLogger(__name__)

#: Memory is halved so many times at most.
_HALVINGS = 3

#: What of a model or a machine somebody has to mend before an engine can start.
BLOCKING = (ConfigError, WeightsError, RequirementError)


@dataclass(slots=True)
class _Health:
    """What is known of a station beyond its settings, as long as the daemon runs."""

    budget: CrashBudget = field(default_factory=lambda: CrashBudget(limit=3, window_s=300.0))
    halvings: int = 0
    faults: int = 0
    device: str = ""  # where it has to run from now on; empty: as configured
    broken: str = ""  # why no engine of it can start


class Lanes:
    """The lanes there are, at most `limit` of them."""

    def __init__(self, limit: int, devices: tuple[str, ...], told: Callable[[Event], None]) -> None:
        self.all: list[Lane] = []
        self._limit = limit or max(1, len(devices))
        self._devices = devices
        self._told = told
        self._health: dict[str, _Health] = {}
        self._killed = _killed_for_memory()

    def health(self, station: Station) -> _Health:
        """What is known of a station."""
        return self._health.setdefault(station.key, _Health())

    def pick(self, station: Station) -> Lane | None:
        """A lane that takes a job of this station now; None where there is none yet. May start or stop lanes."""
        own = sorted((lane for lane in self.all if lane.station.key == station.key), key=lambda lane: len(lane.jobs))
        free = [lane for lane in own if lane.room]
        if free and not free[0].jobs:
            return free[0]
        device = self._device(station)
        if device is not None and self.health(station).budget.ready(time.monotonic()):
            if len(self.all) < self._limit:
                return self._start(station, device)
            idle = [lane for lane in self.all if not lane.jobs and lane.station.key != station.key and lane.room]
            if idle and not own:
                min(idle, key=lambda lane: lane.used).stop()
        return free[0] if free else None

    def _device(self, station: Station) -> str | None:
        """The device with the fewest lanes; None where this station has one on each."""
        fixed = self.health(station).device
        devices = (fixed,) if fixed else self._devices or (station.device,)
        taken = {lane.device for lane in self.all if lane.station.key == station.key}
        load = Counter(lane.device for lane in self.all)
        return min((device for device in devices if device not in taken), key=lambda name: load[name], default=None)

    def _start(self, station: Station, device: str) -> Lane:
        lane = Lane(station, device, self.health(station).halvings, self._told)
        self.all.append(lane)
        _log.info("loading the model %s on %s", station.model, device)
        return lane

    def left(self, lane: Lane, error: UnderstudyError | None) -> None:
        """A lane's thread is over."""
        lane.join()
        self.all.remove(lane)
        health = self.health(lane.station)
        if error is None:
            return
        if isinstance(error, BLOCKING):
            health.broken = str(error)
        rest_s = health.budget.died(time.monotonic())
        _log.error("the engine for the model %s on %s is down: %s", lane.station.model, lane.device, error)
        if rest_s and not health.broken:
            _log.error("it keeps dying and now rests for %.0f s", rest_s)

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
        return failure.errno == errno.ENOMEM or (failure.signal == signal.SIGKILL and rose)

    def forgive(self) -> None:
        """Forgets what was wrong with stations: somebody has looked after it."""
        self._health.clear()

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

    def begin(self, entry: Entry, station: Station) -> bool:
        """Gives the job to a lane; False where none takes it yet. Raises TableError; nothing has begun then.

        Raises:
            PublishError: the folder of the result cannot be made, or that of the work.
            WeightsError: no engine can start for it.
        """
        if broken := self._lanes.health(station).broken:
            raise WeightsError(broken)
        lane = self._lanes.pick(station)
        if lane is None:
            return False
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
        return True

    def _folder(self, entry: Entry, station: Station) -> Path:
        """The job's work folder; what was made of another file, by another model or with other settings goes."""
        shaping = f"{station.key} {entry.mark.size} {entry.mark.mtime_ns} {entry.mark.inode} {self._segment_s}"
        work = self._work / f"{entry.id}-{hashlib.sha256(shaping.encode()).hexdigest()[:16]}"
        for old in self._work.glob(f"{entry.id}-*"):
            if old != work:
                shutil.rmtree(old, ignore_errors=True)
        return work

    def forget(self, job: int) -> None:
        """Removes what was made of a job."""
        for folder in self._work.glob(f"{job}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, wanted: Collection[int]) -> None:
        """Removes the work folders of all other jobs."""
        for folder in self._work.iterdir():
            number = folder.name.partition("-")[0]
            if folder.is_dir() and number.isdecimal() and int(number) not in wanted:
                shutil.rmtree(folder, ignore_errors=True)


def _killed_for_memory() -> int:
    """How many processes the kernel has killed since the machine started because memory had run out."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
