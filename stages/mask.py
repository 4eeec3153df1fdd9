"""Mask: which part of the crop becomes the other person, from the landmarks."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from pipeline.errors import ConfigError
from pipeline.types import Allocate, Array, Clip, Face, Frame, Frames, Report
from stages import masks, registry
from stages.geometry import apply, rescale_crop

#: Radius of the crop's rounded corners, as a share of its side.
_CORNER = 0.4


@dataclass(frozen=True, slots=True)
class Config:
    """The mask's shape and edge.

    Attributes:
        kind: the shape: a file's name in `stages/masks`.
        size: the mask's side in px; it is smooth, so it needs fewer px than the face has in the picture.
        erode: how far inside the shape the mask begins, as a share of the crop's side.
        feather: over which width it rises from 0 to 1, wholly inside the shape, as a share of the crop's side.
    """

    kind: str = "extended"
    size: int = 128
    erode: float = 0.0
    feather: float = 0.1

    def __post_init__(self) -> None:
        registry.check(masks, self.kind, "mask.kind")
        if not 16 <= self.size <= 1024:
            raise ConfigError(f"mask.size must be from 16 to 1024 px, not {self.size}")
        for name in ("erode", "feather"):
            if not 0.0 <= getattr(self, name) <= 0.5:
                raise ConfigError(f"mask.{name} must be from 0 to 0.5 of the crop, not {getattr(self, name)}")


class Mask:
    """Fills `Face.mask` for every face that has a crop; reports how many came out empty."""

    needs: ClassVar[frozenset[str]] = frozenset({"landmarks", "frame_to_crop", "aligned"})
    gives: ClassVar[frozenset[str]] = frozenset({"mask"})
    stateless: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        self._config = config
        self._draw = registry.load(masks, config.kind, "draw", "mask.kind")

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        made = empty = 0
        for frame in frames:
            faces = tuple(self._masked(face, frame.allocate) for face in frame.faces)
            drawn = [face.mask for face in faces if face.mask is not None]
            made += len(drawn)
            empty += sum(not mask.any() for mask in drawn)
            yield frame.with_(faces=faces)
        return {"masks": made, "empty_masks": empty}

    def _masked(self, face: Face, allocate: Allocate) -> Face:
        if face.aligned is None or face.frame_to_crop is None:
            return face
        size = self._config.size
        frame_to_mask = rescale_crop(face.frame_to_crop, face.aligned.shape[0], size)
        shape = self._draw(apply(frame_to_mask, face.landmarks).astype(np.float32), size)
        mask = allocate((size, size), np.float32)
        mask[:] = soft_edged(shape, self._config.erode, self._config.feather)
        return face.with_(mask=mask)


def soft_edged(shape: Array, erode: float, feather: float) -> Array:
    """A shape with its edge drawn in and softened.

    The crop, with its corners rounded, bounds the shape too, so that the mask always ends in 0 at its border: a face
    that fills or leaves its crop is never pasted with a square edge.

    Args:
        shape: (M, M) float32 0..1.
        erode: how far inside the edge the mask begins, as a share of M.
        feather: the width over which it rises to 1 (a smooth step), as a share of M.

    Returns:
        (M, M) float32 0..1, nowhere above `shape`, 0 along the border.
    """
    size = shape.shape[0]
    inside = (shape >= 0.5).astype(np.uint8) & _rounded_square(size)
    # Distance of each px to the nearest one outside; the edge itself lies half a px nearer.
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - np.float32(0.5 + erode * size)
    rise = np.clip(depth / np.float32(max(feather * size, 1e-3)), 0.0, 1.0)
    smooth = rise * rise * (np.float32(3.0) - np.float32(2.0) * rise)
    softened: Array = np.minimum(shape, smooth)
    return softened


def _rounded_square(size: int) -> Array:
    """(size, size) uint8: 1 inside the crop but for its outermost px and its rounded corners."""
    radius = round(_CORNER * size)
    square = np.zeros((size, size), np.uint8)
    low, high = 1 + radius, size - 2 - radius
    cv2.rectangle(square, (low, 1), (high, size - 2), (1,), cv2.FILLED)
    cv2.rectangle(square, (1, low), (size - 2, high), (1,), cv2.FILLED)
    for x in (low, high):
        for y in (low, high):
            cv2.circle(square, (x, y), radius, (1,), cv2.FILLED)
    return square
