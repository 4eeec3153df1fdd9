"""models.initialisers: distributions, orthogonal filters, neighbours that start alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import initialisers


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def filled(start: Callable[[Tensor], object], *shape: int) -> Tensor:
    weight = torch.full(shape, float("nan"))
    start(weight)
    return weight


@pytest.mark.parametrize(
    ("start", "variance"),
    [
        (initialisers.he_uniform, 2 / (32 * 9)),
        (initialisers.glorot_uniform, 2 / ((32 + 64) * 9)),
        (initialisers.variance_scaling(0.2), 0.2 / (32 * 9)),
        (initialisers.normal(0.02), 0.02**2),
        (initialisers.convolution_aware, 2 / (32 * 9)),
        (initialisers.icnr(initialisers.he_uniform, 2), 2 / (32 * 9)),
    ],
)
def test_variance(start: Callable[[Tensor], object], variance: float) -> None:
    weight = filled(start, 64, 32, 3, 3)
    assert weight.var().item() == pytest.approx(variance, rel=0.05)
    assert abs(weight.mean()) < 0.1 * variance**0.5


def test_uniform_ones_have_bounds() -> None:
    assert filled(initialisers.he_uniform, 64, 32, 3, 3).abs().max() <= (6 / (32 * 9)) ** 0.5
    assert filled(initialisers.variance_scaling(0.2), 64, 32, 3, 3).abs().max() <= (0.6 / (32 * 9)) ** 0.5
    assert filled(initialisers.glorot_uniform, 64, 32).abs().max() <= (6 / 96) ** 0.5


def test_variance_of_a_dense_layer_and_of_a_channel_alone() -> None:
    assert filled(initialisers.variance_scaling(1), 400, 100).var().item() == pytest.approx(1 / 100, rel=0.05)
    assert filled(initialisers.he_uniform, 400, 1, 5, 5).var().item() == pytest.approx(2 / 25, rel=0.05)


@pytest.mark.parametrize(("inputs", "kernel"), [(9, 3), (5, 3), (25, 5), (20, 3)])
def test_filters_of_one_output_are_orthogonal_in_fourier_space(inputs: int, kernel: int) -> None:
    weight = filled(initialisers.convolution_aware, 6, inputs, kernel, kernel)
    basis = torch.fft.fft2(weight[:, : kernel**2], norm="ortho").flatten(2)
    products = (basis @ basis.mH).real
    lengths = products.diagonal(dim1=1, dim2=2)
    others = products - torch.diag_embed(lengths)
    assert others.abs().max() < 0.35 * lengths.mean()  # the noise that breaks ties
    assert others.pow(2).mean().sqrt() < 0.1 * lengths.mean()
    plain = torch.fft.fft2(filled(initialisers.he_uniform, 6, inputs, kernel, kernel), norm="ortho").flatten(2)
    gram = (plain @ plain.mH).real
    off = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
    assert off.abs().max() > 0.3 * gram.diagonal(dim1=1, dim2=2).mean()  # which is no matter of course


def test_each_output_has_filters_of_its_own() -> None:
    weight = filled(initialisers.convolution_aware, 4, 9, 3, 3).flatten(1)
    assert torch.corrcoef(weight).fill_diagonal_(0).abs().max() < 0.5


def test_a_kernel_of_one_falls_back_to_he() -> None:
    weight = filled(initialisers.convolution_aware, 64, 32, 1, 1)
    assert weight.var().item() == pytest.approx(2 / 32, rel=0.1)
    assert weight.abs().max() <= (6 / 32) ** 0.5


def test_neighbours_start_alike() -> None:
    weight = filled(initialisers.icnr(initialisers.he_uniform, 3), 4 * 9, 5, 3, 3)
    assert torch.equal(weight.unflatten(0, (4, 9)), weight[::9, None].expand(4, 9, 5, 3, 3))
    assert not torch.equal(weight[0], weight[9])
    larger = F.pixel_shuffle(F.conv2d(torch.randn(1, 5, 6, 6), weight, padding=1), 3)
    assert torch.equal(larger, F.interpolate(larger[:, :, ::3, ::3], scale_factor=3, mode="nearest"))


@pytest.mark.parametrize(
    "start", [initialisers.convolution_aware, initialisers.icnr(initialisers.convolution_aware, 2)]
)
def test_the_meta_device_is_left_alone(start: Callable[[Tensor], object]) -> None:
    weight = torch.empty(8, 4, 3, 3, device="meta")
    start(weight)
    assert weight.is_meta
