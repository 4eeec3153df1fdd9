"""Hearing of changes in watched folders; it says where to look and when, never what is there.

A folder's ear is an observer of watchdog's on inotify. Whatever is wrong with it (events lost because too many came,
a thread that died, a folder that was replaced, unmounted or cannot be listened to in full), there is one cure: a new
ear, and a look at everything. Where there cannot be one, and on shares, whose servers tell nobody, the folder is looked
through again and again.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import CallbackId, InotifyEvent, InotifyFD, Mask, WatchCallback, WatchDescriptor

from pipeline.inbox import WatchConfig
from pipeline.mounts import mounts, remote_kind

_log = logging.getLogger(__name__)

#: More paths than that are as good as everything.
_MANY = 1000

#: So often it is seen to that the ears are well and still on the right folders.
_CHECK_S = 5.0

#: What tells that a file may have come to its end. Not that one was read (we do that), nor every single write to one.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]

#: Limits of the system: fs.inotify.max_user_watches and max_user_instances, open files, memory.
_LIMITS = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class _Inotify(InotifyFD):
    """Tells what watchdog passes over: that events were lost, and that a folder in a tree could not be watched."""

    def __init__(self, ail: Callable[[str, bool], None]) -> None:
        super().__init__()
        self._ail = ail

    def handle_event(self, event: InotifyEvent) -> None:
        super().handle_event(event)
        if event.is_queue_overflow:
            self._ail("more happened at once than could be heard", False)

    def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        try:
            return super().add_callback(path, mask, callback, id_)
        except OSError as error:
            if error.errno in _LIMITS:
                self._ail(_limit(error), True)
            raise


class _Observer(BaseObserver):
    """watchdog's observer on an inotify of ours."""

    def __init__(self, ail: Callable[[str, bool], None]) -> None:
        self._inotify = _Inotify(ail)
        super().__init__(InotifyEmitter, inotify_fd=self._inotify)

    def on_thread_start(self) -> None:
        self._inotify.start()
        super().on_thread_start()

    def on_thread_stop(self) -> None:
        super().on_thread_stop()
        self._inotify.stop()
        if self._inotify.ident is not None:
            self._inotify.join()

    @property
    def is_well(self) -> bool:
        """Whether all its threads live."""
        return self.is_alive() and self._inotify.is_alive() and all(emitter.is_alive() for emitter in self.emitters)


