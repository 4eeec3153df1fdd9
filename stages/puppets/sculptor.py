"""The shape of a person who never was: a head as a relief, and the light on it.

Everything is in face units: u right, v down, 1.0 the width of the face, the origin midway between the eyes. Reliefs
give the height towards the camera in the same unit. Light is computed in linear light.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

#: Half the head's width at each v, from the crown to the chin: broad cheekbones, a square jaw.
_OUTLINE_V = (-0.82, -0.80, -0.72, -0.62, -0.48, -0.30, -0.10, 0.10, 0.30, 0.45, 0.58, 0.68, 0.77, 0.84, 0.885, 0.895)
_OUTLINE_U = (0.00, 0.14, 0.30, 0.40, 0.465, 0.497, 0.503, 0.500, 0.485, 0.465, 0.430, 0.380, 0.305, 0.215, 0.11, 0.00)
#: Height of the head's middle line at each v.
_PROFILE_V = (-0.85, -0.70, -0.50, -0.25, 0.0, 0.3, 0.6, 0.75, 0.85, 0.95)
_PROFILE_Z = (0.10, 0.40, 0.56, 0.61, 0.58, 0.58, 0.58, 0.57, 0.52, 0.42)

#: Bumps and hollows: u (mirrored where not 0), v, reach across, reach along, height.
_FEATURES = (
    (0.235, 0.005, 0.115, 0.065, -0.085),  # eye sockets
    (0.235, 0.005, 0.070, 0.050, 0.050),  # eyeballs
    (0.075, -0.045, 0.045, 0.070, -0.035),  # beside the bridge of the nose
    (0.190, -0.150, 0.130, 0.045, 0.034),  # brows
    (0.000, -0.120, 0.060, 0.050, 0.020),  # between the brows
    (0.150, -0.340, 0.130, 0.110, 0.018),  # forehead
    (0.330, 0.150, 0.110, 0.080, 0.046),  # cheekbones
    (0.300, 0.400, 0.090, 0.120, -0.022),  # hollow under them
    (0.118, 0.312, 0.040, 0.040, 0.105),  # wings of the nose
    (0.000, 0.292, 0.055, 0.048, 0.050),  # its tip
    (0.000, 0.540, 0.210, 0.110, 0.035),  # the teeth behind the lips
    (0.000, 0.655, 0.130, 0.028, -0.028),  # above the chin
    (0.000, 0.765, 0.110, 0.065, 0.048),  # chin
    (0.340, 0.620, 0.070, 0.090, 0.014),  # corners of the jaw
    (0.000, 0.420, 0.016, 0.040, -0.010),  # philtrum
)


@dataclass(frozen=True, slots=True, repr=False)
class Grid:
    """Where each pixel lies: `u`, `v` (H, W) float32 in face units; `unit` px to a face unit."""

    u: Field
    v: Field
    unit: float

    def bump(self, u: float, v: float, across: float, along: float) -> Field:
        """(H, W) float32 Gaussian of height 1."""
        return np.exp(-(((self.u - u) / across) ** 2) / 2 - (((self.v - v) / along) ** 2) / 2)

    def blurred(self, field: Field, reach: float) -> Field:
        """`field` under a Gaussian of `reach` face units (done on a smaller picture where that is as good)."""
        sigma = reach * self.unit
        shrink = max(1, int(sigma / 4))
        height, width = field.shape[:2]
        small = cv2.resize(field, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def filled(self, outline: NDArray[np.float64]) -> Field:
        """Coverage 0 to 1 of a closed outline (N, 2), its corners cut three times (Chaikin 1974)."""
        for _ in range(3):
            onward = np.roll(outline, -1, axis=0)
            outline = np.stack([0.75 * outline + 0.25 * onward, 0.25 * outline + 0.75 * onward], axis=1).reshape(-1, 2)
        layer = np.zeros(self.u.shape, np.uint8)
        corner = np.array([self.u[0, 0], self.v[0, 0]])
        cv2.fillPoly(
            layer, [np.round((outline - corner) * self.unit * 16).astype(np.int32)], (255,), cv2.LINE_AA, shift=4
        )
        return layer.astype(np.float32) / 255

    def inside(self, distance: Field) -> Field:
        """Coverage 0 to 1 of the region where `distance` (face units, signed) is above zero, with a soft edge."""
        return np.clip(distance * self.unit * 0.7 + 0.5, 0, 1)


def curve(x: Field, knots: tuple[float, ...], values: tuple[float, ...]) -> Field:
    """A smooth line through the knots (piecewise linear, rounded), evaluated at `x`."""
    fine = np.linspace(knots[0], knots[-1], 400)
    line = np.interp(fine, knots, values)
    kernel = np.hanning(25)
    padded = np.pad(line, 12, mode="reflect", reflect_type="odd")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return np.interp(x, fine, smooth).astype(np.float32)


def head_cover(grid: Grid) -> Field:
    """(H, W) cover of the head: the outline above, its corners rounded off."""
    right = list(zip(_OUTLINE_U, _OUTLINE_V, strict=True))
    left = [(-u, v) for u, v in reversed(right[1:-1])]
    return grid.filled(np.array(right + left))


def head_relief(grid: Grid) -> Field:
    """(H, W) height of head and face."""
    half = np.maximum(curve(grid.v, _OUTLINE_V, _OUTLINE_U), 0.05)
    round_off = np.sqrt(np.clip(1 - np.abs(grid.u / half) ** 2.3, 0.0, 1))
    relief = curve(grid.v, _PROFILE_V, _PROFILE_Z) * round_off
    relief = grid.blurred(relief.astype(np.float32), 0.02)
    for u, v, across, along, height in _FEATURES:
        relief += height * grid.bump(u, v, across, along)
        if u:
            relief += height * grid.bump(-u, v, across, along)
    return relief + _nose(grid) + _lips(grid) + _folds(grid)


def _nose(grid: Grid) -> Field:
    v = grid.v
    ridge = curve(
        v, (-0.20, -0.08, 0.05, 0.18, 0.27, 0.325, 0.365, 0.40), (0.0, 0.030, 0.085, 0.135, 0.155, 0.130, 0.045, 0.0)
    )
    breadth = curve(v, (-0.20, 0.0, 0.15, 0.28, 0.40), (0.050, 0.050, 0.062, 0.082, 0.085))
    return ridge * np.exp(-((grid.u / breadth) ** 2) / 2)


def _lips(grid: Grid) -> Field:
    """Two rolls with a groove between them."""
    aside = np.clip(1 - (grid.u / 0.215) ** 2, 0, 1)
    upper = 0.034 * np.exp(-(((grid.v - 0.492) / 0.024) ** 2) / 2)
    lower = 0.046 * np.exp(-(((grid.v - 0.568) / 0.030) ** 2) / 2)
    groove = -0.012 * np.exp(-(((grid.v - mouth_line(grid.u)) / 0.010) ** 2) / 2)
    return aside * (upper + lower) + np.sqrt(aside) * groove


def mouth_line(u: Field) -> Field:
    """v of the closed lips at each u."""
    aside = np.clip(np.abs(u) / 0.215, 0, 1.2)
    return (0.528 + 0.006 * np.exp(-((aside / 0.22) ** 2)) - 0.014 * aside**2).astype(np.float32)


def _folds(grid: Grid) -> Field:
    """From the wings of the nose to beside the mouth."""
    line = curve(grid.v, (0.26, 0.36, 0.46, 0.58, 0.66), (0.135, 0.185, 0.235, 0.262, 0.262))
    near = np.exp(-(((np.abs(grid.u) - line) / 0.016) ** 2) / 2)
    along = np.exp(-(((grid.v - 0.42) / 0.085) ** 2) / 2)
    return -0.010 * near * along


@dataclass(frozen=True, slots=True)
class Light:
    """A lamp: where it stands (u, v, towards the camera), its linear RGB."""

    place: tuple[float, float, float]
    colour: tuple[float, float, float]

    def direction(self) -> NDArray[np.float32]:
        """Unit vector towards the lamp."""
        vector = np.array(self.place, np.float32)
        return vector / np.float32(np.linalg.norm(vector))


KEY = Light((-0.85, -0.60, 1.0), (1.42, 1.32, 1.20))
FILL = Light((0.95, -0.10, 0.85), (0.13, 0.17, 0.23))
#: How far light creeps round a shape, for each of R, G, B: skin bleeds red at the edge of a shadow.
_SKIN_WRAP = (0.42, 0.24, 0.18)


def shade(grid: Grid, relief: Field, shadow: Field, gloss: float) -> tuple[NDArray[np.float32], Field]:
    """Linear light on a surface: (H, W, 3) diffuse to multiply its colour by, (H, W) highlights to add.

    Args:
        relief: height, face units.
        shadow: 0 to 1, how much of the key light is taken away.
        gloss: strength of the highlights.
    """
    slope_u = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3) * (grid.unit / 8)
    slope_v = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3) * (grid.unit / 8)
    length = 1 / np.sqrt(slope_u**2 + slope_v**2 + 1)
    normal = (-slope_u * length, -slope_v * length, length)
    open_sky = np.clip(1 - 4.5 * np.clip(grid.blurred(relief, 0.06) - relief, 0, None), 0.35, 1)
    ambient = (0.13 - 0.05 * normal[1]) * open_sky
    key, fill = KEY.direction(), FILL.direction()
    to_key = normal[0] * key[0] + normal[1] * key[1] + normal[2] * key[2]
    to_fill = normal[0] * fill[0] + normal[1] * fill[1] + normal[2] * fill[2]
    lit = 1 - shadow
    diffuse = np.empty((*relief.shape, 3), np.float32)
    for channel, wrap in enumerate(_SKIN_WRAP):
        from_key = np.clip((to_key + wrap) / (1 + wrap), 0, None) * (lit if channel else np.sqrt(lit))
        from_fill = np.clip((to_fill + wrap) / (1 + wrap), 0, None)
        diffuse[..., channel] = ambient + KEY.colour[channel] * from_key + FILL.colour[channel] * from_fill
    half = key + np.array([0, 0, 1], np.float32)
    half /= np.float32(np.linalg.norm(half))
    facing = np.clip(normal[0] * half[0] + normal[1] * half[1] + normal[2] * half[2], 0, 1)
    highlight = gloss * lit * (0.6 * facing**14 + facing**60)
    return diffuse, highlight.astype(np.float32)


def cast_shadow(grid: Grid, relief: Field) -> Field:
    """(H, W) 0 to 1: how much a relief shades itself from the key light (marched on a quarter-size picture)."""
    height, width = relief.shape
    small = cv2.resize(relief, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    key = KEY.direction()
    unit = grid.unit / 4
    shadow = np.zeros_like(small)
    for step in range(1, 28):
        reach = 0.014 * step
        shift = np.array([[1, 0, key[0] * reach * unit], [0, 1, key[1] * reach * unit]], np.float32)
        seen = cv2.warpAffine(
            small,
            shift,
            small.shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        over = seen - (small + key[2] * reach)
        shadow = np.maximum(shadow, np.clip(over / (0.02 + 0.25 * reach), 0, 1))
    soft = cv2.GaussianBlur(shadow, (0, 0), 0.018 * unit)
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
