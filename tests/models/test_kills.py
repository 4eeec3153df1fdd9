"""Whenever a process that saves or restores is killed, a whole model is there."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models import carried, checkpoint, kept
from models.description import ModelDescription, parse_file, read
from tests.models import saver

ROOT = Path(__file__).parents[2]

Killed = Callable[[Path, str, float], dict[str, list[int]]]


@pytest.fixture(scope="module")
def killed() -> Iterator[Killed]:
    """Has a process work in a folder and kills it: what it had begun, and what was in place."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.models.saver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        assert server.stdin and server.stdout

        def ask(folder: Path, work: str, delay_s: float) -> dict[str, list[int]]:
            assert server.stdin and server.stdout
            print(json.dumps({"folder": str(folder), "work": work, "delay_s": delay_s}), file=server.stdin, flush=True)
            answer: dict[str, list[int]] = json.loads(server.stdout.readline())
            return answer

        yield ask
        server.stdin.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of iteration 6, with two snapshots."""
    model: Any
    model, description = checkpoint.new("original", saver.MINI)
    for iteration in range(1, 7):
        saver.save(tmp_path, model, description, iteration)
    return tmp_path


def verify(folder: Path) -> int:
    """The model, its state and its description are of one iteration, and all that is kept is whole; gives it."""
    model, description = checkpoint.load(folder)
    state, facts = checkpoint.load_state(folder, description)
    iteration = description.iterations
    assert all((weight == iteration).all() for weight in model.parameters())
    wanted = saver.state_of(iteration)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert facts == {"iteration": str(iteration)}
    assert description.identities == saver.identities_of(iteration)
    for each in (description, *descriptions(folder)):
        assert carried.copies(folder, each.identities.values()) == {d: n.encode() for n, d in each.identities.items()}
    for entry in kept.entries(folder):
        assert not kept.check(folder, entry), entry
        assert entry.name == "best" or int(entry.name.split(".")[1]) == entry.iteration
    return iteration


def seconds(work: Callable[[], object]) -> float:
    """The median of some."""
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[2]


COUNTS = [20, pytest.param(200, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kills", COUNTS)
def test_killed_while_saving(killed: Killed, folder: Path, kills: int) -> None:
    model, description = checkpoint.new("original", saver.MINI)
    numbers = iter(range(7, 100))
    one: Any = model
    usual_s = seconds(lambda: saver.save(folder, one, description, next(numbers)))
    chance = random.Random(kills)
    last, cut_short = verify(folder), 0
    for _ in range(kills):
        said = killed(folder, "save", chance.uniform(0, 2 * usual_s))
        here = verify(folder)
        assert max([last, *said["done"]]) <= here <= said["begun"][-1]
        cut_short += len(said["begun"]) > len(said["done"])
        last = here
    assert cut_short > kills / 2, "kills shall come in the middle of a save"
    saver.save(folder, one, description, last + 1)
    described = [read(folder), *descriptions(folder)]
    named = {file for d in described for file in (d.weights, d.state)}
    assert {file.name for file in folder.iterdir()} == {"model.json", "kept", "identities", *named}
    copies = {f"{digest}.yaml" for d in described for digest in d.identities.values()}
    assert {file.name for file in (folder / "identities").iterdir()} == copies
    assert {file.suffix for file in (folder / "kept").iterdir()} == {".json"}


@pytest.mark.parametrize("kills", COUNTS)
def test_killed_while_restoring(killed: Killed, folder: Path, kills: int) -> None:
    chance = random.Random(kills)
    usual_s = seconds(lambda: saver.restore(folder, chance.choice([3, 6])))
    for _ in range(kills):
        said = killed(folder, "restore", chance.uniform(0, 2 * usual_s))
        here = verify(folder)
        assert here in {*(said["done"][-1:] or [3, 6]), said["begun"][-1]}
        assert {entry.iteration for entry in kept.entries(folder)} == {3, 5, 6}


def descriptions(folder: Path) -> list[ModelDescription]:
    return [parse_file(file) for file in sorted((folder / "kept").glob("*.json"))]
