"""What weights start from: functions that fill a tensor in place, drawing from torch's global generator.

Weights are laid out as torch does: (outputs, inputs, height, width) for convolutions, (outputs, inputs) for dense ones.
On the meta device they do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

#: Fills a weight in place.
Start = Callable[[Tensor], object]


def he_uniform(weight: Tensor) -> None:
    """Uniform with variance 2 / fan-in (He et al. 2015, https://arxiv.org/abs/1502.01852)."""
    nn.init.kaiming_uniform_(weight, nonlinearity="relu")


def glorot_uniform(weight: Tensor) -> None:
    """Uniform with variance 2 / (fan-in + fan-out) (Glorot and Bengio 2010)."""
    nn.init.xavier_uniform_(weight)


def normal(deviation: float) -> Start:
    """Gaussian around 0."""
    return partial(nn.init.normal_, mean=0.0, std=deviation)


def variance_scaling(scale: float) -> Start:
    """Uniform with variance scale / fan-in."""

    def fill(weight: Tensor) -> None:
        bound = math.sqrt(3 * scale / weight[0].numel())
        nn.init.uniform_(weight, -bound, bound)

    return fill


def convolution_aware(weight: Tensor) -> None:
    """Filters of one output are orthogonal in Fourier space, with He's variance.

    Aghajanyan 2017, "Convolution Aware Initialization", https://arxiv.org/abs/1702.06295. The Fourier transform is
    unitary, so an orthonormal basis there is one here; inputs beyond the basis' size get further bases. A 1x1 kernel
    has a basis of one vector, which leaves nothing to choose but the sign: those get He's distribution.
    """
    if weight.is_meta:
        return
    outputs, inputs, height, width = weight.shape
    size = height * width
    if size == 1:
        he_uniform(weight)
        return
    bases = torch.linalg.qr(torch.randn(outputs * -(-inputs // size), size, size)).Q
    filters = bases.reshape(outputs, -1, height, width)[:, :inputs]
    filters = filters + 0.05 / math.sqrt(size) * torch.randn(filters.shape)  # breaks ties, as the paper does
    with torch.no_grad():
        weight.copy_(filters * (math.sqrt(2 / (inputs * size)) / filters.std()))


def icnr(start: Start, scale: int) -> Start:
    """For a convolution whose pixels are shuffled apart by `scale`: neighbours start out alike.

    Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution", https://arxiv.org/abs/1707.02937.
    """

    def fill(weight: Tensor) -> None:
        few = torch.empty_like(weight[:: scale * scale])
        start(few)
        with torch.no_grad():
            weight.copy_(few.repeat_interleave(scale * scale, 0))

    return fill
