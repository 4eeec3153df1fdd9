"""DFL-SAE: parameter totals to the last digit, both wirings, the smaller pictures, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from models import autoencoders
from models.autoencoders import dfl_sae
from models.autoencoders.dfl_sae import Config
from models.blocks import SLOPE, Layers, Residual, Stack
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

SMALL = Config(64, "liae", 3, 2, 16)


def test_totals_of_df(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("dfl_sae", Config(), "encoder", "decoders.a", "decoders.b", "decoders.a.mask")
    assert list(found.values()) == [75_961_012, 27_023_853 + 3_733_843, 27_023_853 + 3_733_843, 3_733_843, 130_008_718]


def test_totals_of_liae(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("dfl_sae", Config(inters="liae"), "encoder", "both", "inters.b", "decoder", "decoder.mask")
    assert list(found.values()) == [
        16_681_140,
        34_375_936,
        34_375_936,
        36_313_581 + 6_830_419,
        6_830_419,
        121_746_593,
    ]


@pytest.mark.parametrize(("inters", "decoders"), [("df", 2), ("liae", 1)])
def test_smaller_pictures_add_two_outs_to_each_decoder(
    totals: Callable[..., dict[str, int]], inters: str, decoders: int
) -> None:
    one, more = (totals("dfl_sae", Config(inters=inters, multiscale=scaled))["all"] for scaled in (False, True))
    assert more - one == decoders * 56_706


@pytest.mark.parametrize("inters", ["df", "liae"])
def test_smaller_pictures_come_first(inters: str) -> None:
    config = replace(SMALL, inters=inters, multiscale=True)
    model = dfl_sae.build(config, ("a", "b"), Layers(LayerOptions(mask=True)))
    x = {person: torch.rand(2, 3, 64, 64) for person in "ab"}
    decoded, _ = model(x)
    for out in decoded.values():
        assert [picture.shape for picture in out.pictures] == [(2, 3, side, side) for side in (16, 32, 64)]
        assert out.picture is out.pictures[-1]
        assert out.mask is not None and out.mask.shape == (2, 1, 64, 64)
    total = torch.stack([made.mean() for out in decoded.values() for made in (*out.pictures, out.mask)]).sum()
    total.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("inters", ["df", "liae"])
@pytest.mark.parametrize("size", [64, 80, 128, 256])
def test_every_size_works(inters: str, size: int) -> None:
    config = Config(size, inters, ae_dims=24)
    with torch.device("meta"):
        model = dfl_sae.build(config, ("a", "b"), Layers())
        x = {person: torch.empty(1, 3, size, size) for person in "ab"}
        decoded, codes = model(x)
    assert decoded["b"].picture.shape == (1, 3, size, size)
    assert model.code_is_a_face == (inters == "df")
    assert codes["a"].shape == ((1, 24, size // 8, size // 8) if inters == "df" else (1, 1008 * (size // 16) ** 2))


def test_the_bottleneck_follows_the_wiring_unless_it_is_given() -> None:
    assert (Config().bottleneck, Config(inters="liae").bottleneck, Config(ae_dims=96).bottleneck) == (512, 256, 96)


def test_the_first_has_everybodys_inter_twice_and_others_their_own_first() -> None:
    torch.manual_seed(0)
    model: Any = dfl_sae.build(SMALL, ("a", "b", "c"), Layers())
    assert list(model.inters) == ["b", "c"]
    with torch.inference_mode():
        code = model.encode(torch.rand(2, 3, 64, 64))
        both, b, c = model.both(code), model.inters["b"](code), model.inters["c"](code)
        assert both.shape == (2, 32, 8, 8)
        assert torch.equal(model.latent(code, "a"), torch.cat((both, both), 1))
        assert torch.equal(model.latent(code, "b"), torch.cat((b, both), 1))
        assert torch.equal(model.latent(code, "c"), torch.cat((c, both), 1))
        with pytest.raises(KeyError):
            model.latent(code, "stranger")


def test_stages_have_two_residual_blocks_of_the_usual_slopes() -> None:
    model: Any = dfl_sae.build(SMALL, ("a", "b"), Layers())
    stages = list(model.decoder.stages)
    assert all(isinstance(stage, Stack) for stage in stages)
    for stage in stages:
        blocks = [part for part in stage.modules() if isinstance(part, Residual)]
        slopes = [part.negative_slope for part in stage.modules() if isinstance(part, torch.nn.LeakyReLU)]
        assert len(blocks) == 2
        assert slopes == [0.2] * 5
        assert all(block.first.bias is not None and block.second.bias is not None for block in blocks)
    assert model.encoder[0][1].negative_slope == SLOPE


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 136}, "size must be a whole number from 64 to 256 in steps of 16, not 136"),
        ({"size": 272}, "size must be"),
        ({"size": 48}, "size must be"),
        ({"inters": "saehd"}, "inters must be one of df, liae, not 'saehd'"),
        ({"encoder_dims": 86}, "encoder_dims must be a whole number from 2 to 85, not 86"),
        ({"decoder_dims": 1}, "decoder_dims must be"),
        ({"ae_dims": -1}, "ae_dims must be"),
        ({"ae_dims": False}, "ae_dims must be"),
        ({"multiscale": 1}, "multiscale must be true or false, not 1"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^dfl_sae\.{sentence}"):
        autoencoders.config("dfl_sae", options)
