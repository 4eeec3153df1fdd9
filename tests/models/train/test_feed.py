"""models.train.feed: a step's batches are a function of the step, and the way they come is chosen well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from models.faceset import FaceSetWriter, read
from models.train import augment, data, feed
from models.train.batch import Batch
from models.train.data import Faces, StreamedFaces
from models.train.feed import Drawer, Resident, open_feed
from models.train.recipe import Augment, Config, Data
from pipeline.errors import RequirementError

CPU = torch.device("cpu")
SIZES = (16, 32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(seed: int, count: int = 8) -> Faces:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (count, 40, 40, 6), generator=generator, dtype=torch.uint8)
    return Faces(pictures=pictures, landmarks=torch.rand(count, 478, 2, generator=generator) - 0.5, reach=2 / 3)


def people(*names: str) -> dict[str, Faces]:
    return {name: noise(ord(name)) for name in names}


def config(**settings: object) -> Config:
    return replace(Config(batch=4, data=Data(workers=0), augment=Augment(transfer=0.5, warp="landmarks")), **settings)


def same(one: dict[str, Batch], other: dict[str, Batch]) -> bool:
    return list(one) == list(other) and all(
        torch.equal(getattr(one[person], f.name), getattr(other[person], f.name))
        for person in one
        for f in fields(Batch)
    )


def test_a_steps_batches_depend_on_the_step_the_seed_and_the_rank_alone() -> None:
    with open_feed(people("a", "b"), SIZES, config(), CPU) as drawn:
        forward = [drawn.batches(step) for step in range(4)]
        assert all(same(drawn.batches(step), forward[step]) for step in (3, 1, 0, 2))
    with open_feed(people("a", "b"), SIZES, config(), CPU) as again:
        assert same(again.batches(2), forward[2])
    for other in (Drawer(people("a", "b"), SIZES, config(seed=1)), Drawer(people("a", "b"), SIZES, config(), rank=1)):
        assert not torch.equal(other(2)["a"].input, forward[2]["a"].input)
    inputs = [batch.input for step in forward for batch in step.values()]
    assert not any(torch.equal(one, other) for n, one in enumerate(inputs) for other in inputs[:n])
    assert forward[0]["a"].input.shape == (4, 3, 16, 16) and forward[0]["a"].target.shape == (4, 3, 32, 32)


def test_a_person_draws_the_same_whoever_else_is_there() -> None:
    settings = config(augment=Augment())
    two, three = Drawer(people("a", "b"), SIZES, settings)(5), Drawer(people("a", "b", "c"), SIZES, settings)(5)
    assert torch.equal(two["a"].input, three["a"].input)


def test_some_of_many_people_take_part_in_turns_in_their_order() -> None:
    drawer = Drawer(people(*"abcdef"), SIZES, config(people_per_step=2))
    steps = [drawer.people(step) for step in range(300)]
    assert all(len(set(chosen)) == 2 and chosen == sorted(chosen) for chosen in steps)
    counts = Counter(person for chosen in steps for person in chosen)
    assert min(counts.values()) > 65 and len(counts) == 6  # 100 each on average
    assert list(drawer(7)) == steps[7]
    other_rank = Drawer(people(*"abcdef"), SIZES, config(people_per_step=2), rank=1)
    assert [other_rank.people(step) for step in range(20)] == steps[:20]
    assert list(Drawer(people("a", "b"), SIZES, config(people_per_step=5))(0)) == ["a", "b"]


def test_colours_and_looks_come_from_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counter[tuple[int, int]]()
    faces = people("a", "b", "c")

    def draw(own: Faces, *rest: object) -> None:
        seen[id(own), id(rest[-1])] += 1

    monkeypatch.setattr(augment, "draw", draw)
    drawer = Drawer(faces, SIZES, config())
    for step in range(100):
        drawer(step)
    pairs = {(id(faces[own]), id(faces[other])) for own in "abc" for other in "abc" if own != other}
    assert set(seen) == pairs and min(seen.values()) > 25


def test_one_person_alone_has_no_others() -> None:
    assert list(Drawer(people("a"), SIZES, config())(0)) == ["a"]


def test_room_is_what_a_step_takes() -> None:
    drawer = Drawer(people(*"abc"), (16, 32), config(people_per_step=2))
    for empty, batch in zip(drawer.room(), drawer(0).values(), strict=True):
        for field in fields(Batch):
            one, other = getattr(empty, field.name), getattr(batch, field.name)
            assert one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride()


def streamed(folder: Path) -> StreamedFaces:
    with FaceSetWriter(folder, 48, 1.5) as writer:
        for i in range(6):
            crop = cv2.GaussianBlur(np.random.default_rng(i).integers(0, 256, (48, 48, 3), np.uint8), (0, 0), 2)
            writer.add(crop, np.full((48, 48), 255, np.uint8), np.full((478, 2), 20 + i), source="x", frame=i)
    faces = data.load(read(folder), 32, 1.0, 1e-3)
    assert isinstance(faces, StreamedFaces)
    return faces


class Opened(Exception):  # noqa: N818
    """Instead of worker processes."""


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What would have been asked for, instead of processes."""
    asked: list[SimpleNamespace] = []

    def opened(drawer: Drawer, count: int, prefetch: int, device: torch.device) -> None:
        asked.append(SimpleNamespace(drawer=drawer, count=count, prefetch=prefetch))

    monkeypatch.setattr(feed, "Ahead", opened)
    return asked


