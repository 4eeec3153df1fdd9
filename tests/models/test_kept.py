"""models.kept: what was kept can be gone back to, and nothing is lost on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoint, kept
from models.autoencoders import original
from models.description import FILE, ModelDescription, parse_file, read
from pipeline.errors import ConfigError, WeightsError

MINI = original.Config(32, (8, 16, 16), 16, 8, 8, (8, 8, 8))


def save(folder: Path, iteration: int, value: float | None = None, **changes: object) -> ModelDescription:
    """A model and state full of `value`, which is the iteration unless it is said."""
    model, description = checkpoint.new("original", MINI)
    value = float(iteration) if value is None else value
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(value)
    described = replace(description, iterations=iteration, loss={"a": 1 / (1 + iteration)}, **changes)  # type: ignore[arg-type]
    return checkpoint.save(folder, model, described, {"moment": torch.full((10,), value)})


def names(folder: Path) -> list[str]:
    return [entry.name for entry in kept.entries(folder)]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Backups of steps 100 and 200, the best of 150, and the model of 300."""
    for iteration, kind in ((100, "backup"), (150, "best"), (200, "backup")):
        kept.keep(tmp_path, save(tmp_path, iteration), kind)
    save(tmp_path, 300)
    return tmp_path


def test_what_is_kept_survives_saving_and_is_listed_newest_first(folder: Path) -> None:
    newest, best, oldest = kept.entries(folder)
    assert [newest.name, best.name, oldest.name] == ["backup.000000200", "best", "backup.000000100"]
    assert [newest.kind, best.kind, oldest.kind] == ["backup", "best", "backup"]
    assert [newest.iteration, best.iteration, oldest.iteration] == [200, 150, 100]
    assert oldest.loss == {"a": pytest.approx(1 / 101)}
    assert newest.when > best.when > oldest.when > "2024"
    assert all(entry.intact is None and not kept.check(folder, entry) for entry in kept.entries(folder))
    named = set(folder.glob("*.safetensors"))
    assert len(named) == 8
    assert newest.size * 4 == sum(file.stat().st_size for file in named)
    assert kept.now(folder).iteration == 300


def test_the_oldest_go_with_the_files_that_nobody_names(folder: Path) -> None:
    kept.keep(folder, save(folder, 400), "backup", 2)
    assert names(folder) == ["backup.000000400", "backup.000000200", "best"]
    assert len(list(folder.glob("*.safetensors"))) == 6
    kept.keep(folder, read(folder), "backup", 1)
    assert names(folder) == ["backup.000000400", "best"]
    # After going back, the newest is one of few steps: it stays, and older ones of more steps go.
    kept.restore(folder, "best")
    kept.keep(folder, save(folder, 160), "backup", 1)
    assert names(folder) == ["backup.000000160", "best"]


def test_the_best_is_one(folder: Path) -> None:
    kept.keep(folder, save(folder, 400), "best")
    assert names(folder) == ["best", "backup.000000200", "backup.000000100"]
    assert kept.entries(folder)[0].iteration == 400


def test_another_model_of_the_same_step_gets_another_name(folder: Path) -> None:
    assert kept.keep(folder, save(folder, 200, value=5), "backup") == "backup.000000200-2"
    assert kept.keep(folder, read(folder), "backup") == "backup.000000200-2"
    assert kept.keep(folder, save(folder, 200, value=6), "backup") == "backup.000000200-3"
    assert not any(kept.check(folder, entry) for entry in kept.entries(folder))
    kept.restore(folder, "backup.000000200")
    assert value(folder) == 200


def value(folder: Path) -> float:
    """What all of the model and its state is full of."""
    model, description = checkpoint.load(folder)
    state, _ = checkpoint.load_state(folder, description)
    found = torch.cat([tensor.flatten() for tensor in (*model.state_dict().values(), *state.values())]).unique()
    return float(found)


def test_restoring_keeps_what_was_there(folder: Path) -> None:
    assert kept.restore(folder, "backup.000000100").iterations == 100
    assert value(folder) == 100
    assert "before-restore.000000300" in names(folder)
    kept.restore(folder, "best")
    assert value(folder) == 150
    assert len(names(folder)) == 4, "step 100 is a backup already"
    save(folder, 160)
    kept.restore(folder, "before-restore.000000300")
    assert value(folder) == 300
    kept.restore(folder, "before-restore.000000160")
    assert value(folder) == 160
    assert len(names(folder)) == 5


def test_what_is_damaged_is_not_restored(folder: Path) -> None:
    before = (folder / FILE).read_bytes()
    flip(folder / parse_file(folder / "kept" / "backup.000000200.json").state)
    with pytest.raises(WeightsError) as caught:
        kept.restore(folder, "backup.000000200")
    assert "backup.000000200 of the model" in str(caught.value) and "is damaged" in str(caught.value)
    assert f"; the newest good one is best (step 150): understudy restore {folder} best" in str(caught.value)
    assert (folder / FILE).read_bytes() == before
    assert not [name for name in names(folder) if name.startswith("before")]


def test_a_damaged_present_is_replaced_and_not_kept(folder: Path) -> None:
    flip(folder / read(folder).weights)
    kept.restore(folder, "backup.000000100")
    assert value(folder) == 100
    assert len(names(folder)) == 3


