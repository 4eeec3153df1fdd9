"""The preview sheet: for both people, originals, how they are given back, and each as the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models import tensors
from models.train import augment
from models.train.data import Faces
from pipeline.errors import WeightsError

FILE = "preview.png"
ROWS = 6
TILE = 128  # px
_GAP, _TITLE = 4, 28
_PAPER, _INK = (24, 24, 24), (235, 235, 235)


def sheet(model: Any, faces: Mapping[str, Faces], size: int) -> NDArray[np.uint8]:
    """The sheet as (H, W, 3) uint8 RGB: a row a face, for each person original, reconstructed, swapped.

    `model` stays in the mode (train or eval) it is in; `size` is the px it sees.
    """
    columns: list[tuple[str, NDArray[np.uint8]]] = []
    people = list(faces)
    for person in people:
        known = faces[person]
        chosen = torch.linspace(0, len(known) - 1, ROWS).round().long()
        with torch.inference_mode():
            seen = augment.plain(known, chosen, size)
            columns.append((f"{person}: original", tensors.to_bytes(seen)))
            for to in [person, *(other for other in people if other != person)]:
                title = f"{person}: reconstructed" if to == person else f"{person}: as {to}"
                columns.append((title, tensors.to_bytes(model.decode(model.encode(seen), to))))
    return _arranged(columns, per_group=len(columns) // len(people))


def write(file: Path, picture: NDArray[np.uint8]) -> Path:
    """Writes an (H, W, 3) uint8 RGB picture as a PNG, replacing the file at once. Raises WeightsError."""
    done, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done, "PNG takes any 8-bit picture"
    beside = file.with_name(f".{file.name}.part")
    try:
        beside.write_bytes(content.tobytes())
        beside.replace(file)
    except OSError as error:
        raise WeightsError(f"the preview {file} cannot be written: {error}") from error
    return file


def _arranged(columns: list[tuple[str, NDArray[np.uint8]]], per_group: int) -> NDArray[np.uint8]:
    rows = len(columns[0][1])
    step = TILE + _GAP
    groups = len(columns) // per_group
    width = len(columns) * step + (groups - 1) * 4 * _GAP + _GAP
    page = np.full((_TITLE + rows * step + _GAP, width, 3), _PAPER, np.uint8)
    for place, (title, pictures) in enumerate(columns):
        x = _GAP + place * step + (place // per_group) * 4 * _GAP
        cv2.putText(page, title, (x, _TITLE - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
        for row, picture in enumerate(pictures):
            y = _TITLE + row * step
            page[y : y + TILE, x : x + TILE] = cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    return page
