"""models.train.draws: chance without a state."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.train import draws

PARTS = st.lists(st.one_of(st.integers(0, 10**9), st.text(st.characters(exclude_characters="\0"), max_size=8)))


@given(PARTS)
def test_a_seed_is_a_function_of_its_parts(parts: list[int | str]) -> None:
    assert draws.seed_of(*parts) == draws.seed_of(*parts)
    assert 0 <= draws.seed_of(*parts) < 2**63


def test_a_seed_is_the_same_tomorrow() -> None:
    # A training that is taken up must draw what it would have drawn: the number is part of what is promised.
    assert draws.seed_of(0, 1, "a", "augment") == 6570458237073761188
    assert torch.rand(1, generator=draws.generator(0, 1, "a", "augment")).item() == 0.3198210597038269


def test_neighbours_have_nothing_in_common() -> None:
    seeds = [
        draws.seed_of(seed, step, person, purpose)
        for seed in range(4)
        for step in range(40)
        for person in ("a", "b")
        for purpose in ("augment", "other")
    ]
    assert len(set(seeds)) == len(seeds)
    assert draws.seed_of(1, 23) != draws.seed_of(12, 3)  # parts are kept apart
    first = torch.stack([torch.rand(8, generator=draws.generator(0, step)) for step in range(500)])
    assert abs(torch.corrcoef(torch.stack((first[:-1, 0], first[1:, 0])))[0, 1]) < 0.15
    assert (first.mean(0) - 0.5).abs().max() < 0.06


def test_no_other_generator_moves() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    torch.rand(3, generator=draws.generator(1, 2, "x"))
    assert torch.equal(torch.get_rng_state(), before)