def test_on_a_cpu_faces_in_memory_are_drawn_in_the_loop_and_streamed_ones_ahead(
    tmp_path: Path, workers: list[SimpleNamespace]
) -> None:
    auto = config(data=Data(prefetch=3))
    assert isinstance(open_feed(people("a", "b"), SIZES, auto, CPU), Resident)
    assert not workers
    mixed = {"a": noise(0), "b": streamed(tmp_path)}
    open_feed(mixed, SIZES, auto, CPU)
    assert workers[0].count >= 1 and workers[0].prefetch == 3
    assert isinstance(open_feed(mixed, SIZES, config(), CPU), Resident)  # workers: 0
    assert len(workers) == 1
    open_feed(people("a", "b"), SIZES, config(data=Data(workers=3)), CPU)
    assert workers[1].count == 3


def test_workers_share_the_memory_that_streamed_faces_may_keep(tmp_path: Path, workers: list[SimpleNamespace]) -> None:
    faces = streamed(tmp_path).within(40)
    open_feed({"a": noise(0), "b": faces}, SIZES, config(data=Data(workers=4)), CPU)
    assert workers[0].drawer.faces["b"].memory_mb == 10
    assert workers[0].drawer.faces["a"].pictures.shape == (8, 40, 40, 6)


def test_a_gpu_that_cannot_hold_the_faces_is_fed_by_workers(
    monkeypatch: pytest.MonkeyPatch, workers: list[SimpleNamespace]
) -> None:
    need = sum(faces.pictures.nbytes + faces.landmarks.nbytes for faces in people("a", "b").values())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    moved: list[torch.device] = []
    monkeypatch.setattr(Faces, "to", lambda self, device: moved.append(device) or self)
    gpu = torch.device("cuda")
    free = 2 * need
    assert isinstance(open_feed(people("a", "b"), SIZES, config(data=Data()), gpu), Resident)
    assert moved == [gpu, gpu] and not workers
    free -= 2
    open_feed(people("a", "b"), SIZES, config(data=Data()), gpu)
    assert len(workers) == 1 and len(moved) == 2
    # What torch holds in store, of steps that were taken back for example, is as good as free.
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5)
    assert isinstance(open_feed(people("a", "b"), SIZES, config(data=Data()), gpu), Resident)


def test_too_little_shared_memory_is_said_before_it_kills(
    monkeypatch: pytest.MonkeyPatch, workers: list[SimpleNamespace], tmp_path: Path
) -> None:
    monkeypatch.setattr(feed.os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(RequirementError, match=r"2 workers need \d+ MiB more of shared memory .* train.data.workers"):
        open_feed(people("a", "b"), SIZES, config(data=Data(workers=2)), CPU)
    assert isinstance(open_feed({"a": streamed(tmp_path)}, SIZES, config(data=Data()), CPU), Resident)
    assert not workers


def test_streamed_faces_are_drawn_like_those_in_memory(tmp_path: Path) -> None:
    few = streamed(tmp_path)
    held = data.load(read(tmp_path), 32, 1.0, 100)
    assert isinstance(held, Faces)
    drawn = [Drawer({"a": faces, "b": noise(1)}, SIZES, config())(3) for faces in (few, held)]
    assert same(*drawn)