def test_a_present_without_description_is_replaced(folder: Path) -> None:
    (folder / FILE).unlink()
    assert kept.is_model(folder)
    assert kept.now(folder).intact is False
    kept.restore(folder, "backup.000000100")
    assert value(folder) == 100


def test_a_name_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kept no 'worst'; it has kept: backup\.000000200, best, backup\.000000100"):
        kept.restore(folder, "worst")
    with pytest.raises(ConfigError, match=r"kept no '\.\./model'"):
        kept.restore(folder, "../model")
    with pytest.raises(WeightsError, match="does not exist"):
        kept.restore(tmp_path / "nowhere", "best")


def damaged(file: Path) -> None:
    flip(file)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def missing(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("harm", [damaged, truncated, missing, empty])
@pytest.mark.parametrize("part", ["weights", "state"])
def test_harm_is_found_by_name(folder: Path, part: str, harm: Callable[[Path], None]) -> None:
    entry = kept.entries(folder)[0]
    file = folder / getattr(parse_file(folder / "kept" / f"{entry.name}.json"), part)
    harm(file)
    assert str(file) in kept.check(folder, entry)


def test_a_damaged_description_is_listed_and_keeps_its_files(folder: Path) -> None:
    file = folder / "kept" / "backup.000000200.json"
    content = json.loads(file.read_text())
    file.write_text(file.read_text().replace('"version": 3', '"version": 9'))
    entry = next(entry for entry in kept.entries(folder) if entry.name == "backup.000000200")
    assert entry.intact is False and entry.iteration == 200 and entry.size == 0
    assert "has version 9" in kept.check(folder, entry)
    save(folder, 400)
    assert (folder / content["weights"]).exists() and (folder / content["state"]).exists()
    file.unlink()
    save(folder, 500)
    assert not (folder / content["weights"]).exists()


def test_while_a_description_cannot_be_read_nothing_is_removed(folder: Path) -> None:
    before = set(folder.glob("*.safetensors"))
    file = folder / "kept" / "best.json"
    file.unlink()
    file.mkdir()
    save(folder, 400)
    assert before < set(folder.glob("*.safetensors"))
    assert kept.check(folder, next(entry for entry in kept.entries(folder) if entry.name == "best"))


def test_foreign_files_are_left_alone(folder: Path) -> None:
    for name in ("notes.txt", "model.txt", ".hidden.part", "kept/mine.json", "kept/backup.json.old"):
        (folder / name).write_text("mine")
    save(folder, 400)
    assert len(names(folder)) == 3
    for name in ("notes.txt", "model.txt", ".hidden.part", "kept/mine.json", "kept/backup.json.old"):
        assert (folder / name).read_text() == "mine"


def test_the_offer_passes_over_what_is_damaged(folder: Path) -> None:
    assert "backup.000000200 (step 200)" in kept.offer(folder)
    flip(folder / parse_file(folder / "kept" / "backup.000000200.json").weights)
    (folder / "kept" / "best.json").write_text("{")
    assert kept.offer(folder).endswith(f"backup.000000100 (step 100): understudy restore {folder} backup.000000100")
    (folder / "kept" / "backup.000000100.json").write_text("[" * 10000)
    assert kept.offer(folder) == ""
    assert kept.offer(folder / "nowhere") == ""


def test_the_offer_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "it's mine"
    kept.keep(folder, save(folder, 100), "backup")
    line = kept.offer(folder).rpartition(": understudy restore ")[2]
    told = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [str(folder), "backup.000000100"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"version": 1}', " " * 2**21])
def test_a_harmed_description_is_refused_with_the_offer(folder: Path, content: str | None) -> None:
    if content is None:
        (folder / FILE).unlink()
    else:
        (folder / FILE).write_text(content)
    with pytest.raises(WeightsError, match=r"model\.json.*; the newest good one is backup\.000000200 \(step 200\): un"):
        kept.read(folder)


def fails(folder: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """From now on nothing takes the place of files whose name begins so."""
    real = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name.startswith(at):
            raise OSError("no space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", refuse)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = read(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*.json")}
    fails(folder, monkeypatch, "backup")
    with pytest.raises(WeightsError, match=r"cannot be kept as backup\.000000300: no space left"):
        kept.keep(folder, description, "backup", 1)
    fails(folder, monkeypatch, "before")
    with pytest.raises(WeightsError, match=r"best of the model .* cannot be restored: no space left"):
        kept.restore(folder, "best")
    assert {file: file.read_bytes() for file in folder.rglob("*.json")} == before
    fails(folder, monkeypatch, "model.json")
    with pytest.raises(WeightsError, match=r"best of the model .* cannot be restored: no space left"):
        kept.restore(folder, "best")
    assert read(folder) == description
    assert not list(folder.rglob("*.part"))


def test_one_process_at_a_time(folder: Path) -> None:
    program = "import sys; from models import kept\nwith kept.claimed(sys.argv[1]): pass"
    command: list[Any] = [sys.executable, "-c", program, folder]
    with kept.claimed(folder):
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "is being changed by another process" in other.stderr
    assert subprocess.run(command, check=False).returncode == 0
    with pytest.raises(WeightsError, match="cannot be opened"), kept.claimed(folder / "nowhere"):
        pass


def test_nothing_heavy_is_loaded() -> None:
    code = "import sys, models.kept; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
