"""Hand-over of frames between two groups of processes over one-way pipes, in order by construction.

A group of M workers feeds a group of N through M x N pipes. Frame i is sent by worker i mod M to worker i mod N, and
the receiver fetches it from the pipe that it must come from: so order is restored without a buffer, and a
frame that is missing, doubled or out of order is noticed by whoever receives next. Words around the clip (Begin, End,
Abort) go down every pipe. An end of file is the sender's death.
"""

from __future__ import annotations

import os
import select
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection

from pipeline.errors import UnderstudyError
from pipeline.messages import (
    FRAME_KIND,
    Abort,
    Begin,
    Control,
    End,
    FrameRecord,
    pack,
    pack_frame,
    unpack,
    unpack_frame,
)
from pipeline.types import Report


class SenderGone(Exception):  # noqa: N818  (an event, not an error of ours)
    """The process that frames come from has died or closed its end."""


class ReceiverGone(Exception):  # noqa: N818
    """The process that frames go to has died or closed its end."""


#: What `Connection` puts before each message: its length.
_LENGTH = struct.Struct("!i")
_READ_NBYTES = 1 << 16  # all that a pipe holds


class Messages:
    """Messages out of a pipe that `Connection.send_bytes` writes to, as many as one read gives.

    `Connection` reads each message in two system calls; here one call brings in all that wait. From then on nobody else
    may read from the pipe.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe  # keeps the descriptor open
        self._fd = pipe.fileno()
        self._rest = b""
        self._whole: deque[bytes] = deque()

    @property
    def waiting(self) -> bool:
        """Whether `next` has one at once."""
        return bool(self._whole)

    def next(self) -> bytes:
        """The next message, waiting for it. Raises EOFError, OSError."""
        while not self._whole:
            self._read()
        return self._whole.popleft()

    def arrived(self) -> list[bytes]:
        """Reads once, waiting for something to read, and gives all whole messages. Raises EOFError, OSError."""
        self._read()
        whole = list(self._whole)
        self._whole.clear()
        return whole

    def _read(self) -> None:
        data = os.read(self._fd, _READ_NBYTES)
        if not data:
            raise EOFError
        data = self._rest + data
        at = 0
        while at + _LENGTH.size <= len(data):
            end = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
            if end > len(data):
                break
            self._whole.append(data[at + _LENGTH.size : end])
            at = end
        self._rest = data[at:]


class Outlet:
    """One worker's sending end: a pipe to each worker of the next group."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = tuple(pipes)
        self._fds = tuple(pipe.fileno() for pipe in pipes)

    def send_frame(self, record: FrameRecord) -> None:
        """Hands a frame on. Raises ReceiverGone."""
        data = pack_frame(record)
        data = _LENGTH.pack(len(data)) + data  # as `Connection.send_bytes` does, in a third of its time
        fd = self._fds[record.index % len(self._fds)]
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError as error:
            raise ReceiverGone from error

    def send(self, message: Control) -> None:
        """Says a word to every worker of the next group. Raises ReceiverGone."""
        data = pack(message)
        try:
            for pipe in self._pipes:
                pipe.send_bytes(data)
        except OSError as error:
            raise ReceiverGone from error

    def close(self) -> None:
        """The next group sees the end of file."""
        self._fds = (-1,) * len(self._pipes)  # nobody's descriptor, whoever gets the number next
        for pipe in self._pipes:
            pipe.close()


class Inlet:
    """One worker's receiving end: worker `place` of `places`, with a pipe from each worker of the group before."""

    def __init__(self, pipes: Sequence[Connection], place: int = 0, places: int = 1) -> None:
        self._pipes = tuple(Messages(pipe) for pipe in pipes)
        self._place = place
        self._places = places
        self._next = place  # index of the frame that must come next
        self._polls = []
        for pipe in pipes:
            self._polls.append(select.poll())
            self._polls[-1].register(pipe.fileno(), select.POLLIN | select.POLLHUP)

    def begin(self) -> Begin | None:
        """Waits for the next clip; None when the group before has closed for good. Raises SenderGone."""
        self._next = self._place
        first: Begin | None = None
        for pipe in self._pipes:
            try:
                message = unpack(pipe.next())
            except (EOFError, OSError) as error:
                if first is None and pipe is self._pipes[0]:
                    return None
                raise SenderGone from error
            if not isinstance(message, Begin) or (first is not None and first.clip.id != message.clip.id):
                raise UnderstudyError(f"expected the beginning of a clip, got {message}")
            first = message
        return first

    def receive(self) -> FrameRecord | End | Abort:
        """The clip's next frame for this worker, or how the clip ends. Raises SenderGone."""
        pipe = self._pipes[self._next % len(self._pipes)]
        try:
            data = pipe.next()
            if data[0] == FRAME_KIND:
                record = unpack_frame(data)
                if record.index != self._next:
                    raise UnderstudyError(f"expected frame {self._next}, got {record.index}")
                self._next += self._places
                return record
            ends = [unpack(data)]
            ends += [unpack(other.next()) for other in self._pipes if other is not pipe]
        except (EOFError, OSError) as error:
            raise SenderGone from error
        return self._merge(ends)

    def poll(self, timeout_s: float) -> bool:
        """Whether `receive` has something at once, waiting up to `timeout_s` for it."""
        at = self._next % len(self._pipes)
        return self._pipes[at].waiting or bool(self._polls[at].poll(timeout_s * 1e3))

    def _merge(self, ends: list[Control]) -> End | Abort:
        reports: dict[str, Report] = {}
        merged: End | Abort | None = None
        for end in ends:
            if not isinstance(end, End | Abort):
                raise UnderstudyError(f"expected the end of a clip, got {end}")
            add_reports(reports, end.reports)
            if merged is None or (isinstance(end, Abort) and not isinstance(merged, Abort)):
                merged = end
        assert merged is not None
        if merged.count < 0:  # the sender of this Abort did not live to know how many there were
            return replace(merged, reports=reports)
        # frames place, place + places, ... below count must all have come
        due = self._place + self._places * max(0, -(-(merged.count - self._place) // self._places))
        if self._next != due:
            raise UnderstudyError(f"the clip ended after {merged.count} frames, but frame {self._next} never came")
        return replace(merged, reports=reports)


def add_reports(total: dict[str, Report], more: dict[str, Report]) -> None:
    """Adds what other workers counted: numbers add up, the last word stands."""
    for stage, report in more.items():
        mine = total.setdefault(stage, {})
        for key, value in report.items():
            before = mine.get(key)
            summed = isinstance(value, int | float) and isinstance(before, int | float)
            mine[key] = before + value if summed else value  # type: ignore[operator]
