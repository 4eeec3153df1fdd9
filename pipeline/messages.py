"""What passes between processes: a frame's packed descriptor, and the few words around a clip.

Every message is bytes on a one-way pipe. Frames are packed structs that say where the pixels and the faces' arrays lie
in shared memory, never what they are. Everything else is rare and travels as JSON: nothing that comes out of a
process which parses media is ever unpickled.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

from pipeline.pixels import PIXEL_FORMATS
from pipeline.specs import Failure, Outcome
from pipeline.types import Clip, Colour, Job, Report


@dataclass(frozen=True, slots=True)
class Begin:
    """A clip starts; its frames follow."""

    clip: Clip


@dataclass(frozen=True, slots=True)
class End:
    """All `count` frames of the clip have been sent (to all workers together)."""

    clip_id: int
    count: int
    reports: dict[str, Report] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Abort:
    """The clip ends without a result after `count` frames; those that follow the failure are void."""

    clip_id: int
    count: int
    failure: Failure
    reports: dict[str, Report] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cancel:
    """From the parent or from the last process to the first: make no more frames of this clip."""

    clip_id: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A process has loaded its stages."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A process could not load its stages."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Opened:
    """The first process has opened a job's clip."""

    clip: Clip


@dataclass(frozen=True, slots=True)
class Ended:
    """A job has ended."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Finish:
    """From the parent to the door: the clip has gone through all stages and shall be published; `outcome` is its own.

    `about` is the job's.
    """

    clip: Clip
    outcome: Outcome
    about: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finishing:
    """From the door to the parent: it is alive and has done so much of a job's `total` (None: not known)."""

    job_id: int
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an array lies: `offset` from the start of its frame's piece, shape and dtype (NumPy's type string)."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


Control: TypeAlias = Begin | End | Abort | Cancel | Ready | Broken | Opened | Ended | Job | Finish | Finishing

_WORDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Begin, End, Abort, Cancel, Ready, Broken, Opened, Ended, Job, Finish, Finishing)
}


def clip_to_json(clip: Clip) -> dict[str, Any]:
    """A clip as plain JSON values."""
    facts = asdict(clip)
    facts["pixel_format"] = clip.pixel_format.name
    for name in ("time_base", "rate", "sample_aspect_ratio"):
        facts[name] = None if facts[name] is None else str(facts[name])
    return facts


def clip_from_json(facts: dict[str, Any]) -> Clip:
    """The clip that `clip_to_json` described."""
    matrix = facts["display_matrix"]
    return Clip(
        **{
            **facts,
            "pixel_format": PIXEL_FORMATS[facts["pixel_format"]],
            "time_base": Fraction(facts["time_base"]),
            "rate": None if facts["rate"] is None else Fraction(facts["rate"]),
            "sample_aspect_ratio": Fraction(facts["sample_aspect_ratio"]),
            "colour": Colour(**facts["colour"]),
            "display_matrix": None if matrix is None else tuple(matrix),
        }
    )


def pack(message: Control) -> bytes:
    """Any message but a frame, as bytes that start with "{"."""
    facts: dict[str, Any]
    if isinstance(message, Begin | Opened):
        facts = {"clip": clip_to_json(message.clip)}
    else:
        facts = asdict(message)
        if isinstance(message, Finish):
            facts["clip"] = clip_to_json(message.clip)
    return json.dumps({"is": type(message).__name__, **facts}).encode()


def unpack(data: bytes) -> Control:
    """The message that `pack` packed."""
    facts = json.loads(data)
    kind = _WORDS[facts.pop("is")]
    if "clip" in facts:
        facts["clip"] = clip_from_json(facts["clip"])
    if "failure" in facts:
        facts["failure"] = Failure(**facts["failure"])
    if "outcome" in facts:
        told = facts["outcome"]
        told["job"] = Job(**told["job"])
        told["failure"] = None if told["failure"] is None else Failure(**told["failure"])
        facts["outcome"] = Outcome(**told)
    message: Control = kind(**facts)
    return message


# --- frames ---------------------------------------------------------------------------------------------------

#: kind, flags, face count, clip, index, pts, duration, piece serial, piece offset, bytes used of the piece
_FRAME = struct.Struct("<BBHIIqqQQI")
#: box, score, track (-1: none), which arrays are present
_FACE = struct.Struct("<5fiB")
_MATRIX = struct.Struct("<6d")
#: offset in the piece, three dimensions (0: absent), dtype code
_ARRAY = struct.Struct("<IIIIB")
_DTYPES = ("|u1", "<u2", "<f4", "<f8", "<i4", "<f2")
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}

FRAME_KIND = 0
VOID, DAMAGED = 1, 2
_HAS_MATRIX = 128


@dataclass(frozen=True, slots=True)
class FaceRecord:
    """A face's numbers and where its arrays lie; `arrays` in the order landmarks, aligned, mask, swapped."""

    box: tuple[float, float, float, float]
    score: float
    track: int | None
    matrix: tuple[float, ...] | None
    arrays: tuple[Placed | None, Placed | None, Placed | None, Placed | None]


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """A frame's descriptor: what crosses from process to process.

    `serial` and `offset` name the piece of the ring that the frame owns; `used` is how much of it is taken.
    """

    clip_id: int
    index: int
    pts: int
    duration: int
    serial: int
    offset: int
    used: int
    flags: int = 0
    faces: tuple[FaceRecord, ...] = ()


def pack_frame(record: FrameRecord) -> bytes:
    """About 50 bytes, and 60 to 160 more for each face."""
    parts = [
        _FRAME.pack(
            FRAME_KIND,
            record.flags,
            len(record.faces),
            record.clip_id,
            record.index,
            record.pts,
            record.duration,
            record.serial,
            record.offset,
            record.used,
        )
    ]
    for face in record.faces:
        present = sum(1 << i for i, placed in enumerate(face.arrays) if placed is not None)
        present |= _HAS_MATRIX if face.matrix is not None else 0
        parts.append(_FACE.pack(*face.box, face.score, -1 if face.track is None else face.track, present))
        if face.matrix is not None:
            parts.append(_MATRIX.pack(*face.matrix))
        for placed in face.arrays:
            if placed is not None:
                shape = placed.shape + (0,) * (3 - len(placed.shape))
                parts.append(_ARRAY.pack(placed.offset, *shape, _CODES[placed.dtype]))
    return b"".join(parts)


def unpack_frame(data: bytes) -> FrameRecord:
    """The descriptor that `pack_frame` packed."""
    _, flags, count, clip_id, index, pts, duration, serial, offset, used = _FRAME.unpack_from(data)
    at = _FRAME.size
    faces = []
    for _ in range(count):
        *box, score, track, present = _FACE.unpack_from(data, at)
        at += _FACE.size
        matrix = None
        if present & _HAS_MATRIX:
            matrix = _MATRIX.unpack_from(data, at)
            at += _MATRIX.size
        arrays: list[Placed | None] = [None] * 4
        for i in range(4):
            if present & (1 << i):
                where, a, b, c, code = _ARRAY.unpack_from(data, at)
                at += _ARRAY.size
                shape = (a, b, c) if c else (a, b) if b else (a,)
                arrays[i] = Placed(where, shape, _DTYPES[code])
        faces.append(FaceRecord(tuple(box), score, None if track < 0 else track, matrix, tuple(arrays)))  # type: ignore[arg-type]
    return FrameRecord(clip_id, index, pts, duration, serial, offset, used, flags, tuple(faces))
