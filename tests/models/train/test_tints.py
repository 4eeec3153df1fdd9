"""models.train.tints: CIELAB is right, and colours go where they are sent."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.train import tints
from models.train.augment import throw
from models.train.recipe import Augment

NO_JITTER = Augment(lightness=0, colour=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces(count: int = 4, size: int = 48, seed: int = 0, light: float = 0.5) -> torch.Tensor:
    """Faces of one tint each, a round mask, black about it."""
    rng = np.random.default_rng(seed)
    crops = np.zeros((count, size, size, 6), np.uint8)
    noise = rng.normal(0, 20, (count, size, size, 3)) + rng.uniform(60, 200, (count, 1, 1, 3)) * light * 2
    for crop, picture in zip(crops, noise, strict=True):
        mask = np.zeros((size, size), np.uint8)
        cv2.circle(mask, (size // 2, size // 2), size // 3, (255,), cv2.FILLED)
        crop[..., :3] = np.where(mask[..., None] > 0, picture.clip(0, 255), 0).astype(np.uint8)
        crop[..., 3] = mask
    return torch.from_numpy(crops)


def pictures(crops: torch.Tensor) -> torch.Tensor:
    return crops[..., :3].permute(0, 3, 1, 2).float() / 255


def test_lab_has_its_textbook_values() -> None:
    known = {
        (1, 1, 1): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
        (1, 0, 0): (53.24, 80.09, 67.20),
        (0, 1, 0): (87.73, -86.18, 83.18),
        (0, 0, 1): (32.30, 79.19, -107.86),
        (0.5, 0.5, 0.5): (53.39, 0, 0),
    }
    rgb = torch.tensor(list(known), dtype=torch.float32)[:, :, None, None]
    assert torch.allclose(tints.to_lab(rgb)[:, :, 0, 0], torch.tensor(list(known.values())).float(), atol=0.02)


def test_lab_agrees_with_opencv() -> None:
    rgb = torch.rand(2, 3, 16, 16, generator=generator())
    for row, lab in zip(rgb, tints.to_lab(rgb), strict=True):
        theirs = cv2.cvtColor(row.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2LAB)
        np.testing.assert_allclose(lab.permute(1, 2, 0).numpy(), theirs, atol=0.3)  # OpenCV interpolates in a table


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 0.05, 0.003]))
def test_lab_and_back_is_the_same(seed: int, brightest: float) -> None:
    rgb = torch.rand(2, 3, 9, 7, generator=generator(seed)) * brightest
    assert (tints.from_lab(tints.to_lab(rgb)) - rgb).abs().max() < 2e-5


def test_every_level_survives_lab() -> None:
    rgb = (torch.arange(256) / 255)[None, None, :, None].expand(1, 3, 256, 1)
    assert torch.equal((tints.from_lab(tints.to_lab(rgb)) * 255).round(), (rgb * 255).round())


def test_colours_that_are_none_are_cut_off() -> None:
    lab = torch.tensor([[120.0, 0, 0], [-10, 0, 0], [50, 200, -200]])[:, :, None, None]
    rgb = tints.from_lab(lab)
    assert rgb.isfinite().all() and rgb.min() >= 0 and rgb.max() <= 1
    assert rgb[0].min() > 0.999 and rgb[1].max() < 0.001


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.3), st.floats(0, 0.1))
def test_lightness_and_colour_stay_within_their_bounds(seed: int, lightness: float, colour: float) -> None:
    config = Augment(lightness=lightness, colour=colour)
    crops = torch.full((8, 4, 4, 6), 128, dtype=torch.uint8)
    tint = tints.drawn(throw(8, generator(seed)), config, crops, None)
    if not lightness and not colour:
        assert tint is None
        return
    assert tint is not None
    for level in (0.0, 50.0, 100.0):
        moved = tint.gain[:, 0] * level + tint.offset[:, 0] - level
        assert (moved.abs() <= 100 * lightness + 1e-3).all()
    assert (tint.gain[:, 1:] == 1).all()
    assert (tint.offset[:, 1:].abs() <= 128 * colour + 1e-3).all()


def test_lightness_and_colour_are_of_use() -> None:
    tint = tints.drawn(
        throw(500, generator()), Augment(colour=0.05), torch.zeros(500, 4, 4, 6, dtype=torch.uint8), None
    )
    assert tint is not None
    assert tint.offset[:, 0].std() > 4 and tint.gain[:, 0].std() > 0.05
    assert (tint.offset[:, 1:].std(0) > 3).all()
    assert abs(np.corrcoef(tint.offset[:, 1, 0, 0], tint.offset[:, 2, 0, 0])[0, 1]) < 0.2


def test_a_transfer_gives_a_face_the_other_ones_colours() -> None:
    own, theirs = faces(4, seed=1, light=0.7), faces(4, seed=2)
    config = Augment(lightness=0, colour=0, transfer=1)
    tint = tints.drawn(throw(4, generator()), config, own, theirs)
    assert tint is not None
    inside = own[:, None, :, :, 3] > 0
    before, wanted, got = (tints.to_lab(rgb) for rgb in (pictures(own), pictures(theirs), tint(pictures(own))))
    for face in range(4):
        mean = [lab[face][inside[face].expand(3, -1, -1)].view(3, -1).mean(1) for lab in (before, wanted, got)]
        assert (mean[2] - mean[1]).abs().max() < 3
        assert (mean[0] - mean[1]).abs().max() > 6  # they did differ


def test_a_transfer_meets_its_share_and_leaves_the_others_to_the_bit() -> None:
    own = faces(200, 16)
    thrown = throw(200, generator())
    config = Augment(lightness=0, colour=0, transfer=0.3)
    rows = tints.transferred(thrown, config)
    assert len(rows) == pytest.approx(60, abs=20)
    tint = tints.drawn(thrown, config, own, faces(len(rows), 16, seed=3))
    assert tint is not None
    changed = (tint(pictures(own)) != pictures(own)).flatten(1).any(1)
    assert changed.nonzero()[:, 0].tolist() == rows.tolist()


def test_what_is_transferred_is_tinted_as_well() -> None:
    own, thrown, plain = faces(200, 16), throw(200, generator()), Augment(lightness=0, colour=0, transfer=0.3)
    rows = tints.transferred(thrown, plain)
    sources = faces(len(rows), 16, seed=3)
    tint = tints.drawn(thrown, plain, own, sources)
    assert tint is not None
    jitter = Augment(transfer=0.3)
    both = tints.drawn(thrown, jitter, own, sources)
    alone = tints.drawn(thrown, Augment(), own, None)
    assert both is not None and alone is not None
    rest = torch.ones(200, dtype=torch.bool)
    rest[rows] = False
    lab = tints.to_lab(pictures(own)[rows])
    after = (lab * tint.gain + tint.offset) * alone.gain[rows] + alone.offset[rows]
    assert torch.allclose(lab * both.gain[rows] + both.offset[rows], after, atol=1e-3)
    assert torch.equal(both.gain[rest], alone.gain[rest]) and torch.equal(both.offset[rest], alone.offset[rest])


def test_flat_and_maskless_faces_do_not_upset_a_transfer() -> None:
    flat = torch.full((2, 16, 16, 6), 90, dtype=torch.uint8)
    flat[..., 3] = 0
    tint = tints.drawn(throw(2, generator()), Augment(lightness=0, colour=0, transfer=1), flat, faces(2, 16))
    assert tint is not None
    assert tint.gain.max() <= 2 and tint.gain.min() >= 0.5
    assert tint(pictures(flat)).isfinite().all()


def test_nothing_drawn_is_nothing_done() -> None:
    assert tints.drawn(throw(4, generator()), NO_JITTER, faces(), None) is None
    crops = faces()
    assert tints.equalised(crops, throw(4, generator()), Augment(clahe=0)) is crops


def test_equalising_raises_contrast_of_the_chosen_and_leaves_masks() -> None:
    crops = torch.from_numpy(np.random.default_rng(0).integers(100, 130, (60, 32, 32, 6), np.uint8))
    before = crops.clone()
    thrown = throw(60, generator())
    done = tints.equalised(crops, thrown, Augment(clahe=0.5, clahe_limit=20))
    assert torch.equal(crops, before)
    assert torch.equal(done[..., 3:], crops[..., 3:])
    chosen = thrown["clahe"] < 0.5
    changed = (done != crops).flatten(1).any(1)
    assert torch.equal(changed, chosen)
    contrast = [lot[chosen][..., :3].float().mean(3).flatten(1).std(1).mean() for lot in (crops, done)]
    assert contrast[1] > 1.3 * contrast[0]
    tame = tints.equalised(crops, thrown, Augment(clahe=0.5, clahe_limit=1))
    assert tame[chosen][..., :3].float().mean(3).flatten(1).std(1).mean() < contrast[1]
