"""Names that are files: what a folder of one-function modules offers, without a list to keep.

A new mask or blender is one file in its folder; its name in config.yaml is the file's name.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import ConfigError


def names(folder: ModuleType) -> tuple[str, ...]:
    """The names a package offers, in alphabetical order; nothing is imported."""
    return tuple(sorted(file.stem for place in folder.__path__ for file in Path(place).glob("[!_]*.py")))


def check(folder: ModuleType, name: str, key: str) -> None:
    """Refuses a name that no file in the package has.

    Args:
        folder: the package, such as `stages.masks`.
        name: the name asked for.
        key: the dotted setting it came from, for the message.

    Raises:
        ConfigError: names the setting, the nearest name and all there are.
    """
    known = names(folder)
    if name in known:
        return
    nearest = get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    raise ConfigError(f"{key}: there is no {name!r}{hint} (there are: {', '.join(known)})")


def load(folder: ModuleType, name: str, function: str, key: str) -> Callable[..., Any]:
    """The function called `function` in the package's module `name`. Raises ConfigError as `check` does."""
    check(folder, name, key)
    found: Callable[..., Any] = getattr(import_module(f"{folder.__name__}.{name}"), function)
    return found
