"""models.train.augment: where pixels come from, what stays the same, and that chance is the generator's alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.train.augment import draw, plain
from models.train.batch import Batch
from models.train.data import Faces
from models.train.recipe import Augment

#: Nothing at all is done to a face.
STILL = Augment(zoom=0, rotation=0, shift=0, flip=0, lightness=0, colour=0, warp="off")

#: As usual, but for colours and bends: what is seen tells where it is from.
MOVING = Augment(lightness=0, colour=0, warp="off")

EVERYTHING = Augment(clahe=0.5, transfer=0.5, blur=0.5, compression=0.5, warp="landmarks")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramps(size: int = 96, reach: float = 2 / 3) -> Faces:
    """Red tells x, green tells y, blue is 128; so do the masks: x, y, and the middle."""
    ramp = np.linspace(0, 255, size).round().astype(np.uint8)
    picture = np.empty((1, size, size, 6), np.uint8)
    picture[..., 0] = picture[..., 3] = ramp[None, None, :]
    picture[..., 1] = picture[..., 4] = ramp[None, :, None]
    picture[..., 2] = 128
    picture[..., 5] = 0
    picture[:, size // 2 - 4 : size // 2 + 4, size // 2 - 4 : size // 2 + 4, 5] = 255
    return Faces(pictures=torch.from_numpy(picture), landmarks=None, reach=reach)


def smooth(count: int = 6, size: int = 96, seed: int = 0) -> Faces:
    """Faces that look like nothing in particular, with landmarks."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 500, (count, size, size, 6)) + rng.uniform(80, 180, (count, 1, 1, 6))
    pictures = np.stack([cv2.GaussianBlur(each, (0, 0), 4) for each in noise]).clip(0, 255).astype(np.uint8)
    landmarks = rng.uniform(-0.5, 0.5, (1, 478, 2)) + rng.normal(0, 0.02, (count, 478, 2))
    return Faces(pictures=torch.from_numpy(pictures), landmarks=torch.from_numpy(landmarks).float(), reach=2 / 3)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Batch))


def test_plain_is_the_middle_of_the_crop() -> None:
    faces = smooth(1)
    middle = faces.pictures[0, 16:80, 16:80].numpy()  # 64 of 96: no px is between two
    seen = plain(faces, torch.tensor([0]), 64)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen * 255, middle[..., :3], atol=1e-3)


def test_with_all_switched_off_a_batch_is_the_plain_faces() -> None:
    faces = smooth()
    batch = draw(faces, 8, (64, 64), STILL, generator())
    chosen = torch.randint(len(faces), (8,), generator=generator())
    middle = faces.pictures[chosen, 16:80, 16:80, 3:4].permute(0, 3, 1, 2)
    assert torch.equal(batch.input, plain(faces, chosen, 64))
    assert torch.equal(batch.target, batch.input)
    torch.testing.assert_close(batch.mask * 255, middle.float(), atol=1e-3, rtol=0)


