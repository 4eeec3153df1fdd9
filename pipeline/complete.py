"""Whether a file is all there, by what its own format says of that; and whether somebody is still writing it.

An upload that stalls leaves a file that lies still, under its final name, and half. Most containers tell: by sizes in
their headers, an index that is written last, or an end mark. Only a few bytes are read, at most `_READS` times and
`_BYTES` in all, and nothing is decoded: headers are anybody's and may lie, so every step goes forward in the file or
ends the search. What cannot be told from so little counts as whole; the decoder will say what is wrong with it.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import signal
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from pipeline.mounts import mounts, remote_kind

_READS = 4096
_BYTES = 256 << 10

#: Opening must not wait: a FIFO has no writer, and a file server (Samba) may hold a lease on what a client writes.
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class _Spent(Exception):  # noqa: N818  # no error: enough has been read
    """As much has been read as may be."""


class _File:
    """A file of `size` bytes, read here and there as long as the budget lasts."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._reads = 0
        self._bytes = 0
        status = os.fstat(descriptor)
        self.size = status.st_size
        self.is_regular = stat.S_ISREG(status.st_mode)

    def at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; fewer at the end of the file. Raises _Spent, OSError."""
        self._reads += 1
        self._bytes += length
        if self._reads > _READS or self._bytes > _BYTES:
            raise _Spent
        return os.pread(self._descriptor, length, offset) if 0 <= offset < self.size else b""

    def tail(self, length: int) -> bytes:
        """The last `length` bytes, or all."""
        return self.at(max(0, self.size - length), length)

    def ends_in_a_hole(self) -> bool:
        """Whether room was made for the last bytes that nobody has written to."""
        try:
            os.lseek(self._descriptor, self.size - 1, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO
        return False


def fault(path: Path) -> str:
    """Why the file is not whole, as the rest of a sentence; empty where it is, as far as one can tell.

    A file that cannot be read is not whole either; the answer says what the system said.
    """
    try:
        descriptor = os.open(path, _OPEN)
    except BlockingIOError:
        return "another program holds it"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    try:
        return _fault(_File(descriptor))
    except _Spent:
        return ""
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)


def being_written(path: Path) -> bool:
    """Whether a process on this machine has the file open for writing; False where that cannot be told.

    A read lease is only given on a file that nobody writes. It needs a file of one's own (or CAP_LEASE) and a file
    system that has leases; those of file servers refuse it for reasons of their own, so they are not asked.
    """
    try:
        descriptor = os.open(path, _OPEN)
    except BlockingIOError:
        return True
    except OSError:
        return False
    try:
        # Whoever opens the file for writing in the moment in which we hold the lease has us sent a signal: by default
        # SIGIO, which kills. SIGURG is ignored unless somebody asks for it.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return not remote_kind(path, mounts())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _fault(file: _File) -> str:
    if not file.is_regular:
        return "it is no regular file"
    if file.size == 0:
        return "it is empty"
    head = file.at(0, 64)
    if not head.strip(b"\0"):
        return "its beginning has not been written"
    if file.ends_in_a_hole():
        return "its end has not been written"
    for belongs, check in _FORMATS:
        if belongs(head):
            return check(file)
    return ""


def _short(have: int, announced: int) -> str:
    return f"{100 * have // announced} % of what its header announces is there"


def _named(tag: bytes) -> bool:
    """Whether four bytes can be the name of a box or chunk."""
    return len(tag) == 4 and all(32 <= byte < 127 or byte == 0xA9 for byte in tag)


_BOXES = frozenset(
    (
        *(b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"free", b"skip", b"wide", b"pnot", b"pdin"),
        *(b"uuid", b"meta"),
    )
)


def _iso(file: _File) -> str:
    """MP4, QuickTime, 3GP: boxes one after another; `moov` is the index, which most programs write last."""
    at, seen, last = 0, set[bytes](), b""
    while file.size - at >= 8:
        head = file.at(at, 16)
        size, kind = int.from_bytes(head[:4]), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16])
        elif size == 0 and _named(kind):  # to the end of the file
            size = file.size - at
        if size < 8 or not _named(kind):
            break
        at += size
        if at > file.size:
            if kind not in _BOXES and {b"moov", b"mdat"} <= seen:  # what some cameras put behind the last box
                break
            return _short(file.size, at)
        seen.add(kind)
        last = kind if kind in (b"moof", b"mdat") else last
    if b"moov" not in seen:
        return "its index (moov) has not been written"
    if b"mdat" not in seen:
        return "its pictures (mdat) have not been written"
    return "its last fragment is not whole" if last == b"moof" else ""


_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"


def _matroska(file: _File) -> str:
    """Matroska, WebM: the size of the segment, where it is known; else as many whole elements as can be looked at.

    An element of unknown size (a recording, or the output of a pipe) is gone into rather than passed over: what lies
    in it follows as if it were beside it.
    """
    at, seen = 0, set[bytes]()
    while at < file.size:
        head = file.at(at, 12)
        if not head:
            return "it has been cut short a moment ago"
        id_length = 9 - head[0].bit_length()
        body = head[id_length:]
        if head[0] < 0x10 or (body and body[0] == 0):
            break
        size_length = 9 - body[0].bit_length() if body else 1
        if len(body) < size_length:
            return "it ends in the middle of an element"
        every = (1 << 7 * size_length) - 1
        size = int.from_bytes(body[:size_length]) & every
        kind = head[:id_length]
        seen.add(kind)
        at += id_length + size_length
        if size == every or (kind == _SEGMENT and size == 0):
            continue
        at += size
        if at > file.size:
            return _short(file.size, at) if kind == _SEGMENT else "it ends in the middle of an element"
        if kind == _SEGMENT:
            return ""
    return "" if _CLUSTER in seen else "its pictures (clusters) have not been written"


_UNKNOWN = (0, 0xFFFFFFFF)


def _avi(file: _File) -> str:
    """AVI, and OpenDML's further RIFFs behind it. Recorders leave a size of nothing until they are done, or for ever:
    then its chunks are looked at, one after another."""
    at, inside = 0, False
    while file.size - at >= 12:
        head = file.at(at, 12)
        tag, size = head[:4], int.from_bytes(head[4:8], "little")
        if not _named(tag) or not (inside or tag == b"RIFF"):
            break
        if size in _UNKNOWN and tag in (b"RIFF", b"LIST"):
            at, inside = at + 12, True
            continue
        at += 8 + size
        # Some programs count the eight bytes before the size as well.
        if at > file.size + 8 * (tag == b"RIFF"):
            return "it ends in the middle of a frame" if inside else _short(file.size, at)
        at += size % 2
    return ""


_PARTITION = b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01"
_FOOTER, _INDEX_OF_PARTITIONS = 4, 0x11


def _mxf(file: _File) -> str:
    """MXF ends with a footer partition, whose place the header tells once it is known."""
    at, ended = 0, False
    while at < file.size:
        head = file.at(at, 16 + 9 + 32)
        if head[:4] != _PARTITION[:4] or len(head) < 17:
            break
        kind = head[13] if head[:7] + head[8:13] == _PARTITION[:7] + _PARTITION[8:] else 0
        ended = ended or kind in (_FOOTER, _INDEX_OF_PARTITIONS)
        long = head[16] & 0x7F if head[16] & 0x80 else 0
        value = 17 + long
        length = int.from_bytes(head[17:value]) if long else head[16]
        footer = int.from_bytes(head[value + 24 : value + 32]) if at == 0 else 0
        at += value + length
        if at > file.size:
            return "it ends in the middle of a frame"
        if footer >= file.size:
            return _short(file.size, footer + 1)
        at = max(at, footer)
    return "" if ended else "its end (the footer) has not been written"


def _gif(file: _File) -> str:
    """GIF ends with a block of no length and a semicolon; some programs pad that."""
    return "" if file.tail(1024).rstrip(b"\0\r\n ").endswith(b"\0;") else "its end (the trailer) has not been written"


def _png(file: _File) -> str:
    """PNG and APNG end with an IEND chunk, which is always the same twelve bytes."""
    return "" if b"\0\0\0\0IEND\xaeB\x60\x82" in file.tail(1024) else "its end (IEND) has not been written"


_FLV_TAGS = (8, 9, 18)


def _flv(file: _File) -> str:
    """FLV: behind each tag stands how long it was, so the last four bytes lead to the last tag's head."""
    noted = file.at(0, 2048).partition(b"filesize\0")[2][:8]
    announced = struct.unpack(">d", noted)[0] if len(noted) == 8 else 0.0
    if math.isfinite(announced) and announced > file.size:
        return _short(file.size, int(announced))
    length = int.from_bytes(file.tail(4))
    head = file.at(file.size - 4 - length, 4)
    last = len(head) == 4 and head[0] & 0x1F in _FLV_TAGS and int.from_bytes(head[1:]) + 11 == length
    return "" if last and file.size >= 17 + length else "its last tag is not whole"


