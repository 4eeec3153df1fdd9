"""A portrait: one frontal picture of a person on a fixed canvas, with the landmarks that a face mesh finds on it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RequirementError
from stages.landmarker import chatter_hidden
from stages.puppets import topology as topo

#: Size of every portrait's canvas, px.
CANVAS_W, CANVAS_H = 768, 576
#: Where the middle between the eyes lies on the canvas, px.
EYES_AT = (384.0, 216.0)


@dataclass(frozen=True, slots=True, repr=False)
class Portrait:
    """What a puppet is cut from.

    Attributes:
        picture: (CANVAS_H, CANVAS_W, 3) uint8 RGB; the face is upright and looks into the camera.
        landmarks: (478, 3) float64; x right, y down, z towards the camera, all in canvas px.
        teeth: (CANVAS_H, CANVAS_W, 3) uint8 RGB, what the lips uncover when they part, where it belongs on the canvas.
    """

    picture: NDArray[np.uint8]
    landmarks: NDArray[np.float64]
    teeth: NDArray[np.uint8]

    @property
    def face_width(self) -> float:
        """From cheek to cheek, px."""
        return float(self.landmarks[topo.LEFT_CHEEK, 0] - self.landmarks[topo.RIGHT_CHEEK, 0])

    @property
    def face_height(self) -> float:
        """From the hairline to the chin, px."""
        return float(self.landmarks[topo.CHIN, 1] - self.landmarks[topo.FOREHEAD, 1])


def find_landmarks(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(478, 3) float64 landmarks of the one face on an RGB picture: px, z towards the camera.

    Raises:
        RequirementError: mediapipe is not installed, or finds no face (a defect of the picture).
    """
    height, width = picture.shape[:2]
    # Not the pipeline's own finder: a portrait needs depth as well, and is looked at once.
    with chatter_hidden():
        try:
            from mediapipe.python.solutions.face_mesh import FaceMesh
        except ImportError as error:
            raise RequirementError(
                f"mediapipe 0.10.21 could not be loaded ({error}); run `understudy doctor` to see what is missing"
            ) from error
        with FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True) as mesh:
            found = mesh.process(picture).multi_face_landmarks
    if not found:
        raise RequirementError("mediapipe finds no face on a puppet's portrait: is this mediapipe 0.10.21?")
    return np.array([(p.x * width, p.y * height, -p.z * width) for p in found[0].landmark], np.float64)


def mouth_lines(
    landmarks: NDArray[np.float64], columns: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """y of the upper and of the lower lip's inner edge at each x of `columns`; beyond the corners both are level."""
    upper = landmarks[list(topo.LIP_INNER_UPPER), :2]
    lower = landmarks[list(topo.LIP_INNER_LOWER), :2]
    top = np.interp(columns, upper[:, 0], upper[:, 1])
    bottom = np.interp(columns, lower[:, 0], lower[:, 1])
    return top, np.maximum(top, bottom)


def astronaut_file() -> Path:
    """The photograph of an astronaut that scikit-image ships (NASA, public domain); scikit-image is not imported.

    Raises:
        RequirementError: it is not there.
    """
    spec = importlib.util.find_spec("skimage")
    path = Path(spec.origin).parent / "data" / "astronaut.png" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise RequirementError(
            "The demo's first person is a photograph shipped by scikit-image, which is not installed: "
            "run `pip install --no-deps scikit-image==0.26.0`."
        )
    return path


def astronaut() -> Portrait:
    """Person A: the astronaut, turned upright and brought to the canvas."""
    with av.open(str(astronaut_file().absolute())) as container:
        photo = np.asarray(next(container.decode(video=0)).to_ndarray(format="rgb24"), np.uint8)
    marks = find_landmarks(photo)
    to_canvas = _upright(marks, face_width=184.0)
    picture = np.asarray(
        cv2.warpAffine(
            photo, to_canvas, (CANVAS_W, CANVAS_H), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        ),
        np.uint8,
    )
    scale = float(np.hypot(to_canvas[0, 0], to_canvas[1, 0]))
    placed = np.column_stack([marks[:, :2] @ to_canvas[:, :2].T + to_canvas[:, 2], marks[:, 2] * scale])
    return Portrait(picture, placed, _teeth_of_smile(picture, placed))


def _upright(marks: NDArray[np.float64], face_width: float) -> NDArray[np.float64]:
    """2x3 similarity that levels the eyes, puts them at `EYES_AT` and makes the face `face_width` px wide."""
    right = marks[list(topo.RIGHT_LID_LOWER), :2].mean(axis=0)
    left = marks[list(topo.LEFT_LID_LOWER), :2].mean(axis=0)
    across = left - right
    angle = np.arctan2(across[1], across[0])
    scale = face_width / np.hypot(*(marks[topo.LEFT_CHEEK, :2] - marks[topo.RIGHT_CHEEK, :2]))
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn, np.array(EYES_AT) - turn @ ((left + right) / 2)])


def _teeth_of_smile(picture: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The smile's own teeth, and under them the dark of the mouth with the tongue in it."""
    rows, columns = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float64)
    top, bottom = mouth_lines(landmarks, columns[0])
    below = rows - (bottom - 2.0)
    dark = mouth_cavity(below / 30.0)
    keep = np.clip(0.5 - below / 2.5, 0, 1)[..., None]
    shade = np.clip(0.45 + (rows - top) / 8.0, 0.3, 1)[..., None]
    return (picture * shade * keep + dark * (1 - keep)).astype(np.uint8)


def mouth_cavity(depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """RGB colour of the mouth's inside, `depth` 0 at the upper teeth's edge and 1 at the lower lip when wide open."""
    tongue = np.clip((depth - 0.25) / 0.6, 0, 1)[..., None]
    return (1 - tongue) * np.array([38.0, 14.0, 14.0]) + tongue * np.array([128.0, 58.0, 56.0])
