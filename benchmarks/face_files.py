"""Face sets to train on, made anew for each run: nobody's faces, but files of the size and kind that real ones have."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks.stages import mesh
from models import faceset
from models.faceset import FaceSet, FaceSetWriter

SIZE, COVERAGE = 256, 1.5
_GRAIN = 1.2  # levels: a crop then takes about 60 KiB, as those of real clips do


def written(folder: Path, count: int, seed: int) -> FaceSet:
    """A face set of `count` crops with masks and landmarks in `folder`."""
    chance = np.random.default_rng(seed)
    face = mesh() * (SIZE / COVERAGE) + SIZE / 2
    hull = cv2.convexHull(face.astype(np.float32)).astype(np.int32)
    mask = cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), hull, (255,))
    with FaceSetWriter(folder, SIZE, COVERAGE) as writer:
        for frame in range(count):
            coarse = chance.uniform(0, 255, (16, 16, 3)).astype(np.float32)
            smooth = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
            crop = smooth + chance.normal(0, _GRAIN, smooth.shape)
            moved = face + chance.normal(0, 1, (1, 2))
            writer.add(np.clip(crop, 0, 255).astype(np.uint8), mask, moved, source="made.mp4", frame=frame)
    return faceset.read(folder)
