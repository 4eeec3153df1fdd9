"""Unbalanced: parameter totals to the last digit, who has which decoder, dropout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from models.autoencoders import unbalanced
from models.blocks import Layers, Residual, ScalarNorm
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a.face", "decoders.b.face", "decoders.a.mask", "decoders.b.mask")


def test_totals(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("unbalanced", unbalanced.Config(), *PARTS)
    assert list(found.values()) == [83_964_932, 43_633_827, 79_447_427, 15_710_689, 24_781_441, 207_046_186]


def test_totals_of_lowmem(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("unbalanced", unbalanced.PRESETS["lowmem"], *PARTS)
    assert list(found.values()) == [54_596_100, 28_937_523, 24_428_883, 10_419_601, 13_941_217, 107_962_506]


def test_there_is_a_preset_for_each_size() -> None:
    sizes = [preset.size for name, preset in unbalanced.PRESETS.items() if name.endswith("px")]
    assert sizes == [64, 128, 192, 256, 320, 384, 448, 512]
    with pytest.raises(ConfigError, match=r"^unbalanced\.size must be a whole number from 64 to 512 in steps of 64"):
        unbalanced.Config(96)


def test_the_first_has_the_small_decoder_and_all_others_the_large_one() -> None:
    model = unbalanced.build(unbalanced.PRESETS["sketch"], ("a", "b", "c"), Layers())

    def has(person: str, kind: type[nn.Module]) -> int:
        return sum(isinstance(part, kind) for part in model.decoders[person].modules())

    assert [has(person, Residual) for person in "abc"] == [0, 3, 3]
    assert [has(person, nn.Dropout2d) for person in "abc"] == [2, 0, 0]
    assert sum(isinstance(part, ScalarNorm) for part in model.encoder.modules()) == 2
    assert all(isinstance(model.encoder[place][1], ScalarNorm) for place in (0, 1))


def test_dropout_leaves_out_whole_channels_and_only_in_training() -> None:
    config = replace(unbalanced.PRESETS["sketch"], dropout_second=unbalanced.PRESETS["lowmem"].dropout_second)
    model = unbalanced.build(config, ("a", "b"), Layers())
    first, second = (part for part in model.decoders["a"].modules() if isinstance(part, nn.Dropout2d))
    assert (first.p, second.p) == (0.25, 0.15)
    x = torch.ones(8, 64, 2, 2)
    torch.manual_seed(0)
    dropped = first.train()(x) == 0
    assert torch.equal(dropped.any(-1).any(-1), dropped.all(-1).all(-1))
    assert 0.15 < dropped.float().mean() < 0.35
    assert torch.equal(first.eval()(x), x)


def test_faces_start_narrow_and_masks_do_not() -> None:
    torch.manual_seed(0)

    model = unbalanced.build(unbalanced.Config(64, 64, 64, 8, 32, 32), ("a", "b"), Layers(LayerOptions(mask=True)))
    for person in "ab":
        face, mask = model.decoders[person].face, model.decoders[person].mask
        weights = [part.weight for part in face[:-1].modules() if isinstance(part, nn.Conv2d)]
        assert weights[0].std().item() == pytest.approx(0.02, rel=0.1)
        assert mask[0].convolution.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
        assert (weights[0].shape[2], mask[0].convolution.weight.shape[2]) == (5, 3)
