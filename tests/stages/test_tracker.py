"""Following faces: numbers that stay, misses, crossings, faint sightings, cuts; and the bridging of gaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Face, Frame, Picture
from stages.gaps import GapFiller
from stages.tracker import CutFinder, Tracker


def face(x: float, y: float = 100.0, size: float = 50.0, score: float = 0.9, track: int | None = None) -> Face:
    landmarks = np.array([[x, y], [x + size, y + size]], np.float32)
    return Face((x, y, x + size, y + size), score, landmarks, track)


def tracker(memory: int = 5) -> Tracker:
    return Tracker(start_score=0.5, memory=memory)


def test_a_face_keeps_its_number_while_it_moves_and_shakes() -> None:
    follow, rng = tracker(), np.random.default_rng(1)
    for step in range(60):
        x, y = 10 + 12 * step + rng.normal(0, 2), 100 + 30 * np.sin(step / 5) + rng.normal(0, 2)
        assert follow.update([face(x, y, 50 + step / 3)]) == (0,)
    assert follow.started == 1


@given(st.permutations([0, 1, 2]), st.integers(0, 2))
def test_the_order_of_faces_does_not_matter(order: list[int], missed: int) -> None:
    follow = tracker()
    places = [10.0, 200.0, 400.0]
    assert follow.update([face(x) for x in places]) == (0, 1, 2)
    left = [n for n in order if n != missed]
    assert follow.update([face(places[n] + 4) for n in left]) == tuple(left)
    assert follow.missing() == {missed: 1}


def test_faces_that_pass_each_other_keep_their_numbers() -> None:
    follow = tracker()
    for step in range(30):
        left, right = face(10 + 10 * step, 100), face(300 - 10 * step, 130)
        assert follow.update([left, right]) == (0, 1), f"at step {step}"


def test_a_number_survives_a_short_miss_in_movement_and_ends_after_a_long_one() -> None:
    follow = tracker(memory=4)
    for step in range(10):
        follow.update([face(10 + 20 * step)])
    follow.update([])
    follow.update([])
    assert follow.update([face(10 + 20 * 12)]) == (0,)
    for _ in range(5):
        follow.update([])
    assert follow.missing() == {}
    assert follow.update([face(250)]) == (1,)


def test_far_away_or_of_another_size_is_another_face() -> None:
    follow = tracker()
    follow.update([face(100)])
    assert follow.update([face(300)]) == (1,)
    assert follow.update([face(90, 90, 150)]) == (2,)


def test_faint_sightings_prolong_a_track_and_never_begin_one() -> None:
    follow = tracker()
    assert follow.update([face(100, score=0.4)]) == (None,)
    assert follow.update([face(100, score=0.6)]) == (0,)
    assert follow.update([face(101, score=0.4), face(400, score=0.4)]) == (0, None)
    assert follow.started == 1


def test_after_a_cut_nobody_inherits_a_number() -> None:
    follow = tracker()
    follow.update([face(100)])
    follow.cut()
    assert follow.update([face(100)]) == (1,)


def picture(luma: Array, name: str = "gray") -> Picture:
    pixel_format = PIXEL_FORMATS[name]
    height, width = luma.shape[:2]
    plane = (luma * pixel_format.peak).astype(pixel_format.dtype) << pixel_format.shift
    return Picture(pixel_format, width, height, (plane.astype(pixel_format.dtype),))


def shot(seed: int, shift: int = 0) -> Array:
    coarse = np.random.default_rng(seed).uniform(0.1, 0.9, (9, 16))
    return np.roll(np.kron(coarse, np.ones((20, 20))), shift, axis=1)


@pytest.mark.parametrize("name", ["gray", "gray10le", "gray16le"])
def test_a_cut_is_told_from_movement_flash_and_fade(name: str) -> None:
    finder = CutFinder()
    assert not finder.is_cut(picture(shot(1), name))
    for shift in range(1, 20, 3):
        assert not finder.is_cut(picture(shot(1, shift), name)), "movement"
    assert not finder.is_cut(picture(shot(1, 19) * 0.5 + 0.5, name)), "flash"
    assert not finder.is_cut(picture(shot(1, 19) * 0.3, name)), "fade"
    assert finder.is_cut(picture(shot(2), name))
    assert not finder.is_cut(picture(shot(2), name))


def test_a_cut_to_black_and_packed_pixels() -> None:
    finder = CutFinder()
    rgb = PIXEL_FORMATS["rgb24"]
    assert not finder.is_cut(Picture(rgb, 64, 48, (np.full((48, 64, 3), 200, np.uint8),)))
    assert finder.is_cut(Picture(rgb, 64, 48, (np.zeros((48, 64, 3), np.uint8),)))
    assert not finder.is_cut(Picture(rgb, 2, 1, (np.zeros((1, 2, 3), np.uint8),)))


def frame(index: int, *faces: Face) -> Frame:
    return Frame(1, index, index * 512, picture(np.zeros((4, 4))), faces)


def run(filler: GapFiller, seen: Sequence[float | None]) -> list[Frame]:
    """Frames of one track, seen at x or missed (None), through the filler."""
    out: list[Frame] = []
    misses = 0
    for index, x in enumerate(seen):
        misses = 0 if x is not None else misses + 1
        shown = frame(index) if x is None else frame(index, face(x, track=7))
        out += filler.push(shown, {7: misses} if misses else {})
        assert len(filler) <= 3
    return out + filler.flush()


def test_a_short_miss_is_bridged_in_a_straight_line() -> None:
    filler = GapFiller(hold=3)
    out = run(filler, [0.0, None, None, None, 40.0, None, 60.0])
    assert [f.index for f in out] == list(range(7))
    assert [f.faces[0].box[0] for f in out] == pytest.approx([0, 10, 20, 30, 40, 50, 60])
    assert all(f.faces[0].track == 7 and f.faces[0].landmarks.dtype == np.float32 for f in out)
    assert filler.filled == 4


def test_a_long_miss_stays_a_miss_and_frames_leave_as_soon_as_that_is_clear() -> None:
    filler = GapFiller(hold=2)
    assert [f.index for f in filler.push(frame(0, face(0, track=7)), {})] == [0]
    assert filler.push(frame(1), {7: 1}) == []
    assert filler.push(frame(2), {7: 2}) == []
    assert [f.index for f in filler.push(frame(3), {7: 3})] == [1, 2, 3]
    assert [f.index for f in filler.push(frame(4, face(5, track=7)), {})] == [4]
    assert filler.filled == 0


def test_what_is_remembered_of_a_face_outlives_its_frames_memory() -> None:
    """A frame that has left gives its memory back, and another picture's faces are written there."""
    filler, out = GapFiller(hold=3), []
    for index, x in enumerate([0.0, None, None, 30.0]):
        shown = frame(index) if x is None else frame(index, face(x, track=7))
        for left in filler.push(shown, {7: index} if x is None else {}):
            out.append([f.landmarks[0, 0].item() for f in left.faces])
            for gone in left.faces:
                gone.landmarks[:] = -999
    assert out == [[0], [10], [20], [30]]


