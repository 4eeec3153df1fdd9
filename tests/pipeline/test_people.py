"""pipeline.people: NAME=FACESET, and what is no such thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import people
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["faces/anna", "faces/bert"], {"a": ["faces/anna"], "b": ["faces/bert"]}),
        (["anna=x", "bert=y", "anna=z"], {"anna": ["x", "z"], "bert": ["y"]}),
        (["anna=x", "y", "z"], {"anna": ["x"], "b": ["y"], "c": ["z"]}),
        (["./odd=name", "/abs/e=f"], {"a": ["./odd=name"], "b": ["/abs/e=f"]}),
        (["anna=odd=name"], {"anna": ["odd=name"]}),
        ([f"f{i}" for i in range(28)][26:], {"a": ["f26"], "b": ["f27"]}),
        ([], {}),
    ],
)
def test_who_has_which_folders(words: list[str], found: dict[str, list[str]]) -> None:
    assert people.parse(words) == found
    assert list(people.parse(words)) == list(found)


def test_there_are_letters_for_everybody() -> None:
    names = list(people.parse([str(i) for i in range(800)]))
    assert names[:2] == ["a", "b"] and names[25:28] == ["z", "aa", "ab"] and names[702] == "aaa"
    assert len(set(names)) == 800


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["an na=x"], r"not 'an na'; if that is a folder's name, write \./an na=x"),
        (["=x"], "not ''"),
        ([f"{'n' * 65}=x"], "up to 64"),
        (["anna="], "names a person but no face set"),
        ([""], "names a person but no face set"),
        (["b=x", "y"], "the name b stands for a folder without a name too"),
        (["x", "a=y"], "the name a stands for a folder without a name too"),
    ],
)
def test_what_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        people.parse(words)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_anything_is_understood_or_refused(words: list[str]) -> None:
    try:
        found = people.parse(words)
    except ConfigError:
        return
    assert sum(map(len, found.values())) == len(words)
    assert all(people.NAME.fullmatch(name) for name in found)
