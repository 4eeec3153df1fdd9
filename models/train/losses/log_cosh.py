"""The logarithm of the hyperbolic cosine: like smooth L1, with a bend that is smooth to every order.

Chen et al. 2018, "Log hyperbolic cosine loss improves variational auto-encoder",
https://openreview.net/forum?id=rkglvsC9Ym, who also have the factor `STEEPNESS` (their a): without one, errors of
pictures in 0..1 would all lie in the quadratic part.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

WHOLE = False

STEEPNESS = 20.0  # the bend lies at an error of about 1 / 20


def cost(pictures: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, H, W) float32 0..1 twice to (N, 1, H, W), 0..0.966: log(cosh(a e)) / a, the channels' mean."""
    error = (STEEPNESS * (pictures - targets)).abs()
    # log cosh x = |x| + log(1 + exp(-2 |x|)) - log 2, which does not overflow.
    costs = error + F.softplus(-2 * error) - math.log(2)
    return costs.mean(1, keepdim=True) / STEEPNESS
