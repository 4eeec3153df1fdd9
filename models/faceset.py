"""Face sets: one person's aligned crops in a folder, with masks, landmarks and where each came from.

    faceset.json          version, size, coverage, crop, colour order, sources, number of faces; written last
    faces.jsonl           one line a face
    crops/000000.png      8-bit colour, size x size px
    masks/000000.png      8-bit gray, the same square; 255 is face
    identity.yaml         whose faces they are, and what that person agreed to; not written, read or removed here

Faces are biometric data: what is written here is for its owner alone (folders 0700, files 0600).

A folder of pictures that holds no faceset.json is taken as a face set too: each picture is one upright crop. Such a
set has neither landmarks nor masks.
"""

from __future__ import annotations

import json
import math
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from models import durable, pictures
from models.face_record import NAME, from_line, identity, to_line
from models.face_record import FaceRecord as FaceRecord
from pipeline.errors import InputError

VERSION = 1
FILE = "faceset.json"
LINES = "faces.jsonl"
#: What may lie in a face set's folder before there is a set.
IDENTITY = "identity.yaml"
#: What a crop's square can be centred on.
CROPS = ("face", "head")

#: Fewer faces than this are all trained on; and so many are left to train on in any case.
_WORTH_DIVIDING, _LEAST_TRAINED = 12, 4

#: The greatest size that is assumed for plain pictures, in px.
_PLAIN_SIZE = 1024


@dataclass(frozen=True, slots=True)
class FaceSet:
    """The faces of one person.

    Attributes:
        size: px of each crop's side; pictures of another size are brought to it when loaded.
        coverage: the crop's side against the face's own (1: brow to chin, tightly).
        junk: what was passed over, one sentence each.
        crop: what the square is centred on, "face" or "head".
    """

    folder: Path
    size: int
    coverage: float
    faces: tuple[FaceRecord, ...]
    junk: tuple[str, ...] = ()
    crop: str = "face"

    def load(self, face: FaceRecord, size: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """The crop, (size, size, 3) uint8 RGB, and its mask, (size, size) uint8 or None; the set's own size by default.

        Raises:
            InputError: the file is missing, no picture, too small or too large.
        """
        side = size or self.size
        crop = pictures.square(pictures.read(face.crop, cv2.IMREAD_COLOR), side)
        mask = None if face.mask is None else pictures.square(pictures.read(face.mask, cv2.IMREAD_GRAYSCALE), side)
        return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB), np.uint8), mask


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a uint8 RGB picture's luma; a blurred picture has little of it.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


