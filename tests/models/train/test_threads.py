"""models.train.threads: the fastest count wins, and may lose again."""

from __future__ import annotations

import pytest

from models.train.threads import Threads, candidates


class Cores:
    """A machine on which a step takes so many seconds, depending on the threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.used = 0
        self.history: list[int] = []

    def use(self, count: int) -> None:
        self.used = count

    def run(self, threads: Threads, steps: int) -> None:
        for _ in range(steps):
            with threads.step():
                self.now += self.seconds[self.used]
                self.history.append(self.used)


def test_candidates() -> None:
    assert candidates(1) == (1,)
    assert candidates(2) == (2, 1)
    assert candidates(12) == (12, 6, 3, 1)


def test_the_fastest_count_wins() -> None:
    cores = Cores({4: 0.9, 2: 0.2, 1: 0.3})
    threads = Threads((4, 2, 1), cores.use, lambda: cores.now)
    cores.run(threads, 20)
    assert cores.history == [4, 4, 4, 2, 2, 2, 1, 1, 1] + [2] * 11
    assert threads.chosen == 2


def test_it_is_tried_again_when_the_machine_has_changed() -> None:
    cores = Cores({2: 0.9, 1: 0.1})
    threads = Threads((2, 1), cores.use, lambda: cores.now)
    cores.run(threads, 50)
    assert threads.chosen == 1
    cores.seconds = {2: 0.06, 1: 0.1}
    cores.run(threads, 1000)
    assert threads.chosen == 2
    assert cores.history.count(1) < 600


def test_a_given_count_is_not_touched() -> None:
    cores = Cores({3: 0.1})
    threads = Threads((3,), cores.use, lambda: cores.now)
    cores.run(threads, 1000)
    assert set(cores.history) == {3}


def test_a_step_that_is_broken_off_is_no_trial() -> None:
    cores = Cores({2: 0.9, 1: 0.1})
    threads = Threads((2, 1), cores.use, lambda: cores.now)
    for _ in range(4):
        with pytest.raises(KeyError), threads.step():
            raise KeyError
    cores.run(threads, 10)
    assert cores.history == [2] * 3 + [1] * 7
