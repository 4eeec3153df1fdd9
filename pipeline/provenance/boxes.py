"""Where a C2PA manifest store lies in a file, and those bytes of it that no signature covers.

A signature covers the claim, the claim its assertions by their digests, one of these the rest of the file. What is left
are heads and descriptions of the boxes around them, the zeros that pad the signature's own box (most of a small store),
and what announces the store in the file. The library that wrote our stores always writes these alike, so a bit that
was changed there is seen, although the standard does not ask for it.

Sources: ISO/IEC 14496-12 (boxes), ISO/IEC 19566-5 (JUMBF), RFC 9052 and 8949 (COSE_Sign1 in CBOR), C2PA 2.2 (A.5, 11,
13).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.originals import open_regular

#: What the library calls AVI.
AVI = "video/x-msvideo"

#: No store is read that has more bytes: the largest of ours have some ten thousand.
LONGEST = 16 << 20

#: Of a file's first level; a fragmented hour has some thousand.
_MOST_BOXES = 1 << 20

#: Nothing has a longer list of brands.
_LONGEST_FTYP = 1 << 12

_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")

#: What our store's box says before the store: version and flags, the purpose, where more of it were (nowhere).
_PURPOSE = bytes(4) + b"manifest\0" + bytes(8)

#: The end of every JUMBF type that is made of four letters.
_ISO = bytes.fromhex("00110010800000aa00389b71")

#: What begins the description of a store.
_BEGINS = b"c2pa" + _ISO

#: So much is looked through at either end of a file for what is left of a store.
_REMAINS_NBYTES = 1 << 20

#: A JUMBF box's description says that it has a label and can be asked for.
_TOGGLES = b"\x03"

#: The same of an assertion's, which may have a salt besides.
_OF_ASSERTIONS = (_TOGGLES, b"\x13")

#: What the unprotected header of a signature of ours may hold: padding, time stamps, what is known of revocation.
_UNPROTECTED = {b"pad", b"pad2", b"sigTst", b"sigTst2", b"rVals"}


@dataclass(frozen=True, slots=True)
class Store:
    """A manifest store as it lies in a file.

    Attributes:
        content: its bytes, a JUMBF box.
        is_announced: the box around it says what ours do.
    """

    content: bytes
    is_announced: bool


class TooLargeError(ValueError):
    """A store that is larger than is read."""


def mime_of(path: Path) -> str | None:
    """What a file is by its first bytes, as the MIME type of a container that takes a store; else None. OSError."""
    with open_regular(path) as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    return AVI if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


def embedded(path: Path) -> Store | None:
    """The store in an mp4, mov or avi file; None where there is none. Raises TooLargeError, OSError."""
    with open_regular(path) as file:
        walk = _riff_chunks(file) if file.read(4) == b"RIFF" else _bmff_boxes(file)
        for box in walk:
            if box.kind == b"C2PA":
                return Store(_content(file, box.begin, box.end), True)
            if box.kind == b"uuid" and _read(file, box.begin, 16) == _C2PA_UUID:
                begin = box.begin + 16 + len(_PURPOSE)
                return Store(_content(file, begin, box.end), _read(file, box.begin + 16, len(_PURPOSE)) == _PURPOSE)
    return None


def has_remains(path: Path) -> bool:
    """Whether there is something like a store where none is announced, near either end of a file. OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_REMAINS_NBYTES)
        return _BEGINS in head or _BEGINS in _read(file, max(0, size - _REMAINS_NBYTES), _REMAINS_NBYTES)


def ftyp_digest(path: Path) -> str | None:
    """The SHA-256 of an ISO file's first box, which C2PA's hash leaves out; None where there is none. OSError."""
    with open_regular(path) as file:
        size = int.from_bytes(file.read(4), "big")
        if file.read(4) != b"ftyp" or not 8 <= size <= _LONGEST_FTYP:
            return None
        return hashlib.sha256(_read(file, 0, size)).hexdigest()


def is_tidy(store: bytes, labels: Sequence[str]) -> bool:
    """Whether the bytes of a store that nothing covers are as they were written.

    Args:
        labels: the manifests that were written by us; what is between boxes of others is theirs to know.
    """
    try:
        return _is_tidy(store, set(labels))
    except (_BrokenError, IndexError, struct.error):
        return False


class _BrokenError(Exception):
    """Boxes that do not fill what they are in, or a CBOR item that has no end."""


class _Box(NamedTuple):
    kind: bytes
    begin: int  # of its content
    end: int


def _bmff_boxes(file: BinaryIO) -> Iterator[_Box]:
    size = os.fstat(file.fileno()).st_size
    at = 0
    for _ in range(_MOST_BOXES):
        head = _read(file, at, 16)
        if len(head) < 8:
            return
        length, begin = int.from_bytes(head[:4], "big"), at + 8
        if length == 1:
            length, begin = int.from_bytes(head[8:], "big"), at + 16
        end = size if length == 0 else at + length
        if end < begin:
            return
        yield _Box(head[4:8], begin, min(end, size))
        at = end


