"""What lies in a watched folder, and which of it is ready to be taken."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.plan import make_folder
from pipeline.publish import sweep

_log = logging.getLogger(__name__)

#: What a file that is not finished is called before its extension; those that hide it behind theirs (clip.mp4.part)
#: have none that counts as a clip's.
_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".download", ".incomplete")

_FAILED = ".failed.json"

_VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".apng", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".nut", ".3gp", ".3g2", ".ogv", ".mxf", ".dv", ".y4m"),
)


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """One watched folder.

    Attributes:
        inbox: where clips are dropped; the key is "in".
        out: where they come out, under the same relative path.
        model: the model for this folder; None takes the common one.
        to: whose face is put there; empty takes swap.to.
        settle_s: how long a file must have been still before it is taken.
        rescan_s: how often the folder is looked through even if nothing was heard of it.
        recursive: whether folders in it are watched too.
        suffixes: the extensions that count as clips, in small letters.
        on_done: what becomes of a clip once its result is published: leave it, move it to `done`, or delete it.
        done: the folder that `on_done: move` moves to.
    """

    inbox: Path = field(metadata={"key": "in"})
    out: Path
    model: Path | None = None
    to: str = ""
    settle_s: float = 2.0
    rescan_s: float = 10.0
    recursive: bool = True
    suffixes: tuple[str, ...] = _VIDEOS
    on_done: Literal["leave", "move", "delete"] = "leave"
    done: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.settle_s <= 3600:
            raise ValueError(f"settle_s must be from 0 to 3600, not {self.settle_s:g}")
        if not 0.1 <= self.rescan_s <= 3600:
            raise ValueError(f"rescan_s must be from 0.1 to 3600, not {self.rescan_s:g}")
        for suffix in self.suffixes:
            if suffix != suffix.lower() or not suffix.startswith("."):
                raise ValueError(f"suffixes are written like .mp4, not {suffix!r}")
        if (self.done is None) == (self.on_done == "move"):
            raise ValueError("done names the folder for on_done: move; set both or neither")


def prepare_folders(folders: Sequence[WatchConfig]) -> None:
    """Makes the out folders, and removes the half-written files of a run that was killed.

    Raises:
        ConfigError: a folder to watch is missing, or results would be taken for new clips.
        PublishError: an out folder cannot be made or written.
    """
    if not folders:
        raise ConfigError("no folder is watched; give `watch:` in the configuration, e.g. watch: [{in: in, out: out}]")
    for at, folder in enumerate(folders):
        if not folder.inbox.is_dir():
            raise ConfigError(f"watch.{at}.in: the folder {folder.inbox} does not exist; make it first")
        for other in folders:
            inbox, out = folder.inbox.resolve(), other.out.resolve()
            nested = folder is not other and folder.recursive and inbox in out.parents
            if inbox == out or out in inbox.parents or nested:
                raise ConfigError(f"watch.{at}.in: results published in {other.out} would be taken for new clips")
    for folder in folders:
        make_folder(folder.out)
        for place, _, _ in os.walk(folder.out):
            for name in sweep(place):
                _log.info("removed %s, which a run that was killed left behind", Path(place) / name)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells that a file is still the same one; `ctime_ns` also when it came here, whatever date it brought."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(slots=True)
class _Sighting:
    mark: Fingerprint
    since_s: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """A clip that is ready, and where its result goes; `rival` is an earlier clip whose result has that name."""

    source: Path
    target: Path
    rival: Path | None = None


class Inbox:
    """What lies in one watched folder, and which of it is ready to be taken."""

    def __init__(
        self,
        config: WatchConfig,
        suffix_for: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._suffix_for = suffix_for
        self._clock = clock
        self._sightings: dict[Path, _Sighting] = {}
        self._settled: dict[Path, Fingerprint] = {}
        self._out = config.out.resolve()

    def take(self, busy: Collection[Path] = ()) -> list[Arrival]:
        """Looks, and gives what has become ready since; `busy` are sources that are still being converted."""
        now = self._clock()
        found = {path: mark for path in self._clips() if (mark := fingerprint(path))}
        self._settled = {path: mark for path, mark in self._settled.items() if path in found or path in busy}
        fresh = {path: mark for path, mark in found.items() if path not in busy and self._settled.get(path) != mark}
        self._sightings = {
            path: old if (old := self._sightings.get(path)) and old.mark == mark else _Sighting(mark, now)
            for path, mark in fresh.items()
        }
        owners: dict[Path, Path] = {}
        for path in sorted(found, key=lambda path: (path not in self._settled, path)):
            owners.setdefault(self.target(path), path)
        ready = []
        for path, sighting in list(self._sightings.items()):
            if now - sighting.since_s < self.config.settle_s:
                continue
            del self._sightings[path]
            again = path in self._settled
            self._settled[path] = sighting.mark
            target = self.target(path)
            if again or not _was_done(sighting.mark, target, self.failure_file(path)):
                ready.append(Arrival(path, target, owners[target] if owners[target] != path else None))
        return ready

    @property
    def waiting(self) -> bool:
        """Whether there are files that have not been still for long enough."""
        return bool(self._sightings)

    def target(self, source: Path) -> Path:
        """Where the result of `source` is published."""
        place = self.config.out / source.relative_to(self.config.inbox)
        return place.with_name(place.stem + self._suffix_for(str(source)))

    def failure_file(self, source: Path) -> Path:
        """Where is said why `source` failed."""
        place = self.config.out / source.relative_to(self.config.inbox)
        return place.with_name(place.name + _FAILED)

    def settled(self, source: Path) -> Fingerprint | None:
        """What `source` was when it was taken."""
        return self._settled.get(source)

    def _clips(self) -> Iterator[Path]:
        for folder, folders, files in os.walk(self.config.inbox):
            here = Path(folder)
            if not self.config.recursive:
                folders.clear()
            folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != self._out)
            yield from (here / name for name in sorted(files) if self._is_clip(name.lower()))

    def _is_clip(self, name: str) -> bool:
        stem, dot, suffix = name.rpartition(".")
        finished = not name.startswith((".", "~")) and not stem.endswith(_UNFINISHED)
        return finished and dot + suffix in self.config.suffixes


def fingerprint(path: Path) -> Fingerprint | None:
    """None where it is gone, or no regular file (links to one count as it)."""
    with suppress(OSError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return None


def _was_done(mark: Fingerprint, target: Path, failure_file: Path) -> bool:
    """Whether an earlier run has published this clip since it came here, or has failed on the very same file."""
    with suppress(OSError):
        if target.stat().st_mtime_ns >= mark.ctime_ns:
            return True
    with suppress(OSError, ValueError, AttributeError):
        noted = json.loads(failure_file.read_text(encoding="utf-8"))
        return bool(noted.get("size") == mark.size and noted.get("mtime_ns") == mark.mtime_ns)
    return False
