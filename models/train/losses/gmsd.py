"""Gradient magnitude similarity deviation: how unevenly edges are kept.

Xue et al. 2014, "Gradient magnitude similarity deviation: a highly efficient perceptual image quality index",
https://arxiv.org/abs/1308.3052: brightness at half the size, Prewitt's filters, the magnitudes' similarity place by
place, and the deviation of that. What is wrong everywhere alike costs nothing, nor does colour: it is a companion of
a loss that sees these.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

WHOLE = True

_C = 170 / 255**2  # the paper's constant, for a range of 0..1
_LUMA = (0.299, 0.587, 0.114)
_TINY = 1e-8  # under the roots, whose slope is endless at 0


def cost(pictures: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, H, W) float32 0..1 twice to (N,), 0..0.5: the standard deviation of the similarity of edges."""
    one, other = _squared_magnitude(pictures), _squared_magnitude(targets)
    similarity = (2 * (one * other + _TINY**2).sqrt() + _C) / (one + other + _C)
    variance = similarity.var((1, 2, 3), correction=0)
    return (variance + _TINY).sqrt() - _TINY**0.5


def _squared_magnitude(x: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, 1, H/2, W/2): brightness's slope, squared."""
    brightness = F.avg_pool2d((x * x.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True), 2)
    around = F.pad(brightness, (1, 1, 1, 1), mode="replicate")
    # Prewitt's filter: a difference across, a mean of three along.
    across = around[..., 2:] - around[..., :-2]
    down = around[..., 2:, :] - around[..., :-2, :]
    right = (across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]) / 3
    below = (down[..., :-2] + down[..., 1:-1] + down[..., 2:]) / 3
    return right.square() + below.square()
