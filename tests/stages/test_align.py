"""Align: crops that follow faces through turned clips, numbers, bridged misses with bounded latency, steadiness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Clip, Face, Frame, Picture, Pulled, Report
from stages import geometry
from stages.align import Align, Config
from stages.steady import Steady
from tests.clips import MATRICES

WIDTH, HEIGHT = 200, 160
RGB = PIXEL_FORMATS["rgb24"]


def landmarks(x: float, y: float, side: float = 80, roll: float = 0.0) -> Array:
    """(478, 2) float32 of a face that fills a crop of coverage 1 of that side about (x, y)."""
    places = np.full((478, 2), 0.5)
    places[geometry._INDICES] = geometry._TEMPLATE
    cosine, sine = side * math.cos(roll), side * math.sin(roll)
    return ((places - 0.5) @ np.array([[cosine, sine], [-sine, cosine]]) + [x, y]).astype(np.float32)


def face(x: float, y: float = 80, side: float = 80, score: float = 0.9, **more: Any) -> Face:
    points = landmarks(x, y, side, **more)
    return Face((*points.min(0).tolist(), *points.max(0).tolist()), score, points)


def slope() -> Array:
    """Red grows to the right, green downwards: a px says where it lies."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.dstack([columns, rows, np.full((HEIGHT, WIDTH), 9)]).astype(np.uint8)


def clip(**facts: Any) -> Clip:
    return Clip(1, "a", "b", "c", WIDTH, HEIGHT, RGB, Fraction(1, 25), **facts)


def frames_of(shown: Sequence[Sequence[Face]], pictures: Sequence[Array] = ()) -> Iterator[Frame]:
    for index, faces in enumerate(shown):
        rgb = pictures[index] if pictures else slope()
        yield Frame(1, index, 10 * index, Picture(RGB, WIDTH, HEIGHT, (rgb,)), tuple(faces))


def run(config: Config, frames: Pulled, facts: Clip | None = None) -> tuple[list[Frame], Report]:
    made, out = Align(config)(facts or clip(), frames), []
    while True:
        try:
            out.append(next(made))
        except StopIteration as end:
            return out, end.value


@pytest.mark.parametrize("roll", [0.0, 0.5, -1.2])
@pytest.mark.parametrize("coverage", [1.0, 1.5])
def test_the_crop_shows_the_face_upright_and_the_matrix_says_where(roll: float, coverage: float) -> None:
    config = Config(size=48, coverage=coverage)
    (frame,), report = run(config, Pulled(frames_of([[face(100, 80, 60, roll=roll)]])))
    (seen,) = frame.faces
    assert seen.aligned is not None and seen.frame_to_crop is not None
    assert seen.aligned.shape == (48, 48, 3) and seen.aligned.dtype == np.uint8
    assert seen.frame_to_crop.shape == (2, 3) and seen.frame_to_crop.dtype == np.float64
    to_frame = geometry.invert(seen.frame_to_crop)
    assert geometry.density(to_frame) == pytest.approx(60 * coverage / 48, rel=1e-3)
    np.testing.assert_allclose(geometry.apply(to_frame, [23.5, 23.5]), [100, 80], atol=0.02)
    for column, row in ((8, 8), (40, 12), (24, 30)):
        x, y = geometry.apply(to_frame, [column, row])
        np.testing.assert_allclose(seen.aligned[row, column, :2], [x, y], atol=1.6)
    assert report == {"faces": 1, "frames_without_faces": 0, "tracks": 1, "misses_filled": 0, "cuts": 0}


