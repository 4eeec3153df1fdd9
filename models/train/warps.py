"""Bends of the input against its target: what a model has to undo, and so learns what the face has to be.

A bend is known at a few nodes over the model's square and is cubic between them. It is a displacement in the crop, in
grid_sample's units (the crop's side is 2): what a node shows comes from so much beside the place it lies at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: The landmarks that a face's look is compared and bent by: right and left of it, pairwise ...
_PAIRS = (
    *((109, 338), (67, 297), (103, 332), (54, 284), (21, 251), (162, 389), (127, 356), (234, 454), (93, 323)),
    *((132, 361), (58, 288), (172, 397), (136, 365), (150, 379), (149, 378), (176, 400), (148, 377)),
    *((70, 300), (63, 293), (105, 334), (66, 296), (107, 336)),
    *((33, 263), (160, 387), (159, 386), (158, 385), (133, 362), (153, 380), (145, 374), (144, 373)),
    *((98, 327), (97, 326), (129, 358), (64, 294), (48, 278), (50, 280), (205, 425), (187, 411)),
    *((61, 291), (146, 375), (91, 321), (181, 405), (84, 314), (185, 409), (40, 270), (39, 269), (37, 267)),
)
#: ... and along its middle.
_MIDDLE = (10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 2, 0, 13, 14, 17, 199, 200, 152)

LANDMARKS = torch.tensor([*(right for right, _ in _PAIRS), *(left for _, left in _PAIRS), *_MIDDLE])
_MIRRORED = torch.tensor([*(left for _, left in _PAIRS), *(right for right, _ in _PAIRS), *_MIDDLE])

_NEAREST = 10
JITTER = 2 / 256  # standard deviation of each landmark's aim, of the square's side
_NODES = 17  # a side, of the bend towards landmarks
_WIDTH = 0.12  # standard deviation of a landmark's influence; the square's side is 2, as everywhere below
_STAY = 0.05  # how much everything would rather stay: far from all landmarks nothing is bent


def scattered(noise: Tensor, moves: Tensor, amount: float) -> Tensor:
    """A bend (N, 2, P, P) out of `noise` of that shape and deviation 1.

    `moves`: (N, 2, 3) from the square to the crop; `amount`: the nodes' deviation, of the square's side.
    """
    turn = moves[:, :, :2, None, None] * (2 * amount)
    return turn[:, :, 0] * noise[:, None, 0] + turn[:, :, 1] * noise[:, None, 1]


def spread(bends: Sequence[Tensor], size: int) -> Tensor:
    """(N, 2, size, size) out of the nodes of bends, of which the outer ones lie at the outer px.

    A face whose first bend is unknown (NaN) takes the next.
    """
    fields = [_spread(bend, size) for bend in bends]
    chosen = fields.pop()
    for field in reversed(fields):
        known = field[:, :1, :1, :1].isfinite()
        chosen = torch.where(known, field, chosen)
    return chosen


def _spread(bend: Tensor, size: int) -> Tensor:
    nodes = bend.shape[-1]
    between = torch.eye(nodes, device=bend.device)[None, :, :, None]
    # One axis' cubic weights suffice, the two axes being separable.
    axis = F.interpolate(between, (size, 1), mode="bicubic", align_corners=True)[0, :, :, 0]
    return axis.T @ bend @ axis


def look(landmarks: Tensor, reach: float, mirrored: bool = False) -> Tensor:
    """(N, K, 2) float32: those of the landmarks (N, 478, 2) that count, in the model's square -1..1; NaN stays NaN.

    Mirrored, the right half of the face is told by its left one.
    """
    which = _MIRRORED if mirrored else LANDMARKS
    places = landmarks[:, which.to(landmarks.device)] / reach
    return torch.stack((-places[:, :, 0], places[:, :, 1]), 2) if mirrored else places


def similar(looks: Tensor, others: Tensor, which: Tensor) -> Tensor:
    """(N, K, 2): for each of `looks` (N, K, 2) one of the nearest of `others` (M, K, 2); NaN where there is none.

    Near in shape: where in its square a face lies does not count. `which`: (N,) 0..1, the one among the nearest.
    """
    # In double precision: which face is nearer must not hang on the order of a sum.
    own, theirs = (_shape(faces).double() for faces in (looks, others))
    distance = theirs.square().sum(1) - 2 * own @ theirs.T  # but for what is the same for all others
    nearest = min(_NEAREST, len(others))
    ranked = distance.nan_to_num(nan=torch.inf).topk(nearest, largest=False).indices
    return others[ranked.gather(1, (which * nearest).long()[:, None])[:, 0]]


def _shape(looks: Tensor) -> Tensor:
    return (looks - looks.mean(1, keepdim=True)).flatten(1)


def towards(looks: Tensor, aims: Tensor, moves: Tensor, reach: float) -> Tensor:
    """A bend (N, 2, P, P) that has faces of `looks` look like `aims`, (N, K, 2) each in the model's square; smooth.

    Where an aim lies, what lies at the own landmark is shown. Each place follows the landmarks about it, weighted by a
    Gaussian of their distance (Nadaraya 1964, Watson 1964). `moves`, (N, 2, 3), takes the square to the crop.
    """
    # The outer nodes' place does not matter much, the field being smooth: between the outer px and the rim.
    axis = torch.linspace(-1, 1, _NODES, device=looks.device)
    x, y = axis[None, None, :], axis[None, :, None]
    across, down = (moves[:, at, :, None, None].unbind(1) for at in (0, 1))
    place_x = (across[0] * x + across[1] * y + across[2]).flatten(1) / reach  # (N, P * P)
    place_y = (down[0] * x + down[1] * y + down[2]).flatten(1) / reach
    squared = (place_x[:, :, None] - aims[:, None, :, 0]).square_()
    squared += (place_y[:, :, None] - aims[:, None, :, 1]).square_()
    weights = squared.mul_(-0.5 / _WIDTH**2).clamp_(min=-20).exp_()  # numbers near the smallest there are take long
    weights = weights / (weights.sum(2, keepdim=True) + _STAY)
    field = weights @ ((looks - aims) * reach)  # (N, P * P, 2)
    return field.transpose(1, 2).reshape(len(looks), 2, _NODES, _NODES)
