"""One person's faces as training draws from them: decoded in memory, or decoded as they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.faceset import FaceRecord, FaceSet
from pipeline.errors import InputError

# MediaPipe's face mesh: the rings of both eyes, and the outer lips.
_RIGHT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
_LEFT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
_MOUTH = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)

#: Planes of a face: RGB, and where the face, its eyes and its mouth are.
PLANES = 6

_SPARE = 1.25  # resolution kept beyond the model's own: zooming in and turning shall not blur
_THREADS = 4
_SHIFT = 4  # bits of the places between px that OpenCV draws at
_FAR = 4.0  # landmarks farther from the crop's middle than this (its edge is at 1) are drawn there


@dataclass(frozen=True, slots=True)
class Faces:
    """Decoded faces.

    Attributes:
        pictures: (N, S, S, 6) uint8: RGB, then antialiased masks (255 is inside) of the face, its eyes and its mouth.
            Without landmarks the last two are empty.
        landmarks: (N, 478, 2) float32 in -1..1 of the crop, edge to edge (grid_sample's convention), NaN where
            a face's are unknown; None where all are.
        reach: the model's square against the crop's side; 1 where they are the same.
        junk: files that could not be read, one sentence each.
        passed_over: how many faces there was no room for.
    """

    pictures: Tensor
    landmarks: Tensor | None
    reach: float
    junk: tuple[str, ...] = ()
    passed_over: int = 0

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def device(self) -> torch.device:
        """Where `take` gives its faces."""
        return self.pictures.device

    def take(self, chosen: Tensor) -> Tensor:
        """The faces at the (n,) places `chosen`: (n, S, S, 6) uint8, as in `pictures`."""
        return self.pictures[chosen.to(self.pictures.device)]

    def to(self, device: torch.device | str) -> Faces:
        """The same faces in the device's memory."""
        landmarks = None if self.landmarks is None else self.landmarks.to(device)
        return replace(self, pictures=self.pictures.to(device), landmarks=landmarks)


class StreamedFaces:
    """Faces that do not all fit into memory: each is decoded when it is asked for, and kept while there is room.

    What crosses to another process is paths and landmarks; the copy there begins with nothing kept.

    Attributes:
        side: px of the decoded faces' sides.
        memory_mb: MiB that decoded faces may take in each process.
        landmarks, reach, junk, passed_over, device: as in `Faces`.
    """

    passed_over = 0

    def __init__(
        self, source: FaceSet, places: Tensor, side: int, reach: float, memory_mb: float, device: str = "cpu"
    ) -> None:
        """`places` are all faces' landmarks as in `Faces`, (N, 478, 2), with NaN where they are unknown."""
        self._source = replace(source, faces=tuple(replace(face, landmarks=None) for face in source.faces))
        self._places = places
        self.side = side
        self.reach = reach
        self.junk = source.junk
        self.memory_mb = memory_mb
        self.device = torch.device(device)
        self.landmarks: Tensor | None = None if bool(places.isnan().all()) else places.to(self.device)
        self._room = max(1, int(memory_mb * 2**20 / (side * side * PLANES)))
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._source.faces)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self._source, self._places, self.side, self.reach, self.memory_mb, str(self.device))
        return StreamedFaces, parts

    def take(self, chosen: Tensor) -> Tensor:
        """The faces at the (n,) places `chosen`: (n, S, S, 6) uint8; threads may ask at the same time.

        Raises:
            InputError: a face can no longer be read.
        """
        out = np.empty((len(chosen), self.side, self.side, PLANES), np.uint8)
        for row, place in enumerate(chosen.tolist()):
            out[row] = self._face(place)
        return torch.from_numpy(out).to(self.device)

    def to(self, device: torch.device | str) -> StreamedFaces:
        """The same faces, which are decoded in the computer's memory and given in the device's."""
        return StreamedFaces(self._source, self._places, self.side, self.reach, self.memory_mb, str(device))

    def within(self, memory_mb: float) -> StreamedFaces:
        """The same faces with another bound: several processes share one among them."""
        return StreamedFaces(self._source, self._places, self.side, self.reach, memory_mb, str(self.device))

    def _face(self, place: int) -> NDArray[np.uint8]:
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        places = self._places[place].numpy()
        face = decoded(self._source, self._source.faces[place], None if np.isnan(places).any() else places, self.side)
        with self._lock:
            self._kept[place] = face
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return face


AnyFaces = Faces | StreamedFaces


