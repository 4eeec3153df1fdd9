"""Started and stopped again and again, with clips of one frame, at any moment: never stuck, and nothing stays.

Most cycles run the daemon in a thread of the test, with processes for its stages and the door as ever; the others are
the whole program, ended by signals.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipeline import app
from pipeline.daemon import Daemon
from pipeline.daemon_config import DaemonConfig, Setup, Watched
from pipeline.errors import TableError
from pipeline.inbox import WatchConfig, prepare_folders
from pipeline.jobs import FILE, Refused, State, Table
from pipeline.retries import RetryConfig
from pipeline.status.page import PageConfig
from tests.clips import decoded, make_clip
from tests.daemon.program import light_station
from tests.daemon.storm import Place, Service, check_gone, serving

#: As long as a daemon may take to end.
_END_S = 30.0

#: About as long as it takes to come to its first clip, and through it.
_SPAN_S = 1.3


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("one frame") / "one.mp4", frames=1, rate=25)


def setup_for(place: Place) -> Setup:
    """Decode and encode, each in a process, and the door."""
    folder = WatchConfig(place.inbox, place.out, settle_s=0, rescan_s=2)
    retry = RetryConfig(attempts=1000, crashes=1000, backoff_s=0)
    daemon = DaemonConfig(place.state, least_free_mb=0, retry=retry, page=PageConfig(enabled=False))
    base = app.Settings()
    settings = replace(
        base,
        daemon=daemon,
        watch=(folder,),
        engine=replace(base.engine, ring_mb=1),
        encode=replace(base.encode, preset="ultrafast", threads=1),
    )
    prepare_folders(settings.watch)
    station = partial(light_station, {}, ("decode", "encode"), settings, folder)
    return Setup(daemon, (Watched(folder, station, partial(app.result_suffix, settings)),))


class Threaded:
    """A daemon in a thread."""

    def __init__(self, place: Place, once: bool = False) -> None:
        self.daemon = Daemon(lambda: setup_for(place), lambda outcome, lane: None)
        self.failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(once,), name="a daemon")
        self._thread.start()

    def _run(self, once: bool) -> None:
        try:
            self.daemon.run({}, once)
        except BaseException as error:
            self.failed.append(error)

    def end(self, within_s: float) -> float:
        """Waits for its end; how long that took. Fails where it is stuck, or failed."""
        begun = time.monotonic()
        self._thread.join(within_s)
        assert not self._thread.is_alive(), "it is stuck"
        if self.failed:
            raise self.failed[0]
        return time.monotonic() - begun


def cancel_one(place: Place, rng: random.Random) -> bool:
    """As `understudy jobs cancel` does, for any job that has not ended; whether one was."""
    try:
        with Table.open(place.state / FILE, make=False) as table:
            open_ = table.listing([State.WAITING, State.RUNNING], 1000)
            if open_:
                table.withdraw(rng.choice(open_).id, time.time())
            return bool(open_)
    except (TableError, Refused):  # there is none yet, or it has just ended
        return False


def stage_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "resource_tracker" not in " ".join(child.cmdline())]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def check_states(place: Place) -> Counter[State]:
    """Each input is in one state, done or cancelled; the results of just those that are done are there, whole."""
    rows = place.entries()
    assert sorted(Path(row.source).name for row in rows) == sorted(place.given)
    counts = Counter(row.state for row in rows)
    assert set(counts) <= {State.DONE, State.CANCELLED}, [(row.source, row.reason) for row in rows]
    done = {Path(row.source).name for row in rows if row.state is State.DONE}
    assert set(os.listdir(place.out)) == done | {f"{name}.json" for name in done}  # noqa: PTH208
    for name in done:
        assert len(decoded(place.out / name)) == 1
    assert not list(place.work.iterdir())
    assert not list(place.root.rglob("*.part"))
    return counts


def threads(root: Path, clip: Path, seed: int, cycles: int) -> None:
    """So many cycles of a daemon in a thread."""
    rng = random.Random(seed)
    place = Place(root)
    Threaded(place, once=True).end(_END_S)  # opens what stays open, and makes the table
    held = descriptors()
    longest, cancelled, begun = 0.0, 0, time.monotonic()
    for number in range(cycles):
        place.drop(clip, f"{number}.mp4")
        running = Threaded(place)
        if rng.random() < 0.25:
            time.sleep(_SPAN_S * rng.random() ** 2)
            cancelled += cancel_one(place, rng)
            time.sleep(rng.uniform(0, 0.1))
        else:
            time.sleep(_SPAN_S * rng.random() ** 2)
        running.daemon.stop()
        longest = max(longest, running.end(_END_S))
        assert not stage_processes(), f"cycle {number}"
        assert descriptors() <= held, f"cycle {number}"
        if number % 50 == 49:
            print(
                f"{number + 1} cycles in {time.monotonic() - begun:.0f} s, the longest end {longest:.1f} s", flush=True
            )
    Threaded(place, once=True).end(_END_S + cycles)
    counts = check_states(place)
    assert counts[State.CANCELLED] <= cancelled
    print(f"{cycles} cycles in threads: {dict(counts)}, {cancelled} asked to be cancelled; longest end {longest:.1f} s")


ENDS: Sequence[tuple[signal.Signals, ...]] = (
    (signal.SIGTERM,),
    (signal.SIGINT,),
    (signal.SIGKILL,),
    (signal.SIGTERM, signal.SIGTERM),
)

#: What the program exits with once it has begun: as told, or at once by a second signal.
CODES = {signal.SIGTERM: {0, 143}, signal.SIGINT: {130}, signal.SIGKILL: {-9}}

#: Before that: by the signal, or as Python does that is interrupted before it has come to any code of ours.
BEFORE = {signal.SIGTERM: {0, 143, -15}, signal.SIGINT: {130, -2, 1}, signal.SIGKILL: {-9}}


def programs(root: Path, clip: Path, seed: int, cycles: int) -> None:
    """So many cycles of the whole program."""
    rng = random.Random(seed)
    place = Place(root)
    longest = 0.0
    for number in range(cycles):
        place.drop(clip, f"{number}.mp4")
        service = Service(place)
        try:
            time.sleep(2 * _SPAN_S * rng.random())
            if rng.random() < 0.25:
                cancel_one(place, rng)
            by = rng.choice(ENDS)
            begun = time.monotonic()
            for one in by:
                service.process.send_signal(one)
                time.sleep(rng.uniform(0, 0.05))
            code = service.process.wait(_END_S)
            longest = max(longest, time.monotonic() - begun)
            begun_before = f"started, as process {service.process.pid}" in place.log(10_000)
            allowed = (CODES if begun_before else BEFORE)[by[0]]
            assert code in allowed, f"{by} gave {code}\n{place.log()}"
        finally:
            service.kill()
        check_gone(place)
        if number % 10 == 9:
            print(f"{number + 1} cycles of the program, the longest end {longest:.1f} s", flush=True)
    with serving(place) as service:
        service.until(lambda: len(place.entries()) == cycles, "all had been taken")
        service.until(lambda: {row.state for row in place.entries()} <= {State.DONE, State.CANCELLED}, "all had ended")
    check_gone(place)
    print(f"{cycles} cycles of the program: {dict(check_states(place))}; longest end {longest:.1f} s")


def test_start_and_stop_in_threads(tmp_path: Path, clip: Path) -> None:
    threads(tmp_path / "place", clip, 1, 20)


def test_start_and_stop_the_program(tmp_path: Path, clip: Path) -> None:
    programs(tmp_path / "place", clip, 1, 5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_900_starts_and_stops_in_threads(tmp_path: Path, clip: Path) -> None:
    threads(tmp_path / "place", clip, 2, 900)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_100_starts_and_stops_of_the_program(tmp_path: Path, clip: Path) -> None:
    programs(tmp_path / "place", clip, 2, 100)
