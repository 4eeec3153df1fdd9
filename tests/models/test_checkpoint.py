"""models.checkpoint: whole or not at all, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models import autoencoders, checkpoint
from models.autoencoders import original
from models.description import read
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
