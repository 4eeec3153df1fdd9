"""Every file in stages/blenders, present and future: a colour transfer keeps shape and type and writes to nothing."""

from __future__ import annotations

import numpy as np
import pytest

from stages import blenders, registry

NAMES = registry.names(blenders)


@pytest.fixture(params=NAMES)
def transfer(request):
    return registry.load(blenders, request.param, "transfer", "blend.colour")


def faces(side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    swapped, aligned = (draw.integers(0, 256, (side, side, 3)).astype(np.uint8) for _ in range(2))
    mask = np.zeros((side, side), np.float32)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 1.0
    return swapped, aligned, mask


def test_there_are_blenders():
    assert {"none", "lab"} <= set(NAMES)


@pytest.mark.parametrize("side", [16, 64, 256])
def test_shape_and_type(transfer, side):
    swapped, aligned, mask = faces(side)
    before = swapped.copy(), aligned.copy(), mask.copy()
    coloured = transfer(swapped, aligned, mask)
    assert coloured.shape == (side, side, 3)
    assert coloured.dtype == np.uint8
    assert all(np.array_equal(now, then) for now, then in zip((swapped, aligned, mask), before, strict=True))


def test_a_face_in_its_own_colours_stays_as_it_is(transfer):
    _, aligned, mask = faces(64)
    difference = transfer(aligned.copy(), aligned, mask).astype(int) - aligned
    assert np.abs(difference).mean() < 2.0


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_flat_faces_and_empty_masks_are_no_trouble(transfer, level):
    swapped, aligned, mask = faces(64)
    flat = np.full_like(swapped, level)
    for pair in ((flat, aligned), (swapped, flat), (flat, flat)):
        for weight in (mask, np.zeros_like(mask), mask * 0.4):
            assert transfer(*pair, weight).shape == (64, 64, 3)
