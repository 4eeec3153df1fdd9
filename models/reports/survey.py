"""What face sets hold before hours are spent on them: how many faces, how sharp, how large, turned which way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models import pictures, pose
from models.faceset import FaceRecord, FaceSet, sharpness
from pipeline.errors import InputError

#: The pose map: cells of so many degrees, centred on the view from the front; what lies beyond counts to the edge.
CELL, YAW_CELLS, PITCH_CELLS = 15.0, 11, 7

#: Fewer faces than these are learned by heart.
ENOUGH = 500

#: Faces turned beyond these angles are what a set taken from the front lacks, in degrees.
_TURNED, _NODDED = 30.0, 20.0
#: So many faces of one person in a direction are worth a word about the other who has (next to) none.
_SOME, _FEW_SHARE = 8, 0.1
#: Less than this share of a person's own median sharpness is blurred; less than this much is, whoever it is.
_BLURRED_SHARE, _BLURRED = 1 / 3, 2.0
_MANY = 0.2  # a share of faces worth a word
_COVERED = 0.6  # of a person's faces seen about the same way of the other; fewer are worth a word
_THREADS = 4


@dataclass(frozen=True, slots=True)
class PersonSurvey:
    """One person's faces.

    Attributes:
        faces: how many; sources: in how many clips and pictures; unreadable: how many more were passed over.
        sharpness: the median variance of the Laplacian; least_sharpness: of the most blurred face.
        blurred: how many have less than a third of the median.
        face_px: the median side of the faces in their clips, before they were brought to the crop's size.
        tiny: how many are smaller there than the model shows them.
        repeated: how many are there a second time.
        poses: (N, 2) float32 yaw and pitch in degrees of the N faces with landmarks (`models.pose.Pose`).
        posed: which faces these are, (N,) places in the set.
    """

    faces: int
    sources: int
    unreadable: int
    sharpness: float
    least_sharpness: float
    blurred: int
    face_px: float
    tiny: int
    repeated: int
    poses: NDArray[np.float32] = field(repr=False)
    posed: NDArray[np.intp] = field(repr=False)

    @property
    def places(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(N,) rows and (N,) columns of the pose map in which the posed faces lie."""
        yaw, pitch = (np.rint(self.poses[:, axis] / CELL).astype(np.intp) for axis in (0, 1))
        rows = np.clip(PITCH_CELLS // 2 - pitch, 0, PITCH_CELLS - 1)
        return rows, np.clip(YAW_CELLS // 2 + yaw, 0, YAW_CELLS - 1)

    @property
    def cells(self) -> NDArray[np.intp]:
        """(PITCH_CELLS, YAW_CELLS) how many faces lie in each cell of the pose map; those that look up are above."""
        counts = np.zeros((PITCH_CELLS, YAW_CELLS), np.intp)
        np.add.at(counts, self.places, 1)
        return counts

    def turned(self, direction: str) -> int:
        """How many faces are turned far to the "left" or "right" of the picture, or look far "up" or "down"."""
        yaw, pitch = self.poses[:, 0], self.poses[:, 1]
        beyond = {"left": -yaw > _TURNED, "right": yaw > _TURNED, "up": pitch > _NODDED, "down": -pitch > _NODDED}
        return int(beyond[direction].sum())


@dataclass(frozen=True, slots=True)
class Survey:
    """Everybody's faces.

    Attributes:
        people: by name.
        face_px: what counts as tiny: the side of a face, in px, that the model shows.
    """

    people: Mapping[str, PersonSurvey]
    face_px: float

    def covered(self, person: str, by: str) -> float:
        """The share, 0..1, of a person's posed faces at whose pose, to a cell of the map, the other was seen too."""
        own, other = self.people[person].cells, self.people[by].cells
        about = cv2.dilate((other > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
        return float((own * about).sum() / max(1, own.sum()))

    def to_tree(self) -> dict[str, Any]:
        """Everything as numbers, lists and names: what `--json` prints."""
        people = {}
        for name, person in self.people.items():
            about = {key: value for key, value in asdict(person).items() if key not in ("poses", "posed")}
            covered = {other: round(self.covered(name, other), 4) for other in self.people if other != name}
            people[name] = about | {"poses": len(person.poses), "cells": person.cells.tolist(), "covered_by": covered}
        return {"people": people, "cell_degrees": CELL, "face_px": self.face_px}


def survey(sets: Mapping[str, FaceSet], face_px: float = 64.0) -> Survey:
    """Looks at each person's face set.

    Extracted faces are judged by what their set says of them; plain pictures are decoded for it.

    Args:
        sets: by person.
        face_px: the side of a face in px that the model shows: its output's size over its coverage.
    """
    return Survey({name: _look(faces, face_px) for name, faces in sets.items()}, face_px)


def warnings(found: Survey) -> list[str]:
    """What a person can do something about, one sentence each."""
    said = [sentence for name, person in found.people.items() for sentence in _lacks(name, person, found.face_px)]
    return said + list(_one_sided(found))


def _look(faces: FaceSet, face_px: float) -> PersonSurvey:
    looks = [look for look in _measured(faces) if look is not None]
    sharp, sides = (np.array(column or [0.0]) for column in zip(*looks, strict=True)) if looks else np.zeros((2, 1))
    median = float(np.median(sharp))
    posed, poses = _poses(faces)
    return PersonSurvey(
        faces=len(looks),
        sources=len({face.source for face in faces.faces}),
        unreadable=len(faces.junk) + len(faces.faces) - len(looks),
        sharpness=round(median, 2),
        least_sharpness=round(float(sharp.min()), 2),
        blurred=int((sharp < max(_BLURRED, median * _BLURRED_SHARE)).sum()) if looks else 0,
        face_px=round(float(np.median(sides)), 1),
        tiny=int((sides < face_px).sum()) if looks else 0,
        repeated=_repeated(faces),
        poses=poses,
        posed=posed,
    )


def _measured(faces: FaceSet) -> Iterator[tuple[float, float] | None]:
    """Each face's sharpness and its side in its source, None where it cannot be read."""

    def measure(face: FaceRecord) -> tuple[float, float] | None:
        if face.box is not None:
            x0, y0, x1, y1 = face.box
            return face.sharpness, min(x1 - x0, y1 - y0)
        try:
            picture = pictures.read(face.crop)
        except InputError:
            return None
        crop = cv2.cvtColor(pictures.square(picture, faces.size), cv2.COLOR_BGR2RGB)
        return sharpness(np.asarray(crop, np.uint8)), min(picture.shape[:2]) / max(1.0, faces.coverage)

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(measure, faces.faces)


def _poses(faces: FaceSet) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    found: dict[int, tuple[float, float]] = {}
    for place, face in enumerate(faces.faces):
        if face.landmarks is None:
            continue
        try:
            seen = pose.estimate(face.landmarks)
        except ValueError:  # landmarks that are no face's have no pose
            continue
        found[place] = seen.yaw, seen.pitch
    return np.array(list(found), np.intp), np.array(list(found.values()), np.float32).reshape(-1, 2)


def _repeated(faces: FaceSet) -> int:
    """Faces with the very landmarks, or plain pictures with the very bytes, of an earlier one."""
    alike = Counter(face.landmarks.tobytes() for face in faces.faces if face.landmarks is not None)
    by_size: dict[int, list[FaceRecord]] = {}
    for face in faces.faces:
        if face.landmarks is None and face.crop.is_file():
            by_size.setdefault(face.crop.stat().st_size, []).append(face)
    for group in by_size.values():
        if len(group) > 1:  # only these can be the same
            alike.update(Counter(face.crop.read_bytes() for face in group))
    return sum(count - 1 for count in alike.values())


def _lacks(name: str, person: PersonSurvey, face_px: float) -> Iterator[str]:
    if person.faces < ENOUGH:
        yield (
            f"{name} has {_counted(person.faces)}; with fewer than {ENOUGH} a model learns them by heart: "
            "extract more, from other clips, in other light, with other expressions"
        )
    many = _MANY * person.faces
    if person.blurred > many:
        yield (
            f"{person.blurred} of {name}'s {person.faces} faces are blurred against the others: "
            f"extract with --min-sharpness {person.sharpness * _BLURRED_SHARE:.3g}, or from a steadier clip"
        )
    if person.tiny > many:
        yield (
            f"{person.tiny} of {name}'s {person.faces} faces are smaller than {face_px:.0f} px in their clips: "
            "the model cannot learn detail that is not there; use larger clips, closer shots, or a smaller model"
        )
    if person.repeated > many:
        yield (
            f"{person.repeated} of {name}'s {person.faces} faces are there more than once and count double: "
            "remove the repeated ones"
        )
    if person.faces and not len(person.poses):
        yield (
            f"{name}'s faces have no landmarks, so their poses are unknown, and eyes and mouth are learned like the "
            "rest: run `understudy extract` on the pictures"
        )


def _one_sided(found: Survey) -> Iterator[str]:
    """Ways that someone turns and somebody else never does."""
    posed = {name: person for name, person in found.people.items() if len(person.poses)}
    for name, person in posed.items():
        told = False
        for direction in ("left", "right", "up", "down"):
            own, most, other = person.turned(direction), 0, ""
            for candidate in posed:
                if candidate != name and posed[candidate].turned(direction) > most:
                    most, other = posed[candidate].turned(direction), candidate
            if most >= _SOME and own < _FEW_SHARE * most:
                told = True
                yield _unseen(name, own, other, most, direction)
        if not told:
            yield from _uncovered(found, name, [other for other in posed if other != name])


def _unseen(name: str, own: int, other: str, most: int, direction: str) -> str:
    sideways = direction in ("left", "right")
    what = f"turned more than {_TURNED:.0f} degrees to the {direction}" if sideways else f"looking far {direction}"
    where = f"with the face turned {direction}" if sideways else f"looking {direction}"
    has = "no face" if own == 0 else f"only {_counted(own)}"
    return f"{name} has {has} {what}, {other} has {most}: such frames will blur; film {name} {where}"


def _uncovered(found: Survey, name: str, others: list[str]) -> Iterator[str]:
    for other in others:
        share = found.covered(other, name)
        if share < _COVERED:
            yield (
                f"{name} is seen from only {100 * share:.0f} % of the sides that {other} is seen from: "
                f"the others will blur; add clips in which {name} moves as {other} does"
            )


def _counted(count: int) -> str:
    return "1 face" if count == 1 else f"{count} faces"
