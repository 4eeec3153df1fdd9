"""Dlight: parameter totals to the last digit, all its variants, what it keeps of its input, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import autoencoders
from models.autoencoders import dlight
from models.autoencoders.dlight import Config
from models.blocks import SLOPE, Layers, Residual, TwoWays
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a", "decoders.b", "decoders.a.mask", "decoders.b.mask")
ENCODERS = {"lowmem": 22_672_608, "fair": 45_243_136, "best": 61_783_296}
FIRST, MASKS = 6_869_523, (3_192_041, 1_717_481)
OTHERS = {
    ("good", 128): 46_645_283,
    ("good", 256): 74_959_907,
    ("good", 384): 122_150_947,
    ("fast", 128): 38_423_939,
    ("fast", 256): 95_053_187,
    ("fast", 384): 189_435_267,
}


@pytest.mark.parametrize("features", ENCODERS)
@pytest.mark.parametrize(("details", "output"), OTHERS)
def test_totals(totals: Callable[..., dict[str, int]], features: str, details: str, output: int) -> None:
    found = totals("dlight", Config(output, features, details), *PARTS)
    other = OTHERS[details, output]
    assert list(found.values()) == [
        ENCODERS[features],
        FIRST + MASKS[0],
        other + MASKS[1],
        *MASKS,
        ENCODERS[features] + FIRST + other,
    ]


def test_known_totals_count_what_batch_norms_have_seen() -> None:
    with torch.device("meta"):
        model = dlight.build(Config(), ("a", "b"), Layers())
    seen = sum(buffer.numel() for buffer in model.buffers() if buffer.dtype == torch.float32)
    assert seen == 1280
    assert sum(p.numel() for p in model.parameters()) + seen == 143_614_006


@pytest.mark.parametrize("details", ["fast", "good"])
@pytest.mark.parametrize("output", [128, 256, 384])
def test_every_size_works(output: int, details: str) -> None:
    config = Config(output, "lowmem", details, thinned=8)
    with torch.device("meta"):
        model = dlight.build(config, ("a", "b", "c"), Layers(LayerOptions(mask=True)))
        code = model.encode(torch.empty(1, 3, 128, 128))
        assert code.shape == (1, 128, 4, 4)
        for person in "abc":
            decoded = model.decode(code, person)
            assert decoded.picture.shape == (1, 3, output, output)
            assert decoded.mask is not None and decoded.mask.shape == (1, 1, output, output)
        sizes = [sum(p.numel() for p in decoder.parameters()) for decoder in model.decoders.values()]
    assert sizes[0] < sizes[1] == sizes[2]


def test_stages_of_the_encoder_keep_their_input_at_half_the_side() -> None:
    model: Any = dlight.build(dlight.PRESETS["sketch"], ("a", "b"), Layers())
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        made = model.encoder[0](x)
        assert made.shape == (1, 6, 4, 4)
        assert torch.equal(made[:, :3], model.encoder[0].down(x))
        assert torch.allclose(made[:, 3:], F.leaky_relu(F.avg_pool2d(x, 2), SLOPE))


def test_widths_of_the_encoder() -> None:
    with torch.device("meta"):
        model: Any = dlight.build(Config(), ("a", "b"), Layers())
        x, widths = torch.empty(1, 3, 128, 128), []
        for stage in model.encoder[:5]:
            x = stage(x)
            widths.append(x.shape[1])
    assert widths == [35, 99, 227, 483, 995]


def test_dropout_is_in_the_bottleneck_alone() -> None:
    model: Any = dlight.build(dlight.PRESETS["sketch"], ("a", "b"), Layers())
    assert [part.p for part in model.modules() if isinstance(part, nn.Dropout)] == [0.05, 0.05]
    assert [type(part) for part in model.encoder[6:10]] == [nn.Linear, nn.Dropout, nn.Linear, nn.Dropout]


def test_good_details() -> None:
    model: Any = dlight.build(Config(128, "lowmem", thinned=8), ("a", "b"), Layers(LayerOptions(mask=True)))
    decoder = model.decoders["b"]
    norms = [part for part in decoder.modules() if isinstance(part, nn.BatchNorm2d)]
    assert [(norm.num_features, norm.eps, norm.momentum) for norm in norms] == [(64, 1e-3, 0.01), (16, 1e-3, 0.01)]
    residuals = [part for part in decoder.modules() if isinstance(part, Residual)]
    assert [block.first.bias is not None for block in residuals] == [True, False, False, True, False, True, False]
    assert (decoder.face[0].negative_slope, decoder.mask[0].negative_slope) == (0.2, SLOPE)
    with torch.inference_mode():
        fork = decoder.shared(torch.rand(1, 128, 4, 4))
    assert fork.shape == (1, 64, 8, 8)
    assert fork[:, :32].min() < 0  # no activation yet


@pytest.mark.parametrize("details", ["fast", "good"])
def test_every_weight_learns(details: str) -> None:
    torch.manual_seed(0)
    config = Config(128, "lowmem", details, thinned=8)
    model = dlight.build(config, ("a", "b"), Layers(LayerOptions(mask=True))).train()
    decoded, _ = model({person: torch.rand(1, 3, 128, 128) for person in "ab"})
    errors = [made.square().mean() for out in decoded.values() for made in (out.picture, out.mask) if made is not None]
    torch.stack(errors).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_the_upscaler_chosen_is_for_the_plain_doubling_alone() -> None:
    def kinds(details: str) -> list[str]:
        config = Config(128, "lowmem", details, thinned=8)
        model = dlight.build(config, ("a", "b"), Layers(LayerOptions(upscaler="transposed")))
        return [type(part).__name__ for part in model.decoders["b"].modules()]

    assert kinds("fast").count("ConvTranspose2d") == 1
    assert kinds("good").count("ConvTranspose2d") == 0
    assert kinds("fast").count("TwoWays") == 4
    assert kinds("good").count("TwoWays") == 5


@pytest.mark.parametrize(("details", "joined"), [("fast", False), ("good", True)])
def test_others_join_or_add_the_two_ways(details: str, joined: bool) -> None:
    model = dlight.build(Config(128, "lowmem", details, thinned=8), ("a", "b"), Layers())
    first, other = ([p.joined for p in model.decoders[who].modules() if isinstance(p, TwoWays)] for who in "ab")
    assert first == [True] * 4
    assert set(other) == {joined}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"output": 192}, "output must be one of 128, 256, 384, not 192"),
        ({"output": 256.0}, "output must be"),
        ({"features": "worst"}, "features must be one of lowmem, fair, best, not 'worst'"),
        ({"details": None}, "details must be one of fast, good, not None"),
        ({"dropout": 1}, "dropout must be a number from 0 to 0.9, not 1"),
        ({"thinned": 3}, "thinned must be one of 1, 2, 4, 8, not 3"),
        ({"thinned": True}, "thinned must be"),
        ({"features": []}, "features must be"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^dlight\.{sentence}"):
        autoencoders.config("dlight", options)
