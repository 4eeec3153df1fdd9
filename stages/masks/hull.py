"""The convex hull of the face mesh: chin to the upper forehead, temple to temple."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.types import Array

#: The hull is drawn this much larger, then averaged down: OpenCV's own antialiased polygons come out 2/3 px too wide.
_FINER = 4
#: Sub-pixel bits of the polygon's corners.
_SHIFT = 4


def draw(landmarks: Array, size: int) -> Array:
    """The hull, antialiased.

    Args:
        landmarks: (n, 2) float32 px of the crop, at least one.
        size: the mask's side in px.

    Returns:
        (size, size) float32 0..1.
    """
    # OpenCV's fixed-point drawing overflows far outside the crop; corners that far away are the same to the eye.
    near = np.clip(landmarks, -8.0 * size, 9.0 * size)
    corners = cv2.convexHull(np.asarray(near, np.float32)) * _FINER + (_FINER - 1) / 2
    drawn = np.zeros((size * _FINER, size * _FINER), np.uint8)
    cv2.fillConvexPoly(drawn, np.round(corners * (1 << _SHIFT)).astype(np.int32), (255,), cv2.LINE_8, _SHIFT)
    return cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
