"""One patch into a picture's own planes: converted to their code values, warped once, mixed in place.

Only the part of the picture under the patch's mask is read or written. 8-bit pictures are mixed in integers,
deeper ones in float32, which holds 16 bits exactly; both round once, and both give back the picture's very sample
where alpha is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.pixels import PixelFormat
from pipeline.types import Array, Colour, Picture
from stages.chroma import Box, averaged
from stages.colour import Coding, chroma_centre, chroma_offset, coding
from stages.geometry import apply, invert, rescale_crop

#: No patch is enlarged beyond this side before it is warped (a face that fills a 4K picture).
_LARGEST_PX = 1536


class Layer(NamedTuple):
    """Code values for a part of one plane.

    Attributes:
        plane: its number in the format.
        there: the part, rows then columns; of a plane with several components to a sample also which of them.
        samples: (h, w) code values before `PixelFormat.shift`; uint8, or float32 for pictures deeper than 8 bits.
        alpha: (h, w) the share of them in what comes out; uint8 0..255, or float32 0..1.
    """

    plane: int
    there: tuple[slice, slice] | tuple[slice, slice, int]
    samples: Array
    alpha: Array


def paste(picture: Picture, colour: Colour, patch: Array, mask: Array, frame_to_crop: Array, crop_side: int) -> None:
    """Mixes a square patch into the picture, in place.

    Args:
        picture: any format of `PIXEL_FORMATS`; its planes must be writable. Alpha planes are left alone.
        colour: the stream's tags.
        patch: (T, T, 3) uint8 RGB, full range.
        mask: (M, M) float32 0..1 over the same square: the share of the patch; its border counts as 0.
        frame_to_crop: (2, 3), from stored px to px of a crop of `crop_side` px over the same square.
        crop_side: see above.
    """
    box = footprint(picture, mask, rescale_crop(frame_to_crop, crop_side, mask.shape[0]))
    if box is None:
        return
    side = _working_side(frame_to_crop, crop_side)
    code = coding(picture.format, colour, picture.width, picture.height)
    codes = _codes(picture, code, patch, mask, side)
    margin = grid(picture.format)
    x0, y0, x1, y1 = box
    to_box = invert(rescale_crop(frame_to_crop, crop_side, side))
    to_box[:, 2] -= (x0 - margin[0], y0 - margin[1])
    size = (x1 - x0 + 2 * margin[0], y1 - y0 + 2 * margin[1])
    warped = cv2.warpAffine(codes, to_box, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    channels = dict(zip((*code.components, "alpha"), cv2.split(warped), strict=True))
    for layer in layers(picture, colour, channels, box):
        mix(picture, layer)


def footprint(picture: Picture, mask: Array, frame_to_mask: Array) -> Box | None:
    """The px of the picture that the mask may reach, widened to whole chroma samples (even past the last column).

    Args:
        picture: what the box is clipped to.
        mask: (M, M) float32; what is 0 counts for nothing.
        frame_to_mask: (2, 3), from stored px to px of the mask.

    Returns:
        x0, y0, x1, y1, or None where the mask is empty or outside the picture.
    """
    x, y, w, h = cv2.boundingRect((mask > 0).astype(np.uint8))
    if not w:
        return None
    left, top, right, bottom = x - 1, y - 1, x + w, y + h
    corners = apply(
        invert(frame_to_mask), np.array([(left, top), (right, top), (left, bottom), (right, bottom)], float)
    )
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, (picture.width, picture.height))
    if (low >= high).any():
        return None
    step_x, step_y = grid(picture.format)
    x0, y0 = int(low[0]) // step_x * step_x, int(low[1]) // step_y * step_y
    return x0, y0, -(-int(high[0]) // step_x) * step_x, -(-int(high[1]) // step_y) * step_y


def grid(format: PixelFormat) -> tuple[int, int]:
    """How many px the format's coarsest plane has to a sample, across and down."""
    planes = format.planes
    return 1 << max(plane.log2_w for plane in planes), 1 << max(plane.log2_h for plane in planes)


def _working_side(frame_to_crop: Array, crop_side: int) -> int:
    """How many px of the picture the square's side covers: the size at which the warp only turns and shifts."""
    crop_px_per_px = float(np.sqrt(abs(np.linalg.det(frame_to_crop[:, :2]))))
    return int(np.clip(round(crop_side / max(crop_px_per_px, 1e-6)), 2, _LARGEST_PX))


