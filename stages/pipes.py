"""Reading and writing whole pictures through a file descriptor: standard input and output, pipes, sockets.

Nothing is read ahead: what the other end has not asked for, or not written yet, is not waited for.
"""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import context, reduction
from typing import Any

#: What a pipe holds at most, where the system lets us say so: fewer turns between writer and reader.
_PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open file descriptor that a configuration can carry into a spawned process.

    Pickling it while a process is being spawned passes the descriptor on; at any other time it is refused, since a
    number alone means nothing elsewhere. Descriptors 0 to 2 are better duplicated first: a process may replace its own.
    """

    fd: int

    def __reduce__(self) -> tuple[Callable[[Any], Descriptor], tuple[Any]]:
        if context.get_spawning_popen() is None:
            raise TypeError("a file descriptor can only be handed to a process that is being spawned")
        return _arrived, (reduction.DupFd(self.fd),)


def _arrived(carried: Any) -> Descriptor:
    return Descriptor(carried.detach())


def widen(fd: int) -> None:
    """Makes a pipe's buffer larger where the system allows it; anything else is left as it is."""
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


class Source:
    """Bytes from a descriptor, in order; `read` makes it a file for FFmpeg, one that cannot seek."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ahead = b""
        widen(fd)

    def peek(self, count: int) -> bytes:
        """The first bytes, which stay to be read; fewer where there are no more."""
        found = bytearray(count)
        got = self.into(memoryview(found))
        self._ahead = bytes(found[:got])
        return self._ahead

    def read(self, count: int) -> bytes:
        """Up to `count` bytes as soon as there are any; empty at the end."""
        if self._ahead:
            taken, self._ahead = self._ahead[:count], self._ahead[count:]
            return taken
        while True:
            try:
                return os.read(self._fd, count)
            except BlockingIOError:
                select.select([self._fd], [], [])

    def into(self, buffer: memoryview) -> int:
        """Fills the buffer (bytes); returns how many there were, fewer only at the end."""
        got = min(len(buffer), len(self._ahead))
        buffer[:got], self._ahead = self._ahead[:got], self._ahead[got:]
        while got < len(buffer):
            try:
                count = os.readv(self._fd, [buffer[got:]])
            except BlockingIOError:
                select.select([self._fd], [], [])
                continue
            if count == 0:
                break
            got += count
        return got

    def line(self, limit: int) -> bytes:
        """Up to and with the next line feed, byte by byte so that nothing behind it is taken; at most `limit`."""
        found = bytearray()
        while len(found) < limit and not found.endswith(b"\n"):
            byte = self.read(1)
            if not byte:
                break
            found += byte
        return bytes(found)


class Sink:
    """Bytes to a descriptor; `write` makes it a file for FFmpeg, one that cannot seek.

    Raises:
        BrokenPipeError: on writing, when the reader has gone.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        widen(fd)

    def write(self, data: bytes) -> int:
        """Writes all of it."""
        self.write_all([memoryview(data)])
        return len(data)

    def write_all(self, parts: Sequence[memoryview]) -> None:
        """Writes contiguous buffers one after the other, without joining them first."""
        left = [part.cast("B") for part in parts if part.nbytes]
        while left:
            try:
                written = os.writev(self._fd, left)
            except BlockingIOError:
                select.select([], [self._fd], [])
                continue
            while left and written >= left[0].nbytes:
                written -= left.pop(0).nbytes
            if written:
                left[0] = left[0][written:]
