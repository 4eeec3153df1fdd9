"""P12: the training loop's step of the full Original, against a plain fp32 loop that passes one person after the other.

Both have 16 faces of each person in a step, the same loss and one Adam step, on as many threads as this process may
use, in turns. The batches lie ready: augmentation is the same for both and not what the bar is about.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.bars import Result, line
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle, ratio
from models import autoencoders, checkpoint, tensors
from models.train import losses
from models.train.augment import Batch
from models.train.session import errors

_BATCH = 16
_DSSIM = 0.5


def measure(quick: bool, machine: Machine) -> list[Result]:
    """P12."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    batches = {person: _batch(seed) for seed, person in enumerate(("a", "b"))}
    dtype = tensors.choose_precision("auto", torch.device("cpu"))
    variants = {
        "ours": _turn(_ours(batches, dtype), 2 if quick else 4),
        "separate": _turn(_separate(batches), 1 if quick else 3),
    }
    samples = interleaved(variants, 3 if quick else 5, machine)
    facts = {
        "steps_per_s": middle(samples["ours"]),
        "separate_steps_per_s": middle(samples["separate"]),
        "faces_per_s": middle(samples["ours"]) * 2 * _BATCH,
        "precision": tensors.precision_name(dtype),
        "threads": torch.get_num_threads(),
    }
    torch.set_num_threads(before)
    return [Result("P12", ratio(samples, "ours", "separate"), facts, disturbance(samples))]


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    seen, target = (torch.rand(_BATCH, 3, 64, 64, generator=generator) for _ in range(2))
    last = torch.channels_last
    return Batch(
        seen.contiguous(memory_format=last), target.contiguous(memory_format=last), torch.ones(_BATCH, 1, 64, 64)
    )


def _ours(batches: dict[str, Batch], dtype: torch.dtype) -> Callable[[], None]:
    model: Any = checkpoint.new("original", autoencoders.preset("original", "original"))[0]
    model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(model.parameters(), 5e-5, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        torch.stack(list(errors(model, batches, _DSSIM, dtype).values())).sum().backward()
        optimiser.step()

    return step


def _separate(batches: dict[str, Batch]) -> Callable[[], None]:
    model: Any = checkpoint.new("original", autoencoders.preset("original", "original"))[0].train()
    optimiser = torch.optim.Adam(model.parameters(), 5e-5)

    def step() -> None:
        optimiser.zero_grad()
        for person, batch in batches.items():
            made = model.swap(batch.input.contiguous(), person)
            losses.reconstruction(made, batch.target.contiguous(), batch.weight, _DSSIM).backward()
        optimiser.step()

    return step


def _turn(step: Callable[[], None], count: int) -> Callable[[], Sample]:
    """Steps per second."""

    def run() -> Sample:
        step()
        begun = time.perf_counter()
        for _ in range(count):
            step()
        return Sample(count / (time.perf_counter() - begun))

    return run


if __name__ == "__main__":
    for result in measure("--quick" in sys.argv, Machine(patience_s=60)):
        print(line(result), dict(result.facts), result.note)
