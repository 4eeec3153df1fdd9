"""The daemon: watches folders, has what arrives in them made, and remembers what became of it.

    inboxes -> intake -> the table of jobs -> dispatch -> lanes (engines) -> the door -> clerk -> the table of jobs

One thread does all but the making (`shift`). It waits on one queue, into which lanes put what has ended and signals a
word; it never waits for a clip, a model or a disk that is full. What is in no table is found again by looking, and what
the table cannot take now is kept and offered again, so that a stop at any moment loses nothing but a little work.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack

from pipeline.clerk import Clerk
from pipeline.daemon_config import Setup
from pipeline.errors import UnderstudyError
from pipeline.jobs import FILE, Damaged, Table, set_aside
from pipeline.lanes import Event, Lane
from pipeline.lock import claimed
from pipeline.logs import keeping
from pipeline.notify import VARIABLES, Notifier
from pipeline.plan import make_folder
from pipeline.rebuild import rebuild
from pipeline.shift import Shift
from pipeline.specs import Outcome
from pipeline.status.page import Page
from pipeline.telling import Teller

_log = logging.getLogger(__name__)

#: The page is started again after so long, doubled each time up to the second.
_AGAIN_S, _LONG_S = 1.0, 60.0


class Daemon:
    """Runs until it is told to stop; `stop` and `reload` may be called from signal handlers and other threads."""

    def __init__(self, read: Callable[[], Setup], tell: Callable[[Outcome, Lane | None], None]) -> None:
        """`read` reads the configuration, now and on `reload`; `tell` gets the outcome of each clip, and its lane where
        it came to one.

        Raises:
            UnderstudyError: as `read`.
        """
        self._read = read
        self._setup = read()
        self._tell = tell
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stopping = self._reloading = False
        self.failed = 0

    def stop(self) -> None:
        """Has it end: what is being made is left at its last checkpoint."""
        self._stopping = True
        self._events.put(None)

    def reload(self) -> None:
        """Has it read the configuration again; a bad one leaves all as it is."""
        self._reloading = True
        self._events.put(None)

    def run(self, environ: MutableMapping[str, str], once: bool = False) -> None:
        """Runs until `stop`, or (`once`) until all that is there has been dealt with.

        `environ` says whether a service manager listens; that is taken out of it, for it is not meant for children.

        Raises:
            ConfigError: a folder is missing, or another daemon has it.
            TableError: the table of jobs cannot be used.
        """
        config = self._setup.config
        notifier = Notifier.from_environment(environ)
        for name in VARIABLES:
            environ.pop(name, None)
        is_new = not config.state.exists()
        for folder in (config.state, config.work_folder, config.state / "sheets"):
            make_folder(folder)
        if is_new:  # faces and names are nobody else's business
            config.state.chmod(0o700)
        with ExitStack() as stack:
            inboxes = [folder.config.inbox for folder in self._setup.folders]
            claim = stack.enter_context(claimed(config.state, inboxes))
            lines = stack.enter_context(keeping(config.state))
            _log.info("started, as process %d", os.getpid())
            table = stack.enter_context(self._opened())
            clerk = Clerk(table, config.retry, lines.lines)
            stack.callback(clerk.close)
            shift = Shift(self._setup, table, clerk, self._events, self._tell, once)
            stack.callback(shift.close)
            shift.begin()
            page = _Kept(Page(config.state, config.page), enabled=config.page.enabled and not once)
            stack.callback(page.stop)
            teller = Teller(config.state, config.work_folder)
            stack.callback(teller.end)
            notifier.ready()
            while not self._stopping and not (once and shift.idle):
                if self._reloading:
                    self._reloading = False
                    notifier.reloading()
                    self._reread(shift, lambda setup: claim.hold([f.config.inbox for f in setup.folders]))
                    notifier.ready()
                shift.turn()
                shift.tell(teller, page.mend())
                notifier.alive()
            notifier.stopping()
            notifier.extend(config.drain_s + 10)
            for file in shift.arriving if once else ():
                _log.warning("%s is left: %s", file.source, file.reason)
            shift.drain()
            while not shift.drained:
                shift.turn()
                shift.tell(teller, page.mend())
                notifier.alive()
            self.failed = shift.failed
        _log.info("stopped")

    def _opened(self) -> Table:
        """The table; where it is damaged it is set aside, and where it is not there it is rebuilt from the folders."""
        path = self._setup.config.state / FILE
        try:
            table = Table.open(path)
        except Damaged as error:
            kept = set_aside(path)
            _log.error("%s; it is kept as %s, and a new one is made from what lies in the folders", error, kept)
            table = Table.open(path)
        try:
            if table.new:
                rebuild(table, [folder.place for folder in self._setup.folders], lambda: not self._stopping)
        except BaseException:
            table.close()
            raise
        return table

    def _reread(self, shift: Shift, hold: Callable[[Setup], None]) -> None:
        try:
            setup = self._read()
            hold(setup)
            shift.change(setup)
        except UnderstudyError as error:
            hold(self._setup)
            _log.error("the configuration is left as it was: %s", error)
            return
        self._setup = setup
        _log.info("the configuration has been read again")


class _Kept:
    """The page, kept up; clips go on without it, whatever is wrong with it."""

    def __init__(self, page: Page, enabled: bool) -> None:
        self._page = page
        self._enabled = enabled
        self._due = 0.0
        self._wait_s = _AGAIN_S
        self._trouble = ""

    def mend(self) -> str:
        """Starts it where it does not run, and not too often; its address, without the token."""
        now = time.monotonic()
        if not self._enabled or self._page.alive():
            return self._page.address
        if now >= self._due:
            if end := self._page.end:
                _log.warning("the page's process %s; it is started again", end)
            self._wait_s = _AGAIN_S if now - self._due > _LONG_S else min(_LONG_S, 2 * self._wait_s)
            self._due = now + self._wait_s
            self._start()
        return self._page.address

    def _start(self) -> None:
        first = not self._page.address
        try:
            self._page.start()
        except UnderstudyError as error:
            if str(error) != self._trouble:  # it is tried again each minute
                _log.error("there is no page now: %s", error)
            self._trouble = str(error)
            return
        self._trouble = ""
        if first:
            _log.info(
                "the page is at %s; `understudy status --url` gives the address that lets you in", self._page.address
            )
            if not self._page.is_local:
                _log.warning("others on the network can reach the page, and read along: it is not encrypted")

    def stop(self) -> None:
        """Ends it."""
        self._page.stop()
