"""Lanes: what they tell, in which order, and that they end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UnderstudyError, WeightsError
from pipeline.lanes import DEPTH, Ended, Event, Lane, Left, Station
from pipeline.types import Job
from tests.pipeline.fake_engine import Die, FakeEngine, Make, Workshop, fail


class Yard:
    """A lane, and what it tells."""

    def __init__(self, place: Path) -> None:
        self.shop = Workshop()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.place = place
        self.lanes: list[Lane] = []

    def lane(self, station: Station | None = None) -> Lane:
        lane = Lane(station or self.shop.station(), "cpu", 0, self.events.put)
        self.lanes.append(lane)
        return lane

    def job(self, number: int) -> Job:
        source, work = self.place / f"{number}.mp4", self.place / f"work{number}"
        source.write_bytes(b"clip")
        work.mkdir()
        status = source.stat()
        mark = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
        about = {"mark": mark, "times": {}}
        return Job(number, str(source), str(self.place / f"{number}.out"), str(work), about=about)

    def told(self, *, seconds: float = 60.0) -> Event:
        return self.events.get(timeout=seconds)

    def ended(self) -> tuple[int, bool]:
        event = self.told()
        assert isinstance(event, Ended), event
        return event.outcome.job.id, event.outcome.ok

    def left(self) -> UnderstudyError | None:
        event = self.told()
        assert isinstance(event, Left), event
        assert event.lane.join(60)
        return event.error


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    yield yard
    for lane in yard.lanes:
        lane.stop(0.0)
        assert lane.join(60)
    assert not yard.shop.open.total()


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_tells_how_jobs_end(yard: Yard) -> None:
    yard.shop.script("2.mp4", fail("InputError"))
    lane = yard.lane()
    for number in (1, 2, 3):
        lane.submit(yard.job(number))
    assert lane.room == 0 and lane.jobs == {1, 2, 3}
    assert [yard.ended() for _ in range(3)] == [(1, True), (2, False), (3, True)]
    assert lane.jobs == {1, 2, 3}, "they are the owner's"
    wait(lambda: lane.state == "resting")
    lane.stop()
    assert yard.left() is None and lane.state == "down" and lane.room == 0


def test_it_hears_of_an_order_at_once_though_it_rests(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.lanes._REST_S", 60.0)
    lane = yard.lane()
    wait(lambda: lane.state == "resting")
    for number in range(1, 21):
        lane.submit(yard.job(number))
        assert isinstance(yard.told(seconds=30.0), Ended), "long before it would have looked by itself"


def test_cancelling(yard: Yard) -> None:
    yard.shop.script("1.mp4", Make(threading.Event()))
    lane = yard.lane()
    lane.submit(yard.job(1))
    lane.submit(yard.job(2))
    lane.cancel(1)
    lane.cancel(7)
    event = yard.told()
    assert isinstance(event, Ended) and event.outcome.failure is not None
    assert event.outcome.failure.error == "Cancelled"
    assert yard.ended() == (2, True)


def test_an_engine_that_falls(yard: Yard) -> None:
    yard.shop.script("2.mp4", Die(UnderstudyError("it does not stay up")))
    lane = yard.lane()
    lane.submit(yard.job(1))
    lane.submit(yard.job(2))
    assert yard.ended() == (1, True)
    assert str(yard.left()) == "it does not stay up"
    assert lane.room == 0 and lane.jobs == {1, 2}
    lane.submit(yard.job(3))  # its owner has not heard yet
    assert lane.jobs == {1, 2, 3}


def test_an_engine_that_does_not_start(yard: Yard) -> None:
    yard.shop.starts["a"].append(WeightsError("no model"))
    lane = yard.lane()
    assert isinstance(yard.left(), WeightsError) and lane.room == 0


def test_an_engine_that_cannot_be_made(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    def make(device: str, halvings: int) -> FakeEngine:
        raise WeightsError("no model") if device == "cpu" else OSError(24, "too many open files")

    station = replace(yard.shop.station(), make=make)
    yard.lane(station)
    assert isinstance(yard.left(), WeightsError)
    yard.lanes.append(Lane(station, "cuda", 0, yard.events.put))
    assert "too many open files" in str(yard.left())


def test_a_defect_is_told_like_a_fall(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    yard.shop.script("1.mp4", Make(threading.Event()))
    lane = yard.lane(replace(yard.shop.station(), make=lambda device, halvings: Odd(yard.shop, "a", device, halvings)))
    lane.submit(yard.job(1))
    assert str(yard.left()) == "a defect: ArithmeticError: as told"
    assert "Traceback" in caplog.text


class Odd(FakeEngine):
    def stats(self):  # type: ignore[no-untyped-def]
        if self.busy:
            raise ArithmeticError("as told")
        return ()


def test_what_was_published_while_it_closed_is_told(yard: Yard) -> None:
    yard.shop.takes_s = 60
    lane = yard.lane()
    lane.submit(yard.job(1))
    wait(lambda: bool(yard.shop.begun))
    lane.stop(5.0)
    assert yard.ended() == (1, True)
    assert yard.left() is None


def test_stopping_while_it_starts(yard: Yard) -> None:
    held = threading.Event()

    class Slow(FakeEngine):
        def start(self) -> None:
            held.set()
            assert self._stopping.wait(60)
            raise UnderstudyError("told to stop")

    lane = yard.lane(replace(yard.shop.station(), make=lambda device, halvings: Slow(yard.shop, "a", device, halvings)))
    lane.submit(yard.job(1))
    assert held.wait(60)
    lane.stop()
    assert yard.left() is None and lane.jobs == {1}


def test_stopping_while_it_is_made(yard: Yard) -> None:
    making, go_on = threading.Event(), threading.Event()

    def make(device: str, halvings: int) -> FakeEngine:
        making.set()
        assert go_on.wait(60)
        return FakeEngine(yard.shop, "a", device, halvings)

    lane = yard.lane(replace(yard.shop.station(), make=make))
    lane.submit(yard.job(1))
    assert making.wait(60)
    lane.stop()
    go_on.set()
    assert yard.left() is None and not yard.shop.begun


def test_a_job_may_be_given_in_the_moment_of_the_stop(yard: Yard) -> None:
    """Whatever comes first: each job has ended, or is among those that are left; and nothing is told after that."""
    for number in range(1, 60):
        lane = yard.lane()
        stopper = threading.Timer(0.0005 * (number % 10), lane.stop)
        stopper.start()
        time.sleep(0.0005 * (number % 7))
        lane.submit(yard.job(number))
        ended = set()
        while isinstance(event := yard.told(), Ended):
            ended.add(event.outcome.job.id)
        assert ended <= {number} == lane.jobs
        stopper.join()
        assert lane.join(60) and yard.events.empty()


def test_how_it_is_shown(yard: Yard) -> None:
    yard.shop.script("1.mp4", Make(threading.Event()))
    lane = Lane(yard.shop.station(), "cuda:1", 2, yard.events.put)
    yard.lanes.append(lane)
    lane.submit(yard.job(1))
    wait(lambda: 1 in lane.now.clips and lane.state == "ready")
    shown = lane.shown()
    assert (shown.model, shown.to, shown.device, shown.state) == ("model of a", "b", "cuda:1", "ready")
    assert shown.reason == "works with memory halved 2 times"
    assert [(stage.name, stage.workers) for stage in lane.shown().stages] == [("decode", 1), ("encode", 1)]
    assert DEPTH == 3 and lane.room == 2


def test_its_stages_are_shown_as_soon_as_it_has_loaded(yard: Yard) -> None:
    """Whoever looks only when its state changes sees them, too."""
    lane = yard.lane()
    wait(lambda: lane.state == "resting")
    assert [stage.name for stage in lane.shown().stages] == ["decode", "encode"]
