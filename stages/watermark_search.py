"""Where in a plane of what was left of pictures the watermark's field lies: its size, its place, how it is turned.

Coarsely by correlation in the frequency domain, one transform for each size and one for each way of turning it; then
finely, by how well the chips of synchronisation agree with what is read at their places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.types import Array
from stages.watermark_field import SIDE

#: Ways that a picture can be turned and mirrored: quarter turns against the clock, then the same mirrored.
TURNS = 8

#: Samples for each chip in the coarse search.
_COARSE = 2

#: Sizes of the field against that of a whole picture's, and the step between two of them.
_SMALLEST, _SMALLEST_TURNED, _LARGEST, _STEP = 0.55, 0.72, 2.05, 1.005

#: So many places are looked at closely.
BEST = 6

#: What a fine search tries: steps of place (chips) and of size, first wide, then narrow.
_MOVES = (0.5, 0.25, 0.12, 0.06)
_GROWTHS = (0.003, 0.0015, 0.0008, 0.0004)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the field lies in a plane that was turned by `turned(plane, turn)`.

    `across` and `down` are samples for each chip, `x` and `y` where the field's centre is from the plane's, in chips;
    `score` says how well that fits, in standard deviations.
    """

    turn: int
    across: float
    down: float
    x: float
    y: float
    score: float


def turned(plane: Array, turn: int) -> Array:
    """The plane in one of `TURNS` ways."""
    quarters = np.rot90(plane, turn % 4)
    return np.ascontiguousarray(quarters[:, ::-1] if turn >= 4 else quarters)


def places(plane: Array, sync: Array, chip: float, thoroughly: bool) -> list[Place]:
    """The likeliest places of the field in `plane`, the best first.

    `chip` is samples a chip has where the picture is whole. Only this size is tried, or `thoroughly` a range of them;
    always all turns.
    """
    template = np.kron(sync, np.ones((_COARSE, _COARSE), np.float32))
    spectra = [_spectrum(turned(template, (4 - turn) % 4 if turn < 4 else turn)) for turn in range(TURNS)]
    hits = [hit for size in _sizes(thoroughly) for hit in _coarse(plane, spectra, chip * size, size < _SMALLEST_TURNED)]
    best: list[Place] = []
    for hit in sorted(hits, key=lambda hit: -hit.score):
        if len(best) < BEST and not any(_near(hit, other) for other in best):
            best.append(hit)
    return best


def refined(plane: Array, sync: Array, place: Place) -> Place:
    """The place nearby where chips and synchronisation agree best; its score is that of `agreement`."""
    best = replace(place, score=agreement(chips_at(plane, place), sync))
    for move, growth in zip(_MOVES, _GROWTHS, strict=True):
        for tried in _around(best, move, growth):
            score = agreement(chips_at(plane, tried), sync)
            if score > best.score:
                best = replace(tried, score=score)
    return best


def chips_at(plane: Array, place: Place) -> Array:
    """(280, 280) float32: what the (turned, unblurred) plane says at each chip's place; 0 outside it."""
    height, width = plane.shape
    centre = SIDE / 2 - 0.5
    left = (width - 1) / 2 + (place.x - centre) * place.across
    top = (height - 1) / 2 + (place.y - centre) * place.down
    chip_to_plane = np.array([[place.across, 0, left], [0, place.down, top]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(plane, chip_to_plane, (SIDE, SIDE), flags=flags), np.float32)


def agreement(chips: Array, wanted: Array) -> float:
    """The sum of chips times what they should be (+1, -1; 0: does not matter) over its root sum of squares."""
    power = math.sqrt(float(np.vdot(chips * chips, np.abs(wanted))))
    return float(np.vdot(chips, wanted)) / max(1e-12, power)


def blurred(plane: Array, chip: float) -> Array:
    """Each sample the mean of about a chip around it, so that reading one sample reads the chip."""
    window = max(1, 2 * round(chip * 0.75 / 2 - 0.5) + 1)
    return np.asarray(cv2.blur(plane, (window, window)), np.float32)


def _sizes(thoroughly: bool) -> list[float]:
    if not thoroughly:
        return [1.0]
    count = math.ceil(math.log(_LARGEST / _SMALLEST) / math.log(_STEP))
    return [_SMALLEST * _STEP**step for step in range(count + 1)]


def _coarse(plane: Array, spectra: list[Array], chip: float, upright_only: bool) -> Iterator[Place]:
    """The best place for each turn where the field's chips have `chip` samples."""
    height, width = plane.shape
    size = [min(round(one * _COARSE / chip), SIDE * _COARSE * 4) for one in (width, height)]
    small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    canvas, offset = _centred(small)
    spectrum = _spectrum(canvas)
    for turn in range(1 if upright_only else TURNS):
        product = cv2.mulSpectrums(spectrum, spectra[turn], 0, conjB=True)
        map_ = cv2.idft(product, flags=cv2.DFT_REAL_OUTPUT | cv2.DFT_SCALE)
        _, peak, _, (column, row) = cv2.minMaxLoc(map_)
        spread = cv2.norm(map_) / math.sqrt(map_.size) or 1.0
        x, y = (_signed(at) + shift for at, shift in zip((column, row), offset, strict=True))
        x, y = _turned_offset(x / _COARSE, y / _COARSE, turn)
        across, down = width / size[0] * _COARSE, height / size[1] * _COARSE
        if turn % 2:
            across, down = down, across
        yield Place(turn, across, down, x, y, peak / spread)


def _centred(small: Array) -> tuple[Array, tuple[float, float]]:
    """The plane in the middle of a square as large as the template, cut to it; and how far off the middle it is."""
    side = SIDE * _COARSE
    height, width = small.shape
    cut = small[max(0, (height - side) // 2) :, max(0, (width - side) // 2) :][:side, :side]
    canvas = np.zeros((side, side), np.float32)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return canvas, ((side - cut.shape[1]) / 2 - left, (side - cut.shape[0]) / 2 - top)


def _signed(at: int) -> int:
    side = SIDE * _COARSE
    return at - side if at > side // 2 else at


def _spectrum(plane: Array) -> Array:
    return np.asarray(cv2.dft(plane))


def _turned_offset(x: float, y: float, turn: int) -> tuple[float, float]:
    """Where a point at (x, y) from a plane's centre is from the centre of the turned plane."""
    for _ in range(turn % 4):
        x, y = y, -x
    return (-x, y) if turn >= 4 else (x, y)


def _near(one: Place, other: Place) -> bool:
    same = one.turn == other.turn and abs(one.across / other.across - 1) < 0.015
    return same and abs(one.x - other.x) < 3 and abs(one.y - other.y) < 3


def _around(place: Place, move: float, growth: float) -> Iterator[Place]:
    for sign in (-1, 1):
        yield replace(place, x=place.x + sign * move)
        yield replace(place, y=place.y + sign * move)
        yield replace(place, across=place.across * (1 + sign * growth))
        yield replace(place, down=place.down * (1 + sign * growth))
