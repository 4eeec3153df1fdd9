"""models.reports.survey: what face sets hold, and the sentences about what they lack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faceset import FaceRecord, FaceSet, read
from models.reports import survey
from tests.models.test_pose import head


def face(yaw: float = 0, pitch: float = 0, number: int = 0, px: float = 80, sharp: float = 50) -> FaceRecord:
    points = head(yaw, pitch, 0, 60, (64, 64 + number / 1000)).astype(np.float32)  # none is another again
    box = (10.0, 10.0, 10.0 + px, 20.0 + px)
    return FaceRecord(Path(f"{number}.png"), Path("m"), points, f"{number % 3}.mp4", number, box=box, sharpness=sharp)


def set_of(faces: Sequence[FaceRecord], junk: tuple[str, ...] = ()) -> FaceSet:
    return FaceSet(Path("x"), 128, 1.5, tuple(faces), junk)


def turned(*angles: tuple[float, float], each: int = 1) -> FaceSet:
    both = [angle for angle in angles for _ in range(each)]
    return set_of([face(yaw, pitch, number) for number, (yaw, pitch) in enumerate(both)])


def lacks(**sets: FaceSet) -> list[str]:
    """The warnings but for the usual one."""
    return [note for note in survey.warnings(survey.survey(sets)) if "learns them by heart" not in note]


def test_faces_are_counted_and_measured() -> None:
    faces = [face(number=i, sharp=s, px=p) for i, (s, p) in enumerate([(40, 90), (60, 30), (50, 70), (9, 63), (1, 80)])]
    found = survey.survey({"anna": set_of(faces, ("note.txt is no picture",))}).people["anna"]
    assert (found.faces, found.sources, found.unreadable) == (5, 3, 1)
    assert (found.sharpness, found.least_sharpness, found.blurred) == (40, 1, 2)
    assert (found.face_px, found.tiny, found.repeated) == (70, 2, 0)
    assert survey.survey({"anna": set_of(faces)}, face_px=85).people["anna"].tiny == 4


def test_poses_lie_where_the_map_has_them() -> None:
    found = survey.survey({"a": turned((0, 0), (-44, 0), (-45, 16), (7, -7), (90, -90))}).people["a"]
    np.testing.assert_allclose(found.poses[:3], [(0, 0), (-44, 0), (-45, 16)], atol=0.01)
    expected = np.zeros((7, 11), int)
    expected[3, 5], expected[3, 2], expected[2, 2], expected[6, 10] = 2, 1, 1, 1
    np.testing.assert_array_equal(found.cells, expected)
    sides = turned((-31, 0), (-29, 0), (31, 0), (40, 0), (50, 0), (0, 21), (0, 19), (0, -25))
    person = survey.survey({"a": sides}).people["a"]
    assert [person.turned(way) for way in ("left", "right", "up", "down")] == [1, 3, 1, 1]


def test_cover_is_the_share_of_faces_with_their_like() -> None:
    found = survey.survey({"a": turned((0, 0), (0, 0), (45, 0), (-45, 0)), "b": turned((0, 0), (60, 0))})
    assert found.covered("a", by="b") == 0.75  # 45 is beside 60
    assert found.covered("b", by="a") == 1.0
    assert found.to_tree()["people"]["a"]["covered_by"] == {"b": 0.75}
    assert json.loads(json.dumps(found.to_tree()))["people"]["b"]["cells"][3][9] == 1


def test_few_faces_are_said_to_be_few() -> None:
    many = set_of([face(number=i) for i in range(500)])
    assert survey.warnings(survey.survey({"a": many})) == []
    (note,) = survey.warnings(survey.survey({"anna": replace(many, faces=many.faces[:499])}))
    assert note.startswith("anna has 499 faces; with fewer than 500")


def test_what_one_lacks_and_the_other_has() -> None:
    front = [(0.0, 0.0)] * 30
    some = turned(*front, *[(-50.0, 0.0)] * 40, *[(0.0, 30.0)] * 10)
    assert lacks(a=some, b=turned(*front)) == [
        "b has no face turned more than 30 degrees to the left, a has 40: such frames will blur; "
        "film b with the face turned left",
        "b has no face looking far up, a has 10: such frames will blur; film b looking up",
    ]
    assert lacks(a=some, b=turned(*front, *[(-50.0, 0.0)] * 3, *[(0.0, 30.0)] * 3))[0].startswith(
        "b has only 3 faces turned more than 30 degrees to the left, a has 40"
    )
    enough = turned(*front, *[(-50.0, 0.0)] * 4, *[(0.0, 30.0)] * 2)
    assert lacks(a=some, b=enough) == []
    assert lacks(a=turned(*front, *[(50.0, 0.0)] * 7), b=turned(*front)) == []  # seven are too few for a word


def test_poses_that_are_not_shared_though_none_is_far() -> None:
    (note,) = lacks(a=turned((25, 0), each=20), b=turned((-25, 0), each=20))[:1]
    assert note.startswith("a is seen from only 0 % of the sides that b is seen from")


def test_of_many_people_each_is_held_against_the_one_with_most() -> None:
    front = [(0.0, 0.0)] * 30
    left = [(-50.0, 0.0)]
    notes = lacks(a=turned(*front), b=turned(*front, *left * 9), c=turned(*front, *left * 20))
    assert [note[:70] for note in notes] == ["a has no face turned more than 30 degrees to the left, c has 20: such "]


def test_blurred_tiny_and_repeated_faces() -> None:
    blurred = set_of([face(number=i, sharp=50 if i < 7 else 5) for i in range(10)])
    assert lacks(a=blurred)[0].startswith("3 of a's 10 faces are blurred against the others: extract with --min-sharp")
    tiny = set_of([face(number=i, px=80 if i < 7 else 60) for i in range(10)])
    assert lacks(a=tiny)[0].startswith("3 of a's 10 faces are smaller than 64 px in their clips")
    again = set_of([face(number=i % 7) for i in range(10)])
    assert lacks(a=again) == ["3 of a's 10 faces are there more than once and count double: remove the repeated ones"]
    for fine in (blurred, tiny, again):
        assert not lacks(a=replace(fine, faces=fine.faces[:8]))


def test_plain_pictures_are_decoded_for_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name, picture in {"a": noise, "b": cv2.GaussianBlur(noise, (0, 0), 3), "c": noise[:50, :50]}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes()[:-900])
    found = survey.survey({"a": read(tmp_path)})
    person = found.people["a"]
    # The small one is blurred too, at the size of the others.
    assert (person.faces, person.unreadable, person.blurred, person.tiny, person.repeated) == (4, 1, 2, 1, 1)
    assert person.poses.shape == (0, 2)
    assert any("a's faces have no landmarks" in note for note in survey.warnings(found))


@pytest.mark.parametrize("faces", [[], [replace(face(), landmarks=np.zeros((478, 2), np.float32))]])
def test_sets_with_nothing_to_see(faces: list[FaceRecord]) -> None:
    found = survey.survey({"a": set_of(faces), "b": turned((0, 0))})
    assert found.people["a"].cells.sum() == 0 and found.covered("a", "b") == 0
    assert isinstance(survey.warnings(found), list)
