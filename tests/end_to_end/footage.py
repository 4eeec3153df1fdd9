"""Clips with a face in them, made of the photograph that scikit-image ships, and a model with random weights.

What the network paints does not matter here: it is a fixed function of the crop that it is shown, which makes it a good
witness of where and how the crop was taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Picture
from tests.clips import MATRICES, make_clip
from tests.consent import consented

#: x0, y0, x1, y1 of the face in the photograph, brow to chin, as parts of its width and height.
FACE = (0.32, 0.11, 0.56, 0.41)


@cache
def photograph() -> Array:
    """The astronaut, (512, 512, 3) uint8 RGB; skips the test where the photograph is not installed."""
    found = find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        pytest.skip("scikit-image, which ships the photograph, is not installed (requirements-dev.lock)")
    file = Path(found.submodule_search_locations[0], "data", "astronaut.png")
    picture: Array = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    return picture


def scene(width: int, height: int, index: int, face: bool = True) -> Array:
    """One upright picture, (height, width, 3) uint8 RGB: the photograph drifting over a soft background."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = np.sin(columns / 37 + index / 5) + np.cos(rows / 23)
    canvas = np.stack([100 + 20 * wave, 120 + 15 * wave, 140 - 10 * wave], -1).astype(np.uint8)
    if face:
        side = int(min(width, height) * 0.9)
        small = cv2.resize(photograph(), (side, side), interpolation=cv2.INTER_AREA)
        x = (width - side) // 2 + round(min(width, height) * 0.03 * np.sin(index / 4))
        y = (height - side) // 2
        canvas[y : y + side, max(0, x) : x + side] = small[:, max(0, -x) :]
    return canvas


def stored(rgb: Array, pixel_format: str) -> Picture:
    """An RGB picture in another pixel format, as FFmpeg converts it."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24").reformat(format=pixel_format)
    layout = PIXEL_FORMATS[pixel_format]
    planes = []
    for plane, shape in zip(frame.planes, layout.shapes(frame.width, frame.height), strict=True):
        row_nbytes = int(np.prod(shape[1:])) * layout.dtype.itemsize
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: shape[0], :row_nbytes]
        planes.append(np.ascontiguousarray(rows).view(layout.dtype).reshape(shape))
    return Picture(layout, frame.width, frame.height, tuple(planes))


def turned(upright: Array, matrix: str) -> Array:
    """What a camera stores whose file says `matrix` (a name in `MATRICES`): the display undone."""
    undo = {
        "90": lambda a: np.rot90(a, 1),
        "180": lambda a: np.rot90(a, 2),
        "270": lambda a: np.rot90(a, -1),
        "mirrored": lambda a: a[:, ::-1],
        "flipped": lambda a: a[::-1],
    }
    return np.ascontiguousarray(undo[matrix](upright))


def film(
    path: Path,
    width: int = 320,
    height: int = 240,
    frames: int = 6,
    pixel_format: str = "yuv420p",
    face: bool = True,
    matrix: str | None = None,
    **more: Any,
) -> Path:
    """Films a scene of `width` x `height` upright px; see `make_clip` for `more`."""
    scenes: Iterator[Array] = (scene(width, height, index, face) for index in range(frames))
    if matrix is not None:
        scenes = (turned(one, matrix) for one in scenes)
        more["display_matrix"] = MATRICES[matrix]
    pictures = [stored(one, pixel_format) for one in scenes]
    return make_clip(path, pixel_format=pixel_format, pictures=pictures, frames=frames, **more)


_SEEN = {
    "90": lambda a: np.rot90(a, -1),
    "180": lambda a: np.rot90(a, 2),
    "270": lambda a: np.rot90(a, 1),
    "mirrored": lambda a: a[:, ::-1],
    "flipped": lambda a: a[::-1],
}


def seen(path: Path, matrix: str | None = None) -> list[Array]:
    """The first planes of a clip's pictures (luma) as a viewer sees them, (H, W)."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            luma = np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)[:, : frame.width]
            found.append((_SEEN[matrix](luma) if matrix else luma).copy())
    return found


def random_model(folder: Path, seed: int = 1) -> Path:
    """A model folder with the smallest architecture and weights that no training has touched."""
    from models import checkpoint
    from models.autoencoders import original

    checkpoint.save(folder, *checkpoint.new("original", original.PRESETS["sketch"], seed=seed))
    return consented(folder)
