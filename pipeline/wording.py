"""How names and figures are put on a terminal, whose cells are counted: some characters take two of them, some none."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def cells(text: str) -> int:
    """How many cells of a terminal a text that is printable takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` cells: what is too much goes from its middle, since names differ at their ends."""
    if cells(text) <= width:
        return text
    if width < 1:
        return ""
    head = _head(text, width // 2)
    tail = _head(text[::-1], width - 1 - cells(head))[::-1]
    return f"{head}…{tail}"


def _head(text: str, width: int) -> str:
    """As much of the beginning as fits."""
    taken = 0
    for at, character in enumerate(text):
        taken += _cells(character)
        if taken > width:
            return text[:at]
    return text


def padded(text: str, width: int, right: bool = False) -> str:
    """`text` with blanks up to `width` cells, before it if it stands `right`."""
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def wrapped(text: str, width: int, most: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken between words if possible; after `most` lines it ends in …"""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cells(joined) <= width:
            lines[-1] = joined
            continue
        rest = word
        while rest:
            part = _head(rest, width) or rest[0]
            lines.append(part)
            rest = rest[len(part) :]
    lines = [line for line in lines if line] or [""]
    if len(lines) > most:
        return [*lines[: most - 1], _head(lines[most - 1], width - 1) + "…"]
    return lines


def table(rows: Sequence[Sequence[str]], width: int, flexible: int, right: frozenset[int] = frozenset()) -> list[str]:
    """Rows of cells as lines of at most `width`, two blanks between columns: the `flexible` column is shortened as need
    be; columns in `right` stand to the right.
    """
    widths = [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0:
        widths[flexible] = max(8, widths[flexible] - over)
    return [
        "  ".join(
            padded(shortened(cell, size), size, at in right)
            for at, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def unnamed(sentence: str, path: str) -> str:
    """The sentence without the path that it begins with, for where that stands above it."""
    rest = sentence.removeprefix(path)
    return rest.removeprefix(":").lstrip() if rest.startswith((": ", " ")) else sentence


def size(count: int) -> str:
    """Bytes: 999 B, 1.5 kB, 23 MB, 4.1 GB."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            return f"{amount:.1f} {unit}" if unit != "B" and amount < 9.95 else f"{amount:.0f} {unit}"
        amount /= 1000
    raise AssertionError(count)
