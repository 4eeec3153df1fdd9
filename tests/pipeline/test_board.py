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


def test_time_goes_to_one_thing_of_one_stage_at_a_time(board: Board) -> None:
    meter = Meter((board.row(1), board.row(2)))
    began = time.monotonic_ns()
    meter.switch(Doing.BUSY, 0)
    before = meter.switch(Doing.BUSY, 1)
    while time.monotonic_ns() - began < 3_000_000:
        pass
    meter.switch(*before)
    meter.switch(Doing.WAIT_OUT, 1)
    meter.switch(Doing.WAIT_IN)
    meter.switch(Doing.IDLE)
    took = time.monotonic_ns() - began
    first, second = board.read(1), board.read(2)
    total = sum(r.busy_ns + r.wait_in_ns + r.wait_out_ns for r in (first, second))
    assert 2_900_000 < second.busy_ns < took
    assert second.wait_out_ns > 0 == first.wait_out_ns
    assert first.wait_in_ns > 0 == second.wait_in_ns
    assert 0.9 * took < total <= took, "all the time is counted, and none twice"
    assert board.read(0).busy_ns == 0


def test_a_stage_that_says_that_it_is_alive_has_begun_just_now(board: Board) -> None:
    meter = Meter((board.row(1), board.row(2)))
    meter.switch(Doing.BUSY, 1)
    begun = board.read(2).since_ns
    time.sleep(0.002)
    meter.alive()
    read = board.read(2)
    assert read.doing is Doing.BUSY and read.since_ns >= begun + 2_000_000
    assert read.busy_ns == read.since_ns - begun, "what it has done so far is counted"
    assert board.read(1).since_ns <= begun
    meter.switch(Doing.IDLE)
    assert board.read(2).busy_ns < time.monotonic_ns() - begun, "and none of it twice"


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
