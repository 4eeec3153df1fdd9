"""Mean and deviation in CIELAB: the swapped face takes the light and the skin tone of the one it replaces.

Reinhard, Ashikhmin, Gooch and Shirley, "Color Transfer between Images", IEEE CG&A 21(5), 2001: each channel of the
one is shifted and scaled to the other's mean and standard deviation (CIELAB here in place of their l-alpha-beta).
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.types import Array

#: Below so many px under the mask, means and deviations say nothing.
_FEWEST_PX = 64
#: A channel's contrast is never changed by more than this factor: a hand before the face must not burn it out.
_MOST_CONTRAST = 1.6


def transfer(swapped: Array, aligned: Array, mask: Array) -> Array:
    """Matches the mean and deviation of L*, a* and b* under the mask (where it is above one half).

    Args:
        swapped: (T, T, 3) uint8 RGB, full range.
        aligned: (T, T, 3) uint8 RGB, full range, over the same square.
        mask: (T, T) float32 0..1.

    Returns:
        (T, T, 3) uint8 RGB; `swapped` itself where the mask covers too little to measure.
    """
    core = (mask > 0.5).astype(np.uint8)
    if cv2.countNonZero(core) < _FEWEST_PX:
        return swapped
    lab = cv2.cvtColor(swapped, cv2.COLOR_RGB2LAB)
    from_mean, from_deviation = (part.ravel() for part in cv2.meanStdDev(lab, mask=core))
    wanted = cv2.cvtColor(aligned, cv2.COLOR_RGB2LAB)
    to_mean, to_deviation = (part.ravel() for part in cv2.meanStdDev(wanted, mask=core))
    # A flat channel (deviation under one step of 255) has no contrast to stretch: only noise.
    gain = np.where(np.minimum(from_deviation, to_deviation) < 1.0, 1.0, to_deviation / np.maximum(from_deviation, 1.0))
    gain = np.clip(gain, 1.0 / _MOST_CONTRAST, _MOST_CONTRAST)
    levels = np.arange(256.0)[:, None]
    table = np.clip(np.round((levels - from_mean) * gain + to_mean), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(lab, table[None]), cv2.COLOR_LAB2RGB)
