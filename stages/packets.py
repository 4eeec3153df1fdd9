"""Packets on disk: what an encoder made of a segment, as it made it, until the finished file takes it.

No container does: NUT has no ProRes and chooses its own clock, Matroska rounds to milliseconds, MP4 is nothing before
it is closed. All that is needed is here: parameters, times in the clip's own ticks, bytes, and a checksum of each.

    magic, length and checksum of the parameters, the parameters (what the container's header shall hold)
    for each packet: presentation time, duration, length, flags, checksum; its bytes
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av

_MAGIC = b"understudy packets 1\n"
_PARAMETERS = struct.Struct("<II")
#: Presentation time and duration in ticks, length in bytes, flags; the checksum comes behind it.
_HEAD = struct.Struct("<qqIB")
_CHECKSUM = struct.Struct("<I")
_KEY = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """One packet: times in ticks of the clip's time base, in the order of decoding."""

    pts: int
    duration: int
    key: bool
    data: bytes

    def __repr__(self) -> str:
        return f"Stored(pts={self.pts} {len(self.data)} bytes)"


class PacketWriter:
    """Writes a file of packets beside its place, and puts it there when it is whole. All methods raise OSError."""

    def __init__(self, path: Path, parameters: bytes) -> None:
        self._path = path
        self._beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file = self._beside.open("wb")
        try:
            self._file.write(_MAGIC + _PARAMETERS.pack(len(parameters), zlib.crc32(parameters)) + parameters)
        except BaseException:
            self.close()
            raise

    def write(self, packet: av.Packet) -> None:
        """Adds a packet; its times are in ticks of the clip's time base."""
        assert packet.pts is not None
        head = _HEAD.pack(packet.pts, packet.duration or 0, packet.size, _KEY * packet.is_keyframe)
        self._file.write(head + _CHECKSUM.pack(zlib.crc32(packet, zlib.crc32(head))))
        self._file.write(packet)

    def finish(self) -> int:
        """Syncs the file and gives it its name; the folder is the caller's to sync. Gives its size in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        nbytes = self._file.tell()
        self._file.close()
        self._beside.replace(self._path)
        return nbytes

    def close(self) -> None:
        """Drops the file unless it is finished; safe to call twice."""
        with suppress(OSError):  # what a full disk did not take, nobody wants
            self._file.close()
        self._beside.unlink(missing_ok=True)


class PacketReader:
    """Reads such a file.

    Attributes:
        parameters: of the encoder that made it.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError, and ValueError where the file is damaged."""
        self._path = path
        self._file: BinaryIO = path.open("rb")
        self._nbytes = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError(f"{path} is no file of packets")
            nbytes, checksum = _PARAMETERS.unpack(self._take(_PARAMETERS.size))
            self.parameters = self._take(nbytes)
            if zlib.crc32(self.parameters) != checksum:
                raise ValueError(f"{path} is damaged at its start")
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Stored]:
        """The packets that are left. Raises OSError, and ValueError at the first that is damaged."""
        while head := self._file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise ValueError(f"{self._path} is cut short")
            pts, duration, nbytes, flags = _HEAD.unpack(head)
            (checksum,) = _CHECKSUM.unpack(self._take(_CHECKSUM.size))
            data = self._take(nbytes)
            if zlib.crc32(data, zlib.crc32(head)) != checksum:
                raise ValueError(f"{self._path} is damaged at byte {self._file.tell() - nbytes}")
            yield Stored(pts, duration, bool(flags & _KEY), data)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _take(self, nbytes: int) -> bytes:
        # Never more than there is: room for what a damaged length asks for would be made first.
        data = self._file.read(min(nbytes, self._nbytes))
        if len(data) < nbytes:
            raise ValueError(f"{self._path} is cut short")
        return data
