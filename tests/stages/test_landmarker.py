"""The real finder on a real photograph: hits, precision, statelessness, silence."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from pipeline.types import Array
from stages.crop import warp
from stages.geometry import apply, crop_matrix, invert, square_matrix
from stages.landmarker import LANDMARKS, LEFT_EYE, RIGHT_EYE, MediaPipeFinder, chatter_hidden
from stages.puppets.portrait import astronaut_file

#: Mirror images of one another in the mesh.
PAIRS = ((33, 263), (133, 362), (61, 291), (70, 300), (105, 334), (129, 358), (234, 454))
MIDDLE = (10, 168, 6, 197, 195, 4, 1, 2, 152)


@pytest.fixture(scope="module")
def finder() -> Iterator[MediaPipeFinder]:
    finder = MediaPipeFinder()
    yield finder
    finder.close()


@pytest.fixture(scope="module")
def photo() -> Array:
    """(512, 512, 3) uint8 RGB with one face, 104 px wide, about (226, 120)."""
    bgr = cv2.imread(str(astronaut_file()))
    return np.ascontiguousarray(bgr[..., ::-1])


def crop_about(
    detection_box: tuple[float, float, float, float], photo: Array, roll: float = 0.0
) -> tuple[Array, Array]:
    x0, y0, x1, y1 = detection_box
    matrix = square_matrix(((x0 + x1) / 2, (y0 + y1) / 2), 1.5 * max(x1 - x0, y1 - y0), roll, 192)
    return matrix, warp(photo, matrix, 192)


def test_the_face_is_found_with_its_landmarks(finder: MediaPipeFinder, photo: Array) -> None:
    (detection,) = finder.find(photo, 0.5)
    assert 0.8 < detection.score <= 1
    x0, y0, x1, y1 = detection.box
    assert 150 < x0 < 226 < x1 < 300 and 40 < y0 < 120 < y1 < 200
    matrix, crop = crop_about(detection.box, photo)
    mesh = finder.landmarks(crop)
    assert mesh.score > 0.9
    assert mesh.landmarks.shape == (LANDMARKS, 2) and mesh.landmarks.dtype == np.float32
    right, left = apply(invert(matrix), mesh.landmarks)[[RIGHT_EYE, LEFT_EYE]]
    # Where they are, as seen by eye in the enlarged photograph.
    assert right == pytest.approx([195, 100], abs=2.5) and left == pytest.approx([256, 104], abs=2.5)


def test_each_picture_stands_for_itself(finder: MediaPipeFinder, photo: Array) -> None:
    (first,) = finder.find(photo, 0.5)
    _, crop = crop_about(first.box, photo)
    mesh = finder.landmarks(crop)
    finder.find(np.roll(photo, 150, axis=1), 0.5)
    finder.landmarks(np.ascontiguousarray(crop[::-1]))
    assert finder.find(photo, 0.5) == [first]
    again = finder.landmarks(crop)
    np.testing.assert_array_equal(again.landmarks, mesh.landmarks)
    assert again.score == mesh.score


def test_nothing_where_nothing_is(finder: MediaPipeFinder, photo: Array) -> None:
    assert finder.find(np.zeros((360, 640, 3), np.uint8), 0.25) == []
    noise = np.random.default_rng(3).integers(0, 255, (192, 192, 3)).astype(np.uint8)
    assert finder.landmarks(noise).score < 0.5
    assert finder.find(np.ascontiguousarray(photo[300:, :200]), 0.5) == []


@pytest.mark.parametrize("size", [(37, 64), (360, 640), (999, 333)])
def test_any_size_will_do(finder: MediaPipeFinder, photo: Array, size: tuple[int, int]) -> None:
    height, width = size
    picture = np.full((height, width, 3), 90, np.uint8)
    side = min(height, width)
    picture[:side, :side] = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    for x0, y0, x1, y1 in (d.box for d in finder.find(picture, 0.25)):
        assert 0 <= x0 < x1 <= side and 0 <= y0 < y1 <= side
    assert side < 100 or finder.find(picture, 0.5)


def test_a_close_up_is_found_too(finder: MediaPipeFinder, photo: Array) -> None:
    face = np.ascontiguousarray(photo[67:167, 175:275])
    assert finder.find(cv2.resize(face, (640, 640)), 0.5)


@pytest.mark.parametrize("degrees", [-60, -30, 30, 45])
def test_roll_is_clockwise(finder: MediaPipeFinder, photo: Array, degrees: int) -> None:
    # OpenCV counts its angle counter-clockwise.
    turned = cv2.warpAffine(photo, cv2.getRotationMatrix2D((226, 120), -degrees, 1), (512, 512))
    detection = finder.find(turned, 0.4)[0]
    assert math.degrees(detection.roll) == pytest.approx(degrees, abs=20)
    matrix, crop = crop_about(detection.box, turned, detection.roll)
    mesh = finder.landmarks(crop)
    assert mesh.score > 0.5
    eyes = apply(invert(matrix), mesh.landmarks)[[RIGHT_EYE, LEFT_EYE]]
    assert math.degrees(math.atan2(*(eyes[1] - eyes[0])[::-1])) == pytest.approx(degrees, abs=10)


def test_a_mirrored_face_has_mirrored_landmarks(finder: MediaPipeFinder, photo: Array) -> None:
    (detection,) = finder.find(photo, 0.5)
    matrix, crop = crop_about(detection.box, photo)
    upright = crop_matrix(apply(invert(matrix), finder.landmarks(crop).landmarks), 192, 1.25)
    crop = warp(photo, upright, 192)
    seen = finder.landmarks(crop).landmarks[:, 0]
    mirrored = finder.landmarks(np.ascontiguousarray(crop[:, ::-1])).landmarks[:, 0]
    sums = [seen[m] + mirrored[m] for m in MIDDLE]
    sums += [seen[a] + mirrored[b] for a, b in PAIRS] + [seen[b] + mirrored[a] for a, b in PAIRS]
    # Pixel centres at whole numbers: x becomes 191 - x. An origin at the edge would give 192.
    assert np.mean(sums) == pytest.approx(191, abs=0.6)


def test_it_starts_in_silence_without_threads_and_leaves_nothing() -> None:
    """In a process of its own, since what libraries print and start they do once."""
    code = (
        "import os, threading\n"
        "from stages.landmarker import MediaPipeFinder\n"
        "finder = MediaPipeFinder()\n"
        "tasks = os.listdir('/proc/self/task') if os.path.isdir('/proc/self/task') else []\n"
        "print(len(tasks), threading.active_count())\n"
        "finder.close()\n"
    )
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    tasks, threads = map(int, done.stdout.split())
    assert threads == 1
    assert tasks <= 2, "one thread of ours, at most one of a library's: the graphs must not bring a pool"


def test_importing_it_loads_no_mediapipe() -> None:
    code = "import sys, stages.landmarker, stages.detect, stages.align; print('mediapipe' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_only_known_chatter_is_swallowed(capfd: pytest.CaptureFixture[str]) -> None:
    said = [
        "W0000 00:00:1795253214.466750    6199 inference_feedback_manager.cc:114] Feedback manager requires ...\n",
        "E0000 00:00:1795253214.466750    6199 calculator.cc:1] something is wrong\n",
        "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n",
        "a line of ours\n",
    ]
    with chatter_hidden():
        os.write(2, "".join(said).encode())
    assert capfd.readouterr().err == said[1] + said[3]


def test_what_was_said_before_a_failure_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), chatter_hidden():
        os.write(2, b"the reason\n")
        raise KeyError
    os.write(2, b"and after\n")
    assert capfd.readouterr().err == "the reason\nand after\n"
