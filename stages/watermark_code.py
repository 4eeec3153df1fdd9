"""What the invisible watermark says, as bits that may be damaged: payload, checksum, error-correcting code.

48 bits of payload and a 16-bit CRC (CCITT, start 0xFFFF) make a message of 64; a convolutional code of rate 1/3 and
constraint length 7 (generators 133, 171, 165 octal: Larsen, IEEE Trans. Inf. Theory 19, 1973) makes 210 coded
bits of it, six zeros at the end included. Reading is soft: Viterbi's algorithm takes how sure each coded bit is.

A payload also chooses one of `SLOTS` ways to lay itself into the picture, so two marks over one another are read apart.
"""

from __future__ import annotations

import binascii
import hashlib

import numpy as np

from pipeline.types import Array

PAYLOAD_BITS = 48
MESSAGE_BITS = 64
SLOTS = 64

_GENERATORS = (0o133, 0o171, 0o165)
_MEMORY = 6
_STATES = 1 << _MEMORY
_STEPS = MESSAGE_BITS + _MEMORY

#: Coded bits of a message.
CODED_BITS = _STEPS * len(_GENERATORS)


def slot_of(payload: int) -> int:
    """Which of the `SLOTS` ways the payload is laid."""
    return hashlib.sha256(_bytes(payload)).digest()[0] % SLOTS


def coded(payload: int) -> Array:
    """(210,) int8 of +1 and -1 for a payload of 48 bits. Raises ValueError outside 0..2^48-1."""
    data = _bytes(payload)
    message = data + binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "big")
    return _encoded(np.unpackbits(np.frombuffer(message, np.uint8)))


def decoded(soft: Array) -> list[int | None]:
    """The payload that each row of `soft`, (n, 210) float, most likely says; None where its checksum is wrong."""
    messages = np.packbits(_viterbi(np.asarray(soft, np.float32)), axis=1)
    return [_checked(bytes(message)) for message in messages]


def _bytes(payload: int) -> bytes:
    if not 0 <= payload < 1 << PAYLOAD_BITS:
        raise ValueError(f"a payload has {PAYLOAD_BITS} bits, so {payload} is none")
    return payload.to_bytes(PAYLOAD_BITS // 8, "big")


def _checked(message: bytes) -> int | None:
    data, crc = message[:-2], int.from_bytes(message[-2:], "big")
    return int.from_bytes(data, "big") if binascii.crc_hqx(data, 0xFFFF) == crc else None


def _outputs() -> Array:
    """(2 * 64, 3) float32 of +1 and -1: what the encoder says when its register, newest bit highest, is the index."""
    registers = np.arange(2 * _STATES, dtype=np.uint8)
    taps = np.array(_GENERATORS, np.uint8)
    ones = np.unpackbits((registers[:, None] & taps)[..., None], axis=2).sum(axis=2)
    return (1.0 - 2.0 * (ones % 2)).astype(np.float32)


def _encoded(bits: Array) -> Array:
    outputs = _outputs().astype(np.int8)
    register, said = 0, []
    for bit in (*bits.tolist(), *([0] * _MEMORY)):
        register = (register >> 1) | (bit << _MEMORY)
        said.append(outputs[register])
    return np.concatenate(said)


def _viterbi(soft: Array) -> Array:
    """(n, 64) uint8: the bits of the path through the trellis that agrees best with each row of `soft`."""
    rows = len(soft)
    # Into state s (the newest six bits) leads a register: s with either oldest bit.
    registers = 2 * np.arange(_STATES)[:, None] + np.arange(2)
    gains = soft.reshape(rows, _STEPS, -1) @ _outputs().T
    before = registers % _STATES
    best = np.full((rows, _STATES), -np.inf, np.float32)
    best[:, 0] = 0.0
    choices = np.empty((_STEPS, rows, _STATES), np.uint8)
    for step in range(_STEPS):
        ways = best[:, before] + gains[:, step][:, registers]
        choices[step] = ways[..., 1] > ways[..., 0]
        best = ways.max(axis=2)
    state, each = np.zeros(rows, np.intp), np.arange(rows)
    bits = np.empty((rows, _STEPS), np.uint8)
    for step in range(_STEPS - 1, -1, -1):
        bits[:, step] = state >> (_MEMORY - 1)
        state = (2 * state + choices[step, each, state]) % _STATES
    return bits[:, :MESSAGE_BITS]