@given(st.lists(st.one_of(st.none(), st.integers(0, 10)), max_size=30), st.integers(0, 3))
def test_every_frame_comes_out_once_in_order_and_faces_seen_stay(seen: list[int | None], hold: int) -> None:
    filler = GapFiller(hold)
    out = run(filler, seen)
    assert [f.index for f in out] == list(range(len(seen)))
    assert all(f.faces[0].box[0] == np.float32(x) for f, x in zip(out, seen, strict=True) if x is not None)
    bridged = sum(bool(f.faces) for f in out) - sum(x is not None for x in seen)
    assert bridged == filler.filled


def test_no_hold_no_wait() -> None:
    filler = GapFiller(hold=0)
    for index in range(4):
        assert [f.index for f in filler.push(frame(index), {7: index} if index else {})] == [index]


def test_one_face_missing_leaves_the_other_alone() -> None:
    filler = GapFiller(hold=3)
    out = filler.push(frame(0, face(0, track=1), face(200, track=2)), {})
    out += filler.push(frame(1, face(2, track=1)), {2: 1})
    out += filler.push(frame(2, face(4, track=1), face(220, track=2)), {})
    assert [sorted((f.track, f.box[0]) for f in shown.faces) for shown in out] == [
        [(1, 0), (2, 200)],
        [(1, 2), (2, 210)],
        [(1, 4), (2, 220)],
    ]


def test_after_a_flush_the_rest_of_the_gap_is_not_waited_for() -> None:
    """A face that came back half-way through a miss would flicker more than one that stays away."""
    filler = GapFiller(hold=3)
    filler.push(frame(0, face(0, track=7)), {})
    filler.push(frame(1), {7: 1})
    assert [f.index for f in filler.flush()] == [1]
    assert [f.index for f in filler.push(frame(2), {7: 2})] == [2]
    assert [len(f.faces) for f in filler.push(frame(3, face(6, track=7)), {})] == [1]
    assert filler.filled == 0
