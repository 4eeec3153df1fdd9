"""Laplacian pyramid: the absolute error in bands from fine to coarse, each counted as much as the others.

Bojanowski et al. 2018, "Optimizing the latent space of generative networks", https://arxiv.org/abs/1707.05776, with
the pyramid of Burt and Adelson 1983, "The Laplacian pyramid as a compact image code". Their factor 4^j makes up for
the fewer places of band j; here each band's map is spread over all places, which is the same. The pyramid is linear,
so the error's own is what the pictures' differ by. What is left at the coarsest counts too: a flat error costs as much
as in the mean absolute error, a fine one up to twice that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WHOLE = False

_COARSEST = 8  # px of the shorter side at which halving ends, at the latest


def cost(pictures: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, H, W) float32 0..1 twice to (N, 1, H, W): the bands' absolute errors, their sum."""
    size = pictures.shape[-2:]
    level = (pictures - targets).contiguous()
    costs = torch.zeros_like(level[:, :1])
    while min(level.shape[-2:]) > _COARSEST:
        smaller = halved(level)
        band = level - F.interpolate(smaller, level.shape[-2:], mode="bilinear")
        costs = costs + F.interpolate(band.abs().mean(1, keepdim=True), size)
        level = smaller
    return costs + F.interpolate(level.abs().mean(1, keepdim=True), size)


def halved(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, H/2, W/2), rounded up: blurred by (1 4 6 4 1) / 16 either way, then every second place."""
    bell = x.new_tensor((1, 4, 6, 4, 1)) / 16
    channels = x.shape[1]
    kernel = torch.outer(bell, bell).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=channels)
