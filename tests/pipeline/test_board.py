"""The board and the clock that writes it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pipeline.board import Board, Doing, Meter, stage_stats
from pipeline.specs import ProcessSpec, StageStats


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board(3)
    yield made
    made.close()


class Clock:
    """Stands in for `time`: it goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("pipeline.board.time", made)
    return made


def test_time_goes_to_one_thing_of_one_stage_at_a_time(board: Board, clock: Clock) -> None:
    meter = Meter((board.row(1), board.row(2)))
    clock.now += 1
    meter.switch(Doing.BUSY, 0)
    clock.now += 20
    before = meter.switch(Doing.BUSY, 1)
    assert before == (Doing.BUSY, 0)
    clock.now += 300
    meter.switch(*before)
    clock.now += 4_000
    meter.switch(Doing.WAIT_OUT, 1)
    clock.now += 50_000
    meter.switch(Doing.WAIT_IN)
    clock.now += 600_000
    meter.switch(Doing.IDLE)
    clock.now += 7_000_000
    meter.switch(Doing.IDLE)
    first, second = board.read(1), board.read(2)
    assert (first.busy_ns, first.wait_in_ns, first.wait_out_ns) == (4_020, 600_000, 0)
    assert (second.busy_ns, second.wait_in_ns, second.wait_out_ns) == (300, 0, 50_000)
    assert board.read(0).busy_ns == 0


def test_the_clock_is_one_that_no_one_sets(board: Board) -> None:
    """And that the parent reads as well, which looks how long a stage has been silent."""
    before = time.monotonic_ns()
    Meter((board.row(1),)).switch(Doing.BUSY)
    assert before <= board.read(1).since_ns <= time.monotonic_ns()


def test_a_stage_that_says_that_it_is_alive_has_begun_just_now(board: Board, clock: Clock) -> None:
    meter = Meter((board.row(1), board.row(2)))
    meter.switch(Doing.BUSY, 1)
    begun = board.read(2).since_ns
    clock.now += 2_000
    meter.alive()
    read = board.read(2)
    assert read.doing is Doing.BUSY and read.since_ns == begun + 2_000
    assert read.busy_ns == 2_000, "what it has done so far is counted"
    assert board.read(1).since_ns <= begun
    clock.now += 1
    meter.switch(Doing.IDLE)
    assert board.read(2).busy_ns == 2_001, "and none of it twice"


def test_workers_of_a_stage_are_added_up(board: Board) -> None:
    for row, frame in ((1, 4), (2, 7)):
        board.row(row).count()
        board.row(row).add(Doing.BUSY, 500_000_000)
        board.row(row).at(3, frame)
    first, second = stage_stats(board, (ProcessSpec(("a",)), ProcessSpec(("b",), 2)))
    assert (first.name, first.process, first.workers, first.frames) == ("a", 0, 1, 0)
    assert second == StageStats("b", 1, 2, frames=2, busy=1.0, clip=3, frame=7)


def test_a_row_says_where_its_stage_is(board: Board) -> None:
    row = board.row(2)
    row.at(7, 41)
    row.doing(Doing.BUSY, 5)
    row.count()
    read = board.read(2)
    assert (read.clip, read.frame, read.doing, read.since_ns, read.frames) == (7, 41, Doing.BUSY, 5, 1)
    board.forget(2)
    read = board.read(2)
    assert (read.clip, read.frame, read.doing, read.frames) == (0, 0, Doing.IDLE, 1), "counts stay"


def test_starved_means_that_nothing_can_come(board: Board) -> None:
    first = board.row(0)
    for _ in range(5):
        first.placed()
    assert not board.starved(5, 5), "the first process is not waiting"
    first.starve(returned=0)
    assert not board.starved(4, 4), "one frame is still on its way here"
    assert board.starved(5, 5), "all that there is lies here"
    for doing in (Doing.IDLE, Doing.WAIT_IN, Doing.BUSY):
        board.row(2).doing(doing, 5)
        assert not board.starved(5, 3), "two are behind, where somebody may wait for more of them just as well"
    first.starve(returned=1)
    assert not board.starved(5, 3)
    first.starve(returned=2)
    assert board.starved(5, 3)
    first.fed()
    assert not board.starved(5, 3)
