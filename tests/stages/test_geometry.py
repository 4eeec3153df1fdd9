"""Affine maps: exact inverses, similarities found again, rotations and mirrorings of phones."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.types import Array
from stages import geometry
from tests.clips import MATRICES, ONE
from tests.models.test_pose import head, rotation

coordinate = st.floats(-2000, 2000).map(lambda value: round(value, 3))
points = arrays(np.float64, (12, 2), elements=coordinate).filter(lambda a: np.ptp(a, axis=0).min() > 1)
angle = st.floats(-math.pi, math.pi)
scale = st.floats(0.05, 20)


def similarity(turn: float, size: float, shift: Array) -> Array:
    linear = size * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return np.column_stack([linear, shift])


@given(points, angle, scale, arrays(np.float64, 2, elements=coordinate))
def test_umeyama_finds_a_similarity_again(source: Array, turn: float, size: float, shift: Array) -> None:
    truth = similarity(turn, size, shift)
    found = geometry.umeyama(source, geometry.apply(truth, source))
    np.testing.assert_allclose(geometry.apply(found, source), geometry.apply(truth, source), atol=1e-6)


@given(points, points, arrays(np.float64, 12, elements=st.floats(0.01, 10)))
def test_umeyama_never_mirrors_and_nothing_near_is_better(source: Array, target: Array, weights: Array) -> None:
    try:
        best = geometry.umeyama(source, target, weights)
    except ValueError:
        return
    assert np.linalg.det(best[:, :2]) > 0

    def error(matrix: Array) -> float:
        return float(weights @ ((geometry.apply(matrix, source) - target) ** 2).sum(1))

    tolerance = 1e-9 * (1 + error(best))
    for turn, size, x, y in [(0.01, 1, 0, 0), (-0.01, 1, 0, 0), (0, 1.01, 0, 0), (0, 0.99, 0, 0), (0, 1, 0.1, -0.1)]:
        assert error(geometry.compose(similarity(turn, size, np.array([x, y])), best)) >= error(best) - tolerance


def test_umeyama_of_a_mirror_image_is_still_a_rotation() -> None:
    source = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    found = geometry.umeyama(source, source * [-1, 1])
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("same", ["source", "target"])
def test_umeyama_refuses_points_that_fall_together(same: str) -> None:
    one, many = np.full((5, 2), 3.0), np.arange(10.0).reshape(5, 2)
    with pytest.raises(ValueError, match="no similarity is determined"):
        geometry.umeyama(*((one, many) if same == "source" else (many, one)))


@given(points, angle, scale, arrays(np.float64, 2, elements=coordinate))
def test_inverse_undoes_and_composition_is_one_after_the_other(p: Array, turn: float, size: float, d: Array) -> None:
    first, second = similarity(turn, size, d), np.array([[2.0, 0.3, 5.0], [-0.2, 0.7, 1.0]])
    np.testing.assert_allclose(geometry.apply(geometry.invert(first), geometry.apply(first, p)), p, atol=1e-6)
    both = geometry.apply(geometry.compose(second, first), p)
    np.testing.assert_allclose(both, geometry.apply(second, geometry.apply(first, p)), atol=1e-6)
    assert geometry.density(first) == pytest.approx(size)


def test_a_flat_map_has_no_inverse() -> None:
    with pytest.raises(ValueError, match="no inverse"):
        geometry.invert(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]))


#: How NumPy turns a stored array into what each display matrix shows (clockwise is k = -1).
SHOWN = {
    "90": lambda a: np.rot90(a, -1),
    "180": lambda a: np.rot90(a, 2),
    "270": lambda a: np.rot90(a, 1),
    "mirrored": np.fliplr,
    "flipped": np.flipud,
    "mirrored 90": lambda a: a.T,
    "mirrored 270": lambda a: np.rot90(a, 2).T,
}


@pytest.mark.parametrize("name", sorted(MATRICES))
@given(st.integers(1, 40), st.integers(1, 40))
def test_display_matrices_move_px_as_a_player_does(name: str, width: int, height: int) -> None:
    stored = np.arange(width * height).reshape(height, width)
    shown = SHOWN[name](stored)
    matrix, size = geometry.stored_to_upright(MATRICES[name], width, height)
    assert size == (shown.shape[1], shown.shape[0])
    rows, columns = np.mgrid[0:height, 0:width]
    places = geometry.apply(matrix, np.stack([columns, rows], -1))
    assert (places == np.round(places)).all()
    x, y = places[..., 0].astype(int), places[..., 1].astype(int)
    np.testing.assert_array_equal(shown[y, x], stored)


def test_no_flattening_or_missing_matrix_changes_anything() -> None:
    flat = (ONE, 0, 0, ONE, 0, 0, 0, 0, 1 << 30)
    for matrix in (None, (0,) * 9, flat):
        upright, size = geometry.stored_to_upright(matrix, 64, 48)
        np.testing.assert_array_equal(upright, np.eye(2, 3))
        assert size == (64, 48)


def test_scale_and_shift_of_the_display_matrix_are_ignored() -> None:
    moved = (0, 2 * ONE, 0, -2 * ONE, 0, 0, 480 * ONE, 7 * ONE, 1 << 30)
    upright, size = geometry.stored_to_upright(moved, 64, 48)
    np.testing.assert_allclose(upright, geometry.stored_to_upright(MATRICES["90"], 64, 48)[0])
    assert size == (48, 64)


def test_any_other_angle_keeps_the_whole_picture() -> None:
    turn = math.radians(30)
    a, b = round(math.cos(turn) * ONE), round(math.sin(turn) * ONE)
    upright, (width, height) = geometry.stored_to_upright((a, b, 0, -b, a, 0, 0, 0, 1 << 30), 64, 48)
    corners = geometry.apply(upright, [[-0.5, -0.5], [63.5, -0.5], [-0.5, 47.5], [63.5, 47.5]])
    np.testing.assert_allclose(corners.min(0), -0.5, atol=1e-9)
    np.testing.assert_allclose(corners.max(0) + 0.5, [width, height], atol=0.5)
    assert geometry.density(upright) == pytest.approx(1)


def test_px_that_are_not_square_are_stretched_before_they_are_turned() -> None:
    upright, size = geometry.stored_to_upright(MATRICES["90"], 720, 576, Fraction(16, 15))
    assert size == (576, 768)
    edges = geometry.apply(upright, [[-0.5, -0.5], [719.5, 575.5]])
    np.testing.assert_allclose(edges, [[575.5, -0.5], [-0.5, 767.5]])
    assert geometry.stored_to_upright(None, 100, 50, Fraction(1, 2))[1] == (100, 100)
    assert geometry.stored_to_upright(None, 100, 50, 0)[1] == (100, 50)


@given(st.integers(1, 512), st.integers(1, 512))
def test_rescaling_a_crop_keeps_its_edges(size_from: int, size_to: int) -> None:
    crop = similarity(0.3, 0.7, np.array([3.0, -9.0]))
    scaled = geometry.rescale_crop(crop, size_from, size_to)
    for edge_from, edge_to in ((-0.5, -0.5), (size_from - 0.5, size_to - 0.5)):
        place = geometry.apply(geometry.invert(crop), [edge_from, edge_from])
        np.testing.assert_allclose(geometry.apply(scaled, place), [edge_to, edge_to], atol=1e-9)


def face(seed: int = 0) -> Array:
    """Landmarks whose steady points lie roughly as the template has them, 100 px wide, the rest anywhere."""
    rng = np.random.default_rng(seed)
    landmarks = rng.uniform(0, 100, (478, 2))
    landmarks[geometry._INDICES] = geometry._TEMPLATE * 100 + rng.normal(0, 1.0, geometry._TEMPLATE.shape)
    return landmarks


@given(angle, scale, arrays(np.float64, 2, elements=coordinate), st.sampled_from([48, 64, 256]))
def test_the_crop_goes_with_the_face(turn: float, size: float, shift: Array, side: int) -> None:
    landmarks, moved = face(), similarity(turn, size, shift)
    still = geometry.crop_matrix(landmarks, side)
    followed = geometry.crop_matrix(geometry.apply(moved, landmarks), side)
    np.testing.assert_allclose(
        geometry.apply(followed, geometry.apply(moved, landmarks)), geometry.apply(still, landmarks), atol=1e-5
    )
    assert np.linalg.det(followed[:, :2]) > 0


def test_coverage_widens_about_the_same_centre() -> None:
    tight, wide = geometry.crop_matrix(face(), 64, 1.0), geometry.crop_matrix(face(), 128, 1.6)
    centre = geometry.apply(geometry.invert(tight), [31.5, 31.5])
    np.testing.assert_allclose(geometry.apply(wide, centre), [63.5, 63.5], atol=1e-9)
    assert geometry.density(tight) * 2 / 1.6 == pytest.approx(geometry.density(wide))


def test_the_template_is_symmetric_and_a_mirrored_face_gives_the_mirrored_crop() -> None:
    places = {(round(x, 4), round(y, 4), w) for _, x, y, w in geometry._ANCHORS.tolist()}
    assert places == {(round(1 - x, 4), y, w) for x, y, w in places}
    assert len(geometry._INDICES) == len(set(geometry._INDICES)) and geometry._INDICES.max() < 468


def test_what_moves_with_speech_does_not_move_the_crop() -> None:
    landmarks = face()
    speaking = landmarks.copy()
    lips_and_jaw = [0, 13, 14, 17, 78, 308, 152, 148, 377, 200, 18]
    speaking[lips_and_jaw] += [0, 12]
    np.testing.assert_array_equal(geometry.crop_matrix(speaking, 64), geometry.crop_matrix(landmarks, 64))


def test_eyes_hold_the_crop_more_than_brows() -> None:
    def moved_by(indices: list[int]) -> float:
        landmarks = face()
        landmarks[indices] += [0, 4]
        before, after = geometry.crop_matrix(face(), 64), geometry.crop_matrix(landmarks, 64)
        return float(np.abs(after - before).max())

    assert moved_by([33, 133, 362, 263]) > 2 * moved_by([66, 105, 296, 334])


def test_a_turned_square_becomes_the_whole_crop() -> None:
    matrix = geometry.square_matrix((50.0, 40.0), 20.0, math.pi / 2, 10)
    np.testing.assert_allclose(geometry.apply(matrix, [50.0, 40.0]), [4.5, 4.5])
    # Turned a quarter clockwise, the square's own right is the picture's down.
    np.testing.assert_allclose(geometry.apply(matrix, [50.0, 50.0]), [9.5, 4.5], atol=1e-12)


#: Places on a head, in the template's units about its middle: chin, crown with hair, back of the head, ears, nose.
ON_HEAD = [(0, 0.45, 0.1), (0, -0.75, 0.4), (0, -0.2, 0.97), (-0.42, -0.1, 0.45), (0.42, -0.1, 0.45), (0, 0, -0.19)]


@given(st.floats(-75, 75), st.floats(-25, 25), st.floats(-60, 60), scale, arrays(np.float64, 2, elements=coordinate))
def test_a_head_crop_holds_the_whole_head_from_any_side(
    yaw: float, pitch: float, roll: float, size: float, shift: Array
) -> None:
    landmarks = head(yaw, pitch, roll) * size + shift
    matrix = geometry.crop_matrix(landmarks, 100, 1.0, "head")
    turn = matrix[:, :2] / geometry.density(matrix)
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-9)
    assert np.linalg.det(turn) > 0
    shown = rotation(yaw, pitch, roll)[:2]
    places = geometry.apply(matrix, 80 * size * np.array(ON_HEAD) @ shown.T + shift)
    assert places.min() > -0.5 and places.max() < 99.5
    # Small margins: the head takes most of the square.
    assert max(np.ptp(places, axis=0)) > 55
    assert geometry.density(matrix) == pytest.approx(100 / (1.5 * 80 * size), rel=1e-6)


def test_a_head_crop_is_upright_and_moves_behind_the_face() -> None:
    for roll in (-50, 0, 35):
        matrix = geometry.crop_matrix(head(20, 5, roll), 100, 1.0, "head")
        eyes = geometry.apply(matrix, head(20, 5, roll)[[33, 263]])
        assert abs(np.diff(eyes[:, 1])[0]) < 2
    left, front, right = (geometry.crop_matrix(head(yaw), 100, 1.0, "head") for yaw in (-45, 0, 45))
    noses = [geometry.apply(m, head(y)[4])[0] for m, y in ((left, -45), (front, 0), (right, 45))]
    assert noses[0] < 25 and noses[1] == pytest.approx(49.5, abs=0.1) and noses[2] > 74
    tight = geometry.crop_matrix(head(), 100)
    middle = geometry.apply(geometry.invert(front), [49.5, 49.5])
    assert geometry.apply(tight, middle)[1] < 40  # higher than the face's own


def test_a_wider_head_crop_keeps_its_centre() -> None:
    tight, wide = (geometry.crop_matrix(head(30, 5), 64, c, "head") for c in (1.0, 1.4))
    centre = geometry.apply(geometry.invert(tight), [31.5, 31.5])
    np.testing.assert_allclose(geometry.apply(wide, centre), [31.5, 31.5], atol=1e-9)
    assert geometry.density(tight) == pytest.approx(1.4 * geometry.density(wide))


def test_head_crops_are_smooth_in_the_landmarks() -> None:
    steps = [
        geometry.invert(geometry.crop_matrix(head(yaw, 3, 2), 100, 1.0, "head")) for yaw in np.arange(-70, 71, 1.0)
    ]
    corners = np.array([geometry.apply(m, [[0, 0], [99, 0], [0, 99]]) for m in steps])
    assert np.abs(np.diff(corners, axis=0)).max() < 1.2  # px of 80 a face, for each degree


def test_what_falls_together_has_no_head() -> None:
    with pytest.raises(ValueError, match="fall together"):
        geometry.crop_matrix(np.zeros((478, 2)), 64, 1.0, "head")
