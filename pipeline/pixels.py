"""Pixel formats: where the samples of a picture lie, under FFmpeg's names.

A format says, plane by plane, how many samples a row has, how many rows there are, and what one sample is.
Only formats whose planes NumPy can address directly are listed: whole 8- or 16-bit little-endian samples.
Everything else (10-bit packed, big-endian, palettes, hardware surfaces) is converted once, by decode, to its
nearest neighbour here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class PlaneLayout:
    """One plane: `components` names its samples in memory order ("y", "uv", "g", "rgba", ...).

    `log2_w` and `log2_h` are the subsampling shifts against the picture's size.
    """

    components: str
    log2_w: int = 0
    log2_h: int = 0

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        """Array shape for a picture of `width` x `height` px: (rows, columns) or (rows, columns, samples)."""
        rows, columns = -(-height >> self.log2_h), -(-width >> self.log2_w)
        return (rows, columns) if len(self.components) == 1 else (rows, columns, len(self.components))


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How a picture's samples are stored.

    `name` is FFmpeg's; `model` tells how to read them ("yuv", "rgb" or "gray"); `depth` is the number of
    significant bits, in the low bits of each sample except where `shift` says how far up they sit (p010le: 6).
    """

    name: str
    model: Literal["yuv", "rgb", "gray"]
    planes: tuple[PlaneLayout, ...]
    depth: int = 8
    shift: int = 0

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """uint8 up to 8 bits, uint16 above."""
        return np.dtype(np.uint8) if self.depth <= 8 else np.dtype(np.uint16)

    @property
    def peak(self) -> int:
        """The largest sample value, before `shift`: 255, 1023, 4095 or 65535."""
        return (1 << self.depth) - 1

    @property
    def full_range_by_name(self) -> bool:
        """The deprecated yuvj formats mean full range whatever the colour tag says; so does every RGB format."""
        return self.name.startswith("yuvj") or self.model == "rgb"

    def shapes(self, width: int, height: int) -> tuple[tuple[int, ...], ...]:
        """The shape of every plane for a picture of `width` x `height` px."""
        return tuple(plane.shape(width, height) for plane in self.planes)

    def nbytes(self, width: int, height: int) -> int:
        """Bytes that one tightly packed picture takes."""
        return sum(int(np.prod(shape)) for shape in self.shapes(width, height)) * self.dtype.itemsize


def _planar_yuv() -> list[PixelFormat]:
    shifts = {"420": (1, 1), "422": (1, 0), "444": (0, 0), "440": (0, 1), "411": (2, 0), "410": (2, 2)}
    depths = {
        "420": (9, 10, 12, 14, 16),
        "422": (9, 10, 12, 14, 16),
        "444": (9, 10, 12, 14, 16),
        "440": (10, 12),
    }
    formats = []
    for sampling, (w, h) in shifts.items():
        planes = (PlaneLayout("y"), PlaneLayout("u", w, h), PlaneLayout("v", w, h))
        formats.append(PixelFormat(f"yuv{sampling}p", "yuv", planes))
        if sampling != "410":
            formats.append(PixelFormat(f"yuvj{sampling}p", "yuv", planes))
        if sampling in ("420", "422", "444"):
            formats.append(PixelFormat(f"yuva{sampling}p", "yuv", (*planes, PlaneLayout("a"))))
            formats.extend(
                PixelFormat(f"yuva{sampling}p{depth}le", "yuv", (*planes, PlaneLayout("a")), depth)
                for depth in (10, 12, 16)
                if (sampling, depth) != ("420", 12)
            )
        formats.extend(
            PixelFormat(f"yuv{sampling}p{depth}le", "yuv", planes, depth) for depth in depths.get(sampling, ())
        )
    return formats


def _semi_planar_yuv() -> list[PixelFormat]:
    shifts = {"nv12": (1, 1), "nv16": (1, 0), "nv24": (0, 0)}
    formats = [PixelFormat(name, "yuv", (PlaneLayout("y"), PlaneLayout("uv", w, h))) for name, (w, h) in shifts.items()]
    formats.append(PixelFormat("nv21", "yuv", (PlaneLayout("y"), PlaneLayout("vu", 1, 1))))
    for kind, (w, h) in {"0": (1, 1), "2": (1, 0), "4": (0, 0)}.items():
        planes = (PlaneLayout("y"), PlaneLayout("uv", w, h))
        formats.append(PixelFormat(f"p{kind}10le", "yuv", planes, 10, shift=6))
        formats.append(PixelFormat(f"p{kind}16le", "yuv", planes, 16))
    return formats


def _rgb() -> list[PixelFormat]:
    planar = tuple(PlaneLayout(c) for c in "gbr")
    formats = [PixelFormat("gbrp", "rgb", planar), PixelFormat("gbrap", "rgb", (*planar, PlaneLayout("a")))]
    formats += [PixelFormat(f"gbrp{depth}le", "rgb", planar, depth) for depth in (9, 10, 12, 14, 16)]
    formats += [PixelFormat(f"gbrap{d}le", "rgb", (*planar, PlaneLayout("a")), d) for d in (10, 12, 16)]
    packed = {"rgb24": "rgb", "bgr24": "bgr", "rgba": "rgba", "bgra": "bgra", "argb": "argb", "abgr": "abgr"}
    packed |= {"rgb0": "rgbx", "bgr0": "bgrx", "0rgb": "xrgb", "0bgr": "xbgr"}
    formats += [PixelFormat(name, "rgb", (PlaneLayout(order),)) for name, order in packed.items()]
    formats += [
        PixelFormat("rgb48le", "rgb", (PlaneLayout("rgb"),), 16),
        PixelFormat("rgba64le", "rgb", (PlaneLayout("rgba"),), 16),
    ]
    return formats


def _gray() -> list[PixelFormat]:
    formats = [
        PixelFormat("gray", "gray", (PlaneLayout("y"),)),
        PixelFormat("ya8", "gray", (PlaneLayout("ya"),)),
    ]
    formats += [PixelFormat(f"gray{depth}le", "gray", (PlaneLayout("y"),), depth) for depth in (9, 10, 12, 14, 16)]
    return formats


#: Every format that frames may keep, by FFmpeg's name.
PIXEL_FORMATS: dict[str, PixelFormat] = {f.name: f for f in (*_planar_yuv(), *_semi_planar_yuv(), *_rgb(), *_gray())}
