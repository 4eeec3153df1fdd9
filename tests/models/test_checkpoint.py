"""models.checkpoint: whole or not at all, and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import autoencoders, checkpoint, durable, kept, tensor_file
from models.autoencoder import Autoencoder
from models.autoencoders import original
from models.description import ModelDescription, read
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError, WeightsError

MINI = original.Config(32, (8, 16, 16), 16, 8, 8, (8, 8, 8))


def made(folder: Path, seed: int = 0, **more: object) -> torch.nn.Module:
    model, description = checkpoint.new("original", MINI, seed=seed, coverage=1.2)
    checkpoint.save(folder, model, description, **more)  # type: ignore[arg-type]
    return model


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    model = made(tmp_path / "deep" / "er")
    loaded, description = checkpoint.load(tmp_path / "deep" / "er")
    assert description.coverage == 1.2
    assert not loaded.training
    weights = loaded.state_dict()
    assert list(weights) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_half_precision_models_are_saved_as_float32(tmp_path: Path) -> None:
    model, description = checkpoint.new("original", MINI)
    checkpoint.save(tmp_path, model.bfloat16(), description)
    loaded, _ = checkpoint.load(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, _ = checkpoint.new("original", MINI, seed=1)
    other, _ = checkpoint.new("original", MINI, seed=1)
    third, _ = checkpoint.new("original", MINI, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    first = [next(iter(m.state_dict().values())) for m in (one, other, third)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    made(tmp_path, 0, state={"step": torch.tensor([3])}, state_facts={"who": "me"})
    before = {file.name for file in tmp_path.iterdir()}
    made(tmp_path, 1, state={"step": torch.tensor([4])})
    after = {file.name for file in tmp_path.iterdir()}
    assert len(before) == len(after) == 3
    assert before & after == {"model.json"}
    state, facts = checkpoint.load_state(tmp_path, read(tmp_path))
    assert state["step"].item() == 4
    assert facts == {}


def test_state_and_its_facts(tmp_path: Path) -> None:
    made(tmp_path, 0, state={"step": torch.tensor([3])}, state_facts={"who": "me"})
    state, facts = checkpoint.load_state(tmp_path, read(tmp_path))
    assert state["step"].item() == 3
    assert facts == {"who": "me"}
    made(tmp_path)
    with pytest.raises(WeightsError, match="without its training state"):
        checkpoint.load_state(tmp_path, read(tmp_path))


class Counting(Autoencoder):
    """A network of every kind of buffer: counters, statistics, and constants that are not saved."""

    def __init__(self) -> None:
        super().__init__(("a", "b"))
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("kernel", torch.arange(9.0), persistent=False)


def test_buffers_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original, "build", lambda *_: Counting())
    model, description = checkpoint.new("original", MINI)
    norm: Any = model.norm
    norm.num_batches_tracked += 2**40 + 1  # which no float32 is
    norm.running_mean += 0.25
    checkpoint.save(tmp_path, model, description)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    loaded, _ = checkpoint.load(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(buffer.is_meta for buffer in loaded.buffers())
    assert {name: buffer.dtype for name, buffer in loaded.named_buffers()} == {
        name: buffer.dtype for name, buffer in model.named_buffers()
    }
    assert all(torch.equal(one, other) for one, other in zip(loaded.buffers(), model.buffers(), strict=True))


@pytest.mark.parametrize("architecture", autoencoders.names())
@pytest.mark.parametrize(
    "layers",
    [
        LayerOptions(),
        LayerOptions(mask=True, upscaler="resize", initialiser="convolution_aware", icnr=True, padding="reflect"),
    ],
)
def test_every_architecture_is_loaded_as_it_was(tmp_path: Path, architecture: str, layers: LayerOptions) -> None:
    smallest = next(iter(autoencoders.module(architecture).PRESETS.values()))
    people = ("anna", "bert", "cleo")
    model, description = checkpoint.new(architecture, smallest, layers=layers, people=people, crop="head", coverage=2)
    checkpoint.save(tmp_path, model, description)
    loaded, read_back = checkpoint.load(tmp_path)
    assert read_back.layer_options == layers
    assert (read_back.people, read_back.crop, read_back.coverage, read_back.session) == (people, "head", 2, 0)
    theirs = model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in loaded.state_dict().items())


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "model.json").read_bytes()
    model, description = checkpoint.new("original", MINI)
    bias: Any = next(parameter for name, parameter in model.named_parameters() if name == "encoder.0.0.bias")
    for bad in (float("nan"), float("inf")):
        with torch.no_grad():
            bias[1] = bad
        with pytest.raises(WeightsError, match=r"not saved: encoder\.0\.0\.bias holds"):
            checkpoint.save(tmp_path, model, description)
    assert (tmp_path / "model.json").read_bytes() == before
    monkey = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    name, digest = tensor_file.write(tmp_path, "model", monkey, {})
    content = json.loads(before) | {"weights": name, "digest": digest}
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"encoder\.0\.0\.bias holds"):
        checkpoint.load(tmp_path)


def test_large_numbers_are_numbers(tmp_path: Path) -> None:
    model, description = checkpoint.new("original", MINI)
    with torch.no_grad():
        next(model.parameters()).fill_(3e38)
    checkpoint.save(tmp_path, model, description)
    checkpoint.load(tmp_path)


def kept_before(folder: Path) -> ModelDescription:
    """A backup of step 7, and now a model of step 9; gives the backup."""
    for iterations in (7, 9):
        model, description = checkpoint.new("original", MINI, seed=iterations)
        described = replace(description, iterations=iterations)
        written = checkpoint.save(folder, model, described, {"moment": torch.full((3,), float(iterations))})
        if iterations == 7:
            kept.keep(folder, written, "backup")
            backup = written
    return backup


def flipped(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / file).write_bytes(content)


def truncated(folder: Path, file: str) -> None:
    os.truncate(folder / file, 1000)


def missing(folder: Path, file: str) -> None:
    (folder / file).unlink()


def foreign(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"GIF89a, truly")


def pickled(folder: Path, file: str) -> None:
    torch.save({"x": torch.ones(3)}, folder / file)


def swapped(folder: Path, file: str) -> None:
    other = next(f for f in folder.glob(file.partition(".")[0] + ".*.safetensors") if f.name != file)
    (folder / file).write_bytes(other.read_bytes())


def a_pipe(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)


HARMS = [flipped, truncated, missing, foreign, pickled, swapped, a_pipe]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("part", ["weights", "state"])
def test_harm_is_named_and_a_way_back_offered(tmp_path: Path, part: str, harm: Callable[[Path, str], None]) -> None:
    kept_before(tmp_path)
    description = read(tmp_path)
    file = getattr(description, part)
    harm(tmp_path, file)
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(tmp_path)
        checkpoint.load_state(tmp_path, description)
    assert str(tmp_path / file) in str(caught.value)
    assert str(caught.value).endswith(
        f"; the newest good one is backup.000000007 (step 7): understudy restore {tmp_path} backup.000000007"
    )
    kept.restore(tmp_path, "backup.000000007")
    model, description = checkpoint.load(tmp_path)
    wanted, _ = checkpoint.new("original", MINI, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wanted.parameters(), strict=True))
    assert checkpoint.load_state(tmp_path, description)[0]["moment"].tolist() == [7.0] * 3


@pytest.mark.parametrize("harm", [flipped, missing])
def test_what_is_harmed_too_is_not_offered(tmp_path: Path, harm: Callable[[Path, str], None]) -> None:
    backup = kept_before(tmp_path)
    harm(tmp_path, backup.state)
    harm(tmp_path, read(tmp_path).weights)
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(tmp_path)
    assert "newest good one" not in str(caught.value)


def test_a_model_without_its_description_offers_the_way_back(tmp_path: Path) -> None:
    kept_before(tmp_path)
    missing(tmp_path, "model.json")
    with pytest.raises(WeightsError, match=r"holds no model\.json; .*; the newest good one is backup\.000000007"):
        checkpoint.load(tmp_path)


def test_names_reach_the_disk_before_the_description_that_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replacing = Path.replace
    monkeypatch.setattr(durable, "sync_folder", lambda folder: done.append(f"sync {folder.name}"))

    def replaced(self: Path, target: Path) -> Path:
        done.append(target.name.partition(".")[0] + target.suffix)
        return replacing(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    made(tmp_path, state={"x": torch.ones(1)})
    synced = f"sync {tmp_path.name}"
    assert done == ["model.safetensors", "state.safetensors", synced, "model.json", synced]


@pytest.mark.parametrize("dies_at", ["model.", "state.", "model.json"])
def test_a_crash_at_any_write_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    old = made(tmp_path, 0, state={"x": torch.zeros(1)})
    replace = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if target.name.startswith(dies_at):
            raise OSError("no space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(WeightsError, match="cannot be written: no space left"):
        made(tmp_path, 1, state={"x": torch.ones(1)})
    monkeypatch.undo()
    loaded, description = checkpoint.load(tmp_path)
    assert torch.equal(next(loaded.parameters()), next(old.parameters()))
    assert checkpoint.load_state(tmp_path, description)[0]["x"].item() == 0
    assert not list(tmp_path.glob(".*"))


def test_a_state_that_no_longer_fits_takes_its_weights_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, state={"x": torch.zeros(2)})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write = tensor_file.write

    def full(folder: Path, kind: str, *more: Any) -> tuple[str, str]:
        if kind == "state":
            raise OSError(28, "No space left on device")
        return write(folder, kind, *more)

    monkeypatch.setattr(tensor_file, "write", full)
    with pytest.raises(WeightsError, match="No space left on device"):
        made(tmp_path, seed=1, state={"x": torch.ones(2)})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_damage_is_found(tmp_path: Path) -> None:
    made(tmp_path)
    weights = tmp_path / read(tmp_path).weights
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged"):
        checkpoint.load(tmp_path)
    weights.write_bytes(content[:100])
    with pytest.raises(WeightsError, match="is damaged"):
        checkpoint.load(tmp_path)
    weights.unlink()
    with pytest.raises(WeightsError, match="is missing"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"dense": 24},
            r"another shape: encoder\.4\.weight is \(16, 256\), the description asks for \(24, 256\)",
        ),
        ({"encoder": [8, 16]}, "another shape"),
        ({"encoder": [8, 16, 16, 16]}, r"another shape: it lacks the tensor encoder\.3\.0\.weight"),
        ({"decoder": [8, 8]}, "another shape"),
        ({"wings": 2}, "original.wings is no option"),
        ({"dense": "wide"}, "original.dense must be"),
        ({"size": 64}, "says 32 px in and 32 px out, its options make 64 and 64"),
    ],
)
def test_a_model_of_another_shape_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    made(tmp_path)
    file = tmp_path / "model.json"
    content = json.loads(file.read_text())
    content["options"] |= changes
    file.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=words):
        checkpoint.load(tmp_path)


def test_a_file_that_is_no_safetensors_file(tmp_path: Path) -> None:
    import hashlib

    made(tmp_path)
    junk = b"junk" * 100
    content = json.loads((tmp_path / "model.json").read_text()) | {"digest": hashlib.sha256(junk).hexdigest()}
    (tmp_path / content["weights"]).write_bytes(junk)
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="no safetensors file"):
        checkpoint.load(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be written"):
        made(tmp_path / "file")


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="no architecture named 'vast'"):
        checkpoint.new("vast", MINI)
    with pytest.raises(ConfigError, match="no preset 'vast'; it has: sketch"):
        autoencoders.preset("original", "vast")
