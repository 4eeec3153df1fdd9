"""models.train.style: textures are told apart wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.train import style
from models.train.style import style_loss


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def texture(seed: int, stretch: tuple[int, int] = (1, 1), depth: float = 0.15) -> Tensor:
    """Skin-coloured noise, its grains stretched down and across."""
    generator = torch.Generator().manual_seed(seed)
    grains = torch.randn(2, 1, 64 // stretch[0], 64 // stretch[1], generator=generator)
    skin = torch.tensor((0.8, 0.6, 0.5)).view(1, 3, 1, 1)
    return (skin + depth * F.interpolate(grains, (64, 64))).clamp(0, 1)


EVERYWHERE = torch.ones(2, 1, 64, 64)


def compare(one: Tensor, other: Tensor) -> float:
    return style_loss(one, EVERYWHERE, other, EVERYWHERE).item()


def test_the_filters_are_what_they_are_said_to_be() -> None:
    filters = style._filters(torch.device("cpu"))
    flat = filters.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(len(flat)), atol=1e-6, rtol=0)
    assert filters.sum((2, 3)).abs().max() < 1e-6
    drawn_again = style._filters.__wrapped__(torch.device("cpu"))
    assert torch.equal(filters, drawn_again)


def test_the_same_texture_elsewhere_costs_nearly_nothing() -> None:
    one = texture(0, (1, 4))
    assert compare(one, one) == pytest.approx(0, abs=1e-6)
    assert compare(one, one.roll((16, 24), (2, 3))) < 0.01
    assert compare(one, texture(1, (1, 4))) < 0.01


def test_other_textures_cost_more() -> None:
    one = texture(0, (1, 4))
    same = compare(one, texture(1, (1, 4)))
    for other in (texture(1, (4, 1)), texture(1), texture(1, (1, 4), 0.05), texture(1, (1, 4)).flip(1)):
        assert compare(one, other) > 3 * same
    assert compare(one, texture(1, (4, 1))) == pytest.approx(compare(texture(1, (4, 1)), one), rel=0.5)


def test_strong_features_do_not_drown_the_others() -> None:
    features = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(0))
    strengths = torch.tensor((1.0, 0.01, 3.0, 0.1, 1.0, 1.0)).view(6, 1)
    plain, stronger = (f @ f.transpose(1, 2) for f in (features, strengths * features))
    assert style._difference(*stronger).item() == pytest.approx(style._difference(*plain).item(), rel=1e-3)


def test_a_smooth_swap_costs_the_more_the_smoother_it_is() -> None:
    real = texture(0)
    smooth = [compare(F.avg_pool2d(real, side, 1, side // 2), real) for side in (1, 3, 5, 9)]
    assert smooth == sorted(smooth)
    assert smooth[1] > 0.05


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), level=st.floats(0, 1), size=st.sampled_from([32, 64, 96]))
def test_it_is_from_0_to_1(seed: int, level: float, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(1, 3, size, size, generator=generator)
    flat = torch.full((3, 3, size, size), level)
    mask = (torch.rand(1, 1, size, size, generator=generator) > 0.5).float()
    for value in (
        style_loss(one, mask, flat, torch.ones(3, 1, size, size)),
        style_loss(flat, torch.ones(3, 1, size, size), one, mask),
    ):
        assert 0 <= value.item() <= 1 + 1e-5


def test_only_the_face_counts() -> None:
    mask = torch.zeros(2, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    real, swapped = texture(0), texture(1)
    before = style_loss(swapped, mask, real, mask)
    far = torch.ones(2, 1, 64, 64)
    far[..., 4:60, 4:60] = 0  # beyond the reach of a filter at the coarsest scale
    changed = torch.where(far > 0, torch.rand(2, 3, 64, 64), swapped)
    assert torch.equal(style_loss(changed, mask, real, mask), before)
    assert style_loss(swapped, EVERYWHERE, changed, EVERYWHERE) > 2 * style_loss(swapped, mask, changed, mask)


def test_only_the_swap_learns() -> None:
    leaves = [x.clone().requires_grad_() for x in (texture(0), EVERYWHERE, texture(1, (2, 2)), EVERYWHERE)]
    style_loss(*leaves).backward()
    gradient = leaves[0].grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.any()
    assert all(leaf.grad is None for leaf in leaves[1:])


def test_nothing_breaks_where_there_is_nothing_to_see() -> None:
    for level in (0.0, 0.5, 1.0):
        for masks in (EVERYWHERE, torch.zeros_like(EVERYWHERE)):
            flat = torch.full((2, 3, 64, 64), level, requires_grad=True)
            for real in (texture(0), torch.zeros(2, 3, 64, 64)):
                loss = style_loss(flat, masks, real, EVERYWHERE)
                loss.backward()
                assert torch.isfinite(loss)
                assert flat.grad is not None and torch.isfinite(flat.grad).all()


def test_a_few_steps_bring_a_picture_nearer() -> None:
    real = texture(0, (1, 4))
    picture = texture(1, (2, 2), 0.05).requires_grad_()
    optimiser = torch.optim.Adam([picture], 0.01)
    first = style_loss(picture, EVERYWHERE, real, EVERYWHERE).item()
    for _ in range(30):
        optimiser.zero_grad()
        style_loss(picture, EVERYWHERE, real, EVERYWHERE).backward()
        optimiser.step()
    assert style_loss(picture, EVERYWHERE, real, EVERYWHERE).item() < 0.2 * first


def test_autocast_changes_nothing() -> None:
    one, other = texture(0), texture(1, (2, 2))
    plain = style_loss(one, EVERYWHERE, other, EVERYWHERE)
    with torch.autocast("cpu", torch.bfloat16):
        cast = style_loss(one, EVERYWHERE, other, EVERYWHERE)
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)
