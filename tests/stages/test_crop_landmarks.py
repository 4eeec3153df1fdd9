"""stages.crop_landmarks: on crops as a model gives them, the landmarks are where the whole picture has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import RequirementError
from pipeline.runner import chain
from pipeline.types import Array, Job
from stages.align import Align
from stages.align import Config as AlignConfig
from stages.crop import warp
from stages.crop_landmarks import _SIDES, CropLandmarks
from stages.decode import Config as DecodeConfig
from stages.decode import Decode
from stages.detect import Config as DetectConfig
from stages.detect import Detect
from stages.geometry import apply, crop_matrix, density, invert, square_matrix
from stages.landmarker import LEFT_EYE, RIGHT_EYE, Detection, MediaPipeFinder, Mesh
from stages.puppets.portrait import astronaut_file


@pytest.fixture(scope="module")
def finder() -> Iterator[MediaPipeFinder]:
    try:
        finder = MediaPipeFinder()
    except RequirementError as error:
        pytest.skip(str(error))
    yield finder
    finder.close()


@pytest.fixture(scope="module")
def photo(finder: MediaPipeFinder) -> tuple[Array, Array]:
    """A picture (512, 512, 3) uint8 RGB, and its face's landmarks, as the pipeline finds them."""
    try:
        picture = np.ascontiguousarray(cv2.imread(str(astronaut_file()))[..., ::-1])
    except RequirementError as error:
        pytest.skip(str(error))
    x0, y0, x1, y1 = finder.find(picture, 0.5)[0].box
    seen = square_matrix(((x0 + x1) / 2, (y0 + y1) / 2), 1.5 * max(x1 - x0, y1 - y0), 0.0, 192)
    return picture, apply(invert(seen), finder.landmarks(warp(picture, seen, 192)).landmarks)


def cut(photo: tuple[Array, Array], size: int, coverage: float, crop: str) -> tuple[Array, Array]:
    """The crop, and the landmarks in it."""
    picture, landmarks = photo
    matrix = crop_matrix(landmarks, size, coverage, crop)
    return warp(picture, matrix, size), apply(matrix, landmarks)


def error(found: Array | None, wanted: Array) -> float:
    """The mean distance in inter-ocular distances."""
    assert found is not None and found.shape == (478, 2) and found.dtype == np.float32
    return float(np.linalg.norm(found - wanted, axis=1).mean() / np.linalg.norm(wanted[RIGHT_EYE] - wanted[LEFT_EYE]))


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize(("coverage", "crop"), [(0.9, "face"), (1, "face"), (1.6, "face"), (2.5, "face"), (1, "head")])
def test_they_are_where_they_were(
    finder: MediaPipeFinder, photo: tuple[Array, Array], size: int, coverage: float, crop: str
) -> None:
    picture, wanted = cut(photo, size, coverage, crop)
    (found,) = CropLandmarks(finder, coverage, crop)([picture])
    # So few px are left of a face that fills a sixth of 64 x 64.
    assert error(found, wanted) < (0.03 if size * min(1, 1.5 / coverage) >= 64 else 0.06)


def test_each_crop_stands_for_itself(finder: MediaPipeFinder, photo: tuple[Array, Array]) -> None:
    landmarks = CropLandmarks(finder, 1.0)
    face = cut(photo, 64, 1.0, "face")[0]
    mirrored = np.ascontiguousarray(face[:, ::-1])
    (alone,) = landmarks([face])
    _, among, _ = landmarks([mirrored, face, mirrored])
    assert alone is not None and among is not None
    np.testing.assert_array_equal(alone, among)
    assert landmarks([]) == []


@pytest.mark.parametrize("crop", ["face", "head"])
def test_what_is_no_face(finder: MediaPipeFinder, crop: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 64, 0).repeat(3, 2)
    pictures = [np.full((64, 64, 3), 127, np.uint8), np.zeros((128, 128, 3), np.uint8), noise, ramp]
    assert CropLandmarks(finder, 1.0, crop)(pictures) == [None] * 4


def test_a_head_s_crop_is_as_wide_as_geometry_says(photo: tuple[Array, Array]) -> None:
    ratio = density(crop_matrix(photo[1], 64, 1.0)) / density(crop_matrix(photo[1], 64, 1.0, "head"))
    assert ratio == pytest.approx(_SIDES["head"], rel=0.1)


class Recorder:
    """Sees a face in the same place of whatever it is shown."""

    crop_size = 96

    def __init__(self, points: Array) -> None:
        self.seen: list[Array] = []
        self._points = np.asarray(points, np.float32)

    def find(self, rgb: Array, min_score: float) -> list[Detection]:
        raise AssertionError

    def landmarks(self, crop: Array) -> Mesh:
        self.seen.append(crop)
        return Mesh(self._points, 1.0)

    def close(self) -> None: ...


@pytest.mark.parametrize("coverage", [0.5, 1.0, 1.4, 3.0])
def test_the_middle_stays_the_middle(coverage: float) -> None:
    recorder = Recorder(np.full((478, 2), 47.5))
    crop = np.zeros((50, 50, 3), np.uint8)
    crop[:] = np.arange(50, dtype=np.uint8)[None, :, None] * 5
    (found,) = CropLandmarks(recorder, coverage)([crop])
    assert found is not None
    np.testing.assert_allclose(found, 24.5, atol=1e-4)
    (seen,) = recorder.seen
    assert seen.shape == (96, 96, 3)
    assert np.abs(seen[48, 40:56, 0].astype(float).mean() - 24.5 * 5) < 3


def test_a_head_is_looked_at_again_where_its_face_is(photo: tuple[Array, Array]) -> None:
    # Some eight px to the left of the middle, where a face should be in the second look.
    points = cut(photo, 96, 1.4, "face")[1] - np.array([8, 0])
    recorder = Recorder(points)
    crop = np.zeros((96, 96, 3), np.uint8)
    crop[:] = np.arange(96, dtype=np.uint8)[None, :, None] * 2
    CropLandmarks(recorder, 1.0, "head")([crop])
    first, second = (seen[48, 48, 0] / 2 for seen in recorder.seen)
    scale = 1.4 / 1.5  # px of the crop in a px of what is looked at
    assert first == pytest.approx(47.5, abs=1) and second == pytest.approx(47.5 - 8 * scale, abs=1.5)


@pytest.mark.parametrize("crop", ["face", "head"])
def test_on_real_clips(finder: MediaPipeFinder, media: Path, crop: str) -> None:
    clip = media / "head_pose_male.gif"
    if not clip.exists():
        pytest.skip(f"{clip} is not there")
    source = Decode(DecodeConfig())
    align = Align(AlignConfig(size=192, coverage=1.0, crop=crop))  # type: ignore[arg-type]  # a str of two
    landmarks = CropLandmarks(finder, 1.0, crop)
    errors = []
    for frame in chain([source, Detect(DetectConfig()), align], source.open(Job(1, str(clip), ""))):
        for face in frame.faces if frame.index % 16 == 0 else ():
            assert face.aligned is not None and face.frame_to_crop is not None
            wanted = apply(face.frame_to_crop, face.landmarks)
            for size in (64, 128):
                small = cv2.resize(np.asarray(face.aligned), (size, size), interpolation=cv2.INTER_AREA)
                (found,) = landmarks([np.asarray(small, np.uint8)])
                errors.append(error(found, (wanted + 0.5) * (size / 192) - 0.5))
    assert len(errors) >= 6
    assert np.mean(errors) < 0.03 and max(errors) < 0.06
