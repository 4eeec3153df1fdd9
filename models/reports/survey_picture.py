"""A survey as a picture: each person's faces where their poses lie, and beside them who was seen from where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models import pictures
from models.durable import replacing
from models.faceset import FaceRecord, FaceSet
from models.reports.survey import CELL, PITCH_CELLS, YAW_CELLS, PersonSurvey, Survey
from pipeline.errors import InputError

FILE = "survey.png"

#: People beyond these are left out.
PEOPLE = 24

_TILE, _GAP, _PAD = 56, 2, 14  # px
_HEAD, _FOOT, _SIDE = 56, 44, 34  # px above, below and to the left of a map
_ACROSS = 3  # panels side by side
_PAPER, _EMPTY, _INK, _FAINT = (24, 24, 24), (38, 38, 38), (235, 235, 235), (150, 150, 150)  # RGB
#: Told apart by the colour-blind too (Okabe and Ito 2008, "Color universal design"): the first's, the second's, both's.
_FIRST, _SECOND, _BOTH = (230, 159, 0), (86, 180, 233), (0, 158, 115)
_SHORT = 18  # letters of a name where there is little room
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_STEP = _TILE + _GAP
_WIDTH, _HEIGHT = _SIDE + YAW_CELLS * _STEP + _PAD, _HEAD + PITCH_CELLS * _STEP + _FOOT

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]


def draw(found: Survey, sets: Mapping[str, FaceSet]) -> Picture:
    """The picture as (H, W, 3) uint8 RGB.

    In each cell of a person's map stand its sharpest face and how many there are; a face turned to the left is on the
    left, one that looks up above. The last map says who was seen from where.

    Args:
        found: what `survey` found in `sets`.
    """
    people = list(found.people)[:PEOPLE]
    colours = [_FIRST, _SECOND] if len(people) == 2 else [_INK] * len(people)
    panels = [_of_one(name, found, sets[name], colour) for name, colour in zip(people, colours, strict=True)]
    posed = {name: found.people[name].cells for name in people if len(found.people[name].poses)}
    if len(posed) == 2:
        panels.append(_of_two(found, posed))
    elif len(posed) > 2:
        panels.append(_of_many(posed))
    return _arranged(panels)


def write(file: Path, picture: Picture) -> Path:
    """Writes an (H, W, 3) uint8 RGB picture as a PNG, whole or not at all. Raises InputError."""
    try:
        with replacing(file) as out:
            out.write(pictures.png(picture))
    except OSError as error:
        raise InputError(f"the survey {file} cannot be written: {error}") from error
    return file


def _of_one(name: str, found: Survey, faces: FaceSet, colour: Colour) -> Picture:
    person = found.people[name]
    panel = _panel(name, colour, _facts(person), _details(person, found.face_px))
    if not len(person.poses):
        _text(panel, (_SIDE, _HEIGHT - _FOOT + 18), "no landmarks, so poses are unknown: some of the faces", _FAINT)
        for number, record in enumerate(_some(faces.faces, PITCH_CELLS * YAW_CELLS)):
            _put(panel, divmod(number, YAW_CELLS), _tile(faces, record))
        return panel
    _axes(panel)
    most = int(person.cells.max())
    for cell, record in _sharpest(person, faces).items():
        _put(panel, cell, _tile(faces, record))
        _count(panel, cell, int(person.cells[cell]), most, colour)
    return panel


def _facts(person: PersonSurvey) -> str:
    sources = "1 source" if person.sources == 1 else f"{person.sources} sources"
    unreadable = f", {person.unreadable} unreadable" if person.unreadable else ""
    return f"{person.faces} faces from {sources}{unreadable}, {person.face_px:.0f} px there (median)"


def _details(person: PersonSurvey, face_px: float) -> str:
    return (
        f"sharpness {person.sharpness:.3g} (median), {person.blurred} blurred, {person.tiny} under {face_px:.0f} px, "
        f"{person.repeated} repeated"
    )


def _sharpest(person: PersonSurvey, faces: FaceSet) -> dict[tuple[int, int], FaceRecord]:
    """The face that stands for each cell."""
    best: dict[tuple[int, int], FaceRecord] = {}
    rows, columns = person.places
    for row, column, place in zip(rows.tolist(), columns.tolist(), person.posed.tolist(), strict=True):
        record = faces.faces[place]
        if (row, column) not in best or record.sharpness > best[row, column].sharpness:
            best[row, column] = record
    return best


def _some(records: tuple[FaceRecord, ...], count: int) -> list[FaceRecord]:
    """At most `count` of them, evenly spaced."""
    count = min(count, len(records))
    return [records[place * len(records) // count] for place in range(count)]


def _of_two(found: Survey, posed: Mapping[str, NDArray[np.intp]]) -> Picture:
    (name_a, first), (name_b, second) = posed.items()
    one, two = name_a[:_SHORT], name_b[:_SHORT]
    panel = _panel(
        "who was seen from where",
        _INK,
        f"{two} was seen about as {one} is in {100 * found.covered(name_a, name_b):.0f} % of {one}'s faces,",
        f"{one} about as {two} in {100 * found.covered(name_b, name_a):.0f} % of {two}'s",
    )
    _axes(panel)
    for cell in np.ndindex(PITCH_CELLS, YAW_CELLS):
        a, b = int(first[cell]), int(second[cell])
        if a or b:
            _fill(panel, cell, _BOTH if a and b else _FIRST if a else _SECOND, [str(a), str(b)])
    _legend(panel, [("both", _BOTH), (f"only {one}", _FIRST), (f"only {two}", _SECOND)])
    return panel


def _of_many(posed: Mapping[str, NDArray[np.intp]]) -> Picture:
    seen = np.sum([cells > 0 for cells in posed.values()], axis=0)
    panel = _panel("how many were seen from where", _INK, f"of {len(posed)} people whose poses are known", "")
    _axes(panel)
    for cell in np.ndindex(PITCH_CELLS, YAW_CELLS):
        if seen[cell]:
            share = (int(seen[cell]) - 1) / (len(posed) - 1)
            mixed = [round((1 - share) * low + share * high) for low, high in zip(_FIRST, _BOTH, strict=True)]
            _fill(panel, cell, (mixed[0], mixed[1], mixed[2]), [str(int(seen[cell]))])
    _legend(panel, [("all", _BOTH), ("one", _FIRST)])
    return panel


def _panel(title: str, colour: Colour, *lines: str) -> Picture:
    panel = np.full((_HEIGHT, _WIDTH, 3), _PAPER, np.uint8)
    _text(panel, (_SIDE, 18), title[:60], colour, 0.55)
    for number, line in enumerate(lines):
        _text(panel, (_SIDE, 34 + 14 * number), line, _FAINT)
    for cell in np.ndindex(PITCH_CELLS, YAW_CELLS):
        _put(panel, cell, np.full((_TILE, _TILE, 3), _EMPTY, np.uint8))
    return panel


def _axes(panel: Picture) -> None:
    _text(panel, (4, _HEAD + 12), "up", _FAINT)
    _text(panel, (4, _HEIGHT - _FOOT - 6), "down", _FAINT)
    for row in range(PITCH_CELLS):
        degrees = round((PITCH_CELLS // 2 - row) * CELL)
        _text(panel, (4, _corner((row, 0))[1] + _TILE // 2 + 4), f"{degrees:+d}" if degrees else "0", _FAINT)
    for column in range(YAW_CELLS):
        degrees = round((column - YAW_CELLS // 2) * CELL)
        label = f"{degrees:+d}" if degrees else "0"
        _text(panel, (_corner((0, column))[0] + _TILE // 2 - 4 * len(label), _HEIGHT - _FOOT + 14), label, _FAINT)
    _text(panel, (_SIDE, _HEIGHT - _FOOT + 32), "<- turned left", _FAINT)
    _text(panel, (_WIDTH - _PAD - 92, _HEIGHT - _FOOT + 32), "turned right ->", _FAINT)


def _legend(panel: Picture, entries: list[tuple[str, Colour]]) -> None:
    x, y = _SIDE + 130, _HEIGHT - _FOOT + 32
    for name, colour in entries:
        cv2.rectangle(panel, (x, y - 9), (x + 10, y + 1), colour, cv2.FILLED)
        _text(panel, (x + 15, y), name, _INK)
        x += 30 + 7 * len(name)


def _tile(faces: FaceSet, record: FaceRecord) -> Picture:
    """The face alone, of a head crop all of it; empty where it cannot be read."""
    try:
        crop = faces.load(record)[0]
    except InputError:
        return np.full((_TILE, _TILE, 3), _EMPTY, np.uint8)
    edge = round(len(crop) * (1 - 1 / max(1.0, faces.coverage)) / 2)
    middle = crop[edge : len(crop) - edge, edge : len(crop) - edge]
    return np.asarray(cv2.resize(middle, (_TILE, _TILE), interpolation=cv2.INTER_AREA), np.uint8)


def _corner(cell: tuple[int, ...]) -> tuple[int, int]:
    """x and y px of a cell's upper left corner in its panel."""
    return _SIDE + cell[1] * _STEP, _HEAD + cell[0] * _STEP


