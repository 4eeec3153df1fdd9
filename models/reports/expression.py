"""How well a swap keeps expression and pose: the distance between a face's landmarks before and after."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

#: The outer corners of the right and the left eye in MediaPipe's face mesh.
_OUTER_CORNERS = (33, 263)


def normalised_mean_error(before: ArrayLike, after: ArrayLike) -> float:
    """The mean distance between the same landmarks in two pictures, in inter-ocular distances of the first.

    The usual measure of landmark detectors (300-W challenge: the distance between the outer eye corners is 1).

    Args:
        before: (478, 2) px in the clip; after: (478, 2) px in its result.

    Raises:
        ValueError: another shape, or eye corners that coincide.
    """
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 2 or len(a) <= max(_OUTER_CORNERS):
        raise ValueError(f"landmarks of shape {a.shape} and {b.shape}; both must be (478, 2)")
    between_eyes = float(np.linalg.norm(a[_OUTER_CORNERS[0]] - a[_OUTER_CORNERS[1]]))
    if not between_eyes > 0:
        raise ValueError("the outer eye corners coincide")
    return float(np.linalg.norm(a - b, axis=1).mean()) / between_eyes
