"""models.reports.survey_picture: faces stand where their poses lie."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faceset import FaceSet, FaceSetWriter, read
from models.reports import survey, survey_picture
from pipeline.errors import InputError
from tests.models.test_pose import head

RED, BLUE = (250, 20, 30), (20, 30, 250)


def set_in(folder: Path, colour: tuple[int, int, int], *yaws: float) -> FaceSet:
    with FaceSetWriter(folder, 96, 1.5) as writer:
        for number, yaw in enumerate(yaws):
            crop = np.zeros((96, 96, 3), np.uint8)
            crop[16:80, 16:80] = colour  # the face; around it is what coverage adds
            points = head(yaw, 0, 0, 64, (48, 48))
            writer.add(crop, np.ones((8, 8)), points, source="x", frame=number, box=(0, 0, 70, 70))
    return read(folder)


def drawn(**sets: FaceSet) -> np.ndarray:
    return survey_picture.draw(survey.survey(sets), sets)


def tile(picture: np.ndarray, panel: int, row: int, column: int) -> np.ndarray:
    x, y = survey_picture._corner((row, column))
    x += panel * survey_picture._WIDTH
    return picture[y : y + survey_picture._TILE, x : x + survey_picture._TILE]


def test_faces_stand_where_their_poses_lie(tmp_path: Path) -> None:
    picture = drawn(anna=set_in(tmp_path / "a", RED, 0, -45), bert=set_in(tmp_path / "b", BLUE, 0, 60, 61))
    assert picture.dtype == np.uint8
    assert picture.shape == (survey_picture._HEIGHT, 3 * survey_picture._WIDTH, 3)
    for panel, columns, colour in ((0, (5, 2), RED), (1, (5, 9), BLUE)):
        for column in range(11):
            shown = tuple(tile(picture, panel, 3, column)[2, 2].tolist())
            assert (shown == colour) == (column in columns), (panel, column)
    shared = [tuple(tile(picture, 2, 3, column)[2, 2].tolist()) for column in (5, 2, 9, 7)]
    assert shared[:3] == [survey_picture._BOTH, survey_picture._FIRST, survey_picture._SECOND]
    assert shared[3] == survey_picture._EMPTY
    # The bar below a tile is as long as the cell is full.
    bars = [(tile(picture, 1, 3, column)[-2] == survey_picture._SECOND).all(1).sum() for column in (5, 9)]
    assert bars == [28, 56]


def test_one_person_and_many(tmp_path: Path) -> None:
    sets = {f"p{i}": set_in(tmp_path / str(i), RED, 0, 30 * i) for i in range(4)}
    width, height = survey_picture._WIDTH, survey_picture._HEIGHT
    assert drawn(p0=sets["p0"]).shape == (height, width, 3)
    picture = drawn(**sets)
    assert picture.shape == (2 * height, 3 * width, 3)  # four, and what they share
    last = picture[height:, width:]
    assert tuple(tile(last, 0, 3, 5)[2, 2].tolist()) == survey_picture._BOTH
    assert tuple(tile(last, 0, 3, 7)[2, 2].tolist()) == survey_picture._FIRST


def test_without_landmarks_or_pictures(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    cv2.imwrite(str(tmp_path / "plain" / "a.png"), np.full((64, 64, 3), RED[::-1], np.uint8))
    known = set_in(tmp_path / "a", RED, 0)
    picture = drawn(a=known, b=read(tmp_path / "plain"))
    assert picture.shape[1] == 2 * survey_picture._WIDTH
    assert tuple(tile(picture, 1, 0, 0)[30, 30].tolist()) == RED
    found = survey.survey({"a": known})
    (tmp_path / "a" / "crops" / "000000.png").unlink()
    gone = survey_picture.draw(found, {"a": known})
    assert tuple(tile(gone, 0, 3, 5)[2, 2].tolist()) == survey_picture._EMPTY


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    picture = np.full((4, 5, 3), RED, np.uint8)
    file = survey_picture.write(tmp_path / "s.png", picture)
    assert (cv2.imread(str(file))[..., ::-1] == picture).all()
    with pytest.raises(InputError, match="cannot be written"):
        survey_picture.write(tmp_path / "nowhere" / "s.png", picture)
    assert [each.name for each in tmp_path.iterdir()] == ["s.png"]
