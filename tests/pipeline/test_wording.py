"""Names and figures on a terminal: never wider than they may be, whatever they are made of."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.logs import printable
from pipeline.wording import cells, padded, shortened, size, table, unnamed, wrapped

shown = st.text().map(printable)


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("a.mp4", 5, "a.mp4"),
        ("abcdefgh.mp4", 9, "abcd….mp4"),
        ("abcdefgh.mp4", 1, "…"),
        ("abcdefgh.mp4", 0, ""),
        ("日本語.mp4", 10, "日本語.mp4"),
        ("日本語日本語.mp4", 10, "日本….mp4"),
        ("", 3, ""),
    ],
)
def test_shortened(text: str, width: int, expected: str) -> None:
    assert shortened(text, width) == expected


@given(shown, st.integers(-2, 40))
def test_what_is_shortened_fits(text: str, width: int) -> None:
    found = shortened(text, width)
    assert cells(found) <= max(0, width)
    assert cells(found) >= min(cells(text), width) - 2  # a wide character may leave a cell on each side


def test_cells() -> None:
    assert (cells("abc"), cells("日本"), cells(unicodedata.normalize("NFD", "é")), cells("…")) == (3, 4, 1, 1)
    assert padded("日本", 6) == "日本  " and padded("日本", 6, right=True) == "  日本" and padded("日本", 2) == "日本"


@given(shown, st.integers(1, 30), st.integers(1, 5))
def test_what_is_wrapped_fits(text: str, width: int, most: int) -> None:
    lines = wrapped(text, width, most)
    assert 1 <= len(lines) <= most
    assert all(cells(line) <= max(2, width) for line in lines)  # a wide character takes two in any case
    whole = wrapped(text, width, 10_000)
    assert "".join(whole).replace(" ", "") == text.replace(" ", "")


def test_wrapped() -> None:
    assert wrapped("one two three", 7, 9) == ["one two", "three"]
    assert wrapped("one two three four", 7, 2) == ["one two", "three…"]
    assert wrapped("a abcdefghij", 4, 9) == ["a", "abcd", "efgh", "ij"]
    assert wrapped("", 4, 9) == [""]


def test_a_table_gives_way_in_one_column() -> None:
    rows = [("1", "a" * 50, "swap"), ("23", "b.mp4", "")]
    assert table(rows, 30, 1, frozenset({0})) == [" 1  aaaaaaaaaa…aaaaaaaaa  swap", "23  b.mp4"]
    assert table([], 30, 1) == []


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1500, "1.5 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (4_100_000_000, "4.1 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_size(count: int, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("/in/a.mp4 cannot be read", "cannot be read"),
        ("/in/a.mp4: swap failed", "swap failed"),
        ("/in/a.mp4.part is there", "/in/a.mp4.part is there"),
        ("the disk is full", "the disk is full"),
        ("/in/a.mp4", "/in/a.mp4"),
    ],
)
def test_unnamed(sentence: str, expected: str) -> None:
    assert unnamed(sentence, "/in/a.mp4") == expected
