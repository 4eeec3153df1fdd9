"""DFL-H128: parameter totals to the last digit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.autoencoders import dfl_h128
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a.face", "decoders.b.face", "decoders.a.mask", "decoders.b.mask")


def test_totals(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("dfl_h128", dfl_h128.Config(), *PARTS)
    assert list(found.values()) == [77_018_880, 15_348_611, 15_348_611, 15_342_209, 15_342_209, 107_716_102]


def test_totals_of_lowmem(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("dfl_h128", dfl_h128.PRESETS["lowmem"], *PARTS)
    assert list(found.values()) == [40_563_200, 3_840_451, 3_840_451, 3_837_249, 3_837_249, 48_244_102]


def test_errors_name_the_family() -> None:
    with pytest.raises(ConfigError, match=r"^dfl_h128\.size must be "):
        dfl_h128.Config(size=100)
