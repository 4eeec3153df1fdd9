"""The door as the parent holds it: handed one clip at a time, looked after, and made anew when it dies.

Clips that are through wait here, in the parent: so whatever becomes of the door, it is at one clip alone. That one has
failed, unless the door died so late that it had given the file its name.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline import door, result
from pipeline.child import Child
from pipeline.errors import UnderstudyError
from pipeline.failures import error_of
from pipeline.messages import Broken, Control, Ended, Finish, Finishing, pack
from pipeline.publish import discard, sync
from pipeline.specs import EngineConfig, Failure, Outcome, StageSpec

_log = logging.getLogger(__name__)

#: How often the door is made anew without it having died of a clip.
_MENDS = 3


class Publisher:
    """The door's process and the clips that are to go through it.

    Attributes:
        restarts: how often the process was started again.
    """

    def __init__(self, finisher: StageSpec, config: EngineConfig, sealer: StageSpec | None = None) -> None:
        """Starts nothing yet."""
        self.restarts = 0
        self._finisher = finisher
        self._sealer = sealer
        self._start_s = config.start_s
        self._silence_s = config.deadline_of(door.NAME)
        self._child: Child | None = None
        self._orders: Connection | None = None
        self._waiting: deque[Finish] = deque()
        self._at: Finish | None = None
        self._begun = False  # whether the process has said a word of it
        self._before = 0  # what was at its target
        self._progress: tuple[int, int | None] = (0, None)
        self._heard = 0.0  # when it was spawned, given a clip, or last said something
        self._fruitless = 0

    @property
    def children(self) -> tuple[Child, ...]:
        """The process, while there is one."""
        return () if self._child is None else (self._child,)

    @property
    def ready(self) -> bool:
        """Whether it takes clips."""
        return self._child is not None and self._child.ready

    @property
    def finishing(self) -> Mapping[int, tuple[int, int | None]]:
        """How far the clips here are, by job: what is done, and of how much (None: not known)."""
        now = {} if self._at is None else {self._at.clip.id: self._progress}
        return now | {order.clip.id: (0, None) for order in self._waiting}

    def open(self) -> None:
        """Starts the process, unless it runs. Raises UnderstudyError."""
        if self._child is not None:
            return
        orders, self._orders = multiprocessing.get_context("spawn").Pipe(duplex=False)
        try:
            self._child = Child(door.NAME, door.main, door.Post(self._finisher, self._sealer, orders))
        finally:
            orders.close()
        self._heard = time.monotonic()

    def submit(self, order: Finish) -> None:
        """Has a clip published in its turn."""
        self._waiting.append(order)
        self._hand_over()

    def attend(self) -> list[Outcome]:
        """The jobs that have ended since it was last asked; notices and mends what has died or hangs. Never waits.

        Raises:
            UnderstudyError: the finisher cannot be made, or the process does not stay up.
        """
        if self._child is None:
            return []
        gone = not self._child.alive
        outcomes = [outcome for message in self._hear(self._child) if (outcome := self._heed(message)) is not None]
        self._kill_overdue(self._child)
        if gone and self._orders is not None:
            outcomes += self._mend(self._child)
        self._hand_over()
        return outcomes

    def close_input(self) -> None:
        """No more clips: the process ends when it is through with the one that it is at."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None

    def stop(self) -> None:
        """Ends the process where it is; what it had half-written goes."""
        self.close_input()
        if self._child is not None:
            self._bury(self._child)
            self._child = None

    def _hear(self, child: Child) -> list[Control]:
        return child.hear(self._at.clip.id if self._at is not None else 0)

    def _heed(self, message: Control) -> Outcome | None:
        self._heard = time.monotonic()
        if isinstance(message, Broken) and self._orders is not None:
            raise error_of(message.failure)
        if isinstance(message, Finishing):
            self._begun = True
            self._progress = (message.done, message.total)
        if isinstance(message, Ended):
            self._at = None
            self._fruitless = 0
            return message.outcome
        return None

    def _hand_over(self) -> None:
        if self._at is None and self._waiting and self.ready and self._orders is not None:
            self._at = order = self._waiting.popleft()
            self._progress, self._begun = (0, None), False
            self._heard = time.monotonic()
            self._before = _inode(order.clip.target)
            with suppress(BrokenPipeError):  # it has died, which is noticed in `attend`
                self._orders.send_bytes(pack(order))

    def _kill_overdue(self, child: Child) -> None:
        silent_s = time.monotonic() - self._heard
        if child.alive and self._at is not None and silent_s > self._silence_s:
            child.kill(f"made no progress for {self._silence_s:g} s")
        if child.alive and not child.ready and silent_s > self._start_s:
            child.kill(f"did not start within engine.start_s = {self._start_s:g} s")

    def _mend(self, child: Child) -> list[Outcome]:
        """Settles the clip that the dead process was at, and makes a new one."""
        end, lines, signal, begun = child.end, child.last_lines, child.killed_by, self._begun
        blamed = self._bury(child)
        self._child = None
        if blamed is not None and not begun:  # it had died before
            self._waiting.appendleft(blamed)
            blamed = None
        _log.warning("%s: its process %s; starting it again", door.NAME, end)
        self._fruitless = 0 if blamed is not None else self._fruitless + 1
        if self._fruitless > _MENDS:
            raise UnderstudyError(f"{door.NAME} does not stay up: its process {end}, again and again")
        self.restarts += 1
        self.close_input()
        self.open()
        if blamed is None:
            return []
        if _inode(blamed.clip.target) not in (0, self._before):
            return [_published(blamed)]
        failure = Failure(door.NAME, None, f"its process {end}", detail=lines, signal=signal)
        return [replace(blamed.outcome, failure=failure)]

    def _bury(self, child: Child) -> Finish | None:
        """Ends the process and removes what it was writing; the clip that it was at."""
        pid = child.pid
        child.bury()
        order, self._at = self._at, None
        if order is not None:
            with suppress(OSError):
                for partial in door.partials(order.clip, pid):
                    discard(partial)
        return order


def _inode(path: str) -> int:
    """Tells one file from another; 0 where there is none."""
    try:
        return Path(path).stat(follow_symlinks=False).st_ino
    except OSError:
        return 0


def _published(order: Finish) -> Outcome:
    """The outcome of a clip whose file has its name, but whose door died before it could say so."""
    with suppress(OSError):
        sync(str(Path(order.clip.target).parent))
    told = result.read(result.path_for(order.clip.target)) if order.about.get("report") else None
    reports = told.get("reports") if told is not None else None
    return replace(order.outcome, reports=reports) if isinstance(reports, dict) else order.outcome
