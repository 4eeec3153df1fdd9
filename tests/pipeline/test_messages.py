"""Words between processes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.messages import Abort, Begin, Broken, Cancel, Control, End, Ended, Opened, Ready, pack, unpack
from pipeline.pixels import PIXEL_FORMATS
from pipeline.specs import Failure, Outcome
from pipeline.types import Clip, Colour, Job

# file names are bytes: what is not UTF-8 comes as lone surrogates and has to survive
names = st.one_of(st.text(), st.binary(max_size=40).map(lambda b: b.decode(errors="surrogateescape")))
fractions = st.builds(Fraction, st.integers(1, 10**9), st.integers(1, 10**9))
clips = st.builds(
    Clip,
    st.integers(1, 2**31),
    names,
    names,
    names,
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.sampled_from(sorted(PIXEL_FORMATS.values(), key=lambda f: f.name)),
    fractions,
    rate=st.none() | fractions,
    sample_aspect_ratio=fractions,
    colour=st.builds(Colour, st.integers(0, 20)),
    display_matrix=st.none() | st.tuples(*[st.integers(-(2**31), 2**31)] * 9),
    frames=st.none() | st.integers(0, 10**9),
    duration_s=st.none() | st.floats(0, 1e6),
)
failures = st.builds(Failure, names, st.none() | st.integers(0, 9), names, names, names)
reports = st.dictionaries(
    st.text(max_size=4), st.dictionaries(st.text(max_size=4), st.integers() | st.text()), max_size=3
)
jobs = st.builds(Job, st.integers(1, 99), names, names)
messages: st.SearchStrategy[Control] = st.one_of(
    st.builds(Begin, clips),
    st.builds(Opened, clips),
    st.builds(End, st.integers(1, 9), st.integers(0, 9), reports),
    st.builds(Abort, st.integers(1, 9), st.integers(-1, 9), failures, reports),
    st.builds(Cancel, st.integers(1, 9)),
    st.just(Ready()),
    st.builds(Broken, failures),
    st.builds(Ended, st.builds(Outcome, jobs, st.integers(0, 9), st.none() | failures, reports, st.floats(0, 9))),
    jobs,
)


@given(messages)
def test_what_is_packed_is_unpacked(message: Control) -> None:
    data = pack(message)
    assert data[:1] == b"{", "a frame's descriptor starts with another byte"
    assert unpack(data) == message


@pytest.mark.parametrize("data", [b"{}", b'{"is": "system"}', b"junk"])
def test_foreign_words_are_refused(data: bytes) -> None:
    with pytest.raises((KeyError, ValueError)):
        unpack(data)
