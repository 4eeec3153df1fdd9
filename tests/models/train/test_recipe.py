"""models.train.recipe: what cannot be trained is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from models.train.recipe import Config
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("lr", 0),
        ("lr", float("nan")),
        ("lr_end", 1.5),
        ("beta1", 1),
        ("dssim", -0.1),
        ("iterations", -1),
        ("minutes", True),
        ("coverage", 9),
        ("precision", "fp16"),
    ],
)
def test_wrong_settings_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"train.{name} must be"):
        Config(**{name: value})


def test_the_defaults_are_the_usual_ones() -> None:
    usual = Config()
    assert (usual.lr, usual.beta1, usual.beta2, usual.eps, usual.batch) == (5e-5, 0.9, 0.999, 1e-7, 16)
    assert usual.preset == "original"
