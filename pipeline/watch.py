"""Watched folders: a clip dropped into one comes out of another.

A file is taken once its size, time and inode have been still for a while (by the monotonic clock: a copy that stalls
for longer would be taken too early, so the while is a setting). Events only wake the watcher up; what there is to do is
always found by looking, so a missed event costs `rescan_s` at most. Nothing here knows what a clip is.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

from pipeline.errors import ConfigError, PublishError
from pipeline.outcomes import as_json, failed, sentence, stages_as_json
from pipeline.plan import make_folder
from pipeline.progress import since
from pipeline.publish import discard, partial_path, publish, sweep
from pipeline.specs import Outcome, StageStats
from pipeline.types import Job

_log = logging.getLogger(__name__)

#: What browsers, copy programs and editors call a file that is not finished.
_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".swp", ".!ut", "~")

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
        found = {path: mark for path in self._clips() if (mark := _fingerprint(path))}
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
            for name in sorted(files):
                small = name.lower()
                if (
                    small.endswith(self.config.suffixes)
                    and not name.startswith(".")
                    and not small.endswith(_UNFINISHED)
                ):
                    yield here / name


def _fingerprint(path: Path) -> Fingerprint | None:
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


class Worker(Protocol):
    """What the watcher needs of an engine."""

    def submit(self, job: Job) -> None: ...

    def poll(self, timeout_s: float) -> list[Outcome]: ...

    def stats(self) -> tuple[StageStats, ...]: ...


@dataclass(slots=True)
class _Task:
    inbox: Inbox
    source: Path
    worker: Worker


class Watcher:
    """Takes clips out of inboxes, has them converted, and says how each ended."""

    def __init__(self, inboxes: Mapping[Inbox, Worker], told: Callable[[Outcome, dict[str, object]], None]) -> None:
        """`told` gets each outcome and the table of stages for it."""
        self._inboxes = inboxes
        self._told = told
        self._tasks: dict[int, _Task] = {}
        self._numbers = count(1)
        self._wake = threading.Event()
        self._before = {worker: worker.stats() for worker in inboxes.values()}
        self.failed = 0

    def run(self, once: bool = False) -> None:
        """Runs for ever, or (`once`) until all that is there has been dealt with."""
        rescan_s = min(inbox.config.rescan_s for inbox in self._inboxes)
        looked = -rescan_s
        with ExitStack() if once else self._listening():
            while True:
                now = time.monotonic()
                waiting = any(inbox.waiting for inbox in self._inboxes)
                if waiting or self._wake.is_set() or now - looked >= rescan_s:
                    self._wake.clear()
                    looked = now
                    self._take()
                self._poll()
                if once and not self._tasks and not any(inbox.waiting for inbox in self._inboxes):
                    return

    def _take(self) -> None:
        busy = {task.source for task in self._tasks.values()}
        for inbox, worker in self._inboxes.items():
            for arrival in inbox.take(busy):
                source, target = arrival.source, arrival.target
                job = Job(next(self._numbers), str(source.absolute()), str(target.absolute()))
                self._tasks[job.id] = _Task(inbox, source, worker)
                try:
                    if arrival.rival is not None:
                        raise PublishError(f"{arrival.rival} becomes {target} too; rename one of them")
                    target.parent.mkdir(parents=True, exist_ok=True)
                except PublishError as error:
                    self._end(failed(job, error))
                except OSError as error:
                    self._end(failed(job, PublishError(f"{target.parent} cannot be made: {error.strerror}")))
                else:
                    _log.info("taken: %s", source)
                    worker.submit(job)

    def _poll(self) -> None:
        workers = set(self._inboxes.values())
        for worker in workers:
            for outcome in worker.poll(0.2 / len(workers)):
                self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        task = self._tasks.pop(outcome.job.id)
        inbox, source = task.inbox, task.source
        if outcome.ok:
            with suppress(OSError):
                discard(str(inbox.failure_file(source)))
            _put_away(source, inbox)
        else:
            self.failed += 1
            _note_failure(outcome, inbox.failure_file(source), inbox.settled(source))
        stats = task.worker.stats()
        self._told(outcome, stages_as_json(since(stats, self._before[task.worker]), outcome.seconds))
        self._before[task.worker] = stats

    def _listening(self) -> ExitStack:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer

        wake = self._wake

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: object) -> None:
                wake.set()

        observer = Observer()
        for inbox in self._inboxes:
            observer.schedule(Handler(), str(inbox.config.inbox), recursive=inbox.config.recursive)
        stack = ExitStack()
        observer.start()
        stack.callback(observer.join)
        stack.callback(observer.stop)
        return stack


def _put_away(source: Path, inbox: Inbox) -> None:
    """Does with a finished clip what `on_done` says, unless it has been replaced in the meantime."""
    config = inbox.config
    if config.on_done == "leave" or _fingerprint(source) != inbox.settled(source):
        return
    try:
        if config.on_done == "delete":
            source.unlink()
        elif config.done is not None:
            place = config.done / source.relative_to(config.inbox)
            place.parent.mkdir(parents=True, exist_ok=True)
            source.rename(place)
    except OSError as error:
        _log.error("%s is done but cannot be put away: %s", source, error.strerror)


def _note_failure(outcome: Outcome, file: Path, mark: Fingerprint | None) -> None:
    """Leaves the reason beside where the result would be; says what file it was, so that it is not tried again."""
    entry = {**as_json(outcome), "size": mark and mark.size, "mtime_ns": mark and mark.mtime_ns}
    partial = partial_path(str(file), outcome.job.id)
    try:
        Path(partial).write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
        publish(partial, str(file))
    except OSError as error:
        with suppress(OSError):
            discard(partial)
        _log.error("%s; the reason could not be written to %s: %s", sentence(outcome), file, error)
