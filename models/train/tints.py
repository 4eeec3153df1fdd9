"""Colours, in CIELAB: lightness and tint drawn for each face, another person's colours, equalised contrast.

All of it befalls input and target alike: a model shall give a face the light that it saw it in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor

from models.train.recipe import Augment

_LIGHTNESS, _COLOUR = 100.0, 256.0  # the ranges of L*, and of a* and b*

_STATISTICS_PX = 32  # a crop's colours are known well enough from so many samples a side
_GAINS = (0.5, 2.0)  # of a colour transfer: a face without contrast gives no cause for more
_DEVIATION = 0.5  # of L*, a* and b*; below that a picture is flat

# IEC 61966-2-1: linear sRGB to CIE XYZ under D65. Its rows add up to the white point, which is divided out.
_RGB_TO_XYZ = torch.tensor(
    ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041)),
    dtype=torch.float64,
)
_RGB_TO_WHITE = _RGB_TO_XYZ / _RGB_TO_XYZ.sum(1, keepdim=True)
_WHITE_TO_RGB = torch.linalg.inv(_RGB_TO_WHITE).float()
_RGB_TO_WHITE = _RGB_TO_WHITE.float()
_BEND = 6 / 29  # CIE 15: where the cube root gives way to a straight line


def to_lab(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) float32 sRGB 0..1 to CIELAB under D65: L* 0..100, a* and b* about -128..127."""
    linear = _kneed(pictures, 0.04045, 1 / 12.92, lambda high: _power((high + 0.055).div_(1.055), 2.4))
    white = _mixed(_RGB_TO_WHITE, linear)
    bent = _kneed(white, _BEND**3, 1 / (3 * _BEND**2), lambda high: _power(high, 1 / 3))
    x, y, z = bent.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def from_lab(lab: Tensor) -> Tensor:
    """The inverse of `to_lab`; colours that sRGB has not are cut off at 0 and 1."""
    light, a, b = lab.unbind(1)
    y = (light + 16).div_(116)
    bent = torch.stack((y + a / 500, y, y - b / 200), 1)
    linear = _mixed(_WHITE_TO_RGB, _kneed(bent, _BEND, 3 * _BEND**2, lambda high: high * high * high)).clamp_(0, 1)
    return _kneed(linear, 0.0031308, 12.92, lambda high: _power(high, 1 / 2.4).mul_(1.055).sub_(0.055)).clamp_(0, 1)


def _kneed(values: Tensor, knee: float, slope: float, curve: Callable[[Tensor], Tensor]) -> Tensor:
    """`curve` of what is above the knee, a straight line of that slope below; they meet there.

    Both parts are computed for all and added up: a third of the time of choosing, and no logarithm sees 0.
    """
    line = values.clamp(max=knee).sub_(knee)
    return curve(values.clamp(min=knee)).add_(line, alpha=slope)


def _power(values: Tensor, exponent: float) -> Tensor:
    return values.log().mul_(exponent).exp_()  # half of torch.pow's time


def _mixed(matrix: Tensor, pictures: Tensor) -> Tensor:
    return (matrix.to(pictures.device) @ pictures.flatten(2)).view_as(pictures)


