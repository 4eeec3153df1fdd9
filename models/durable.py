"""Files that are there whole or not at all, whenever the power goes: written beside, synced, renamed; no torch."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_PIECE = 1 << 20  # bytes read at once


@contextmanager
def replacing(file: Path, private: bool = False) -> Iterator[BinaryIO]:
    """Gives what to write into; `file` is replaced when that is whole and on the disk. OSError leaves all as it was.

    A `private` file is for its owner alone (0600).
    """
    beside = file.with_name(f".{file.name}.part")
    beside.unlink(missing_ok=True)
    try:
        # Exclusively: never through a link that somebody put there.
        with open(beside, "xb", opener=for_owner if private else None) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def for_owner(name: str, flags: int) -> int:
    """An `opener` for `open`: a file that is made is its owner's alone (0600)."""
    return os.open(name, flags | os.O_CLOEXEC, 0o600)


def make_folder(folder: Path, private: bool = False) -> None:
    """Makes the folder, and those above it, to stay. OSError where that can't be.

    A `private` one that was not there is for its owner alone (0700).
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Returns when the names in `folder` are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_regular(file: Path) -> BinaryIO:
    """Opens a file for reading. OSError where it is a pipe or a device, on which a reader could wait for ever."""
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{file} is no regular file")
    return os.fdopen(handle, "rb")


def sha256(file: Path) -> str:
    """The digest of a file's content, in hexadecimal. OSError where it can't be read."""
    digest = hashlib.sha256()
    with open_regular(file) as content:
        while piece := content.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
