"""models.reports.expression: a moved, turned or stretched face is one pose; moved lips are an expression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.reports.expression import expression_and_pose, normalised_mean_error

LIPS = slice(61, 91)


@pytest.fixture(scope="module")
def face() -> NDArray[np.float64]:
    """478 points; the outer eye corners are 40 px apart."""
    points = np.random.default_rng(0).uniform(0, 100, (478, 2))
    points[33], points[263] = (30, 40), (70, 40)
    return points


def test_nothing_has_moved(face: NDArray[np.float64]) -> None:
    assert normalised_mean_error(face, face) == 0
    assert expression_and_pose(face, face) == pytest.approx((0, 0), abs=1e-12)


@given(st.floats(-3, 3), st.floats(0.5, 2), st.floats(-50, 50), st.floats(-50, 50))
@settings(max_examples=40, deadline=None)
def test_a_similarity_is_pose_alone(turn: float, scale: float, x: float, y: float) -> None:
    points = np.random.default_rng(1).uniform(0, 100, (478, 2))
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    moved = points @ np.array([[cosine, sine], [-sine, cosine]]) + np.array([x, y])
    expression, pose = expression_and_pose(points, moved)
    assert expression == pytest.approx(0, abs=1e-9)
    assert pose == pytest.approx(normalised_mean_error(points, moved), abs=1e-9)


def test_a_shift_of_known_length(face: NDArray[np.float64]) -> None:
    assert expression_and_pose(face, face + np.array([0, 4])) == pytest.approx((0, 0.1), abs=1e-9)


def test_an_open_mouth_is_expression_mostly(face: NDArray[np.float64]) -> None:
    opened = face.copy()
    opened[LIPS, 1] += 20
    expression, pose = expression_and_pose(face, opened)
    # All of it is 30 of 478 points by half an inter-ocular distance; a small part passes for a shift of the whole.
    assert normalised_mean_error(face, opened) == pytest.approx(30 / 478 / 2)
    assert expression > 1.5 * pose > 0


def test_another_size_of_the_picture_changes_nothing(face: NDArray[np.float64]) -> None:
    changed = face + np.random.default_rng(2).normal(0, 2, face.shape)
    assert expression_and_pose(3 * face, 3 * changed) == pytest.approx(expression_and_pose(face, changed))


def test_no_mirror_image_is_a_pose(face: NDArray[np.float64]) -> None:
    assert expression_and_pose(face, face * (-1, 1))[0] > 0.3


@pytest.mark.parametrize("wrong", [np.zeros((478, 3)), np.zeros((10, 2)), np.zeros((478, 2))])
def test_what_is_no_face(face: NDArray[np.float64], wrong: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"both must be \(478, 2\)|coincide"):
        expression_and_pose(wrong, wrong)