def test_a_batch_has_the_shapes_that_it_says() -> None:
    for config in (STILL, Augment(), EVERYTHING):
        batch = draw(smooth(), 3, (32, 64), config, generator(), smooth(seed=1))
        assert batch.input.shape == (3, 3, 32, 32)
        assert batch.target.shape == (3, 3, 64, 64)
        for part in (batch.mask, batch.eyes, batch.mouth):
            assert part.shape == (3, 1, 64, 64)
            assert part.is_contiguous()
        for part in (batch.input, batch.target):
            assert part.is_contiguous(memory_format=torch.channels_last)
        for field in fields(Batch):
            part = getattr(batch, field.name)
            assert part.dtype == torch.float32
            assert part.min() >= 0 and part.max() <= 1, field.name


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.4, 1))
def test_turns_zooms_and_shifts_stay_within_bounds(seed: int, reach: float) -> None:
    config = replace(MOVING, flip=0)
    target = draw(ramps(96, reach), 16, (64, 64), config, generator(seed)).target
    x, y = (target[:, c, 32, 32] * 2 - 1 for c in (0, 1))
    assert (x.abs() < 0.15 * reach + 0.03).all()  # shifted by at most 5 % of the square, which is 2 wide
    assert (y.abs() < 0.15 * reach + 0.03).all()
    across = (target[:, :2, 32, 48] - target[:, :2, 32, 16]) * 2
    angle = torch.atan2(across[:, 1], across[:, 0]).rad2deg()
    assert (angle.abs() < 11).all()
    down = (target[:, :2, 48, 32] - target[:, :2, 16, 32]) * 2
    assert torch.allclose(down, torch.stack((-across[:, 1], across[:, 0]), 1), atol=0.02)  # no shear
    length = across.square().sum(1).sqrt() / reach
    assert ((length > 0.93) & (length < 1.07)).all()


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (replace(STILL, rotation=40), ("angle", 40)),
        (replace(STILL, zoom=0.4), ("length", 0.4)),
        (replace(STILL, shift=0.2), ("place", 0.2)),
    ],
)
def test_each_move_is_made_and_no_other(config: Augment, most: tuple[str, float]) -> None:
    target = draw(ramps(), 64, (64, 64), config, generator()).target
    place = (target[:, :2, 31:33, 31:33].mean((2, 3)) * 2 - 1) * (3 / 2) / 2  # of the square's side
    across = (target[:, :2, 32, 48] - target[:, :2, 32, 16]) * 2
    spans = {
        "angle": torch.atan2(across[:, 1], across[:, 0]).rad2deg().abs().max().item(),
        "length": (across.square().sum(1).sqrt() * (3 / 2) - 1).abs().max().item(),
        "place": place.abs().max().item(),
    }
    moved, span = most
    assert 0.9 * span < spans.pop(moved) < 1.05 * span
    assert spans.pop("angle", 0.0) < 1.5
    assert all(other < 0.02 for other in spans.values())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_masks_move_with_the_target(seed: int) -> None:
    batch = draw(ramps(), 8, (48, 64), MOVING, generator(seed))
    assert torch.equal(batch.mask[:, 0], batch.target[:, 0])
    assert torch.equal(batch.eyes[:, 0], batch.target[:, 1])


def test_flips_are_made_with_their_chance_and_nothing_else_changes() -> None:
    for chance in (0.0, 0.25, 1.0):
        batch = draw(ramps(), 400, (16, 16), replace(STILL, flip=chance), generator())
        mirrored = batch.target[:, 0, 8, 14] < batch.target[:, 0, 8, 2]
        assert mirrored.float().mean().item() == pytest.approx(chance, abs=0.07)
        plainly = plain(ramps(), torch.zeros(1, dtype=torch.int64), 16)[0]
        assert torch.allclose(batch.target[mirrored], plainly.flip(2), atol=1e-6)
        assert torch.allclose(batch.target[~mirrored], plainly, atol=1e-6)
        assert torch.equal(batch.mask[:, 0], batch.target[:, 0])


def test_without_bends_and_traces_input_and_target_are_one() -> None:
    config = replace(EVERYTHING, warp="off", blur=0, compression=0)
    batch = draw(smooth(), 8, (64, 64), config, generator(), smooth(seed=1))
    assert torch.equal(batch.input, batch.target)


def test_the_warp_moves_the_input_only_and_by_little() -> None:
    still = draw(ramps(), 32, (64, 64), MOVING, generator(3))
    warped = draw(ramps(), 32, (64, 64), replace(MOVING, warp="grid"), generator(3))
    assert torch.equal(still.target, warped.target)
    moved_px = (warped.input - warped.target)[:, :2] * 96  # ramps: a level is a place
    deviation = moved_px.std().item() / 96 * 1.5  # of the model's square
    assert 0.3 * 5 / 256 < deviation < 1.2 * 5 / 256
    centre = moved_px[:, :, 32, 32]
    assert (centre.std(0) > 0.2).all()
    more = draw(ramps(), 32, (64, 64), replace(MOVING, warp="grid", warp_amount=10 / 256), generator(3))
    assert (more.input - more.target).std() > 1.7 * (warped.input - warped.target).std()


