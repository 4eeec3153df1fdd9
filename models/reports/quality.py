"""How alike two pictures are, and how sharp one is: (N, 3, H, W) float32 RGB 0..1 in, (N,) float32 out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_msssim import ssim as _ssim
from torch import Tensor

#: dB of pictures that are the same.
PSNR_LIMIT = 99.0


def ssim(pictures: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity, 1 is the same (Wang et al. 2004), with the paper's 11x11 window."""
    similar: Tensor = _ssim(pictures, targets, data_range=1.0, size_average=False)
    return similar


def psnr(pictures: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most `PSNR_LIMIT`."""
    error = (pictures - targets).square().flatten(1).mean(1)
    return (-10 * error.clamp_min(1e-12).log10()).clamp_max(PSNR_LIMIT)


def sharpness(pictures: Tensor) -> Tensor:
    """Variance of the Laplacian of the luma, in 8-bit steps (Pech-Pacheco et al. 2000), away from the outer tenth."""
    edge = pictures.shape[-1] // 10
    luma = (pictures * pictures.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True) * 255
    kernel = luma.new_tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
    laplacian = F.conv2d(luma, kernel)[:, :, edge : luma.shape[-2] - edge, edge : luma.shape[-1] - edge]
    return torch.var(laplacian.flatten(1), dim=1, correction=0)
