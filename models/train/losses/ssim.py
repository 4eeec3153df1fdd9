"""Structural dissimilarity, (1 - SSIM) / 2: how different brightness, contrast and structure of small windows are.

Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity",
https://doi.org/10.1109/TIP.2003.819861. Their window is a Gaussian of sigma 1.5 cut off at 11x11; here it is cut off
at 7x7, which keeps 97 % of it, and stands at every second place, for neighbours say nearly the same: a third of the
time, and the same value to within 0.02 for all but wild noise. Beyond the edge both pictures are black.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WHOLE = False

_C1, _C2 = 0.01**2, 0.03**2  # the paper's constants, for a range of 0..1
_SIDE, _SIGMA = 7, 1.5


def cost(pictures: Tensor, targets: Tensor) -> Tensor:
    """(N, 3, H, W) float32 0..1 twice to (N, 1, H/2, W/2), 0..1: (1 - SSIM) / 2, the channels' mean."""
    brightness, structure = comparison(pictures, targets, _SIDE, stride=2, padding=_SIDE // 2)
    return 0.5 - 0.5 * (brightness * structure).mean(1, keepdim=True)


def comparison(
    pictures: Tensor, targets: Tensor, side: int, stride: int = 1, padding: int = 0
) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM for each window of `side` places: its brightness, and its contrast and structure.

    Both are (N, 3, h, w); the first is above 0, the second -1..1, and both are 1 where the windows are equal.
    """
    # Contiguous, since torch leaves depthwise convolutions of channels-last tensors on a GPU to cuDNN, which may
    # multiply in TF32: too coarse for differences of squares.
    x, y = pictures.contiguous(), targets.contiguous()
    channels = x.shape[1]
    window = _window(side, x).expand(5 * channels, 1, side, side)
    stacked = torch.cat((x, y, x * x, y * y, x * y), 1)
    means = F.conv2d(stacked, window, stride=stride, padding=padding, groups=5 * channels)
    x, y, xx, yy, xy = means.split(channels, 1)
    variances = xx - x * x + (yy - y * y)
    brightness = (2 * x * y + _C1) / (x * x + y * y + _C1)
    return brightness, (2 * (xy - x * y) + _C2) / (variances + _C2)


def _window(side: int, like: Tensor) -> Tensor:
    place = torch.arange(side, device=like.device, dtype=like.dtype) - side // 2
    bell = torch.exp(place.square() / (-2 * _SIGMA**2))
    bell = bell / bell.sum()
    return torch.outer(bell, bell)
