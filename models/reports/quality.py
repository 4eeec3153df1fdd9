"""How alike two pictures are, and how sharp one is: (N, 3, H, W) float32 RGB 0..1 in, (N,) float32 out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_msssim import ssim as _ssim
from torch import Tensor

#: dB of pictures that are the same.
PSNR_LIMIT = 99.0

_LUMA = (0.299, 0.587, 0.114)
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
_EDGE = 0.1  # of the side, which is left out all around: hair and background are no matter of a face's sharpness
_LEAST_CONTRAST = 1 / 255  # below which nothing is there to be sharp


def ssim(pictures: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity, -1..1, 1 is the same (Wang et al. 2004), with the paper's 11x11 window."""
    similar: Tensor = _ssim(pictures, targets, data_range=1.0, size_average=False)
    return similar


def psnr(pictures: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most `PSNR_LIMIT`."""
    error = (pictures - targets).square().flatten(1).mean(1)
    return (-10 * error.clamp_min(1e-12).log10()).clamp_max(PSNR_LIMIT)


def sharpness(pictures: Tensor) -> Tensor:
    """How much of the contrast is fine detail: the deviation of the luma's Laplacian against the luma's own, inside.

    The Laplacian is the measure of Pech-Pacheco et al. 2000 ("Diatom autofocusing in brightfield microscopy"); the
    contrast divides it, so that light says nothing. Pictures of one size can be compared, and only they.
    """
    edge = max(1, round(pictures.shape[-1] * _EDGE))
    luma = (pictures * pictures.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)[..., edge:-edge, edge:-edge]
    fine = F.conv2d(luma, luma.new_tensor(_LAPLACIAN)[None, None])
    return _deviation(fine) / _deviation(luma).clamp_min(_LEAST_CONTRAST)


def _deviation(planes: Tensor) -> Tensor:
    return torch.std(planes.flatten(1), dim=1, correction=0)
