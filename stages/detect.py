"""Detect: every face in the frame, with its 478 landmarks, each frame on its own."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from pipeline.errors import ConfigError
from pipeline.types import Array, Clip, Face, Frame, Frames, Picture, Report
from stages.colour import small_rgb
from stages.crop import cut_out, warp
from stages.geometry import apply, compose, density, invert, scaling, square_matrix, stored_to_upright
from stages.landmarker import LEFT_EYE, RIGHT_EYE, Detection, FaceFinder, MediaPipeFinder

#: The mesh wants its face in the middle of a square half as large again.
_MARGIN = 1.5
#: How much larger a mesh is than the detector's box, on average.
_MESH_TO_BOX = 1.08
#: A mesh at least so sure of its face gains nothing from being fitted again in nearly the same square.
_SURE = 0.9
#: Above this share of the smaller face, two overlapping faces are one face found twice.
_SAME_FACE = 0.5


@dataclass(frozen=True, slots=True)
class Config:
    """What counts as a face.

    Attributes:
        max_side: the picture is searched at this size (its longer side, in px); landmarks are found at full size.
        min_score: how sure detector and mesh must be together, 0.25..1. `align` asks for more before it starts to
            follow a face, so that faint sightings prolong a face's track but never begin one.
        min_mesh_score: how sure the mesh alone must be, 0..1; prints, fists and backs of heads fail here.
        min_face_px: faces whose longer side is smaller, in px of the stored picture, are left alone.
        max_faces: the surest so many faces of a frame are kept.
        passes: how often the mesh is fitted at most, each time about the last one's result; it takes a second pass
            where the detector saw the face's place, size or turn too coarsely.
    """

    max_side: int = 640
    min_score: float = 0.35
    min_mesh_score: float = 0.5
    min_face_px: int = 24
    max_faces: int = 8
    passes: int = 2

    def __post_init__(self) -> None:
        if not 128 <= self.max_side <= 8192:
            raise ConfigError(f"detect.max_side must be from 128 to 8192 px, not {self.max_side}")
        if not 0.25 <= self.min_score <= 1:
            raise ConfigError(f"detect.min_score must be from 0.25 to 1, not {self.min_score}")
        if not 0 <= self.min_mesh_score <= 1:
            raise ConfigError(f"detect.min_mesh_score must be from 0 to 1, not {self.min_mesh_score}")
        if not 1 <= self.max_faces <= 64:
            raise ConfigError(f"detect.max_faces must be from 1 to 64, not {self.max_faces}")
        if self.min_face_px < 1 or not 1 <= self.passes <= 4:
            raise ConfigError("detect.min_face_px must be at least 1 and detect.passes from 1 to 4")


class Detect:
    """Fills `Frame.faces`, the surest first; reports how many faces there were and how many frames had none."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"landmarks"})
    stateless: ClassVar[bool] = True

    def __init__(self, config: Config, finder: FaceFinder | None = None) -> None:
        self._config = config
        self._finder = finder or MediaPipeFinder()

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        found = without = 0
        for frame in frames:
            faces = tuple(_in_slot(face, frame) for face in self.faces(clip, frame.picture))
            found += len(faces)
            without += not faces
            yield frame.with_(faces=faces)
        return {"faces": found, "frames_without_faces": without}

    def faces(self, clip: Clip, picture: Picture) -> list[Face]:
        """The faces of one picture of the clip, the surest first, each once."""
        view = _View.of(clip, picture, self._config.max_side)
        faces = []
        for detection in self._finder.find(view.small, self._config.min_score)[: 2 * self._config.max_faces]:
            face = self._meshed(view, detection)
            if face is not None:
                faces.append(face)
        return distinct(faces)[: self._config.max_faces]

    def _meshed(self, view: _View, detection: Detection) -> Face | None:
        """The face there, or None where it is too small, too faint, or none."""
        square = _Square.about(detection, view.small_to_upright)
        size = self._finder.crop_size
        for _ in range(self._config.passes):
            if square.side < self._config.min_face_px / 2:
                return None
            upright_to_crop = square_matrix(square.centre, square.side * _MARGIN, square.roll, size)
            mesh = self._finder.landmarks(view.crop(upright_to_crop, size))
            points = apply(invert(upright_to_crop), mesh.landmarks)
            before, square = square, _Square.around(points)
            if square.is_near(before) and mesh.score >= _SURE:
                break
        # Rounded here as they are on the way to another process, so that nothing hangs on who shares one.
        landmarks = apply(invert(view.stored_to_upright), points).astype(np.float32)
        low, high = landmarks.min(0), landmarks.max(0)
        score = float(np.float32(detection.score * mesh.score))
        if mesh.score < self._config.min_mesh_score or score < self._config.min_score:
            return None
        if max(high - low) < self._config.min_face_px or not _touches(low, high, view.picture):
            return None
        return Face((*low.tolist(), *high.tolist()), score, landmarks)