class FaceSetWriter:
    """Writes a face set face by face. Use it in a `with`: leaving it, for whatever reason, completes the set.

    Args:
        size: px of the crops' side; coverage, crop: as in `FaceSet`.
        add: go on with the set that the folder holds, if it does. Until the end that set stays as it was: a killed
            writer leaves pictures behind that no line names, and whose numbers are not used again.

    Raises:
        InputError: the folder already holds something else, or can't be written.
    """

    def __init__(
        self, folder: Path | str, size: int = 256, coverage: float = 1.5, crop: str = "face", add: bool = False
    ) -> None:
        self._folder = Path(folder)
        self._about = {"version": VERSION, "size": size, "coverage": coverage, "crop": crop, "order": "rgb"}
        self._size = size
        self._seen: set[tuple[str, int, tuple[float, ...] | None]] = set()
        self._sources: Counter[str] = Counter()
        self._count = self._next = 0
        before = ""
        try:
            if not is_empty(self._folder):
                if not add:
                    raise InputError(f"{self._folder} is not empty; give another folder for the face set, or remove it")
                before = self._taken_up()
            for part in (self._folder, self._folder / "crops", self._folder / "masks"):
                _make_private(part)
            # Lines of a new set show that it is unfinished; those of a set that is there stay until the end.
            self._part = self._folder / (f".{LINES}.part" if before else LINES)
            self._lines: TextIO = open(self._part, "w", encoding="utf-8", opener=durable.for_owner)  # noqa: SIM115
            self._lines.write(before)
        except OSError as error:
            raise InputError(f"the face set {self._folder} cannot be written: {error}") from error

    def _taken_up(self) -> str:
        """Looks at the set that is there; gives its lines."""
        if not (self._folder / FILE).exists() and not (self._folder / LINES).exists():
            raise InputError(f"{self._folder} is not empty and holds no face set that could be added to")
        there = read(self._folder)
        wanted = {name: self._about[name] for name in ("size", "coverage", "crop")}
        for name, value in wanted.items():
            if getattr(there, name) != value:
                raise InputError(
                    f"the face set {self._folder} has {name} {getattr(there, name)}, what would be added {value}; "
                    f"add with extract.{name} {getattr(there, name)}, or make another set"
                )
        for face in there.faces:
            self._seen.add(identity(face.source, face.frame, face.box))
            self._sources[face.source] += 1
        self._next = 1 + max(int(file.stem) for file in (self._folder / "crops").iterdir() if NAME.fullmatch(file.name))
        lines = (self._folder / LINES).read_text(encoding="utf-8", errors="replace")
        return lines if lines.endswith("\n") else f"{lines}\n"

    def __enter__(self) -> FaceSetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def count(self) -> int:
        """Faces written so far, without those that were there before."""
        return self._count

    def holds(self, source: str, frame: int, box: Sequence[float] | None) -> bool:
        """Whether the set has that very face already."""
        return identity(source, frame, box) in self._seen

    def add(
        self,
        crop: NDArray[np.uint8],
        mask: NDArray[Any],
        landmarks: NDArray[Any],
        *,
        source: str,
        frame: int,
        pts: int = 0,
        track: int | None = None,
        score: float = 1.0,
        box: Sequence[float] | None = None,
    ) -> Path:
        """Writes one face and gives its crop's path.

        Args:
            crop: (size, size, 3) uint8 RGB.
            mask: square, float 0..1 or uint8, any resolution, over the same square as the crop.
            landmarks: (478, 2) px of the crop.
            source, frame, pts, track, score, box: as in `FaceRecord`.

        Raises:
            InputError: a crop of another size, or the disk refuses.
        """
        if crop.shape != (self._size, self._size, 3) or crop.dtype != np.uint8:
            raise InputError(f"this face set takes uint8 crops of {self._size} px, not {crop.dtype} {crop.shape}")
        name = f"{self._next:06d}.png"
        levels = mask if mask.dtype == np.uint8 else np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8)
        file, mask_file = (self._folder / part / name for part in ("crops", "masks"))
        places, at = np.asarray(landmarks, np.float32), None if box is None else tuple(box)
        face = FaceRecord(file, mask_file, places, source, frame, pts, track, at, score, sharpness(crop))
        pictures.write(file, cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
        pictures.write(mask_file, pictures.square(levels, self._size))
        self._lines.write(to_line(face))
        self._lines.flush()
        self._seen.add(identity(source, frame, box))
        self._sources[source] += 1
        self._count += 1
        self._next += 1
        return file

    def close(self) -> None:
        """Writes faceset.json; the set is complete from here on. Closing again does nothing."""
        if self._lines.closed:
            return
        self._lines.close()
        about = self._about | {
            "faces": sum(self._sources.values()),
            "sources": [{"file": file, "faces": count} for file, count in self._sources.items()],
        }
        beside = self._folder / f".{FILE}.part"
        try:
            with open(beside, "w", encoding="utf-8", opener=durable.for_owner) as out:
                out.write(json.dumps(about, indent=2) + "\n")
            self._part.replace(self._folder / LINES)
            beside.replace(self._folder / FILE)
        except OSError as error:
            raise InputError(f"the face set {self._folder} cannot be completed: {error}") from error


def is_empty(folder: Path | str) -> bool:
    """Whether a face set could be made there: there is no such folder, or nothing in it but somebody's identity.

    Raises:
        OSError: it cannot be looked into.
    """
    folder = Path(folder)
    return not folder.exists() or all(entry.name == IDENTITY for entry in folder.iterdir())


def _make_private(folder: Path) -> None:
    """A folder for its owner alone, also where it was there and open to others. Raises OSError."""
    durable.make_folder(folder, private=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        with suppress(PermissionError):  # it is somebody else's, or its file system knows no such thing
            folder.chmod(0o700)


def read(folder: Path | str, *, plain_coverage: float = 1.0, plain_crop: str = "face") -> FaceSet:
    """The face set in `folder`, checked line by line; pictures themselves are read by `FaceSet.load`.

    What a plain folder of pictures shows cannot be known: `plain_coverage` and `plain_crop` say it.

    Raises:
        InputError: there is no such folder, or no usable face in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"the face set {folder} {what}; give a folder that `understudy extract` made")
    try:
        if (folder / FILE).exists():
            found = _read_set(folder)
        elif (folder / LINES).exists():
            raise InputError(f"the face set {folder} is unfinished: its extraction was cut off; extract it again")
        else:
            found = _read_plain(folder, plain_coverage, plain_crop)
    except OSError as error:
        raise InputError(f"the face set {folder} cannot be read: {error}") from error
    if not found.faces:
        hint = f" ({found.junk[0]})" if found.junk else ""
        raise InputError(f"the face set {folder} holds no usable face{hint}")
    return found


def joined(sets: Sequence[FaceSet]) -> FaceSet:
    """Several face sets of one person as one, called after the first.

    Its size is the largest of theirs; landmarks are brought to it, pictures when they are loaded.

    Raises:
        InputError: two of them differ in coverage or in what their crops are centred on, or are the same folder.
    """
    first, *others = sets
    if not others:
        return first
    folders: set[Path] = set()
    for each in sets:
        if each.folder.resolve() in folders:
            raise InputError(f"the face set {each.folder} is given twice for one person; give it once")
        folders.add(each.folder.resolve())
        if each.crop != first.crop or abs(each.coverage - first.coverage) > 1e-6:
            raise InputError(
                f"the face sets {first.folder} ({first.crop} crops at coverage {first.coverage:g}) and {each.folder} "
                f"({each.crop} crops at coverage {each.coverage:g}) cannot be joined; extract both alike"
            )
    size = max(each.size for each in sets)
    faces = tuple(_resized(face, size / each.size) for each in sets for face in each.faces)
    junk = tuple(f"{each.folder}: {why}" for each in sets for why in each.junk)
    return replace(first, size=size, faces=faces, junk=junk)


def _resized(face: FaceRecord, factor: float) -> FaceRecord:
    """The same face with the landmarks of its crop at another size; edges go to edges."""
    if face.landmarks is None or factor == 1:
        return face
    return replace(face, landmarks=np.asarray((face.landmarks + 0.5) * factor - 0.5, np.float32))


def divided(faces: FaceSet, share: float) -> tuple[FaceSet, FaceSet]:
    """The faces to train on, and about `share` (0..1) of them that are held out, without any draw.

    Neighbouring frames look alike: a face held out of the middle of a clip has been trained on, but for the name. So
    the end of each source is held out in one piece; of many sources of a picture each, one in so many is.

    Nothing is held out of fewer than 12 faces, and at least 4 are left to train on.
    """
    everything = range(len(faces.faces))
    quota = min(round(share * len(faces.faces)), len(faces.faces) - _LEAST_TRAINED)
    if len(faces.faces) < _WORTH_DIVIDING or quota < 1:
        return faces, replace(faces, faces=(), junk=())
    by_source: dict[str, list[int]] = {}
    for place in everything:
        by_source.setdefault(faces.faces[place].source, []).append(place)
    held: set[int] = set()
    passed = 0
    for places in by_source.values():
        places.sort(key=lambda place: faces.faces[place].frame)
        passed += len(places)
        due = quota * passed // len(faces.faces) - len(held)  # counted from the start, so that rounding adds up
        held.update(places[len(places) - due :])
    trained = tuple(face for place, face in enumerate(faces.faces) if place not in held)
    held_out = tuple(face for place, face in enumerate(faces.faces) if place in held)
    return replace(faces, faces=trained), replace(faces, faces=held_out, junk=())


def _read_set(folder: Path) -> FaceSet:
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        version, size, coverage = about["version"], about["size"], about["coverage"]
        crop = about.get("crop", CROPS[0])  # sets that were made before there were heads
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / FILE} does not describe a face set; extract it again") from error
    if version != VERSION:
        raise InputError(f"{folder / FILE} has version {version!r}, this program reads version {VERSION}")
    if not _whole(size) or not 16 <= size <= 4096 or not _number(coverage) or not 0.5 <= coverage <= 4:
        raise InputError(f"{folder / FILE}: size {size!r} or coverage {coverage!r} is out of range")
    if crop not in CROPS:
        raise InputError(f"{folder / FILE}: crop must be {' or '.join(CROPS)}, not {crop!r}")
    faces: list[FaceRecord] = []
    junk: list[str] = []
    seen: set[str] = set()
    with (folder / LINES).open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            face = from_line(line, folder)
            if isinstance(face, str) or face.crop.name in seen:
                junk.append(f"{LINES} line {number}: {face if isinstance(face, str) else 'is there twice'}")
            else:
                seen.add(face.crop.name)
                faces.append(face)
    return FaceSet(folder, size, float(coverage), tuple(faces), tuple(junk), crop)


def _read_plain(folder: Path, coverage: float, crop: str) -> FaceSet:
    """The pictures that are sound by their headers; their median side is the set's size."""
    faces: list[FaceRecord] = []
    sides: list[int] = []
    junk: list[str] = []
    for file in sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.name != IDENTITY):
        if not file.is_file() or file.suffix.lower() not in pictures.SUFFIXES:
            junk.append(f"{file.name} is no picture")
            continue
        content = file.read_bytes()
        if reason := pictures.refusal(content):
            junk.append(f"{file.name} {reason}")
            continue
        faces.append(FaceRecord(file, source=file.name))
        sides.append(min(pictures.dimensions(content) or (0,)))
    size = int(np.clip(np.median(sides), pictures.MIN_SIDE, _PLAIN_SIZE)) if sides else _PLAIN_SIZE
    return FaceSet(folder, size, coverage, tuple(faces), tuple(junk), crop)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
