"""The colours of a person who never was: skin, eyes and lips, laid over the sculptor's shape.

Colours are given as sRGB bytes and mixed as linear light (0 to 1). Same units as in `sculptor`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.puppets.sculptor import Field, Grid, curve, mouth_line

Colour = NDArray[np.float32]

SKIN = (158, 106, 76)
LIP = (136, 70, 62)
HAIR = (14, 11, 10)
IRIS = (70, 42, 22)
SHIRT = (34, 92, 96)

#: The eye: half its width, and v of its lids over its own width (inner corner to outer corner).
EYE_U, EYE_HALF = 0.232, 0.108
_LID_AT = (-1.0, -0.7, -0.3, 0.1, 0.5, 0.8, 1.0)
_UPPER_V = (0.012, -0.018, -0.038, -0.042, -0.032, -0.014, 0.002)
_LOWER_V = (0.012, 0.024, 0.031, 0.033, 0.028, 0.017, 0.002)
IRIS_R, PUPIL_R = 0.046, 0.019


def linear(colour: tuple[int, int, int]) -> Colour:
    """sRGB bytes as linear light (gamma 2.2 is near enough for paint)."""
    return np.asarray((np.array(colour, np.float32) / 255) ** 2.2, np.float32)


def paint(under: Colour, colour: tuple[int, int, int], cover: Field) -> Colour:
    """`under` (H, W, 3) with `colour` over it as far as `cover` (H, W) says."""
    alpha = cover[..., None]
    return np.asarray(under * (1 - alpha) + linear(colour) * alpha, np.float32)


def skin(grid: Grid, rng: np.random.Generator) -> Colour:
    """(H, W, 3) skin: ruddier cheeks and nose, darker lids, blotches, pores and a few freckles."""
    colour = np.empty((*grid.u.shape, 3), np.float32)
    colour[:] = linear(SKIN)
    red = grid.bump(0.3, 0.22, 0.12, 0.1) + grid.bump(-0.3, 0.22, 0.12, 0.1) + 0.8 * grid.bump(0, 0.3, 0.08, 0.06)
    colour *= 1 + red[..., None] * np.array([0.10, -0.04, -0.06], np.float32)
    for side in (-1, 1):
        lids = grid.bump(side * EYE_U, -0.02, 0.12, 0.045) + 0.8 * grid.bump(side * EYE_U, 0.065, 0.10, 0.025)
        colour *= 1 - lids[..., None] * np.array([0.20, 0.24, 0.22], np.float32)
    for reach, depth in ((0.05, 0.05), (0.015, 0.045), (0.005, 0.06)):
        colour *= 1 + depth * _noise(grid, rng, reach)[..., None]
    for _ in range(26):
        u, v = rng.uniform(-0.42, 0.42), rng.uniform(-0.45, 0.5)
        colour *= 1 - rng.uniform(0.06, 0.2) * grid_spot(grid, u, v, rng.uniform(0.003, 0.006))[..., None]
    return colour


def grid_spot(grid: Grid, u: float, v: float, reach: float) -> Field:
    """A small soft dot."""
    return np.exp(-((grid.u - u) ** 2 + (grid.v - v) ** 2) / (2 * reach * reach))


def _noise(grid: Grid, rng: np.random.Generator, reach: float) -> Field:
    """Blotches of about `reach`, mean 0, deviation about 1."""
    step = max(1.0, reach * grid.unit)
    height, width = grid.u.shape
    coarse = rng.standard_normal((int(height / step) + 2, int(width / step) + 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def lips(grid: Grid, colour: Colour, rng: np.random.Generator) -> Colour:
    """Lips closed over the line between them."""
    x = grid.u / 0.215
    middle = mouth_line(grid.u)
    top = middle - 0.046 * np.clip(1 - np.abs(x) ** 1.5, 0, 1) + 0.010 * np.exp(-((x / 0.14) ** 2))
    bottom = middle + 0.072 * np.clip(1 - np.abs(x) ** 2.4, 0, 1)
    cover = np.clip((grid.v - top) / 0.012, 0, 1) * np.clip((bottom - grid.v) / 0.016, 0, 1) * (np.abs(x) < 1)
    colour = paint(colour, LIP, 0.85 * cover)
    wrinkles = _noise(Grid(grid.u, grid.v * 0.1, grid.unit), rng, 0.006)
    colour *= 1 + 0.05 * (cover * wrinkles)[..., None]
    line = np.exp(-(((grid.v - mouth_line(grid.u)) / 0.0062) ** 2) / 2) * np.clip((1.06 - np.abs(x)) / 0.1, 0, 1)
    return paint(colour, (44, 18, 16), 0.92 * line)


def nostrils(grid: Grid, colour: Colour) -> Colour:
    """Two dark openings and the shade under the tip."""
    for side in (-1, 1):
        u = (grid.u - side * 0.062) * side
        slant = grid.v - 0.352 + 0.20 * (u - 0.01)
        hole = np.exp(-((u / 0.026) ** 4) / 2 - ((slant / 0.0105) ** 2) / 2)
        wing = np.exp(-((np.hypot(u - 0.050, (grid.v - 0.312) * 0.9) - 0.054) ** 2) / (2 * 0.007**2)) * (u > 0.055)
        colour = paint(colour, (40, 18, 14), 0.88 * hole)
        colour = paint(colour, (84, 46, 34), 0.5 * wing * np.clip(1 - (grid.v - 0.28) ** 2 / 0.004, 0, 1))
    return colour


def eye_lines(grid: Grid, side: int) -> tuple[Field, Field, Field]:
    """For the eye on `side` (-1 the picture's left): x over its width (-1 inner, 1 outer), v of upper and lower lid."""
    x = (grid.u * side - EYE_U) / EYE_HALF
    return x, curve(x, _LID_AT, _UPPER_V), curve(x, _LID_AT, _LOWER_V)


def eyeball(grid: Grid, side: int, rng: np.random.Generator) -> tuple[Colour, Field]:
    """(H, W, 3) linear light of the eyeball (shaded already), and its cover between the lids."""
    x, upper, lower = eye_lines(grid, side)
    u, v = grid.u - side * EYE_U, grid.v + 0.004
    radius = np.hypot(u, v)
    ball = np.empty((*grid.u.shape, 3), np.float32)
    ball[:] = linear((196, 188, 182))
    ball *= np.clip(1.02 - 0.9 * (u / 0.13) ** 2 - 0.25 * x.clip(-1, 0) ** 2, 0.3, 1)[..., None]
    ball = paint(ball, (176, 104, 92), np.clip((-0.80 - x) * 6, 0, 0.9).astype(np.float32))
    angle = np.arctan2(v, u)
    rays = sum(np.cos(angle * k + rng.uniform(0, 6.3)) / 6 for k in (5, 9, 14, 23, 31))
    iris = linear(IRIS) * (1.0 + 1.1 * rays + 1.0 * np.clip((v + 0.01) / IRIS_R, -0.2, 0.8))[..., None]
    iris = iris * np.clip(1.35 - (radius / IRIS_R) ** 4, 0.15, 1.2)[..., None]
    cover = grid.inside(IRIS_R - radius)[..., None]
    ball = ball * (1 - cover) + iris * cover
    ball = paint(ball, (8, 6, 6), grid.inside(PUPIL_R - radius))
    ball *= np.clip(0.42 + (grid.v - upper) / 0.030, 0.3, 1)[..., None]
    glint = grid_spot(grid, side * EYE_U - 0.015, -0.020, 0.0048)
    ball += np.clip(glint * 1.4, 0, 1)[..., None]
    between = np.minimum(grid.v - upper, lower - grid.v)
    return ball, grid.inside(np.where(np.abs(x) < 1, between, -1.0).astype(np.float32))


def lids(grid: Grid, colour: Colour, side: int) -> Colour:
    """The crease over the eye, the lashes' lines."""
    x, upper, lower = eye_lines(grid, side)
    near = np.clip((1.12 - np.abs(x)) / 0.25, 0, 1)
    crease = np.exp(-(((grid.v - (upper - 0.030 - 0.006 * x)) / 0.0055) ** 2) / 2) * np.clip(
        (1.2 - np.abs(x)) / 0.4, 0, 1
    )
    colour = paint(colour, (62, 34, 24), 0.62 * crease)
    lashes = np.exp(-(((grid.v - upper + 0.002) / (0.0060 + 0.0020 * x.clip(-1, 1))) ** 2) / 2) * near
    colour = paint(colour, (18, 12, 10), 0.93 * lashes)
    rim = np.exp(-(((grid.v - lower - 0.002) / 0.004) ** 2) / 2) * near
    colour = paint(colour, (70, 36, 28), 0.6 * rim)
    bag = np.exp(-(((grid.v - (lower + 0.040)) / 0.007) ** 2) / 2) * np.clip(1 - (x + 0.2) ** 2, 0, 1)
    return paint(colour, (78, 46, 34), 0.30 * bag)
