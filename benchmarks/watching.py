"""A daemon that can be timed: the real one in a process of its own, told what to make by the benchmark's own chain."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal

import psutil

from benchmarks.workshop import SIX, Workshop, table
from pipeline import app, live
from pipeline.daemon import Daemon
from pipeline.daemon_config import DaemonConfig, Setup, Watched
from pipeline.engine import Engine
from pipeline.errors import UnderstudyError
from pipeline.inbox import WatchConfig
from pipeline.jobs import FILE, Entry, State, Table
from pipeline.lanes import Lane, Station
from pipeline.rows import ENDED
from pipeline.specs import EngineConfig, Outcome, StageSpec
from pipeline.status.page import PageConfig
from stages import encode, finish

#: How often the table is asked whether all is done.
_LOOK_S = 0.2

#: How long a daemon may take for what it is given, or to be up.
_LONGEST_S = 1800.0


@dataclass(frozen=True, slots=True)
class Place:
    """A daemon's folders, and what is different in it from one that nobody has set anything for.

    Attributes:
        folder: holds in, out and state.
        chain: its stages.
        sealer: what signs its files; None: nothing does.
        settle_s, checkpoint_s, polling, page: as in its settings.
    """

    folder: Path
    chain: tuple[StageSpec, ...]
    sealer: StageSpec | None = None
    settle_s: float = 0.0
    checkpoint_s: float = 10.0
    polling: Literal["auto", "always", "never"] = "never"
    page: bool = False

    @property
    def inbox(self) -> Path:
        """Where clips are dropped."""
        return self.folder / "in"

    @property
    def out(self) -> Path:
        """Where they come out."""
        return self.folder / "out"

    @property
    def state(self) -> Path:
        """The daemon's own folder."""
        return self.folder / "state"

    @property
    def watched(self) -> WatchConfig:
        """The folder's settings."""
        return WatchConfig(self.inbox, self.out, settle_s=self.settle_s, polling=self.polling)


def chain(workshop: Workshop) -> tuple[StageSpec, ...]:
    """The real job's stages as the daemon runs them, its ends noting the time."""
    ends = {"decode": "Decode", "encode": "Encode"}
    stages = []
    for spec in workshop.chain():
        if spec.name in ends:
            spec = replace(spec, factory=f"benchmarks.stamps:{ends[spec.name]}")
        elif spec.name == "align":
            spec = replace(spec, config=replace(spec.config, max_wait_ms=math.inf))
        stages.append(spec)
    return tuple(stages)


def finisher(stages: Sequence[StageSpec], sheets: Path) -> StageSpec:
    """What makes their files whole, noting the time."""
    coding = stages[-1].config
    assert isinstance(coding, encode.Config)
    return StageSpec("publish", "benchmarks.stamps:Finish", finish.Config(coding, sheets=str(sheets)))


def serve(place: Place) -> None:
    """What the daemon's process runs until it is told to stop."""
    daemon = Daemon(partial(_setup, place), _told)
    signal.signal(signal.SIGTERM, lambda *_: daemon.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    daemon.run(os.environ)


def _setup(place: Place) -> Setup:
    config = DaemonConfig(
        state=place.state,
        checkpoint_s=place.checkpoint_s,
        least_free_mb=0,
        page=PageConfig(enabled=place.page, port=0),
    )
    suffix = partial(app.result_suffix, app.Settings())
    return Setup(config, (Watched(place.watched, partial(_station, place), suffix),))


def _station(place: Place) -> Station:
    def make(device: str, halvings: int) -> Engine:
        processes = EngineConfig(processes=table(SIX))
        return Engine(place.chain, processes, finisher(place.chain, place.state / "sheets"), place.sealer)

    return Station("benchmark", "benchmark", "b", "auto", "stop", {"versions": app.versions()}, make)


def _told(outcome: Outcome, lane: Lane | None) -> None:
    """Nothing is printed of it."""


@dataclass(slots=True)
class Watching:
    """The daemon of a place, as whoever drops clips sees it."""

    place: Place
    process: SpawnProcess = field(init=False)

    def __post_init__(self) -> None:
        """Starts it, and waits until it looks at its folder."""
        for folder in (self.place.inbox, self.place.out):
            folder.mkdir(parents=True, exist_ok=True)
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(self.place,))
        self.process.start()
        self.until(lambda: self.live is not None and self.live.pid == self.process.pid and self.live.ready, "to start")

    @property
    def live(self) -> live.Live | None:
        """What it says of itself."""
        return live.read(self.place.state)

    def drop(self, source: Path, names: Sequence[str]) -> float:
        """Puts copies of a clip into the inbox, each there at once; when the first was there (seconds, epoch)."""
        beside = self.place.folder / "beside"
        beside.mkdir(exist_ok=True)
        for name in names:
            shutil.copyfile(source, beside / name)
        begun = time.time()
        for name in names:
            (beside / name).replace(self.place.inbox / name)
        return begun

    def ended(self, names: Sequence[str]) -> list[Entry]:
        """Waits until the clips of these names are published; their rows. Raises UnderstudyError where one is not."""
        waiting = deque(str(self.place.inbox / name) for name in names)
        found: list[Entry] = []
        with Table.looking(self.place.state / FILE) as jobs:

            def done() -> bool:
                while waiting and (entry := jobs.current(waiting[0])) is not None and entry.state in ENDED:
                    if entry.state is not State.DONE:
                        raise UnderstudyError(f"{entry.source} {entry.state} in a benchmark: {entry.reason}")
                    found.append(entry)
                    waiting.popleft()
                return not waiting

            self.until(done, f"to publish {len(names)} clips")
        return found

    def clear(self, entries: Sequence[Entry]) -> None:
        """Takes clips and results away."""
        for entry in entries:
            for path in (entry.source, entry.target):
                Path(path).unlink(missing_ok=True)

    def pids(self) -> list[int]:
        """Its processes."""
        own = psutil.Process(self.process.pid)
        return [own.pid, *(child.pid for child in own.children(recursive=True))]

    def cpu_s(self) -> dict[str, float]:
        """User and system seconds of its processes, by what they are called."""
        spent: dict[str, float] = {}
        for pid in self.pids():
            with suppress(psutil.Error, OSError):
                name = _called(pid, self.process.pid or 0)
                spent[name] = spent.get(name, 0.0) + sum(psutil.Process(pid).cpu_times()[:2])
        return spent

    def kill(self) -> None:
        """Ends it as a power cut would."""
        pids = self.pids()
        self.process.kill()
        self.process.join()
        psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)

    def close(self) -> None:
        """Has it stop."""
        if self.process.is_alive():
            self.process.terminate()
        self.process.join(60)
        if self.process.is_alive():
            self.kill()

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Waits until something is true. Raises UnderstudyError where that takes too long, or it has died."""
        deadline = time.monotonic() + _LONGEST_S
        while not true():
            if not self.process.is_alive() or time.monotonic() > deadline:
                raise UnderstudyError(f"the daemon of a benchmark took too long {what}, or died")
            time.sleep(_LOOK_S)


def _called(pid: int, daemon: int) -> str:
    if pid == daemon:
        return "daemon"
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    return name.removeprefix("us-") if name.startswith("us-") else "page and others"


@contextmanager
def watching(place: Place, warm: Path | None) -> Iterator[Watching]:
    """A daemon, warmed with one short clip where there is one, stopped at the end."""
    daemon = Watching(place)
    try:
        if warm is not None:
            daemon.drop(warm, ["warm.mp4"])
            daemon.clear(daemon.ended(["warm.mp4"]))
        yield daemon
    finally:
        daemon.close()
