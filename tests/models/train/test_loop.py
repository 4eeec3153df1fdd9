"""models.train.loop: it learns, saves, resumes to the bit, stops when told, and says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models import checkpoint
from models.autoencoders import original
from models.description import read as read_description
from models.faceset import FaceSet, FaceSetWriter, read
from models.train import loop, losses
from models.train.loop import Progress, train
from models.train.recipe import Config
from pipeline.errors import ConfigError, RequirementError, WeightsError

MINI = original.Config(32, (8, 16, 16), 16, 8, 8, (8, 8, 8))
RECIPE = Config(preset="mini", iterations=6, batch=4, lr=1e-3, device="cpu", precision="fp32", threads=1, preview=False)


@pytest.fixture(autouse=True)
def mini(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(original.PRESETS, "mini", MINI)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[FaceSet, FaceSet]:
    folder = tmp_path_factory.mktemp("sets")
    return person(folder / "a", (220, 60, 60)), person(folder / "b", (60, 90, 220))


def person(folder: Path, tint: tuple[int, int, int]) -> FaceSet:
    random = np.random.default_rng(tint[0])
    with FaceSetWriter(folder, 64, 1.5) as writer:
        for i in range(6):
            crop = np.full((64, 64, 3), 90, np.uint8)
            cv2.ellipse(crop, (32, 32), (18, 22), float(random.uniform(-10, 10)), 0, 360, tint, cv2.FILLED)
            cv2.circle(crop, (26 + i, 28), 3, (255, 255, 255), cv2.FILLED)
            mask = np.zeros((64, 64), np.uint8)
            cv2.ellipse(mask, (32, 32), (18, 22), 0, 0, 360, (255,), cv2.FILLED)
            writer.add(crop, mask, random.uniform(20, 44, (478, 2)), source="x", frame=i)
    return read(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder)[0].state_dict()


def test_it_learns_who_is_who(sets: tuple[FaceSet, FaceSet], tmp_path: Path) -> None:
    recipe = replace(RECIPE, iterations=150, lr=3e-3, batch=8, preview=True)
    seen: list[Progress] = []
    result = train(recipe, *sets, tmp_path, seen.append)
    assert result.ended == "iterations"
    assert result.steps == result.description.iterations == 150
    assert result.description.faces == 150 * 16
    assert result.description == read_description(tmp_path)
    assert seen[-1].saved
    assert seen[-1].share == 1
    assert set(seen[-1].loss) == {"a", "b"}
    assert result.preview is not None
    assert result.preview.is_file()
    model: Any = checkpoint.load(tmp_path)[0]
    crop = cv2.resize(sets[0].load(sets[0].faces[0])[0][11:53, 11:53], (32, 32)) / np.float32(255)
    with torch.inference_mode():
        x = torch.from_numpy(crop).permute(2, 0, 1)[None]
        as_a, as_b = (model.swap(x, person)[0, :, 12:20, 12:20].mean((1, 2)) for person in ("a", "b"))
    assert as_a[0] > as_a[2] + 0.2  # a is red
    assert as_b[2] > as_b[0] + 0.2  # b is blue


def test_six_steps_are_three_and_three(sets: tuple[FaceSet, FaceSet], tmp_path: Path) -> None:
    train(RECIPE, *sets, tmp_path / "whole")
    train(replace(RECIPE, iterations=3), *sets, tmp_path / "parts")
    result = train(RECIPE, *sets, tmp_path / "parts")
    assert result.steps == 3
    assert result.description.iterations == 6
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    (one,), (other,) = ((tmp_path / f).glob("state.*") for f in ("whole", "parts"))
    assert one.name == other.name  # named after its content: moments and generator


def test_stopping_saves(sets: tuple[FaceSet, FaceSet], tmp_path: Path) -> None:
    answers = iter([False, False, True])
    result = train(replace(RECIPE, iterations=0), *sets, tmp_path, stop=lambda: next(answers))
    assert (result.ended, result.steps) == ("stopped", 2)
    assert read_description(tmp_path).iterations == 2


def test_time_ends_it_too(sets: tuple[FaceSet, FaceSet], tmp_path: Path) -> None:
    result = train(replace(RECIPE, iterations=10**6, minutes=0.01), *sets, tmp_path)
    assert result.ended == "minutes"
    assert result.seconds < 30


def test_it_saves_on_the_way(sets: tuple[FaceSet, FaceSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop._Clock, "save_due", lambda self: True)
    saved: list[int] = []
    train(replace(RECIPE, iterations=2), *sets, tmp_path, lambda p: saved.append(p.iteration) if p.saved else None)
    assert saved == [1, 2, 2]


def test_a_broken_loss_keeps_the_last_save(
    sets: tuple[FaceSet, FaceSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(replace(RECIPE, iterations=2), *sets, tmp_path)
    good = weights(tmp_path)
    true_loss = losses.reconstruction
    monkeypatch.setattr(losses, "reconstruction", lambda *args: true_loss(*args) * float("nan"))
    with pytest.raises(WeightsError, match=r"broke down at step 3: .*the model of step 2 .* is kept.*lower train\.lr"):
        train(replace(RECIPE, iterations=3), *sets, tmp_path)
    for name, tensor in weights(tmp_path).items():
        assert torch.equal(tensor, good[name])
    with pytest.raises(WeightsError, match="nothing was saved"):
        train(replace(RECIPE, iterations=1), *sets, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_gpu_is_named(sets: tuple[FaceSet, FaceSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(losses, "reconstruction", full)
    with pytest.raises(RequirementError, match=r"smaller train\.batch"):
        train(RECIPE, *sets, tmp_path)


def test_other_settings_than_the_models_are_refused(sets: tuple[FaceSet, FaceSet], tmp_path: Path) -> None:
    train(replace(RECIPE, iterations=1), *sets, tmp_path)
    with pytest.raises(ConfigError, match="is no original/sketch at coverage 1"):
        train(replace(RECIPE, preset="sketch"), *sets, tmp_path)
    with pytest.raises(ConfigError, match=r"at coverage 1\.2"):
        train(replace(RECIPE, coverage=1.2), *sets, tmp_path)
    with pytest.raises(ConfigError, match="no preset 'vast'"):
        train(replace(RECIPE, preset="vast"), *sets, tmp_path / "new")


def test_a_model_without_state_is_not_trained_on(sets: tuple[FaceSet, FaceSet], tmp_path: Path) -> None:
    checkpoint.save(tmp_path, *checkpoint.new("original", MINI))
    with pytest.raises(WeightsError, match="without its training state"):
        train(RECIPE, *sets, tmp_path)


def test_bf16_learns_as_well(sets: tuple[FaceSet, FaceSet], tmp_path: Path) -> None:
    exact = train(replace(RECIPE, iterations=20), *sets, tmp_path / "fp32").description.loss
    rounded = train(replace(RECIPE, iterations=20, precision="bf16"), *sets, tmp_path / "bf16").description.loss
    assert rounded["a"] == pytest.approx(exact["a"], rel=0.1)
    assert {t.dtype for t in weights(tmp_path / "bf16").values()} == {torch.float32}


def test_what_could_not_be_used_is_told(sets: tuple[FaceSet, FaceSet], tmp_path: Path) -> None:
    broken = replace(sets[0], junk=("faces.jsonl line 3: is not a face",))
    result = train(replace(RECIPE, iterations=1), broken, sets[1], tmp_path)
    assert result.notes == ("a: faces.jsonl line 3: is not a face",)
