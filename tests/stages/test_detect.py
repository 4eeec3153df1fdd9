"""Detect: coordinates through size, rotation, px shape and format (against a marked picture), and real faces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Clip, Colour, Face, Frame, Picture, Pulled, Report
from stages.colour import coding
from stages.detect import Config, Detect, distinct
from stages.geometry import apply, invert, stored_to_upright
from stages.landmarker import Detection, MediaPipeFinder, Mesh
from stages.planes import view
from stages.puppets.portrait import astronaut_file
from tests.clips import MATRICES

EYES = (33, 263)
#: Chroma in the middle of its luma samples, as averaging puts it.
CENTRED = Colour(chroma_location=2)


class BlobFinder:
    """Takes a red and a green blob for the eyes of a face."""

    crop_size = 128

    def __init__(self, scores: tuple[float, float] = (0.9, 0.95)) -> None:
        self.scores = scores
        self.pictures: list[tuple[int, ...]] = []
        self.crops = self.peak = 0

    def find(self, rgb: Array, min_score: float) -> list[Detection]:
        self.pictures.append(rgb.shape)
        eyes = blobs(rgb)
        if eyes is None or self.scores[0] < min_score:
            return []
        side = 2.0 * float(np.hypot(*(eyes[1] - eyes[0])))
        x, y = eyes.mean(0)
        roll = float(np.arctan2(*(eyes[1] - eyes[0])[::-1]))
        return [Detection((x - side / 2, y - side / 2, x + side / 2, y + side / 2), self.scores[0], roll)]

    def landmarks(self, crop: Array) -> Mesh:
        assert crop.shape == (self.crop_size, self.crop_size, 3)
        self.crops += 1
        self.peak = int(crop.max())
        eyes = blobs(crop)
        if eyes is None:
            return Mesh(np.full((478, 2), 64, np.float32), 0.0)
        centre, across = eyes.mean(0), eyes[1] - eyes[0]
        down = np.array([-across[1], across[0]])
        turn = np.linspace(0, 2 * np.pi, 478)[:, None]
        landmarks = centre + np.cos(turn) * across + np.sin(turn) * down
        landmarks[list(EYES)] = eyes
        return Mesh(landmarks.astype(np.float32), self.scores[1])

    def close(self) -> None:
        pass


def blobs(rgb: Array) -> Array | None:
    """(2, 2): centroids of what is red and of what is green, to a fraction of a px."""
    red, green, blue = (rgb[..., c].astype(np.float64) for c in range(3))
    found = []
    for weight in (red - np.maximum(green, blue), green - np.maximum(red, blue)):
        weight = np.where(weight > 60, weight, 0)
        if not weight.any():
            return None
        rows, columns = np.mgrid[0 : rgb.shape[0], 0 : rgb.shape[1]]
        found.append([(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()])
    return np.array(found)


def marked(width: int, height: int, eyes: Array, radius: float) -> Array:
    """Gray with a red and a green Gaussian blob at `eyes`, (height, width, 3) uint8 RGB."""
    rows, columns = np.mgrid[0:height, 0:width]
    rgb = np.full((height, width, 3), 40.0)
    for channel, (x, y) in enumerate(eyes):
        rgb[..., channel] += 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
    return rgb.astype(np.uint8)


def as_picture(rgb: Array, name: str) -> Picture:
    """The picture in another format, in the matrix and range that an untagged clip of its size has."""
    pixel_format, (height, width) = PIXEL_FORMATS[name], rgb.shape[:2]
    code = coding(pixel_format, CENTRED, width, height)
    values = rgb.astype(np.float64) @ code.from_rgb[:, :3].T + code.from_rgb[:, 3]
    planes = []
    for layout in pixel_format.planes:
        channels = [values[..., code.components.index(c)] for c in layout.components]
        shape = layout.shape(width, height)
        small = [cv2.resize(c, (shape[1], shape[0]), interpolation=cv2.INTER_AREA) for c in channels]
        plane = np.rint(np.stack(small, -1) if len(shape) == 3 else small[0])
        planes.append((plane.astype(pixel_format.dtype) << pixel_format.shift).astype(pixel_format.dtype))
    return Picture(pixel_format, width, height, tuple(planes))


def clip_of(picture: Picture, **facts: Any) -> Clip:
    size = (picture.width, picture.height)
    return Clip(1, "a", "b", "c", *size, picture.format, Fraction(1, 25), colour=CENTRED, **facts)


def run(stage: Detect, clip: Clip, pictures: list[Picture]) -> tuple[list[Frame], Report]:
    frames = (Frame(1, index, index * 10, picture) for index, picture in enumerate(pictures))
    made, out = stage(clip, Pulled(frames)), []
    while True:
        try:
            out.append(next(made))
        except StopIteration as end:
            return out, end.value


@pytest.mark.parametrize("name", ["rgb24", "yuv420p", "yuv422p10le", "nv12", "gbrp"])
@pytest.mark.parametrize(("width", "height"), [(320, 240), (1918, 1078)])
def test_landmarks_lie_where_the_face_is(name: str, width: int, height: int) -> None:
    scale = width / 320
    eyes = np.array([[140.0, 100.0], [180.0, 104.0]]) * scale
    rgb = marked(width, height, eyes, 5 * scale)
    picture = as_picture(rgb, name)
    finder = BlobFinder()
    (frame,), report = run(Detect(Config(), finder), clip_of(picture), [picture])
    (face,) = frame.faces
    assert face.landmarks[list(EYES)] == pytest.approx(eyes, abs=0.35 * scale)
    assert face.landmarks.shape == (478, 2) and face.landmarks.dtype == np.float32
    assert face.score == pytest.approx(0.9 * 0.95)
    assert face.box == pytest.approx((*face.landmarks.min(0), *face.landmarks.max(0)))
    assert max(finder.pictures[0]) <= 640
    assert report == {"faces": 1, "frames_without_faces": 0}


@pytest.mark.parametrize("name", [None, *sorted(MATRICES)])
@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(4, 3)])
def test_it_sees_upright_and_answers_as_stored(name: str | None, aspect: Fraction) -> None:
    matrix = MATRICES[name] if name else None
    to_upright, (upright_width, upright_height) = stored_to_upright(matrix, 480, 320, aspect)
    eyes_upright = np.array([[0.45, 0.5], [0.6, 0.52]]) * [upright_width, upright_height]
    upright = marked(upright_width, upright_height, eyes_upright, 8)
    stored = cv2.warpAffine(upright, to_upright, (480, 320), flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR)
    picture = as_picture(stored, "rgb24")
    finder = BlobFinder()
    clip = clip_of(picture, display_matrix=matrix, sample_aspect_ratio=aspect)
    (face,) = Detect(Config(), finder).faces(clip, picture)
    np.testing.assert_allclose(apply(to_upright, face.landmarks[list(EYES)]), eyes_upright, atol=0.6)
    assert finder.pictures[0][:2] == (upright_height, upright_width)


def test_a_far_face_is_looked_at_in_full_resolution() -> None:
    eyes = np.array([[2000.3, 700.7], [2040.3, 700.7]])
    picture = as_picture(marked(2560, 1440, eyes, 3), "rgb24")
    finder = BlobFinder()
    (face,) = Detect(Config(max_side=320), finder).faces(clip_of(picture), picture)
    assert face.landmarks[list(EYES)] == pytest.approx(eyes, abs=0.1)
    # In the small picture the blobs are washed out.
    assert finder.peak > 225


def test_a_face_is_the_same_in_another_process() -> None:
    """Numbers travel as float32: they are that before, so that a tracker decides alike wherever it stands."""
    eyes = np.array([[140.3, 100.7], [180.1, 104.2]])
    picture = as_picture(marked(320, 240, eyes, 5), "rgb24")
    (face,) = Detect(Config(), BlobFinder()).faces(clip_of(picture, sample_aspect_ratio=Fraction(4, 3)), picture)
    assert [float(np.float32(number)) for number in (*face.box, face.score)] == [*face.box, face.score]


def test_frames_pass_unchanged_and_are_counted() -> None:
    eyes = np.array([[140.0, 100.0], [180.0, 104.0]])
    with_face = as_picture(marked(320, 240, eyes, 5), "yuv420p")
    without = as_picture(np.full((240, 320, 3), 40, np.uint8), "yuv420p")
    before = [plane.copy() for plane in with_face.planes]
    out, report = run(Detect(Config(), BlobFinder()), clip_of(with_face), [with_face, without, with_face])
    assert [(frame.index, frame.pts, len(frame.faces)) for frame in out] == [(0, 0, 1), (1, 10, 0), (2, 20, 1)]
    assert report == {"faces": 2, "frames_without_faces": 1}
    assert all((a == b).all() for a, b in zip(before, with_face.planes, strict=True))
    assert out[0].picture is with_face


def test_landmarks_come_from_the_frames_own_memory() -> None:
    picture = as_picture(marked(320, 240, np.array([[140.0, 100.0], [180.0, 104.0]]), 5), "rgb24")
    made: list[Array] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> Array:
        made.append(np.empty(shape, dtype))
        return made[-1]

    frame = Frame(1, 0, 0, picture, allocate=allocate)
    (out,) = list(Detect(Config(), BlobFinder())(clip_of(picture), Pulled([frame])))
    assert out.faces[0].landmarks is made[0]


@pytest.mark.parametrize(
    ("scores", "config"),
    [
        ((0.9, 0.3), Config(min_mesh_score=0.5)),
        ((0.6, 0.6), Config(min_score=0.4)),
        ((0.9, 0.9), Config(min_face_px=200)),
    ],
)
def test_what_is_unsure_or_too_small_is_left_out(scores: tuple[float, float], config: Config) -> None:
    picture = as_picture(marked(320, 240, np.array([[140.0, 100.0], [180.0, 104.0]]), 5), "rgb24")
    assert Detect(config, BlobFinder(scores)).faces(clip_of(picture), picture) == []


def test_a_sure_mesh_is_fitted_once_and_an_unsure_one_again() -> None:
    picture = as_picture(marked(320, 240, np.array([[140.0, 100.0], [180.0, 104.0]]), 5), "rgb24")
    for score, fits in ((0.95, 1), (0.8, 2)):
        finder = BlobFinder((0.9, score))
        Detect(Config(passes=2), finder).faces(clip_of(picture), picture)
        assert finder.crops == fits


def box(x: float, y: float, side: float, score: float) -> Face:
    return Face((x, y, x + side, y + side), score, np.zeros((478, 2), np.float32))


def test_one_face_found_twice_is_one_face() -> None:
    faces = [box(0, 0, 100, 0.7), box(20, 10, 90, 0.9), box(30, 30, 40, 0.8), box(95, 0, 100, 0.6)]
    for order in itertools.permutations(faces):
        assert [face.score for face in distinct(list(order))] == [0.9, 0.6]


@pytest.mark.parametrize(
    "wrong",
    [{"max_side": 10}, {"min_score": 0.1}, {"min_mesh_score": 2.0}, {"max_faces": 0}, {"passes": 0}],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"detect.{next(iter(wrong))}"):
        Config(**wrong)


@pytest.fixture(scope="module")
def real() -> Iterator[Detect]:
    finder = MediaPipeFinder()
    yield Detect(Config(), finder)
    finder.close()


@pytest.mark.parametrize("name", [None, *sorted(MATRICES)])
def test_a_real_face_in_a_turned_clip(real: Detect, name: str | None) -> None:
    photo = np.ascontiguousarray(cv2.imread(str(astronaut_file()))[:400, :480, ::-1])
    upright = as_picture(photo, "yuv444p")
    (seen,) = real.faces(clip_of(upright), upright)
    matrix = MATRICES[name] if name else None
    size = (400, 480) if name and name.endswith(("90", "270")) else (480, 400)
    to_upright, _ = stored_to_upright(matrix, *size)
    stored = cv2.warpAffine(photo, to_upright, size, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_NEAREST)
    picture = as_picture(stored, "yuv444p")
    (face,) = real.faces(clip_of(picture, display_matrix=matrix), picture)
    np.testing.assert_allclose(face.landmarks, apply(invert(to_upright), seen.landmarks), atol=0.1)


def test_a_real_face_is_found_alike_whatever_came_before(real: Detect) -> None:
    """Nothing is remembered from picture to picture, so a clip may be gone on with anywhere."""
    photo = np.ascontiguousarray(cv2.imread(str(astronaut_file()))[..., ::-1])
    shown = [photo[:256, x : x + 320] for x in range(0, 192, 32)]
    shown += [np.zeros_like(photo), cv2.flip(photo, 1), cv2.resize(photo, None, fx=0.4, fy=0.7)]
    pictures = [as_picture(np.ascontiguousarray(rgb), "yuv420p") for rgb in shown]

    def told(picture: Picture) -> list[tuple[object, ...]]:
        faces = real.faces(clip_of(picture), picture)
        return [(face.box, face.score, face.landmarks.tobytes()) for face in faces]

    want = [told(picture) for picture in pictures]
    assert sum(map(bool, want)) >= 7
    for seed in range(3):
        for place in np.random.default_rng(seed).permutation(len(pictures)):
            assert told(pictures[place]) == want[place]


@pytest.mark.parametrize("name", ["head_pose_male.gif", "sign_brother.mkv", "sign_eat.mkv"])
def test_real_clips_show_one_face_in_every_frame(real: Detect, media: Path, name: str) -> None:
    """Hands cross the face, and a skull is printed on the hoodie."""
    with av.open(str(media / name)) as container:
        frames = [frame.reformat(format="yuv444p") for frame in container.decode(video=0)][::6]
    for frame in frames:
        picture = view(frame, PIXEL_FORMATS["yuv444p"])
        faces = real.faces(clip_of(picture), picture)
        assert len(faces) == 1
        assert 40 < faces[0].box[2] - faces[0].box[0] < 140
