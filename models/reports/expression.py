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


def expression_and_pose(before: ArrayLike, after: ArrayLike) -> tuple[float, float]:
    """How far landmarks have moved among themselves, and how far as one, both as means in inter-ocular distances.

    The similarity (turn, scale, shift) that takes `before` to `after` best is the pose's part; what it leaves is the
    expression's (Procrustes analysis; Umeyama 1991, "Least-squares estimation of transformation parameters").

    Args:
        before: (478, 2) px in the clip; after: (478, 2) px in its result.

    Raises:
        ValueError: another shape, or eye corners that coincide.
    """
    normalised_mean_error(before, after)  # checks both
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    unit = float(np.linalg.norm(a[_OUTER_CORNERS[0]] - a[_OUTER_CORNERS[1]]))
    centre_a, centre_b = a.mean(0), b.mean(0)
    # As complex numbers, the best turn and scale about the centre is one factor.
    p, q = ((points - centre).view(np.complex128)[:, 0] for points, centre in ((a, centre_a), (b, centre_b)))
    moved = p * (np.vdot(p, q) / np.vdot(p, p).real)
    moved = moved.view(np.float64).reshape(-1, 2) + centre_b
    return float(np.linalg.norm(moved - b, axis=1).mean()) / unit, float(
        np.linalg.norm(moved - a, axis=1).mean()
    ) / unit
