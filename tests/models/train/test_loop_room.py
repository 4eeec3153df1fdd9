"""models.train.loop where there is little room: on the disk, and in memory for faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import checkpoint, kept
from models.faceset import FaceSet
from models.train import data, loop
from models.train.feed import Resident
from models.train.loop import Around, train
from models.train.recipe import Data, Judge, Safety
from pipeline.errors import InputError, WeightsError
from tests.faces import face_set
from tests.models.train.trainings import CONFIG, iterations


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FaceSet]:
    """So many faces that some can be held out."""
    folder = tmp_path_factory.mktemp("many")
    return {person: face_set(folder / person, person, 16) for person in ("a", "b")}


def judge(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    left = list(values)

    class Opinion:
        def __init__(self, *args: Any, **settings: Any) -> None:
            pass

        def __call__(self, model: nn.Module, stop: Callable[[], bool]) -> dict[str, float]:
            return {"ssim": left.pop(0)}

    monkeypatch.setattr(loop, "Judge", Opinion)


def test_a_best_model_that_cannot_be_kept_ends_nothing(
    many: dict[str, FaceSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, 0.5, 0.9, 0.7)
    save = checkpoint.save

    def full(folder: Path, model: nn.Module, description: Any, *more: Any) -> Any:
        if description.iterations == 4:
            raise WeightsError("the disk is full")
        return save(folder, model, description, *more)

    monkeypatch.setattr(checkpoint, "save", full)
    events: list[str] = []
    config = replace(CONFIG, iterations=6, judge=Judge(every=2), safety=Safety(save_minutes=60))
    assert train(config, many, tmp_path, Around(on_event=events.append)).ended == "iterations"
    assert events == ["best: ssim 0.5", "the disk is full; training goes on", "best: ssim 0.7"]
    (best,) = (entry for entry in kept.entries(tmp_path) if entry.kind == "best")
    assert best.iteration == 6


def test_faces_that_are_held_out_share_the_memory(
    many: dict[str, FaceSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    load = data.load

    def counted(faces: FaceSet, size: int, coverage: float, memory_mb: float, crop: str) -> data.AnyFaces:
        given.append(memory_mb)
        return load(faces, size, coverage, memory_mb, crop)

    monkeypatch.setattr(data, "load", counted)
    config = replace(CONFIG, iterations=1, data=Data(held_out=0.25, memory_mb=64), judge=Judge(every=9))
    train(config, many, tmp_path)
    assert sum(given) == pytest.approx(64) and sorted(given) == [8, 8, 24, 24]


def test_a_face_that_is_gone_takes_nothing_with_it(
    many: dict[str, FaceSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Resident.batches

    def gone(feed: Resident, step: int) -> Any:
        if step == 3:
            raise InputError("a face can no longer be read")
        return batches(feed, step)

    monkeypatch.setattr(Resident, "batches", gone)
    with pytest.raises(InputError, match="no longer be read"):
        train(CONFIG, many, tmp_path)
    assert iterations(tmp_path) == 3
