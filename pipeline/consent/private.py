"""Files that are nobody else's business, 0600 in folders of 0700: there whole or not at all, if the power goes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import publish
from pipeline.originals import open_regular


def make_folder(folder: Path) -> None:
    """Makes the folder, and those above it that are missing, for their owner alone. OSError where that can't be."""
    if not folder.is_dir():
        if not folder.parent.is_dir():
            make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        publish.sync(str(folder.parent))


def write(path: Path, content: bytes) -> None:
    """Puts a file in its place, replacing what is there. OSError leaves all as it was."""
    with _written_beside(path, content) as beside:
        beside.replace(path)


def write_first(path: Path, content: bytes) -> bool:
    """Puts a file in its place where nobody has been faster; whether this one was. OSError leaves all as it was."""
    with _written_beside(path, content) as beside:
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
    return True


@contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path` that holds the content and is on the disk; where it goes to is synced in the end."""
    beside = Path(publish.partial_path(str(path), threading.get_native_id()))  # threads write at once, too
    publish.discard(str(beside))
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        publish.discard(str(beside))
    publish.sync(str(path.parent))


def read(path: Path, longest: int) -> bytes:
    """A file's content. OSError: it cannot be read, or is a pipe; ValueError: it has more than `longest` bytes."""
    with open_regular(path, os.O_CLOEXEC) as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise ValueError(f"it is longer than {longest >> 10} KiB")
    return content
