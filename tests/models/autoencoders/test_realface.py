"""Realface: parameter totals to the last digit, the sizes it derives, who has which decoder, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from models import autoencoders
from models.autoencoders import realface
from models.autoencoders.realface import Config
from models.blocks import SLOPE, Layers, Residual
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a", "decoders.b", "decoders.a.mask", "decoders.b.mask")


@pytest.mark.parametrize(
    ("sizes", "faces", "masks", "total"),
    [
        ((64, 128), (64_196_041, 144_441_027), (12_915_697, 17_643_505), 238_241_676),
        ((128, 256), (123_881_569, 240_810_691), (10_565_617, 14_104_561), 394_296_868),
        ((64, 64), (64_070_578, 143_560_579), (12_750_817, 17_478_625), 237_235_765),
    ],
)
def test_totals(
    totals: Callable[..., dict[str, int]],
    sizes: tuple[int, int],
    faces: tuple[int, int],
    masks: tuple[int, int],
    total: int,
) -> None:
    found = totals("realface", Config(*sizes), *PARTS)
    both = [face + mask for face, mask in zip(faces, masks, strict=True)]
    assert list(found.values()) == [29_604_608, *both, *masks, total]


@pytest.mark.parametrize(
    ("sizes", "side", "doublings", "filters"),
    [
        ((64, 128), 4, 5, 1024),
        ((128, 256), 8, 5, 768),
        ((64, 64), 4, 4, 1024),
        ((128, 128), 8, 4, 768),
        ((96, 128), 8, 4, 768),  # as far from either
        ((64, 96), 3, 5, 1088),
        ((64, 160), 5, 5, 960),
        ((64, 224), 7, 5, 832),
    ],
)
def test_derived_sizes(sizes: tuple[int, int], side: int, doublings: int, filters: int) -> None:
    config = Config(*sizes)
    assert (config.side, config.doublings, config.filters) == (side, doublings, filters)


@pytest.mark.parametrize("seen", range(64, 129, 16))
@pytest.mark.parametrize("given", range(64, 257, 32))
def test_every_pair_of_sizes_works(seen: int, given: int) -> None:
    config = Config(seen, given, 32, 8, 24, 64, 16)
    with torch.device("meta"):
        model = realface.build(config, ("a", "b"), Layers(LayerOptions(mask=True)))
        code = model.encode(torch.empty(1, 3, seen, seen))
        assert code.shape == (1, 64, seen // 16, seen // 16)
        for person in "ab":
            decoded = model.decode(code, person)
            assert decoded.picture.shape == (1, 3, given, given)
            assert decoded.mask is not None and decoded.mask.shape == (1, 1, given, given)


def test_the_first_has_the_light_decoder_and_all_others_the_heavy_one() -> None:
    with torch.device("meta"):
        model: Any = realface.build(Config(), ("a", "b", "c"), Layers(LayerOptions(mask=True)))

    def biases(person: str) -> list[bool]:
        blocks = (part for part in model.decoders[person].modules() if isinstance(part, Residual))
        return [block.first.bias is not None and block.second.bias is not None for block in blocks]

    assert biases("a") == [False]
    assert biases("b") == biases("c") == [False, *[False, True] * 3]
    assert [model.decoders[person].shared[1].out_features for person in "abc"] == [1024, 1536, 1536]
    assert [model.decoders[person].shared[2].out_features for person in "abc"] == [16 * 682, 16 * 1024, 16 * 1024]
    outs = [[part.in_channels for part in model.decoders[person].face[-1].children()] for person in "abc"]
    assert outs == [[42], [64], [64]]


def test_picture_and_mask_fork_after_the_first_doubling() -> None:
    torch.manual_seed(0)
    model: Any = realface.build(realface.PRESETS["sketch"], ("a", "b"), Layers(LayerOptions(mask=True)))
    x = torch.rand(1, 3, 64, 64)
    for person in "ab":
        decoder = model.decoders[person]
        assert (decoder.face[0].negative_slope, decoder.mask[0].negative_slope) == (0.2, SLOPE)
        with torch.inference_mode():
            fork = decoder.shared(model.encode(x))
            assert fork.min() < 0  # no activation yet
            decoded = model.swap(x, person)
            assert torch.equal(decoded.picture, decoder.face(fork))
            assert torch.equal(decoded.mask, decoder.mask(fork))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"input": 72}, "input must be a whole number from 64 to 128 in steps of 16, not 72"),
        ({"input": 144}, "input must be"),
        ({"output": 144}, "output must be a whole number from 64 to 256 in steps of 32, not 144"),
        ({"output": 288}, "output must be"),
        ({"nodes": 1}, "nodes must be"),
        ({"encoder": 0}, "encoder must be"),
        ({"decoder": 20}, "decoder must be"),
        ({"base": 100}, "base must be"),
        ({"mask": True}, "mask must be"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^realface\.{sentence}"):
        autoencoders.config("realface", options)
