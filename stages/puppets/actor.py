"""Person B: an actor who never was, sculpted, lit and painted; nobody's likeness."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.puppets import hair, painter
from stages.puppets.painter import Colour, linear, paint
from stages.puppets.portrait import CANVAS_H, CANVAS_W, EYES_AT, Portrait, find_landmarks, mouth_cavity, mouth_lines
from stages.puppets.sculptor import Field, Grid, cast_shadow, curve, head_cover, head_relief, shade

#: The face's width on the canvas, px, and how much larger it is painted than shown.
FACE_WIDTH, OVERSIZE = 196.0, 2
#: The head with its hair and ears on the canvas: x0, y0, x1, y1 px.
HEAD_BOX = (256, 20, 512, 404)


def actor() -> Portrait:
    """Paints him (about two seconds) and finds his landmarks."""
    picture = _picture()
    landmarks = find_landmarks(picture)
    return Portrait(picture, landmarks, _teeth(landmarks))


def _picture() -> NDArray[np.uint8]:
    """(CANVAS_H, CANVAS_W, 3) uint8 RGB. The head is painted oversize, the rest at its own size."""
    rng = np.random.default_rng(7)
    wide = _grid((0, 0, CANVAS_W, CANVAS_H), 1)
    scene = _background(wide, rng)
    torso, torso_cover = _torso_relief(wide)
    head = head_relief(wide)
    everything = np.maximum(np.where(head_cover(wide) > 0.5, head, 0), torso)
    shadow = cast_shadow(wide, everything)
    scene = _over(scene, _torso(wide, torso, shadow, rng), torso_cover)
    scene[_rows(HEAD_BOX), _columns(HEAD_BOX)] = _head(scene[_rows(HEAD_BOX), _columns(HEAD_BOX)], shadow, rng)
    shown = scene / (1 + 0.18 * scene) * 1.12
    bytes_ = np.clip(shown, 0, 1) ** (1 / 2.2) * 255 + rng.normal(0, 1.6, (CANVAS_H, CANVAS_W, 1))
    return np.clip(bytes_, 0, 255).astype(np.uint8)


def _head(behind: Colour, shadow: Field, rng: np.random.Generator) -> Colour:
    """The head over what is behind it, both (h, w, 3) linear light in `HEAD_BOX`."""
    x0, y0, x1, y1 = HEAD_BOX
    near = _grid(HEAD_BOX, OVERSIZE)
    large = ((x1 - x0) * OVERSIZE, (y1 - y0) * OVERSIZE)
    scene = np.asarray(cv2.resize(behind, large, interpolation=cv2.INTER_LINEAR), np.float32)
    cover = head_cover(near)
    relief = head_relief(near)
    shadow = cast_shadow(near, np.where(cover > 0.5, relief, 0))
    skin = painter.skin(near, rng)
    for side in (-1, 1):
        scene = _over(scene, *_ear(near, side, skin))
    scene = _over(scene, _face(near, relief, skin, shadow, rng), cover)
    scene = _over(scene, _crop(near, relief, rng), hair.crop_cover(near))
    return np.asarray(cv2.resize(scene, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA), np.float32)


def _grid(box: tuple[int, int, int, int], oversize: int) -> Grid:
    """Face units over a box (x0, y0, x1, y1) of the canvas, `oversize` samples to a pixel each way."""
    x0, y0, x1, y1 = box
    unit = FACE_WIDTH * oversize
    rows, columns = np.mgrid[0 : (y1 - y0) * oversize, 0 : (x1 - x0) * oversize].astype(np.float32)
    centre = (oversize - 1) / 2
    u = (columns - centre + (x0 - EYES_AT[0]) * oversize) / unit
    v = (rows - centre + (y0 - EYES_AT[1]) * oversize) / unit
    return Grid(u=u.astype(np.float32), v=v.astype(np.float32), unit=unit)


def _rows(box: tuple[int, int, int, int]) -> slice:
    return slice(box[1], box[3])


def _columns(box: tuple[int, int, int, int]) -> slice:
    return slice(box[0], box[2])


def _over(under: Colour, colour: Colour, cover: Field) -> Colour:
    alpha = cover[..., None]
    return np.asarray(under * (1 - alpha) + colour * alpha, np.float32)


def _background(grid: Grid, rng: np.random.Generator) -> Colour:
    """A dim blue room with a few lamps far out of focus."""
    wall = np.empty((*grid.u.shape, 3), np.float32)
    wall[:] = linear((46, 62, 84))
    wall *= (1.0 - 0.22 * grid.u - 0.20 * grid.v)[..., None]
    for _ in range(9):
        u, v, size = rng.uniform(-2, 2), rng.uniform(-1.1, 0.9), rng.uniform(0.10, 0.22)
        disc = np.clip((size - np.hypot(grid.u - u, grid.v - v)) / 0.05, 0, 1)
        wall += disc[..., None] * linear((96, 74, 50)) * rng.uniform(0.3, 0.9)
    return grid.blurred(wall, 0.03)


def _torso_relief(grid: Grid) -> tuple[Field, Field]:
    """Neck and shoulders: height, and cover."""
    neck_half = curve(grid.v, (0.4, 0.7, 1.0, 1.15, 1.3), (0.37, 0.355, 0.37, 0.44, 0.6))
    neck = 0.20 * np.sqrt(np.clip(1 - (grid.u / neck_half) ** 2, 0, 1)) + 0.05
    edge = curve(
        np.abs(grid.u), (0.0, 0.35, 0.5, 0.8, 1.15, 1.35, 1.5, 2.2), (1.0, 1.0, 1.10, 1.24, 1.40, 1.60, 2.0, 3.5)
    )
    below = grid.v - edge
    shoulders = 0.42 * np.sqrt(np.clip(below / 0.9, 0, 1))
    cover = np.maximum(grid.inside(neck_half - np.abs(grid.u)) * (grid.v > 0.3), grid.inside(below))
    return np.maximum(np.where(np.abs(grid.u) < neck_half, neck, 0), shoulders).astype(np.float32), cover


def _torso(grid: Grid, relief: Field, shadow: Field, rng: np.random.Generator) -> Colour:
    """The neck, and a shirt with a round collar."""
    collar = np.hypot(grid.u / 0.50, (grid.v - 0.86) / 0.36) - 1
    shirt = grid.inside(collar * 0.4) * (grid.v > 0.8)
    folds = grid.blurred(rng.standard_normal(grid.u.shape).astype(np.float32), 0.05)
    relief = relief + 0.25 * folds * shirt + 0.02 * np.exp(-(((collar - 0.06) / 0.05) ** 2)) * shirt
    diffuse, _ = shade(grid, grid.blurred(relief, 0.012), shadow, 0.0)
    colour = painter.skin(grid, rng) * np.float32(0.86)
    colour = paint(colour, painter.SHIRT, shirt)
    colour *= (1 - 0.55 * np.exp(-((collar / 0.025) ** 2)) * (grid.v > 0.8))[..., None]
    return colour * diffuse


def _ear(grid: Grid, side: int, skin: Colour) -> tuple[Colour, Field]:
    u, v = grid.u * side - 0.520, grid.v - 0.105
    u = u - 0.10 * -v * 0.8
    outer = 1 - np.hypot(u / 0.072, v / 0.168)
    ring = np.hypot(u / 0.072, v / 0.168)
    relief = 0.05 * np.sqrt(np.clip(outer, 0, 1)) - 0.045 * np.exp(-(np.hypot(u / 0.036, (v + 0.01) / 0.09) ** 2))
    relief += 0.012 * np.exp(-(((ring - 0.82) / 0.10) ** 2)) - 0.010 * np.exp(-(((ring - 0.62) / 0.08) ** 2))
    diffuse, _ = shade(grid, grid.blurred(relief.astype(np.float32), 0.006), np.zeros_like(u), 0.0)
    colour = skin * np.array([0.92, 0.80, 0.76], np.float32)
    hollow = np.exp(-(np.hypot(u / 0.030, (v + 0.005) / 0.07) ** 2))
    colour = paint(colour, (66, 34, 26), 0.6 * hollow)
    return colour * diffuse * np.float32(0.9), grid.inside((outer * 0.08).astype(np.float32))


def _face(grid: Grid, relief: Field, skin: Colour, shadow: Field, rng: np.random.Generator) -> Colour:
    colour = painter.nostrils(grid, skin)
    hairs, stubble = hair.beard(grid, rng)
    colour = hair.cover(colour, stubble, 0.72)
    colour = painter.lips(grid, colour, rng)
    for side in (-1, 1):
        colour = painter.lids(grid, colour, side)
    bristle = (hairs * 0.006 + stubble * 0.006).astype(np.float32)
    diffuse, shine = shade(grid, relief + bristle, shadow, 0.055)
    lit = colour * diffuse + (shine * (1 - 0.8 * stubble))[..., None] * np.array([1.0, 0.96, 0.92], np.float32)
    lit = hair.cover(lit, hairs, 0.92)
    lit = hair.cover(lit, hair.brows(grid, rng), 0.90)
    for side in (-1, 1):
        ball, cover = painter.eyeball(grid, side, rng)
        lit = _over(lit, ball * np.float32(0.95), cover)
        lit = _over(lit, painter.lids(grid, lit, side), 1 - cover)
    return lit


def _crop(grid: Grid, relief: Field, rng: np.random.Generator) -> Colour:
    dark, bright = hair.crop_hairs(grid, rng)
    diffuse, shine = shade(grid, grid.blurred(relief, 0.03) + 0.004 * dark, np.zeros_like(relief), 0.05)
    colour = np.empty((*grid.u.shape, 3), np.float32)
    colour[:] = linear((34, 27, 24))
    colour = paint(colour, (10, 8, 8), 0.7 * dark)
    colour = paint(colour, (78, 62, 52), 0.4 * bright)
    return colour * diffuse * np.float32(1.1) + shine[..., None] * (0.3 + bright)[..., None]


def _teeth(landmarks: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A row of upper teeth behind the closed lips, the dark below them, the tongue."""
    rows, columns = np.mgrid[0:CANVAS_H, 0:CANVAS_W].astype(np.float64)
    top, bottom = mouth_lines(landmarks, columns[0])
    line = (top + bottom) / 2
    middle = float(landmarks[13, 0])
    x = (columns - middle) / 34.0
    edge = line + 7.5 - 3.0 * x**2 - 0.6 * np.abs(np.sin(x * 9.5))
    depth = (rows - edge) / 30.0
    dark = mouth_cavity(depth)
    gap = 1 - 0.35 * np.exp(-((np.sin(x * 9.5) / 0.16) ** 2))
    white = np.array([222.0, 212.0, 194.0]) * (np.clip(1.0 - 0.5 * x**2, 0.2, 1) * gap)[..., None]
    shade_under_lip = np.clip(0.5 + (rows - line) / 7.0, 0.35, 1)[..., None]
    keep = np.clip(0.5 - (rows - edge) / 1.5, 0, 1)[..., None] * (np.abs(x) < 1.3)[..., None]
    return np.clip(white * shade_under_lip * keep + dark * (1 - keep), 0, 255).astype(np.uint8)