def _put(panel: Picture, cell: tuple[int, ...], tile: Picture) -> None:
    x, y = _corner(cell)
    panel[y : y + _TILE, x : x + _TILE] = tile


def _fill(panel: Picture, cell: tuple[int, ...], colour: Colour, lines: list[str]) -> None:
    _put(panel, cell, np.full((_TILE, _TILE, 3), colour, np.uint8))
    x, y = _corner(cell)
    top = y + _TILE // 2 + 4 - 8 * (len(lines) - 1)
    for number, line in enumerate(lines):
        _text(panel, (x + _TILE // 2 - 4 * len(line), top + 17 * number), line, _PAPER)


def _count(panel: Picture, cell: tuple[int, ...], count: int, most: int, colour: Colour) -> None:
    """How many faces a tile stands for: in figures, and as a bar along its lower edge."""
    x, y = _corner(cell)
    label = str(count)
    panel[y + _TILE - 15 : y + _TILE - 3, x : x + 4 + 8 * len(label)] //= 3
    _text(panel, (x + 2, y + _TILE - 5), label, _INK)
    length = max(2, round(_TILE * count / most))
    panel[y + _TILE - 3 : y + _TILE, x : x + length] = colour


def _text(panel: Picture, at: tuple[int, int], words: str, colour: Colour, scale: float = 0.4) -> None:
    cv2.putText(panel, words, at, _FONT, scale, colour, 1, cv2.LINE_AA)


def _arranged(panels: list[Picture]) -> Picture:
    across = min(_ACROSS, len(panels))
    blank = np.full((_HEIGHT, _WIDTH, 3), _PAPER, np.uint8)
    rows = [panels[start : start + across] for start in range(0, len(panels), across)]
    rows[-1] = rows[-1] + [blank] * (across - len(rows[-1]))
    return np.vstack([np.hstack(row) for row in rows])
