"""The ring and what lies in it."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UnderstudyError
from pipeline.messages import pack_frame, unpack_frame
from pipeline.pixels import PIXEL_FORMATS
from pipeline.pool import Piece, Ring, SharedBlock, Slots
from pipeline.types import Clip, Face, Frame, Picture


@given(st.lists(st.integers(-3, 700), max_size=200), st.integers(256, 2048), st.integers(1, 12))
def test_pieces_never_overlap_and_come_home_in_order(steps: list[int], nbytes: int, most: int) -> None:
    ring = Ring(nbytes, most)
    out: deque[Piece] = deque()
    for step in steps:
        if step <= 0:
            for _ in range(min(-step + 1, len(out))):
                ring.release(out.popleft().serial)
            continue
        piece = ring.reserve(step)
        if piece is None:
            assert out or step > nbytes - 64, "an empty ring has room for whatever fits into it"
            continue
        assert piece.nbytes >= step
        assert 0 <= piece.offset <= piece.offset + piece.nbytes <= nbytes
        for other in out:
            assert piece.offset + piece.nbytes <= other.offset or other.offset + other.nbytes <= piece.offset
        out.append(piece)
        assert len(out) == ring.pieces_out <= most


@given(st.integers(1, 9), st.integers(1, 4))
def test_frames_of_one_size_fill_the_ring(count: int, size: int) -> None:
    ring = Ring(count * size * 64, 1000)
    for turn in range(3 * count):
        pieces = []
        while (piece := ring.reserve(size * 64)) is not None:
            pieces.append(piece)
        assert len(pieces) == count, turn
        for piece in pieces:
            ring.release(piece.serial)


def test_a_piece_out_of_turn_is_noticed() -> None:
    ring = Ring(1024, 8)
    first, second = ring.reserve(64), ring.reserve(64)
    assert first and second
    with pytest.raises(UnderstudyError, match="expected piece 0 back and got 1"):
        ring.release(second.serial)


def clip_of(name: str, width: int, height: int) -> Clip:
    return Clip(1, "in", "out", "part", width, height, PIXEL_FORMATS[name], Fraction(1, 90000))


formats = st.sampled_from(sorted(PIXEL_FORMATS))


@given(formats, st.integers(1, 50), st.integers(1, 50), st.integers(0, 3), st.data())
def test_a_frame_crosses_unchanged(name: str, width: int, height: int, faces: int, data: st.DataObject) -> None:
    clip = clip_of(name, width, height)
    block = SharedBlock(1 << 18)
    slots = Slots(block, clip, 1 << 17)
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    dtype = clip.pixel_format.dtype
    planes = tuple(
        rng.integers(0, clip.pixel_format.peak + 1, (*s[:1], s[1] + 7, *s[2:])).astype(dtype)[:, : s[1]]
        for s in clip.pixel_format.shapes(width, height)
    )
    pts = data.draw(st.integers(-(2**62), 2**62))
    frame = Frame(1, 0, pts, Picture(clip.pixel_format, width, height, planes), duration=3, damaged=True)  # type: ignore[arg-type]
    piece = Ring(1 << 18, 1).reserve(slots.piece_nbytes)
    assert piece is not None
    adopted = slots.adopt(frame, piece)
    made = []
    for i in range(faces):
        landmarks = adopted.allocate((478, 2), np.float32)
        landmarks[:] = rng.random((478, 2), np.float32)
        face = Face((1.5, 2, 3, 4), 0.25, landmarks, i - 1 if i else None)
        if i:
            face = face.with_(aligned=rng.integers(0, 256, (16, 16, 3), np.uint8), mask=rng.random((8, 8), np.float32))
        if i == 2:
            face = face.with_(frame_to_crop=rng.random((2, 3)), swapped=face.aligned)
        made.append(face)
    sent = pack_frame(slots.describe(adopted.with_(faces=tuple(made))))
    assert len(sent) < 80 + 160 * faces, "a descriptor, not pixels"
    got = Slots(block, clip, 1 << 17).frame(unpack_frame(sent))
    assert replace(got, picture=frame.picture, faces=()) == frame
    assert all(np.array_equal(a, b) for a, b in zip(got.picture.planes, planes, strict=True))
    for face, want in zip(got.faces, made, strict=True):
        assert (face.box, face.score, face.track) == (want.box, want.score, want.track)
        for field in ("landmarks", "frame_to_crop", "aligned", "mask", "swapped"):
            a, b = getattr(face, field), getattr(want, field)
            assert (a is None) == (b is None)
            assert a is None or (a.dtype == b.dtype and np.array_equal(a, b))
    # what is allocated next must not lie over what is there
    more = got.allocate((100,), np.uint8)
    more[:] = 0
    assert all(np.array_equal(f.landmarks, w.landmarks) for f, w in zip(got.faces, made, strict=True))
    block.close()


def test_a_slot_that_is_full_says_what_to_change() -> None:
    block = SharedBlock(1 << 16)
    slots = Slots(block, clip_of("gray", 8, 8), 1024)
    piece = Ring(1 << 16, 1).reserve(slots.piece_nbytes)
    assert piece is not None
    picture = Picture(PIXEL_FORMATS["gray"], 8, 8, (np.zeros((8, 8), np.uint8),))
    frame = slots.adopt(Frame(1, 0, 0, picture), piece)
    frame.allocate((1024,), np.uint8)
    with pytest.raises(UnderstudyError, match=r"detect\.max_faces or raise engine\.scratch_kb"):
        frame.allocate((1,), np.uint8)
    block.close()
