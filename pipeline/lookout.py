"""Looking at one watched folder, in a thread of its own: a share that does not answer holds up nobody else's clips."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import live
from pipeline.daemon_config import Watched
from pipeline.inbox import Arrival, Inbox
from pipeline.jobs import Known, Mark
from pipeline.listening import Listener

_log = logging.getLogger(__name__)

#: How long the end waits for a folder that does not answer.
_PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What has become ready in a folder, and which known clips are not there any more."""

    folder: Watched
    arrivals: tuple[Arrival, ...]
    gone: tuple[Path, ...]


class Lookout:
    """Tells what arrives in a folder, and what goes. Every method may be called from any thread."""

    def __init__(
        self,
        folder: Watched,
        known: Mapping[bytes, Known],
        excluded: Collection[Path],
        told: Callable[[Seen], None],
    ) -> None:
        """Starts the thread, in which `told` is called."""
        self.folder = folder
        self._told = told
        self._orders: queue.SimpleQueue[Callable[[Inbox], None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = False
        self._shown = live.Folder(folder.name, str(folder.config.out.absolute()), "events")
        self.settled = False  # has looked at everything, and nothing that it saw is still changing
        inbox = Inbox(folder.config, excluded)
        for path, entry in known.items():
            inbox.remember(Path(os.fsdecode(path)), entry.mark)
        # A thread that hangs in a dead share must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=(inbox,), name=f"lookout {folder.name}", daemon=True)
        self._thread.start()

    def shown(self) -> live.Folder:
        """The folder for those who look."""
        return self._shown

    def look(self, path: Path, known: Mark | None) -> None:
        """Has it look at a path now; what has the mark `known` is nothing new."""

        def order(inbox: Inbox) -> None:
            if known is None:
                inbox.forget(path)
            else:
                inbox.remember(path, known)
            inbox.look({path})

        self._give(order)

    def forget(self, path: Path) -> None:
        """Whatever comes to lie there is new."""
        self._give(lambda inbox: inbox.forget(path))

    def close(self) -> None:
        """Looks no more."""
        self._stopping = True
        self._wake.set()
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            _log.warning("%s does not answer; it is left as it is", self.folder.name)

    def _give(self, order: Callable[[Inbox], None]) -> None:
        self.settled = False
        self._orders.put(order)
        self._wake.set()

    def _run(self, inbox: Inbox) -> None:
        with Listener([self.folder.config], self._wake) as listener:
            while not self._stopping:
                self._wake.clear()
                self._turn(inbox, listener)
                due = [listener.due_s(), *([inbox.due_s] if inbox.due_s is not None else [])]
                self._wake.wait(min(due))

    def _turn(self, inbox: Inbox, listener: Listener) -> None:
        try:
            while True:
                self._orders.get_nowait()(inbox)
        except queue.Empty:
            pass
        for paths in listener.heard().values():
            inbox.look(paths)
        arrivals, gone = inbox.take(), inbox.gone()
        mode = listener.mode(self.folder.config.inbox)
        self._shown = live.Folder(self._shown.inbox, self._shown.out, mode, inbox.trouble, inbox.arriving)
        if arrivals or gone:
            self._told(Seen(self.folder, tuple(arrivals), tuple(gone)))
        self.settled = not inbox.settling and self._orders.empty()
