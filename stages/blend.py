"""Blend: the swapped face into the frame's own planes, and only where the mask says so.

The face is converted to the picture's format and mixed plane by plane within its footprint. No other sample is
touched, and none where alpha is zero: those leave the stage bit-identical, in any format and depth.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from pipeline.errors import ConfigError
from pipeline.types import Array, Clip, Colour, Face, Frame, Frames, Picture, Report
from stages import blenders, registry
from stages.live_preview import LivePreview
from stages.paste import paste


@dataclass(frozen=True, slots=True)
class Config:
    """How the swapped face is put into the picture.

    Attributes:
        colour: the colour transfer: a file's name in `stages/blenders`.
        opacity: 1 is the swapped face alone, 0 leaves the picture as it is.
    """

    colour: str = "lab"
    opacity: float = 1.0

    def __post_init__(self) -> None:
        registry.check(blenders, self.colour, "blend.colour")
        if not 0.0 <= self.opacity <= 1.0:
            raise ConfigError(f"blend.opacity must be from 0 to 1, not {self.opacity}")


class Blend:
    """Edits the planes in place, face by face in the order of `Frame.faces`; reports how many it blended."""

    needs: ClassVar[frozenset[str]] = frozenset({"aligned", "frame_to_crop", "mask", "swapped"})
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        self._opacity = config.opacity
        self._transfer = registry.load(blenders, config.colour, "transfer", "blend.colour")

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        blended = 0
        preview = LivePreview(clip.work) if clip.work else None
        for frame in frames:
            before = preview.before(clip, frame.picture) if preview else None
            if self._opacity > 0.0:
                blended += sum(self._blended(frame.picture, clip.colour, face) for face in frame.faces)
            if preview and before is not None:
                preview.after(clip, frame.picture, before)
            yield frame
        return {"blended": blended}

    def _blended(self, picture: Picture, colour: Colour, face: Face) -> bool:
        """Whether the face had all that is needed and was put into the picture."""
        if face.swapped is None or face.mask is None or face.aligned is None or face.frame_to_crop is None:
            return False
        side = face.swapped.shape[0]
        aligned, mask = _sized(face.aligned, side), _sized(face.mask, side)
        coloured = self._transfer(face.swapped, aligned, mask)
        paste(
            picture, colour, coloured, face.mask * np.float32(self._opacity), face.frame_to_crop, face.aligned.shape[0]
        )
        return True


def _sized(square: Array, side: int) -> Array:
    """A square array brought to another side: averaged down, interpolated up."""
    if square.shape[0] == side:
        return square
    method = cv2.INTER_AREA if square.shape[0] > side else cv2.INTER_LINEAR
    return cv2.resize(square, (side, side), interpolation=method)
