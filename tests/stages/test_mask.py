"""Masks: soft, never square, in the right place, wherever the face lies."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Clip, Face, Frame, Picture, Pulled
from stages.geometry import invert, rescale_crop, square_matrix
from stages.mask import Config, Mask, soft_edged
from stages.masks import extended, hull

FORMAT = PIXEL_FORMATS["gray"]
CLIP = Clip(1, "", "", "", 64, 48, FORMAT, Fraction(1, 25))


def oval(centre: tuple[float, float], width: float, height: float) -> Array:
    """478 points on an oval, with MediaPipe's forehead, chin and brow points where they belong."""
    angles = np.linspace(0, 2 * math.pi, 478, endpoint=False)
    points = np.column_stack([centre[0] + width / 2 * np.sin(angles), centre[1] - height / 2 * np.cos(angles)])
    points[10] = centre[0], centre[1] - height / 2
    points[152] = centre[0], centre[1] + height / 2
    for brow, side in zip((63, 105, 66, 293, 334, 296), (-3, -2, -1, 1, 2, 3), strict=True):
        points[brow] = centre[0] + side * width / 10, centre[1] - height / 4
    return points.astype(np.float32)


def run(face: Face, **config: object) -> Face:
    planes = tuple(np.zeros(shape, np.uint8) for shape in FORMAT.shapes(64, 48))
    frame = Frame(1, 0, 0, Picture(FORMAT, 64, 48, planes), (face,))
    (out,) = Mask(Config(**config))(CLIP, Pulled([frame]))
    return out.faces[0]


def face_at(centre: tuple[float, float], side: float, roll: float = 0.0) -> Face:
    landmarks = oval(centre, side * 0.7, side * 0.8)
    matrix = square_matrix(centre, side, roll, 96)
    return Face((0, 0, 1, 1), 1.0, landmarks, 0, matrix, np.zeros((96, 96, 3), np.uint8))


@given(
    x=st.floats(-20, 84),
    y=st.floats(-20, 68),
    side=st.floats(4, 400),
    roll=st.floats(-3.1, 3.1),
    kind=st.sampled_from(["hull", "extended"]),
    erode=st.floats(0, 0.5),
    feather=st.floats(0, 0.5),
)
def test_a_mask_is_0_to_1_and_ends_in_0_at_the_crops_border(x, y, side, roll, kind, erode, feather):
    mask = run(face_at((x, y), side, roll), kind=kind, erode=erode, feather=feather, size=64).mask
    assert mask.shape == (64, 64)
    assert mask.dtype == np.float32
    assert np.isfinite(mask).all()
    assert mask.min() >= 0.0
    assert mask.max() <= 1.0
    assert not mask[[0, -1]].any()
    assert not mask[:, [0, -1]].any()


@given(x=st.floats(0, 64), y=st.floats(0, 48), side=st.floats(20, 200))
def test_a_mask_lies_over_the_landmarks_at_its_own_resolution(x, y, side):
    face = run(face_at((x, y), side), kind="hull", size=160, feather=0.0)
    mask_to_frame = invert(rescale_crop(face.frame_to_crop, 96, 160))
    rows, columns = np.nonzero(face.mask > 0.5)
    centre = mask_to_frame @ (columns.mean(), rows.mean(), 1.0)
    assert np.hypot(*(centre - (x, y))) < 0.01 * side
    assert np.ptp(columns) / 160 == pytest.approx(0.7, abs=0.02)
    assert np.ptp(rows) / 160 == pytest.approx(0.8, abs=0.02)


def test_the_extended_mask_rises_over_the_forehead_and_nowhere_else():
    landmarks = oval((64, 70), 70, 90)
    low, high = hull.draw(landmarks, 128), extended.draw(landmarks, 128)
    assert (high >= low - 0.1).all()  # the drawing of an edge differs by a fraction of a px
    added = np.nonzero((high - low).max(axis=1) > 0.5)[0]
    assert added.min() == pytest.approx(70 - 45 - 9, abs=1.5)
    assert added.max() < 70 - 90 / 4 + 2


def test_erosion_and_feather_are_shares_of_the_crop():
    shape = np.zeros((100, 100), np.float32)
    shape[10:90, 10:90] = 1.0
    row = soft_edged(shape, erode=0.05, feather=0.20)[50]
    assert row[:15].max() == 0.0
    assert row[25] == pytest.approx(0.5, abs=0.05)
    assert row[36:64].min() == 1.0
    assert (np.diff(row[:50]) >= 0).all()


def test_a_face_that_fills_its_crop_has_a_soft_border_all_the_same():
    mask = soft_edged(np.ones((100, 100), np.float32), erode=0.0, feather=0.2)
    assert not mask[[0, -1]].any()
    assert not mask[:, [0, -1]].any()
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) < 0.1
    assert mask[50, 50] == 1.0
    assert mask[10, 10] == 0.0  # and no corner to be seen
    assert mask[10, 50] > 0.3


def test_a_face_without_a_crop_passes_by():
    face = Face((0, 0, 1, 1), 1.0, oval((30, 20), 20, 20))
    assert run(face).mask is None


def test_the_stage_keeps_frames_and_counts():
    planes = tuple(np.zeros(shape, np.uint8) for shape in FORMAT.shapes(64, 48))
    away = face_at((30, 20), 20).with_(landmarks=oval((3000, 20), 4, 4))
    frames = [
        Frame(1, index, 40 * index, Picture(FORMAT, 64, 48, planes), faces)
        for index, faces in enumerate([(), (face_at((30, 20), 20),), (away, face_at((10, 20), 20))])
    ]
    stage = Mask(Config())(CLIP, Pulled(frames))
    out = []
    try:
        while True:
            out.append(next(stage))
    except StopIteration as end:
        assert end.value == {"masks": 3, "empty_masks": 1}
    assert [(f.index, f.pts, len(f.faces)) for f in out] == [(0, 0, 0), (1, 40, 1), (2, 80, 2)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"kind": "extnded"},
            r"mask\.kind: there is no 'extnded'; did you mean 'extended'\? \(there are: extended, hull\)",
        ),
        ({"size": 8}, r"mask\.size must be from 16 to 1024 px, not 8"),
        ({"feather": -0.1}, r"mask\.feather must be from 0 to 0\.5 of the crop, not -0\.1"),
        ({"erode": 0.6}, r"mask\.erode"),
    ],
)
def test_wrong_settings_are_refused_by_name(setting, message):
    with pytest.raises(ConfigError, match=message):
        Config(**setting)
