"""Curves of bounded length, whatever is added to them: neighbours are joined as they become too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Points of a curve, at most.
POINTS = 4000

_VALUES = 1_000_000  # numbers that all samples together hold before they are joined


@dataclass(frozen=True, slots=True)
class Sample:
    """One or more neighbouring points of the journal as one: means, and how far the loss reaches to either side.

    Attributes:
        iteration, seconds: the last of them.
        session: the number of the session they belong to.
        lowest, highest: of each person's loss.
        terms: the parts of the loss, as "person/term".
        count: how many points it stands for.
    """

    iteration: int
    session: int
    seconds: float
    loss: Mapping[str, float]
    lowest: Mapping[str, float]
    highest: Mapping[str, float]
    terms: Mapping[str, float]
    lr: float | None
    faces_per_s: float | None
    waiting: float | None
    count: int = 1


class Samples:
    """Added one by one, in order."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._stride = 1  # points that a sample stands for
        self._values = 0

    def add(self, sample: Sample) -> None:
        """Adds one that lies beyond the last; another of the last one's iteration is passed by."""
        last = self._samples[-1] if self._samples else None
        if last is not None and last.iteration == sample.iteration:
            return
        if last is not None and last.count < self._stride and last.session == sample.session:
            sample = _joined(self._pop(), sample)
        self._samples.append(sample)
        self._values += _size(sample)
        if len(self._samples) >= 2 * POINTS or self._values > _VALUES:
            self._halve()

    def drop_beyond(self, iteration: int) -> None:
        """What reaches beyond `iteration` goes, with all that it was joined of."""
        while self._samples and self._samples[-1].iteration > iteration:
            self._pop()

    def thinned(self) -> tuple[Sample, ...]:
        """At most `POINTS` of them."""
        while len(self._samples) > POINTS:
            self._halve()
        return tuple(self._samples)

    def _pop(self) -> Sample:
        sample = self._samples.pop()
        self._values -= _size(sample)
        return sample

    def _halve(self) -> None:
        pairs = [self._samples[place : place + 2] for place in range(0, len(self._samples), 2)]
        self._samples = [_joined(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
        self._stride *= 2
        self._values = sum(map(_size, self._samples))


def _size(sample: Sample) -> int:
    return 4 + 3 * len(sample.loss) + len(sample.terms)


def _joined(one: Sample, other: Sample) -> Sample:
    shares = (one.count, other.count)
    low, high = dict(one.lowest), dict(one.highest)
    for person, value in other.lowest.items():
        low[person] = min(value, low.get(person, value))
    for person, value in other.highest.items():
        high[person] = max(value, high.get(person, value))
    return Sample(
        iteration=other.iteration,
        session=other.session,
        seconds=other.seconds,
        loss=_means(one.loss, other.loss, shares),
        lowest=low,
        highest=high,
        terms=_means(one.terms, other.terms, shares),
        lr=other.lr if other.lr is not None else one.lr,
        faces_per_s=_mean(one.faces_per_s, other.faces_per_s, shares),
        waiting=_mean(one.waiting, other.waiting, shares),
        count=sum(shares),
    )


def _means(one: Mapping[str, float], other: Mapping[str, float], shares: tuple[int, int]) -> dict[str, float]:
    means = {name: _mean(one.get(name), other.get(name), shares) for name in {**one, **other}}
    return {name: value for name, value in means.items() if value is not None}


def _mean(one: float | None, other: float | None, shares: tuple[int, int]) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return (one * shares[0] + other * shares[1]) / sum(shares)
