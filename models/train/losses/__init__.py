"""What an error costs, one loss a file: a file's name here is its name in `train.losses.terms`.

Each module has `cost(pictures, targets)`; both are (N, 3, H, W) float32 RGB 0..1, of at least 16 px a side. And it
says in `WHOLE` what comes out:

- False: the cost of each place, a map (N, 1, h, w) of about the pictures' extent, h and w at most theirs;
- True: the cost of each picture, (N,), where a single place's makes no sense.

Costs are float32, 0 for equal pictures, and of about the size of the mean absolute error, unless a module says
otherwise, so that weights mean what they seem to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss, and whether it judges pictures as a whole."""

    cost: Callable[[Tensor, Tensor], Tensor]
    whole: bool

    def __call__(self, pictures: Tensor, targets: Tensor, weights: Tensor, face: Tensor) -> Tensor:
        """What the pictures cost, a scalar.

        Args:
            pictures, targets: (N, 3, H, W) float32 0..1.
            weights: (N, 1, H, W) float32, at least 0: what an error in a place costs.
            face: (N, 1, H, W) float32 0..1: how much of a place's error a loss of whole pictures sees. The rest is
                taken away from the picture: blackening both pictures instead would draw the mask's outline into them.
        """
        if self.whole:
            return self.cost(toward(pictures, targets, face), targets).mean()
        costs = self.cost(pictures, targets)
        return (costs * fitted(weights, costs)).mean()


def toward(pictures: Tensor, targets: Tensor, face: Tensor) -> Tensor:
    """The pictures with only `face` of their error; where it is 0 they are the targets."""
    return targets + face * (pictures - targets)


def fitted(x: Tensor, like: Tensor) -> Tensor:
    """(N, C, H, W) averaged down to the height and width of `like`."""
    size = like.shape[-2:]
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="area")


def names() -> tuple[str, ...]:
    """The losses there are, in alphabetical order."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py")))


def load(name: str) -> Loss:
    """The loss of that name. Raises ConfigError where there is none."""
    if name not in names():
        raise ConfigError(f"there is no loss named {name!r}; there are: {', '.join(names())}")
    module = import_module(f"{__name__}.{name}")
    return Loss(module.cost, module.WHOLE)
