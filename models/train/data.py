"""One person's faces in memory, as the trainer draws from them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.faceset import FaceRecord, FaceSet
from pipeline.errors import InputError

# What an error in a place costs, relative to the skin of the face. Expression lives in few pixels: eyes and mouth.
BACKGROUND, FEATURES = 0.1, 3.0

# MediaPipe's face mesh: the rings of both eyes, and the outer lips.
_RIGHT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
_LEFT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
_MOUTH = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)

_SPARE = 1.25  # resolution kept beyond the model's own: zooming in and turning shall not blur


@dataclass(frozen=True, slots=True)
class Faces:
    """Decoded faces.

    Attributes:
        pictures: (N, S, S, 4) uint8: RGB, and the weight of an error there (255 stands for `FEATURES`).
        reach: the model's square against the crop's side; 1 where they are the same.
        junk: files that could not be read, one sentence each.
        passed_over: how many faces were left out because of `memory_mb`.
    """

    pictures: Tensor
    reach: float
    junk: tuple[str, ...] = ()
    passed_over: int = 0

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: torch.device) -> Faces:
        """The same faces in the device's memory."""
        return Faces(self.pictures.to(device), self.reach, self.junk, self.passed_over)


def load(faces: FaceSet, size: int, coverage: float, memory_mb: float) -> Faces:
    """Decodes the set's faces for a model of `size` px at `coverage`.

    Raises:
        InputError: no face can be read, or the crops cover less than the model sees.
    """
    reach = coverage / faces.coverage
    if reach > 1.001:
        raise InputError(
            f"the face set {faces.folder} covers {faces.coverage:g} of a face, the model sees {coverage:g}; "
            "extract it with a larger coverage or train with a smaller one"
        )
    side = min(faces.size, 8 * int(np.ceil(size / reach * _SPARE / 8)))
    room = max(1, int(memory_mb * 2**20 / (side * side * 4)))
    chosen = faces.faces
    if len(chosen) > room:
        chosen = tuple(chosen[place * len(chosen) // room] for place in range(room))
    pictures = np.empty((len(chosen), side, side, 4), np.uint8)
    junk: list[str] = list(faces.junk)
    count = 0
    for record in chosen:
        try:
            crop, mask = faces.load(record)
        except InputError as error:
            junk.append(str(error))
            continue
        pictures[count, :, :, :3] = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        pictures[count, :, :, 3] = cv2.resize(
            weights(record, mask, faces.size), (side, side), interpolation=cv2.INTER_AREA
        )
        count += 1
    if not count:
        raise InputError(f"the face set {faces.folder} holds no face that can be read ({junk[0]})")
    left_out = len(faces.faces) - len(chosen)
    return Faces(torch.from_numpy(pictures[:count]), reach, tuple(junk), left_out)


def weights(face: FaceRecord, mask: NDArray[np.uint8] | None, size: int) -> NDArray[np.uint8]:
    """What an error costs, place by place: (size, size) uint8, 255 for `FEATURES`.

    The mask is widened a little, since the other person's face may be wider; without one, an ellipse stands for it.
    """
    if mask is None:
        mask = np.zeros((size, size), np.uint8)
        axes = (int(size * 0.36), int(size * 0.45))
        cv2.ellipse(mask, (size // 2, size // 2), axes, 0, 0, 360, (255,), cv2.FILLED)
    reach = max(3, size // 16) | 1
    wide = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    face_part = cv2.GaussianBlur(wide, (0, 0), size / 64).astype(np.float32) / 255
    weight = BACKGROUND + (1 - BACKGROUND) * face_part
    if face.landmarks is not None:
        features = np.zeros((size, size), np.uint8)
        for ring in (_RIGHT_EYE, _LEFT_EYE, _MOUTH):
            hull = cv2.convexHull(np.rint(face.landmarks[list(ring)]).astype(np.int32))
            cv2.fillConvexPoly(features, hull, (255,))
            cv2.polylines(features, [hull], True, (255,), thickness=max(1, size // 24))
        blurred = cv2.GaussianBlur(features, (0, 0), size / 64).astype(np.float32) / 255
        weight += (FEATURES - weight) * blurred
    return np.asarray(np.rint(weight * (255 / FEATURES)), np.uint8)
