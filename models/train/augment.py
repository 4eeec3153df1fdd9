"""Batches: faces drawn, moved, mirrored, tinted, and their input warped against the target.

All faces of a batch are sampled in one call from pictures that lie decoded in memory, on whichever device they lie,
so it costs a few per cent of a step and needs no worker beside the loop; every draw comes from one generator, which
is saved with the model: a resumed training goes on exactly where it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.train.data import FEATURES, Faces

TURN = math.radians(10)
ZOOM = 0.05
SHIFT = 0.05  # of the square's side
WARP_POINTS = 5
WARP = 5 / 256  # standard deviation of each point, of the square's side
BRIGHTNESS, CONTRAST, TINT = 0.1, 0.15, 0.04


@dataclass(frozen=True, slots=True)
class Switches:
    """Which of the optional distortions are on."""

    warp: bool = True
    flip: bool = True
    colour: bool = True


@dataclass(frozen=True, slots=True)
class Batch:
    """What one person adds to a step.

    Attributes:
        input: (N, 3, size, size) float32 RGB 0..1, what the network sees.
        target: (N, 3, out, out) float32 RGB 0..1, what it shall give.
        weight: (N, 1, out, out) float32, what an error costs there; 1 on the skin.
    """

    input: Tensor
    target: Tensor
    weight: Tensor


def draw(faces: Faces, count: int, sizes: tuple[int, int], switches: Switches, generator: Generator) -> Batch:
    """`count` faces, drawn with replacement; `sizes` are the px of the input's and the target's side.

    `generator` is a CPU generator, whatever the device.
    """
    device = faces.pictures.device
    chosen = torch.randint(len(faces), (count,), generator=generator).to(device)
    pictures = faces.pictures[chosen].permute(0, 3, 1, 2).float().div_(255)  # channels last in memory
    moves = _moves(count, faces.reach, switches.flip, generator).to(device)
    target = _sample(pictures, _places(moves, sizes[1]))
    weight = target[:, 3:] * FEATURES
    seen = target[:, :3]
    if switches.warp:
        points = torch.randn(count, 2, WARP_POINTS, WARP_POINTS, generator=generator).to(device)
        seen = _sample(pictures[:, :3], _places(moves, sizes[0], _warp(points, sizes[0])))
    elif sizes[0] != sizes[1]:
        seen = _sample(pictures[:, :3], _places(moves, sizes[0]))
    target = target[:, :3]
    if switches.colour:
        tint = _tint(count, generator)
        seen, target = _tinted(seen, tint, device), _tinted(target, tint, device)
    last = torch.channels_last
    return Batch(seen.contiguous(memory_format=last), target.contiguous(memory_format=last), weight)


def plain(faces: Faces, chosen: Tensor, size: int) -> Tensor:
    """The faces at the places `chosen` as a model of `size` px sees them in a clip: (N, 3, size, size) float32 0..1."""
    device = faces.pictures.device
    pictures = faces.pictures[chosen.to(device)].permute(0, 3, 1, 2)[:, :3].float() / 255
    still = torch.tensor([[[faces.reach, 0, 0], [0, faces.reach, 0]]]).expand(len(chosen), 2, 3)
    return _sample(pictures, _places(still.to(device), size))


def _moves(count: int, reach: float, flip: bool, generator: Generator) -> Tensor:
    """(N, 2, 3) from the model's square to the crop, both as -1..1 (grid_sample's convention)."""
    angle, zoom, shift_x, shift_y = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    scale = reach * (1 + ZOOM * zoom)
    cosine, sine = torch.cos(angle * TURN) * scale, torch.sin(angle * TURN) * scale
    sign = torch.ones(count)
    if flip:
        sign = torch.randint(2, (count,), generator=generator) * 2.0 - 1
    shift = 2 * SHIFT * reach
    rows = (
        torch.stack((cosine * sign, -sine, shift_x * shift), 1),
        torch.stack((sine * sign, cosine, shift_y * shift), 1),
    )
    return torch.stack(rows, 1)


def _places(moves: Tensor, size: int, warp: Tensor | None = None) -> Tensor:
    """(N, size, size, 2): where in the crop each px of the model's square lies."""
    axis = (torch.arange(size, device=moves.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack((x, y), -1).expand(len(moves), size, size, 2)
    if warp is not None:
        points = points + warp
    flat = points.reshape(len(moves), -1, 2)
    moved = torch.baddbmm(moves[:, None, :, 2], flat, moves[:, :, :2].transpose(1, 2))
    return moved.view(len(moves), size, size, 2)


def _warp(points: Tensor, size: int) -> Tensor:
    """(N, size, size, 2): smooth displacement, cubic between `points` (N, 2, P, P) of deviation 1."""
    between = torch.eye(WARP_POINTS, device=points.device)[None, :, :, None]
    # One axis' cubic weights suffice, the two axes being separable.
    axis = F.interpolate(between, (size, 1), mode="bicubic", align_corners=True)[0, :, :, 0]
    return (axis.T @ (points * (2 * WARP)) @ axis).permute(0, 2, 3, 1)


def _tint(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    drawn = torch.rand(count, 5, 1, 1, generator=generator) * 2 - 1
    gain = (1 + CONTRAST * drawn[:, :1]) * (1 + TINT * drawn[:, 1:4])
    return gain, BRIGHTNESS * drawn[:, 4:]


def _tinted(pictures: Tensor, tint: tuple[Tensor, Tensor], device: torch.device) -> Tensor:
    gain, brightness = tint[0].to(device), tint[1].to(device)
    return ((pictures - 0.5) * gain + (0.5 + brightness)).clamp_(0, 1)


def _sample(pictures: Tensor, places: Tensor) -> Tensor:
    return F.grid_sample(pictures, places, mode="bilinear", padding_mode="border", align_corners=False)
