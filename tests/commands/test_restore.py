"""`restore`: what there is to go back to, whether it is whole, and going back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.program import Program, as_json, the_error


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of step 300, with backups of 100 and 200."""
    import torch

    from models import checkpoint, kept
    from models.autoencoders import original

    folder = tmp_path_factory.mktemp("models") / "model"
    model, description = checkpoint.new("original", original.Config(32, (8, 16, 16), 16, 8, 8, (8, 8, 8)))
    for step in (100, 200, 300):
        with torch.no_grad():
            next(model.parameters()).fill_(step)
        described = replace(description, iterations=step, loss={"a": 1 / step, "b": 0.5})
        written = checkpoint.save(folder, model, described, {"moment": torch.full((3,), float(step))})
        if step < 300:
            kept.keep(folder, written, "backup")
    return folder


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "model"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_list(program: Program, model: Path) -> None:
    code, out, _ = program("restore", model)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["name", "step", "loss", "saved", "size"]
    assert [line[:2] for line in lines[1:]] == [
        ["now", "300"],
        ["backup.000000200", "200"],
        ["backup.000000100", "100"],
    ]
    assert "a 0.0050, b 0.5000" in out.splitlines()[2]
    assert lines[1][-1] == "MB"


def test_the_list_as_json(program: Program, model: Path) -> None:
    code, out, _ = program("restore", model, "--json")
    listed = as_json(out)
    assert code == 0
    assert listed["now"]["iteration"] == 300
    newest = listed["kept"][0]
    assert newest.keys() == {"name", "kind", "iteration", "loss", "when", "size", "intact", "fault"}
    assert (newest["name"], newest["kind"], newest["intact"]) == ("backup.000000200", "backup", None)


def test_checking(program: Program, model: Path) -> None:
    from models.description import parse_file

    code, out, _ = program("restore", model, "--check")
    assert code == 0
    assert out.count("intact") == 3
    weights = model / parse_file(model / "kept" / "backup.000000100.json").weights
    flip(weights)
    code, out, _ = program("restore", model, "--check")
    assert code == 5
    assert out.count("intact") == 2
    assert out.endswith(f"backup.000000100: {weights} is damaged\n")
    code, out, _ = program("restore", model, "--check", "--json")
    assert code == 5
    assert [(entry["intact"], entry["fault"]) for entry in as_json(out)["kept"]] == [
        (True, None),
        (False, f"{weights} is damaged"),
    ]


def test_going_back_and_forth(program: Program, model: Path) -> None:
    code, out, _ = program("restore", model, "backup.000000100")
    assert code == 0
    assert out == "the model is that of step 100 again; what was there is kept as before-restore.000000300\n"
    assert as_json(program("restore", model, "--json")[1])["now"]["iteration"] == 100
    code, out, _ = program("restore", model, "before-restore.000000300", "--json")
    assert code == 0
    assert as_json(out) == {
        "model": str(model),
        "restored": "before-restore.000000300",
        "step": 300,
        "before": None,
    }


def test_the_way_that_an_error_offers(program: Program, model: Path) -> None:
    from models.description import read

    flip(model / read(model).weights)
    (model / "model.json").unlink()
    code, out, _ = program("restore", model)
    assert code == 0 and out.splitlines()[1].endswith("damaged")
    assert program("restore", model, "backup.000000200")[0] == 0
    assert program("restore", model, "--check")[0] == 0


def test_refusals(program: Program, model: Path, tmp_path: Path) -> None:
    from models import kept

    code, _, err = program("restore", model, "best")
    assert code == 2 and the_error(err).endswith("kept no 'best'; it has kept: backup.000000200, backup.000000100")
    code, _, err = program("restore", model, "backup.000000100", "--check")
    assert code == 2 and "--check goes without NAME" in the_error(err)
    for argv in ([tmp_path / "nowhere"], [tmp_path / "nowhere", "best"], [tmp_path]):
        code, _, err = program("restore", *argv)
        assert code == 5 and ("nowhere" in the_error(err) or "holds no model.json" in the_error(err))
    with kept.claimed(model):
        code, _, err = program("restore", model, "backup.000000100")
        assert code == 5 and "is being changed by another process" in the_error(err)
        assert program("restore", model)[0] == 0


def test_nothing_is_kept_yet(program: Program, model: Path) -> None:
    shutil.rmtree(model / "kept")
    code, out, _ = program("restore", model)
    assert code == 0
    assert out.splitlines()[2].startswith("nothing is kept yet; train.safety.backups")
