"""The watermark's message: payload, checksum, error-correcting code; and the field of chips that carries it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.watermark_code import CODED_BITS, PAYLOAD_BITS, SLOTS, coded, decoded, slot_of
from stages.watermark_field import SIDE, chip_positions, field, plausible

#: Of the field below, a weighted sum.
PROMISED = 2202991

PAYLOADS = st.integers(0, (1 << PAYLOAD_BITS) - 1)


@settings(max_examples=60, deadline=None)
@given(payload=PAYLOADS, wrong=st.sets(st.integers(0, CODED_BITS - 1), max_size=7))
def test_a_payload_comes_back_though_some_coded_bits_are_wrong(payload: int, wrong: set[int]) -> None:
    """The code's free distance is 15, so up to seven wrong bits anywhere are mended."""
    soft = coded(payload).astype(np.float32)
    soft[list(wrong)] *= -1
    assert decoded(soft[None]) == [payload]


def test_a_soft_reading_that_looks_a_sixth_wrong_is_mended() -> None:
    rng = np.random.default_rng(0)
    payloads = [int(one) for one in rng.integers(0, 1 << PAYLOAD_BITS, 40)]
    soft = np.stack([coded(payload) for payload in payloads]) + rng.normal(0, 1, (40, CODED_BITS))
    right = sum(one == other for one, other in zip(decoded(soft), payloads, strict=True))
    assert np.mean(np.sign(soft) != np.stack([coded(payload) for payload in payloads])) > 0.14
    assert right >= 36


def test_noise_is_no_payload() -> None:
    noise = np.random.default_rng(1).normal(size=(400, CODED_BITS))
    assert decoded(noise).count(None) >= 399


@pytest.mark.parametrize("payload", [-1, 1 << PAYLOAD_BITS])
def test_a_payload_has_48_bits(payload: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        coded(payload)


def test_payloads_use_all_slots() -> None:
    assert {slot_of(payload) for payload in range(1000)} == set(range(SLOTS))


def test_every_block_of_the_field_holds_the_whole_message() -> None:
    chips = field(bytes(range(32)))
    for top, left in ((0, 0), (14, 20), (SIDE - 14, SIDE - 20)):
        block = chips.roles[top : top + 14, left : left + 20].ravel()
        assert sorted(block[block >= 0]) == list(range(CODED_BITS))
    assert np.count_nonzero(chips.sync) == SIDE * SIDE // 4


def test_fields_of_two_keys_or_payloads_have_nothing_in_common() -> None:
    one, other = field(bytes(32)), field(b"\1" + bytes(31))
    limit = 5 / SIDE
    assert abs(np.mean(one.signs.astype(int) * other.signs)) < limit
    said = one.roles >= 0
    assert abs(np.mean((one.of(1) * one.of(2))[said])) < 2 * limit
    assert abs(np.mean(one.sync)) < limit


def test_the_field_of_a_key_never_changes() -> None:
    """A mark must be found again by later versions: these numbers are a promise."""
    chips = field(bytes(range(32)))
    weights = np.arange(1, SIDE * SIDE + 1, dtype=np.int64) % 9973
    assert int((chips.of(0x1234_5678_9ABC).ravel().astype(np.int64) * weights).sum()) == PROMISED


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        field(bytes(31))


def test_the_grid_scales_with_the_picture_and_follows_its_shape() -> None:
    small, large = chip_positions(640, 360, 1.0), chip_positions(1920, 1080, 1.0)
    assert np.allclose(small[0], large[0][1::3], atol=1e-4) and np.allclose(small[1], large[1][1::3], atol=1e-4)
    wide, square = chip_positions(720, 576, 16 / 15), chip_positions(768, 576, 1.0)
    assert abs(wide[0][0] - square[0][0]) < 0.1 and np.array_equal(wide[1], square[1])
    assert plausible(1e9) == plausible(0.0) == plausible(float("nan")) == 1.0
