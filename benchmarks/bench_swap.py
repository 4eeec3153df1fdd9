"""P11: faces per second through the swap stage's network in batches of 8, against plain fp32 one by one.

Both run the full Original with random weights on as many threads as this process may use, in turns.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.bars import Result, line
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle, ratio
from models import autoencoders, checkpoint
from models.autoencoder import Autoencoder
from stages.swap import Config, Network

_BATCH = 8


def measure(quick: bool, machine: Machine) -> list[Result]:
    """P11."""
    threads = len(os.sched_getaffinity(0))
    crops = list(np.random.default_rng(0).integers(0, 256, (_BATCH, 64, 64, 3), dtype=np.uint8))
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        checkpoint.save(folder, *checkpoint.new("original", autoencoders.preset("original", "original")))
        network = Network(Config(folder, device="cpu", batch=_BATCH, threads=threads))
        plain = checkpoint.load(folder)[0]
    seconds = 1.0 if quick else 3.0
    variants = {
        "batched": _turn(lambda: network(crops), seconds),
        "one by one": _turn(lambda: _one_by_one(plain, crops), seconds),
    }
    samples = interleaved(variants, 3 if quick else 5, machine)
    facts: dict[str, float | int | str] = {
        "batched_faces_per_s": middle(samples["batched"]),
        "one_by_one_faces_per_s": middle(samples["one by one"]),
        "precision": network.precision,
        "threads": threads,
        "largest_difference_levels": _difference([made.picture for made in network(crops)], _one_by_one(plain, crops)),
    }
    notes = [disturbance(samples)]
    if network.precision == "fp32":
        notes.append("this CPU has no bf16 instructions, which the bar counts on")
    return [Result("P11", ratio(samples, "batched", "one by one"), facts, "; ".join(filter(None, notes)))]


def _one_by_one(model: Autoencoder, crops: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """As it is usually written."""
    done = []
    with torch.no_grad():
        for crop in crops:
            given = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
            made = model.swap(given, "b").picture[0].permute(1, 2, 0).numpy()
            done.append(np.rint(made * 255).astype(np.uint8))
    return done


def _turn(work: Callable[[], object], seconds: float) -> Callable[[], Sample]:
    """Faces per second over at least `seconds`."""

    def run() -> Sample:
        work()
        begun, rounds = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            work()
            rounds += 1
        return Sample(_BATCH * rounds / (time.perf_counter() - begun))

    return run


def _difference(one: list[NDArray[np.uint8]], other: list[NDArray[np.uint8]]) -> int:
    return int(max(np.abs(a.astype(int) - b).max() for a, b in zip(one, other, strict=True)))


if __name__ == "__main__":
    for result in measure("--quick" in sys.argv, Machine(patience_s=60)):
        print(line(result), dict(result.facts), result.note)
