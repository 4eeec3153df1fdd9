"""A spawned process from both sides: as its parent holds it, and what every one of them does first.

What a child prints goes through a pipe to the parent, which keeps the last lines: they are all that a process can say
of its own death. Nothing of it reaches the terminal, where it would tear a progress bar apart.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar

from pipeline.channel import Messages
from pipeline.errors import UnderstudyError
from pipeline.messages import Control, Ready, unpack

_log = logging.getLogger(__name__)

P = TypeVar("P")

#: What a process exits with when a neighbour or the parent went away: not itself at fault.
PEER_GONE = 75

#: How long a process may outlive the parent, to take its half-written file away.
_GRACE_S = 10.0

#: Set while children are spawned. One thread for each stage: the stages are the parallelism. Passive waiting leaves the
#: core to the encoder (see docs/performance.md), and has to be said before torch loads.
CHILD_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "GLOG_minloglevel": "2",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # glibc gives large blocks back at once and has the kernel clear them anew for the next frame: a sixth of the cpu
    # time of align, swap and blend. These have a process keep, and use again, what it needs for a frame.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}

#: Held while a child is spawned (the environment is the whole program's) and while one is buried: several threads may
#: have children, and multiprocessing looks after all of them in one list.
_FAMILY = threading.Lock()

_LINES = 40
_LONGEST = 500
_READ_NBYTES = 1 << 16

# --- the parent's side ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A child's ends of the pipes to its parent: `events` for words, `output` for whatever it prints."""

    events: Connection
    output: Connection


class Child:
    """A spawned process as its parent holds it: what it says, what it prints, what became of it.

    Attributes:
        ready: it has said that it has loaded what it needs.
        verdict: why we killed it, where we did.
    """

    def __init__(self, name: str, main: Callable[[P, Line], None], post: P) -> None:
        """Spawns a process that runs `main(post, line)`. Raises UnderstudyError where the system has no room."""
        self.name = name
        self.ready = False
        self.verdict = ""
        context = multiprocessing.get_context("spawn")
        try:
            self._events, events = context.Pipe(duplex=False)
            printed, output = context.Pipe(duplex=False)
            self._printed = _Printed(printed)
            line = Line(events, output)
            self._process = context.Process(target=main, args=(post, line), name=f"understudy {name}")
            with _FAMILY, _environment(CHILD_ENVIRONMENT):
                self._process.start()
        except OSError as error:
            raise UnderstudyError(f"no process could be started for {name}: {error.strerror or error}") from error
        self.pid = self._process.pid or 0
        self._words = Messages(self._events)
        events.close()
        output.close()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.exitcode is None

    @property
    def at_fault(self) -> bool:
        """Whether it ended by itself, and not because a neighbour or the parent had gone."""
        return self._process.exitcode not in (None, 0, PEER_GONE)

    @property
    def end(self) -> str:
        """How it ended, as the rest of a sentence that starts with "its process"."""
        if self.verdict:
            return self.verdict
        if self.killed_by:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(self.killed_by).name}"
        return f"exited with code {self._process.exitcode or 0}"

    @property
    def killed_by(self) -> int:
        """The signal that killed it; 0 where none did."""
        return max(0, -(self._process.exitcode or 0))

    @property
    def last_lines(self) -> str:
        """The last lines that it printed."""
        return "\n".join([*self._printed.last, *self._printed.begun])

    def hear(self, job: int = 0) -> list[Control]:
        """What it has said since it was last asked; what it has printed is logged with the job. Never waits."""
        for line in self._printed.read():
            _log.debug("%s", line, extra={"fields": {"stage": self.name, "job": job}})
        said = []
        while not self._events.closed and self._events.poll():
            try:
                said += [unpack(data) for data in self._words.arrived()]
            except (EOFError, OSError):
                self._events.close()
        self.ready = self.ready or any(isinstance(word, Ready) for word in said)
        return [word for word in said if not isinstance(word, Ready)]

    def kill(self, verdict: str = "") -> None:
        """Ends it at once."""
        self.verdict = verdict
        self._process.kill()
        self._join()

    def bury(self) -> None:
        """Ends it where it still runs, and gives all back that it took; of no use afterwards."""
        self.kill(self.verdict)
        with _FAMILY:
            self._process.close()
        self._events.close()
        self._printed.pipe.close()

    def _join(self) -> None:
        wait([self._process.sentinel])  # which may take a while, so not with all others waiting
        with _FAMILY:
            self._process.join()

    def sources(self, dead: bool) -> Iterator[Connection | int]:
        """What to wait at for news of it: words, lines, and its death (with `dead` also one that has been)."""
        if dead or self.alive:
            yield self._process.sentinel
        for pipe in (self._events, self._printed.pipe):
            if not pipe.closed:
                yield pipe


def listen(children: Iterable[Child], timeout_s: float, dead: bool = True) -> None:
    """Waits until one of them has something to say or, with `dead`, as long as none of them is dead."""
    wait([source for child in children for source in child.sources(dead)], timeout_s)


class _Printed:
    """Lines out of a pipe that nobody waits for."""

    def __init__(self, pipe: Connection) -> None:
        os.set_blocking(pipe.fileno(), False)
        self.pipe = pipe
        self.last: deque[str] = deque(maxlen=_LINES)
        self._rest = b""

    @property
    def begun(self) -> list[str]:
        """The line that has no end yet, where there is one."""
        return [_text(self._rest)] if self._rest.strip() else []

    def read(self) -> list[str]:
        """The whole lines that one read gives."""
        if self.pipe.closed:
            return []
        try:
            data = os.read(self.pipe.fileno(), _READ_NBYTES)
        except BlockingIOError:
            return []
        if not data:
            self.pipe.close()
        *whole, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest[:_LONGEST]
        lines = [_text(line) for line in whole if line.strip()]
        self.last += lines
        return lines


def _text(line: bytes) -> str:
    return line[:_LONGEST].decode("utf-8", "replace")


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# --- the child's side -------------------------------------------------------------------------------------------------


def begin(name: str, output: Connection) -> None:
    """What every child does first: prints into `output`, leaves signals to the parent, and goes when that has gone."""
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    faulthandler.enable()  # where in Python it was that something below it broke
    # the terminal's Ctrl-C and a service manager's SIGTERM go to the whole group: the parent decides, pipes tell
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "SCHED_BATCH"):  # Linux: a frame that arrives does not cut a neighbour's work short
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with suppress(OSError):  # only a name in `ps` and `top`
        Path("/proc/self/comm").write_text(f"us-{name}"[:15])
    threading.Thread(target=_leave_with_parent, name="lifeline", daemon=True).start()


def orphaned() -> bool:
    """Whether the parent of this process has died."""
    parent = parent_process()
    return parent is None or not parent.is_alive()


def _leave_with_parent() -> None:
    """The last resort: pipes close when the parent dies and everybody leaves by that; who cannot is ended here."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    time.sleep(_GRACE_S)
    os._exit(PEER_GONE)
