"""Crops: the right place, no aliasing, the border beyond the edge, only the region converted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Colour, Picture
from stages import crop
from stages.geometry import compose, invert, scaling, square_matrix


def rgb_picture(rgb: Array) -> Picture:
    return Picture(PIXEL_FORMATS["rgb24"], rgb.shape[1], rgb.shape[0], (rgb,))


def slope(width: int, height: int) -> Array:
    """Red grows to the right, green downwards: a px says where it lies."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.dstack([columns, rows, np.full((height, width), 77)]).astype(np.uint8)


@given(
    st.floats(20, 180), st.floats(20, 130), st.floats(8, 120), st.floats(-3.1, 3.1), st.sampled_from([16, 33, 64, 96])
)
def test_every_px_shows_its_place(x: float, y: float, side: float, roll: float, size: int) -> None:
    matrix = square_matrix((x, y), side, roll, size)
    seen = crop.cut_out(rgb_picture(slope(200, 150)), Colour(), matrix, size).astype(np.float64)
    rows, columns = np.mgrid[0:size, 0:size]
    to_frame = invert(matrix)
    place = np.stack([columns, rows], -1) @ to_frame[:, :2].T + to_frame[:, 2]
    # A margin: averaging near the picture's edge sees the repeated border.
    margin = 2 + side / size
    inside = ((place[..., 0] > margin) & (place[..., 0] < 199 - margin) & (place[..., 1] > margin)) & (
        place[..., 1] < 149 - margin
    )
    assert np.abs(seen[..., :2] - place)[inside].max(initial=0) <= 1.5
    assert (seen[..., 2] == 77).all()


def test_beyond_the_edge_the_border_is_repeated() -> None:
    rgb = np.full((40, 40, 3), 50, np.uint8)
    rgb[:, -1] = 200
    seen = crop.cut_out(rgb_picture(rgb), Colour(), np.array([[1.0, 0, -30.0], [0, 1.0, -10.0]]), 20)
    assert (seen[:, 9:] == 200).all() and (seen[:, :9] == 50).all()
    away = crop.cut_out(rgb_picture(rgb), Colour(), np.array([[1.0, 0, 500.0], [0, 1.0, 500.0]]), 8)
    assert away.shape == (8, 8, 3)


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    seen = crop.cut_out(rgb_picture(stripes), Colour(), square_matrix((255.5, 255.5), 400, 0.02, 40), 40)
    assert np.abs(seen.astype(int) - 127).max() < 30


def test_a_crop_of_the_whole_size_is_the_picture() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop.cut_out(rgb_picture(rgb), Colour(), np.eye(2, 3), 64), rgb)
    quarter = np.array([[0.0, -1.0, 63.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(crop.cut_out(rgb_picture(rgb), Colour(), quarter, 64), np.rot90(rgb, -1))


def test_it_writes_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    out = np.zeros((32, 32, 3), np.uint8)
    matrix = square_matrix((50, 50), 60, 0.3, 32)
    seen = crop.cut_out(rgb_picture(slope(100, 100)), Colour(), matrix, 32, out)
    assert np.shares_memory(seen, out) and out.any()
    np.testing.assert_array_equal(out, crop.cut_out(rgb_picture(slope(100, 100)), Colour(), matrix, 32))


def test_only_the_region_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = []

    def spy(picture: Picture, colour: Colour, box: tuple[int, int, int, int]) -> Array:
        boxes.append(box)
        return picture.planes[0][box[1] : box[3], box[0] : box[2]]

    monkeypatch.setattr(crop, "region_to_rgb", spy)
    crop.cut_out(rgb_picture(slope(200, 150)), Colour(), square_matrix((100, 75), 40, 0.0, 64), 64)
    ((x0, y0, x1, y1),) = boxes
    assert x0 <= 80 and x1 >= 120 and y0 <= 55 and y1 >= 95
    assert x1 - x0 <= 50 and y1 - y0 <= 50


def test_the_resized_copy_lies_where_scaling_says() -> None:
    small = cv2.resize(slope(200, 150), (100, 75), interpolation=cv2.INTER_AREA)
    matrix = square_matrix((100, 75), 60, 0.0, 60)
    from_small = crop.warp(small, compose(matrix, invert(scaling(0.5, 0.5))), 60)
    from_full = crop.warp(slope(200, 150), matrix, 60)
    assert np.abs(from_small.astype(int) - from_full).max() <= 1
