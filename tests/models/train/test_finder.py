"""models.train.finder: finds the valley of a loss, says where it ends, and says so when there is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from models.train.finder import Finding, find, picture
from pipeline.errors import ConfigError


def valley(best: float, noise: float = 0.0, seed: int = 0) -> Callable[[float], float]:
    """A loss that is 1 at short steps, falls to 0.4 at `best`, and breaks away ten times further on."""
    chance = np.random.default_rng(seed)

    def step(rate: float) -> float:
        away = math.log10(rate / best)
        loss = 1 - 0.6 * math.exp(-(away**2)) + max(0.0, away - 0.5) ** 4 * 50
        return loss * (1 + noise * chance.standard_normal())

    return step


@pytest.mark.parametrize("best", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_suggests_a_tenth_of_the_lowest(best: float, noise: float) -> None:
    finding = find(valley(best, noise))
    assert finding.suggested is not None
    assert abs(math.log10(finding.suggested / (best / 10))) < (0.1 if noise == 0 else 0.5)


def test_sweeps_evenly_and_stops_where_the_loss_breaks_away() -> None:
    asked: list[float] = []
    step = valley(1e-4)
    finding = find(lambda rate: asked.append(rate) or step(rate), 1e-6, 1.0, 61)  # type: ignore[func-returns-value]
    assert finding.rates == tuple(asked)
    assert np.allclose(np.diff(np.log10(finding.rates)), 0.1)
    assert finding.rates[0] == pytest.approx(1e-6)
    assert finding.diverged == finding.rates[-1]
    assert finding.diverged is not None and 1e-4 < finding.diverged < 1e-2
    assert len(finding.rates) == len(finding.losses) == len(finding.smoothed) < 61


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_stops_at_no_number(broken: float) -> None:
    finding = find(lambda rate: broken if rate > 1e-3 else 1.0 - rate * 500)
    assert finding.diverged is not None and finding.diverged > 1e-3
    assert all(math.isfinite(loss) for loss in finding.losses + finding.smoothed)
    assert finding.suggested == pytest.approx(1e-4, rel=0.3)


def test_nothing_to_suggest() -> None:
    level = find(lambda rate: 1.0)
    assert level.suggested is None and level.diverged is None and len(level.rates) == 100
    rising = find(lambda rate: 1 + rate)
    assert rising.suggested is None
    at_once = find(lambda rate: math.nan)
    assert at_once == Finding((), (), (), None, 1e-7)


def test_one_wild_batch_does_not_decide() -> None:
    step = valley(1e-3)
    losses = iter(range(1000))
    finding = find(lambda rate: step(rate) * (50 if next(losses) == 40 else 1))
    calm = find(step)
    assert calm.suggested is not None
    assert finding.diverged == finding.rates[40]  # fifty times is no batch's mood
    losses = iter(range(1000))
    finding = find(lambda rate: step(rate) * (6 if next(losses) == 40 else 1))
    assert finding.suggested == pytest.approx(calm.suggested, rel=0.2)


@pytest.mark.parametrize(("low", "high", "steps"), [(0, 1, 100), (1, 0.1, 100), (1e-5, math.inf, 100), (1e-5, 1, 9)])
def test_refuses_what_is_no_sweep(low: float, high: float, steps: int) -> None:
    with pytest.raises(ConfigError):
        find(lambda rate: 1.0, low, high, steps)


@pytest.fixture(scope="module")
def fonts() -> None:
    """Loaded before the test looks at what is open: matplotlib opens its fonts once and keeps them."""
    picture(find(valley(1e-3)))


@pytest.mark.usefixtures("fonts")
@pytest.mark.parametrize("finding", [find(valley(1e-3)), find(lambda rate: 1.0), find(lambda rate: math.nan)])
def test_picture(finding: Finding) -> None:
    drawn = picture(finding)
    assert drawn.shape == (480, 800, 3) and drawn.dtype == np.uint8
    green = (drawn[..., 1] > drawn[..., 0].astype(int) + 60) & (drawn[..., 1] > drawn[..., 2].astype(int) + 60)
    assert green.any() == (finding.suggested is not None)
