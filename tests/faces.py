"""Small face sets for tests of training: painted heads that differ in their colour from person to person.

Each has the identity of somebody who was never born (`tests/consent.py`).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from models.faceset import FaceSet, FaceSetWriter, read
from pipeline.types import Array
from tests.consent import synthetic

TINTS = {"a": (220, 60, 60), "b": (60, 90, 220), "c": (70, 200, 80)}

_MESH = np.stack((np.linspace(20, 44, 478), np.linspace(18, 48, 478)), 1)


def head(tint: tuple[int, int, int], place: int) -> tuple[Array, Array]:
    """A crop, (64, 64, 3) uint8 RGB, and its mask, (64, 64) uint8; each `place` looks a little different."""
    crop, mask = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), np.uint8)
    for canvas, colour in ((crop, tint), (mask, (255,))):
        cv2.ellipse(canvas, (32, 32), (18, 22), 8 * np.sin(place * 1.7), 0, 360, colour, cv2.FILLED)
    for x in (25, 39):
        cv2.circle(crop, (round(x + 2 * np.sin(place)), 27), 3, (250, 250, 250), cv2.FILLED)
    return crop, mask


def face_set(folder: Path, person: str, count: int = 6) -> FaceSet:
    """`count` heads of one of `TINTS`, all of the same clip, as `extract` would have written them."""
    with FaceSetWriter(folder, 64, 1.5) as writer:
        for place in range(count):
            mesh = (_MESH + np.sin(place)).astype(np.float32)
            writer.add(*head(TINTS[person], place), mesh, source=f"{person}.mp4", frame=place)
    synthetic(folder, person)
    return read(folder)


def plain_folder(folder: Path, person: str, count: int = 3) -> Path:
    """The same heads as a folder of pictures."""
    folder.mkdir(parents=True)
    for place in range(count):
        cv2.imwrite(str(folder / f"{place}.png"), head(TINTS[person], place)[0][8:56, 8:56, ::-1])
    synthetic(folder, person)
    return folder
