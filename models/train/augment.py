"""Batches: faces drawn, moved, mirrored, tinted, and their input bent and spoiled against the target.

All faces of a batch are sampled in one call from pictures that lie decoded in memory, on whichever device they lie,
so it costs a few per cent of a step. What a batch shows depends on its generator alone, and each switch changes its
own effect only: the dice of all effects are thrown, whichever are on.

Where an effect belongs: the place of a face and its colours are the same in input and target, since the model shall
keep them. What it shall undo, bends (`warps`) and the traces of cameras and encoders (`traces`), is in the input alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from models.train import tints, traces, warps
from models.train.batch import Batch
from models.train.recipe import Augment

_DICE = (
    *("angle", "zoom", "x", "y", "flip"),
    *("brightness", "contrast", "a", "b", "transfer", "source", "clahe", "grid", "limit"),
    *("look", "blur", "length", "direction", "compression", "quality"),
)


class FaceSource(Protocol):
    """One person's faces, as batches are drawn from them: `data.Faces`, or what reads them from disk.

    Attributes:
        reach: the model's square against the crop's side.
        landmarks: (N, 478, 2) float32, -1..1 of the crop, NaN where unknown; None where all are.
    """

    @property
    def reach(self) -> float: ...
    @property
    def landmarks(self) -> Tensor | None: ...
    def __len__(self) -> int: ...
    def take(self, chosen: Tensor) -> Tensor:
        """(n, S, S, 6) uint8, RGB, mask, eyes and mouth of the faces at the places `chosen`, (n,) int64."""
        ...


def draw(
    faces: FaceSource,
    count: int,
    sizes: tuple[int, int],
    config: Augment,
    generator: Generator,
    others: FaceSource | None = None,
) -> Batch:
    """`count` faces, drawn with replacement, on the device where they lie.

    Args:
        sizes: px of the input's and the target's side.
        generator: of the CPU, whatever the device.
        others: another person's faces, for "transfer" and the warp to landmarks; without them the first is left out
            and the second becomes the one by a grid.
    """
    chosen = torch.randint(len(faces), (count,), generator=generator)
    thrown = throw(count, generator)
    crops = faces.take(chosen)
    if config.clahe:
        crops = tints.equalised(crops, thrown, config)
    pictures = crops.permute(0, 3, 1, 2).float().div_(255)  # channels last in memory
    moves = _moves(thrown, faces.reach, config)
    target = _sample(pictures, _places(moves, sizes[1], (), pictures.device))
    masks, target = target[:, 3:], target[:, :3]
    bends = _bends(_alike(faces, chosen, others, thrown, config), moves, faces.reach, config, generator)
    seen = target
    if bends or sizes[0] != sizes[1]:
        seen = _sample(pictures[:, :3], _places(moves, sizes[0], bends, pictures.device))
    tint = tints.drawn(thrown, config, crops, _sources(others, thrown, config))
    if tint is not None:
        seen, target = (tint(seen), tint(target)) if seen is not target else (tint(target),) * 2
    seen = traces.left(seen, thrown, config)
    last = torch.channels_last
    seen, target = seen.contiguous(memory_format=last), target.contiguous(memory_format=last)
    return Batch(seen, target, *(part.contiguous() for part in masks.split(1, 1)))


def throw(count: int, generator: Generator) -> dict[str, Tensor]:
    """The dice of `count` faces: for each effect (count,) float32, uniform in 0..1, on the CPU."""
    return dict(zip(_DICE, torch.rand(len(_DICE), count, generator=generator).unbind(), strict=True))


def plain(faces: FaceSource, chosen: Tensor, size: int) -> Tensor:
    """The faces at the places `chosen` as a model of `size` px sees them in a clip: (N, 3, size, size) float32 0..1."""
    pictures = faces.take(chosen)[:, :, :, :3].permute(0, 3, 1, 2).float() / 255
    still = torch.tensor([[[faces.reach, 0, 0], [0, faces.reach, 0]]]).expand(len(chosen), 2, 3)
    return _sample(pictures, _places(still, size, (), pictures.device))


def _moves(thrown: Mapping[str, Tensor], reach: float, config: Augment) -> Tensor:
    """(N, 2, 3) from the model's square to the crop, both as -1..1 (grid_sample's convention)."""
    turn, zoom, x, y = (2 * thrown[name] - 1 for name in ("angle", "zoom", "x", "y"))
    angle = turn * math.radians(config.rotation)
    scale = reach * (1 + config.zoom * zoom)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    sign = 1 - 2 * (thrown["flip"] < config.flip).float()
    shift = 2 * config.shift * reach
    rows = (torch.stack((cosine * sign, -sine, x * shift), 1), torch.stack((sine * sign, cosine, y * shift), 1))
    return torch.stack(rows, 1)


def _alike(
    faces: FaceSource, chosen: Tensor, others: FaceSource | None, thrown: Mapping[str, Tensor], config: Augment
) -> tuple[Tensor, Tensor] | None:
    """The looks of the chosen faces, and of one each of the others that are like them; None where they are not asked
    for or not known."""
    if config.warp != "landmarks" or others is None or faces.landmarks is None or others.landmarks is None:
        return None
    own = warps.look(faces.landmarks[chosen.to(faces.landmarks.device)], faces.reach)
    theirs = warps.look(others.landmarks, others.reach)
    if config.flip:  # somebody else's profile is like one's own from the other side, too
        theirs = torch.cat((theirs, warps.look(others.landmarks, others.reach, mirrored=True)))
    return own, warps.similar(own, theirs.to(own.device), thrown["look"].to(own.device))


def _bends(
    alike: tuple[Tensor, Tensor] | None, moves: Tensor, reach: float, config: Augment, generator: Generator
) -> list[Tensor]:
    """The input's bends, the one to be preferred first; none where warps are off."""
    if config.warp == "off":
        return []
    noise = torch.randn(len(moves), 2, config.warp_points, config.warp_points, generator=generator)
    bends = [warps.scattered(noise, moves, config.warp_amount)]
    if alike is not None:
        looks, aims = alike
        jitter = torch.randn(aims.shape, generator=generator) * (2 * warps.JITTER)
        bends.insert(0, warps.towards(looks, aims + jitter.to(aims.device), moves.to(aims.device), reach))
    return bends


