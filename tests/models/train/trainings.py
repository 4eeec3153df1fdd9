"""What tests of steps, sessions and the loop share: a network of a few thousand weights, and ways to look inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import checkpoint, description
from models.autoencoder import Autoencoder
from models.train import draws
from models.train.batch import Batch
from models.train.recipe import Config, Monitor, Optimiser
from models.train.session import Session, fresh

#: `original` at 32 px: a step takes some ms.
TINY: dict[str, int | tuple[int, ...]] = {
    "size": 32,
    "encoder": (8, 16, 16),
    "dense": 16,
    "base": 8,
    "latent": 8,
    "decoder": (8, 8, 8),
}

CONFIG = Config(
    options={**TINY},
    iterations=4,
    batch=4,
    device="cpu",
    precision="fp32",
    threads=1,
    optimiser=Optimiser(lr=1e-3),
    monitor=Monitor(preview=False, report=False),
)


def model(config: Config = CONFIG, people: Sequence[str] = ("a", "b")) -> Autoencoder:
    """An untrained one, ready to be trained."""
    made, _ = fresh(config, people)
    return made.train()


def batches(size: int = 32, count: int = 4, people: Sequence[str] = ("a", "b"), seed: int = 0) -> dict[str, Batch]:
    """Soft coloured noise for each person, with all kinds of masks."""
    drawn = {}
    for person in people:
        generator = draws.generator(seed, person)
        coarse = torch.rand(count, 6, 4, 4, generator=generator)
        planes = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
        drawn[person] = Batch(planes[:, :3], planes[:, :3], planes[:, 3:4], planes[:, 4:5], planes[:, 5:])
    return drawn


def content(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str], dict[str, float]]:
    """All that a model's folder holds of a training: weights, state, facts, losses."""
    network, described = checkpoint.load(folder)
    state, facts = checkpoint.load_state(folder, described)
    return network.state_dict(), state, facts, described.loss


def assert_same(one: Path, other: Path) -> None:
    """Two models were trained alike, to the bit."""
    (weights, state, *said), (their_weights, their_state, *they_said) = content(one), content(other)
    for ours, theirs in ((weights, their_weights), (state, their_state)):
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert said == they_said


def iterations(folder: Path) -> int:
    return description.read(folder).iterations


class AfterSteps:
    """A `stop` that says so once the session has taken so many steps; within them it asks for nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        self._left = steps
        learn = Session.learn

        def counting(session: Session, *args: object) -> None:
            learn(session, *args)  # type: ignore[arg-type]
            self._left -= 1

        monkeypatch.setattr(Session, "learn", counting)

    def __call__(self) -> bool:
        return self._left <= 0
