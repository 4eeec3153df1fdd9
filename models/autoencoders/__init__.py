"""Architectures, one family a file: a file's name here is its name in model.json.

Each module has a frozen dataclass `Config` whose defaults are the family's own and whose `__post_init__` checks it,
beginning its errors with "name.option"; a table `PRESETS` of named ones (the first, "sketch", is small enough to
learn on a CPU in a test); and `build(config, people, layers) -> Autoencoder`. Listing the names imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def config(name: str, options: Mapping[str, Any]) -> Any:
    """The architecture's `Config` from JSON's types (lists for tuples). Raises ConfigError, naming the option."""
    kind = module(name).Config
    known = sorted(field.name for field in fields(kind))
    if foreign := sorted(set(options) - set(known)):
        raise ConfigError(f"{name}.{foreign[0]} is no option of the architecture {name}; it has: {', '.join(known)}")
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return kind(**made)


def options(config: Any) -> dict[str, Any]:
    """The configuration in JSON's types; `config` is the way back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def preset(architecture: str, name: str) -> Any:
    """One of the architecture's named configurations; "" is its defaults.

    Raises:
        ConfigError: there is no such architecture, or it has none of that name.
    """
    found = module(architecture)
    if name == "":
        return found.Config()
    presets: dict[str, Any] = found.PRESETS
    if name not in presets:
        raise ConfigError(f"architecture {architecture} has no preset {name!r}; it has: {', '.join(presets)}")
    return presets[name]


def chosen(architecture: str, preset_name: str, changes: Mapping[str, Any]) -> Any:
    """The configuration that a training's settings ask for: a preset, and over it the options that were given.

    Raises:
        ConfigError: there is no such architecture, preset or option, or an option is wrong; names the setting.
    """
    if architecture not in names():
        raise ConfigError(f"train.architecture: there is none named {architecture!r}; there are: {', '.join(names())}")
    try:
        base = preset(architecture, preset_name)
    except ConfigError as error:
        raise ConfigError(f"train.preset: {error}") from error
    try:
        return config(architecture, options(base) | dict(changes))
    except ConfigError as error:
        raise ConfigError(f"train.options.{str(error).removeprefix(f'{architecture}.')}") from error
