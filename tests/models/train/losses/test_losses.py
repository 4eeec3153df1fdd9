"""What holds of every loss in models/train/losses; a new file there is covered without a change here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.train import losses, recipe
from pipeline.errors import ConfigError

NAMES = losses.names()
LOCAL = [name for name in NAMES if not losses.load(name).whole]
WHOLE = [name for name in NAMES if losses.load(name).whole]
#: Blind to what is the same everywhere.
OF_DETAIL = {"gmsd", "gradient"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(seed: int, size: int = 64, count: int = 2) -> Tensor:
    """Pictures with both coarse and fine structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(count, 3, 6, 6, generator=generator), (size, size), mode="bicubic")
    return (coarse + 0.1 * torch.randn(count, 3, size, size, generator=generator)).clamp(0, 1)


def ones(pictures: Tensor) -> Tensor:
    return torch.ones_like(pictures[:, :1])


def cost(name: str, pictures: Tensor, targets: Tensor) -> Tensor:
    return losses.load(name)(pictures, targets, ones(pictures), ones(pictures))


def slope(name: str, pictures: Tensor, targets: Tensor) -> Tensor:
    leaf = pictures.clone().requires_grad_()
    cost(name, leaf, targets).backward()
    assert leaf.grad is not None
    return leaf.grad


def test_the_recipe_knows_every_file() -> None:
    assert recipe.LOSSES == NAMES
    with pytest.raises(ConfigError, match="no loss named 'dssim'; there are: focal_frequency"):
        losses.load("dssim")


@pytest.mark.parametrize("name", NAMES)
def test_the_shape_is_what_the_module_says(name: str) -> None:
    a, b = drawn(0, 64, 3), drawn(1, 64, 3)
    loss = losses.load(name)
    costs = loss.cost(a, b)
    assert costs.dtype == torch.float32
    if loss.whole:
        assert costs.shape == (3,)
    else:
        assert costs.shape[:2] == (3, 1)
        assert all(16 <= side <= 64 for side in costs.shape[2:])
    for place in range(3):  # pictures have nothing to do with each other
        alone = loss.cost(a[place : place + 1], b[place : place + 1])
        torch.testing.assert_close(alone[0], costs[place], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [16, 48, 64, 72, 128])
@pytest.mark.parametrize("name", NAMES)
def test_every_size_has_a_cost(name: str, size: int) -> None:
    value = cost(name, drawn(0, size), drawn(1, size)).item()
    assert 0 < value < 2


@pytest.mark.parametrize("name", NAMES)
def test_equal_pictures_cost_nothing_and_give_no_nan(name: str) -> None:
    same = drawn(0)
    assert cost(name, same, same.clone()).item() == pytest.approx(0, abs=2e-6)
    assert slope(name, same, same.clone()).abs().max() < 1e-4
    for level in (0.0, 0.5, 1.0):
        for other in (0.0, 0.5, 1.0):
            flat, wanted = torch.full((1, 3, 64, 64), level), torch.full((1, 3, 64, 64), other)
            assert torch.isfinite(slope(name, flat, wanted)).all()
            assert torch.isfinite(cost(name, flat, wanted))
        assert torch.isfinite(slope(name, torch.full_like(same, level), same)).all()
        assert torch.isfinite(slope(name, same, torch.full_like(same, level))).all()
    assert torch.isfinite(slope(name, 1 - same, same)).all()  # the opposite: no structure in common


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), amount=st.floats(0.01, 0.3))
@pytest.mark.parametrize("name", NAMES)
def test_a_cost_grows_with_the_error_and_is_symmetric(name: str, seed: int, amount: float) -> None:
    target = 0.2 + 0.6 * drawn(seed % 97, 32, 1)
    error = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    little, much = target + 0.3 * amount * error, target + amount * error
    assert 0 < cost(name, little, target) < cost(name, much, target)
    torch.testing.assert_close(cost(name, much, target), cost(name, target, much), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_flat_error(name: str) -> None:
    target = 0.25 + 0.5 * drawn(2)
    value = cost(name, target + 0.1, target).item()
    if name in OF_DETAIL:
        assert value == pytest.approx(0, abs=1e-4)
    else:
        assert value > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_say_where_an_error_counts(name: str) -> None:
    """The face is the left half, an error outside weighs a tenth."""
    target = 0.2 + 0.6 * drawn(3)
    noise = 0.2 * (torch.rand(target.shape, generator=torch.Generator().manual_seed(3)) - 0.5)
    weights = torch.full((2, 1, 64, 64), 0.1)
    weights[..., :32] = 1
    left, right = noise.clone(), noise.clone()
    left[..., 30:], right[..., :34] = 0, 0
    loss = losses.load(name)
    inside, outside = (loss(target + error, target, weights, weights).item() for error in (left, right))
    one = ones(target)
    full = [loss(target + error, target, one, one).item() for error in (left, right)]
    if loss.whole:  # and at most a tenth where the cost is of a higher order than the first
        assert inside == pytest.approx(full[0], rel=1e-4)
        assert 0 < outside < (0.11 if name != "gmsd" else 0.3) * full[1]
    else:  # where the window of an error's cost reaches over the border it is a little more
        assert inside == pytest.approx(full[0], rel=0.1)
        assert outside == pytest.approx(0.1 * full[1], rel=0.25)
        assert loss(target + left, target, 3 * weights, weights).item() == pytest.approx(3 * inside, rel=1e-5)
    nothing = torch.zeros_like(weights)
    assert loss(target + noise, target, nothing, nothing).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOCAL)
def test_a_place_of_the_map_is_where_the_error_is(name: str) -> None:
    target = 0.5 * drawn(4, 64, 1)
    changed = target.clone()
    changed[:, :, 12:20, 40:48] += 0.4
    costs = losses.load(name).cost(changed, target)[0, 0]
    height, width = costs.shape
    near = costs[8 * height // 64 : 24 * height // 64, 36 * width // 64 : 52 * width // 64]
    assert near.sum() > 0.7 * costs.sum()
    row, column = divmod(int(costs.argmax()), width)
    assert 10 <= row * 64 / height <= 21 and 38 <= column * 64 / width <= 49


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_bring_a_picture_nearer(name: str) -> None:
    target = 0.2 + 0.6 * drawn(5, 32, 1)
    picture = torch.rand(target.shape, generator=torch.Generator().manual_seed(5)).requires_grad_()
    optimiser = torch.optim.Adam([picture], 0.02)
    first = cost(name, picture, target).item()
    began = detail(picture, target) if name in OF_DETAIL else distance(picture, target)
    for _ in range(60):
        optimiser.zero_grad()
        cost(name, picture, target).backward()
        optimiser.step()
        with torch.no_grad():
            picture.clamp_(0, 1)
    assert cost(name, picture, target).item() < 0.8 * first
    ended = detail(picture, target) if name in OF_DETAIL else distance(picture, target)
    assert ended < began


def distance(pictures: Tensor, targets: Tensor) -> float:
    return float((pictures - targets).detach().abs().mean())


def detail(pictures: Tensor, targets: Tensor) -> float:
    """How far edges are from each other in strength: brightness at half the size, smoothed."""
    halves = [F.avg_pool2d(x.detach().mean((0, 1))[None], 2) for x in (pictures, targets)]
    strengths = [np.hypot(*np.gradient(F.avg_pool2d(x, 3, 1)[0].numpy())) for x in halves]
    return float(np.abs(strengths[0] - strengths[1]).mean())
