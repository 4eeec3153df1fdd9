"""What cameras and encoders leave in a picture: motion blur, then JPEG. They befall the input alone.

So the model learns to give a sharp and clean face for a poor picture of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from models.train.recipe import Augment


def left(pictures: Tensor, thrown: Mapping[str, Tensor], config: Augment) -> Tensor:
    """(N, 3, size, size) float32 RGB 0..1 with the traces that the dice say; the argument is left as it is."""
    blurs = (thrown["blur"] < config.blur).nonzero()[:, 0]
    if len(blurs):
        length = 1 + thrown["length"][blurs] * (config.blur_px - 1)
        angle = thrown["direction"][blurs] * math.pi
        there = blurs.to(pictures.device)
        pictures = pictures.index_copy(0, there, blurred(pictures[there], length, angle))
    compressions = (thrown["compression"] < config.compression).nonzero()[:, 0]
    if len(compressions):
        worst = config.compression_quality
        quality = worst + (thrown["quality"][compressions] * (101 - worst)).int()
        there = compressions.to(pictures.device)
        pictures = pictures.index_copy(0, there, compressed(pictures[there], quality.tolist()))
    return pictures


def blurred(pictures: Tensor, length: Tensor, angle: Tensor) -> Tensor:
    """(N, 3, H, W) as the face moved while the shutter was open, in a straight line.

    Args:
        length: (N,) px, at least 1, of which there is no blur; angle: (N,) radians.
    """
    count, channels, height, width = pictures.shape
    kernels = _lines(length, angle).to(pictures.device).repeat_interleave(channels, 0)[:, None]
    reach = kernels.shape[-1] // 2
    planes = F.pad(pictures, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    return F.conv2d(planes, kernels, groups=count * channels).view(count, channels, height, width)


def _lines(length: Tensor, angle: Tensor) -> Tensor:
    """(N, K, K) float32: lines through the middle, a px wide with soft edges, each of sum 1."""
    reach = math.ceil((float(length.max()) + 1) / 2)
    axis = torch.arange(-reach, reach + 1.0)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    along, across = x * cosine + y * sine, y * cosine - x * sine
    lines = (1 - across.abs()).clamp_(min=0) * ((length[:, None, None] + 1) / 2 - along.abs()).clamp_(0, 1)
    return lines / lines.sum((1, 2), keepdim=True)


def compressed(pictures: Tensor, quality: list[int]) -> Tensor:
    """(N, 3, H, W) as JPEG of these qualities, 1..100, gives them back; done on the CPU, whatever the device."""
    levels = (pictures * 255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    for picture, worth in zip(levels, quality, strict=True):
        _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, worth))
        picture[...] = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(levels).to(pictures.device).permute(0, 3, 1, 2).float() / 255
