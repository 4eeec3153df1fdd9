"""Every file in stages/masks, present and future: shape, range, place, and what far-off landmarks do."""

from __future__ import annotations

import numpy as np
import pytest

from stages import masks, registry

NAMES = registry.names(masks)


@pytest.fixture(params=NAMES)
def draw(request):
    return registry.load(masks, request.param, "draw", "mask.kind")


def some_landmarks(centre: float, spread: float) -> np.ndarray:
    return np.random.default_rng(1).normal(centre, spread, (478, 2)).astype(np.float32)


def test_there_are_masks():
    assert {"hull", "extended"} <= set(NAMES)


@pytest.mark.parametrize("size", [16, 128, 257])
def test_shape_type_and_range(draw, size):
    mask = draw(some_landmarks(size / 2, size / 10), size)
    assert mask.shape == (size, size)
    assert mask.dtype == np.float32
    assert mask.min() == 0.0
    assert mask.max() == 1.0


def test_the_face_is_inside_and_the_corners_are_not(draw):
    mask = draw(some_landmarks(64, 8), 128)
    assert mask[64, 64] == 1.0
    assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()


@pytest.mark.parametrize(("centre", "spread"), [(-1e5, 10.0), (1e6, 1.0), (64, 1e5), (64, 0.0), (0, 20.0)])
def test_any_landmarks_give_a_mask(draw, centre, spread):
    mask = draw(some_landmarks(centre, spread), 128)
    assert np.isfinite(mask).all()
    assert mask.min() >= 0.0
    assert mask.max() <= 1.0


def test_landmarks_are_not_written_to(draw):
    landmarks = some_landmarks(64, 8)
    before = landmarks.copy()
    draw(landmarks, 128)
    assert np.array_equal(landmarks, before)