def _sources(others: FaceSource | None, thrown: Mapping[str, Tensor], config: Augment) -> Tensor | None:
    """The crops of others whose colours are taken, (n, S, S, 6) uint8, or None where there are none."""
    rows = tints.transferred(thrown, config)
    if others is None or not len(rows):
        return None
    return others.take((thrown["source"][rows].double() * len(others)).long())


def _places(moves: Tensor, size: int, bends: Sequence[Tensor], device: torch.device) -> Tensor:
    """(N, size, size, 2): where in the crop each px of the model's square lies; `bends` as in `warps.spread`."""
    axis = (torch.arange(size, device=device) * 2 + 1) / size - 1
    moves = moves.to(device)[..., None, None]
    # Term by term, which is as fast as a product of matrices and the same on any number of threads.
    x = moves[:, 0, 0] * axis[None, None, :] + moves[:, 0, 1] * axis[None, :, None] + moves[:, 0, 2]
    y = moves[:, 1, 0] * axis[None, None, :] + moves[:, 1, 1] * axis[None, :, None] + moves[:, 1, 2]
    if bends:
        moved = warps.spread([bend.to(device) for bend in bends], size)
        x, y = x + moved[:, 0], y + moved[:, 1]
    return torch.stack((x, y), -1)


def _sample(pictures: Tensor, places: Tensor) -> Tensor:
    return F.grid_sample(pictures, places, mode="bilinear", padding_mode="border", align_corners=False)