def _codes(picture: Picture, code: Coding, patch: Array, mask: Array, side: int) -> Array:
    """(side, side, n + 1) of the picture's n components and alpha last: uint8 0..255, or float32 0..1 if deeper.

    Enlarging is cubic and shrinking averages, so the warp that follows has no sizes to bridge. Alpha's border is 0.
    """
    deep = picture.format.depth > 8
    rgb = patch.astype(np.float32) if deep else patch
    codes = _resized(cv2.transform(rgb, code.from_rgb.astype(np.float32)), side, cv2.INTER_CUBIC)
    if deep:
        np.clip(codes, 0.0, picture.format.peak, out=codes)
    alpha = _resized(mask if deep else cv2.convertScaleAbs(mask, alpha=255.0), side, cv2.INTER_LINEAR)
    cv2.rectangle(alpha, (0, 0), (side - 1, side - 1), 0)
    return cv2.merge([*cv2.split(codes), alpha])


def _resized(square: Array, side: int, enlarging: int) -> Array:
    """A copy of another side: averaged down, or up by the method given."""
    method = enlarging if side >= square.shape[0] else cv2.INTER_AREA
    return cv2.resize(square, (side, side), interpolation=method)


def layers(picture: Picture, colour: Colour, channels: dict[str, Array], box: Box) -> Iterator[Layer]:
    """What is to be mixed into a picture's planes, brought down to their sampling.

    Args:
        picture: its format and size count, not its samples.
        colour: the stream's tags.
        channels: (h, w) each, of the box's size and a margin of `grid` on every side: code values by the name of their
            component, and "alpha", the share of them; uint8 0..255, or for deeper pictures float32, alpha 0..1.
        box: where they lie in the picture, x0, y0, x1, y1 px, on whole chroma samples.
    """
    margin = grid(picture.format)
    inner = (slice(margin[1], -margin[1]), slice(margin[0], -margin[0]))
    alpha = _within(channels["alpha"][inner], picture, box)
    shapes = picture.format.shapes(picture.width, picture.height)
    for number, (layout, shape) in enumerate(zip(picture.format.planes, shapes, strict=True)):
        log2 = (layout.log2_w, layout.log2_h)
        subsampled = log2 != (0, 0)
        plane_alpha = averaged(alpha, log2, chroma_centre(*log2), (0, 0)) if subsampled else alpha
        x, y = box[0] >> log2[0], box[1] >> log2[1]
        there = (slice(y, min(y + plane_alpha.shape[0], shape[0])), slice(x, min(x + plane_alpha.shape[1], shape[1])))
        inside = (slice(there[0].stop - y), slice(there[1].stop - x))
        for place, name in enumerate(layout.components):
            if name not in channels:
                continue
            samples = channels[name][inner]
            if subsampled:
                samples = averaged(channels[name], log2, chroma_offset(picture.format, colour, *log2), margin)
            yield Layer(number, there if len(shape) == 2 else (*there, place), samples[inside], plane_alpha[inside])


def mix(picture: Picture, layer: Layer) -> None:
    """Mixes one layer into the picture's plane, in place; what has no share in it stays to the bit."""
    _mix_component(picture.planes[layer.plane][layer.there], layer.samples, layer.alpha, picture.format.shift)


def _within(alpha: Array, picture: Picture, box: Box) -> Array:
    """Alpha whose columns and rows past the picture's edge repeat the last one inside, for the chroma sample there."""
    beyond_x, beyond_y = max(box[2] - picture.width, 0), max(box[3] - picture.height, 0)
    if not (beyond_x or beyond_y):
        return np.ascontiguousarray(alpha)
    inside = alpha[: alpha.shape[0] - beyond_y, : alpha.shape[1] - beyond_x]
    return cv2.copyMakeBorder(inside, 0, beyond_y, 0, beyond_x, cv2.BORDER_REPLICATE)


def _mix_component(target: Array, samples: Array, alpha: Array, shift: int) -> None:
    """target = target + alpha * (samples - target), rounded, in place; unused low bits of `target` stay."""
    if target.dtype == np.uint8:
        mixed = np.multiply(target, 255 - alpha, dtype=np.uint16)
        mixed += np.multiply(samples, alpha, dtype=np.uint16)
        # (v + 128 + ((v + 128) >> 8)) >> 8 is v / 255 to the nearest, for every v up to 255 * 255.
        mixed += 128
        mixed += mixed >> 8
        np.right_shift(mixed, 8, out=mixed)
        np.copyto(target, mixed, casting="unsafe")
        return
    value = (target >> shift).astype(np.float32)
    value += alpha * (samples - value)
    code = np.rint(value).astype(np.uint16) << shift
    if shift:
        code |= target & ((1 << shift) - 1)
    target[...] = code
