"""Ready-made settings for a training, one YAML file each, by what one has to train on. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError


def names() -> tuple[str, ...]:
    """The profiles there are, in alphabetical order."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("*.yaml")))


def path(name: str) -> Path:
    """The profile's file. Raises ConfigError where there is none of that name."""
    if name not in names():
        raise ConfigError(f"there is no profile {name!r}; there are: {', '.join(names())}")
    return Path(__file__).parent / f"{name}.yaml"
