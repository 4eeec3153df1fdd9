"""The clips below a watched folder, found by looking: cheaply, and without being led astray.

Links to folders are not followed, a folder that turns up twice is gone into once, and what cannot be read is said once
and passed over. A watched folder may be a share that goes away and comes back: then nothing in it counts as gone.
"""

# Paths are text here: 50,000 Path objects would be most of what a look costs.
# ruff: noqa: PTH112, PTH114, PTH116, PTH118, PTH119, PTH120
from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.clutter import is_clutter, is_clutter_folder

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """One look: where not to go, by real path, and by (device, inode), which grows with every folder gone into."""

    excluded: tuple[str, ...]
    seen: set[tuple[int, int]]

    def leads_out(self, link: str) -> bool:
        """Whether a link to a file leads to where results are put, or the like."""
        place = os.path.realpath(link)
        return any(place.startswith(folder + os.sep) for folder in self.excluded)


class Tree:
    """Files with certain extensions below `root`, at their absolute paths as text.

    Attributes:
        root: absolute; links in it are left as they are.
        trouble: why nothing can be looked at now, as a sentence; empty where all is well.
        bare: whether the last look found nothing at all in `root`, no file and no folder.
    """

    def __init__(self, root: Path, recursive: bool, suffixes: Collection[str], excluded: Collection[Path]) -> None:
        """`excluded` are folders that are not gone into, wherever they lie; they need not exist."""
        self.root = str(root.absolute())
        self.trouble = ""
        self.bare = False
        self._recursive = recursive
        self._suffixes = frozenset(suffixes)
        self._excluded = tuple(excluded)
        self._id: tuple[int, int] | None = None
        self._was_mounted = False
        self._mounts: set[str] = set()
        self._folders: set[str] = set()
        self._closed: set[str] = set()
        self._said: set[str] = set()

    def reachable(self) -> bool:
        """Whether the folder is there, and still the same; sets `trouble`, and says so when that changes."""
        try:
            here, above = os.stat(self.root), os.stat(os.path.join(self.root, os.pardir))
            with os.scandir(self.root) as entries:
                is_bare = next(entries, None) is None
        except OSError as error:
            return self._trouble(f"{self.root} cannot be read: {error.strerror}")
        found, is_mounted = (here.st_dev, here.st_ino), here.st_dev != above.st_dev
        if self._id not in (None, found):
            if self._was_mounted and not is_mounted:
                return self._trouble(f"what was mounted at {self.root} is not there; mount it again")
            if is_bare and not self.bare:
                return self._trouble(f"{self.root} is another folder than before, and empty; is a share missing?")
        self._id, self._was_mounted, self.bare = found, is_mounted, is_bare
        self._trouble("")
        return True

    def everything(self) -> Iterator[tuple[str, int]]:
        """(path, inode of the entry) of every clip, in no order."""
        self._folders.clear()
        self._closed.clear()
        yield from self._below(self.root, self._look())

    def near(self, paths: Iterable[str]) -> Iterator[tuple[str, int]]:
        """What of these paths is a clip (inode 0: not asked for) and the clips below those that are folders.

        Where the folder that a path lies in has not been gone into before, all of that is looked at.
        """
        look = self._look()
        for path in dict.fromkeys(self._nearest(path) for path in paths):
            name = os.path.basename(path)
            if path == self.root:
                yield from self._below(path, look)
            elif not path:
                continue
            elif os.path.isdir(path) and not os.path.islink(path):
                if self._admits(path, look):
                    yield from self._below(path, look)
            elif self._is_clip(name) and not (os.path.islink(path) and look.leads_out(path)):
                yield path, 0

    def passed_over(self, path: str) -> bool:
        """Whether `path` lies in a folder that could not be read the last time."""
        return any(path.startswith(closed + os.sep) for closed in self._closed)

    def _below(self, start: str, look: _Look) -> Iterator[tuple[str, int]]:
        stack = [start]
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(folder) as entries:
                    found = list(entries)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._pass_over(folder, error.strerror)
                continue
            self._folders.add(folder)
            self._said.discard(folder)
            for entry in found:
                if _is_folder(entry):
                    if self._admits(entry.path, look):
                        stack.append(entry.path)
                elif self._is_clip(entry.name) and not (entry.is_symlink() and look.leads_out(entry.path)):
                    yield entry.path, entry.inode()

    def _admits(self, folder: str, look: _Look) -> bool:
        """Whether this folder is to be gone into."""
        above, name = os.path.split(folder)
        if not self._recursive or is_clutter_folder(name):
            return False
        try:
            status, around = os.lstat(folder), os.stat(above)
        except FileNotFoundError:
            return False
        except OSError as error:
            return self._pass_over(folder, error.strerror)
        if (status.st_dev, status.st_ino) in look.seen:
            return False
        look.seen.add((status.st_dev, status.st_ino))
        if status.st_dev != around.st_dev:
            self._mounts.add(folder)
        elif folder in self._mounts:
            return self._pass_over(folder, "what was mounted there is gone")
        return True

    def _is_clip(self, name: str) -> bool:
        return name[name.rfind(".") :].lower() in self._suffixes and not is_clutter(name)

    def _nearest(self, path: str) -> str:
        """`path`, or the folder it lies in that has not been gone into; empty where it is not in this tree at all."""
        while path != self.root and path.startswith(self.root.rstrip(os.sep) + os.sep):
            above = os.path.dirname(path)
            if above in self._folders:
                return path
            path = above
        return path if path == self.root else ""

    def _look(self) -> _Look:
        root, places, ids = os.path.realpath(self.root), [], set()
        for folder in self._excluded:
            place = os.path.realpath(folder)
            if root == place or root.startswith(place.rstrip(os.sep) + os.sep):
                continue  # what the root itself lies in is no place in it
            places.append(place)
            try:
                status = os.stat(place)
            except OSError:
                continue
            ids.add((status.st_dev, status.st_ino))
        return _Look(tuple(places), ids)

    def _trouble(self, trouble: str) -> bool:
        if trouble != self.trouble:
            if trouble:
                _log.warning("%s; nothing is taken from there until it is back", trouble)
            else:
                _log.info("%s can be read again", self.root)
        self.trouble = trouble
        return not trouble

    def _pass_over(self, folder: str, why: str | None) -> Literal[False]:
        self._closed.add(folder)
        if folder not in self._said:
            self._said.add(folder)
            _log.warning("%s is passed over, it cannot be read: %s", folder, why)
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # on file systems whose folders do not say, it is asked of the file, which may fail
        return False
