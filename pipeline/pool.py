"""Frames' pixels in shared memory: one ring of bytes, handed out and given back in order.

The memory is anonymous (a memfd), inherited by descriptor: it has no name that could be left behind, whatever
signal ends whom. A frame owns one contiguous *piece*: its planes, tightly packed, then room for its faces' arrays.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pipeline.errors import UnderstudyError
from pipeline.messages import DAMAGED, FaceRecord, FrameRecord, Placed
from pipeline.pixels import Plane
from pipeline.types import Array, Clip, Face, Frame, Picture

_ALIGN = 64  # a cache line; also what SIMD loads like


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGN) * _ALIGN


class SharedBlock:
    """A block of zeroed anonymous memory that spawned children map too.

    Pickles only while a child is being spawned (it passes a duplicated descriptor).
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("understudy", os.MFD_CLOEXEC)
        else:  # not Linux: a file that is unlinked before anyone can see it
            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())
        os.ftruncate(self._fd, nbytes)
        self._map()

    def _map(self) -> None:
        self._mmap = mmap.mmap(self._fd, self.nbytes)
        self.bytes: Array = np.frombuffer(self._mmap, np.uint8)
        self.address: int = self.bytes.__array_interface__["data"][0]

    def __getstate__(self) -> dict[str, Any]:
        return {"nbytes": self.nbytes, "fd": DupFd(self._fd)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.nbytes = state["nbytes"]
        self._fd = state["fd"].detach()
        self._map()

    def close(self) -> None:
        """Gives the memory back; the mapping itself goes with the last array that looks into it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        del self.bytes, self._mmap


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous part of the ring: `nbytes` from `offset`; `serial` counts pieces from 0."""

    serial: int
    offset: int
    nbytes: int


class Ring:
    """Hands out pieces and takes them back in the same order. Lives in the first process alone.

    Because pieces come home in order, a head and a tail are all there is to it, and frames of different sizes
    share the ring. A piece never wraps: the bytes left at the end are skipped.
    """

    def __init__(self, nbytes: int, max_pieces: int) -> None:
        self.nbytes = nbytes
        self.max_pieces = max_pieces
        self._out: deque[Piece] = deque()
        self._head = 0
        self._serial = 0

    @property
    def pieces_out(self) -> int:
        """How many pieces are with frames now."""
        return len(self._out)

    def reserve(self, nbytes: int) -> Piece | None:
        """A piece of at least `nbytes`, or None while there is no room."""
        nbytes = _aligned(nbytes)
        if len(self._out) >= self.max_pieces:
            return None
        if not self._out:
            self._head = 0
            tail = self.nbytes
        else:
            tail = self._out[0].offset
        if self._head <= tail:  # the free bytes are one run (none at all where head and tail meet)
            if nbytes > tail - self._head:
                return None
        elif self._head + nbytes > self.nbytes:  # past the end: start again at 0, before the oldest piece
            if nbytes > tail:
                return None
            self._head = 0
        piece = Piece(self._serial, self._head, nbytes)
        self._serial += 1
        self._head += nbytes
        if self._head == self.nbytes:
            self._head = 0
        self._out.append(piece)
        return piece

    def release(self, serial: int) -> None:
        """Takes back the oldest piece, which must be `serial`: anything else means that a frame was lost."""
        if not self._out or self._out[0].serial != serial:
            oldest = self._out[0].serial if self._out else None
            raise UnderstudyError(f"the ring expected piece {oldest} back and got {serial}")
        self._out.popleft()


class Room:
    """What is left of a piece, as `Frame.allocate`: the next bytes, cache-line aligned."""

    __slots__ = ("_block", "_piece_nbytes", "offset", "serial", "used")

    def __init__(self, block: SharedBlock, serial: int, offset: int, nbytes: int, used: int) -> None:
        self._block = block
        self._piece_nbytes = nbytes
        self.serial = serial
        self.offset = offset
        self.used = used

    def __call__(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        start = _aligned(self.used)
        if start + nbytes > self._piece_nbytes:
            raise UnderstudyError(
                f"the arrays of this frame's faces need more than the {self._piece_nbytes >> 10} KiB of its slot; "
                "lower detect.max_faces or raise engine.scratch_kb"
            )
        self.used = start + nbytes
        at = self.offset + start
        array: Array = self._block.bytes[at : at + nbytes].view(kind).reshape(shape)
        return array

    def place(self, array: Array) -> Placed:
        """Where `array` lies in this piece; copied in first if it was made elsewhere."""
        at = array.__array_interface__["data"][0] - self._block.address - self.offset
        if not (0 <= at < self._piece_nbytes and array.flags.c_contiguous):
            inside = self(array.shape, array.dtype)
            np.copyto(inside, array)
            at = inside.__array_interface__["data"][0] - self._block.address - self.offset
            array = inside
        return Placed(at, array.shape, array.dtype.str)


_FACE_ARRAYS = ("landmarks", "aligned", "mask", "swapped")


class Slots:
    """Frames in, descriptors out, and back: one clip's view of the shared block, in any process."""

    def __init__(self, block: SharedBlock, clip: Clip, scratch_nbytes: int) -> None:
        self._block = block
        self.clip = clip
        self._layout: list[tuple[int, int, tuple[int, ...]]] = []
        self._dtype = clip.pixel_format.dtype
        at = 0
        for shape in clip.pixel_format.shapes(clip.width, clip.height):
            nbytes = int(np.prod(shape)) * self._dtype.itemsize
            self._layout.append((at, nbytes, shape))
            at += _aligned(nbytes)
        self.picture_nbytes = at
        self.piece_nbytes = at + _aligned(scratch_nbytes)
        self._pictures: dict[int, Picture] = {}

    def picture(self, offset: int) -> Picture:
        """The planes in the piece at `offset`."""
        if offset not in self._pictures:
            planes: list[Plane] = []
            for at, nbytes, shape in self._layout:
                plane: Plane = self._block.bytes[offset + at : offset + at + nbytes].view(self._dtype).reshape(shape)  # type: ignore[assignment]
                planes.append(plane)
            clip = self.clip
            self._pictures[offset] = Picture(clip.pixel_format, clip.width, clip.height, tuple(planes))
        return self._pictures[offset]

    def adopt(self, frame: Frame, piece: Piece) -> Frame:
        """The frame with its picture copied into the piece: the one copy that a picture sees."""
        picture = self.picture(piece.offset)
        for inside, plane in zip(picture.planes, frame.picture.planes, strict=True):
            np.copyto(inside, plane)
        room = Room(self._block, piece.serial, piece.offset, self.piece_nbytes, self.picture_nbytes)
        return frame.with_(picture=picture, allocate=room)

    def describe(self, frame: Frame) -> FrameRecord:
        """The descriptor of a frame that lives in this block."""
        room = frame.allocate
        assert isinstance(room, Room), "a frame that was never adopted has no slot"
        faces = tuple(self._describe_face(face, room) for face in frame.faces)
        flags = DAMAGED if frame.damaged else 0
        return FrameRecord(
            frame.clip_id,
            frame.index,
            frame.pts,
            frame.duration,
            room.serial,
            room.offset,
            room.used,
            flags,
            faces,
        )

    @staticmethod
    def _describe_face(face: Face, room: Room) -> FaceRecord:
        arrays = tuple(None if (a := getattr(face, name)) is None else room.place(a) for name in _FACE_ARRAYS)
        matrix = None if face.frame_to_crop is None else tuple(face.frame_to_crop.ravel().tolist())
        return FaceRecord(face.box, face.score, face.track, matrix, arrays)  # type: ignore[arg-type]

    def frame(self, record: FrameRecord) -> Frame:
        """The frame that a descriptor speaks of, its arrays views into the block."""
        room = Room(self._block, record.serial, record.offset, self.piece_nbytes, record.used)
        return Frame(
            record.clip_id,
            record.index,
            record.pts,
            self.picture(record.offset),
            tuple(self._face(face, record.offset) for face in record.faces),
            record.duration,
            bool(record.flags & DAMAGED),
            room,
        )

    def _face(self, record: FaceRecord, base: int) -> Face:
        landmarks, aligned, mask, swapped = (None if p is None else self._view(p, base) for p in record.arrays)
        assert landmarks is not None, "every face has landmarks"
        matrix = None if record.matrix is None else np.array(record.matrix, np.float64).reshape(2, 3)
        return Face(record.box, record.score, landmarks, record.track, matrix, aligned, mask, swapped)

    def _view(self, placed: Placed, base: int) -> Array:
        kind = np.dtype(placed.dtype)
        count = 1
        for side in placed.shape:
            count *= side
        start = base + placed.offset
        view: Array = self._block.bytes[start : start + count * kind.itemsize].view(kind).reshape(placed.shape)
        return view
