"""models.discriminators: shapes, what a verdict depends on, and bounded slopes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models.discriminators import CodeDiscriminator, PatchDiscriminator


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "side"), [(64, 16), (96, 24), (128, 32), (256, 32)])
def test_every_patch_and_every_place_gets_a_verdict(size: int, side: int) -> None:
    network = PatchDiscriminator(size, people=3)
    patches, places = network(torch.rand(2, 3, size, size), torch.tensor([0, 2]))
    assert patches.shape == (2, side, side)
    assert places.shape == (2, size, size)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_a_patch_is_about_an_eighth_of_the_side(size: int) -> None:
    network = PatchDiscriminator(size, people=1).eval()
    picture = torch.rand(1, 3, size, size, requires_grad=True)
    patches, _ = network(picture, torch.tensor([0]))
    middle = patches.shape[-1] // 2
    patches[0, middle, middle].backward()
    assert picture.grad is not None
    seen = picture.grad[0].abs().sum(0) > 0
    assert size / 16 <= seen.any(0).sum() <= size / 4


def test_people_have_verdicts_of_their_own() -> None:
    network = PatchDiscriminator(64, people=2).eval()
    picture = torch.rand(1, 3, 64, 64)
    both = network(torch.cat((picture, picture)), torch.tensor([0, 1]))
    for verdict in both:
        assert not torch.allclose(verdict[0], verdict[1])
    alone = network(picture, torch.tensor([1]))
    for verdict, single in zip(both, alone, strict=True):
        torch.testing.assert_close(verdict[1:], single)


@pytest.mark.parametrize("shape", [(32, 16, 16), (8, 4, 4), (8, 6, 3), (64,)])
def test_codes_of_any_shape_are_told(shape: tuple[int, ...]) -> None:
    network = CodeDiscriminator(shape, people=3).eval()
    codes = torch.randn(5, *shape)
    assert network(codes).shape == (5, 3)
    torch.testing.assert_close(network(codes), network(1000 * codes))  # small codes are no way to hide
    assert torch.isfinite(network(torch.zeros_like(codes))).all()


def test_slopes_are_bounded() -> None:
    """A place's verdict changes by no more than the product of its layers' bounds, however large the weights."""
    network = CodeDiscriminator((64,), people=2).eval()
    before = network(torch.ones(1, 64))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("parametrizations.weight.original"):
                weight.mul_(100)
    network.train()
    for _ in range(3):
        after = network(torch.ones(1, 64))
    assert (after - before).abs().max() < 1
