"""models.blocks: what each block computes, how its weights start, and what a Stack forgets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import initialisers
from models.blocks import Layers, Out, Residual, ScalarNorm, Stack, SubPixel, TwoWays, Unflatten, set_checkpointing
from models.layer_options import LayerOptions

UPSCALERS: tuple[Any, ...] = ("subpixel", "resize", "hybrid", "fast", "transposed")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 6, 8, 8)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_down(x: Tensor) -> None:
    down = Layers().down(6, 10)
    assert down(x).shape == (2, 10, 4, 4)
    assert torch.equal(down(x), F.leaky_relu(down[0](x), 0.1))
    assert count(down) == 6 * 10 * 25 + 10
    assert (Layers().down(6, 10, slope=None)(x) < -0.5).any()


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_every_upscaler_has_the_shape(x: Tensor, upscaler: Any, scale: int) -> None:
    up = Layers(LayerOptions(upscaler=upscaler)).up(6, 10, kernel=5, scale=scale)
    assert up(x).shape == (2, 10, 8 * scale, 8 * scale)
    assert 0 < up(x).std() < 10


@pytest.mark.parametrize("upscaler", ["subpixel", "resize", "transposed"])
def test_without_a_slope_there_is_no_activation(x: Tensor, upscaler: Any) -> None:
    layers = Layers(LayerOptions(upscaler=upscaler))
    plain, active = layers.up(6, 10, slope=None), layers.up(6, 10)
    active.load_state_dict(plain.state_dict())
    assert torch.allclose(F.leaky_relu(plain(x), 0.1), active(x))


def test_totals_of_the_upscalers() -> None:
    made = {u: count(Layers(LayerOptions(upscaler=u)).up(6, 10, kernel=5)) for u in UPSCALERS}
    assert made == {
        "subpixel": 6 * 40 * 25 + 40,
        "resize": 6 * 10 * 25 + 10,
        "hybrid": 6 * 20 * 25 + 20 + 6 * 5 * 9 + 5,
        "fast": 6 * 40 * 25 + 40 + 6 * 10 * 9 + 10,
        "transposed": 6 * 10 * 4 + 10,
    }


def test_hybrid_joins_and_fast_adds_the_same_two_ways(x: Tensor) -> None:
    for slope in (0.1, None):
        hybrid, fast = Layers().hybrid(6, 10, slope=slope), Layers().fast(6, 10, slope=slope)
        for block, joined in ((hybrid, True), (fast, False)):
            assert isinstance(block, TwoWays)
            assert isinstance(block.shuffled, SubPixel)
            one = F.pixel_shuffle(block.shuffled.convolution(x), 2)
            one = one if slope is None else F.leaky_relu(one, slope)
            scaled = block.resized[0](x)  # type: ignore[index]
            other = F.interpolate(scaled, scale_factor=2, mode="bilinear")  # never activated
            assert torch.allclose(block(x), torch.cat((one, other), 1) if joined else one + other, atol=1e-6)


def test_an_odd_number_of_channels_is_shared_out(x: Tensor) -> None:
    assert Layers().hybrid(6, 7)(x).shape == (2, 7, 16, 16)


def test_residual(x: Tensor) -> None:
    block = Layers().residual(6)
    inner = F.conv2d(F.leaky_relu(block.first(x), 0.2), block.second.weight, block.second.bias, padding=1)
    assert torch.allclose(block(x), F.leaky_relu(x + inner, 0.2), atol=1e-6)
    assert count(block) == 2 * (36 * 9 + 6)
    assert count(Layers().residual(6, bias=False)) == 2 * 36 * 9


def test_the_second_convolution_of_a_residual_block_starts_small() -> None:
    block = Layers().residual(64, start=initialisers.normal(0.5))
    assert block.first.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert block.second.weight.var().item() == pytest.approx(0.2 / (64 * 9), rel=0.05)


def test_up_residual(x: Tensor) -> None:
    block = Layers().up_residual(6, 10, kernel=5)
    larger, _, residual = block
    assert isinstance(larger, SubPixel)
    assert isinstance(residual, Residual)
    assert torch.equal(block(x), residual(F.leaky_relu(F.pixel_shuffle(larger.convolution(x), 2), 0.2)))
    assert larger.convolution.kernel_size == (5, 5)


def test_separable(x: Tensor) -> None:
    block = Layers().separable(6, 10)
    alone = torch.cat([F.conv2d(x[:, [c]], block[0].weight[[c]], stride=2, padding=2) for c in range(6)], 1)
    assert torch.allclose(block(x), F.relu(block[1](alone)), atol=1e-5)
    assert count(block) == 6 * 25 + 6 * 10 + 10


def test_scalar_norm_is_one_group_with_one_gain_and_one_bias(x: Tensor) -> None:
    norm = ScalarNorm()
    assert count(norm) == 2
    with torch.no_grad():
        norm.gain.fill_(3)
        norm.bias.fill_(-1)
    assert torch.allclose(norm(x), 3 * F.group_norm(x, 1, eps=1e-3) - 1, atol=1e-5)
    assert norm.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_the_picture_is_float32_whatever_the_weights_are(x: Tensor) -> None:
    out = Layers().out(6)
    assert torch.allclose(out(x), torch.sigmoid(out.convolution(x)))
    assert out.convolution.kernel_size == (5, 5)
    picture = out.bfloat16()(x.bfloat16())
    assert picture.dtype == torch.float32
    assert picture.shape == (2, 3, 8, 8)
    assert isinstance(Layers().out(6, 1, kernel=1), Out)


def test_unflatten_undoes_flatten(x: Tensor) -> None:
    assert torch.equal(Unflatten(6, 8)(nn.Flatten()(x)), x)


def test_branch() -> None:
    branch = Layers().branch((8, 6, 4), 1, kernel=5)
    assert branch(torch.randn(2, 8, 4, 4)).shape == (2, 1, 16, 16)
    assert [part.convolution.kernel_size[0] for part in branch] == [5, 5, 5]


def test_the_kit_makes_its_activations_with_what_it_is_given() -> None:
    class Marked(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.slope = slope

    layers = Layers(activation=Marked)
    made = [layers.down(4, 4), layers.up(4, 4), layers.residual(4), layers.up_residual(4, 4)]
    slopes = [[part.slope for part in module.modules() if isinstance(part, Marked)] for module in made]
    assert slopes == [[0.1], [0.1], [0.2, 0.2], [0.2, 0.2, 0.2]]


@pytest.mark.parametrize("upscaler", ["subpixel", "transposed"])
def test_icnr_starts_as_nearest_neighbour_scaling(x: Tensor, upscaler: Literal["subpixel", "transposed"]) -> None:
    for icnr in (False, True):
        larger = Layers(LayerOptions(upscaler=upscaler, icnr=icnr)).up(6, 10)(x)
        nearest = F.interpolate(larger[:, :, ::2, ::2], scale_factor=2, mode="nearest")
        assert torch.equal(larger, nearest) == icnr


def test_transposed_starts_as_wide_as_a_convolution_that_sees_one_place() -> None:
    layer = Layers().transposed(64, 16, 3, 2, None, initialisers.normal(0.001))[0]  # type: ignore[index]
    assert layer.weight.var().item() == pytest.approx(2 / 64, rel=0.05)
    assert not layer.bias.any()


def test_the_initialiser_is_chosen_unless_the_architecture_names_one() -> None:
    layers = Layers(LayerOptions(initialiser="convolution_aware"))
    aware = layers.convolution(9, 4, 3).weight.flatten(2)
    products = aware @ aware.mT
    lengths = products.diagonal(dim1=1, dim2=2)
    assert (products - torch.diag_embed(lengths)).abs().max() < 0.35 * lengths.mean()
    assert layers.convolution(9, 64, 3, start=initialisers.normal(3)).weight.std().item() == pytest.approx(3, rel=0.1)


def test_reflection_sees_no_black_edge() -> None:
    flat = torch.ones(1, 2, 8, 8)
    for padding, spread in (("zeros", True), ("reflect", False)):
        layers = Layers(LayerOptions(padding=padding))  # type: ignore[arg-type]
        assert (layers.convolution(2, 4, 5)(flat).std(dim=(2, 3)).max() > 1e-5) == spread


def test_biases_start_at_zero_and_dense_layers_from_glorots() -> None:
    dense = Layers().dense(200, 100)
    assert not dense.bias.any()
    assert dense.weight.abs().max() <= (6 / 300) ** 0.5
    assert not Layers().convolution(4, 4, 3).bias.any()  # type: ignore[union-attr]


class Counting(nn.Module):
    """A layer with a part, that counts how often it is run."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        result: Tensor = self.part(x)
        return result


