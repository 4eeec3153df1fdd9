"""The checks that architectures' options share; loads no torch.

Each takes the family's name, its `Config` and the options to look at, and raises ConfigError on the first that is
wrong: "family.option must be ..., not ...". Options may come from a model.json that somebody else wrote, so types are
checked too, and nothing may grow without bounds.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pipeline.errors import ConfigError

#: Channels that a convolution may have. One has no halves, which some up-scalers make.
WIDTHS = range(2, 8193)
#: Features that a dense layer may have.
FEATURES = range(1, 65537)
#: How many layers one option may list.
LAYERS = range(1, 13)


def whole(family: str, config: Any, **allowed: range) -> None:
    """Options that are whole numbers; `allowed` says from where to where, and in which steps."""
    for name, numbers in allowed.items():
        value = getattr(config, name)
        if not _is_whole(value) or value not in numbers:
            steps = f" in steps of {numbers.step}" if numbers.step > 1 else ""
            wanted = f"a whole number from {numbers[0]} to {numbers[-1]}{steps}"
            raise ConfigError(f"{family}.{name} must be {wanted}, not {value!r}")


def widths(family: str, config: Any, *names: str) -> None:
    """Options that list the channels of layer after layer."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, tuple) or len(value) not in LAYERS or not all(_is_width(width) for width in value):
            wanted = f"a list of {LAYERS[0]} to {LAYERS[-1]} whole numbers from {WIDTHS[0]} to {WIDTHS[-1]}"
            raise ConfigError(f"{family}.{name} must be {wanted}, not {value!r}")


def numbers(family: str, config: Any, **allowed: tuple[float, float]) -> None:
    """Options that are numbers, whole or not; `allowed` says from where to where."""
    for name, (low, high) in allowed.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(f"{family}.{name} must be a number from {low:g} to {high:g}, not {value!r}")


def one_of(family: str, config: Any, **allowed: Collection[Any]) -> None:
    """Options that are one of a few values."""
    for name, values in allowed.items():
        value = getattr(config, name)
        if not any(value == known and type(value) is type(known) for known in values):
            known = ", ".join(str(known) for known in values)
            raise ConfigError(f"{family}.{name} must be one of {known}, not {value!r}")


def switches(family: str, config: Any, *names: str) -> None:
    """Options that are true or false."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{family}.{name} must be true or false, not {getattr(config, name)!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_width(value: object) -> bool:
    return _is_whole(value) and value in WIDTHS
