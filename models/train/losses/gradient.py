"""Image gradients: differences between neighbours, so edges and detail, while flat errors cost nothing.

After the gradient difference loss of Mathieu et al. 2016, "Deep multi-scale video prediction beyond mean square
error", https://arxiv.org/abs/1511.05440, with two changes: the differences keep their sign (theirs takes an edge from
dark to light for one from light to dark), and both directions are averaged, not added.
"""

from __future__ import annotations

from torch import Tensor

WHOLE = False


def cost(pictures: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, H, W) float32 0..1 twice to (N, 1, H-1, W-1), 0..2: mean of |error's step right| and |its step down|."""
    error = pictures - targets
    here = error[:, :, :-1, :-1]
    steps = (error[:, :, :-1, 1:] - here).abs() + (error[:, :, 1:, :-1] - here).abs()
    return steps.mean(1, keepdim=True) / 2