class _Ear(FileSystemEventHandler):
    """Listens to one folder, as it is now, until it ails."""

    def __init__(self, folder: WatchConfig, wake: threading.Event) -> None:
        """Raises OSError: the folder is not there, or a limit of the system is reached."""
        self.ailment = ""
        self.is_deaf = False
        self._wake = wake
        self._lock = threading.Lock()
        self._paths: set[Path] | None = set()
        self._root = str(folder.inbox.absolute())
        self.place = _place(folder.inbox)
        self._observer = _Observer(self._ail)
        try:
            self._observer.schedule(self, self._root, recursive=folder.recursive, event_filter=_EVENTS)
            self._observer.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends its threads."""
        self._observer.stop()
        if self._observer.ident is not None:
            self._observer.join()

    def drain(self) -> set[Path] | None:
        """Where something has happened; None: at more places than can be told."""
        with self._lock:
            paths, self._paths = self._paths, set()
        return paths

    def check(self, folder: Path) -> None:
        """Finds out whether it is still well, and on that folder."""
        if not self._observer.is_well:
            self._ail("what listens has stopped", False)
        elif _place(folder) != self.place:
            self._ail("the folder has been replaced", False)

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.dest_path or event.src_path)
        if os.sep + "." in path[len(self._root) :]:
            return  # hidden: copies that are not done, and what we write ourselves
        with self._lock:
            if self._paths is not None:
                self._paths.add(Path(path))
                self._paths = self._paths if len(self._paths) <= _MANY else None
        self._wake.set()

    def _ail(self, why: str, is_deaf: bool) -> None:
        self.ailment, self.is_deaf = why, is_deaf
        self._wake.set()


@dataclass(slots=True)
class _Post:
    """A folder, its ear (None: it is polled, for the reason `mute`), and when it is to be looked at next."""

    config: WatchConfig
    ear: _Ear | None = None
    mute: str = ""
    said: str = ""
    everything: float = 0.0
    poll: float = 0.0
    retry: float = 0.0


class Listener:
    """Says where in which folder to look, and when. Used by one thread; `wake` is set when there is something new."""

    def __init__(
        self,
        folders: Sequence[WatchConfig],
        wake: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wake = wake
        self._clock = clock
        now = clock()
        self._posts = {folder.inbox: _Post(folder, everything=now, poll=now, retry=now) for folder in folders}
        self._checked = now
        for post in self._posts.values():
            self._listen(post, now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening; no thread is left."""
        for post in self._posts.values():
            self._deafen(post)

    def mode(self, folder: Path) -> str:
        """ "events" or "polling"."""
        return "events" if self._posts[folder].ear else "polling"

    def due_s(self) -> float:
        """`heard` is to be called after so many seconds even where `wake` is not set."""
        now = self._clock()
        due = [self._checked + _CHECK_S]
        for post in self._posts.values():
            due += [post.everything] if post.ear else [post.everything, post.poll]
        return max(0.0, min(due) - now)

    def heard(self) -> dict[Path, set[Path] | None]:
        """For each folder in which there is something to see: the paths to look at, or None for all of it.

        The first time, and every `rescan_s`, that is everything. A poll is the folder's own path.
        """
        now = self._clock()
        if now - self._checked >= _CHECK_S:
            self._checked = now
            self._check(now)
        found: dict[Path, set[Path] | None] = {}
        for folder, post in self._posts.items():
            self._cure(post, now)
            paths = self._looks(post, now)
            if paths is None or paths:
                found[folder] = paths
        return found

    def _looks(self, post: _Post, now: float) -> set[Path] | None:
        paths = post.ear.drain() if post.ear else set()
        if now >= post.everything or paths is None:
            post.everything = now + post.config.rescan_s * random.uniform(1.0, 1.1)
            post.poll = now + post.config.poll_s
            return None
        if not post.ear and now >= post.poll:
            post.poll = now + post.config.poll_s
            return {post.config.inbox.absolute()}
        return paths

    def _check(self, now: float) -> None:
        for post in self._posts.values():
            if post.ear is not None:
                post.ear.check(post.config.inbox)
            elif now >= post.retry or (post.mute == "missing" and _place(post.config.inbox)):
                self._listen(post, now)

    def _cure(self, post: _Post, now: float) -> None:
        """A new ear for one that ails, or none where it cannot hear all; everything is looked at in any case."""
        if post.ear is None or not post.ear.ailment:
            return
        why, is_deaf = post.ear.ailment, post.ear.is_deaf
        self._deafen(post)
        post.everything = now
        if is_deaf:
            self._give_up(post, why, now)
        else:
            _log.warning("%s: %s; all of it is looked at again", post.config.inbox, why)
            self._listen(post, now)

    def _listen(self, post: _Post, now: float) -> None:
        """Tries for an ear. Raises nothing: without one, the folder is polled."""
        kind = remote_kind(post.config.inbox, mounts()) if post.config.polling == "auto" else ""
        if kind or post.config.polling == "always":
            self._give_up(post, f"it is on {kind}, which does not tell of changes" if kind else "", now)
            return
        try:
            post.ear = _Ear(post.config, self._wake)
        except OSError as error:
            limit = error.errno in _LIMITS
            self._give_up(post, _limit(error) if limit else str(error.strerror), now, "" if limit else "missing")
            return
        post.mute, post.everything = "", now
        if post.ear.ailment:  # parts of it could not be listened to
            self._cure(post, now)
        elif post.said:
            _log.info("%s is listened to again", post.config.inbox)
            post.said = ""

    def _give_up(self, post: _Post, why: str, now: float, mute: str = "") -> None:
        post.mute = mute
        post.retry = now + post.config.rescan_s
        if why and why != post.said:
            _log.warning("%s is looked through every %g s: %s", post.config.inbox, post.config.poll_s, why)
        post.said = why

    def _deafen(self, post: _Post) -> None:
        if post.ear is not None:
            post.ear.close()
        post.ear = None


def _limit(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "this machine may not watch more folders at a time; raise fs.inotify.max_user_watches"
    if error.errno == errno.EMFILE:
        return "this user may not watch more; raise fs.inotify.max_user_instances or the limit of open files"
    return f"it cannot be listened to: {error.strerror}"


def _place(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another of its name; None where there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
