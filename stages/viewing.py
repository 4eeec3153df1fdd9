"""Looking through a finished clip outside any engine: its pictures in order, as they are meant to be seen."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.types import Array, Clip, Frame, Job, Pulled
from stages.colour import small_rgb
from stages.decode import Decode
from stages.geometry import stored_to_upright


@dataclass(frozen=True, slots=True)
class View:
    """One moment of a clip: planes are the decoder's own and hold until the next is asked for."""

    clip: Clip
    frame: Frame

    @property
    def seconds(self) -> float:
        """Since the clip's zero."""
        return float(self.frame.pts * self.clip.time_base)

    def upright(self, height: int) -> Array:
        """(height, w, 3) uint8 RGB: turned, mirrored and stretched as the container asks, then brought to `height`."""
        clip, picture = self.clip, self.frame.picture
        _, (shown_w, shown_h) = stored_to_upright(
            clip.display_matrix, picture.width, picture.height, clip.sample_aspect_ratio
        )
        scale = height / shown_h
        stored, _ = small_rgb(picture, clip.colour, max(1, round(max(picture.width, picture.height) * scale)))
        turn, size = stored_to_upright(clip.display_matrix, stored.shape[1], stored.shape[0], clip.sample_aspect_ratio)
        if not np.array_equal(turn, np.eye(2, 3)):
            stored = cv2.warpAffine(stored, turn, size, borderMode=cv2.BORDER_REPLICATE)
        wanted = (max(1, round(shown_w * scale)), height)
        return np.asarray(cv2.resize(stored, wanted, interpolation=cv2.INTER_AREA), np.uint8)


def views(path: Path) -> Generator[View, None, None]:
    """The clip's moments, in order; its file is closed when the generator is.

    Raises:
        InputError: the clip cannot be opened or read.
    """
    source = str(path.absolute())
    decode = Decode()
    clip = decode.open(Job(0, source, source))
    with closing(decode(clip, Pulled(()))) as frames:
        for frame in frames:
            yield View(clip, frame)
