"""What lies in a watched folder, and which of it is ready to be taken.

The truth is always found by looking; what was heard only says where. A file is ready once its size, time and inode have
been still for a while by the monotonic clock, no process of this machine has it open for writing, and its own format
says that it is whole (see `complete`). What has been taken is known by its mark, and comes again when that changes.
"""

from __future__ import annotations

import heapq
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pipeline.clutter import companions
from pipeline.complete import being_written, fault
from pipeline.errors import ConfigError
from pipeline.jobs import Mark
from pipeline.live import Arriving
from pipeline.plan import make_folder
from pipeline.publish import sweep
from pipeline.tree import Tree

_log = logging.getLogger(__name__)

_VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".apng", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".nut", ".3gp", ".3g2", ".ogv", ".mxf", ".dv", ".y4m"),
)


#: So many files are looked into in one go, so that a crowd of them does not hold up everything else.
_AT_ONCE = 256

#: A file that changes is looked at so often; one that lies there half, less and less often.
_OFTEN_S, _SELDOM_S = 1.0, 30.0

_SHOWN = 100

_DAY_S = 86400


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """One watched folder.

    Attributes:
        inbox: where clips are dropped; the key is "in".
        out: where they come out, under the same relative path.
        model: the model for this folder; None takes the common one.
        to: whose face is put there; empty takes swap.to.
        settings: what else is different for this folder, e.g. {encode: {codec: ffv1}}.
        priority: clips of a folder with a higher number are begun first, -100 to 100.
        settle_s: how long a file must have been still before it is taken.
        incomplete_s: a file that is not whole and has not changed for so long is given up; it counts as failed.
        rescan_s: how often the folder is looked through even if nothing was heard of it; up to 10 % later, by chance.
        poll_s: how often it is looked through where nothing can be heard of it.
        polling: whether that is so: auto (on network shares), always, never.
        recursive: whether folders in it are watched too.
        suffixes: the extensions that count as clips, in small letters.
        on_done: what becomes of a clip once its result is published: leave it, move it to `done`, or delete it.
        done: the folder that `on_done: move` moves to.
        on_failed: what becomes of a clip that failed for good: leave it, or move it to `failed`.
        failed: the folder of reasons, and of clips with `on_failed: move`; None: "failed" in `out`.
    """

    inbox: Path = field(metadata={"key": "in"})
    out: Path
    model: Path | None = None
    to: str = ""
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    priority: int = 0
    settle_s: float = 2.0
    incomplete_s: float = 3600.0
    rescan_s: float = 300.0
    poll_s: float = 5.0
    polling: Literal["auto", "always", "never"] = "auto"
    recursive: bool = True
    suffixes: tuple[str, ...] = _VIDEOS
    on_done: Literal["leave", "move", "delete"] = "leave"
    done: Path | None = None
    on_failed: Literal["leave", "move"] = "leave"
    failed: Path | None = None

    def __post_init__(self) -> None:
        if not -100 <= self.priority <= 100:
            raise ValueError(f"priority must be from -100 to 100, not {self.priority}")
        for name, least, most in (
            ("settle_s", 0, 3600),
            ("incomplete_s", 1, 30 * _DAY_S),
            ("rescan_s", 0.1, _DAY_S),
            ("poll_s", 0.1, 3600),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from {least:g} to {most}, not {getattr(self, name):g}")
        for suffix in self.suffixes:
            if suffix != suffix.lower() or not suffix.startswith("."):
                raise ValueError(f"suffixes are written like .mp4, not {suffix!r}")
        if (self.done is None) == (self.on_done == "move"):
            raise ValueError("done names the folder for on_done: move; set both or neither")

    @property
    def failed_folder(self) -> Path:
        """Where reasons go."""
        return self.failed or self.out / "failed"

    @property
    def own_folders(self) -> dict[str, Path]:
        """The folders that this one fills, by their keys."""
        done = {} if self.done is None else {"done": self.done}
        return {"out": self.out, **done, "failed": self.failed_folder}


def prepare_folders(folders: Sequence[WatchConfig]) -> None:
    """Makes the folders for what is done, and removes the half-written files of a run that was killed.

    Raises:
        ConfigError: a folder to watch is missing or watched twice, or what is put into a folder would be taken for new
            clips or for results.
        PublishError: a folder cannot be made or written.
    """
    if not folders:
        raise ConfigError("no folder is watched; give `watch:` in the configuration, e.g. watch: [{in: in, out: out}]")
    inboxes: dict[str, int] = {}
    for at, folder in enumerate(folders):
        _check_inbox(folder.inbox, at)
        place = os.path.realpath(folder.inbox)
        if (other := inboxes.setdefault(place, at)) != at:
            raise ConfigError(f"watch.{at}.in: the folder {folder.inbox} is watched.{other} already; name it once")
        for other_folder in folders:
            _check_apart(at, folder, other_folder)
    for folder in folders:
        for key, place_ in folder.own_folders.items():
            if key != "failed" or folder.failed is not None:
                make_folder(place_)
        for here, _, _ in os.walk(folder.out):
            for name in sweep(here):
                _log.info("removed %s, which a run that was killed left behind", Path(here) / name)


def _check_inbox(inbox: Path, at: int) -> None:
    try:
        found = inbox.is_dir()
    except OSError as error:
        raise ConfigError(f"watch.{at}.in: the folder {inbox} cannot be read: {error.strerror}") from error
    if not found:
        raise ConfigError(f"watch.{at}.in: the folder {inbox} does not exist; make it first")


def _check_apart(at: int, folder: WatchConfig, other: WatchConfig) -> None:
    """Folders that are filled may lie in the inbox (they are passed over there), but the inbox not in them."""
    inbox, out = os.path.realpath(folder.inbox), os.path.realpath(folder.out)
    for key, place in other.own_folders.items():
        real = os.path.realpath(place)
        if inbox == real or inbox.startswith(real.rstrip(os.sep) + os.sep):
            what = "results published" if key == "out" else "files put"
            raise ConfigError(f"watch.{at}.in: {what} in {place} would be taken for new clips")
        if key != "out" and real == out:
            raise ConfigError(f"watch.{at}.out: {place} is {key} as well; what is moved there would replace results")


def mark_of(path: str | Path) -> Mark | None:
    """What tells that the file is still the same; None where it is gone, or no regular file (a link to one is one).

    Raises:
        OSError: it cannot be told: the share does not answer, a folder may not be read.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # text: it is called for every file of a look
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Mark(status.st_size, status.st_mtime_ns, status.st_ino) if stat.S_ISREG(status.st_mode) else None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A clip that is ready.

    Attributes:
        source: absolute.
        mark: what it was when it was found ready.
        seen: when it was first noticed, in seconds since the epoch.
        moved: the path held a clip of this size and date before, but another file: a copy put back, perhaps.
        fault: why it is given up; empty where it is whole.
    """

    source: Path
    mark: Mark
    seen: float
    moved: bool = False
    fault: str = ""


@dataclass(slots=True)
class _Waiting:
    """A file that is not ready: still since `since`, looked at again at `due` (both by the clock of the inbox)."""

    mark: Mark
    seen: float
    since: float
    due: float
    reason: str = "it has only just come"
    stuck: bool = False  # still, but not ready


class Inbox:
    """What lies in one watched folder, and which of it is ready to be taken. To be used by one thread at a time.

    Looking takes as long as the file system does: a share that has gone away may make it wait without end.
    """

    def __init__(
        self,
        config: WatchConfig,
        excluded: Collection[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`excluded` are folders that are not gone into, besides those that the configuration names."""
        self.config = config
        self._clock = clock
        own = config.own_folders.values()
        self._tree = Tree(config.inbox, config.recursive, config.suffixes, (*own, *excluded))
        self._looked = False
        self._known: dict[str, Mark] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._due: list[tuple[float, str]] = []
        self._missing: set[str] = set()
        self._gone: list[Path] = []

    @property
    def trouble(self) -> str:
        """Why the folder cannot be looked at now; empty where it can. Nothing is forgotten meanwhile."""
        return self._tree.trouble

    @property
    def arriving(self) -> tuple[Arriving, ...]:
        """Files that are not ready, and why; a hundred at most."""
        shown = islice(self._waiting.items(), _SHOWN)
        return tuple(Arriving(path, waiting.mark.size, waiting.reason) for path, waiting in shown)

    @property
    def settling(self) -> bool:
        """Whether a file may be ready soon; what is half and does not change may never be."""
        return not self.trouble and not all(waiting.stuck for waiting in self._waiting.values())

    @property
    def due_s(self) -> float | None:
        """In how many seconds `take` has something to do; None where nothing is waiting."""
        return max(0.0, self._due[0][0] - self._clock()) if self._due and not self.trouble else None

    def remember(self, path: Path, mark: Mark) -> None:
        """What has this mark has been dealt with: the file is not offered as long as it stays the same."""
        self._known[str(path)] = mark

    def forget(self, path: Path) -> None:
        """Whatever lies there is new the next time it is looked at (`look({path})` does at once)."""
        self._known.pop(str(path), None)
        self._missing.discard(str(path))

    def gone(self) -> list[Path]:
        """Known files that a full look has not found any more, each told once; they stay known until forgotten."""
        gone, self._gone = self._gone, []
        return gone

    def look(self, paths: Collection[Path] | None = None) -> None:
        """Notices what has come. None: everything; else only these paths and what lies below those that are folders,
        where known files whose inode is the same are taken to be the same (the folder itself: a poll)."""
        if not self._tree.reachable():
            return
        if paths is None or not self._looked:
            self._look_at_everything()
            return
        seen = time.time()
        for path, inode in self._tree.near(map(str, paths)):
            known = self._known.get(path)
            if not inode or known is None or known.inode != inode:
                self._notice(path, seen, heard=not inode)

    def take(self) -> list[Arrival]:
        """What has become ready since the last time, in the order in which it was noticed; some of it, if it is much:
        `due_s` is 0 then."""
        ready = []
        now = self._clock()
        for _ in range(_AT_ONCE if not self.trouble else 0):
            if not self._due or self._due[0][0] > now:
                break
            due, path = heapq.heappop(self._due)
            waiting = self._waiting.get(path)
            if waiting is not None and waiting.due == due and (arrival := self._ready(path, waiting, now)):
                ready.append(arrival)
        return sorted(ready, key=lambda arrival: (arrival.seen, arrival.source))

    def _look_at_everything(self) -> None:
        found, seen = set(), time.time()
        for path, _ in self._tree.everything():
            found.add(path)
            self._notice(path, seen)
        if not self._tree.reachable() or self._tree.bare:
            return  # an empty folder may be one that nothing is mounted on yet
        self._looked = True
        missing = {path for path in self._known.keys() - found if not self._tree.passed_over(path)}
        self._gone += map(Path, sorted(missing - self._missing))
        self._missing = missing

    def _notice(self, path: str, seen: float, heard: bool = False) -> None:
        """Has a file that is not known as it is wait until it is ready; what waits is looked at in its own time."""
        now = self._clock()
        waiting = self._waiting.get(path)
        if waiting is None:
            try:
                mark = mark_of(path)
            except OSError:
                return  # the next look will tell
            if mark is not None and mark != self._known.get(path):
                self._waiting[path] = waiting = _Waiting(mark, seen, now, now)
                self._postpone(path, waiting, now + min(_OFTEN_S, self.config.settle_s))
        elif heard:
            self._heard_of(path, waiting, now)

    def _heard_of(self, path: str, waiting: _Waiting, now: float) -> None:
        """A writer may be done: what has changed until now counts from now, and not from when it is looked at next."""
        try:
            mark = mark_of(path)
        except OSError:
            return
        if mark is not None and mark != waiting.mark:
            waiting.mark, waiting.since, waiting.stuck = mark, now, False
        if (soon := max(now, waiting.since + self.config.settle_s)) < waiting.due:
            self._postpone(path, waiting, soon)

    def _postpone(self, path: str, waiting: _Waiting, due: float) -> None:
        waiting.due = due
        heapq.heappush(self._due, (due, path))

    def _ready(self, path: str, waiting: _Waiting, now: float) -> Arrival | None:
        try:
            mark = mark_of(path)
        except OSError as error:
            waiting.reason, waiting.stuck = f"it cannot be read: {error.strerror}", True
            self._postpone(path, waiting, now + 5 * _OFTEN_S)
            return None
        if mark is None or mark == self._known.get(path):
            del self._waiting[path]
            return None
        if mark != waiting.mark:
            waiting.mark, waiting.since = mark, now
        still_s = now - waiting.since
        waiting.stuck = still_s >= self.config.settle_s
        if not waiting.stuck:
            waiting.reason = "it has changed a moment ago"
            self._postpone(path, waiting, now + min(_OFTEN_S, self.config.settle_s - still_s))
            return None
        broken = fault(Path(path))
        waiting.reason = broken or _held(path)
        if waiting.reason and still_s < self.config.incomplete_s:
            self._postpone(path, waiting, now + min(_SELDOM_S, max(_OFTEN_S, still_s / 10)))
            return None
        del self._waiting[path]
        return self._arrival(
            path, mark, waiting.seen, broken and f"{broken}, and nothing has come for {_span(still_s)}"
        )

    def _arrival(self, path: str, mark: Mark, seen: float, broken: str) -> Arrival:
        before = self._known.get(path)
        self._known[path] = mark
        is_moved = before is not None and (before.size, before.mtime_ns) == (mark.size, mark.mtime_ns)
        return Arrival(Path(path), mark, seen, is_moved, broken)


def _held(path: str) -> str:
    """Why a file that looks whole may not be; who holds it for ever without writing is not waited for for ever."""
    if being_written(Path(path)):
        return "a program has it open for writing"
    if any(map(os.path.lexists, companions(path))):
        return "it is being downloaded"
    return ""


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