def _riff_chunks(file: BinaryIO) -> Iterator[_Box]:
    """The chunks of all RIFFs of a file: a large AVI has several."""
    size = os.fstat(file.fileno()).st_size
    at = 0
    for _ in range(_MOST_BOXES):
        head = _read(file, at, 8)
        if len(head) < 8:
            return
        if head[:4] == b"RIFF":
            at += 12
            continue
        end = at + 8 + int.from_bytes(head[4:], "little")
        yield _Box(head[:4], at + 8, min(end, size))
        at = end + (end & 1)


def _content(file: BinaryIO, begin: int, end: int) -> bytes:
    if end - begin > LONGEST:
        raise TooLargeError(f"its manifest store has more than {LONGEST >> 20} MiB")
    return _read(file, begin, max(0, end - begin))


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)


def _is_tidy(store: bytes, labels: set[str]) -> bool:
    outer = _only(store, 0, len(store), b"jumb")
    described, manifests = _opened(store, outer)
    if described != (b"c2pa", b"c2pa"):
        return False
    seen = set()
    for manifest in manifests:
        (letters, label), parts = _opened(store, manifest)
        if label.decode("utf-8", "replace") in labels:
            seen.add(label)
            if letters != b"c2ma" or not _is_manifest_tidy(store, parts):
                return False
    return len(seen) == len(labels)


def _is_manifest_tidy(store: bytes, parts: list[_Box]) -> bool:
    """Whether assertions, claim and signature of one manifest lie as we write them."""
    kinds = []
    for part in parts:
        described, content = _opened(store, part)
        kinds.append(described)
        if described[0] == b"c2as" and not all(_toggles(store, box) in _OF_ASSERTIONS for box in content):
            return False
        if described[0] == b"c2cl" and [box.kind for box in content] != [b"cbor"]:
            return False
        if described[0] == b"c2cs" and not _is_signature_tidy(store, content):
            return False
    return kinds == [(b"c2as", b"c2pa.assertions"), (b"c2cl", b"c2pa.claim.v2"), (b"c2cs", b"c2pa.signature")]


def _opened(store: bytes, box: _Box) -> tuple[tuple[bytes, bytes], list[_Box]]:
    """A superbox's type and label, and what it holds besides its description."""
    if box.kind != b"jumb":
        raise _BrokenError
    description, *content = _boxes(store, box.begin, box.end)
    told = store[description.begin : description.end]
    letters, toggles, label = told[:4], told[16:17], told[17:-1]
    if description.kind != b"jumd" or told[4:16] != _ISO or toggles != _TOGGLES or told[-1:] != b"\0":
        raise _BrokenError
    return (letters, label), content


def _toggles(store: bytes, box: _Box) -> bytes:
    """The byte of a superbox that says what its description has; bits that mean nothing no signature covers."""
    description = _boxes(store, box.begin, box.end)[0]
    return store[description.begin + 16 : description.begin + 17]


def _boxes(store: bytes, begin: int, end: int) -> list[_Box]:
    """Boxes that fill the place exactly."""
    found = []
    while begin < end:
        length, kind = struct.unpack_from(">I4s", store, begin)
        if not 8 <= length <= end - begin:
            raise _BrokenError
        found.append(_Box(kind, begin + 8, begin + length))
        begin += length
    if not found:
        raise _BrokenError
    return found


def _only(store: bytes, begin: int, end: int, kind: bytes) -> _Box:
    found = _boxes(store, begin, end)
    if len(found) != 1 or found[0].kind != kind:
        raise _BrokenError
    return found[0]


def _is_signature_tidy(store: bytes, content: list[_Box]) -> bool:
    """Whether a COSE_Sign1 holds nothing but what is signed, zeros, and time stamps, which are signed by others."""
    if [box.kind for box in content] != [b"cbor"]:
        return False
    box = content[0]
    cose = store[box.begin : box.end]
    if cose[:2] != b"\xd2\x84":  # its tag; an array of four: protected, unprotected, payload, signature
        return False
    at = _after(cose, 2)
    major, pairs, at = _head(cose, at)
    if major != 5:
        return False
    for _ in range(pairs):
        _, length, at = _head(cose, at)
        key, at = cose[at : at + length], at + length
        end = _after(cose, at)
        if key not in _UNPROTECTED or (key.startswith(b"pad") and any(cose[_head(cose, at)[2] : end])):
            return False
        at = end
    return cose[at : at + 1] == b"\xf6" and _after(cose, at + 1) == len(cose)


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """A CBOR item's major type, its argument, and where what follows begins. IndexError past the end."""
    major, small = data[at] >> 5, data[at] & 31
    if small < 24:
        return major, small, at + 1
    if small > 27:
        raise _BrokenError  # of no said length: ours never are
    width = 1 << (small - 24)
    return major, int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width


def _after(data: bytes, at: int, depth: int = 8) -> int:
    """Where the CBOR item that begins at `at` ends."""
    if depth == 0:
        raise _BrokenError
    major, argument, at = _head(data, at)
    if major in (2, 3):
        at += argument
    elif major in (4, 5, 6):
        for _ in range({4: argument, 5: 2 * argument, 6: 1}[major]):
            at = _after(data, at, depth - 1)
    if at > len(data):
        raise _BrokenError
    return at
