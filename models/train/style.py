"""The style loss: a swap's textures against those of the real face, wherever they lie.

Gatys et al. 2016, "Image style transfer using convolutional neural networks", https://doi.org/10.1109/CVPR.2016.265,
compare Gram matrices (which features occur together, and how strongly) of a trained network. A trained one is not
needed: Ustyuzhaninov et al. 2016, "Texture synthesis using shallow convolutional networks with random filters",
https://arxiv.org/abs/1606.00021, get textures as good out of a single layer of random filters at several scales,
each followed by a rectifier. That is what this is:

- `_FILTERS` filters of 5x5x3, drawn once and for all, blind to flat colour and orthogonal to one another, and a
  rectifier, on the picture and on it halved once and twice: texture from pores to wrinkles;
- red, green, blue and a constant, so that the face's colours and how they vary count as well.

Gram matrices are means over the face, and over all pictures of a batch: light and pose of a single one are no style.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from models.train import draws

_FILTERS, _SIDE = 32, 5
_SCALES = 3
_TINY = 1e-8


def style_loss(swapped: Tensor, swapped_mask: Tensor, real: Tensor, real_mask: Tensor) -> Tensor:
    """How far the textures of swaps are from the person's real pictures: a float32 scalar, 0..1.

    Only `swapped` gets a gradient. That it shall reach the decoder alone is up to the caller: `swapped` must be
    decoded from a detached code, else the encoder would learn to hide whose face it saw.

    Args:
        swapped: (N, 3, H, W) float32 RGB 0..1, others' faces given as the person.
        swapped_mask: (N, 1, H, W) float32 0..1, where the face is in them: the others' masks.
        real: (M, 3, H, W) float32 RGB 0..1, the person's own pictures; real_mask: (M, 1, H, W) float32 0..1.
    """
    device = swapped.device
    with torch.autocast(device.type, enabled=False):
        given = _grams(swapped.float(), swapped_mask.detach().float())
        with torch.no_grad():
            wanted = _grams(real.float(), real_mask.float())
        return torch.stack([_difference(g, w) for g, w in zip(given, wanted, strict=True)]).mean()


def _difference(given: Tensor, wanted: Tensor) -> Tensor:
    """0 where Gram matrices are equal; at most 1, since no two of them have a negative inner product.

    Features are measured in units of what is wanted, so that strong ones do not drown the others.
    """
    unit = (wanted.diagonal() + _TINY).rsqrt()
    unit = torch.outer(unit, unit)
    given, wanted = given * unit, wanted * unit
    return (given - wanted).square().sum() / (given.square().sum() + wanted.square().sum() + _TINY)


def _grams(pictures: Tensor, masks: Tensor) -> list[Tensor]:
    """Gram matrices, means over the face: of the colours, then of the features at each scale."""
    grams = [_gram(torch.cat((pictures, torch.ones_like(pictures[:, :1])), 1), masks)]
    filters = _filters(pictures.device)
    for scale in range(_SCALES):
        if scale:
            pictures, masks = F.avg_pool2d(pictures, 2), F.avg_pool2d(masks, 2)
        edge = _SIDE // 2
        inner = masks[..., edge:-edge, edge:-edge]
        grams.append(_gram(F.conv2d(pictures, filters).relu(), inner))
    return grams


def _gram(features: Tensor, masks: Tensor) -> Tensor:
    """(N, C, H, W) features, (N, 1, H, W) how much each place counts; to (C, C)."""
    flat = (features * masks.sqrt()).transpose(0, 1).flatten(1)
    return flat @ flat.T / masks.sum().clamp(min=1.0)


@functools.cache
def _filters(device: torch.device) -> Tensor:
    """(_FILTERS, 3, _SIDE, _SIDE): orthonormal, and each sums to 0 over every colour."""
    generator = draws.generator("style", "filters")
    drawn = torch.randn(_FILTERS, 3, _SIDE * _SIDE, generator=generator, dtype=torch.float64)
    drawn = drawn - drawn.mean(2, keepdim=True)
    q, r = torch.linalg.qr(drawn.flatten(1).T)
    orthonormal = (q * r.diagonal().sign()).T  # the signs are the library's whim
    return orthonormal.reshape(_FILTERS, 3, _SIDE, _SIDE).to(device, torch.float32)
