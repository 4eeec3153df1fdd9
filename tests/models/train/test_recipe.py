"""models.train.recipe: every number has a range, and a wrong one is named by its key."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from models.train import losses, recipe
from models.train.recipe import Augment, Config, Data, Judge, Losses, Memory, Monitor, Optimiser, Safety, Transfer
from pipeline import config
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("section", "kind", "name", "value"),
    [
        ("train", Config, "coverage", 9),
        ("train", Config, "batch", 0),
        ("train", Config, "iterations", -1),
        ("train", Config, "minutes", True),
        ("train", Config, "seed", float("nan")),
        ("train.data", Data, "held_out", 0.6),
        ("train.data", Data, "workers", 257),
        ("train.augment", Augment, "flip", 1.5),
        ("train.augment", Augment, "compression_quality", 0),
        ("train.losses", Losses, "background", -0.1),
        ("train.losses", Losses, "gan", 101),
        ("train.optimiser", Optimiser, "lr", 0),
        ("train.optimiser", Optimiser, "lr_dropout", 0),
        ("train.optimiser", Optimiser, "accumulate", 0),
        ("train.safety", Safety, "save_minutes", 0),
        ("train.safety", Safety, "collapse", -1),
        ("train.monitor", Monitor, "report_s", 0),
        ("train.judge", Judge, "faces", 0),
    ],
)
def test_wrong_settings_are_named(section: str, kind: type[Any], name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{section}.{name} must be from"):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({}, "one to four losses, not 0"),
        (dict.fromkeys(recipe.LOSSES[:5], 1.0), "one to four losses, not 5"),
        ({"beauty": 1.0}, "there is no loss 'beauty'; there are: "),
        ({"mae": 0.0}, "train.losses.terms.mae must be above 0"),
        ({"mae": float("inf")}, "train.losses.terms.mae must be above 0"),
    ],
)
def test_terms_are_known_and_weighed(terms: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Losses(terms=terms)


def test_one_person_a_step_learns_nothing_of_swapping() -> None:
    with pytest.raises(ConfigError, match="people_per_step must be 0"):
        Config(people_per_step=1)


def test_frozen_parts_are_names() -> None:
    assert Transfer(freeze=("encoder", "decoders.a.face")).freeze
    with pytest.raises(ConfigError, match=r"train\.transfer\.freeze"):
        Transfer(freeze=("encoder; rm",))


def test_the_losses_there_are_can_be_named() -> None:
    assert set(recipe.LOSSES) == set(losses.names())


def test_every_section_comes_back_from_its_own_tree() -> None:
    sections = [f.name for f in fields(Config) if is_dataclass(getattr(Config(), f.name))]
    assert sections == [
        "layers",
        "data",
        "augment",
        "losses",
        "optimiser",
        "memory",
        "safety",
        "monitor",
        "judge",
        "transfer",
    ]
    changed = Config(
        options={"size": 96, "wide": True, "widths": (1, 2)},
        memory=Memory(compile=True),
        transfer=Transfer(start_from=Path("/m"), people={"a": "b"}),
    )
    assert config.apply(Config(), config.to_tree(changed), Path("/")) == changed
