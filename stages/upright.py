"""A picture small and as it is meant to be seen: turned, mirrored and stretched as its container asks."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.types import Array, Clip, Picture
from stages.colour import small_rgb
from stages.geometry import stored_to_upright


def shown_size(clip: Clip) -> tuple[int, int]:
    """Width and height of the clip's pictures as they are meant to be seen, px."""
    _, size = stored_to_upright(clip.display_matrix, clip.width, clip.height, clip.sample_aspect_ratio)
    return size


def upright(clip: Clip, picture: Picture, height: int) -> Array:
    """(height, w, 3) uint8 RGB of a picture of the clip; a copy."""
    shown_w, shown_h = shown_size(clip)
    scale = height / shown_h
    stored, _ = small_rgb(picture, clip.colour, max(1, round(max(picture.width, picture.height) * scale)))
    turn, size = stored_to_upright(clip.display_matrix, stored.shape[1], stored.shape[0], clip.sample_aspect_ratio)
    if not np.array_equal(turn, np.eye(2, 3)):
        stored = cv2.warpAffine(stored, turn, size, borderMode=cv2.BORDER_REPLICATE)
    wanted = (max(1, round(shown_w * scale)), height)
    return np.asarray(cv2.resize(stored, wanted, interpolation=cv2.INTER_AREA), np.uint8)
