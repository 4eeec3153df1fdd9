"""An engine that makes clips without a chain, as a script says; and a daemon around it, in a thread of the test's."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline import result
from pipeline.daemon import Daemon
from pipeline.daemon_config import DaemonConfig, Setup, Watched
from pipeline.door import check_unchanged
from pipeline.errors import UnderstudyError
from pipeline.failures import cancelled, failure_of
from pipeline.inbox import WatchConfig
from pipeline.jobs import FILE, Entry, State, Table
from pipeline.lanes import Lane, Station
from pipeline.pixels import PIXEL_FORMATS
from pipeline.publish import partial_path, publish
from pipeline.retries import RetryConfig
from pipeline.specs import Failure, Outcome, StageStats
from pipeline.status.page import PageConfig
from pipeline.types import Clip, Job

# --- what an engine does with a clip ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Make:
    """Publishes the clip, as the door does; `told`: and says so, else it goes on for ever. At first it waits for `gate`
    (as long as somebody has not set it), which whoever stops or cancels it need not."""

    gate: threading.Event | None = None
    told: bool = True


@dataclass(frozen=True)
class Fail:
    """Says that the clip has failed."""

    failure: Failure


@dataclass(frozen=True)
class Die:
    """The engine falls."""

    error: UnderstudyError


Act = Make | Fail | Die


def crash(number: int = 11) -> Fail:
    """What an engine says of a clip that a process died of."""
    return Fail(Failure("swap", 3, f"its process was killed by signal {number}", signal=number))


def fail(error: str, number: int = 0, stage: str = "encode") -> Fail:
    """A failure of that class."""
    return Fail(Failure(stage, 7, "as told", error, errno=number))


class Interrupted(UnderstudyError):  # noqa: N818
    """Somebody has had the engine stop."""


def made_of(source: bytes, style: str = "a") -> bytes:
    """What a clip becomes."""
    return b"made by " + style.encode() + b" of " + source


@dataclass
class Workshop:
    """What all engines of a test do, and have done.

    Attributes:
        acts: what is done with the clips of a name, one after another; then they are made.
        starts: what is raised by the engines that are started, one after another, by station.
        begun: the clips' names in the order in which they were begun; `resumed` those that had been begun before.
        published: how often which content was published under which name.
        engines: (station, device, halvings) of all engines that were made; `open` those that are not closed.
    """

    takes_s: float = 0.0
    acts: dict[str, deque[Act]] = field(default_factory=lambda: defaultdict(deque))
    starts: dict[str, deque[UnderstudyError]] = field(default_factory=lambda: defaultdict(deque))
    begun: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    published: Counter[tuple[str, str]] = field(default_factory=Counter)
    engines: list[tuple[str, str, int]] = field(default_factory=list)
    open: Counter[str] = field(default_factory=Counter)
    most_open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def script(self, name: str, *acts: Act) -> None:
        """Says what is done with the clips of a name."""
        self.acts[name].extend(acts)

    def station(self, key: str = "a", device: str = "auto", on_device_fault: str = "restart") -> Station:
        """What the clips of a folder have in common."""
        about = {"model": {"digest": key}, "settings": {}, "versions": {}}
        return Station(
            key, f"model of {key}", "b", device, on_device_fault, about, lambda on, n: FakeEngine(self, key, on, n)
        )


class FakeEngine:
    """Satisfies `lanes.Engine`, in the thread that polls it."""

    def __init__(self, workshop: Workshop, key: str, device: str, halvings: int) -> None:
        self.restarts = 0
        self._shop = workshop
        self._key = key
        self._stopping = threading.Event()
        self._pending: deque[Job] = deque()
        self._cancelled: set[int] = set()
        self._done: list[Outcome] = []
        self._at: tuple[Job, float, Act] | None = None
        self._closed = False
        with workshop.lock:
            workshop.engines.append((key, device, halvings))
            workshop.open[key] += 1
            workshop.most_open = max(workshop.most_open, workshop.open.total())

    def start(self) -> None:
        with self._shop.lock:
            errors = self._shop.starts[self._key]
            error = errors.popleft() if errors else None
        if error is not None:
            raise error

    def stop_soon(self) -> None:
        self._stopping.set()

    def submit(self, job: Job) -> None:
        assert not self._closed and Path(job.work).is_dir() and Path(job.target).parent.is_dir()
        self._pending.append(job)

    def cancel(self, job_id: int) -> None:
        self._cancelled.add(job_id)

    def poll(self, timeout_s: float) -> list[Outcome]:
        deadline = time.monotonic() + timeout_s
        while not self._done and not self._closed:
            if self._stopping.is_set():
                raise Interrupted("told to stop")
            self._go_on()
            if time.monotonic() >= deadline:
                break
            self._stopping.wait(0.002)
        done, self._done = self._done, []
        return done

    def stats(self) -> tuple[StageStats, ...]:
        at = self._at[0].id if self._at else 0
        return (StageStats("decode", 0, 1, 4, 0.1, clip=at, frame=3 if at else -1), StageStats("encode", 1, 1, 2, 0.1))

    def clip(self, job_id: int) -> Clip | None:
        if self._at is None or self._at[0].id != job_id:
            return None
        job = self._at[0]
        form = PIXEL_FORMATS["yuv420p"]
        return Clip(job_id, job.source, job.target, "", 64, 48, form, Fraction(1, 25), frames=8, work=job.work)

    @property
    def busy(self) -> bool:
        return bool(self._pending or self._at or self._done)

    @property
    def finishing(self) -> Mapping[int, tuple[int, int | None]]:
        return {}

    def close(self, patience_s: float = 5.0) -> None:
        if self._closed:
            return
        self._closed = True
        with self._shop.lock:
            self._shop.open[self._key] -= 1
        if self._at is not None and patience_s > 1 and isinstance(self._at[2], Make) and self._at[2].gate is None:
            self._end(self._at[0], self._published(self._at[0]))  # it was at the door

    def _go_on(self) -> None:
        if self._at is None and self._pending:
            self._begin(self._pending.popleft())
        if self._at is None:
            return
        job, begun, act = self._at
        if job.id in self._cancelled:
            self._end(job, cancelled())
        elif isinstance(act, Fail):
            self._end(job, act.failure)
        elif isinstance(act, Die):
            raise act.error
        elif (act.gate is None or act.gate.is_set()) and time.monotonic() - begun >= self._shop.takes_s:
            failure = self._published(job)
            if act.told:
                self._end(job, failure)
            else:
                self._at = job, begun, Make(threading.Event())

    def _begin(self, job: Job) -> None:
        name = Path(job.source).name
        segment = Path(job.work, "segment.000000000.packets")
        with self._shop.lock:
            self._shop.begun.append(name)
            if segment.exists():
                self._shop.resumed.append(name)
            acts = self._shop.acts[name]
            act = acts.popleft() if acts else Make()
        segment.write_bytes(b"frames")
        self._at = job, time.monotonic(), act

    def _end(self, job: Job, failure: Failure | None) -> None:
        self._at = None
        self._done.append(Outcome(job, 8, failure, {"decode": {}}, 0.1))

    def _published(self, job: Job) -> Failure | None:
        try:
            check_unchanged(job.source, job.about["mark"])
            content = Path(job.source).read_bytes()
            write_result(job, content, made_of(content, self._key))
        except (UnderstudyError, OSError) as error:
            return failure_of("publish", None, error)
        with self._shop.lock:
            self._shop.published[job.target, hashlib.sha256(content).hexdigest()] += 1
        for file in Path(job.work).iterdir():
            file.unlink()
        Path(job.work).rmdir()
        return None


def write_result(job: Job, source: bytes, made: bytes) -> None:
    """A result and its report, as the door leaves them."""
    partial, report = partial_path(job.target, job.id), str(result.path_for(job.target))
    Path(partial).write_bytes(made)
    facts = {
        "version": 1,
        "job": job.id,
        "source": result.facts(job.source, hashlib.sha256(source).hexdigest()),
        "output": result.facts(partial, hashlib.sha256(made).hexdigest(), job.target),
        "frames": 8,
        "seconds": 0.1,
        "times": {**job.about["times"], "ended": time.time()},
    }
    beside = partial_path(report, job.id)
    result.write(beside, facts)
    publish(partial, job.target, [(beside, report)])


# --- a daemon ---------------------------------------------------------------------------------------------------------


class House:
    """Folders, what the configuration says of them, and a daemon that can be started and stopped again and again."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.shop = Workshop()
        self.folders: dict[str, Watched] = {}
        self.config = DaemonConfig(
            state=place / "state",
            least_free_mb=0,
            drain_s=3.0,
            retry=RetryConfig(backoff_s=0.02, longest_s=0.1),
            page=PageConfig(enabled=False),
        )
        self.told: list[Outcome] = []
        self.bad: UnderstudyError | None = None  # what reading the configuration raises
        self.daemon: Daemon | None = None
        self.failed = 0
        self.watch()

    def watch(self, name: str = "in", key: str = "a", station: Station | None = None, **settings: Any) -> Watched:
        """Has another folder watched from the next start or reload on."""
        inbox = self.place / name
        inbox.mkdir(exist_ok=True)
        settings = {"out": self.place / f"{name}-out", "settle_s": 0.0, "rescan_s": 300.0, **settings}
        own = station or self.shop.station(key)
        watched = Watched(WatchConfig(inbox, **settings), lambda: own, lambda source: ".mp4")
        self.folders[name] = watched
        return watched

    def set(self, **settings: Any) -> None:
        """Changes settings of the daemon's own."""
        self.config = replace(self.config, **settings)

    def drop(self, name: str, content: bytes | None = None, folder: str = "in") -> Path:
        """Puts a clip into a watched folder, in one go."""
        path = self.place / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{threading.get_ident()}.drop")
        beside.write_bytes(content if content is not None else b"clip " + os.fsencode(path))
        beside.rename(path)
        return path

    def out(self, name: str, folder: str = "in") -> Path:
        """What a clip becomes."""
        return self.place / f"{folder}-out" / Path(name).with_suffix(".mp4")

    # --- running ------------------------------------------------------------------------------------------------------

    def read(self) -> Setup:
        """The configuration."""
        if self.bad is not None:
            raise self.bad
        return Setup(self.config, tuple(self.folders.values()))

    def once(self) -> None:
        """Runs until all is done."""
        with self.running(once=True) as thread:
            thread.join(120)
            assert not thread.is_alive(), self.story()

    @contextmanager
    def running(self, once: bool = False) -> Iterator[threading.Thread]:
        """The daemon runs meanwhile."""
        self.daemon = daemon = Daemon(self.read, self._tell)
        raised: list[BaseException] = []

        def run() -> None:
            try:
                daemon.run({}, once)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, name="the daemon")
        thread.start()
        try:
            yield thread
        finally:
            daemon.stop()
            thread.join(60)
            assert not thread.is_alive(), "it does not end"
            self.failed = daemon.failed
            if raised:
                raise raised[0]
        assert not self.shop.open.total(), f"engines are left open: {self.shop.open}"

    def _tell(self, outcome: Outcome, lane: Lane | None) -> None:
        self.told.append(outcome)

    # --- looking ------------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """All rows, oldest first."""
        with Table.looking(self.config.state / FILE) as table:
            return table.listing(limit=1 << 20)[::-1]

    def entry(self, name: str, folder: str = "in") -> Entry:
        """The row of a clip."""
        with Table.looking(self.config.state / FILE) as table:
            found = table.current(str(self.place / folder / name))
        assert found is not None, f"{name} is not known: {self.story()}"
        return found

    def states(self) -> dict[str, str]:
        """The states of what lies there now, by name."""
        return {Path(entry.source).name: str(entry.state) for entry in self.entries() if entry.current}

    @contextmanager
    def table(self) -> Iterator[Table]:
        """The table, for writing, as the verbs do."""
        with Table.open(self.config.state / FILE, make=False) as table:
            yield table

    def wait(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Waits until it is so."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except (AssertionError, OSError) as error:  # not there yet
                if time.monotonic() > deadline:
                    raise AssertionError(self.story()) from error
            assert time.monotonic() <= deadline, self.story()
            time.sleep(0.01)

    def wait_for(self, name: str, state: str, folder: str = "in", seconds: float = 60.0) -> Entry:
        """Waits until a clip is in a state."""
        self.wait(lambda: self.entry(name, folder).state == state, seconds)
        return self.entry(name, folder)

    def story(self) -> str:
        """What has happened, for whoever reads of a failed test."""
        path = self.config.state / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        told = [f"{entry['level']} {entry.get('job', '')} {entry['message']}" for entry in map(json.loads, lines)]
        try:
            rows = [f"{e.id} {e.source!r} {e.state} current={e.current} {e.reason}" for e in self.entries()]
        except OSError as error:
            rows = [str(error)]
        return "\n".join(["", *rows[-20:], "---", *told[-40:]])

    def check(self, outputs: int | None = None, doubled: Iterable[str] = ()) -> None:
        """The invariant, of a daemon that has nothing left to do: every clip in exactly one state; every result whole,
        of its clip, made once; nothing left behind. `doubled` are results that may have been made more than once."""
        current = [entry for entry in self.entries() if entry.current]
        sources = [entry.source for entry in current]
        assert len(sources) == len(set(sources)), sources
        results = set()
        for entry in current:
            assert entry.state not in (State.RUNNING,), (entry, self.story())
            if entry.state is State.DONE:
                self._check_result(entry)
                results.add(entry.target)
        for (target, digest), times in self.shop.published.items():
            assert times == 1 or Path(target).name in doubled, (target, digest, times, self.story())
        if outputs is not None:
            assert len(results) == outputs, (sorted(results), self.story())
        for folder in self.folders.values():
            left = [path for path in folder.config.out.rglob("*") if path.name.endswith(".part")]
            assert not left, left
        work = self.config.work_folder
        if work.is_dir():
            going_on = {str(e.id) for e in current if e.state in (State.WAITING, State.BLOCKED)}
            left = [f for f in work.iterdir() if f.name.partition("-")[0].isdecimal()]
            assert not [f for f in left if f.name.partition("-")[0] not in going_on], (left, self.story())

    def _check_result(self, entry: Entry) -> None:
        made = Path(entry.target).read_bytes()
        report = result.read(result.path_for(entry.target))
        assert report is not None and report["output"]["sha256"] == hashlib.sha256(made).hexdigest(), entry
        assert report["source"]["sha256"] == entry.digest, entry
        source = Path(entry.source)
        if source.exists():
            assert made.endswith(b" of " + source.read_bytes()), (entry, made)


NO_SPACE = fail("PublishError", errno.ENOSPC)
