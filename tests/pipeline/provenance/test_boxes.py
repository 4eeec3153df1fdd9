"""Where a store lies in a file, and the bytes of it that no signature covers. Whole stores: `test_credentials`."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.provenance import boxes

UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
ANNOUNCED = bytes(4) + b"manifest\0" + bytes(8)
FTYP = struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 512)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def large(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content


def chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)


def avi(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"AVI " + b"".join(chunks)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("content", "mime"),
    [
        (FTYP, "video/mp4"),
        (struct.pack(">I4s4s", 12, b"ftyp", b"qt  "), "video/quicktime"),
        (avi(), "video/x-msvideo"),
        (b"RIFF\0\0\0\0WAVE", None),
        (bytes.fromhex("1a45dfa3") + bytes(30), None),
        (b"", None),
    ],
)
def test_a_container_is_known_by_its_content(file: Path, content: bytes, mime: str | None) -> None:
    file.write_bytes(content)
    assert boxes.mime_of(file) == mime


@pytest.mark.parametrize(
    "content",
    [
        FTYP + box(b"uuid", UUID + ANNOUNCED + b"store"),
        FTYP + large(b"mdat", b"x" * 50) + box(b"uuid", b"y" * 16) + large(b"uuid", UUID + ANNOUNCED + b"store"),
        FTYP + struct.pack(">I4s", 0, b"uuid") + UUID + ANNOUNCED + b"store",
        avi(chunk(b"LIST", b"movi!"), chunk(b"C2PA", b"store")),
        avi(chunk(b"LIST", b"movi!")) + b"RIFF" + struct.pack("<I", 17) + b"AVIX" + chunk(b"C2PA", b"store"),
    ],
)
def test_a_store_is_found(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert boxes.embedded(file) == boxes.Store(b"store", True)


@pytest.mark.parametrize("at", range(len(ANNOUNCED)))
def test_what_announces_a_store_is_looked_at(file: Path, at: int) -> None:
    announced = bytearray(ANNOUNCED)
    announced[at] ^= 4
    file.write_bytes(FTYP + box(b"uuid", UUID + announced + b"store"))
    assert boxes.embedded(file) == boxes.Store(b"store", False)


def test_a_store_of_any_size_is_not_read(file: Path) -> None:
    with file.open("wb") as out:
        out.write(FTYP + struct.pack(">I4sQ", 1, b"uuid", 1 << 40) + UUID + ANNOUNCED)
        out.truncate(1 << 34)
    with pytest.raises(boxes.TooLargeError, match="more than 16 MiB"):
        boxes.embedded(file)


def test_remains_are_seen_at_both_ends(file: Path) -> None:
    store = b"jumdc2pa" + bytes.fromhex("00110010800000aa00389b71")
    for content, found in ((store + bytes(99), True), (bytes(3 << 20) + store, True), (bytes(3 << 20), False)):
        file.write_bytes(content)
        assert boxes.has_remains(file) is found


def test_the_first_boxs_digest(file: Path) -> None:
    digests = set()
    for content in (FTYP, FTYP + b"more", FTYP[:-1] + b"\1", b"RIFF0000", struct.pack(">I4s", 1 << 30, b"ftyp")):
        file.write_bytes(content)
        digests.add(boxes.ftyp_digest(file))
    assert len(digests) == 3 and None in digests


@given(st.binary(max_size=400))
def test_no_bytes_are_a_tidy_store_or_a_fault(content: bytes) -> None:
    assert not boxes.is_tidy(content, ["urn:c2pa:x"])
    assert not boxes.is_tidy(content, [])


@given(st.binary(max_size=300), st.sampled_from([FTYP, b"RIFF\0\0\0\0AVI ", b""]))
def test_any_file_can_be_walked(tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "walked"
    file.write_bytes(head + content)
    boxes.embedded(file)
    boxes.mime_of(file)
    boxes.has_remains(file)
    boxes.ftyp_digest(file)


def test_superboxes_without_an_end_are_no_fault() -> None:
    described = box(b"jumd", b"c2pa" + bytes.fromhex("00110010800000aa00389b71") + b"\3c2pa\0")
    assert boxes.is_tidy(box(b"jumb", described), [])
    for broken in (box(b"jumb", described + b"x"), box(b"jumb", described)[:-1], box(b"jumb", box(b"jumb", b""))):
        assert not boxes.is_tidy(broken, [])