def load(faces: FaceSet, size: int, coverage: float, memory_mb: float, crop: str = "face") -> AnyFaces:
    """The set's faces for a model of `size` px at `coverage` that sees "face" or "head" crops.

    Every file is decoded once, so that junk is known before the training starts; what fits into `memory_mb` MiB
    stays decoded, a larger set is streamed.

    Raises:
        InputError: no face can be read, or the crops show too little or something else than the model sees.
    """
    reach = _reach(faces, coverage, crop)
    side = min(faces.size, 8 * int(np.ceil(size / reach * _SPARE / 8)))
    count = len(faces.faces)
    fits = count * side * side * PLANES <= memory_mb * 2**20
    places = np.array([_normalised(face, faces.size) for face in faces.faces], np.float32).reshape(count, 478, 2)
    pictures = np.empty((count if fits else 0, side, side, PLANES), np.uint8)
    junk: list[str] = list(faces.junk)
    sound: list[int] = []
    for place, found in enumerate(_all_decoded(faces, places, side)):
        if isinstance(found, str):
            junk.append(found)
            continue
        if fits:
            pictures[len(sound)] = found
        sound.append(place)
    if not sound:
        raise InputError(f"the face set {faces.folder} holds no face that can be read ({(junk or ['it is empty'])[0]})")
    known = torch.from_numpy(places[sound])
    if fits:
        landmarks = None if known.isnan().all() else known
        return Faces(torch.from_numpy(pictures[: len(sound)]), landmarks, reach, tuple(junk))
    kept = replace(faces, faces=tuple(faces.faces[place] for place in sound), junk=tuple(junk))
    return StreamedFaces(kept, known, side, reach, memory_mb)


def _reach(faces: FaceSet, coverage: float, crop: str) -> float:
    if faces.crop != crop:
        raise InputError(
            f"the face set {faces.folder} holds {faces.crop} crops, the model sees {crop} crops; "
            f"extract it with --crop {crop} or train with train.crop {faces.crop}"
        )
    reach = coverage / faces.coverage
    if reach > 1.001:
        raise InputError(
            f"the face set {faces.folder} covers {faces.coverage:g} of a {crop}, the model sees {coverage:g}; "
            "extract it with a larger coverage or train with a smaller one"
        )
    return min(reach, 1.0)


def _normalised(face: FaceRecord, size: int) -> NDArray[np.float32]:
    """(478, 2) landmarks in -1..1, NaN where the face has none."""
    if face.landmarks is None:
        return np.full((478, 2), np.nan, np.float32)
    return np.asarray(np.clip((face.landmarks + 0.5) * (2 / size) - 1, -_FAR, _FAR), np.float32)


def _all_decoded(faces: FaceSet, places: NDArray[np.float32], side: int) -> Iterator[NDArray[np.uint8] | str]:
    """Each face in order as `decoded` gives it, or why it cannot be read."""

    def attempt(place: int) -> NDArray[np.uint8] | str:
        record = faces.faces[place]
        try:
            return decoded(faces, record, None if record.landmarks is None else places[place], side)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(_THREADS) as pool:
        step = 16 * _THREADS  # so many wait at most, however large the set is
        for start in range(0, len(faces.faces), step):
            yield from pool.map(attempt, range(start, min(start + step, len(faces.faces))))


def decoded(faces: FaceSet, face: FaceRecord, landmarks: NDArray[np.float32] | None, side: int) -> NDArray[np.uint8]:
    """A face as it is kept: (side, side, 6) uint8, as in `Faces`; `landmarks` (478, 2) in -1..1 of the crop.

    Where the set has no mask, the landmarks' hull stands for it, without landmarks an ellipse.

    Raises:
        InputError: its crop or its mask cannot be read.
    """
    crop, mask = faces.load(face, side)
    planes = np.zeros((side, side, PLANES), np.uint8)
    planes[:, :, :3] = crop
    places = None if landmarks is None else (landmarks + 1) * (side / 2) - 0.5
    if mask is None:
        mask = _ellipse(side, faces.coverage) if places is None else _filled([places], side, 0)
    planes[:, :, 3] = mask
    if places is not None:
        edge = max(1, side // 24)
        planes[:, :, 4] = _filled([places[list(ring)] for ring in (_RIGHT_EYE, _LEFT_EYE)], side, edge)
        planes[:, :, 5] = _filled([places[list(_MOUTH)]], side, edge)
    return planes


def _filled(parts: list[NDArray[Any]], side: int, edge: int) -> NDArray[np.uint8]:
    """(side, side) uint8: the convex hulls of point sets, with an `edge` px wide line drawn around each."""
    drawn = np.zeros((side, side), np.uint8)
    for points in parts:
        hull = np.rint(cv2.convexHull(np.asarray(points, np.float32)) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillConvexPoly(drawn, hull, (255,), cv2.LINE_AA, _SHIFT)
        if edge:
            cv2.polylines(drawn, [hull], True, (255,), edge, cv2.LINE_AA, _SHIFT)
    return drawn


def _ellipse(side: int, coverage: float) -> NDArray[np.uint8]:
    """Where an upright face is likely to be in a crop of which nothing is known."""
    drawn = np.zeros((side, side), np.uint8)
    middle = (side - 1) / 2
    spot = (round(middle * (1 << _SHIFT)),) * 2
    axes = tuple(round(share * side / max(1.0, coverage) * (1 << _SHIFT)) for share in (0.36, 0.45))
    cv2.ellipse(drawn, spot, axes, 0, 0, 360, (255,), cv2.FILLED, cv2.LINE_AA, _SHIFT)
    return drawn
