"""The people who can be filmed without anybody: what they do is what was asked, and a face mesh believes it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RequirementError
from stages.puppets import portrait as portraits
from stages.puppets import topology as topo
from stages.puppets.people import ACTOR, ASTRONAUT, Person
from stages.puppets.portrait import CANVAS_H, CANVAS_W, Portrait
from stages.puppets.pose import MAX_PITCH, MAX_ROLL, MAX_YAW, Pose, script
from stages.puppets.puppet import Puppet
from stages.puppets.scenes import film, make_clip
from stages.puppets.speech import SAMPLE_RATE, Voice, babble

SIZE = (512, 512)
POSES = st.builds(
    Pose,
    yaw=st.floats(-MAX_YAW, MAX_YAW),
    pitch=st.floats(-MAX_PITCH, MAX_PITCH),
    roll=st.floats(-MAX_ROLL, MAX_ROLL),
    smile=st.floats(-1, 1),
    brow=st.floats(-1, 1),
)

needs_photograph = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None, reason="scikit-image, which ships the photograph, is not installed"
)


@pytest.fixture(scope="module")
def actor() -> Puppet:
    return ACTOR.puppet()


@pytest.fixture(scope="module", params=[pytest.param(ASTRONAUT, marks=needs_photograph), ACTOR], ids=lambda p: p.name)
def person(request: pytest.FixtureRequest) -> Person:
    return request.param


@pytest.fixture(scope="module")
def puppet(person: Person) -> Puppet:
    return person.puppet()


@pytest.fixture(scope="module")
def mesh() -> Iterator[object]:
    face_mesh = pytest.importorskip("mediapipe.python.solutions.face_mesh")
    with face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True) as found:
        yield found


def seen(mesh, picture: np.ndarray) -> np.ndarray | None:
    """(478, 2) px, or None where no face is found."""
    found = mesh.process(picture).multi_face_landmarks
    height, width = picture.shape[:2]
    return np.array([(p.x * width, p.y * height) for p in found[0].landmark]) if found else None


def test_a_face_mesh_finds_the_face_where_the_puppet_says_it_is(person: Person, puppet: Puppet, mesh) -> None:
    poses = script(babble(person.voice, 12.0, 25, seed=11), 25, seed=11)[::6]
    errors = []
    for pose in poses:
        found, said = seen(mesh, puppet.render(pose, SIZE)), puppet.landmarks(pose, SIZE)
        if found is not None:
            between_eyes = np.linalg.norm(said[topo.RIGHT_IRIS[0]] - said[topo.LEFT_IRIS[0]])
            errors.append(np.linalg.norm(found - said, axis=1).mean() / between_eyes)
    assert len(errors) >= 0.98 * len(poses)
    assert np.mean(errors) < 0.04
    assert np.max(errors) < 0.09


@pytest.mark.parametrize(
    ("change", "axis", "sign"),
    [({"yaw": 20}, 0, 1), ({"yaw": -20}, 0, -1), ({"pitch": 12}, 1, -1), ({"pitch": -12}, 1, 1)],
)
def test_the_nose_goes_where_the_head_turns(puppet: Puppet, change: dict[str, float], axis: int, sign: int) -> None:
    still, turned = puppet.landmarks(Pose(), SIZE), puppet.landmarks(Pose(**change), SIZE)
    cheeks = [topo.RIGHT_CHEEK, topo.LEFT_CHEEK]
    nose = turned[topo.NOSE_TIP] - still[topo.NOSE_TIP]
    against_cheeks = nose - (turned[cheeks] - still[cheeks]).mean(axis=0)
    assert sign * against_cheeks[axis] > 5


def test_roll_is_clockwise(puppet: Puppet) -> None:
    marks = puppet.landmarks(Pose(roll=10), SIZE)
    across = marks[topo.LEFT_IRIS[0]] - marks[topo.RIGHT_IRIS[0]]
    level = puppet.landmarks(Pose(), SIZE)
    across_level = level[topo.LEFT_IRIS[0]] - level[topo.RIGHT_IRIS[0]]
    turned = np.degrees(np.arctan2(across[1], across[0]) - np.arctan2(across_level[1], across_level[0]))
    assert turned == pytest.approx(10, abs=1.5)


def test_lips_part_and_lids_close_in_the_picture_too(puppet: Puppet, mesh) -> None:
    def gaps(pose: Pose) -> tuple[float, float]:
        marks = seen(mesh, puppet.render(pose, SIZE))
        assert marks is not None
        unit = np.linalg.norm(marks[topo.RIGHT_IRIS[0]] - marks[topo.LEFT_IRIS[0]])
        eyes = (marks[145, 1] - marks[159, 1] + marks[374, 1] - marks[386, 1]) / 2
        return (marks[14, 1] - marks[13, 1]) / unit, eyes / unit

    shut_mouth, open_eyes = gaps(Pose())
    open_mouth, _ = gaps(Pose(mouth=1.0))
    _, shut_eyes = gaps(Pose(blink=1.0))
    assert shut_mouth < 0.06
    assert open_mouth > shut_mouth + 0.2
    assert shut_eyes < 0.6 * open_eyes
    shut = puppet.landmarks(Pose(blink=1.0), SIZE)
    assert np.abs(shut[[145, 374], 1] - shut[[159, 386], 1]).max() < 1


@settings(max_examples=40, deadline=None)
@given(pose=POSES)
def test_no_pose_folds_or_tears_the_picture(actor: Puppet, pose: Pose) -> None:
    """The warp keeps its orientation everywhere, so each place of a frame comes from one place of the portrait."""
    placed_x = actor._x + actor._displacement(pose)[..., 0]
    placed_y = actor._y + actor._displacement(pose)[..., 1]
    right = np.stack([np.diff(placed_x, axis=1)[:-1], np.diff(placed_y, axis=1)[:-1]])
    down = np.stack([np.diff(placed_x, axis=0)[:, :-1], np.diff(placed_y, axis=0)[:, :-1]])
    assert (right[0] * down[1] - right[1] * down[0]).min() > 0


@pytest.mark.parametrize("size", [(512, 512), (640, 360), (322, 242), (240, 400)])
def test_a_frame_is_filled_whatever_its_shape(actor: Puppet, size: tuple[int, int]) -> None:
    pose = Pose(yaw=12, mouth=0.5)
    picture, marks = actor.render(pose, size), actor.landmarks(pose, size)
    assert picture.shape == (size[1], size[0], 3)
    assert picture.dtype == np.uint8
    assert (marks > 0).all()
    assert (marks < size).all()
    assert picture.reshape(-1, 3).max(axis=1).min() > 0


def test_drawing_leaves_the_portrait_as_it_was(actor: Puppet) -> None:
    before = actor.portrait.picture.copy()
    first = actor.render(Pose(blink=1, mouth=1, yaw=20), SIZE)
    assert (actor.portrait.picture == before).all()
    assert (actor.render(Pose(blink=1, mouth=1, yaw=20), SIZE) == first).all()


def test_light_and_camera(actor: Puppet) -> None:
    plain = actor.render(Pose(), SIZE)
    assert actor.render(Pose(light=0.8), SIZE).mean() == pytest.approx(0.8 * plain.mean(), abs=0.6)
    marks, shifted = actor.landmarks(Pose(), SIZE), actor.landmarks(Pose(shift_x=0.02, shift_y=-0.01), SIZE)
    np.testing.assert_allclose(shifted - marks, np.broadcast_to([0.02 * 512, -0.01 * 512], marks.shape), atol=1e-3)
    zoomed = actor.landmarks(Pose(zoom=1.1), SIZE)
    np.testing.assert_allclose(zoomed - 255.5, 1.1 * (marks - 255.5), atol=1e-2)


@needs_photograph
def test_the_two_are_different_people(actor: Puppet) -> None:
    """In colour and in build: the nearest of two mean faces is always the right one, by a wide margin."""
    astronaut = ASTRONAUT.puppet()
    crops: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    builds = {}
    for name, one in (("a", astronaut), ("b", actor)):
        for pose in script(babble(ASTRONAUT.voice, 4.0, 5, seed=3), 5, seed=3):
            marks = one.landmarks(pose, SIZE)
            (x0, y0), (x1, y1) = marks.min(axis=0).astype(int), marks.max(axis=0).astype(int)
            crops[name].append(cv2.resize(one.render(pose, SIZE)[y0:y1, x0:x1], (32, 32)).astype(float))
        builds[name] = one.portrait.face_height / one.portrait.face_width
    means = {name: np.mean(faces, axis=0) for name, faces in crops.items()}
    for name, other in (("a", "b"), ("b", "a")):
        for face in crops[name]:
            assert np.abs(face - means[name]).mean() < 0.6 * np.abs(face - means[other]).mean()
    assert abs(builds["a"] - builds["b"]) > 0.03


def test_a_script_covers_the_range_and_is_the_same_each_time() -> None:
    speech = babble(Voice(120, 1.0), 40.0, 25, seed=2)
    poses = script(speech, 25, seed=2)
    assert poses == script(speech, 25, seed=2) != script(speech, 25, seed=3)
    assert len(poses) == 1000
    for name, reach in (("yaw", MAX_YAW), ("pitch", MAX_PITCH), ("roll", MAX_ROLL)):
        track = np.array([getattr(pose, name) for pose in poses])
        assert np.abs(track).max() <= reach
        assert track.min() < -0.7 * reach
        assert track.max() > 0.7 * reach
        assert np.abs(np.diff(track)).max() < 0.25 * reach
    blinks = np.array([pose.blink for pose in poses])
    assert blinks.max() == 1
    assert 0.02 < (blinks > 0.5).mean() < 0.3


@settings(max_examples=15, deadline=None)
@given(seconds=st.floats(0.0, 3.0), rate=st.sampled_from([12, 25, 30]), seed=st.integers(0, 999))
def test_sound_is_as_long_as_the_picture(seconds: float, rate: int, seed: int) -> None:
    speech = babble(Voice(150, 1.1), seconds, rate, seed)
    assert speech.samples.shape == (round(seconds * SAMPLE_RATE),)
    assert speech.openness.shape == speech.width.shape == (round(seconds * rate),)
    assert np.abs(speech.samples).max(initial=0) <= 0.5 + 1e-6
    assert ((speech.openness >= 0) & (speech.openness <= 1)).all()
    assert len(script(speech, rate, seed)) == len(speech.openness)


def test_the_mouth_follows_the_sound() -> None:
    speech = babble(Voice(150, 1.1), 20.0, 25, seed=4)
    pieces = np.array_split(speech.samples, len(speech.openness))
    loudness = np.array([np.sqrt(np.mean(piece**2)) for piece in pieces])
    assert np.corrcoef(loudness, speech.openness)[0, 1] > 0.5
    assert speech.openness[loudness < 1e-3].max(initial=0) < 0.2


def test_a_clip_is_what_was_ordered(tmp_path: Path, actor: Puppet) -> None:
    path = tmp_path / "take one.mp4"
    poses = film(actor, ACTOR, path, seconds=1.2, rate=25, size=(320, 240), seed=5)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height, video.average_rate) == (320, 240, 25)
        assert audio.codec_context.name == "aac"
        assert float(audio.duration * audio.time_base) == pytest.approx(1.2, abs=0.05)
        frames = list(container.decode(video))
    assert [frame.pts * frame.time_base * 25 for frame in frames] == list(range(30))
    assert len(poses) == 30
    drawn = actor.render(poses[7], (320, 240)).astype(float)
    assert np.abs(frames[7].to_ndarray(format="rgb24") - drawn).mean() < 4


def test_the_same_seed_is_the_same_take(tmp_path: Path) -> None:
    def decoded(path: Path) -> list[np.ndarray]:
        with av.open(str(path)) as container:
            return [frame.to_ndarray() for frame in container.decode(video=0)]

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_clip(ACTOR, tmp_path / f"{name}.mp4", 0.2, rate=25, size=(160, 120), seed=seed)
    first, second, other = (decoded(tmp_path / f"{name}.mp4") for name in "abc")
    assert len(first) == 5
    assert all((x == y).all() for x, y in zip(first, second, strict=True))
    assert any((x != y).any() for x, y in zip(first, other, strict=True))


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portraits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequirementError, match="scikit-image"):
        portraits.astronaut_file()


def test_a_picture_without_a_face_is_refused() -> None:
    pytest.importorskip("mediapipe")
    with pytest.raises(RequirementError, match="no face"):
        portraits.find_landmarks(np.full((200, 200, 3), 90, np.uint8))


def test_a_portrait_is_upright_and_on_its_canvas(puppet: Puppet) -> None:
    portrait: Portrait = puppet.portrait
    assert portrait.picture.shape == portrait.teeth.shape == (CANVAS_H, CANVAS_W, 3)
    assert portrait.landmarks.shape == (topo.COUNT, 3)
    eyes = portrait.landmarks[[topo.RIGHT_IRIS[0], topo.LEFT_IRIS[0]], :2]
    assert abs(eyes[0, 1] - eyes[1, 1]) < 4
    np.testing.assert_allclose(eyes.mean(axis=0), portraits.EYES_AT, atol=8)
    nose, cheek = portrait.landmarks[topo.NOSE_TIP, 2], portrait.landmarks[topo.LEFT_CHEEK, 2]
    assert nose > cheek + 20
