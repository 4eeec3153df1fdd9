"""stages.swap: batches over frames, order, waiting, errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import checkpoint, description
from models.autoencoder import Decoded
from models.autoencoders import dfaker, original
from models.layer_options import LayerOptions
from pipeline.errors import ChangedError, ConfigError, DeviceError, RequirementError, UnderstudyError, WeightsError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Clip, Face, Frame, Picture, Pulled
from stages.blend import Blend
from stages.blend import Config as BlendConfig
from stages.mask import soft_edged
from stages.swap import Config, Swap, settled

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
        picture = model.swap(batch, to).picture[0].permute(1, 2, 0).numpy()
    return np.rint(picture * 255).astype(np.uint8)


def test_a_model_that_was_replaced_since_it_was_asked_about_is_not_used(folder: Path) -> None:
    digest = description.read(folder).digest
    assert Swap(config(folder, digest=digest))
    with pytest.raises(ChangedError, match=f"the model {folder} was saved anew since it was asked who is in it"):
        Swap(config(folder, digest="0" * 64))


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_face_comes_out_alike_in_any_company(folder: Path, precision: str) -> None:
    """Whatever its place in a batch, its neighbours, how many there are, and the number of threads: to the bit."""
    own = Swap(config(folder, batch=6, precision=precision))
    crops = [seen.aligned for frame in frames([6]) for seen in frame.faces]
    want = [made.picture for made in own._network(crops)]  # type: ignore[arg-type]
    for seed in range(4):
        torch.set_num_threads(1 + seed % 3)
        rng = np.random.default_rng(seed)
        some = rng.permutation(6)[: rng.integers(1, 7)]
        got = own._network([crops[place] for place in some])  # type: ignore[misc]
        for place, made in zip(some, got, strict=True):
            np.testing.assert_array_equal(made.picture, want[place])
    torch.set_num_threads(1)


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

    def counting(batch: torch.Tensor, to: str) -> Decoded:
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

    def only_two(batch: torch.Tensor, to: str) -> Decoded:
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return swap(batch, to)

    monkeypatch.setattr(network._model, "swap", only_two)
    out, report = run(small, Pulled(frames([5])))
    assert (report["batch"], report["batch_reduced_from"]) == (2, 4)
    assert all(f.swapped is not None for f in out[0].faces)
    monkeypatch.setattr(network._model, "swap", swap)
    _, report = run(small, Pulled(frames([5])))
    assert report["batch"] == 4, "what becomes of a clip does not hang on the one before"
    assert "batch_reduced_from" not in report
    monkeypatch.setattr(network._model, "swap", lambda batch, to: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError()))
    with pytest.raises(RequirementError, match="memory for one face"):
        run(small, Pulled(frames([1])))


def failing(*errors: Exception) -> Callable[[torch.Tensor, str], Decoded]:
    """A network that raises these one after the other."""
    left = list(errors)

    def swap(batch: torch.Tensor, to: str) -> Decoded:
        raise left.pop(0)

    return swap


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."),
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    ],
    ids=str,
)
def test_a_failed_gpu_is_told_from_a_clip_that_fails(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Swap(config(folder))
    monkeypatch.setattr(own._network._model, "swap", failing(error))
    with pytest.raises(DeviceError, match=r"the GPU cpu failed .* set swap.device to cpu") as caught:
        run(own, Pulled(frames([1])))
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnderstudyError)
    assert caught.value.exit_code == 9


def test_a_fault_of_ours_is_no_fault_of_the_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Swap(config(folder))
    monkeypatch.setattr(own._network._model, "swap", failing(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="shapes") as caught:
        run(own, Pulled(frames([1])))
    assert not isinstance(caught.value, UnderstudyError)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=str,
)
def test_whoever_runs_out_of_memory_goes_on_with_less(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Swap(config(folder))
    swap, left = own._network._model.swap, [error]

    def once(batch: torch.Tensor, to: str) -> Decoded:
        if left:
            raise left.pop()
        return swap(batch, to)

    monkeypatch.setattr(own._network._model, "swap", once)
    out, report = run(own, Pulled(frames([3])))
    assert report["batch"] == 2
    assert all(f.swapped is not None for f in out[0].faces)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned masks, and gives twice what it sees: from 64 px to 128."""
    made = tmp_path_factory.mktemp("masked")
    model, description = checkpoint.new(
        "dfaker", dfaker.PRESETS["sketch"], layers=LayerOptions(mask=True), people=("a", "b", "c"), seed=3
    )
    checkpoint.save(made, model, description)
    return made


def with_mask(side: int) -> Frame:
    """A frame with a face of 64 px whose given mask is a soft disc."""
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    disc = soft_edged((np.hypot(x, y) < 0.3 * side).astype(np.float32), 0.0, 0.1)
    (frame,) = frames([1])
    return frame.with_(faces=(face(1, side=64).with_(mask=disc),))


def test_a_learned_mask_takes_the_place_of_the_given_one(masked: Path) -> None:
    frame = with_mask(48)
    before = frame.faces[0].mask
    assert before is not None
    found = {}
    for kind in ("given", "learned", "both"):
        own = Swap(config(masked, mask=kind))
        given_out: list[np.ndarray] = []

        def allocate(shape: tuple[int, ...], dtype: object, out: list[np.ndarray] = given_out) -> np.ndarray:
            out.append(np.empty(shape, dtype))  # type: ignore[call-overload]
            return out[-1]

        own._network._model.decode = lifted(own._network._model.decode)  # type: ignore[method-assign]
        (out,), _ = run(own, Pulled([frame.with_(allocate=allocate)]))
        mask, swapped = out.faces[0].mask, out.faces[0].swapped
        assert mask is not None
        assert swapped is not None
        assert swapped.shape == (128, 128, 3)
        assert (mask.shape, mask.dtype) == ((48, 48), np.float32)
        assert any(mask is made for made in given_out) == (kind != "given")
        found[kind] = mask
    assert found["given"] is before
    assert not np.array_equal(found["learned"], before)
    assert found["learned"][24, 24] > 0.9  # the stand-in is sure of the middle and right half
    assert found["learned"][24, 4:10].max() == 0
    np.testing.assert_array_equal(found["both"], np.minimum(found["learned"], before))
    np.testing.assert_array_equal(before, with_mask(48).faces[0].mask)  # type: ignore[arg-type]  # left as it came


