"""Landmarks on crops that are cut out already: what the trainer's judgement of expression stands on."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.landmarker import FaceFinder

#: The mesh wants the face to fill two thirds of its square; in a crop of coverage 1 it fills nearly all of it.
_ROOM = 1.5
_MIN_SCORE = 0.5


class CropLandmarks:
    """Finds the landmarks of the one upright face in each of some crops."""

    def __init__(self, finder: FaceFinder, coverage: float) -> None:
        """`coverage` is the crops': their side against the face's own."""
        self._finder = finder
        self._room = max(1.0, _ROOM / coverage)

    def __call__(self, crops: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32] | None]:
        """Crops (S, S, 3) uint8 RGB to landmarks (478, 2) float32 px of the crop, None where no face is seen."""
        return [self._of(crop) for crop in crops]

    def _of(self, crop: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        side = crop.shape[0]
        edge = round((self._room - 1) * side / 2)
        wide = cv2.copyMakeBorder(crop, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        size = self._finder.crop_size
        factor = size / wide.shape[0]
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        mesh = self._finder.landmarks(np.asarray(cv2.resize(wide, (size, size), interpolation=method)))
        if mesh.score < _MIN_SCORE:
            return None
        return np.asarray((mesh.landmarks + 0.5) / factor - 0.5 - edge, np.float32)
