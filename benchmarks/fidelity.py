"""P14: outside the face's region the picture that encode gets is the one that decode gave, bit by bit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks.bars import Result
from benchmarks.workshop import Workshop
from pipeline.runner import chain
from pipeline.specs import StageSpec
from pipeline.types import Array, Face, Job, Picture, Source, Stage
from stages.geometry import apply, invert

#: Even, and with H % 4 = 2, where a known shortcut of PyAV mixes up the planes.
_SIZES = ((1280, 720), (1918, 1078), (640, 482))


def untouched(quick: bool, workshop: Workshop) -> Result:
    """Bytes that differ outside the region, over all frames of clips of several sizes."""
    stages = [spec.build() for spec in workshop.chain(preset="sketch")[:-1]]
    decode = StageSpec("decode", "stages.decode:Decode").build()
    facts: dict[str, float | int | str] = {}
    outside = inside = 0
    for width, height in _SIZES[:2] if quick else _SIZES:
        clip = workshop.clip(width, height, 0.5 if quick else 2, "ultrafast")
        there, here = _differences(decode, stages, clip)
        facts[f"changed inside at {width}x{height}"] = here
        outside += there
        inside += here
    unmet = "" if inside else "nothing was blended, so the comparison says nothing"
    return Result("P14", float(outside), facts, unmet=unmet)


def _differences(decode: Stage, stages: list[Stage], source: Path) -> tuple[int, int]:
    """Bytes that differ outside and inside the faces' squares."""
    outside = inside = 0
    for before, after in zip(_frames([decode], source), _frames(stages, source), strict=True):
        region = _region(after.picture, after.faces)
        for place, (was, now) in enumerate(zip(before.picture.planes, after.picture.planes, strict=True)):
            layout = after.picture.format.planes[place]
            step = (1 << layout.log2_h, 1 << layout.log2_w)
            allowed = region[:: step[0], :: step[1]][: was.shape[0], : was.shape[1]]
            differ = was != now
            inside += int(np.count_nonzero(differ & allowed))
            outside += int(np.count_nonzero(differ & ~allowed))
    return outside, inside


def _frames(stages: list[Stage], source: Path):  # type: ignore[no-untyped-def]
    first = stages[0]
    assert isinstance(first, Source)
    return chain(stages, first.open(Job(1, str(source), "")))


def _region(picture: Picture, faces: tuple[Face, ...]) -> Array:
    """(H, W) bool: the squares that the model saw, and three px around them for interpolation and chroma."""
    region = np.zeros((picture.height, picture.width), np.uint8)
    for face in faces:
        if face.frame_to_crop is None or face.aligned is None:
            continue
        side = face.aligned.shape[0]
        square = np.array([(-0.5, -0.5), (side - 0.5, -0.5), (side - 0.5, side - 0.5), (-0.5, side - 0.5)])
        corners = np.round(apply(invert(face.frame_to_crop), square) * 16).astype(np.int32)
        cv2.fillConvexPoly(region, corners, (1,), cv2.LINE_8, 4)
    return cv2.dilate(region, np.ones((7, 7), np.uint8)).astype(bool)
