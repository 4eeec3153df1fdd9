"""Mean and deviation in CIELAB: the face takes the other's tone, within reason."""

from __future__ import annotations

import cv2
import numpy as np

from stages.blenders import lab

MASK = np.zeros((96, 96), np.float32)
cv2.circle(MASK, (48, 48), 40, 1.0, -1)
CORE = (MASK > 0.5).astype(np.uint8)


def textured(tone: tuple[int, int, int], contrast: float) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(3).normal(0, 1, (96, 96)), (0, 0), 3)
    return np.clip(np.array(tone) + noise[..., None] / noise.std() * contrast, 0, 255).astype(np.uint8)


def statistics(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, deviation = cv2.meanStdDev(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), mask=CORE)
    return mean.ravel(), deviation.ravel()


def test_the_mean_and_the_deviation_become_the_others():
    swapped, aligned = textured((120, 140, 200), 12), textured((190, 140, 120), 16)
    mean, deviation = statistics(lab.transfer(swapped, aligned, MASK))
    wanted_mean, wanted_deviation = statistics(aligned)
    assert np.abs(mean - wanted_mean).max() < 1.5
    assert abs(deviation[0] - wanted_deviation[0]) < 1.0


def test_only_what_is_under_the_mask_is_measured():
    swapped, aligned = textured((120, 140, 200), 12), textured((190, 140, 120), 16)
    other = aligned.copy()
    other[CORE == 0] = (0, 255, 0)
    assert np.array_equal(lab.transfer(swapped, aligned, MASK), lab.transfer(swapped, other, MASK))


def test_contrast_is_not_blown_up():
    swapped, aligned = textured((120, 120, 120), 4), textured((120, 120, 120), 60)
    assert statistics(lab.transfer(swapped, aligned, MASK))[1][0] < 1.8 * statistics(swapped)[1][0]


def test_a_mask_of_a_few_px_changes_nothing():
    swapped, aligned = textured((120, 140, 200), 12), textured((190, 140, 120), 16)
    few = np.zeros_like(MASK)
    few[40:44, 40:44] = 1.0
    assert np.array_equal(lab.transfer(swapped, aligned, few), swapped)
