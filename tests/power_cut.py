"""What is left on a disk when the power goes: a model of files whose writes are kept once they are synced, not before.

A disk promises two things alone: what a file held when it was last synced, and which names a folder held when that was
last synced. Of all that was done since, anything may be there or not.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.tracer import Call

_SECTOR = 512


@dataclass(slots=True)
class File:
    """A file: what is in it, what would be left of it, and the changes since then: (at, data), or (size, None)."""

    live: bytearray = field(default_factory=bytearray)
    kept: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, at: int, data: bytes | None) -> None:
        at = len(self.live) if at < 0 else at
        _change(self.live, at, data)
        self.since.append((at, data))

    def sync(self) -> None:
        self.kept = bytes(self.live)
        self.since.clear()

    def left(self, chance: random.Random | None) -> bytes:
        """Without `chance`, nothing but what was synced; else with some of the writes, or of their sectors."""
        if chance is None or not self.since:
            return self.kept
        left = bytearray(self.kept)
        for at, data in self.since:
            if data is None:
                if chance.random() < 0.5:
                    _change(left, at, None)
                continue
            whole = chance.random()
            for start in range(0, len(data), _SECTOR):
                if whole < 0.4 or (whole < 0.7 and chance.random() < 0.5):
                    _change(left, at + start, data[start : start + _SECTOR])
        return bytes(left)


def _change(content: bytearray, at: int, data: bytes | None) -> None:
    end = at if data is None else at + len(data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[at:]
    else:
        content[at:end] = data


@dataclass(slots=True)
class Folder:
    """A folder: its names, those that would be left, and the changes since: what to take away, what to put there."""

    live: dict[str, File | Folder] = field(default_factory=dict)
    kept: dict[str, File | Folder] = field(default_factory=dict)
    since: list[tuple[str, str, File | Folder | None]] = field(default_factory=list)

    def change(self, gone: str, name: str = "", node: File | Folder | None = None) -> None:
        """One change: `gone` is taken away where there is one, and `node` put there as `name`."""
        _rename(self.live, gone, name, node)
        self.since.append((gone, name, node))

    def sync(self) -> None:
        self.kept = dict(self.live)
        self.since.clear()

    def left(self, chance: random.Random | None) -> dict[str, File | Folder]:
        """Names are kept in the order in which they came: file systems write these in a journal."""
        left = dict(self.kept)
        for gone, name, node in self.since[: chance.randint(0, len(self.since)) if chance else 0]:
            _rename(left, gone, name, node)
        return left


def _rename(names: dict[str, File | Folder], gone: str, name: str, node: File | Folder | None) -> None:
    if gone:
        names.pop(gone, None)
    if name and node is not None:
        names[name] = node


class Disk:
    """What calls make of the files below `root`, and what would be left of them. Index files (-shm) are passed over."""

    def __init__(self, root: Path) -> None:
        """What lies there now counts as synced."""
        self._root = root
        self._top = _copy(root)
        self._open: dict[int, File | Folder] = {}

    def do(self, call: Call) -> None:
        """Follows one call."""
        if call.what == "say" or call.path.endswith("-shm"):
            return
        if call.what == "open":
            self._open[call.handle] = self._made(call.path)
            return
        if call.what in ("write", "truncate"):
            file = self._open[call.handle]
            assert isinstance(file, File)
            file.change(call.at, call.data if call.what == "write" else None)
            return
        if call.what == "sync":
            self._open[call.handle].sync()
            return
        folder, name = self._place(call.path)
        if call.what == "mkdir":
            folder.change("", name, Folder())
        elif call.what == "unlink":
            folder.change(name)
        else:
            self._move(folder, name, call.to)

    def leave(self, place: Path, chance: random.Random | None = None) -> None:
        """Puts below `place` what would be left if the power went now."""
        _put(self._top, place, chance)

    def _move(self, folder: Folder, name: str, to: str) -> None:
        other, new = self._place(to)
        node = folder.live[name]
        if other is folder:
            folder.change(name, new, node)
        else:
            other.change("", new, node)
            folder.change(name)

    def _made(self, path: str) -> File | Folder:
        if path == str(self._root):
            return self._top
        folder, name = self._place(path)
        if name not in folder.live:
            folder.change("", name, File())
        return folder.live[name]

    def _place(self, path: str) -> tuple[Folder, str]:
        *above, name = Path(path).relative_to(self._root).parts
        folder = self._top
        for part in above:
            node = folder.live[part]
            assert isinstance(node, Folder)
            folder = node
        return folder, name


def _copy(place: Path) -> Folder:
    folder = Folder()
    for entry in place.iterdir():
        node: File | Folder = _copy(entry) if entry.is_dir() else File(bytearray(entry.read_bytes()))
        folder.live[entry.name] = node
        node.sync()
    folder.sync()
    return folder


def _put(folder: Folder, place: Path, chance: random.Random | None) -> None:
    os.mkdir(place, 0o700)  # noqa: PTH102  as a program makes it, whatever it is called
    for name, node in folder.left(chance).items():
        if isinstance(node, Folder):
            _put(node, place / name, chance)
        else:
            (place / name).write_bytes(node.left(chance))
