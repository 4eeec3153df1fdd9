"""Structural dissimilarity at several scales, 1 - MS-SSIM.

Wang et al. 2003, "Multiscale structural similarity for image quality assessment",
https://doi.org/10.1109/ACSSC.2003.1292216, with their windows, scales and exponents, as a loss after Zhao et al. 2017,
"Loss functions for image restoration with neural networks", https://arxiv.org/abs/1511.08861. The five scales need
pictures of 176 px. Smaller ones are looked at in as many as their side allows, three at 64 px and four at 128, with
the exponents of these, made to sum to 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.train.losses.ssim import comparison

WHOLE = True

_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # from fine to coarse
_SIDE = 11
# A scale that is not alike at all (or is the opposite) counts as this much alike: the power's slope is endless at 0.
_LEAST = 1e-4


def cost(pictures: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, H, W) float32 0..1 twice to (N,), 0..1: 1 - MS-SSIM, the channels' mean."""
    shorter = min(pictures.shape[-2:])
    side = min(_SIDE, shorter - 1 + shorter % 2)
    exponents = [e for scale, e in enumerate(_EXPONENTS) if scale == 0 or shorter >> scale >= _SIDE]
    total = sum(exponents)
    product = torch.ones_like(pictures[:, :, 0, 0])
    for left, exponent in zip(reversed(range(len(exponents))), exponents, strict=True):
        brightness, structure = comparison(pictures, targets, side)
        alike = structure if left else brightness * structure
        product = product * alike.mean((2, 3)).clamp(min=_LEAST) ** (exponent / total)
        if left:
            pictures, targets = F.avg_pool2d(pictures, 2), F.avg_pool2d(targets, 2)
    return 1 - product.mean(1)
