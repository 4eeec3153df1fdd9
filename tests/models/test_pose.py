"""models.pose: a head turned by known angles is found to be turned by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import pose


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3): first the head looks up, then it turns to the picture's right, then it tilts clockwise. Degrees."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    up = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    right = np.array([[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]])
    tilt = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return tilt @ right @ up


def head(
    yaw: float = 0, pitch: float = 0, roll: float = 0, scale: float = 80, at: tuple[float, float] = (0, 0)
) -> np.ndarray:
    """(478, 2) landmarks of the template so turned; those that no pose is read from lie in the middle."""
    points = np.zeros((478, 3))
    points[pose._INDICES] = pose._TEMPLATE
    return scale * (points @ rotation(yaw, pitch, roll).T)[:, :2] + at


@given(st.floats(-85, 85), st.floats(-50, 50), st.floats(-180, 180), st.floats(1, 500), st.floats(-900, 900))
def test_yaw_pitch_scale_and_place_are_found_again(
    yaw: float, pitch: float, roll: float, scale: float, x: float
) -> None:
    found = pose.estimate(head(yaw, pitch, roll, scale, (x, 40)))
    assert found.yaw == pytest.approx(yaw, abs=1e-4)
    assert found.pitch == pytest.approx(pitch, abs=1e-4)
    assert found.scale == pytest.approx(scale)
    np.testing.assert_allclose(found.seen((0, 0, 0)), [x, 40], atol=1e-6 * scale)


@given(st.floats(-170, 170), st.floats(-60, 60))
def test_roll_is_the_turn_in_the_pictures_plane(roll: float, yaw: float) -> None:
    assert pose.estimate(head(yaw, 0, roll)).roll == pytest.approx(roll, abs=1e-4)


def test_signs_are_the_pictures_own() -> None:
    nose, brow, eye = (head(yaw, pitch, roll) for yaw, pitch, roll in ((30, 0, 0), (0, 30, 0), (0, 0, 30)))
    assert nose[4, 0] > head()[4, 0]  # turned right, the nose goes right
    assert brow[4, 1] < head()[4, 1]  # looking up, it goes up
    assert eye[263, 1] > eye[33, 1]  # tilted clockwise, the eye on the picture's right sinks


@given(st.integers(0, 2**32 - 1), st.floats(-60, 60), st.floats(-30, 30))
def test_trembling_landmarks_turn_the_head_but_little(seed: int, yaw: float, pitch: float) -> None:
    points = head(yaw, pitch)
    found = pose.estimate(points + np.random.default_rng(seed).normal(0, 0.4, points.shape))
    assert abs(found.yaw - yaw) < 4 and abs(found.pitch - pitch) < 4


def test_faces_that_are_another_shape_too() -> None:
    points = head(40, -10) * [1.0, 1.08]  # a longer face
    found = pose.estimate(points)
    assert found.yaw == pytest.approx(40, abs=5) and found.pitch == pytest.approx(-10, abs=5)


def test_landmarks_that_fall_together_have_no_pose() -> None:
    for flat in (np.full((478, 2), 7.0), np.column_stack([np.arange(478.0), np.zeros(478)])):
        with pytest.raises(ValueError, match="no pose is determined"):
            pose.estimate(flat)
