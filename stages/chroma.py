"""Planes of different sampling: subsampled chroma up to the size of a region, full-size samples down to chroma."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipeline.types import Array

#: x0, y0, x1, y1 in px, the last two excluded.
Box = tuple[int, int, int, int]


def upsampled(plane: Array, log2: tuple[int, int], offset: tuple[float, float], box: Box) -> Array:
    """The samples of a subsampled plane at every px of `box`, interpolated linearly, edges repeated.

    Args:
        plane: (rows, columns) or (rows, columns, n) uint8, uint16 or float32.
        log2: subsampling shifts, horizontal then vertical.
        offset: where sample 0 lies, x then y, in px of the picture (`colour.chroma_offset`).
        box: the px of the picture that are wanted.

    Returns:
        (y1 - y0, x1 - x0[, n]) of the plane's dtype.
    """
    x0, y0, x1, y1 = box
    across = _with_neighbours(plane, x0 >> log2[0], -(-x1 >> log2[0]), axis=1)
    patch = _with_neighbours(across, y0 >> log2[1], -(-y1 >> log2[1]), axis=0)
    tall = _interpolated(patch, 1 << log2[1], offset[1], axis=0)
    wide = _interpolated(tall, 1 << log2[0], offset[0], axis=1)
    left, top = x0 - (x0 >> log2[0] << log2[0]), y0 - (y0 >> log2[1] << log2[1])
    return wide[top : top + y1 - y0, left : left + x1 - x0]


def _with_neighbours(plane: Array, first: int, last: int, axis: int) -> Array:
    """Samples first - 1 .. last of an axis; what lies outside the plane repeats its edge."""
    count = plane.shape[axis]
    low, high = max(first - 1, 0), min(last + 1, count)
    before, after = low - (first - 1), last + 1 - high
    part = plane[low:high] if axis == 0 else plane[:, low:high]
    if not (before or after):
        return part
    widths = (before, after, 0, 0) if axis == 0 else (0, 0, before, after)
    return cv2.copyMakeBorder(part, *widths, cv2.BORDER_REPLICATE).reshape(_resized(part, last + 2 - first, axis))


def _interpolated(samples: Array, factor: int, offset: float, axis: int) -> Array:
    """`factor` outputs for each inner sample of an axis that holds one neighbour at both ends.

    Output k of sample m lies at m + (k - offset) / factor: a fixed mix of two neighbours, so each k is one addition
    of whole slices, and the outputs are then interleaved (`cv2.merge` is fast on contiguous arrays only).
    """
    inner = samples.shape[axis] - 2
    mixes = []
    for k in range(factor):
        position = (k - offset) / factor
        start = 1 + math.floor(position)
        weight = position - math.floor(position)
        low, high = (_slice(samples, start + step, inner, axis) for step in (0, 1))
        mix = cv2.addWeighted(low, 1 - weight, high, weight, 0) if weight else low
        mixes.append(np.ascontiguousarray(mix).reshape(low.shape))
    shape = _resized(samples, inner * factor, axis)
    return np.stack(mixes, axis=1).reshape(shape) if axis == 0 else cv2.merge(mixes).reshape(shape)


def _slice(samples: Array, start: int, count: int, axis: int) -> Array:
    return samples[start : start + count] if axis == 0 else samples[:, start : start + count]


def _resized(samples: Array, count: int, axis: int) -> tuple[int, ...]:
    """The array's shape with `count` in the place of one axis."""
    return tuple(count if place == axis else n for place, n in enumerate(samples.shape))


def averaged(samples: Array, log2: tuple[int, int], offset: tuple[float, float], margin: tuple[int, int]) -> Array:
    """Full-size samples brought down to a subsampled plane's grid.

    Each result is the mean of `factor` x `factor` samples around where the plane's sample lies; where that is half
    a px off the box grid, the mean of the two nearest boxes (for left-sited chroma: 1/4, 1/2, 1/4 across).

    Args:
        samples: (h, w) uint8 or float32, whose inner part starts on a sample of the plane and spans whole ones.
        log2: subsampling shifts, horizontal then vertical.
        offset: where sample 0 lies, x then y (`colour.chroma_offset`).
        margin: how many columns and rows around the inner part `samples` holds; 1 << log2 each is enough.

    Returns:
        The inner part, (h', w') of the same dtype.
    """
    inner = (samples.shape[1] - 2 * margin[0], samples.shape[0] - 2 * margin[1])
    size = (inner[0] >> log2[0], inner[1] >> log2[1])
    boxes = []
    for step_y in _box_steps(offset[1], 1 << log2[1]):
        for step_x in _box_steps(offset[0], 1 << log2[0]):
            top, left = margin[1] + step_y, margin[0] + step_x
            window = samples[top : top + inner[1], left : left + inner[0]]
            boxes.append(cv2.resize(window, size, interpolation=cv2.INTER_AREA))
    while len(boxes) > 1:
        boxes = [cv2.addWeighted(a, 0.5, b, 0.5, 0) for a, b in zip(boxes[::2], boxes[1::2], strict=True)]
    return boxes[0]


def _box_steps(offset: float, factor: int) -> tuple[int, ...]:
    """By how many px the box grid is shifted so that boxes lie around the plane's samples: one step, or two."""
    shift = offset - (factor - 1) / 2
    low = math.floor(shift)
    return (low,) if shift == low else (low, low + 1)
