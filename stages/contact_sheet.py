"""The contact sheet: moments of a clip before and after, side by side in one small picture."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import InputError, PublishError
from pipeline.types import Array
from stages.viewing import View, views

#: Height of the line of text over each moment, and the space between moments, px.
_CAPTION, _GAP = 18, 8
_PAPER, _INK = (250, 250, 250), (40, 40, 40)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a clip showed `seconds` in: (height, w, 3) uint8 RGB before and after, upright, of one size."""

    seconds: float
    before: Array
    after: Array


def contact_sheet(before: Path, after: Path, target: Path, rows: int = 3, columns: int = 2, height: int = 200) -> None:
    """Writes `rows` x `columns` moments, spread evenly over the two clips, as a PNG.

    Args:
        before: the clip as it was; `after`: the same clip converted, frame for frame.
        target: the picture to write; replaced where it exists.
        height: of each single picture, px.

    Raises:
        InputError: a clip cannot be read, or the two have no frame in common.
        PublishError: the picture cannot be written.
    """
    found = moments(before, after, rows * columns, height)
    if not found:
        raise InputError(f"{before} and {after} have no frame in common, so there is nothing to compare")
    sheet = layout(found, columns)
    done, data = cv2.imencode(".png", sheet[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done, "PNG takes every 8-bit RGB picture"
    try:
        target.write_bytes(data.tobytes())
    except OSError as error:
        raise PublishError(f"{target} could not be written: {(error.strerror or str(error)).lower()}") from error


def moments(before: Path, after: Path, count: int, height: int) -> list[Moment]:
    """Up to `count` moments, spread evenly over the frames that both clips have.

    How many there are is known only at the end: every n-th is kept, and when twice as many as wanted are there, every
    other one is dropped and n doubled.

    Raises:
        InputError: a clip cannot be read.
    """
    kept: list[Moment] = []
    stride = 1
    with closing(views(before)) as first, closing(views(after)) as second:
        for index, (one, other) in enumerate(zip(first, second, strict=False)):
            if index % stride:
                continue
            kept.append(_moment(one, other, height))
            if len(kept) >= 4 * count:
                kept, stride = kept[::2], stride * 2
    if not kept or count < 1:
        return []
    chosen = np.linspace(0, len(kept) - 1, min(count, len(kept))).round().astype(int)
    return [kept[place] for place in chosen]


def _moment(before: View, after: View, height: int) -> Moment:
    one, other = before.upright(height), after.upright(height)
    if other.shape != one.shape:
        other = np.asarray(cv2.resize(other, one.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
    return Moment(before.seconds, one, other)


def layout(found: list[Moment], columns: int) -> Array:
    """(H, W, 3) uint8 RGB: the moments in reading order, captioned."""
    cells = [_cell(moment) for moment in found]
    tall, wide = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (tall + _GAP) + _GAP, columns * (wide + _GAP) + _GAP, 3), _PAPER, np.uint8)
    for place, cell in enumerate(cells):
        y, x = _GAP + place // columns * (tall + _GAP), _GAP + place % columns * (wide + _GAP)
        sheet[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    return sheet


def _cell(moment: Moment) -> Array:
    height, width = moment.before.shape[:2]
    cell = np.full((_CAPTION + height, 2 * width, 3), _PAPER, np.uint8)
    for x, text in ((0, f"before {moment.seconds:.2f} s"), (width, "after")):
        cv2.putText(cell, text, (x + 2, _CAPTION - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
    cell[_CAPTION:, :width], cell[_CAPTION:, width:] = moment.before, moment.after
    return cell
