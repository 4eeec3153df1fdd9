"""What a picture that isn't the wanted one costs. Pictures are (N, 3, H, W) float32 0..1, weights (N, 1, H, W)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_C1, _C2 = 0.01**2, 0.03**2  # the usual constants, for a range of 0..1
_SIDE, _SIGMA = 7, 1.5


def absolute(pictures: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean absolute error."""
    return ((pictures - targets).abs() * weights).mean()


def dissimilarity(pictures: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """(1 - SSIM) / 2, weighted: how different the structure in a small window is.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", with a 7x7 Gaussian
    window (sigma 1.5) at every second place: neighbours say nearly the same, and a quarter of them costs a quarter.
    """
    channels = pictures.shape[1]
    stacked = torch.cat((pictures, targets, pictures * pictures, targets * targets, pictures * targets), 1)
    window = _window(pictures).expand(5 * channels, 1, _SIDE, _SIDE)
    x, y, xx, yy, xy = F.conv2d(stacked, window, stride=2, groups=5 * channels).split(channels, 1)
    variance = xx - x * x + (yy - y * y)
    covariance = xy - x * y
    similarity = (2 * x * y + _C1) * (2 * covariance + _C2) / ((x * x + y * y + _C1) * (variance + _C2))
    edge = _SIDE // 2
    return ((1 - similarity) * (0.5 * weights[:, :, edge:-edge:2, edge:-edge:2])).mean()


def _window(like: Tensor) -> Tensor:
    place = torch.arange(_SIDE, device=like.device, dtype=like.dtype) - _SIDE // 2
    bell = torch.exp(place.square() / (-2 * _SIGMA**2))
    bell = bell / bell.sum()
    return torch.outer(bell, bell)


def reconstruction(pictures: Tensor, targets: Tensor, weights: Tensor, dssim: float) -> Tensor:
    """`dssim` parts of structural dissimilarity, the rest absolute error."""
    pictures, targets = pictures.float(), targets.float()
    loss = (1 - dssim) * absolute(pictures, targets, weights)
    return loss + dssim * dissimilarity(pictures, targets, weights) if dssim else loss
