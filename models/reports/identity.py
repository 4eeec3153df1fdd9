"""Whose face is it? A small classifier of two people, made in seconds from crops the swap model never saw.

It is asked who a swapped face is, so it must not be able to answer from anything that a swap leaves alone or a
compressor changes: it sees the inside of an ellipse only (no hair, no background), each colour channel brought to the
same mean and deviation there (no light, no tint), and learns from crops that are blurred, noisy, gamma-shifted, turned
and mirrored at random (no sharpness, no pose).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from models.blocks import SLOPE, Layers
from models.faceset import FaceRecord, FaceSet
from pipeline.errors import InputError

SIZE = 32  # px the classifier sees
HELD_OUT = 0.25
LEAST = 4  # faces of a person without which nothing can be learned
_STEPS, _BATCH, _LR = 160, 16, 3e-3
_SMOOTHING = 0.05  # of the labels: answers stay short of certainty
_AXES = (0.38, 0.46)  # half axes of the ellipse that is looked at, of the crop's side


@dataclass(frozen=True, slots=True)
class Classifier:
    """Tells person a from person b.

    Attributes:
        accuracy: share of the held-out crops that it calls right, both people weighing the same.
        held_out: how many those were.
        sign: 1, or -1 where who is b here was a when the network learned.
    """

    network: nn.Module = field(repr=False)
    accuracy: float
    held_out: int
    sign: float = 1.0

    def turned(self) -> Classifier:
        """The same with the two people's places exchanged."""
        return replace(self, sign=-self.sign)

    def probability_b(self, crops: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float64]:
        """How likely each of N upright crops (S, S, 3) uint8 RGB at coverage 1 shows b: (N,) 0..1."""
        if not len(crops):
            return np.empty(0)
        with torch.inference_mode():
            seen = _standardised(_small(crops))
            likely = torch.sigmoid(self.sign * (self.network(seen) + self.network(seen.flip(3))) / 2)
        return likely[:, 0].double().numpy()


def crops_of(faces: FaceSet, records: Sequence[FaceRecord]) -> NDArray[np.uint8]:
    """The records' crops cut down to coverage 1, as the classifier wants them: (N, 64, 64, 3) uint8 RGB.

    Raises:
        InputError: a crop is missing or damaged.
    """
    side = faces.size / max(1.0, faces.coverage)
    edge = round((faces.size - side) / 2)
    cut = (faces.load(record)[0][edge : faces.size - edge, edge : faces.size - edge] for record in records)
    return np.stack([cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA) for crop in cut]).astype(np.uint8)


def train_classifier(
    faces_a: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    faces_b: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    seed: int = 0,
) -> Classifier:
    """Learns to tell two people apart from their crops, each (S, S, 3) uint8 RGB at coverage 1.

    The last quarter of either is held out to measure the accuracy: neighbouring frames look alike, so a random
    quarter would say little. The same input and seed give the same classifier on the same machine.

    Raises:
        InputError: fewer than four crops of a person.
    """
    counts = len(faces_a), len(faces_b)
    if min(counts) < LEAST:
        raise InputError(
            f"telling two people apart takes at least {LEAST} faces of each; there are {counts[0]} and {counts[1]}"
        )
    known, held = zip(*(_divided(_small(faces)) for faces in (faces_a, faces_b)), strict=True)
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the GPUs' generators, too
        network = _network()
        _fit(network, known, generator)
    network.eval()
    with torch.inference_mode():
        right = [(network(_standardised(part))[:, 0] > 0) == bool(label) for label, part in enumerate(held)]
    accuracy = float(torch.stack([part.float().mean() for part in right]).mean())
    return Classifier(network, accuracy, sum(len(part) for part in held))


def _fit(network: nn.Module, known: Sequence[Tensor], generator: Generator) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), _LR, weight_decay=1e-2)
    wanted = torch.tensor([_SMOOTHING, 1 - _SMOOTHING]).repeat_interleave(_BATCH)[:, None]
    for step in range(_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = _LR * (1 + math.cos(math.pi * step / _STEPS)) / 2
        drawn = [part[torch.randint(len(part), (_BATCH,), generator=generator)] for part in known]
        loss = F.binary_cross_entropy_with_logits(
            network(_standardised(_distorted(torch.cat(drawn), generator))), wanted
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _network() -> nn.Module:
    kit = Layers()
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 64)):
        layers += [kit.convolution(inputs, outputs, 3, stride=2), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * (SIZE // 8) ** 2, 1))


def _divided(pictures: Tensor) -> tuple[Tensor, Tensor]:
    held = max(1, int(len(pictures) * HELD_OUT))
    return pictures[:-held], pictures[-held:]


def _small(crops: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Tensor:
    """(N, 3, SIZE, SIZE) float32 0..1."""
    resized = np.stack([cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for crop in crops])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 255


def _inside() -> Tensor:
    """(1, 1, SIZE, SIZE): 1 inside the ellipse, 0 outside."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return ((x / _AXES[0]).square() + (y / _AXES[1]).square() <= 1).float()[None, None]


def _standardised(pictures: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of every channel inside the ellipse, 0 outside."""
    inside = _inside()
    count = inside.sum()
    mean = (pictures * inside).sum((2, 3), keepdim=True) / count
    centred = (pictures - mean) * inside
    deviation = (centred.square().sum((2, 3), keepdim=True) / count).sqrt()
    return centred / (deviation + 0.02)


def _distorted(pictures: Tensor, generator: Generator) -> Tensor:
    count = len(pictures)

    def drawn(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)

    turn, zoom = drawn(-0.2, 0.2)[:, 0, 0, 0], drawn(0.9, 1.1)[:, 0, 0, 0]
    mirror = torch.randint(2, (count,), generator=generator) * 2.0 - 1
    shift = 0.12 * (torch.rand(count, 2, generator=generator) - 0.5)
    cosine, sine = torch.cos(turn) * zoom, torch.sin(turn) * zoom
    rows = (torch.stack((cosine * mirror, -sine, shift[:, 0]), 1), torch.stack((sine * mirror, cosine, shift[:, 1]), 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.avg_pool2d(moved, 3, 1, 1), 3, 1, 1)
    mixed = torch.lerp(moved, blurred, drawn(0, 1))
    coloured = mixed.clamp(1e-3, 1) ** torch.exp(drawn(-0.4, 0.4) + drawn(-0.15, 0.15, 3))
    noise = torch.randn(pictures.shape, generator=generator) * drawn(0, 0.04)
    return coloured + noise