def test_a_stack_computes_again_what_it_forgot_and_only_then(x: Tensor) -> None:
    layer, leaf = Counting(Layers().residual(6)), nn.BatchNorm2d(6)
    deep = Counting(Layers().residual(6))
    # A Stack in a Stack looks after itself, however deep it lies.
    model = nn.Sequential(Stack(Stack(layer), nn.Sequential(Stack(deep)), leaf))
    for checkpointing, training, runs in ((False, True, 1), (True, False, 1), (True, True, 2)):
        set_checkpointing(model, checkpointing)
        model.train(training)
        layer.runs = deep.runs = 0
        model(x).sum().backward()
        assert (layer.runs, deep.runs) == (runs, runs)
    assert leaf.num_batches_tracked == 2  # once for each step of training
    layer.runs = 0
    with torch.no_grad():
        model(x)
    assert layer.runs == 1


def test_what_was_forgotten_comes_back_the_same() -> None:
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    model = Stack(nn.Sequential(Layers().down(6, 6), nn.Dropout2d(0.5)), Layers().up(6, 6)).train()
    grads = []
    for checkpointing in (False, True):
        set_checkpointing(model, checkpointing)
        torch.manual_seed(3)
        (grad,) = torch.autograd.grad(model(x).pow(2).sum(), x)
        grads.append(grad)
    assert torch.equal(*grads)
