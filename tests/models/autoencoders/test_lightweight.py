"""Lightweight: parameter totals to the last digit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.autoencoders import lightweight
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a.face", "decoders.b.face", "decoders.a.mask", "decoders.b.mask")


def test_totals(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("lightweight", lightweight.Config(), *PARTS)
    assert list(found.values()) == [29_806_336, 10_630_019, 10_630_019, 10_623_617, 10_623_617, 51_066_374]


def test_errors_name_the_family() -> None:
    with pytest.raises(ConfigError, match=r"^lightweight\.dense must be "):
        lightweight.Config(dense=0)