@dataclass(frozen=True, slots=True)
class _Square:
    """The square about a face, turned with it; px and radians in the upright picture."""

    centre: tuple[float, float]
    side: float
    roll: float

    @staticmethod
    def about(detection: Detection, small_to_upright: Array) -> _Square:
        x0, y0, x1, y1 = detection.box
        side = max(x1 - x0, y1 - y0) * _MESH_TO_BOX
        x, y = apply(small_to_upright, [(x0 + x1) / 2, (y0 + y1) / 2]).tolist()
        return _Square((x, y), side * density(small_to_upright), detection.roll)

    @staticmethod
    def around(landmarks: Array) -> _Square:
        """About (478, 2) landmarks; the line through the eyes is its horizontal."""
        line = landmarks[LEFT_EYE] - landmarks[RIGHT_EYE]
        roll = math.atan2(line[1], line[0])
        axes = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
        turned = landmarks @ axes.T
        low, high = turned.min(0), turned.max(0)
        x, y = ((low + high) / 2 @ axes).tolist()
        return _Square((x, y), float(max(high - low)), roll)

    def is_near(self, other: _Square) -> bool:
        """Whether a mesh fitted in the one would be as good in the other: measured, it moves by less than 1 %."""
        turn = abs(math.remainder(self.roll - other.roll, math.tau))
        growth = abs(math.log(max(self.side, 1e-6) / other.side))
        return math.dist(self.centre, other.centre) < 0.08 * other.side and growth < 0.1 and turn < 0.1


@dataclass(frozen=True, slots=True)
class _View:
    """A picture as it is searched: `small` is upright (h, w, 3) uint8 RGB."""

    clip: Clip
    picture: Picture
    stored_to_upright: Array
    small: Array
    small_to_upright: Array

    @staticmethod
    def of(clip: Clip, picture: Picture, max_side: int) -> _View:
        matrix, aspect = clip.display_matrix, clip.sample_aspect_ratio
        stored, _ = small_rgb(picture, clip.colour, max_side)
        height, width = stored.shape[:2]
        to_upright, _ = stored_to_upright(matrix, picture.width, picture.height, aspect)
        turn, size = stored_to_upright(matrix, width, height, aspect)
        plain = np.array_equal(turn, np.eye(2, 3))
        small = stored if plain else cv2.warpAffine(stored, turn, size, borderMode=cv2.BORDER_REPLICATE)
        shrink = scaling(width / picture.width, height / picture.height)
        return _View(clip, picture, to_upright, small, compose(to_upright, invert(compose(turn, shrink))))

    def crop(self, upright_to_crop: Array, size: int) -> Array:
        """(size, size, 3) uint8 RGB; from the small picture where that is fine enough, else from the full one."""
        small_to_crop = compose(upright_to_crop, self.small_to_upright)
        if density(small_to_crop) <= 1.0:
            return warp(self.small, small_to_crop, size)
        return cut_out(self.picture, self.clip.colour, compose(upright_to_crop, self.stored_to_upright), size)


def distinct(faces: list[Face]) -> list[Face]:
    """The faces, the surest first, without those that lie for the most part over a surer one."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(_overlap(face.box, other.box) < _SAME_FACE for other in kept):
            kept.append(face)
    return kept


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Shared area as a share of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0.0) * max(height, 0.0) / max(smaller, 1e-9)


def _touches(low: Array, high: Array, picture: Picture) -> bool:
    return bool((high > 0).all() and low[0] < picture.width - 1 and low[1] < picture.height - 1)


def _in_slot(face: Face, frame: Frame) -> Face:
    landmarks = frame.allocate(face.landmarks.shape, np.float32)
    landmarks[:] = face.landmarks
    return face.with_(landmarks=landmarks)
