"""The usual way to put a face back, as the reference for speed and picture: whole frames in float32 RGB.

Written from the standards' equations alone (BT.601 and BT.709, limited range, centred 4:2:0 chroma), without any of
the project's own colour code, so that agreement with it means something.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

#: Kr, Kb.
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


def to_rgb(planes: Planes, weights: tuple[float, float]) -> NDArray[np.float32]:
    """Limited-range yuv420p planes to (h, w, 3) float32 RGB, 0..255 and a little beyond."""
    kr, kb = weights
    luma, blue, red = (plane.astype(np.float32) for plane in planes)
    size = (luma.shape[1], luma.shape[0])
    blue, red = (cv2.resize((c - 128) * (255 / 224), size, interpolation=cv2.INTER_LINEAR) for c in (blue, red))
    luma = (luma - 16) * (255 / 219)
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    return np.dstack([r, (luma - kr * r - kb * b) / (1 - kr - kb), b])


def paste(rgb: NDArray[np.float32], patch: NDArray[np.uint8], mask: NDArray, patch_to_frame: NDArray) -> NDArray:
    """Mixes a patch, (T, T, 3) uint8 RGB with its (T, T) float32 mask 0..1, over the whole frame, in float32."""
    size = (rgb.shape[1], rgb.shape[0])
    warped = cv2.warpAffine(patch.astype(np.float32), patch_to_frame, size, flags=cv2.INTER_CUBIC)
    alpha = cv2.warpAffine(mask.astype(np.float32), patch_to_frame, size, flags=cv2.INTER_LINEAR)[:, :, None]
    return alpha * warped + (1 - alpha) * rgb


def to_planes(rgb: NDArray, weights: tuple[float, float]) -> Planes:
    """(h, w, 3) float RGB back to yuv420p planes, chroma averaged over 2 x 2 px."""
    kr, kb = weights
    r, g, b = cv2.split(rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    half = (rgb.shape[1] // 2, rgb.shape[0] // 2)
    blue = cv2.resize((b - luma) / (2 * (1 - kb)), half, interpolation=cv2.INTER_AREA)
    red = cv2.resize((r - luma) / (2 * (1 - kr)), half, interpolation=cv2.INTER_AREA)
    coded = (luma * (219 / 255) + 16, blue * (224 / 255) + 128, red * (224 / 255) + 128)
    y, u, v = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in coded)
    return y, u, v
