"""Drawn people, told apart by their features alone."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

#: How far the eyes are apart, and the half axes of an eye and of the mouth. a has round eyes far apart and a small
#: mouth; b narrow ones close together, a wide mouth and a heavy brow; c high ones and a long mouth.
_FEATURES = {
    "a": (17, (6, 5), (8, 4)),
    "b": (11, (7, 2), (17, 3)),
    "c": (14, (3, 8), (4, 9)),
}


def face(person: str, seed: int, light: float = 1.0) -> NDArray[np.uint8]:
    """(96, 96, 3) uint8 RGB; skin, hair and background are nobody's own."""
    random = np.random.default_rng(seed)
    crop = np.full((96, 96, 3), random.integers(0, 255, 3), np.uint8)
    shift = random.uniform(-3, 3, 2)
    cv2.ellipse(crop, (48, 48), (34, 44), 0, 0, 360, (200, 160, 130), cv2.FILLED)
    apart, eye, mouth = _FEATURES[person]
    for side in (-1, 1):
        place = (round(48 + side * apart + shift[0]), round(38 + shift[1]))
        cv2.ellipse(crop, place, eye, 0, 0, 360, (40, 30, 30), cv2.FILLED)
        if person == "b":
            cv2.line(crop, (place[0] - 9, place[1] - 8), (place[0] + 9, place[1] - 8), (60, 40, 30), 4)
    opened = mouth[1] + round(random.uniform(0, 3))
    cv2.ellipse(crop, (round(48 + shift[0]), round(68 + shift[1])), (mouth[0], opened), 0, 0, 360, (150, 50, 60), -1)
    noisy = crop * light + random.normal(0, 4, crop.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def people(person: str, first: int, count: int, light: float = 1.0) -> NDArray[np.uint8]:
    """(count, 96, 96, 3) uint8 RGB of one person."""
    return np.stack([face(person, first + i, light) for i in range(count)])