def test_what_a_model_shall_keep_is_in_both_and_what_it_shall_undo_in_the_input() -> None:
    still = draw(smooth(), 8, (64, 64), MOVING, generator(), smooth(seed=1))
    for switch in ({"lightness": 0.2}, {"colour": 0.1}, {"clahe": 1.0}, {"transfer": 1.0}):
        batch = draw(smooth(), 8, (64, 64), replace(MOVING, **switch), generator(), smooth(seed=1))
        assert torch.equal(batch.input, batch.target), switch
        assert (batch.target - still.target).abs().mean() > 0.005, switch
        assert torch.equal(batch.mask, still.mask), switch
    for switch in ({"warp": "grid"}, {"warp": "landmarks"}, {"blur": 1.0}, {"compression": 1.0}):
        batch = draw(smooth(), 8, (64, 64), replace(MOVING, **switch), generator(), smooth(seed=1))
        assert torch.equal(batch.target, still.target), switch
        assert torch.equal(batch.mask, still.mask), switch
        assert (batch.input - still.input).abs().mean() > 0.0005, switch


def test_the_warp_to_landmarks_needs_landmarks_and_is_else_the_one_by_a_grid() -> None:
    config = replace(MOVING, warp="landmarks")
    grid = draw(smooth(), 8, (64, 64), replace(MOVING, warp="grid"), generator())
    assert not same(draw(smooth(), 8, (64, 64), config, generator(), smooth(seed=1)), grid)
    assert same(draw(smooth(), 8, (64, 64), config, generator()), grid)
    blind = replace(smooth(seed=1), landmarks=None)
    assert same(draw(smooth(), 8, (64, 64), config, generator(), blind), grid)
    assert same(draw(replace(smooth(), landmarks=None), 8, (64, 64), config, generator(), smooth(seed=1)), grid)
    known = smooth()
    assert known.landmarks is not None
    known.landmarks[0] = torch.nan  # one face only
    some = draw(known, 8, (64, 64), config, generator(), smooth(seed=1))
    first = torch.randint(6, (8,), generator=generator()) == 0
    assert 0 < first.sum() < 8
    assert torch.equal(some.input[first], grid.input[first])
    assert not torch.isclose(some.input[~first], grid.input[~first]).all(3).all(2).all(1).any()


def test_towards_ones_own_landmarks_only_a_little_unrest_is_left() -> None:
    faces = replace(ramps(), landmarks=smooth(1).landmarks)
    config = replace(STILL, warp="landmarks")
    batch = draw(faces, 32, (64, 64), config, generator(), faces)
    moved = (batch.input - batch.target)[:, :2, 20:44, 20:44] * 1.5  # of the square's side, among the landmarks
    assert 0.05 * 2 / 256 < moved.std() < 2 / 256


def test_the_generator_decides_everything() -> None:
    for config in (Augment(), EVERYTHING):
        one, other, third = (draw(smooth(), 4, (64, 64), config, generator(seed), smooth(seed=9)) for seed in (1, 1, 2))
        assert same(one, other)
        assert not torch.equal(one.input, third.input)


def test_the_number_of_threads_decides_nothing() -> None:
    batches = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        batches.append(draw(smooth(), 16, (64, 64), EVERYTHING, generator(), smooth(seed=1)))
    assert same(*batches)


def test_a_source_may_decode_faces_as_they_are_asked_for() -> None:
    class Decoded:
        reach = 2 / 3
        landmarks = smooth().landmarks
        asked: list[int] = []  # noqa: RUF012

        def __len__(self) -> int:
            return 6

        def take(self, chosen: torch.Tensor) -> torch.Tensor:
            self.asked += chosen.tolist()
            return smooth().pictures[chosen]

    decoded = Decoded()
    assert same(draw(decoded, 5, (64, 64), Augment(), generator()), draw(smooth(), 5, (64, 64), Augment(), generator()))
    assert len(decoded.asked) == 5  # and no face but those
    assert torch.equal(plain(decoded, torch.tensor([1, 4]), 64), plain(smooth(), torch.tensor([1, 4]), 64))
