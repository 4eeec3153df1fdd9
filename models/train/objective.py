"""What a person's faces cost: the chosen losses, weighed place by place, and the learned mask's own error."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.autoencoder import Decoded
from models.train import losses, recipe
from models.train.batch import Batch

_FACE_FROM = 0.04  # of the blurred mask: what is below is no face


class Places(NamedTuple):
    """What an error in a place costs; both (N, 1, H, W) float32.

    Attributes:
        face: 1 on the face, `background` away from it.
        weights: the same, but `eyes` and `mouth` there.
    """

    face: Tensor
    weights: Tensor


class Objective:
    """The losses of a recipe, made once."""

    def __init__(self, config: recipe.Losses) -> None:
        self._config = config
        self._terms = {name: (losses.load(name), weight) for name, weight in config.terms.items()}

    def __call__(self, decoded: Decoded, batch: Batch) -> dict[str, Tensor]:
        """What the decoded faces cost against the batch's targets: float32 scalars by name, to be added up.

        Each loss is named as in the recipe, the learned mask's is "mask". A decoder that gives several sizes is
        judged at each, the target averaged down; its cost is their mean. Computed in float32, whatever autocast says:
        differences of squares do not survive in less.
        """
        with torch.autocast(batch.target.device.type, enabled=False):
            places = weighed(batch, self._config)
            terms = {
                name: weight * torch.stack([_at_scale(loss, p, batch.target, places) for p in decoded.pictures]).mean()
                for name, (loss, weight) in self._terms.items()
            }
            if decoded.mask is not None and self._config.mask:
                error = decoded.mask.float() - losses.fitted(wanted_mask(batch.mask), decoded.mask)
                terms["mask"] = self._config.mask * error.square().mean()
        return terms


def _at_scale(loss: losses.Loss, pictures: Tensor, targets: Tensor, places: Places) -> Tensor:
    pictures = pictures.float()
    weights, face = losses.fitted(places.weights, pictures), losses.fitted(places.face, pictures)
    return loss(pictures, losses.fitted(targets, pictures), weights, face)


@torch.no_grad()
def weighed(batch: Batch, config: recipe.Losses) -> Places:
    """What an error costs in each place of the batch's targets.

    The face is a little wider than its mask, since the other person's may be, and its edge is soft.
    """
    face = config.background + (1 - config.background) * widened(batch.mask)
    weights = face
    for part, cost in ((batch.eyes, config.eyes), (batch.mouth, config.mouth)):
        weights = weights + part * (cost - weights)
    return Places(face, weights)


@torch.no_grad()
def widened(mask: Tensor) -> Tensor:
    """(N, 1, H, W) float32 0..1, wider by a sixteenth of the side in all and softened."""
    side = mask.shape[-1]
    reach = _odd(max(3, side // 16))
    wide = F.max_pool2d(mask, (reach, 1), 1, (reach // 2, 0))
    wide = F.max_pool2d(wide, (1, reach), 1, (0, reach // 2))
    # Two box blurs are nearly a Gaussian one, of sigma side / 64 here.
    box = _odd(max(3, side // 26))
    for _ in range(2):
        wide = F.avg_pool2d(wide, box, 1, box // 2, count_include_pad=False)
    return wide


@torch.no_grad()
def wanted_mask(mask: Tensor) -> Tensor:
    """What a learned mask shall be: (N, 1, H, W) float32 0..1, blurred over 3x3 places, without the faintest part."""
    soft = F.avg_pool2d(mask, 3, 1, 1, count_include_pad=False)
    return soft * (soft >= _FACE_FROM)


def _odd(size: int) -> int:
    return size | 1