@pytest.mark.parametrize("name", sorted(MATRICES))
@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(5, 4)])
def test_crops_are_upright_whatever_way_the_phone_was_held(name: str, aspect: Fraction) -> None:
    to_upright, _ = geometry.stored_to_upright(MATRICES[name], WIDTH, HEIGHT, aspect)
    centre = geometry.apply(to_upright, [90.0, 70.0])
    points = geometry.apply(geometry.invert(to_upright), landmarks(*centre, 60)).astype(np.float32)
    stored = Face((*points.min(0).tolist(), *points.max(0).tolist()), 0.9, points)
    facts = clip(display_matrix=MATRICES[name], sample_aspect_ratio=aspect)
    (frame,), _ = run(Config(size=32), Pulled(frames_of([[stored]])), facts)
    matrix = frame.faces[0].frame_to_crop
    assert matrix is not None
    expected = geometry.compose(geometry.crop_matrix(landmarks(*centre, 60), 32), to_upright)
    np.testing.assert_allclose(matrix, expected, atol=1e-3)


def test_crop_and_matrix_lie_in_the_frames_own_memory() -> None:
    made: list[Array] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> Array:
        made.append(np.empty(shape, dtype))
        return made[-1]

    frame = Frame(1, 0, 0, Picture(RGB, WIDTH, HEIGHT, (slope(),)), (face(100),), allocate=allocate)
    (out,), _ = run(Config(), Pulled([frame]))
    assert any(out.faces[0].aligned is array for array in made)
    assert any(out.faces[0].frame_to_crop is array for array in made)


def test_faint_faces_are_dropped_until_they_are_sure_and_order_is_by_number() -> None:
    left, right = face(60), face(150)
    faint = face(60, score=0.4)
    shown = [[faint], [left], [right, faint], [left, right]]
    out, report = run(Config(start_score=0.5), Pulled(frames_of(shown)))
    assert [[seen.track for seen in frame.faces] for frame in out] == [[], [0], [0, 1], [0, 1]]
    assert report["tracks"] == 2


class Watched:
    """Counts how many frames were asked for, and can say that nothing more comes for now."""

    def __init__(self, frames: Iterator[Frame], starved_after: int = 1_000) -> None:
        self.asked, self.starved_after = 0, starved_after
        self._frames = frames
        self.waits: list[float] = []

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        self.asked += 1
        return next(self._frames)

    def ready(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        return self.asked < self.starved_after


def test_while_all_is_well_no_frame_waits() -> None:
    watched = Watched(frames_of([[face(100 + i)] for i in range(6)]))
    for count, _ in enumerate(Align(Config())(clip(), watched), start=1):
        assert watched.asked == count
    assert watched.waits == []


def test_a_short_miss_is_bridged_with_a_bounded_wait() -> None:
    shown = [[face(80)], [], [], [face(92)], [face(94)]]
    watched = Watched(frames_of(shown))
    out = []
    for frame in Align(Config(hold_misses=3, smoothing=0))(clip(), watched):
        out.append(frame)
        assert watched.asked - len(out) <= 3
    assert [frame.index for frame in out] == [0, 1, 2, 3, 4]
    centres = [geometry.apply(geometry.invert(frame.faces[0].frame_to_crop), [31.5, 31.5])[0] for frame in out]
    assert centres == pytest.approx([80, 84, 88, 92, 94], abs=0.05)
    assert all(frame.faces[0].aligned is not None and frame.faces[0].track == 0 for frame in out)


def test_a_starved_ring_sets_held_frames_free() -> None:
    """Held frames keep their slots: when decode has none left, waiting for more would be for ever."""
    watched = Watched(frames_of([[face(80)], [], [], [face(92)]]), starved_after=3)
    made = Align(Config(hold_misses=3, max_wait_ms=250))(clip(), watched)
    assert [next(made).index for _ in range(3)] == [0, 1, 2]
    assert watched.asked == 3
    assert set(watched.waits) == {0.25}
    assert [len(frame.faces) for frame in made] == [1]


def test_a_file_may_be_waited_for_without_end() -> None:
    watched = Watched(frames_of([[face(80)], [], [face(92)]]))
    out = list(Align(Config(max_wait_ms=math.inf))(clip(), watched))
    assert [len(frame.faces) for frame in out] == [1, 1, 1]
    assert watched.waits == [math.inf]
    with pytest.raises(ConfigError, match=r"align\.max_wait_ms"):
        Config(max_wait_ms=math.nan)


def test_no_bridge_over_a_cut() -> None:
    other = np.ascontiguousarray(255 - slope()[::-1, ::-1] // 2)
    other[:, ::3] = 0
    pictures = [slope(), slope(), other, other]
    out, report = run(Config(), Pulled(frames_of([[face(80)], [], [face(82)], [face(82)]], pictures)))
    assert [[seen.track for seen in frame.faces] for frame in out] == [[0], [], [1], [1]]
    assert report["cuts"] == 1 and report["misses_filled"] == 0


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2]), max_size=25), st.integers(0, 3))
def test_every_frame_comes_out_once_in_order(counts: list[int], hold: int) -> None:
    shown = [[face(60), face(150)][:count] for count in counts]
    out, report = run(Config(size=16, hold_misses=hold), Pulled(frames_of(shown)))
    assert [frame.index for frame in out] == list(range(len(counts)))
    assert [frame.pts for frame in out] == [10 * index for index in range(len(counts))]
    assert report["faces"] == sum(len(frame.faces) for frame in out) == sum(counts) + int(report["misses_filled"])
    assert report["frames_without_faces"] == sum(not frame.faces for frame in out)
    assert all(len(frame.faces) >= count for frame, count in zip(out, counts, strict=True))


