"""How long a step is, in the course of a training."""

from __future__ import annotations

import math

from models.train.recipe import Optimiser


def rate(config: Optimiser, share: float, steps: int) -> float:
    """The step size: up in a straight line, then down along half a cosine.

    Loshchilov and Hutter 2016, "SGDR: stochastic gradient descent with warm restarts",
    https://arxiv.org/abs/1608.03983, without its restarts.

    Args:
        share: how much of the training is over, 0..1; beyond it counts as the nearest of both.
        steps: how many steps the model has had: the first `warmup` are shorter than the rest, none is nothing.
    """
    warm = min(1.0, (steps + 1) / (config.warmup + 1))
    fall = (1 - config.lr_end) * (1 - math.cos(math.pi * min(1.0, max(0.0, share)))) / 2
    return config.lr * warm * (1 - fall)
