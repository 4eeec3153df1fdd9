"""One face of a face set, and the line of faces.jsonl that describes it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: What the files of a face are called, in crops/ and in masks/.
NAME = re.compile(r"[0-9]{6,12}\.png")

_BOX_DIGITS = 2  # of px


@dataclass(frozen=True, slots=True)
class FaceRecord:
    """One face of a set.

    Attributes:
        crop: its picture; `mask` its mask, None in a plain folder of pictures.
        landmarks: (478, 2) float32 px of the crop, or None.
        source: the file it was cut from; `frame` its index there, `pts` its time in that file's ticks.
        box: x0, y0, x1, y1 in px of that file's picture, or None.
        sharpness: variance of the Laplacian of its luma.
    """

    crop: Path
    mask: Path | None = None
    landmarks: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    source: str = ""
    frame: int = 0
    pts: int = 0
    track: int | None = None
    box: tuple[float, ...] | None = None
    score: float = 1.0
    sharpness: float = 0.0


def identity(source: str, frame: int, box: Sequence[float] | None) -> tuple[str, int, tuple[float, ...] | None]:
    """What tells a face from every other one, to the digits that a line keeps."""
    return source, int(frame), None if box is None else tuple(round(float(v), _BOX_DIGITS) for v in box)


def to_line(face: FaceRecord) -> str:
    """The face as one line of JSON, with its end. Its landmarks must be known."""
    assert face.landmarks is not None, "a plain picture has no line"
    source, frame, box = identity(face.source, face.frame, face.box)
    line = {
        "file": face.crop.name,
        "source": source,
        "frame": frame,
        "pts": int(face.pts),
        "track": None if face.track is None else int(face.track),
        "box": None if box is None else list(box),
        "landmarks": np.asarray(face.landmarks, np.float64).round(2).tolist(),
        "score": round(float(face.score), 4),
        "sharpness": round(face.sharpness, 2),
    }
    return json.dumps(line) + "\n"


def from_line(line: str, folder: Path) -> FaceRecord | str:
    """The face of the set in `folder` that the line describes, or what is wrong with it."""
    try:
        entry = json.loads(line)
        name = entry["file"]
        landmarks = np.asarray(entry["landmarks"], np.float32)
        box = entry["box"] and tuple(float(v) for v in entry["box"])
        numbers = float(entry["score"]), float(entry["sharpness"])
        places = int(entry["frame"]), int(entry["pts"]), str(entry["source"])
        track = None if entry["track"] is None else int(entry["track"])
    except (ValueError, RecursionError, KeyError, TypeError, OverflowError):
        return "is not a face"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return f"{name!r} is not a crop's name"
    if landmarks.shape != (478, 2) or (box and len(box) != 4):
        return "its landmarks or box are not of the right shape"
    if not all(np.isfinite(part).all() for part in (landmarks, numbers, box or ())):
        return "its landmarks, box, score or sharpness are no numbers"
    crop, mask = folder / "crops" / name, folder / "masks" / name
    if not crop.is_file() or not mask.is_file():
        return f"{name} is missing"
    frame, pts, source = places
    return FaceRecord(crop, mask, landmarks, source, frame, pts, track, box or None, *numbers)