_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _asf(file: _File) -> str:
    """ASF, WMV: the header's file properties hold the size of the file, unless it is a broadcast."""
    at, end = 30, int.from_bytes(file.at(16, 8), "little")
    if end > file.size:
        return _short(file.size, end)
    while at + 24 <= end:
        head = file.at(at, 92)
        size = int.from_bytes(head[16:24], "little")
        if head[:16] == _ASF_FILE and len(head) == 92:
            announced, is_broadcast = int.from_bytes(head[40:48], "little"), head[88] & 1
            if announced == 0 and not is_broadcast:
                return "its header has not been finished"
            return _short(file.size, announced) if announced > file.size and not is_broadcast else ""
        if size < 24:
            break
        at += size
    return ""


_PAGE = 27 + 255 + 255 * 255


def _ogg(file: _File) -> str:
    """Ogg: the last page says that it is the last one of its stream."""
    tail = file.tail(_PAGE)
    at = tail.rfind(b"OggS")
    while at >= 0:
        head = tail[at : at + 27]
        if len(head) == 27:
            lacing = tail[at + 27 : at + 27 + head[26]]
            if len(lacing) == head[26] and at + 27 + len(lacing) + sum(lacing) == len(tail):
                return "" if head[5] & 4 else "its end (the last page) has not been written"
        at = tail.rfind(b"OggS", 0, at)
    return "its last page is not whole"


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[_File], str]], ...] = (
    (lambda head: head[4:8] in _BOXES, _iso),
    (lambda head: head.startswith(b"\x1a\x45\xdf\xa3"), _matroska),
    (lambda head: head.startswith(b"RIFF") and head[8:12] == b"AVI ", _avi),
    (lambda head: head.startswith(_PARTITION[:7]) and head[8:13] == _PARTITION[8:], _mxf),
    (lambda head: head.startswith((b"GIF87a", b"GIF89a")), _gif),
    (lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    (lambda head: head.startswith(b"FLV\x01"), _flv),
    (lambda head: head.startswith(_ASF), _asf),
    (lambda head: head.startswith(b"OggS"), _ogg),
)
