"""IAE: parameter totals to the last digit, and what lies between encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.autoencoders import iae
from models.blocks import Layers

PARTS = ("encoder", "inters.a", "inters.b", "both", "decoder.face", "decoder.mask")


def test_totals(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("iae", iae.Config(), *PARTS)
    inters = [25_175_040] * 3
    assert list(found.values()) == [17_214_720, *inters, 25_076_163, 25_072_961, 117_816_003]


def test_the_latent_is_the_persons_part_then_everybodys() -> None:
    config = iae.PRESETS["sketch"]
    model = iae.build(config, ("a", "both", "c"), Layers()).eval()
    with torch.inference_mode():
        code = model.encode(torch.rand(2, 3, config.size, config.size))
        own, shared = model.latent(code, "both").split(config.base, 1)
        assert torch.equal(own, model.inters["both"](code))
        assert torch.equal(shared, model.both(code))
        assert not torch.allclose(own, shared)
    assert not model.code_is_a_face
    assert set(model.inters) == {"a", "both", "c"}


def test_all_people_go_through_the_decoder_at_once() -> None:
    config = iae.PRESETS["sketch"]
    model = iae.build(config, ("a", "b", "c"), Layers())
    seen: list[int] = []
    model.decoder.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    decoded, _ = model({p: torch.rand(n, 3, config.size, config.size) for n, p in enumerate("abc", start=1)})
    assert seen == [6]
    assert [len(decoded[p].picture) for p in "abc"] == [1, 2, 3]
