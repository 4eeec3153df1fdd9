"""The hull raised over the brow: the mesh ends on the upper forehead, this reaches towards the hairline."""

from __future__ import annotations

import numpy as np

from pipeline.types import Array
from stages.masks import hull

#: Points of MediaPipe's mesh: middle of the forehead's edge, tip of the chin, upper edges of the two brows.
_FOREHEAD, _CHIN = 10, 152
_BROWS = (63, 105, 66, 293, 334, 296)
#: How far the forehead's edge rises, as a share of the distance from chin to forehead.
_RAISE = 0.10


def draw(landmarks: Array, size: int) -> Array:
    """The hull of the mesh with everything above the brows drawn upwards along the face.

    A point at the brows stays; the forehead's edge rises by a tenth of the face's height; between, in proportion.

    Args:
        landmarks: (478, 2) float32 px of the crop.
        size: the mask's side in px.

    Returns:
        (size, size) float32 0..1.
    """
    points = np.asarray(landmarks, np.float32)
    upwards = points[_FOREHEAD] - points[_CHIN]
    height = float(np.hypot(*upwards))
    if height < 1.0:
        return hull.draw(points, size)
    share = (points - points[_CHIN]) @ upwards / height**2
    brow = float(share[list(_BROWS)].mean())
    rise = np.clip((share - brow) / max(1.0 - brow, 0.05), 0.0, 1.2) * _RAISE
    return hull.draw(np.concatenate([points, points + rise[:, None] * upwards]), size)
