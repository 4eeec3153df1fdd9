"""What a picture's samples mean: code values to R'G'B' and back, by the stream's own colour tags.

Only the linear step between R'G'B' and Y'CbCr is done here: transfer curve and primaries stay as the file has them,
so a region that goes out and comes back is the same picture. Sources: Rec. ITU-T H.273 (8.3: code points, equations
for range and matrix), BT.601, BT.709, BT.2020, SMPTE 240M, and H.273 figure 1 for where chroma samples lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.pixels import PixelFormat, Plane, PlaneLayout
from pipeline.types import Array, Colour, Picture
from stages.chroma import upsampled

#: Kr and Kb by H.273 matrix code point; 10 (constant luminance) is read as 9, as players do.
_KR_KB = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
_BT709, _BT601 = 1, 6
_IDENTITY, _YCGCO = 0, 8


def matrix_of(format: PixelFormat, colour: Colour, width: int, height: int) -> int:
    """The H.273 matrix code point to use: the tag where it can be used, else BT.601 for SD and BT.709 for HD.

    "HD" is 720 lines or 1280 columns. Identity (0: G, B, R in the place of Y, Cb, Cr) counts only unsubsampled.
    """
    code = colour.matrix
    whole = all(layout.log2_w == layout.log2_h == 0 for layout in format.planes)
    if code in _KR_KB or code == _YCGCO or (code == _IDENTITY and whole and format.model == "yuv"):
        return code
    return _BT709 if height >= 720 or width >= 1280 else _BT601


def is_full_range(format: PixelFormat, colour: Colour) -> bool:
    """Whether black and white are the extreme code values; untagged: limited, but full for gray (as FFmpeg has it)."""
    if format.full_range_by_name or colour.range == 2:
        return True
    return format.model == "gray" and colour.range == 0


def _rgb_to_ycc(code: int) -> Array:
    """(3, 3) float64: R'G'B' in 0..1 to Y' in 0..1 and Cb, Cr in -0.5..0.5 (identity: G, B, R, all in 0..1)."""
    if code == _IDENTITY:
        return np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    if code == _YCGCO:
        return np.array([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0.0, -0.5]])
    kr, kb = _KR_KB[code]
    luma = np.array([kr, 1.0 - kr - kb, kb])
    blue = (np.array([0.0, 0.0, 1.0]) - luma) / (2.0 * (1.0 - kb))
    red = (np.array([1.0, 0.0, 0.0]) - luma) / (2.0 * (1.0 - kr))
    return np.stack([luma, blue, red])


@dataclass(frozen=True, slots=True)
class Coding:
    """The affine map between 8-bit full-range R'G'B' and a format's code values (before `PixelFormat.shift`).

    Attributes:
        components: which code values, in the order of the rows of `from_rgb`: "yuv", "rgb" or "y".
        from_rgb: (len(components), 4) float64; code = from_rgb[:, :3] @ (R, G, B) + from_rgb[:, 3].
        to_rgb: (3, len(components) + 1) float64, its inverse (gray: R = G = B).
    """

    components: str
    from_rgb: Array
    to_rgb: Array


def coding(format: PixelFormat, colour: Colour, width: int, height: int) -> Coding:
    """How `format`, under these tags and at this size, codes R'G'B'."""
    unit = float(1 << (format.depth - 8))
    if format.model == "rgb":
        scale = format.peak / 255.0
        return Coding("rgb", _affine(np.eye(3) * scale, np.zeros(3)), _affine(np.eye(3) / scale, np.zeros(3)))
    code = matrix_of(format, colour, width, height)
    full = is_full_range(format, colour)
    luma_gain, luma_zero = (float(format.peak), 0.0) if full else (219.0 * unit, 16.0 * unit)
    chroma_gain, chroma_zero = (float(format.peak) if full else 224.0 * unit), 128.0 * unit
    if code == _IDENTITY:
        chroma_gain, chroma_zero = luma_gain, luma_zero
    gain = np.array([luma_gain, chroma_gain, chroma_gain])
    zero = np.array([luma_zero, chroma_zero, chroma_zero])
    forward = gain[:, None] * _rgb_to_ycc(code) / 255.0
    if format.model == "gray":
        scale = 255.0 / luma_gain
        return Coding("y", _affine(forward, zero)[:1], np.tile([scale, -luma_zero * scale], (3, 1)))
    backward = np.linalg.inv(forward)
    return Coding("yuv", _affine(forward, zero), _affine(backward, -backward @ zero))


def _affine(linear: Array, offset: Array) -> Array:
    return np.column_stack([linear, offset])


def chroma_centre(log2_w: int, log2_h: int) -> tuple[float, float]:
    """The middle of the luma px that share a chroma sample, in px from the first of them."""
    return ((1 << log2_w) - 1) / 2, ((1 << log2_h) - 1) / 2