@dataclass(frozen=True, slots=True)
class Tint:
    """What happens to the colours of some faces of a batch.

    Attributes:
        rows: (n,) int64 on the CPU, which faces; all of them where `everyone`.
        gain, offset: (n, 3, 1, 1) float32, of L*, a* and b*.
    """

    rows: Tensor
    everyone: bool
    gain: Tensor
    offset: Tensor

    def __call__(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) float32 RGB 0..1, tinted; the argument is left as it is."""
        if self.everyone:
            return from_lab(to_lab(pictures) * self.gain + self.offset)
        rows = self.rows.to(pictures.device)
        return pictures.index_copy(0, rows, from_lab(to_lab(pictures[rows]) * self.gain + self.offset))


def drawn(thrown: Mapping[str, Tensor], config: Augment, crops: Tensor, sources: Tensor | None) -> Tint | None:
    """How the faces are tinted, or None where they stay as they are.

    Args:
        thrown: as `augment.throw` gives them.
        crops: (N, S, S, 6) uint8, the faces; `sources` likewise, n faces of other people, for those whose dice say
            `transferred`, in their order; None where there are no others.
    """
    rows = transferred(thrown, config) if sources is not None else torch.empty(0, dtype=torch.int64)
    jitters = config.lightness > 0 or config.colour > 0
    count = len(crops)
    if not jitters and not len(rows):
        return None
    gain, offset = torch.ones(count, 3), torch.zeros(count, 3)
    if jitters:
        # Brightness and contrast together move no level by more than `lightness` of the range.
        most = config.lightness * _LIGHTNESS / 2
        bright, contrast = (most * (2 * thrown[name] - 1) for name in ("brightness", "contrast"))
        gain[:, 0] += contrast / (_LIGHTNESS / 2)
        offset[:, 0] = bright - contrast
        for at, name in ((1, "a"), (2, "b")):
            offset[:, at] = config.colour * _COLOUR / 2 * (2 * thrown[name] - 1)
    gain, offset = gain.to(crops.device), offset.to(crops.device)
    if sources is not None and len(rows):
        there = rows.to(crops.device)
        taken_gain, taken_offset = _transfer(crops[there], sources.to(crops.device))
        offset = offset.index_add(0, there, gain[there] * taken_offset)
        gain = gain.index_copy(0, there, gain[there] * taken_gain)
    if not jitters:
        gain, offset = gain[rows.to(gain.device)], offset[rows.to(gain.device)]
    return Tint(rows, jitters, gain[:, :, None, None], offset[:, :, None, None])


def transferred(thrown: Mapping[str, Tensor], config: Augment) -> Tensor:
    """(n,) int64: the faces that take another person's colours."""
    return (thrown["transfer"] < config.transfer).nonzero()[:, 0]


def _transfer(faces: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset, (n, 3) each, that give `faces` the mean and deviation of `sources`, both (n, S, S, 6) uint8.

    Reinhard et al. 2001, "Color transfer between images", in CIELAB and within the masks.
    """
    mean, deviation = _statistics(faces)
    wanted_mean, wanted_deviation = _statistics(sources)
    gain = (wanted_deviation / deviation).clamp(*_GAINS)
    return gain, wanted_mean - gain * mean


def _statistics(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (n, 3) each, of L*, a* and b* within the mask; of the whole crop where that is empty."""
    stride = math.ceil(crops.shape[1] / _STATISTICS_PX)
    few = crops[:, ::stride, ::stride].permute(0, 3, 1, 2).float() / 255
    lab = to_lab(few[:, :3])
    weight = few[:, 3:4] + 1e-4
    weight = weight / weight.sum((2, 3), keepdim=True)
    mean = (lab * weight).sum((2, 3), keepdim=True)
    deviation = ((lab - mean).square() * weight).sum((2, 3)).sqrt()
    return mean[:, :, 0, 0], deviation.clamp(min=_DEVIATION)


def equalised(crops: Tensor, thrown: Mapping[str, Tensor], config: Augment) -> Tensor:
    """(N, S, S, 6) uint8 with contrast-limited adaptive histogram equalisation of some faces' lightness.

    Zuiderveld 1994, by OpenCV on the CPU, whatever the device: for the few faces that it befalls it takes a tenth of
    the time of a batched one in torch. It comes before the faces are moved, so that input and target agree.
    """
    rows = (thrown["clahe"] < config.clahe).nonzero()[:, 0]
    if not len(rows):
        return crops
    there = rows.to(crops.device)
    chosen = crops[there].cpu().numpy()
    for picture, row in zip(chosen, rows.tolist(), strict=True):
        tiles = 1 + int(thrown["grid"][row] * config.clahe_grid)
        limit = 1 + float(thrown["limit"][row]) * (config.clahe_limit - 1)
        lab = cv2.cvtColor(picture[:, :, :3], cv2.COLOR_RGB2LAB)
        lab[:, :, 0] = cv2.createCLAHE(limit, (tiles, tiles)).apply(lab[:, :, 0])
        picture[:, :, :3] = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return crops.index_copy(0, there, torch.from_numpy(chosen).to(crops.device))
