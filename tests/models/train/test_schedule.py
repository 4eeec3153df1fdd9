"""models.train.schedule: up, then down, and level where nothing else is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.train.recipe import Optimiser
from models.train.schedule import rate


@given(st.floats(-1, 2), st.integers(0, 10**6))
def test_is_level_by_default(share: float, steps: int) -> None:
    assert rate(Optimiser(lr=3e-5), share, steps) == 3e-5


def test_falls_along_half_a_cosine() -> None:
    config = Optimiser(lr=1e-3, lr_end=0.1)
    assert rate(config, 0.0, 0) == 1e-3
    assert rate(config, 0.5, 100) == pytest.approx(0.55e-3)
    assert rate(config, 0.25, 100) == pytest.approx(1e-3 * (0.55 + 0.45 * 2**-0.5))
    assert rate(config, 1.0, 100) == pytest.approx(1e-4)
    assert rate(config, 1.5, 100) == rate(config, 1.0, 100)


def test_rises_over_the_first_steps() -> None:
    config = Optimiser(lr=1.0, warmup=4)
    assert [rate(config, 0.0, step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_rises_and_falls_at_once() -> None:
    config = Optimiser(lr=1.0, warmup=1, lr_end=0.0)
    assert rate(config, 0.5, 0) == pytest.approx(0.25)
    assert rate(config, 1.0, 50) == pytest.approx(0.0)
