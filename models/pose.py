"""Which way a head is turned, from its landmarks in the picture alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: (landmark at x, landmark at -x, x, y, z): where points that move with the skull, not with expression, lie on a head
#: seen from the front. x to the picture's right, y down, z away from the viewer, in sides of the crop of coverage 1,
#: whose middle is the origin. Measured with the face mesh itself: the symmetrised mean (generalised Procrustes) of six
#: people, its z among them.
_HEAD = (
    (10, 10, 0.0, -0.4853, 0.0190),
    (151, 151, 0.0, -0.4000, -0.0099),
    (9, 9, 0.0, -0.3076, -0.0343),
    (8, 8, 0.0, -0.2594, -0.0327),
    (168, 168, 0.0, -0.2171, -0.0356),
    (6, 6, 0.0, -0.1761, -0.0645),
    (197, 197, 0.0, -0.1386, -0.0960),
    (195, 195, 0.0, -0.1038, -0.1300),
    (5, 5, 0.0, -0.0663, -0.1651),
    (4, 4, 0.0, -0.0194, -0.1836),
    (1, 1, 0.0, 0.0187, -0.1756),
    (2, 2, 0.0, 0.0596, -0.0936),
    (33, 263, -0.2506, -0.1859, 0.0846),
    (130, 359, -0.2650, -0.1848, 0.0912),
    (133, 362, -0.1000, -0.1804, 0.0536),
    (243, 463, -0.0876, -0.1799, 0.0478),
    (193, 417, -0.0438, -0.2129, -0.0129),
    (122, 351, -0.0322, -0.1666, -0.0519),
    (105, 334, -0.2293, -0.3261, 0.0205),
    (70, 300, -0.3157, -0.2704, 0.0982),
    (67, 297, -0.1924, -0.4636, 0.0631),
    (103, 332, -0.2735, -0.4256, 0.1211),
    (54, 284, -0.3266, -0.3696, 0.1856),
    (21, 251, -0.3592, -0.3007, 0.2458),
    (162, 389, -0.3763, -0.2275, 0.3078),
    (127, 356, -0.3831, -0.1382, 0.3540),
    (234, 454, -0.3806, -0.0552, 0.3707),
    (117, 346, -0.2920, -0.0949, 0.0782),
    (129, 358, -0.1229, 0.0106, -0.0224),
    (98, 327, -0.1024, 0.0475, -0.0467),
)


def _points() -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    found = {}
    for right, left, x, y, z in _HEAD:
        found[right], found[left] = (x, y, z), (-x, y, z)
    return np.array(list(found), np.intp), np.array(list(found.values()), np.float64)


_INDICES, _TEMPLATE = _points()
_CENTRE = _TEMPLATE.mean(0)
_SOLVE = np.linalg.pinv(_TEMPLATE - _CENTRE)  # (3, points): least squares for any landmarks


@dataclass(frozen=True, slots=True)
class Pose:
    """A head under weak perspective: a point p of the head is seen at scale * rotation @ p + shift.

    First the head nods (pitch), then it turns (yaw), then it is tilted in the picture's plane. Left, right and
    clockwise are the picture's, as its viewer sees them; all angles are degrees.

    Attributes:
        scale: px of a side of the face's crop of coverage 1, were it seen from the front.
        rotation: (2, 3) float64, the upper two rows of a rotation.
        shift: (2,) float64 px.
    """

    scale: float
    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def yaw(self) -> float:
        """How far the face is turned to the right, -90..90, however the head is tilted."""
        x, y, z = self._depths
        return math.degrees(math.atan2(x, math.hypot(y, z)))

    @property
    def pitch(self) -> float:
        """How far it looks up, -180..180, however the head is turned and tilted."""
        _, y, z = self._depths
        return math.degrees(math.atan2(-y, z))

    @property
    def roll(self) -> float:
        """How far the head's picture is turned in its plane, clockwise, -180..180.

        The turn nearest to the rotation, not the slope of the eyes: that has no meaning in profile.
        """
        (a, b), (c, d) = self.rotation[:, :2].tolist()
        return math.degrees(math.atan2(c - b, a + d))

    @property
    def _depths(self) -> tuple[float, float, float]:
        """The rotation's third row: how far away from the viewer the head's own axes point."""
        x, y, z = np.cross(self.rotation[0], self.rotation[1]).tolist()
        return x, y, z

    def seen(self, point: ArrayLike) -> NDArray[np.float64]:
        """Where a (3,) point of the head, in the units and axes of the template, is in the picture: (2,) px."""
        found: NDArray[np.float64] = self.scale * self.rotation @ np.asarray(point, np.float64) + self.shift
        return found


def estimate(landmarks: NDArray[Any]) -> Pose:
    """The pose whose template comes nearest to the (478, 2) or (468, 2) landmarks, in px of an upright picture.

    Least squares for the affine camera, then the nearest scaled rotation, as the first step of POSIT (DeMenthon and
    Davis, "Model-based object pose in 25 lines of code", IJCV 15, 1995). Against a rotation fitted in three
    dimensions to the mesh it is within 4 degrees up to profiles.

    Raises:
        ValueError: the landmarks fall together, or on one line.
    """
    points = np.asarray(landmarks, np.float64)[_INDICES]
    centre = points.mean(0)
    affine = (points - centre).T @ _SOLVE.T
    left, stretch, right = np.linalg.svd(affine, full_matrices=False)
    if not stretch[1] > 1e-6 * max(1e-6, float(stretch[0])):
        raise ValueError("the landmarks fall together; no pose is determined")
    scale, rotation = float(stretch.mean()), left @ right
    return Pose(scale, rotation, centre - scale * rotation @ _CENTRE)
