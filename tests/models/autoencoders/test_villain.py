"""Villain: parameter totals to the last digit, the detour, where layers start, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import autoencoders
from models.autoencoders import villain
from models.autoencoders.villain import Config
from models.blocks import SLOPE, Layers, Residual
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a.face", "decoders.b.face", "decoders.a.mask")


def test_totals(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("villain", Config(), *PARTS)
    assert list(found.values()) == [112_027_904, 21_543_555, 21_543_555, 15_342_209, 155_115_014]


def test_totals_of_lowmem(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("villain", villain.PRESETS["lowmem"], *PARTS)
    assert list(found.values()) == [75_573_504, 21_543_555, 21_543_555, 15_342_209, 118_660_614]


@pytest.mark.parametrize(("preset", "blocks"), [("villain", 16), ("lowmem", 8)])
def test_the_encoder_has_its_residual_blocks(preset: str, blocks: int) -> None:
    with torch.device("meta"):
        model = villain.build(villain.PRESETS[preset], ("a", "b"), Layers())
    assert sum(isinstance(part, Residual) for part in model.encoder.modules()) == blocks


def test_the_detour_adds_two_activations_of_the_same() -> None:
    model: Any = villain.build(Config(64, 8, 1, True, 8, 8, 8, 4), ("a", "b"), Layers())
    detour = model.encoder[1]
    nn.init.zeros_(detour.branch[1].second.weight)  # leaves of the block its input, made active once more
    x = torch.randn(1, 8, 4, 4)
    with torch.inference_mode():
        assert torch.allclose(detour(x), F.leaky_relu(x, 0.2 * 0.2) + F.leaky_relu(x, SLOPE))


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_every_size_works(size: int, deep: bool) -> None:
    with torch.device("meta"):
        model = villain.build(Config(size, deep=deep), ("a", "b"), Layers())
        code = model.encode(torch.empty(1, 3, size, size))
        assert code.shape == (1, 512, size // 8, size // 8)
        assert model.decode(code, "b").picture.shape == (1, 3, size, size)


def test_convolutions_start_narrow_and_masks_and_last_ones_do_not() -> None:
    torch.manual_seed(0)
    model: Any = villain.build(Config(64, 64, 1, True, 8, 64, 64, 32), ("a", "b"), Layers(LayerOptions(mask=True)))
    narrow = [part for part in model.encoder.modules() if isinstance(part, nn.Conv2d)]
    narrow.remove(model.encoder[1].branch[1].second)
    narrow += [stage[0].convolution for stage in model.decoders["a"].face[:-1]]
    for convolution in narrow:
        assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.1)
    he = [*(up.convolution for up in model.decoders["a"].mask[:-1]), model.decoders["a"].face[-1].convolution]
    for convolution in he:
        assert convolution.weight.std().item() == pytest.approx((2 / convolution.weight[0].numel()) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 80}, "size must be a whole number from 64 to 512 in steps of 32, not 80"),
        ({"encoder": 6}, "encoder must be a whole number from 4 to 1024 in steps of 4, not 6"),
        ({"residuals": 0}, "residuals must be"),
        ({"deep": None}, "deep must be true or false"),
        ({"nodes": 0}, "nodes must be"),
        ({"base": 1}, "base must be"),
        ({"latent": 2.0}, "latent must be"),
        ({"decoder": [512, 256, 128]}, "decoder must be"),
        ({"deviation": 0}, "deviation must be a number from 0.001 to 1, not 0"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^villain\.{sentence}"):
        autoencoders.config("villain", options)
