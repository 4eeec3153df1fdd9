"""models.train.augment: where pixels come from, and what stays the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.train.augment import Switches, draw, plain
from models.train.data import FEATURES, Faces

STILL = Switches(warp=False, flip=False, colour=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramps(size: int = 96, reach: float = 2 / 3) -> Faces:
    """Red tells x, green tells y, blue is 128; the weight is that of skin."""
    ramp = np.linspace(0, 255, size).round().astype(np.uint8)
    picture = np.empty((1, size, size, 4), np.uint8)
    picture[..., 0] = ramp[None, None, :]
    picture[..., 1] = ramp[None, :, None]
    picture[..., 2] = 128
    picture[..., 3] = round(255 / FEATURES)
    return Faces(torch.from_numpy(picture), reach)


def test_plain_is_the_middle_of_the_crop() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    rgbw = np.dstack([smooth, np.zeros((96, 96), np.uint8)])[None]
    seen = plain(Faces(torch.from_numpy(rgbw), 2 / 3), torch.tensor([0]), 64)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen * 255, smooth[16:80, 16:80], atol=1e-3)  # 64 of 96: no px is between two


def test_without_warp_input_and_target_are_one() -> None:
    batch = draw(ramps(), 8, (64, 64), STILL, generator())
    assert torch.equal(batch.input, batch.target)
    assert batch.weight.shape == (8, 1, 64, 64)
    assert batch.weight.mean().item() == pytest.approx(1, abs=0.01)


def test_the_warp_moves_the_input_only_and_by_little() -> None:
    still = draw(ramps(), 32, (64, 64), STILL, generator(3))
    warped = draw(ramps(), 32, (64, 64), Switches(True, False, False), generator(3))
    assert torch.equal(still.target, warped.target)
    moved_px = (warped.input - warped.target)[:, :2] * 96  # ramps: a level is a place
    deviation = moved_px.std().item() / 96 * 1.5  # of the model's square
    assert 0.3 * 5 / 256 < deviation < 1.2 * 5 / 256
    centre = moved_px[:, :, 32, 32]
    assert (centre.std(0) > 0.2).all()


def test_sizes_may_differ() -> None:
    for switches in (STILL, Switches()):
        batch = draw(ramps(), 2, (32, 64), switches, generator())
        assert batch.input.shape == (2, 3, 32, 32)
        assert batch.target.shape == (2, 3, 64, 64)


def test_half_are_mirrored_input_and_target_alike() -> None:
    batch = draw(ramps(), 64, (64, 64), Switches(False, True, False), generator())
    rising = batch.target[:, 0, 32, 60] > batch.target[:, 0, 32, 4]
    assert 20 < rising.sum() < 44
    assert torch.equal(batch.input, batch.target)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.4, 1))
def test_turns_zooms_and_shifts_stay_within_bounds(seed: int, reach: float) -> None:
    target = draw(ramps(96, reach), 16, (64, 64), STILL, generator(seed)).target
    x, y = (target[:, c, 32, 32] * 2 - 1 for c in (0, 1))
    assert (x.abs() < 0.15 * reach + 0.03).all()  # shifted by at most 5 % of the square, which is 2 wide
    assert (y.abs() < 0.15 * reach + 0.03).all()
    across = (target[:, :2, 32, 48] - target[:, :2, 32, 16]) * 2
    angle = torch.atan2(across[:, 1], across[:, 0]).rad2deg()
    assert (angle.abs() < 11).all()
    down = (target[:, :2, 48, 32] - target[:, :2, 16, 32]) * 2
    assert torch.allclose(down, torch.stack((-across[:, 1], across[:, 0]), 1), atol=0.02)  # no shear
    length = across.square().sum(1).sqrt() / reach
    assert ((length > 0.93) & (length < 1.07)).all()


def test_colour_changes_both_alike_and_stays_in_range() -> None:
    batch = draw(ramps(), 32, (64, 64), Switches(False, False, True), generator())
    assert torch.equal(batch.input, batch.target)
    assert batch.target[:, 2].mean((1, 2)).std() > 0.02
    assert batch.target.min() >= 0
    assert batch.target.max() <= 1


def test_the_generator_decides_everything() -> None:
    one, other, third = (draw(ramps(), 4, (64, 64), Switches(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.input, other.input)
    assert torch.equal(one.target, other.target)
    assert not torch.equal(one.input, third.input)
