"""What a program does to the files below a folder, call by call: a tracer for Linux on x86-64 and aarch64.

For programs of one thread that name files by absolute paths. What it cannot follow it refuses: nothing is missed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Name: (x86-64, aarch64); None where there is no such call.
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "lseek": (8, 62), "mmap": (9, 222),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "dup": (32, 23), "dup2": (33, None),
    "sendfile": (40, 71), "fork": (57, None), "clone": (56, 220), "vfork": (58, None), "clone3": (435, 435),
    "fcntl": (72, 25), "fsync": (74, 82), "fdatasync": (75, 83), "truncate": (76, 45), "ftruncate": (77, 46),
    "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None), "creat": (85, None), "link": (86, None),
    "unlink": (87, None), "symlink": (88, None), "openat": (257, 56), "mkdirat": (258, 34), "unlinkat": (263, 35),
    "renameat": (264, 38), "linkat": (265, 37), "symlinkat": (266, 36), "sync_file_range": (277, 84),
    "fallocate": (285, 47), "dup3": (292, 24), "pwritev": (296, 70), "renameat2": (316, 276),
    "copy_file_range": (326, 285), "pwritev2": (328, 287), "close_range": (436, 436), "openat2": (437, 437),
    "io_uring_setup": (425, 425),
}  # fmt: skip

_MACHINES = {"x86_64": 0, "aarch64": 1}

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_OPTIONS = 0x1 | 0x100000  # syscall stops are told from signals; the program ends with its tracer
_AT_FDCWD = -100
_MAP_SHARED, _PROT_WRITE = 1, 2

#: What a traced program has to begin with: it waits until it is followed.
PROLOGUE = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).ptrace(0, 0, None, None) != 0:
    sys.exit(77)
os.kill(os.getpid(), signal.SIGSTOP)
"""


class CannotTraceError(Exception):
    """This machine does not let one program follow another, or is none that the tracer knows."""


@dataclass(frozen=True, slots=True)
class Call:
    """One successful call. `file` counts what was opened (or made) under one name; paths are absolute.

    Attributes:
        what: open (made anew where it was not there), truncate, write, sync, rename, unlink, mkdir, or say.
        path: of the file or folder as it was called when it was opened, or of what is renamed, removed or made.
        to: where it was renamed to.
        at: where was written, or the new size.
        data: what was written, or said: written to standard output.
    """

    what: str
    path: str
    handle: int = 0
    to: str = ""
    at: int = 0
    data: bytes = b""


@dataclass(slots=True)
class _Open:
    """An open file description, which several descriptors may share."""

    path: str
    handle: int
    append: bool
    at: int = 0
    size: int = 0


