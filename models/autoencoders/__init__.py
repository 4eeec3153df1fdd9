"""Architectures, one family a file: a file's name here is its name in model.json.

Each module has a frozen dataclass `Config` whose `__post_init__` checks it, a table `PRESETS` of named ones (the
first is the family's smallest), and `build(config, people) -> Autoencoder`. Listing the names imports none of them.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import ConfigError


def names() -> tuple[str, ...]:
    """The architectures there are, in alphabetical order."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py")))


def module(name: str) -> ModuleType:
    """The architecture's module; loads torch. Raises ConfigError where there is none of that name."""
    if name not in names():
        raise ConfigError(f"there is no architecture named {name!r}; there are: {', '.join(names())}")
    return import_module(f"{__name__}.{name}")


def config(name: str, options: dict[str, Any]) -> Any:
    """The architecture's `Config` from JSON's types (lists for tuples). Raises ConfigError, naming the option."""
    kind = module(name).Config
    known = {field.name for field in fields(kind)}
    if foreign := sorted(set(options) - known):
        raise ConfigError(f"architecture {name} has no option {foreign[0]!r}; it has: {', '.join(sorted(known))}")
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return kind(**made)


def options(config: Any) -> dict[str, Any]:
    """The configuration in JSON's types; `config` is the way back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def preset(architecture: str, name: str) -> Any:
    """One of the architecture's named configurations. Raises ConfigError where there is none of that name."""
    presets: dict[str, Any] = module(architecture).PRESETS
    if name not in presets:
        raise ConfigError(f"architecture {architecture} has no preset {name!r}; it has: {', '.join(presets)}")
    return presets[name]
