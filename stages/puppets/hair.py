"""Hair, stroke by stroke: brows, a short beard, a cropped head."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.puppets.painter import HAIR, Colour, linear
from stages.puppets.sculptor import Field, Grid, curve

Points = NDArray[np.float64]


def strokes(
    grid: Grid, roots: Points, way: Points, length: NDArray[np.float64], rng: np.random.Generator, width: int = 1
) -> Field:
    """(H, W) cover 0 to 1 of hairs from `roots` (N, 2) along `way` (N, 2, unit) that are `length` (N) long."""
    origin = np.array([grid.u[0, 0], grid.v[0, 0]])
    bend = np.column_stack([-way[:, 1], way[:, 0]]) * (rng.normal(0, 0.18, (len(roots), 1)) * length[:, None])
    middle, tip = roots + way * length[:, None] * 0.5 + bend, roots + way * length[:, None]
    lines = np.stack([roots, middle, tip], axis=1)
    fixed = np.round((lines - origin) * grid.unit * 16).astype(np.int32)
    shades = rng.integers(120, 256, len(roots))
    layer = np.zeros(grid.u.shape, np.uint8)
    for shade in range(120, 256, 17):
        some = (shades >= shade) & (shades < shade + 17)
        cv2.polylines(layer, list(fixed[some]), False, (shade,), width, cv2.LINE_AA, shift=4)
    return layer.astype(np.float32) / 255


def cover(colour: Colour, hair: Field, strength: float) -> Colour:
    """`colour` with hair over it."""
    alpha = (hair * strength)[..., None]
    return np.asarray(colour * (1 - alpha) + linear(HAIR) * alpha, np.float32)


def brows(grid: Grid, rng: np.random.Generator) -> Field:
    """Thick and straight, combed outwards."""
    result = np.zeros(grid.u.shape, np.float32)
    for side in (-1, 1):
        along = rng.uniform(0, 1, 900) ** 0.85
        thick = 0.034 * np.interp(along, (0, 0.2, 0.6, 1), (0.5, 1.0, 0.85, 0.2))
        u = 0.082 + 0.288 * along
        v = -0.128 - 0.040 * np.sin(np.clip(along * 1.25, 0, 1) * np.pi / 1.35) + 0.030 * np.clip(along - 0.65, 0, 1)
        roots = np.column_stack([side * u, v + rng.uniform(-1, 1, len(u)) * thick * 0.8])
        lift = np.interp(along, (0, 0.3, 1), (1.1, 0.35, -0.35)) + rng.normal(0, 0.22, len(u))
        way = np.column_stack([side * np.cos(lift), -np.sin(lift)])
        result = np.maximum(result, strokes(grid, roots, way, rng.uniform(0.025, 0.05, len(u)), rng))
    return np.clip(1.2 * np.maximum(result, 0.55 * np.clip(1.8 * grid.blurred(result, 0.008), 0, 1)), 0, 1)


def beard_density(grid_u: NDArray[np.float64], grid_v: NDArray[np.float64]) -> NDArray[np.float64]:
    """How densely a beard grows at each place, 0 to 1: jaw, chin and upper lip, off the lips and the cheeks."""
    side = np.abs(grid_u)
    upper_edge = np.interp(
        side, (0.0, 0.10, 0.20, 0.27, 0.36, 0.43, 0.50), (0.405, 0.41, 0.425, 0.465, 0.44, 0.28, 0.05)
    )
    below_edge = np.clip((grid_v - upper_edge) / 0.035, 0, 1)
    x = side / 0.235
    lips = np.clip((np.hypot(x, (grid_v - 0.535) / 0.082) - 1.0) / 0.12, 0, 1)
    bare = 1 - np.clip(1 - ((side - 0.155) / 0.05) ** 2, 0, 1) * np.clip(1 - ((grid_v - 0.655) / 0.03) ** 2, 0, 1) * 0.8
    thin = np.where((side > 0.05) & (side < 0.19) & (grid_v > 0.60) & (grid_v < 0.68), 0.45, 1.0)
    return below_edge * lips * bare * thin


def beard(grid: Grid, rng: np.random.Generator) -> tuple[Field, Field]:
    """Hairs, and the shade of the skin between them; both (H, W) cover."""
    u, v = rng.uniform(-0.52, 0.52, 26000), rng.uniform(0.0, 0.95, 26000)
    keep = rng.uniform(0, 1, len(u)) < beard_density(u, v)
    u, v = u[keep], v[keep]
    angle = np.arctan2(np.ones_like(u), 1.3 * u) + rng.normal(0, 0.35, len(u))
    way = np.column_stack([np.cos(angle), np.sin(angle)])
    hairs = strokes(grid, np.column_stack([u, v]), way, rng.uniform(0.012, 0.032, len(u)), rng)
    shade = beard_density(grid.u.astype(np.float64), grid.v.astype(np.float64)).astype(np.float32)
    return hairs, grid.blurred(shade, 0.012)


#: The hairline: v at each distance from the middle; at the temples it comes down to the ears.
_HAIRLINE_U = (0.0, 0.12, 0.24, 0.33, 0.38, 0.41, 0.435, 0.46, 0.56)
_HAIRLINE_V = (-0.50, -0.495, -0.47, -0.42, -0.34, -0.24, -0.10, 0.02, 0.10)


#: Half the crop's width at each v, from the crown to before the ears.
_CROP_V = (-0.935, -0.92, -0.84, -0.70, -0.50, -0.30, -0.10, 0.06)
_CROP_U = (0.0, 0.16, 0.35, 0.465, 0.53, 0.545, 0.53, 0.505)


def crop_cover(grid: Grid) -> Field:
    """(H, W) cover of a short crop of hair: a cap a little larger than the skull, down to the hairline."""
    right = list(zip(_CROP_U, _CROP_V, strict=True))
    cap = grid.filled(np.array([*right, *((-u, v) for u, v in reversed(right[1:]))]))
    above_line = curve(np.abs(grid.u), _HAIRLINE_U, _HAIRLINE_V) - grid.v
    return cap * np.clip(above_line / 0.03 + 0.7, 0, 1)


def crop_hairs(grid: Grid, rng: np.random.Generator) -> tuple[Field, Field]:
    """Dark hairs and bright ones, (H, W) cover each, brushed up and away from the brow."""
    layers = []
    for count in (16000, 5000):
        u, v = rng.uniform(-0.56, 0.56, count), rng.uniform(-0.95, 0.10, count)
        line = np.interp(np.abs(u), _HAIRLINE_U, _HAIRLINE_V)
        half = np.interp(v, _CROP_V, _CROP_U)
        keep = (v < line + rng.normal(0, 0.012, count)) & (np.abs(u) < half - 0.01)
        u, v = u[keep], v[keep]
        angle = np.arctan2(v - 0.25, u * 1.5) + rng.normal(0, 0.30, len(u))
        way = np.column_stack([np.cos(angle), np.sin(angle)])
        layers.append(strokes(grid, np.column_stack([u, v]), way, rng.uniform(0.025, 0.055, len(u)), rng))
    return layers[0], layers[1]
