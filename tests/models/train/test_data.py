"""models.train.data: faces in memory or on demand, with where the face, its eyes and its mouth are."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.faceset import FaceRecord, FaceSet, FaceSetWriter, read
from models.train import data
from models.train.data import Faces, StreamedFaces, load
from pipeline.errors import InputError

EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]
MOUTH = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]


def points(size: int) -> np.ndarray:
    """Landmarks with one eye about (0.3, 0.4), the mouth about (0.5, 0.75), the rest in the middle, of the crop."""
    found = np.full((478, 2), 0.5)
    turn = np.linspace(0, 2 * np.pi, len(EYE), endpoint=False)
    found[EYE] = np.array([0.3, 0.4]) + np.stack([0.08 * np.cos(turn), 0.03 * np.sin(turn)], 1)
    turn = np.linspace(0, 2 * np.pi, len(MOUTH), endpoint=False)
    found[MOUTH] = np.array([0.5, 0.75]) + np.stack([0.12 * np.cos(turn), 0.05 * np.sin(turn)], 1)
    return found * size - 0.5


def made(folder: Path, count: int = 5, size: int = 96, coverage: float = 1.5) -> Path:
    with FaceSetWriter(folder, size, coverage) as writer:
        for i in range(count):
            crop = np.full((size, size, 3), (10 * i, 100, 200), np.uint8)
            mask = np.zeros((size, size), np.uint8)
            cv2.circle(mask, (size // 2, size // 2), size // 4, (255,), cv2.FILLED)
            writer.add(crop, mask, points(size) + i / 10, source="x", frame=i)
    return folder


def streamed(folder: Path, memory_mb: float = 0.05) -> StreamedFaces:
    found = load(read(folder), 32, 1.0, memory_mb)
    assert isinstance(found, StreamedFaces)
    return found


def test_faces_are_decoded_at_the_size_training_needs(tmp_path: Path) -> None:
    faces = load(read(made(tmp_path)), 32, 1.0, 100)
    assert isinstance(faces, Faces)
    assert faces.pictures.shape == (5, 64, 64, 6)  # 32 * 1.5 * 1.25, to the next eight
    assert faces.pictures.dtype == torch.uint8
    assert faces.reach == pytest.approx(1 / 1.5)
    assert faces.pictures[3, 0, 0, :3].tolist() == [30, 100, 200]
    taken = faces.take(torch.tensor([4, 0, 4]))
    assert taken[:, 0, 0, 0].tolist() == [40, 0, 40]
    moved = faces.to("cpu")
    assert moved.landmarks is not None and len(moved) == 5


def test_masks_say_where_the_face_and_its_parts_are(tmp_path: Path) -> None:
    faces = load(read(made(tmp_path)), 32, 1.0, 100)
    face, eyes, mouth = faces.take(torch.tensor([0]))[0, :, :, 3:].permute(2, 0, 1).int()
    assert face[32, 32] == 255 and face[2, 2] == 0
    assert eyes[25, 19] == 255 and eyes[48, 32] == 0 and eyes[25, 45] == 0
    assert mouth[48, 32] == 255 and mouth[25, 19] == 0
    assert all(len(plane.unique()) > 4 for plane in (eyes, mouth))  # soft edges, not stairs
    # The mouth's ellipse is 0.24 x 0.1 of 64 px; the line around it is about two px wide.
    lips = np.pi * 0.12 * 0.05 * 64**2
    assert 1.2 * lips < mouth.sum() / 255 < 2.1 * lips


def test_landmarks_lie_where_the_sampler_looks_for_them(tmp_path: Path) -> None:
    faces = load(read(made(tmp_path)), 32, 1.0, 100)
    assert faces.landmarks is not None and faces.landmarks.shape == (5, 478, 2)
    expected = (points(96) + 0.2 + 0.5) / 96 * 2 - 1
    np.testing.assert_allclose(faces.landmarks[2].numpy(), expected, atol=1e-3)
    # grid_sample finds the mouth there.
    centre = faces.landmarks[:1, MOUTH].mean(1)
    mouth = faces.take(torch.tensor([0])).permute(0, 3, 1, 2)[:, 5:].float()
    assert torch.nn.functional.grid_sample(mouth, centre[:, None, None], align_corners=False).item() == 255


def test_without_a_mask_the_hull_or_an_ellipse_stands_for_it(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 9, np.uint8))
    plain = load(read(tmp_path), 64, 1.0, 100)
    assert plain.landmarks is None
    planes = plain.take(torch.tensor([0]))[0]
    assert planes[32, 32, 3] == 255 and planes[2, 2, 3] == 0 and not planes[:, :, 4:].any()
    assert planes[:, :, 3].float().mean() / 255 == pytest.approx(np.pi * 0.36 * 0.45, rel=0.07)
    corners = np.full((478, 2), 32.0, np.float32)
    corners[:4] = [[8, 8], [8, 55], [55, 8], [55, 55]]
    record = FaceRecord(tmp_path / "a.png", landmarks=corners)
    hull = data.decoded(read(tmp_path), record, (corners + 0.5) / 32 - 1, 64)[:, :, 3]
    assert hull[10, 10] == 255 and hull[5, 5] == 0 and (hull > 127).mean() == pytest.approx((48 / 64) ** 2, abs=0.05)


@pytest.mark.parametrize("memory_mb", [100, 0.05])
def test_faces_with_and_without_landmarks_are_told_apart(tmp_path: Path, memory_mb: float) -> None:
    found = read(made(tmp_path, 4))
    mixed = replace(found, faces=(replace(found.faces[0], landmarks=None), *found.faces[1:]))
    faces = load(mixed, 32, 1.0, memory_mb)
    assert faces.landmarks is not None
    assert faces.landmarks.isnan().all(-1).all(-1).tolist() == [True, False, False, False]
    assert faces.take(torch.arange(4))[..., 4:].flatten(1).amax(1).tolist() == [0, 255, 255, 255]


def test_wild_landmarks_do_no_harm(tmp_path: Path) -> None:
    wild = np.full((478, 2), 1e30, np.float32)
    with FaceSetWriter(tmp_path, 64) as writer:
        writer.add(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64)), wild, source="x", frame=0)
    faces = load(read(tmp_path), 32, 1.0, 100)
    assert faces.landmarks is not None and faces.landmarks.abs().max() <= 4
    assert not faces.take(torch.tensor([0]))[..., 4:].any()


def test_a_set_too_large_for_memory_is_streamed_and_the_same(tmp_path: Path) -> None:
    made(tmp_path, 10)
    whole, some = load(read(tmp_path), 32, 1.0, 100), streamed(tmp_path)
    assert (len(some), some.passed_over, some.reach) == (10, 0, whole.reach)
    chosen = torch.tensor([7, 1, 7, 9, 0])
    assert torch.equal(some.take(chosen), whole.take(chosen))
    assert some.landmarks is not None and whole.landmarks is not None
    assert torch.equal(some.landmarks, whole.landmarks)
    assert torch.equal(some.to("cpu").take(chosen), whole.take(chosen))


def test_streaming_keeps_what_was_used_last_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = streamed(made(tmp_path), memory_mb=2.5 * 64 * 64 * 6 / 2**20)  # two faces
    seen: list[str] = []
    decoded = data.decoded

    def counted(source: FaceSet, face: FaceRecord, *rest: object) -> np.ndarray:
        seen.append(face.crop.name[5])
        return decoded(source, face, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "decoded", counted)
    for place in (0, 1, 0, 2, 0, 1):
        faces.take(torch.tensor([place]))
    assert seen == ["0", "1", "2", "1"]
    assert faces.within(100)._room > 1000


def test_streamed_faces_cross_to_another_process_without_pictures(tmp_path: Path) -> None:
    faces = streamed(made(tmp_path, 8))
    faces.take(torch.arange(8))
    packed = pickle.dumps(faces)
    assert len(packed) < 8 * (478 * 8 + 1000) + 5000
    assert torch.equal(pickle.loads(packed).take(torch.tensor([3])), faces.take(torch.tensor([3])))


def test_threads_may_ask_at_the_same_time(tmp_path: Path) -> None:
    faces = streamed(made(tmp_path, 8))
    wrong: list[int] = []

    def ask(place: int) -> None:
        for _ in range(10):
            if faces.take(torch.tensor([place]))[0, 0, 0, 0] != 10 * place:
                wrong.append(place)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("memory_mb", [100, 0.05])
def test_damaged_faces_are_passed_over_by_name(tmp_path: Path, memory_mb: float) -> None:
    made(tmp_path)
    (tmp_path / "crops" / "000002.png").write_bytes(b"x")
    whole = (tmp_path / "masks" / "000003.png").read_bytes()
    (tmp_path / "masks" / "000003.png").write_bytes(whole[:-20])
    faces = load(read(tmp_path), 32, 1.0, memory_mb)
    assert faces.take(torch.arange(len(faces)))[:, 0, 0, 0].tolist() == [0, 10, 40]
    assert faces.landmarks is not None
    np.testing.assert_allclose(faces.landmarks[2].numpy(), (points(96) + 0.4 + 0.5) / 48 - 1, atol=1e-3)
    assert len(faces.junk) == 2
    assert "crops/000002.png" in faces.junk[0] and "masks/000003.png" in faces.junk[1]
    for file in (tmp_path / "crops").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(InputError, match="no face that can be read"):
        load(read(tmp_path), 32, 1.0, memory_mb)


def test_a_face_that_disappears_later_is_named(tmp_path: Path) -> None:
    faces = streamed(made(tmp_path))
    (tmp_path / "crops" / "000001.png").unlink()
    with pytest.raises(InputError, match=r"000001\.png cannot be read"):
        faces.take(torch.tensor([1]))


def test_crops_that_show_too_little_or_something_else_are_refused(tmp_path: Path) -> None:
    found = read(made(tmp_path))
    with pytest.raises(InputError, match=r"covers 1\.5 of a face, the model sees 2"):
        load(found, 32, 2.0, 100)
    with pytest.raises(InputError, match="holds face crops, the model sees head crops; extract it with --crop head"):
        load(found, 32, 1.0, 100, "head")
    assert len(load(replace(found, crop="head"), 32, 1.0, 100, "head")) == 5
