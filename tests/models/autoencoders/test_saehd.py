"""SAEHD: parameter totals to the last digit, every combination of its additions, what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from models import autoencoders
from models.autoencoders import saehd
from models.autoencoders.saehd import PRESETS, Config, Cosine, PixelNorm, QuarterOuts
from models.blocks import Layers
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

SMALL = Config(64, ae_dims=16, encoder_dims=4, decoder_dims=4)


@pytest.mark.parametrize(
    ("preset", "size", "trunk", "inter", "decoder", "total"),
    [
        ("df", 128, 4_306_560, 14_959_872, 19_136_000, 57_538_432),
        ("df-ud", 256, 4_306_560, 40_125_696, 19_181_291, 82_794_838),
        ("quick96", 96, 4_306_560, 3_098_368, 15_444_701, 38_294_330),
    ],
)
def test_totals_of_df(
    totals: Callable[..., dict[str, int]], preset: str, size: int, trunk: int, inter: int, decoder: int, total: int
) -> None:
    parts = ("encoder.0", "encoder.1", "decoders.a", "decoders.b")
    found = totals("saehd", replace(PRESETS[preset], size=size), *parts)
    assert list(found.values()) == [trunk, inter, decoder, decoder, total]


@pytest.mark.parametrize(
    ("preset", "size", "trunk", "inter", "decoder", "total"),
    [
        ("liae", 128, 4_306_560, 26_249_472, 38_157_824, 94_963_328),
        ("liae-ud", 128, 4_306_560, 19_933_440, 38_203_115, 82_376_555),
        ("liae-ud", 256, 4_306_560, 51_415_296, 38_203_115, 145_340_267),
        ("liae-udt", 320, 15_654_144, 26_265_856, 53_477_803, 121_663_659),
    ],
)
def test_totals_of_liae(
    totals: Callable[..., dict[str, int]], preset: str, size: int, trunk: int, inter: int, decoder: int, total: int
) -> None:
    found = totals("saehd", replace(PRESETS[preset], size=size), "encoder", "both", "inters.a", "decoder")
    assert list(found.values()) == [trunk, inter, inter, decoder, total]


@pytest.mark.parametrize(
    ("preset", "mask"), [("df", 2_320_253), ("df-ud", 2_355_167), ("liae-ud", 7_221_215), ("liae-udt", 8_337_055)]
)
def test_totals_of_masks(totals: Callable[..., dict[str, int]], preset: str, mask: int) -> None:
    part = "decoder.mask" if preset.startswith("liae") else "decoders.b.mask"
    assert totals("saehd", PRESETS[preset], part)[part] == mask


def _convolution(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel * kernel + outputs


def _by_formula(config: Config) -> int:
    """The total for two people from the published widths, without a network."""
    e, d, m, ae = config.encoder_dims, config.decoder_dims, config.mask_dims, config.ae_dims
    trunk = [e, 2 * e, 4 * e, 8 * e] + ([8 * e] if config.deep else [])
    encoder = sum(_convolution(a, b, 5) for a, b in itertools.pairwise([3, *trunk]))
    encoder += 2 * (_convolution(e, e, 3) + _convolution(8 * e, 8 * e, 3)) if config.deep else 0
    seen, side = config.size // (32 if config.deep else 16), config.size // (32 if config.double else 16)
    base = 2 * ae if config.inters == "liae" else ae
    inter = 8 * e * seen**2 * ae + ae + ae * base * side**2 + base * side**2
    inter += 0 if config.deep else _convolution(base, 4 * base, 3)
    latent = 4 * ae if config.inters == "liae" else ae
    times = [8, 8, 4, 2] if config.deep else [8, 4, 2]
    faces = list(itertools.pairwise([latent, *(d * t for t in times)]))
    masks = [latent, *(m * t for t in times)] + ([m] if config.double else [])
    decoder = sum(_convolution(a, 4 * b, 3) + 2 * _convolution(b, b, 3) for a, b in faces)
    decoder += _convolution(2 * d, 3, 1) + (3 * _convolution(2 * d, 3, 3) if config.double else 0)
    decoder += sum(_convolution(a, 4 * b, 3) for a, b in itertools.pairwise(masks)) + _convolution(masks[-1], 1, 1)
    return encoder + 2 * inter + decoder if config.inters == "liae" else encoder + inter + 2 * decoder


@pytest.mark.parametrize("inters", ["df", "liae"])
@pytest.mark.parametrize(("u", "d", "t", "c"), list(itertools.product([False, True], repeat=4)))
def test_every_combination_has_its_total_and_shapes(
    totals: Callable[..., dict[str, int]], inters: str, u: bool, d: bool, t: bool, c: bool
) -> None:
    config = Config(192, inters, u, d, t, c, 48, 20, 28, 6)
    assert totals("saehd", config)["all"] == _by_formula(config)
    with torch.device("meta"):
        model = saehd.build(config, ("a", "b"), Layers())
        decoded, codes = model({person: torch.empty(1, 3, 192, 192) for person in "ab"})
    for out in decoded.values():
        assert out.picture.shape == (1, 3, 192, 192)
        assert out.mask is not None and out.mask.shape == (1, 1, 192, 192)
    assert codes["a"].shape == _code(config)
    assert model.code_is_a_face == (inters == "df")
    assert any(isinstance(part, PixelNorm) for part in model.modules()) == u
    assert any(isinstance(part, QuarterOuts) for part in model.modules()) == d
    assert any(isinstance(part, Cosine) for part in model.modules()) == c
    assert any(isinstance(part, nn.LeakyReLU) for part in model.modules()) != c


def _code(config: Config) -> tuple[int, ...]:
    if config.inters == "liae":
        return 1, 8 * config.encoder_dims * (config.size // (32 if config.deep else 16)) ** 2
    side = config.size // (16 if config.double else 8) // (2 if config.deep else 1)
    return 1, config.ae_dims, side, side


@pytest.mark.parametrize("letters", ["", "d", "t", "dt"])
@pytest.mark.parametrize("size", [64, 160, 640])
def test_sizes(size: int, letters: str) -> None:
    config = replace(SMALL, size=size, double="d" in letters, deep="t" in letters)
    with torch.device("meta"):
        model = saehd.build(config, ("a", "b"), Layers(LayerOptions(padding="reflect")))
        assert model.swap(torch.empty(1, 3, size, size), "b").picture.shape == (1, 3, size, size)


def test_sizes_between_work_where_nothing_halves_them_once_more() -> None:
    assert Config(80, double=False).size == 80
    for double, deep in ((True, False), (False, True), (True, True)):
        with pytest.raises(ConfigError, match=r"^saehd\.size must be a whole number from 64 to 640 in steps of 32"):
            Config(80, double=double, deep=deep)


@pytest.mark.parametrize(("decoder", "mask"), [(64, 22), (48, 16), (50, 18), (4, 2)])
def test_the_mask_has_a_third_of_the_width_rounded_up_to_even(decoder: int, mask: int) -> None:
    with torch.device("meta"):
        model: Any = saehd.build(Config(decoder_dims=decoder), ("a", "b"), Layers())
    assert model.decoder.mask[-1].convolution.in_channels == mask


def test_the_last_has_everybodys_inter_twice_and_others_their_own_first() -> None:
    torch.manual_seed(0)
    model: Any = saehd.build(SMALL, ("a", "b", "c"), Layers())
    assert list(model.inters) == ["a", "b"]
    with torch.inference_mode():
        code = model.encode(torch.rand(2, 3, 64, 64))
        both, a, b = model.both(code), model.inters["a"](code), model.inters["b"](code)
        assert torch.equal(model.latent(code, "a"), torch.cat((a, both), 1))
        assert torch.equal(model.latent(code, "b"), torch.cat((b, both), 1))
        assert torch.equal(model.latent(code, "c"), torch.cat((both, both), 1))
        with pytest.raises(KeyError):
            model.latent(code, "stranger")


def test_pixel_norm_leaves_a_root_mean_square_of_one() -> None:
    x = torch.randn(3, 500) * torch.tensor([[0.1], [1.0], [300.0]])
    normed = PixelNorm()(x)
    assert torch.allclose(normed.square().mean(1), torch.ones(3), atol=1e-3)
    assert torch.allclose(normed[2] * x[2].square().mean().sqrt(), x[2], rtol=1e-4)
    assert PixelNorm()(torch.zeros(1, 4)).abs().max() == 0
    half = PixelNorm()(torch.full((1, 4), 60000.0).half())
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), torch.ones(1, 4), atol=1e-3)


def test_each_convolution_makes_one_of_four_pixels() -> None:
    def constant(value: float) -> nn.Conv2d:
        layer = nn.Conv2d(1, 3, 1)
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([value, value + 10, value + 20]).sub(12).div(8))
        return layer

    with torch.inference_mode():
        picture = QuarterOuts([constant(float(place)) for place in range(4)])(torch.zeros(1, 1, 2, 3))
    values = picture.logit().mul(8).add(12).round()
    assert picture.shape == (1, 3, 4, 6)
    for colour in range(3):
        expected = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(2, 3) + 10 * colour
        assert torch.equal(values[0, colour], expected)


def test_cosine() -> None:
    x = torch.linspace(-4, 4, 9)
    assert torch.allclose(Cosine(0.1)(x), x * x.cos())


@pytest.mark.parametrize("inters", ["df", "liae"])
@pytest.mark.parametrize("letters", ["", "c", "ut", "dt", "udtc"])
def test_every_weight_learns(inters: str, letters: str) -> None:
    torch.manual_seed(0)
    u, d, t, c = (letter in letters for letter in "udtc")
    model = saehd.build(Config(64, inters, u, d, t, c, 16, 4, 4), ("a", "b"), Layers()).train()
    decoded, _ = model({person: torch.rand(1, 3, 64, 64) for person in "ab"})
    errors = [made.square().mean() for out in decoded.values() for made in (out.picture, out.mask) if made is not None]
    assert len(errors) == 4
    torch.stack(errors).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_presets_are_what_their_names_say() -> None:
    def letters(config: Config) -> str:
        return "".join(
            letter
            for letter, on in zip("udtc", (config.pixel_norm, config.double, config.deep, config.cosine), strict=True)
            if on
        )

    found = {name: f"{c.inters}-{letters(c)}".removesuffix("-") for name, c in PRESETS.items()}
    del found["sketch"]
    assert found.pop("quick96") == "df-ud"
    assert all(name == variant for name, variant in found.items())
    assert PRESETS["liae-ud"] == Config()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 672}, "size must be"),
        ({"size": 32}, "size must be"),
        ({"size": "128"}, "size must be"),
        ({"inters": "hd"}, "inters must be one of df, liae, not 'hd'"),
        ({"pixel_norm": "yes"}, "pixel_norm must be true or false, not 'yes'"),
        ({"double": 1}, "double must be true or false, not 1"),
        ({"deep": None}, "deep must be"),
        ({"cosine": 0}, "cosine must be"),
        ({"ae_dims": 1025}, "ae_dims must be a whole number from 2 to 1024, not 1025"),
        ({"encoder_dims": 1}, "encoder_dims must be"),
        ({"decoder_dims": 257}, "decoder_dims must be"),
        ({"mask_dims": 21}, "mask_dims must be a whole number from 0 to 256 in steps of 2, not 21"),
    ],
)
def test_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"^saehd\.{sentence}"):
        autoencoders.config("saehd", options)
