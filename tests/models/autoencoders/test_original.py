"""The Original: parameter totals to the last digit, and which sizes it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from models.autoencoders import original
from models.blocks import Layers
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a.face", "decoders.b.face", "decoders.a.mask", "decoders.b.mask")


def test_totals(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("original", original.Config(), *PARTS)
    assert list(found.values()) == [69_662_976, 6_199_747, 6_199_747, 6_196_545, 6_196_545, 82_062_470]


def test_totals_of_lowmem(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("original", original.PRESETS["lowmem"], *PARTS)
    assert list(found.values()) == [48_165_632, 6_199_747, 6_199_747, 6_196_545, 6_196_545, 60_565_126]


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 40},
        {"size": 0},
        {"size": 16},
        {"size": 2048},
        {"dense": 0},
        {"dense": 1.5},
        {"base": True},
        {"encoder": ()},
        {"encoder": (3, -1)},
        {"encoder": (8,) * 13},
        {"decoder": "wide"},
        {"decoder": [8, 8]},
        {"latent": None},
        {"latent": 10**6},
    ],
)
def test_impossible_ones_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^original\.{next(iter(changes))} must be "):
        replace(original.Config(), **changes)


def test_other_sizes_work() -> None:
    config = original.Config(128, (8, 8, 8, 8, 8), 16, 8, 8, (8, 8, 8, 8))
    with torch.inference_mode():
        out = original.build(config, ("a", "b"), Layers()).swap(torch.rand(1, 3, 128, 128), "a")
    assert out.picture.shape == (1, 3, 128, 128)
    assert out.mask is None
