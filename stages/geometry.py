"""Where things lie: affine maps between the stored picture, the upright picture and a face's crop.

Points are (x, y) px with pixel centres at whole numbers (OpenCV's convention), so the picture's edges lie at -0.5 and
width - 0.5. Every map is a (2, 3) float64 matrix `a_to_b`: b = matrix[:, :2] @ a + matrix[:, 2].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from models import pose
from pipeline.types import Array

#: (landmark index, x, y, weight): where the points that hardly move against the skull lie in the crop of coverage 1,
#: in shares of its side. Eye corners and the bridge of the nose count most; brows, cheeks and the corners of the mouth
#: only steady the scale. Measured with the face mesh itself: the symmetrised 3-D mean (generalised Procrustes) of six
#: people, seen from the front. In these units the face is 0.77 wide, from 0.005 (hair line) to 0.95 (chin).
_ANCHORS = np.array(
    [
        (9, 0.5000, 0.1899, 0.3),
        (8, 0.5000, 0.2389, 0.6),
        (168, 0.5000, 0.2814, 1.0),
        (6, 0.5000, 0.3230, 1.0),
        (197, 0.5000, 0.3612, 1.0),
        (195, 0.5000, 0.3968, 0.6),
        (2, 0.5000, 0.5609, 0.6),
        (33, 0.2492, 0.3136, 1.0),
        (263, 0.7508, 0.3136, 1.0),
        (133, 0.3994, 0.3201, 1.0),
        (362, 0.6006, 0.3201, 1.0),
        (130, 0.2346, 0.3147, 1.0),
        (359, 0.7654, 0.3147, 1.0),
        (243, 0.4118, 0.3206, 1.0),
        (463, 0.5882, 0.3206, 1.0),
        (193, 0.4569, 0.2881, 1.0),
        (417, 0.5431, 0.2881, 1.0),
        (122, 0.4681, 0.3326, 1.0),
        (351, 0.5319, 0.3326, 1.0),
        (196, 0.4699, 0.3691, 0.6),
        (419, 0.5301, 0.3691, 0.6),
        (55, 0.4301, 0.2318, 0.3),
        (285, 0.5699, 0.2318, 0.3),
        (107, 0.4205, 0.1843, 0.2),
        (336, 0.5795, 0.1843, 0.2),
        (66, 0.3426, 0.1754, 0.2),
        (296, 0.6574, 0.1754, 0.2),
        (105, 0.2735, 0.1744, 0.2),
        (334, 0.7265, 0.1744, 0.2),
        (70, 0.1844, 0.2290, 0.2),
        (300, 0.8156, 0.2290, 0.2),
        (129, 0.3802, 0.5108, 0.6),
        (358, 0.6198, 0.5108, 0.6),
        (98, 0.4002, 0.5476, 0.6),
        (327, 0.5998, 0.5476, 0.6),
        (117, 0.2073, 0.4043, 0.5),
        (346, 0.7927, 0.4043, 0.5),
        (50, 0.2274, 0.4910, 0.3),
        (280, 0.7726, 0.4910, 0.3),
        (61, 0.3503, 0.6801, 0.2),
        (291, 0.6497, 0.6801, 0.2),
    ]
)
#: The middle of the head with its hair, and the side of the square that holds it from any side, in the template's units
#: but about its middle; z is away from the viewer. By anthropometry's means (chin to vertex 1.2, nose to occiput 1.2),
#: and the eye's judgement of hair.
_HEAD_CENTRE, _HEAD_SIDE = (0.0, -0.16, 0.42), 1.5

_INDICES = _ANCHORS[:, 0].astype(np.intp)
_TEMPLATE = _ANCHORS[:, 1:3]
_WEIGHTS = _ANCHORS[:, 3]


def umeyama(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """The similarity (rotation, uniform scale, shift; never a mirroring) that takes `source` to `target` best.

    Least squares as in S. Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", IEEE PAMI 13 (1991), equations 40 to 42; in the plane the best proper rotation has this closed form.

    Args:
        source: (N, 2) points, at least two of which differ.
        target: (N, 2) points.
        weights: (N,) how much each pair counts, not negative; equal by default.

    Returns:
        source_to_target, (2, 3) float64.

    Raises:
        ValueError: the points do not determine a similarity.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    centre_a, centre_b = w @ a, w @ b
    # What rounding leaves of points that are one and the same.
    nothing_a, nothing_b = (1e-12 * float(np.abs(points).max()) for points in (a, b))
    a, b = a - centre_a, b - centre_b
    spread = float(w @ (a * a).sum(1))
    if not spread > nothing_a**2:
        raise ValueError("the source points are one point; no similarity is determined")
    cosine = float(w @ (a * b).sum(1)) / spread
    sine = float(w @ (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])) / spread
    if not math.hypot(cosine, sine) * math.sqrt(spread) > nothing_b:
        raise ValueError("the target points are one point or an exact mirror image; no similarity is determined")
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([linear, centre_b - linear @ centre_a])


