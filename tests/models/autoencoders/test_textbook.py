"""The textbook's: parameter totals to the last digit, PyTorch's own start, transposed decoders, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from models import autoencoders
from models.autoencoders import textbook
from models.autoencoders.textbook import Config
from models.blocks import SLOPE, Layers, SubPixel
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a.face", "decoders.b.face", "decoders.a.mask")
SMALL = Config(64, (16, 16), 16, 16, 16, (16, 8, 8))


def test_totals(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("textbook", Config(), *PARTS)
    assert list(found.values()) == [69_662_976, 6_199_747, 6_199_747, 6_196_545, 82_062_470]


def test_totals_of_transposed(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("textbook", Config(transposed=True), *PARTS)
    assert list(found.values()) == [69_662_976, 690_307, 690_307, 689_153, 71_043_590]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_shapes(transposed: bool, mask: bool) -> None:
    with torch.device("meta"):
        model = textbook.build(Config(transposed=transposed), ("a", "b", "c"), Layers(LayerOptions(mask=mask)))
        decoded = model.swap(torch.empty(2, 3, 64, 64), "c")
    assert decoded.picture.shape == (2, 3, 64, 64)
    assert (decoded.mask is not None) == mask
    assert decoded.mask is None or decoded.mask.shape == (2, 1, 64, 64)


@pytest.mark.parametrize("transposed", [False, True])
def test_layers_start_as_pytorch_makes_them(transposed: bool) -> None:
    torch.manual_seed(0)
    model = textbook.build(replace(SMALL, transposed=transposed), ("a", "b"), Layers(LayerOptions(mask=True)))
    layers = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)]
    assert len(layers) == 2 + 2 + 1 + 2 * 2 * 4
    for layer in layers:
        # Uniform up to 1 / sqrt(fan-in); a transposed convolution's fan-in is counted over its outputs.
        assert layer.bias is not None
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert 0.8 * bound < layer.weight.abs().max() <= bound
        assert 0 < layer.bias.abs().max() <= bound


@pytest.mark.parametrize("transposed", [False, True])
def test_neighbours_start_alike_where_that_is_asked(transposed: bool) -> None:
    layers = Layers(LayerOptions(icnr=True))
    model: Any = textbook.build(replace(SMALL, transposed=transposed), ("a", "b"), layers)
    doubling = [part.convolution.weight for part in model.modules() if isinstance(part, SubPixel)]
    assert len(doubling) == (1 if transposed else 7)
    for weight in doubling:
        assert torch.equal(weight[::4], weight[3::4])
    for part in model.modules():
        if isinstance(part, nn.ConvTranspose2d):
            assert torch.equal(part.weight, part.weight[..., :1, :1].expand_as(part.weight))
    first = model.encoder[0][0]
    assert first.weight.abs().max() <= 1 / math.sqrt(75) < (6 / 75) ** 0.5  # and all else as PyTorch makes it


def test_another_start_is_kept() -> None:
    model: Any = textbook.build(SMALL, ("a", "b"), Layers(LayerOptions(initialiser="convolution_aware")))
    weight = model.encoder[0][0].weight
    assert weight.std().item() == pytest.approx((2 / 75) ** 0.5, rel=1e-3)


def test_transposed_decoders() -> None:
    model: Any = textbook.build(replace(SMALL, transposed=True), ("a", "b"), Layers(LayerOptions(upscaler="resize")))
    face = model.decoders["b"].face
    doubling = [part for part in face.modules() if isinstance(part, nn.ConvTranspose2d)]
    assert [(part.kernel_size, part.stride) for part in doubling] == [((2, 2), (2, 2))] * 3
    assert [part.negative_slope for part in face.modules() if isinstance(part, nn.LeakyReLU)] == [SLOPE] * 3
    assert face[-1].convolution.kernel_size == (3, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"transposed": "yes"}, "transposed must be true or false, not 'yes'"),
        ({"size": 40}, "size must be"),
        ({"dense": 0}, "dense must be"),
        ({"decoder": []}, "decoder must be"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^textbook\.{sentence}"):
        autoencoders.config("textbook", options)
