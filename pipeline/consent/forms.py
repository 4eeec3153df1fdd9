"""Checks of what files say, in half a sentence each: what must be what. All raise ValueError."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeVar

from pipeline.consent.plain_yaml import Value

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)

#: Entries of a list, at most.
_MOST = 64


def mapping(what: str, value: Value, must: Collection[str], may: Collection[str] = ()) -> dict[str, Value]:
    """A mapping that has all of the keys that it must have, and of others only those that it may."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must hold keys and values")
    if foreign := sorted(set(value) - {*must, *may}):
        raise ValueError(f"{what} has a key {foreign[0][:40]!r}, which is none of {', '.join((*must, *may))}")
    if missing := [key for key in must if key not in value]:
        raise ValueError(f"{what} lacks the key {missing[0]!r}")
    return value


def listed(what: str, value: Value, each: Callable[[str, Value], T]) -> tuple[T, ...]:
    """A list, each of whose entries is what `each` makes of its name and value."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list")
    return tuple(each(f"an entry of {what}", entry) for entry in value)


def text(what: str, value: Value) -> str:
    """Text, of whatever kind."""
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text")
    return value


def check_each(what: str, values: Sequence[H], check: Callable[[H], None]) -> None:
    """At most 64 values, none twice, and of each what `check` checks."""
    if len(values) > _MOST:
        raise ValueError(f"{what} has more than {_MOST} entries")
    if len(set(values)) < len(values):
        raise ValueError(f"{what} names something twice")
    for value in values:
        check(value)


def check_line(what: str, given: str, longest: int) -> None:
    """One line of text with something in it."""
    if not 1 <= len(given) <= longest or not given.isprintable() or given != given.strip():
        raise ValueError(f"{what} must be 1 to {longest} characters of one line, not {given[:40]!r}")


def check_form(what: str, given: str, form: re.Pattern[str], wanted: str) -> None:
    """Text of a certain form."""
    if not form.fullmatch(given):
        raise ValueError(f"{what} must be {wanted}, not {given[:40]!r}")


def one_of(words: Sequence[str]) -> Callable[[str], None]:
    """A check for one of these words."""

    def check(word: str) -> None:
        if word not in words:
            raise ValueError(f"{word[:40]!r} is none of {', '.join(words)}")

    return check
