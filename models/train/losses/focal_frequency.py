"""Focal frequency: the squared error of Fourier coefficients, those that are worst off counted most.

Jiang et al. 2021, "Focal frequency loss for image reconstruction and synthesis", https://arxiv.org/abs/2012.12821,
on the whole picture (one patch) with exponent 1. It is a part of the mean squared error, so of its size: it takes a
weight of 10 or more.
"""

from __future__ import annotations

import torch
from torch import Tensor

WHOLE = True


def cost(pictures: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, H, W) float32 0..1 twice to (N,), 0..1."""
    height, width = pictures.shape[-2:]
    error = torch.fft.rfft2((pictures - targets).contiguous(), norm="ortho")
    squared = error.real.square() + error.imag.square()
    with torch.no_grad():
        size = squared.sqrt()
        focus = size / size.amax((2, 3), keepdim=True).clamp(min=1e-12)
        # Half of the spectrum: the other half repeats it, except for the first column, and the last of an even width.
        focus[..., 1 : (width + 1) // 2] *= 2
    return (focus * squared).sum((2, 3)).mean(1) / (height * width)