def chroma_offset(format: PixelFormat, colour: Colour, log2_w: int, log2_h: int) -> tuple[float, float]:
    """Where chroma sample 0 lies, in luma px from luma sample 0 (x to the right, y down).

    Untagged chroma is left-sited (MPEG-2 and later), and centred in the full-range JPEG formats.
    """
    centre_x, centre_y = chroma_centre(log2_w, log2_h)
    location = colour.chroma_location or (2 if format.name.startswith("yuvj") else 1)
    x = centre_x if location in (2, 4, 6) else 0.0
    if location in (3, 4):
        return x, 0.0
    return (x, 2 * centre_y) if location in (5, 6) else (x, centre_y)


def region_to_rgb(picture: Picture, colour: Colour, box: tuple[int, int, int, int]) -> Array:
    """Converts one region, and no more, to R'G'B'.

    Args:
        picture: any format of `PIXEL_FORMATS`.
        colour: the stream's tags; what is unspecified is guessed (see `matrix_of`, `is_full_range`).
        box: x0, y0, x1, y1 in px of the stored picture, x1 and y1 excluded; must lie inside it and not be empty.

    Returns:
        (y1 - y0, x1 - x0, 3) uint8 RGB, full range; deeper pictures are scaled down to 8 bits. Chroma is
        interpolated linearly from where the stream says it lies.

    Raises:
        ValueError: the box is empty or leaves the picture.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= picture.width and 0 <= y0 < y1 <= picture.height):
        raise ValueError(f"region {box} is not inside a {picture.width}x{picture.height} picture")
    regions = []
    for layout, plane in _coloured(picture):
        if layout.log2_w or layout.log2_h:
            offset = chroma_offset(picture.format, colour, layout.log2_w, layout.log2_h)
            plane = upsampled(plane, (layout.log2_w, layout.log2_h), offset, box)
        else:
            plane = plane[y0:y1, x0:x1]
        regions.append(plane)
    return _codes_to_rgb(regions, picture, colour)


def small_rgb(picture: Picture, colour: Colour, max_side: int) -> tuple[Array, float]:
    """A small RGB copy of the whole picture: planes are shrunk first, then converted.

    Args:
        picture: any format of `PIXEL_FORMATS`.
        colour: the stream's tags.
        max_side: the longer side of the result, in px; a smaller picture keeps its size.

    Returns:
        The (h, w, 3) uint8 RGB, full range, as stored (not rotated), and the scale: small = stored * scale, up to
        pixel centres: small_x = (stored_x + 0.5) * scale - 0.5. Sides are rounded to whole px; where half a px
        matters, `w / picture.width` and `h / picture.height` are the exact factors.
    """
    width, height = picture.width, picture.height
    if max(width, height) <= max_side:
        return region_to_rgb(picture, colour, (0, 0, width, height)), 1.0
    scale = max_side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    regions = [_shrunk(plane, size) for _, plane in _coloured(picture)]
    return _codes_to_rgb(regions, picture, colour), scale


def _shrunk(plane: Array, size: tuple[int, int]) -> Array:
    """Resized to (width, height) `size`: halved by averaging while it is twice too large (fast), then linear."""
    while plane.shape[1] >= 2 * size[0] and plane.shape[0] >= 2 * size[1]:
        half = (plane.shape[1] // 2, plane.shape[0] // 2)
        even = plane[: half[1] * 2, : half[0] * 2]
        plane = cv2.resize(even, half, interpolation=cv2.INTER_AREA)
    return cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)


def _coloured(picture: Picture) -> list[tuple[PlaneLayout, Plane]]:
    """Layout and plane of every plane but a separate alpha."""
    pairs = zip(picture.format.planes, picture.planes, strict=True)
    return [(layout, plane) for layout, plane in pairs if layout.components != "a"]


def _codes_to_rgb(regions: list[Array], picture: Picture, colour: Colour) -> Array:
    """(h, w[, n]) samples of each plane, all of one size, to (h, w, 3) uint8 RGB."""
    format = picture.format
    stored = "".join(layout.components for layout, _ in _coloured(picture))
    code = coding(format, colour, picture.width, picture.height)
    matrix = np.zeros((3, len(stored) + 1), np.float32)
    for column, name in enumerate(code.components):
        matrix[:, stored.index(name)] = code.to_rgb[:, column] / (1 << format.shift)
    matrix[:, -1] = code.to_rgb[:, -1]
    rgb = cv2.transform(_merged(regions), matrix)
    return rgb if rgb.dtype == np.uint8 else cv2.convertScaleAbs(rgb)


def _merged(regions: list[Array]) -> Array:
    """(h, w) or (h, w, n) each to one contiguous (h, w, total); cv2.merge is fast on contiguous single channels."""
    if len(regions) == 1:
        return np.ascontiguousarray(regions[0])
    single: list[Array] = []
    for region in regions:
        region = np.ascontiguousarray(region)
        single.extend([region] if region.ndim == 2 else cv2.split(region))
    return cv2.merge(single)
