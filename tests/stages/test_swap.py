"""stages.swap: batches over frames, order, waiting, errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import checkpoint
from models.autoencoders import original
from pipeline.errors import ConfigError, RequirementError, WeightsError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Clip, Face, Frame, Picture, Pulled
from stages.swap import Config, Swap

MINI = original.Config(32, (8, 16, 16), 16, 8, 8, (8, 8, 8))
GRAY = PIXEL_FORMATS["gray"]
CLIP = Clip(1, "/in", "/out", "/part", 4, 4, GRAY, Fraction(1, 25))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    model, description = checkpoint.new("original", MINI, seed=3)
    checkpoint.save(made, model, description)
    return made


@pytest.fixture(scope="module")
def stage(folder: Path) -> Swap:
    return Swap(config(folder))


def config(folder: Path, **changes: object) -> Config:
    return Config(**({"model": str(folder), "batch": 4, "precision": "fp32", "device": "cpu", "threads": 1} | changes))  # type: ignore[arg-type]


def face(seed: int, side: int = 32, size: float = 10) -> Face:
    crop = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Face((0, 0, size, size), 1, np.zeros((478, 2), np.float32), frame_to_crop=np.eye(2, 3), aligned=crop)


def frames(counts: list[int]) -> list[Frame]:
    picture = Picture(GRAY, 4, 4, (np.zeros((4, 4), np.uint8),))
    return [
        Frame(1, i, 40 * i, picture, tuple(face(100 * i + j, size=10 + j) for j in range(count)))
        for i, count in enumerate(counts)
    ]


def run(stage: Swap, given_frames: Pulled) -> tuple[list[Frame], dict[str, object]]:
    out: list[Frame] = []
    generator = stage(CLIP, given_frames)
    while True:
        try:
            out.append(next(generator))
        except StopIteration as end:
            return out, end.value


def by_hand(folder: Path, crop: np.ndarray, to: str = "b") -> np.ndarray:
    model, _ = checkpoint.load(folder)
    batch = torch.zeros(4, 3, 32, 32)
    batch[0] = torch.from_numpy(crop).permute(2, 0, 1) / 255
    with torch.inference_mode():
        picture = model.swap(batch, to)[0].permute(1, 2, 0).numpy()  # type: ignore[operator]
    return np.rint(picture * 255).astype(np.uint8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(0, 6), max_size=12),
    answers=st.lists(st.booleans(), min_size=80, max_size=80),
)
def test_every_frame_leaves_in_order_with_every_face(stage: Swap, counts: list[int], answers: list[bool]) -> None:
    came = frames(counts)
    answer = iter(answers)
    out, report = run(stage, Pulled(came, lambda timeout: next(answer)))
    assert [f.index for f in out] == [f.index for f in came]
    assert [len(f.faces) for f in out] == counts
    assert all(f.swapped is not None and f.swapped.dtype == np.uint8 for o in out for f in o.faces)
    assert report["faces"] == sum(counts)


def test_batches_give_what_each_face_gives_alone(folder: Path, stage: Swap) -> None:
    came = frames([1, 3, 0, 6, 1])
    together, report = run(stage, Pulled(came))
    assert report["batches"] == 3  # 11 faces by 4
    alone, report = run(stage, Pulled(came, lambda timeout: False))
    assert report["batches"] == 5  # each frame at once, six faces in two
    for one, other, before in zip(together, alone, came, strict=True):
        for a, b, crop in zip(one.faces, other.faces, before.faces, strict=True):
            np.testing.assert_array_equal(a.swapped, b.swapped)
            assert a.aligned is crop.aligned
            assert crop.aligned is not None
            assert a.swapped is not None
            difference = a.swapped.astype(int) - by_hand(folder, crop.aligned)
            assert np.abs(difference).max() <= 1


def test_a_frame_leaves_as_soon_as_its_last_face_is_done(stage: Swap) -> None:
    taken: list[int] = []

    def source() -> Iterator[Frame]:
        for frame in frames([0, 3, 0, 2, 1]):
            taken.append(frame.index)
            yield frame

    generator = stage(CLIP, Pulled(source()))
    assert next(generator).index == 0
    assert taken == [0]  # no face, nothing to wait for
    assert next(generator).index == 1
    assert taken == [0, 1, 2, 3]  # the fourth face came with frame 3
    assert next(generator).index == 2
    generator.close()


def test_a_full_batch_waits_for_nothing(stage: Swap) -> None:
    def ready(timeout: float) -> bool:
        raise AssertionError("asked although the batch was full")

    out, report = run(stage, Pulled(frames([4, 4]), ready))
    assert report["batches"] == 2
    assert len(out) == 2


def test_the_network_sees_one_batch_size_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Swap(config(folder))
    swap, sizes = own._network._model.swap, set()

    def counting(batch: torch.Tensor, to: str) -> torch.Tensor:
        sizes.add(len(batch))
        return swap(batch, to)

    monkeypatch.setattr(own._network._model, "swap", counting)
    run(own, Pulled(frames([1, 6, 3])))
    assert sizes == {4}


def test_no_face_waits_longer_than_it_may(folder: Path) -> None:
    hurried = Swap(config(folder, max_wait_ms=0))
    out, report = run(hurried, Pulled(frames([1, 1, 1])))
    assert report["batches"] == 3
    assert len(out) == 3


def test_waiting_asks_for_no_longer_than_allowed(folder: Path) -> None:
    patient = Swap(config(folder, max_wait_ms=30))
    asked: list[float] = []

    def ready(timeout: float) -> bool:
        asked.append(timeout)
        return False

    run(patient, Pulled(frames([1, 1]), ready))
    assert len(asked) == 2
    assert all(0 < timeout <= 0.03 for timeout in asked)


def test_only_the_largest_face(folder: Path) -> None:
    out, report = run(Swap(config(folder, faces="largest")), Pulled(frames([3, 0, 1])))
    assert report["faces"] == 2
    assert [f.swapped is not None for f in out[0].faces] == [False, False, True]


def test_faces_without_a_crop_pass_untouched(stage: Swap) -> None:
    (frame,) = frames([2])
    frame = frame.with_(faces=(frame.faces[0].with_(aligned=None), frame.faces[1]))
    out, report = run(stage, Pulled([frame]))
    assert [f.swapped is not None for f in out[0].faces] == [False, True]
    assert report["faces"] == 1


def test_the_picture_lies_where_the_frame_allocates(stage: Swap) -> None:
    given_out: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: object) -> np.ndarray:
        given_out.append(np.empty(shape, dtype))  # type: ignore[call-overload]
        return given_out[-1]

    out, _ = run(stage, Pulled([frames([1])[0].with_(allocate=allocate)]))
    assert out[0].faces[0].swapped is given_out[0]


def test_who_is_put_there(folder: Path, stage: Swap) -> None:
    came = frames([1])
    as_a, _ = run(Swap(config(folder, to="a")), Pulled(came))
    as_b, _ = run(stage, Pulled(came))
    a, crop = as_a[0].faces[0].swapped, came[0].faces[0].aligned
    assert a is not None
    assert crop is not None
    assert np.abs(a.astype(int) - by_hand(folder, crop, "a")).max() <= 1
    assert (a != as_b[0].faces[0].swapped).any()


def test_bf16_differs_by_little(folder: Path, stage: Swap) -> None:
    came = frames([4, 4])
    rounded, report = run(Swap(config(folder, precision="bf16")), Pulled(came))
    exact, _ = run(stage, Pulled(came))
    assert report["precision"] == "bf16"
    for a, b in zip(rounded, exact, strict=True):
        for one, other in zip(a.faces, b.faces, strict=True):
            assert np.abs(one.swapped.astype(int) - other.swapped).max() <= 4  # type: ignore[union-attr]


def test_a_full_gpu_halves_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Swap(config(folder))
    network = small._network
    swap = network._model.swap

    def only_two(batch: torch.Tensor, to: str) -> torch.Tensor:
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return swap(batch, to)

    monkeypatch.setattr(network._model, "swap", only_two)
    out, report = run(small, Pulled(frames([5])))
    assert report["batch"] == 2
    assert all(f.swapped is not None for f in out[0].faces)
    monkeypatch.setattr(network._model, "swap", lambda batch, to: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError()))
    with pytest.raises(RequirementError, match="memory for one face"):
        run(small, Pulled(frames([1])))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "/nowhere"}, WeightsError, "/nowhere does not exist"),
        ({"to": "c"}, ConfigError, "knows a and b"),
        ({"device": "gpu"}, ConfigError, "device must be"),
        ({"device": "cuda:x"}, ConfigError, "device must be"),
        ({"precision": "int8"}, ConfigError, "precision must be"),
        ({"precision": "fp16"}, ConfigError, "fp16 needs a CUDA device"),
        ({"batch": 0}, ConfigError, "swap.batch"),
        ({"faces": "some"}, ConfigError, "swap.faces"),
        ({"max_wait_ms": -1}, ConfigError, "negative"),
    ],
)
def test_wrong_settings(folder: Path, changes: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Swap(config(folder, **changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_gpu_is_named(folder: Path) -> None:
    with pytest.raises(RequirementError, match="no CUDA device"):
        Swap(config(folder, device="cuda"))


def test_a_crop_of_another_size_is_refused(stage: Swap) -> None:
    (frame,) = frames([1])
    with pytest.raises(ConfigError, match="sees crops of 32 px"):
        run(stage, Pulled([frame.with_(faces=(face(1, side=64),))]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_gives_what_the_cpu_gives(folder: Path, stage: Swap, precision: str) -> None:
    came = frames([4, 4])
    there, report = run(Swap(config(folder, device="cuda", precision=precision)), Pulled(came))
    here, _ = run(stage, Pulled(came))
    assert report["device"] == "cuda"
    for a, b in zip(there, here, strict=True):
        for one, other in zip(a.faces, b.faces, strict=True):
            assert np.abs(one.swapped.astype(int) - other.swapped).max() <= 4  # type: ignore[union-attr]


def test_importing_the_stage_loads_no_torch() -> None:
    code = "import sys, stages.swap, models.description; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
