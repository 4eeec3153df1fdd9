"""The field of chips that the invisible watermark lays into a picture: what hangs on the key, and where it lies.

A chip is a square that is made a little brighter or darker. The field is `SIDE` x `SIDE` chips, in blocks of 14 x 20;
each block holds every coded bit of the message once, and 70 chips of synchronisation besides, shuffled and signed by
the key, so any part of a picture holds the whole message. The field is centred on the picture, and `ROWS` chips go on
the shorter side of the picture as it is shown, so scaling changes nothing; beyond its border it repeats.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.types import Array
from stages.watermark_code import CODED_BITS, SLOTS, coded, slot_of

#: Chips on the shorter side of a picture.
ROWS = 90

#: Chips on a side of the field: a multiple of both block sizes, and a size that a Fourier transform likes.
SIDE = 280

KEY_NBYTES = 32

#: A sample this much wider than high, or higher than wide, is a mistake in the file: it counts as square.
_MOST_STRETCH = 8

_BLOCK = (14, 20)
_SYNC = -1


@dataclass(frozen=True, slots=True)
class Field:
    """The chips that hang on a key.

    Attributes:
        roles: (280, 280) int16; which coded bit a chip helps to say, or -1 for synchronisation.
        signs: (280, 280) int8 of +1 and -1.
        turns: (64, 2) int; how far `signs` are rolled, down and right, for each slot of payloads.
    """

    roles: Array
    signs: Array
    turns: Array

    @property
    def sync(self) -> Array:
        """(280, 280) float32: the chips of synchronisation, +1 and -1; 0 where there are others."""
        return np.where(self.roles == _SYNC, self.signs, 0).astype(np.float32)

    def slot_signs(self, slot: int) -> Array:
        """(280, 280) int8: the signs of the other chips for payloads of a slot."""
        return np.roll(self.signs, tuple(self.turns[slot]), axis=(0, 1))

    def of(self, payload: int) -> Array:
        """(280, 280) float32 of +1 and -1: all chips, as they say `payload`."""
        said = coded(payload)[self.roles] * self.slot_signs(slot_of(payload))
        return np.where(self.roles == _SYNC, self.signs, said).astype(np.float32)


def field(key: bytes) -> Field:
    """The chips of a key of 32 bytes; the same for ever. Raises ValueError for a key of another length."""
    if len(key) != KEY_NBYTES:
        raise ValueError(f"the watermark's key must have {KEY_NBYTES} bytes, not {len(key)}")
    rows, columns = SIDE // _BLOCK[0], SIDE // _BLOCK[1]
    chips = _BLOCK[0] * _BLOCK[1]
    chance = np.frombuffer(_drawn(key, b"roles", rows * columns * chips * 8), "<u8").reshape(rows * columns, chips)
    order = np.argsort(chance, axis=1, kind="stable").astype(np.int16)
    roles = np.where(order < CODED_BITS, order, _SYNC).reshape(rows, columns, *_BLOCK)
    signs = np.unpackbits(np.frombuffer(_drawn(key, b"signs", SIDE * SIDE // 8), np.uint8))
    # Rolls that differ by whole rows and columns at least: chips of two slots have nothing in common.
    turns = np.frombuffer(_drawn(key, b"turns", SLOTS * 4), "<u2").reshape(SLOTS, 2) % SIDE
    return Field(
        roles.transpose(0, 2, 1, 3).reshape(SIDE, SIDE).astype(np.int16),
        (1 - 2 * signs.astype(np.int8)).reshape(SIDE, SIDE),
        turns.astype(np.int64),
    )


def chip_positions(width: int, height: int, aspect: float) -> tuple[Array, Array]:
    """Where the columns and rows of a picture lie in the field, in chips, float32; chips' centres at whole numbers.

    `aspect` is the shape of its samples, width to height.
    """
    aspect = plausible(aspect)
    shown = width * aspect, float(height)
    chip = min(shown) / ROWS
    across = (np.arange(width) + 0.5) * aspect - shown[0] / 2
    down = np.arange(height) + 0.5 - shown[1] / 2
    centre = SIDE / 2 - 0.5
    return (across / chip + centre).astype(np.float32), (down / chip + centre).astype(np.float32)


def plausible(aspect: float) -> float:
    """The shape of samples, width to height; 1 in place of what can only be a mistake in the file."""
    return aspect if 1 / _MOST_STRETCH < aspect < _MOST_STRETCH else 1.0


def _drawn(key: bytes, purpose: bytes, nbytes: int) -> bytes:
    return hashlib.shake_256(b"understudy watermark 1 " + purpose + b"\0" + key).digest(nbytes)
