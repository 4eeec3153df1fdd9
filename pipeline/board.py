"""The board: what each stage is doing, in shared memory, written by the stage's process and read by the parent.

One row of int64 a stage and worker. A row has one writer and eight-byte words, so it needs no lock; a reader may see
one word newer than another, which progress, deadlines and statistics can bear.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pipeline.pool import SharedBlock
from pipeline.specs import ProcessSpec, StageStats


class Doing(IntEnum):
    """What a process is at."""

    IDLE = 0
    WAIT_IN = 1
    BUSY = 2
    WAIT_OUT = 3


class _Word(IntEnum):
    FRAMES = 0
    BUSY_NS = 1
    WAIT_IN_NS = 2
    WAIT_OUT_NS = 3
    CLIP = 4
    FRAME = 5
    DOING = 6
    SINCE_NS = 7
    PLACED = 8  # the first process: frames put into the ring since it started
    STARVED = 9  # the first process: 1 while it waits for room in the ring
    RETURNED = 10  # the first process: frames whose room it had been given back when it began to wait


_WORDS = len(_Word)
_TIMED = {Doing.BUSY: _Word.BUSY_NS, Doing.WAIT_IN: _Word.WAIT_IN_NS, Doing.WAIT_OUT: _Word.WAIT_OUT_NS}


@dataclass(frozen=True, slots=True)
class RowReading:
    """A row as it was read: nanoseconds, counts, and what the process is doing since `since_ns` (monotonic)."""

    frames: int
    busy_ns: int
    wait_in_ns: int
    wait_out_ns: int
    clip: int
    frame: int
    doing: Doing
    since_ns: int


class Board:
    """Rows for every stage of every worker; `row(i)` gives the writing end."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._block = SharedBlock(rows * _WORDS * 8)

    def _words(self, row: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        words: np.ndarray[tuple[int], np.dtype[np.int64]] = self._block.bytes.view(np.int64)[
            row * _WORDS : (row + 1) * _WORDS
        ]
        return words

    def row(self, row: int) -> Row:
        """The writing end of one row; only one process may hold it."""
        return Row(self._words(row))

    def read(self, row: int) -> RowReading:
        """One row as it is now."""
        w = self._words(row).tolist()
        return RowReading(w[0], w[1], w[2], w[3], w[4], w[5], Doing(w[6]), w[7])

    def forget(self, row: int) -> None:
        """Clears what a dead process was doing, keeping what it had counted."""
        self._words(row)[_Word.CLIP :] = 0

    def starved(self, received: int, held: int) -> bool:
        """Whether nothing can come to the process that has received so many frames and still holds so many of them.

        That is so when the first process waits for room, all it ever placed has been received, and all that was handed
        on has come back: this process alone could give room. Nothing here hangs on who happens to be at work, since
        what comes of a clip may hang on the answer. Once all has come back, the other two words stand still.
        """
        words = self._words(0)
        if int(words[_Word.RETURNED]) != received - held:
            return False
        return int(words[_Word.PLACED]) == received and bool(words[_Word.STARVED])

    def close(self) -> None:
        """Gives the memory back."""
        self._block.close()


def stage_stats(board: Board, processes: Sequence[ProcessSpec]) -> tuple[StageStats, ...]:
    """What the board says of each stage of these processes, workers added up."""
    stats = []
    row = 0
    for place, spec in enumerate(processes):
        for at, name in enumerate(spec.stages):
            reads = [board.read(row + worker * len(spec.stages) + at) for worker in range(spec.workers)]
            furthest = max(reads, key=lambda read: (read.clip, read.frame))
            stats.append(
                StageStats(
                    name,
                    place,
                    spec.workers,
                    sum(read.frames for read in reads),
                    sum(read.busy_ns for read in reads) / 1e9,
                    sum(read.wait_in_ns for read in reads) / 1e9,
                    sum(read.wait_out_ns for read in reads) / 1e9,
                    furthest.clip,
                    furthest.frame,
                )
            )
        row += len(spec.stages) * spec.workers
    return tuple(stats)


class Row:
    """The writing end of a row."""

    __slots__ = ("_words",)

    def __init__(self, words: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        self._words = words

    def at(self, clip: int, frame: int) -> None:
        """Says which frame (of the file) of which clip the stage is at; clip 0 when between clips."""
        self._words[_Word.CLIP] = clip
        self._words[_Word.FRAME] = frame

    def doing(self, doing: Doing, since_ns: int) -> None:
        """Says what the process does from now on."""
        self._words[_Word.DOING] = doing
        self._words[_Word.SINCE_NS] = since_ns

    def add(self, doing: Doing, nanoseconds: int) -> None:
        """Counts time spent."""
        if doing is not Doing.IDLE:
            word = {Doing.BUSY: _Word.BUSY_NS, Doing.WAIT_IN: _Word.WAIT_IN_NS, Doing.WAIT_OUT: _Word.WAIT_OUT_NS}[
                doing
            ]
            self._words[word] += nanoseconds

    def count(self) -> None:
        """Counts a frame out."""
        self._words[_Word.FRAMES] += 1

    def placed(self) -> None:
        """Counts a frame put into the ring (the first process only)."""
        self._words[_Word.PLACED] += 1

    def starve(self, returned: int) -> None:
        """Says that the ring has no room for the next frame, and how many have come back (the first process only)."""
        self._words[_Word.RETURNED] = returned
        self._words[_Word.STARVED] = 1

    def fed(self) -> None:
        """Says that some room has come back (the first process only)."""
        self._words[_Word.STARVED] = 0


class Meter:
    """One process's clock: all its time goes to one stage's busy, or to waiting, at any moment.

    Waiting for frames counts for the first stage of the process, waiting to hand them on for the last.
    """

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self._rows = rows
        self._row = rows[0]
        self._doing = Doing.IDLE
        self._since = time.monotonic_ns()

    def switch(self, doing: Doing, stage: int = 0) -> tuple[Doing, int]:
        """From now on the process does this for that stage; returns what it did before, to switch back to."""
        now = time.monotonic_ns()
        before = (self._doing, self._rows.index(self._row))
        self._row.add(self._doing, now - self._since)
        self._row.doing(Doing.IDLE, now)
        self._row, self._doing, self._since = self._rows[stage], doing, now
        self._row.doing(doing, now)
        return before

    def alive(self) -> None:
        """Says that the stage is not stuck: what it does counts as begun just now."""
        now = time.monotonic_ns()
        self._row.add(self._doing, now - self._since)
        self._row.doing(self._doing, now)
        self._since = now
