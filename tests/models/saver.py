"""A process that is killed while it saves a model: run as a program, it forks one after another on request.

Loading torch takes seconds, so one process does it once, stays single-threaded, and forks the ones that are killed.
Each line on standard input is a JSON object {"folder", "work": "save" | "restore", "delay_s"}; each line on standard
output is the iterations that the killed process had begun to put in place, and those it had said were in place.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from models import checkpoint, kept
from models.autoencoders import original
from models.description import ModelDescription

MINI = original.Config(32, (8, 16, 16), 16, 8, 8, (8, 8, 8))
STATE = 100_000  # floats: large enough for a kill in the middle of the file


def state_of(iteration: int) -> dict[str, torch.Tensor]:
    """What is saved beside the weights of that iteration."""
    return {"moment": torch.full((STATE,), float(iteration)), "step": torch.tensor([iteration])}


def identities_of(iteration: int) -> dict[str, str]:
    """Whose faces that iteration has learnt: one of them changes with each."""
    return {"a": hashlib.sha256(str(iteration).encode()).hexdigest(), "b": "0" * 64}


def save(folder: Path, model: original.SharedEncoder, description: ModelDescription, iteration: int) -> None:
    """A model whose every weight is its iteration, and what a training keeps of it."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(iteration)
    described = replace(description, iterations=iteration, identities=identities_of(iteration))
    files = {digest: name.encode() for name, digest in described.identities.items()}
    facts = {"iteration": str(iteration)}
    written = checkpoint.save(folder, model, described, state_of(iteration), facts, files)
    kept.keep(folder, written, "backup", 2)
    if iteration % 3 == 0:
        kept.keep(folder, written, "snapshot", 3)
    if iteration % 2 == 0:
        kept.keep(folder, written, "best")


def restore(folder: Path, iteration: int) -> None:
    """Goes back to the snapshot of that iteration."""
    kept.restore(folder, f"snapshot.{iteration:09d}")


def works(folder: Path) -> dict[str, tuple[Callable[[int], None], Iterator[int]]]:
    """What to do, and with which iterations."""
    model, description = checkpoint.new("original", MINI)
    here = kept.now(folder).iteration
    snapshots = [entry.iteration for entry in kept.entries(folder) if entry.kind == "snapshot"]
    return {
        "save": (lambda iteration: save(folder, model, description, iteration), itertools.count(here + 1)),
        "restore": (lambda iteration: restore(folder, iteration), itertools.cycle(snapshots)),
    }


def killed(folder: Path, work: str, delay_s: float) -> dict[str, list[int]]:
    """Forks, lets it work, kills it `delay_s` after it began; what it said until then."""
    do, iterations = works(folder)[work]
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)  # so that it does not outlive who reads
        try:
            for iteration in iterations:
                os.write(into, b"+%d\n" % iteration)
                do(iteration)
                os.write(into, b"-%d\n" % iteration)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(into)
    select.select([out], [], [])
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it shall die of the kill alone"
    with os.fdopen(out, "rb") as said:
        lines = said.read().decode().split()
    return {
        "begun": [int(line[1:]) for line in lines if line[0] == "+"],
        "done": [int(line[1:]) for line in lines if line[0] == "-"],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(killed(Path(order["folder"]), order["work"], order["delay_s"])), flush=True)
