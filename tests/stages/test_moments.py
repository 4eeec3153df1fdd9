"""Moments: the pictures that decoding all of it would give, however the file is built, and with little decoding."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stages import moments
from stages.moments import Moments
from tests.clips import make_clip

_RATE = 25


def clip(tmp_path: Path, name: str, gop: int, frames: int) -> Path:
    options = {"preset": "veryfast", "qp": "20", "g": str(gop), "bf": "3", "sc_threshold": "0"}
    return make_clip(tmp_path / name, frames=frames, rate=_RATE, options=options)


def everything(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        return [(p.pts * stream.time_base, p.to_ndarray()) for p in container.decode(stream) if p.pts is not None]


def looked_up(path: Path, wanted: list[Fraction]) -> tuple[list[np.ndarray | None], int]:
    """The pictures, and how many packets were taken for them."""
    taken = 0

    def alive() -> None:
        nonlocal taken
        taken += 1

    with av.open(str(path)) as container:
        found = Moments(container, container.streams.video[0], alive)
        pictures = [found.at(moment) for moment in wanted]
        return [None if one is None else one.to_ndarray() for one in pictures], taken


# Of MPEG-TS only what can be reached without seeking, which is not exact there.
@pytest.mark.parametrize(
    ("name", "gop", "frames"),
    [(name, gop, frames) for name in ("a.mp4", "a.mkv") for gop, frames in ((50, 50), (12, 150), (250, 150))]
    + [("a.ts", 50, 50)],
)
def test_the_same_as_by_decoding_everything(name: str, gop: int, frames: int, tmp_path: Path) -> None:
    path = clip(tmp_path, name, gop, frames)
    shown = everything(path)
    assert len(shown) == frames
    chosen = [shown[round(place)] for place in np.linspace(0, frames - 1, 6)]
    found, _ = looked_up(path, [moment for moment, _ in chosen])
    for (_, expected), got in zip(chosen, found, strict=True):
        assert got is not None
        np.testing.assert_array_equal(got, expected)


def test_a_short_clip_is_gone_through_once(tmp_path: Path) -> None:
    path = clip(tmp_path, "a.mp4", 60, 60)
    _, taken = looked_up(path, [moment for moment, _ in everything(path)][::12])
    assert taken <= 61


def test_where_a_key_frame_is_nearer_it_is_gone_to(tmp_path: Path) -> None:
    path = clip(tmp_path, "a.mp4", 10, 200)
    _, taken = looked_up(path, [moment for moment, _ in everything(path)][::40])
    assert taken <= 5 * 6


def test_the_same_moment_twice_is_the_same_picture(tmp_path: Path) -> None:
    path = clip(tmp_path, "a.mp4", 20, 20)
    (one, other), _ = looked_up(path, [Fraction(10, _RATE)] * 2)
    assert one is not None and other is not None
    np.testing.assert_array_equal(one, other)


def test_what_is_too_far_from_a_key_frame_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path, "a.mp4", 100, 100)
    monkeypatch.setattr(moments, "_FAR", 30)
    found, _ = looked_up(path, [Fraction(10, _RATE), Fraction(90, _RATE)])
    assert found[0] is not None and found[1] is None


def test_behind_the_end_there_is_nothing(tmp_path: Path) -> None:
    path = clip(tmp_path, "a.mp4", 20, 20)
    found, _ = looked_up(path, [Fraction(0), Fraction(100)])
    assert found[0] is not None and found[1] is None