def corners(matrix: Array) -> Array:
    return geometry.apply(geometry.invert(matrix), [[0.0, 0.0], [63.0, 63.0]])


def test_tremor_is_damped_and_movement_followed() -> None:
    rng, steady = np.random.default_rng(0), Steady(0.5)
    rough, smooth = [], []
    for index in range(200):
        matrix = geometry.crop_matrix(landmarks(100, 80, 80) + rng.normal(0, 0.25, (1, 2)), 64)
        rough.append(corners(matrix))
        smooth.append(corners(steady(0, index, matrix, 64)))
    assert np.diff(smooth, axis=0).std() < 0.6 * np.diff(rough, axis=0).std()
    moved = geometry.crop_matrix(landmarks(130, 80, 80), 64)
    np.testing.assert_allclose(steady(0, 200, moved, 64), moved, atol=1e-6)


@given(st.floats(-0.2, 0.2), st.floats(0.9, 1.1), st.floats(-20, 20))
def test_the_steadied_crop_stays_a_similarity_and_near(roll: float, growth: float, step: float) -> None:
    steady = Steady(0.9)
    steady(3, 0, geometry.crop_matrix(landmarks(100, 80, 80), 64), 64)
    now = geometry.crop_matrix(landmarks(100 + step, 80, 80 * growth, roll), 64)
    got = steady(3, 1, now, 64)
    (a, b), (c, d) = got[:, :2]
    assert a == pytest.approx(d) and b == pytest.approx(-c)
    # The lag is at most smoothing * d * exp(-(d / tremor)^2), whose peak is 0.43 of the tremor (2 % of the side).
    assert np.abs(corners(got) - corners(now)).max() <= 0.9 * 0.43 * 0.02 * 80 * growth * 1.01


def test_a_face_that_was_away_starts_afresh() -> None:
    steady = Steady(0.9)
    first = geometry.crop_matrix(landmarks(100, 80), 64)
    later = geometry.crop_matrix(landmarks(100.3, 80), 64)
    steady(0, 0, first, 64)
    steady(1, 1, first, 64)
    steady(1, 2, first, 64)
    np.testing.assert_allclose(steady(0, 3, later, 64), later, atol=1e-9)
    np.testing.assert_allclose(Steady(0.0)(0, 0, later, 64), later, atol=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 4}, {"coverage": 0.0}, {"start_score": 2.0}, {"smoothing": 1.0}, {"hold_misses": 99}, {"memory": -1}],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"align.{next(iter(wrong))}"):
        Config(**wrong)
