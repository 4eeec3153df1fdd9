"""models.train.objective: what is weighed how, and that it adds up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.autoencoder import Decoded
from models.train import losses, recipe
from models.train.batch import Batch
from models.train.objective import Objective, wanted_mask, weighed, widened


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(size: int = 64, count: int = 2) -> Batch:
    """The face is a square in the middle, with an eye in its upper half and the mouth in the lower."""
    target = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size))
    mask, eyes, mouth = (torch.zeros(count, 1, size, size) for _ in range(3))
    at = [size * place // 16 for place in range(17)]
    mask[..., at[4] : at[12], at[4] : at[12]] = 1
    eyes[..., at[5] : at[6], at[5] : at[7]] = 1
    mouth[..., at[10] : at[11], at[7] : at[9]] = 1
    return Batch(target, target, mask, eyes, mouth)


def off(made: Batch, where: tuple[slice, slice]) -> Decoded:
    """The targets, but for an error in some places."""
    pictures = made.target.clone()
    pictures[..., where[0], where[1]] += 0.1
    return Decoded((pictures,))


FACE, BACKGROUND = (slice(35, 37), slice(20, 22)), (slice(2, 4), slice(2, 4))
EYE, MOUTH = (slice(21, 23), slice(21, 23)), (slice(41, 43), slice(29, 31))


def mae(**others: float) -> recipe.Losses:
    return recipe.Losses({"mae": 1.0}, **others)


def test_places_weigh_what_the_recipe_says() -> None:
    made = batch()
    objective = Objective(mae(background=0.1, eyes=3.0, mouth=2.0))
    face, *others = (objective(off(made, where), made)["mae"].item() for where in (FACE, BACKGROUND, EYE, MOUTH))
    assert face == pytest.approx(0.1 * 4 / 64**2, rel=1e-4)
    assert [other / face for other in others] == pytest.approx([0.1, 3, 2], rel=1e-4)
    beside = (slice(31, 33), slice(48, 49))  # the first place beyond the mask: the other's face may be wider
    assert objective(off(made, beside), made)["mae"].item() > 0.7 * face / 2


def test_a_background_of_one_is_no_mask() -> None:
    made = batch()
    for name in losses.names():
        objective = Objective(recipe.Losses({name: 2.0}, background=1, eyes=1, mouth=1))
        decoded = Decoded((made.target.flip(0),))
        plain = losses.load(name).cost(decoded.picture, made.target).mean().item()
        assert objective(decoded, made)[name].item() == pytest.approx(2 * plain, rel=1e-4)


def test_a_background_of_nothing_is_not_looked_at() -> None:
    made = batch()
    for name in losses.names():
        objective = Objective(recipe.Losses({name: 1.0}, background=0))
        assert objective(off(made, BACKGROUND), made)[name].item() == pytest.approx(0, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(side=st.sampled_from([64, 96, 128, 256]), seed=st.integers(0, 1000))
def test_the_face_widens_and_softens(side: int, seed: int) -> None:
    mask = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) > 0.6).float()
    mask = F.interpolate(mask, (side, side))
    wide = widened(mask)
    assert wide.shape == mask.shape
    assert wide.min() >= 0 and wide.max() <= 1 + 1e-6
    assert (wide >= 0.5 * mask).all()
    farther = F.max_pool2d(mask, side // 8 + 1, 1, side // 16)
    assert (wide <= farther + 1e-6).all()  # within a sixteenth of the side from the mask
    assert not wide[farther == 0].any()


def test_how_far_the_face_widens() -> None:
    """Half of the weight lies where the mask, a sixteenth wider in all, ends."""
    for side in (64, 128, 256):
        mask = torch.zeros(1, 1, side, side)
        mask[..., : side // 2] = 1
        row = widened(mask)[0, 0, side // 2]
        assert (row > 0.5).sum().item() == pytest.approx(side // 2 + side / 32, abs=1)
        assert row[side // 2 - side // 16] == pytest.approx(1)
        assert torch.equal(row.sort(descending=True).values, row)
        assert ((row > 0.01) & (row < 0.99)).sum() >= side // 32


def test_weights_are_the_faces_but_for_eyes_and_mouth() -> None:
    made = batch()
    face, weights = weighed(made, mae(background=0.2, eyes=3, mouth=5))
    assert face.min().item() == pytest.approx(0.2)
    assert face.max().item() == pytest.approx(1)
    elsewhere = (made.eyes + made.mouth) == 0
    assert torch.equal(weights[elsewhere], face[elsewhere])
    assert weights[made.eyes == 1].unique().tolist() == pytest.approx([3])
    assert weights[made.mouth == 1].unique().tolist() == pytest.approx([5])


def test_several_sizes_are_averaged() -> None:
    made = batch()
    small = F.interpolate(made.target, (32, 32), mode="area")
    config = recipe.Losses({"mae": 1.0, "ssim": 0.5, "ms_ssim": 1.0})
    objective = Objective(config)
    right = objective(Decoded((small, made.target)), made)
    assert sum(right.values()).item() == pytest.approx(0, abs=1e-5)
    one = objective(Decoded((made.target + 0.1,)), made)
    two = objective(Decoded((small, made.target + 0.1)), made)
    for name in config.terms:
        assert two[name].item() == pytest.approx(one[name].item() / 2, rel=1e-4)
    both = objective(Decoded((small + 0.1, made.target + 0.1)), made)
    assert both["mae"].item() == pytest.approx(one["mae"].item(), rel=1e-3)


def test_every_term_has_its_weight() -> None:
    made, decoded = batch(), Decoded((batch().target.flip(0),))
    terms = {"ssim": 1.0, "mae": 1.0, "mse": 1.0, "gmsd": 1.0}
    single = Objective(recipe.Losses(terms))(decoded, made)
    double = Objective(recipe.Losses({name: 2 * place for place, name in enumerate(terms, 1)}))(decoded, made)
    assert list(single) == list(terms)
    for place, name in enumerate(terms, 1):
        assert double[name].item() == pytest.approx(2 * place * single[name].item())


def test_the_wanted_mask_is_soft_and_clean() -> None:
    mask = torch.zeros(1, 1, 11, 11)
    mask[..., 2:5, 2:5] = 1
    mask[..., 8, 8] = 0.3  # 0.033 once blurred
    wanted = wanted_mask(mask)
    assert wanted[0, 0, 3, 3] == 1
    assert wanted[0, 0, 3, 5].item() == pytest.approx(1 / 3)
    assert wanted[0, 0, 5, 5].item() == pytest.approx(1 / 9)
    assert not wanted[..., 6:, 6:].any()


def test_a_learned_mask_costs_its_error() -> None:
    made = batch()
    right = wanted_mask(made.mask)
    objective = Objective(mae(mask=2.0))
    assert "mask" not in objective(Decoded((made.target,)), made)
    assert "mask" not in Objective(mae(mask=0.0))(Decoded((made.target,), right), made)
    assert objective(Decoded((made.target,), right), made)["mask"].item() == 0
    assert objective(Decoded((made.target,), right - 0.5), made)["mask"].item() == pytest.approx(0.5)
    smaller = F.interpolate(right, (32, 32), mode="area")
    assert objective(Decoded((made.target,), smaller), made)["mask"].item() == pytest.approx(0, abs=1e-9)


def test_terms_are_float32_scalars_with_gradients_under_autocast_too() -> None:
    made = batch()
    pictures = made.target.flip(0).requires_grad_()
    mask = torch.full_like(made.mask, 0.5).requires_grad_()
    config = recipe.Losses({"ssim": 1.0, "mae": 1.0, "ms_ssim": 1.0, "laplacian": 1.0})
    plain = Objective(config)(Decoded((pictures,), mask), made)
    with torch.autocast("cpu", torch.bfloat16):
        cast = Objective(config)(Decoded((pictures,), mask), made)
    for name, term in cast.items():
        assert term.dtype == torch.float32 and term.shape == ()
        assert torch.equal(term, plain[name])
    torch.stack(list(cast.values())).sum().backward()
    gradients: list[Tensor | None] = [pictures.grad, mask.grad]
    assert all(g is not None and torch.isfinite(g).all() and g.any() for g in gradients)