def lifted(decode: Callable[[torch.Tensor, str], Decoded]) -> Callable[[torch.Tensor, str], Decoded]:
    """The model's decoder, with its mask set to what a trained one might say: the right half is face."""

    def decoded(code: torch.Tensor, person: str) -> Decoded:
        made = decode(code, person)
        if made.mask is None:
            return made
        half = torch.full_like(made.mask, 0.02)
        half[..., half.shape[-1] // 2 - 8 :] = 0.98
        return Decoded(made.pictures, half)

    return decoded


def test_masks_that_nobody_asked_for_are_not_computed(masked: Path) -> None:
    plain, learned = Swap(config(masked)), Swap(config(masked, mask="learned"))
    names = [set(stage._network._model.state_dict()) for stage in (plain, learned)]
    assert any(".mask." in name for name in names[1])
    assert not any(".mask." in name for name in names[0])
    frame = with_mask(48)
    (one,), _ = run(plain, Pulled([frame]))
    (other,), _ = run(learned, Pulled([frame]))
    np.testing.assert_array_equal(one.faces[0].swapped, other.faces[0].swapped)


def test_without_a_given_mask_the_learned_one_has_the_pictures_size(masked: Path) -> None:
    frame = with_mask(48)
    frame = frame.with_(faces=(frame.faces[0].with_(mask=None),))
    for kind in ("learned", "both"):
        (out,), _ = run(Swap(config(masked, mask=kind)), Pulled([frame]))
        mask = out.faces[0].mask
        assert mask is not None
        assert mask.shape == (128, 128)


@pytest.mark.parametrize(("size", "side"), [(128, 128), (128, 48), (64, 128)])
def test_a_settled_mask_is_sure_and_ends_before_the_border(size: int, side: int) -> None:
    faint = settled(np.full((size, size), 0.03, np.float32), side)
    full = settled(np.full((size, size), 0.97, np.float32), side)
    half = settled(np.full((size, size), 0.5, np.float32), side)
    for mask in (faint, full, half):
        assert (mask.shape, mask.dtype) == ((side, side), np.float32)
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert edge.max() == 0
        assert mask[0 : side // 10, 0 : side // 10].max() == 0  # the corners are round
    assert faint.max() == 0
    assert full[side // 2, side // 2] == 1
    assert half[side // 2, side // 2] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["given", "learned", "both"])
def test_a_face_larger_than_its_crop_is_put_where_the_crop_was(masked: Path, kind: str) -> None:
    """A crop of 64 px over a picture's px 20..83 comes back as 128 px, and lands on the same px."""
    rgb = PIXEL_FORMATS["rgb24"]
    clip = Clip(1, "/in", "/out", "/part", 120, 100, rgb, Fraction(1, 25))
    plane = np.random.default_rng(4).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    crop = plane[10:74, 20:84].copy()
    matrix = np.array([[1.0, 0, -20], [0, 1, -10]])
    face_in = with_mask(48).faces[0].with_(frame_to_crop=matrix, aligned=crop)
    frame = Frame(1, 0, 0, Picture(rgb, 120, 100, (plane.copy(),)), (face_in,))
    own = Swap(config(masked, mask=kind))
    own._network._model.decode = striped(own._network._model.decode)  # type: ignore[method-assign]
    (swapped,), _ = run(own, Pulled([frame]))
    (blended,) = Blend(BlendConfig("none"))(clip, Pulled([swapped]))
    (result,) = blended.picture.planes
    changed = (result != plane).any(-1)
    assert changed[42, 52]
    inside = np.zeros_like(changed)
    inside[10:74, 20:84] = True
    assert not changed[~inside].any()
    # the picture's left half is dark, its right half light, exactly where the crop's middle was: x = 52
    assert result[42, 46:50].max() < 60
    assert result[42, 54:58].min() > 195


def striped(decode: Callable[[torch.Tensor, str], Decoded]) -> Callable[[torch.Tensor, str], Decoded]:
    """The model's decoder, its picture dark on the left and light on the right, with a smaller one before it."""

    def decoded(code: torch.Tensor, person: str) -> Decoded:
        made = decode(code, person)
        picture = torch.full_like(made.picture, 0.1)
        picture[..., picture.shape[-1] // 2 :] = 0.9
        small = torch.ones_like(picture[..., ::2, ::2])
        return Decoded((small, picture), None if made.mask is None else torch.full_like(made.mask, 0.98))

    return decoded


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
        ({"mask": "drawn"}, ConfigError, "swap.mask must be given, learned or both, not 'drawn'"),
        ({"on_device_fault": "pray"}, ConfigError, "swap.on_device_fault must be restart, cpu or stop, not 'pray'"),
        ({"max_wait_ms": float("nan")}, ConfigError, "swap.max_wait_ms and swap.threads cannot be negative"),
        ({"mask": "learned"}, ConfigError, "has learned no mask; use swap.mask given, or train one"),
        ({"mask": "both"}, ConfigError, "has learned no mask"),
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
