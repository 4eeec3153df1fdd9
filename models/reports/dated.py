"""Pictures of a model as it was, each named after the iteration: 000001200.png; not too many of them."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"[0-9]{9}[0-9]?")


def called(iteration: int, suffix: str) -> str:
    """The name of the picture of that iteration; names sort as iterations do."""
    return f"{iteration:09}{suffix}"


def named(folder: Path, suffix: str) -> list[Path]:
    """The pictures in `folder`, earliest first; whatever else lies there is passed by. Raises OSError."""
    files = (file for file in folder.iterdir() if file.suffix == suffix and _NAME.fullmatch(file.stem))
    return sorted(files, key=lambda file: int(file.stem))


def thin_out(folder: Path, suffix: str, iteration: int, count: int) -> list[Path]:
    """Removes the pictures of iterations beyond that one, and what is more than `count`; gives those that stay.

    The first and the last stay; of the others, again and again, the one goes whose neighbours are closest together.
    Raises OSError.
    """
    files = named(folder, suffix)
    at = {file: int(file.stem) for file in files}
    gone = [file for file in files if at[file] > iteration]
    kept = files[: len(files) - len(gone)]
    while len(kept) > max(count, 2):
        inner = range(1, len(kept) - 1)
        closest = min(inner, key=lambda place: at[kept[place + 1]] - at[kept[place - 1]])
        gone.append(kept.pop(closest))
    if len(kept) > count:
        gone += kept[:-count]
        kept = kept[-count:]
    for file in gone:
        file.unlink(missing_ok=True)
    return kept
