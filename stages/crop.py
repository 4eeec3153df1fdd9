"""Sampling a crop out of a picture: the region of interest alone is converted, then warped without aliasing."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.types import Array, Colour, Picture
from stages.colour import region_to_rgb
from stages.geometry import apply, compose, density, invert, scaling

#: How much denser than the crop the region may stay when it is shrunk first: linear interpolation blurs, so the last
#: bit of shrinking is left to it.
_KEPT_DENSITY = 1.25


def cut_out(picture: Picture, colour: Colour, frame_to_crop: Array, size: int, out: Array | None = None) -> Array:
    """The crop that `frame_to_crop` shows, beyond the picture's edge filled with its border.

    Args:
        picture: any format of `PIXEL_FORMATS`.
        colour: the stream's tags.
        frame_to_crop: (2, 3); from px of the stored picture to px of the crop.
        size: the crop's side in px.
        out: (size, size, 3) uint8, written to and returned; made where None.

    Returns:
        (size, size, 3) uint8 RGB, full range.
    """
    box = _region(frame_to_crop, size, picture.width, picture.height)
    region = region_to_rgb(picture, colour, box)
    shift = np.array([[1.0, 0.0, box[0]], [0.0, 1.0, box[1]]])
    return warp(region, compose(frame_to_crop, shift), size, out)


def _region(frame_to_crop: Array, size: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the picture that the crop needs, with a margin for interpolation; at least one px."""
    corners = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5]])
    seen = apply(invert(frame_to_crop), corners)
    margin = 2.0 + 1.0 / density(frame_to_crop)
    x0, y0 = np.floor(seen.min(0) - margin).astype(int)
    x1, y1 = np.ceil(seen.max(0) + margin).astype(int) + 1
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return int(x0), int(y0), int(min(max(x1, x0 + 1), width)), int(min(max(y1, y0 + 1), height))


def warp(rgb: Array, rgb_to_crop: Array, size: int, out: Array | None = None) -> Array:
    """A (size, size, 3) crop of an (h, w, 3) uint8 picture; shrinking averages, enlarging is cubic.

    Beyond the picture its border is repeated. `out` is written to and returned where given.
    """
    factor = density(rgb_to_crop)
    enlarging = factor > 1.0
    shrink = min(1.0, factor * _KEPT_DENSITY)
    if shrink < 1.0:
        height, width = rgb.shape[:2]
        small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        rgb_to_crop = compose(rgb_to_crop, invert(scaling(small[0] / width, small[1] / height)))
        rgb = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)
    flags = cv2.INTER_CUBIC if enlarging else cv2.INTER_LINEAR
    return cv2.warpAffine(rgb, rgb_to_crop, (size, size), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
