"""P14 and M4: where a picture that encode gets differs from the one that decode gave.

Without marks nowhere but in the face's region, bit by bit. With them the watermark changes luma, by a stated amount at
most, and the label what lies under it; chroma outside face and label stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.bars import Result
from benchmarks.workshop import Workshop, unmarked
from pipeline.runner import chain
from pipeline.specs import StageSpec
from pipeline.types import Array, Clip, Face, Frame, Job, Picture, Source, Stage
from stages import label, watermark
from stages.geometry import apply, invert

#: Even, and with H % 4 = 2, where a known shortcut of PyAV mixes up the planes.
_SIZES = ((1280, 720), (1918, 1078), (640, 482))


def untouched(quick: bool, workshop: Workshop) -> Result:
    """P14: bytes that differ outside the region, over all frames of clips of several sizes; without marks."""
    stages = [spec.build() for spec in unmarked(workshop.chain(preset="sketch"))[:-1]]
    facts: dict[str, float | int | str] = {}
    outside = inside = 0
    for width, height in _sizes(quick):
        found = _differences(stages, _clip(workshop, width, height, quick), False)
        facts[f"changed inside at {width}x{height}"] = found.inside
        outside += found.luma + found.chroma
        inside += found.inside
    unmet = "" if inside else "nothing was blended, so the comparison says nothing"
    return Result("P14", float(outside), facts, unmet=unmet)


def marked(quick: bool, workshop: Workshop) -> Result:
    """M4: with marks, chroma bytes that differ outside region and label, and luma that does by more than `PEAK`."""
    stages = [spec.build() for spec in workshop.chain(preset="sketch")[:-1]]
    facts: dict[str, float | int | str] = {"peak_levels": watermark.PEAK}
    forbidden = 0
    unmet = ""
    for width, height in _sizes(quick):
        found = _differences(stages, _clip(workshop, width, height, quick), True)
        facts[f"most levels at {width}x{height}"] = found.most
        facts[f"luma changed at {width}x{height}, %"] = 100 * found.luma / found.samples
        forbidden += found.chroma + found.beyond
        if not (found.luma and found.labelled):
            unmet = "nothing was marked, so the comparison says nothing"
    return Result("M4", float(forbidden), facts, unmet=unmet)


def _sizes(quick: bool) -> tuple[tuple[int, int], ...]:
    return _SIZES[:2] if quick else _SIZES


def _clip(workshop: Workshop, width: int, height: int, quick: bool) -> Path:
    return workshop.clip(width, height, 0.5 if quick else 2, "ultrafast")


@dataclass(slots=True)
class _Found:
    """How many samples differ: inside the faces' squares; under the label; elsewhere, of luma and of chroma.

    `beyond` is how many of that luma differ by more than a watermark may, `most` by how many levels the most do,
    `samples` how many luma samples there are elsewhere.
    """

    inside: int = 0
    labelled: int = 0
    luma: int = 0
    chroma: int = 0
    beyond: int = 0
    most: int = 0
    samples: int = 0


def _differences(stages: list[Stage], source: Path, with_label: bool) -> _Found:
    """All frames of a clip behind the stages against decode's."""
    found = _Found()
    decode = StageSpec("decode", "stages.decode:Decode").build()
    clip, frames = _opened(stages, source)
    words = _labelled(clip) if with_label else None
    for before, after in zip(_opened([decode], source)[1], frames, strict=True):
        region = _region(after.picture, after.faces)
        for place, (was, now) in enumerate(zip(before.picture.planes, after.picture.planes, strict=True)):
            layout = after.picture.format.planes[place]
            step = (1 << layout.log2_h, 1 << layout.log2_w)
            allowed = region[:: step[0], :: step[1]][: was.shape[0], : was.shape[1]]
            under = np.zeros_like(allowed) if words is None else words[place]
            _add(found, was, now, allowed, under, place == 0)
    return found


def _add(found: _Found, was: Array, now: Array, allowed: Array, under: Array, is_luma: bool) -> None:
    differ = was != now
    found.inside += int(np.count_nonzero(differ & allowed))
    found.labelled += int(np.count_nonzero(differ & under & ~allowed))
    elsewhere = ~allowed & ~under
    count = int(np.count_nonzero(differ & elsewhere))
    if not is_luma:
        found.chroma += count
        return
    levels = cv2.absdiff(was, now)[elsewhere]
    found.luma += count
    found.beyond += int(np.count_nonzero(levels > watermark.PEAK))
    found.most = max(found.most, int(levels.max(initial=0)))
    found.samples += levels.size


def _labelled(clip: Clip) -> list[Array]:
    """For each plane, (H, W) bool: what the label covers, which is what it changes on black or on white."""
    words = label.Label(label.Config(), clip)
    covered = [np.zeros(0, bool)] * len(clip.pixel_format.planes)
    for level in (0, 255):
        shapes = clip.pixel_format.shapes(clip.width, clip.height)
        planes = tuple(np.full(shape, level, np.uint8) for shape in shapes)
        words.draw(Picture(clip.pixel_format, clip.width, clip.height, planes), 0.0)
        changed = [plane != level for plane in planes]
        covered = [now | before if before.size else now for before, now in zip(covered, changed, strict=True)]
    return covered


def _opened(stages: list[Stage], source: Path) -> tuple[Clip, Iterator[Frame]]:
    first = stages[0]
    assert isinstance(first, Source)
    clip = first.open(Job(1, str(source), ""))
    return clip, chain(stages, clip)


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
