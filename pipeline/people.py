"""Whose face sets are whose: the words NAME=FACESET of a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.errors import ConfigError

#: What a person may be called, here as in a model's description.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def parse(words: Sequence[str]) -> dict[str, list[str]]:
    """Each person's folders, people and folders in the order of their words.

    `anna=faces/anna` is anna's; the same name again adds a folder to hers. A folder without a name is a person of its
    own, called a, b, c and so on by its place among the words. A folder whose name contains "=" is reached with a
    folder before it, as ./odd=name.

    Raises:
        ConfigError: a name that cannot be one, nothing after it, or a name that a folder without one would also have.
    """
    people: dict[str, list[str]] = {}
    unnamed: set[str] = set()
    for place, word in enumerate(words):
        name, equals, folder = word.partition("=")
        if not equals or "/" in name:  # a name has no slash, so what has one is a folder
            name, folder = _letters(place), word
            unnamed.add(name)
        elif not NAME.fullmatch(name):
            raise ConfigError(
                f"{word!r}: a person's name is up to 64 letters, digits, - and _, not {name!r}; "
                f"if that is a folder's name, write ./{word}"
            )
        if not folder:
            raise ConfigError(f"{word!r} names a person but no face set; write NAME=FOLDER")
        if name in people and name in unnamed:
            raise ConfigError(f"{word!r}: the name {name} stands for a folder without a name too; name all of them")
        people.setdefault(name, []).append(folder)
    return people


def _letters(place: int) -> str:
    """a to z, then aa, ab and so on."""
    found = ""
    place += 1
    while place:
        place, letter = divmod(place - 1, 26)
        found = chr(ord("a") + letter) + found
    return found
