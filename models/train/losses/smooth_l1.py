"""Smooth L1: the squared error near zero, the absolute one beyond.

Girshick 2015, "Fast R-CNN", https://arxiv.org/abs/1504.08083. The paper's bend lies at an error of 1, where a picture
in 0..1 never gets; here it lies at 0.05, 13 of 255 levels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

WHOLE = False

BEND = 0.05


def cost(pictures: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, H, W) float32 0..1 twice to (N, 1, H, W), 0..0.975: e^2 / (2 BEND) up to the bend, then |e| - BEND / 2."""
    return F.smooth_l1_loss(pictures, targets, reduction="none", beta=BEND).mean(1, keepdim=True)
