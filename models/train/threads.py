"""How many CPU threads make training fastest? Tried out, since it depends on who else wants the cores.

Every operation of a step ends in a meeting of its threads, and all wait for the last. With a core of its own for each
that costs nothing; where one has to share its core, a step of a small network takes many times as long as on one
thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

_STEPS = 3  # of each trial; the first one, which also makes the threads, doesn't count
_AGAIN_S = 45.0


def candidates(cores: int) -> tuple[int, ...]:
    """All cores, then half as many again and again down to one."""
    counts = [cores]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return tuple(counts)


class Threads:
    """Chooses among `counts`: tries each for a few steps, goes on with the fastest, and tries again after a while."""

    def __init__(
        self,
        counts: Sequence[int],
        use: Callable[[int], None] = torch.set_num_threads,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = tuple(counts)
        self._use = use
        self._clock = clock
        self.chosen = counts[0]
        self._use(self.chosen)
        self._trials: list[int] = []
        self._spent: dict[int, list[float]] = {}
        self._next_round = clock() if len(counts) > 1 else float("inf")

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around each step of the training."""
        if not self._trials and self._clock() >= self._next_round:
            self._trials = [count for count in self._counts for _ in range(_STEPS)]
            self._spent = {count: [] for count in self._counts}
        if not self._trials:
            yield
            return
        count = self._trials.pop(0)
        self._use(count)
        begun = self._clock()
        try:
            yield
        except BaseException:  # a step that was broken off says nothing of how long one takes
            self._trials.insert(0, count)
            raise
        self._spent[count].append(self._clock() - begun)
        if not self._trials:
            self.chosen = min(self._counts, key=lambda tried: min(self._spent[tried][1:]))
            self._use(self.chosen)
            self._next_round = self._clock() + _AGAIN_S
