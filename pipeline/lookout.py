"""Looking at one watched folder, in a thread of its own: a share that does not answer holds up nobody else's clips."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import live
from pipeline.daemon_config import Watched
from pipeline.inbox import Arrival, Inbox
from pipeline.jobs import Known, Mark
from pipeline.listening import Listener

_log = logging.getLogger(__name__)

#: How long the end waits for a folder that does not answer.
_PATIENCE_S = 3.0

#: After a defect it is begun again, but not at once.
_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Which known clips were not there any more when somebody looked, and what has become ready since; maybe nothing:
    then it has settled."""

    folder: Watched
    gone: tuple[Path, ...]
    arrivals: tuple[Arrival, ...]


class Lookout:
    """Tells what arrives in a folder, and what goes. Belongs to one thread, and works in another."""

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
        self._orders: queue.SimpleQueue[tuple[int, Callable[[Inbox], None]]] = queue.SimpleQueue()
        self._given = self._obeyed = 0  # the numbers of the last orders
        self._settled = -1  # of the last one before nothing was changing any more
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._shown = live.Folder(folder.name, str(folder.config.out.absolute()), "events")
        inbox = Inbox(folder.config, excluded)
        for path, entry in known.items():
            inbox.remember(Path(os.fsdecode(path)), entry.mark)
        # A thread that hangs in a dead share must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=(inbox,), name=f"lookout {folder.name}", daemon=True)
        self._thread.start()

    @property
    def shown(self) -> live.Folder:
        """The folder for those who look."""
        return self._shown

    @property
    def has_obeyed(self) -> bool:
        """Whether all has been done that it was told to do."""
        return self._obeyed == self._given

    @property
    def settled(self) -> bool:
        """Whether it has looked at everything, and has told of all but what may never be ready."""
        return self._settled == self._given

    def look(self, path: Path, known: Mark) -> None:
        """Has it look at a path now; what has the mark `known` is nothing new."""

        def order(inbox: Inbox) -> None:
            inbox.remember(path, known)
            inbox.look({path})

        self._give(order)

    def forget(self, path: Path) -> None:
        """Has it look at a path now; whatever lies there is new."""

        def order(inbox: Inbox) -> None:
            inbox.forget(path)
            inbox.look({path})

        self._give(order)

    def close(self) -> None:
        """Looks no more."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            _log.warning("%s does not answer; it is left as it is", self.folder.name)

    def _give(self, order: Callable[[Inbox], None]) -> None:
        self._given += 1
        self._orders.put((self._given, order))
        self._wake.set()

    def _run(self, inbox: Inbox) -> None:
        while not self._stopping.is_set():
            try:
                self._watch(inbox)
            except Exception as defect:  # noqa: BLE001  whatever it is, a folder must not go unwatched in silence
                _log.error("a defect in looking at %s", self.folder.name, exc_info=defect)
                trouble = f"a defect: {type(defect).__name__}: {defect}"
                self._shown = replace(self._shown, trouble=trouble)
                self._obeyed = self._settled = self._given
                self._stopping.wait(_AGAIN_S)

    def _watch(self, inbox: Inbox) -> None:
        with Listener([self.folder.config], self._wake) as listener:
            while not self._stopping.is_set():
                self._wake.clear()
                self._turn(inbox, listener)
                due = [listener.due_s(), *([inbox.due_s] if inbox.due_s is not None else [])]
                due += [self.folder.config.poll_s] if inbox.trouble else []
                self._wake.wait(min(due))

    def _turn(self, inbox: Inbox, listener: Listener) -> None:
        obeyed = self._obey(inbox)
        for paths in listener.heard().values():
            inbox.look(paths)
        if inbox.trouble:  # nobody tells when that is over
            inbox.look()
        gone, arrivals = inbox.gone(), inbox.take()
        mode = listener.mode(self.folder.config.inbox)
        self._shown = live.Folder(self._shown.inbox, self._shown.out, mode, inbox.trouble, inbox.arriving)
        self._obeyed = obeyed
        if arrivals or gone:
            self._told(Seen(self.folder, tuple(gone), tuple(arrivals)))
        if not inbox.settling and self._settled != obeyed:
            self._settled = obeyed
            self._told(Seen(self.folder, (), ()))  # somebody may be waiting for just that

    def _obey(self, inbox: Inbox) -> int:
        """Carries out the orders there are; the number of the last one ever."""
        obeyed = self._obeyed
        while True:
            try:
                obeyed, order = self._orders.get_nowait()
            except queue.Empty:
                return obeyed
            order(inbox)