def calls(program: str, argv: Sequence[str], root: Path) -> Iterator[Call]:
    """Runs Python code that begins with PROLOGUE and gives what it does below `root`, as it does it.

    Raises CannotTraceError; RuntimeError where it does what cannot be followed, or fails.
    """
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        raise CannotTraceError(f"the tracer does not know {platform.system()} on {platform.machine()}")
    numbers = {pair[machine]: name for name, pair in _CALLS.items() if pair[machine] is not None}
    words = [sys.executable, "-c", program, *argv]
    pid = os.posix_spawn(sys.executable, words, {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    ended = False
    try:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            ended = True
            raise CannotTraceError("ptrace is not allowed here")
        _ptrace(_SETOPTIONS, pid, 0, _OPTIONS)
        follower = _Follower(pid, str(root), numbers)
        while True:
            status = _step(pid, status)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                ended = True
                break
            if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
                yield from follower.stopped()
        if status != 0:
            raise RuntimeError(f"the traced program ended with {status}")
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _step(pid: int, status: int) -> int:
    """Lets it go on until its next stop; hands on the signal that stopped it, if that was one."""
    number = os.WSTOPSIG(status)
    passed = 0 if number in (signal.SIGTRAP | 0x80, signal.SIGTRAP, signal.SIGSTOP) else number
    _ptrace(_SYSCALL, pid, 0, passed)
    return os.waitpid(pid, 0)[1]


def _ptrace(request: int, pid: int, address: int, data: object) -> int:
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    ptrace.restype = ctypes.c_long
    found: int = ptrace(request, pid, address, data)
    if found < 0:
        number = ctypes.get_errno()
        kind = CannotTraceError if number in (errno.EPERM, errno.EIO, errno.EINVAL, errno.ENOSYS) else OSError
        raise kind(number, os.strerror(number))
    return found


class _Follower:
    """Knows which descriptor is which file."""

    def __init__(self, pid: int, root: str, numbers: dict[int | None, str]) -> None:
        self._pid = pid
        self._root = root
        self._numbers = numbers
        self._files: dict[int, _Open] = {}
        self._handles = 0
        self._entered: tuple[str, tuple[int, ...]] | None = None
        self._buffer = ctypes.create_string_buffer(88)

    def stopped(self) -> Iterator[Call]:
        """What the call that is being left has done; nothing at the entry of one."""
        _ptrace(_GET_SYSCALL_INFO, self._pid, 88, ctypes.addressof(self._buffer))
        if self._buffer.raw[0] == 1:
            number, *arguments = struct.unpack_from("=Q6Q", self._buffer, 24)
            name = self._numbers.get(number)
            self._entered = (name, tuple(arguments)) if name else None
            return
        if self._entered is None:
            return
        (name, arguments), self._entered = self._entered, None
        (result,) = struct.unpack_from("=q", self._buffer, 24)
        if result >= 0:
            act: Callable[..., Iterator[Call]] = getattr(self, f"_{name}")
            yield from act(*arguments, result)

    # Descriptors

    def _opened(self, path: str, flags: int, descriptor: int) -> Iterator[Call]:
        self._files.pop(descriptor, None)
        if path != self._root and not path.startswith(self._root + os.sep):
            return
        self._handles += 1
        self._files[descriptor] = _Open(path, self._handles, bool(flags & os.O_APPEND))
        yield Call("open", path, self._handles)
        if flags & os.O_TRUNC:
            yield Call("truncate", path, self._handles, at=0)

    def _open(self, path: int, flags: int, *rest: int) -> Iterator[Call]:
        return self._opened(self._text(path), flags, rest[-1])

    def _creat(self, path: int, *rest: int) -> Iterator[Call]:
        return self._opened(self._text(path), os.O_TRUNC, rest[-1])

    def _openat(self, folder: int, path: int, flags: int, *rest: int) -> Iterator[Call]:
        return self._opened(self._path(folder, path), flags, rest[-1])

    def _close(self, descriptor: int, *_: int) -> Iterator[Call]:
        self._files.pop(descriptor, None)
        return iter(())

    def _close_range(self, first: int, last: int, *_: int) -> Iterator[Call]:
        self._files = {number: file for number, file in self._files.items() if not first <= number <= last}
        return iter(())

    def _dup(self, old: int, *rest: int) -> Iterator[Call]:
        self._files.pop(rest[-1], None)
        if old in self._files:
            self._files[rest[-1]] = self._files[old]
        return iter(())

    _dup2 = _dup3 = _dup

    def _fcntl(self, descriptor: int, what: int, *rest: int) -> Iterator[Call]:
        return self._dup(descriptor, *rest) if what in (0, 1030) else iter(())  # F_DUPFD, F_DUPFD_CLOEXEC

    # What is in files

    def _read(self, descriptor: int, *rest: int) -> Iterator[Call]:
        if file := self._files.get(descriptor):
            file.at += rest[-1]
        return iter(())

    _readv = _read

    def _lseek(self, descriptor: int, *rest: int) -> Iterator[Call]:
        if file := self._files.get(descriptor):
            file.at = rest[-1]
        return iter(())

    def _write(self, descriptor: int, buffer: int, *rest: int) -> Iterator[Call]:
        return self._written(descriptor, self._bytes(buffer, rest[-1]))

    def _writev(self, descriptor: int, vector: int, parts: int, *rest: int) -> Iterator[Call]:
        return self._written(descriptor, self._gathered(vector, parts, rest[-1]))

    def _pwrite64(self, descriptor: int, buffer: int, size: int, at: int, *rest: int) -> Iterator[Call]:
        return self._written(descriptor, self._bytes(buffer, rest[-1]), at)

    def _pwritev(self, descriptor: int, vector: int, parts: int, at: int, *rest: int) -> Iterator[Call]:
        return self._written(descriptor, self._gathered(vector, parts, rest[-1]), at)

    _pwritev2 = _pwritev

    def _written(self, descriptor: int, data: bytes, at: int | None = None) -> Iterator[Call]:
        file = self._files.get(descriptor)
        if file is None:
            if descriptor == 1:
                yield Call("say", "", data=data)
            return
        if at is None:
            at = -1 if file.append else file.at
            file.at += len(data)
        yield Call("write", file.path, file.handle, at=at, data=data)

    def _ftruncate(self, descriptor: int, size: int, *_: int) -> Iterator[Call]:
        if file := self._files.get(descriptor):
            yield Call("truncate", file.path, file.handle, at=size)

    def _fsync(self, descriptor: int, *_: int) -> Iterator[Call]:
        if file := self._files.get(descriptor):
            yield Call("sync", file.path, file.handle)

    _fdatasync = _fsync  # the size of a file is synced by both

    def _sync_file_range(self, *_: int) -> Iterator[Call]:
        return iter(())  # promises nothing

    # Names

    def _rename(self, old: int, new: int, *_: int) -> Iterator[Call]:
        return self._renamed(self._text(old), self._text(new))

    def _renameat(self, old_folder: int, old: int, new_folder: int, new: int, *_: int) -> Iterator[Call]:
        return self._renamed(self._path(old_folder, old), self._path(new_folder, new))

    _renameat2 = _renameat

    def _renamed(self, old: str, new: str) -> Iterator[Call]:
        if self._is_ours(old) or self._is_ours(new):
            yield Call("rename", old, to=new)

    def _unlink(self, path: int, *_: int) -> Iterator[Call]:
        return self._named("unlink", self._text(path))

    _rmdir = _unlink

    def _unlinkat(self, folder: int, path: int, *_: int) -> Iterator[Call]:
        return self._named("unlink", self._path(folder, path))

    def _mkdir(self, path: int, *_: int) -> Iterator[Call]:
        return self._named("mkdir", self._text(path))

    def _mkdirat(self, folder: int, path: int, *_: int) -> Iterator[Call]:
        return self._named("mkdir", self._path(folder, path))

    def _named(self, what: str, path: str) -> Iterator[Call]:
        if self._is_ours(path):
            yield Call(what, path)

    def _is_ours(self, path: str) -> bool:
        return path.startswith(self._root + os.sep)

    # What is not followed

    def _mmap(self, address: int, size: int, protection: int, flags: int, descriptor: int, *_: int) -> Iterator[Call]:
        file = self._files.get(descriptor & 0xFFFFFFFF)
        if file and flags & _MAP_SHARED and protection & _PROT_WRITE and not file.path.endswith("-shm"):
            raise RuntimeError(f"{file.path} is written through memory, which is not followed")
        return iter(())

    def _sendfile(self, to: int, *_: int) -> Iterator[Call]:
        if to in self._files:
            raise RuntimeError("sendfile is not followed")
        return iter(())

    def _copy_file_range(self, source: int, offset: int, to: int, *_: int) -> Iterator[Call]:
        return self._sendfile(to)

    def _fallocate(self, descriptor: int, *_: int) -> Iterator[Call]:
        return self._sendfile(descriptor)

    def _truncate(self, path: int, *_: int) -> Iterator[Call]:
        return self._refused(self._text(path))

    def _link(self, old: int, new: int, *_: int) -> Iterator[Call]:
        return self._refused(self._text(new))

    _symlink = _link

    def _linkat(self, old_folder: int, old: int, folder: int, path: int, *_: int) -> Iterator[Call]:
        return self._refused(self._path(folder, path))

    def _symlinkat(self, to: int, folder: int, path: int, *_: int) -> Iterator[Call]:
        return self._refused(self._path(folder, path))

    def _refused(self, path: str) -> Iterator[Call]:
        if self._is_ours(path):
            raise RuntimeError(f"what is done to {path} is not followed")
        return iter(())

    def _fork(self, *_: int) -> Iterator[Call]:
        raise RuntimeError("it starts a thread or another process, or opens files in a way that is not followed")

    _vfork = _clone = _clone3 = _io_uring_setup = _openat2 = _fork

    # Memory

    def _path(self, folder: int, path: int) -> str:
        name = self._text(path)
        if name.startswith(os.sep):
            return name
        number = ctypes.c_int(folder & 0xFFFFFFFF).value
        above = str(Path(f"/proc/{self._pid}/{'cwd' if number == _AT_FDCWD else f'fd/{number}'}").readlink())
        return f"{above}{os.sep}{name}"

    def _text(self, address: int) -> str:
        text = b""
        while b"\0" not in text:
            here = address + len(text)
            text += self._bytes(here, 4096 - here % 4096)  # up to the end of its page
        return os.fsdecode(text.partition(b"\0")[0])

    def _gathered(self, vector: int, parts: int, size: int) -> bytes:
        pairs = struct.iter_unpack("=QQ", self._bytes(vector, 16 * parts))
        return b"".join(self._bytes(base, length) for base, length in pairs)[:size]

    def _bytes(self, address: int, size: int) -> bytes:
        with Path(f"/proc/{self._pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(size)
