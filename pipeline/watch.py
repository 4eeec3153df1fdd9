"""The daemon's loop: a clip dropped into a watched folder comes out of another.

A file is taken once its size, time and inode have been still for a while (by the monotonic clock: a copy that stalls
for longer would be taken too early, so the while is a setting). Events only wake the watcher up; what there is to do is
always found by looking, so a missed event costs `rescan_s` at most. Nothing here knows what a clip is.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from pipeline.errors import PublishError
from pipeline.inbox import Fingerprint, Inbox, fingerprint
from pipeline.outcomes import as_json, failed, sentence, stages_as_json
from pipeline.progress import since
from pipeline.publish import discard, partial_path, publish
from pipeline.specs import Outcome, StageStats
from pipeline.types import Job

_log = logging.getLogger(__name__)


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
    if config.on_done == "leave" or fingerprint(source) != inbox.settled(source):
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