def stored_to_upright(
    display_matrix: Sequence[int] | None,
    width: int,
    height: int,
    sample_aspect_ratio: Fraction | float = 1,
) -> tuple[Array, tuple[int, int]]:
    """How the stored picture has to be turned, mirrored and stretched to be seen as its maker meant it.

    Args:
        display_matrix: the container's nine integers, row by row (16.16 fixed point, the last column 2.30), as in
            ISO/IEC 14496-12, 6.2.2: (x', y') = (a x + c y, b x + d y). None, or one that flattens, means identity.
            Its scale and shift are ignored, as players do: only rotation and mirroring count.
        width: of the stored picture, in px.
        height: of the stored picture, in px.
        sample_aspect_ratio: width over height of one stored px; the shorter side is stretched, nothing shrinks.

    Returns:
        stored_to_upright (2, 3) float64, and the upright picture's (width, height). Multiples of 90 degrees with
        square px take pixel centres to pixel centres exactly.
    """
    linear = _orthogonal(display_matrix) @ _stretch(float(sample_aspect_ratio))
    edges = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [-0.5, height - 0.5], [width - 0.5, height - 0.5]]) @ linear.T
    low, high = edges.min(0), edges.max(0)
    upright_width, upright_height = (max(1, round(side)) for side in high - low)
    return np.column_stack([linear, -0.5 - low]), (upright_width, upright_height)


def _orthogonal(display_matrix: Sequence[int] | None) -> Array:
    """(2, 2): the rotation or mirroring nearest to the display matrix, exact for multiples of 90 degrees."""
    if display_matrix is None:
        return np.eye(2)
    a, b, _, c, d, *_ = (entry / 65536 for entry in display_matrix)
    left, stretch, right = np.linalg.svd(np.array([[a, c], [b, d]]))
    if stretch[1] < 1e-3 * max(stretch[0], 1e-3):
        return np.eye(2)
    turn: Array = left @ right
    snapped = np.round(turn)
    return snapped if np.abs(turn - snapped).max() < 1e-3 else turn


def _stretch(sample_aspect_ratio: float) -> Array:
    ratio = sample_aspect_ratio if sample_aspect_ratio > 0 else 1.0
    return np.diag([max(ratio, 1.0), max(1.0 / ratio, 1.0)])


def invert(matrix: Array) -> Array:
    """b_to_a from a_to_b. Raises ValueError where it flattens the plane."""
    (a, b, x), (c, d, y) = matrix.tolist()
    determinant = a * d - b * c
    if determinant == 0.0:
        raise ValueError("a map that flattens the plane has no inverse")
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    return np.array([[a, b, -(a * x + b * y)], [c, d, -(c * x + d * y)]])


def density(matrix: Array) -> float:
    """How many px of the target one px of the source becomes, along a side (the root of the area's growth)."""
    (a, b, _), (c, d, _) = matrix.tolist()
    return math.sqrt(abs(a * d - b * c))


def compose(second: Array, first: Array) -> Array:
    """a_to_c from b_to_c (`second`) and a_to_b (`first`)."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def apply(matrix: Array, points: ArrayLike) -> Array:
    """(..., 2) points, mapped; (..., 2) float64."""
    moved: Array = np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved


def scaling(factor_x: float, factor_y: float) -> Array:
    """The map of a picture onto its resized copy: edges go to edges, so centres shift by half a px."""
    return np.array([[factor_x, 0.0, 0.5 * factor_x - 0.5], [0.0, factor_y, 0.5 * factor_y - 0.5]])


def rescale_crop(frame_to_crop: Array, size_from: int, size_to: int) -> Array:
    """The map to the same square at another resolution: from a crop of `size_from` px to one of `size_to` px."""
    factor = size_to / size_from
    return compose(scaling(factor, factor), frame_to_crop)


def crop_matrix(landmarks_upright: ArrayLike, size: int, coverage: float = 1.0, crop: str = "face") -> Array:
    """Where a face's crop lies.

    Args:
        landmarks_upright: (478, 2) or (468, 2) px of the upright picture, MediaPipe's face mesh order.
        size: the crop's side in px.
        coverage: how much is seen: 1 is the square from hair line to chin with small margins, or with `crop` "head"
            the whole head with its hair; c is c times as wide and high about the same centre.
        crop: a name in CROPS: "face" or "head".

    Returns:
        upright_to_crop, (2, 3) float64; upright, never mirrored.

    Raises:
        ValueError: the landmarks fall together.
    """
    return CROPS[crop](np.asarray(landmarks_upright, np.float64), size, coverage)


def _face_matrix(landmarks: Array, size: int, coverage: float) -> Array:
    """The similarity of the steady landmarks to a fixed template."""
    target = ((_TEMPLATE - 0.5) / coverage + 0.5) * size - 0.5
    return umeyama(landmarks[_INDICES], target, _WEIGHTS)


def _head_matrix(landmarks: Array, size: int, coverage: float) -> Array:
    """The square about the middle of the skull, where the head's pose has it: behind the face, so beside a profile.

    The head's size, unlike the face's, is the same from all sides; so is the square's.
    """
    found = pose.estimate(landmarks)
    x, y = found.seen(_HEAD_CENTRE).tolist()
    return square_matrix((x, y), _HEAD_SIDE * coverage * found.scale, math.radians(found.roll), size)


#: What a crop's square can be centred on.
CROPS: dict[str, Callable[[Array, int, float], Array]] = {"face": _face_matrix, "head": _head_matrix}


def square_matrix(centre: tuple[float, float], side: float, roll: float, size: int) -> Array:
    """The map of a turned square of the picture onto a crop of its own.

    Args:
        centre: of the square, in px.
        side: of the square, in px.
        roll: by how much the square is turned, in radians, clockwise as seen.
        size: the crop's side in px.
    """
    cosine, sine = math.cos(roll) * size / side, math.sin(roll) * size / side
    linear = np.array([[cosine, sine], [-sine, cosine]])
    return np.column_stack([linear, (size - 1) / 2 - linear @ np.asarray(centre, np.float64)])
