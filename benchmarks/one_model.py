"""What training one model costs, told as JSON: `python -m benchmarks.one_model ARCHITECTURE PRESET BATCH`.

It is a program of its own because memory is counted from a process's beginning. A model that takes more than most of
the free memory, or too long for a step, is given up in the middle of the step; what it was is the "remark".
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from models import tensors
from models.train import recipe
from models.train.batch import Batch
from models.train.session import Session
from models.train.step import Stopped
from models.train.world import World
from pipeline.errors import RequirementError

PEOPLE = ("a", "b")
STEP_S = 60.0  # longer steps are not waited for
_FREE = 0.8  # of the memory that nobody uses: what a model may take
_MEASURED_S, _LONG_S = 3.0, 12.0


class Bounds:
    """Asked within a step (on a CPU, before every layer) whether to give it up.

    Attributes:
        why: what was too much; empty where nothing was.
    """

    def __init__(self, most_bytes: float, step_s: float = STEP_S) -> None:
        self._most = most_bytes
        self._step_s = step_s
        self._end = float("inf")
        self._before = _memory("VmRSS")
        self.why = ""

    @property
    def peak(self) -> int:
        """The most bytes that the process has held, beyond those that it held at the beginning."""
        return _memory("VmHWM") - self._before

    def begin(self) -> None:
        """Says that a step begins."""
        self._end = time.monotonic() + self._step_s

    def __call__(self) -> bool:
        if self.peak > self._most:
            self.why = f"over {self._most / 2**30:.0f} GiB"
        elif time.monotonic() > self._end:
            self.why = f"over {self._step_s:g} s a step"
        return bool(self.why)


def _memory(which: str) -> int:
    """Bytes that this process holds now, "VmRSS", or has held at most, "VmHWM".

    What getrusage calls the most is at least the parent's own.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{which}:"))


def measured(architecture: str, preset: str, batch: int, bounds: Bounds) -> dict[str, object]:
    """Gives precision, and either bytes and steps_per_s or the remark why they are not there."""
    config = recipe.Config(
        architecture=architecture, preset=preset, batch=batch, safety=recipe.Safety(collapse=0, rollbacks=0)
    )
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        session = Session.begin(config, Path(folder) / "model", PEOPLE, World.alone(), bounds)
    known: dict[str, object] = {"precision": tensors.precision_name(session.dtype)}
    try:
        speed = _steps_per_s(session, bounds)
    except Stopped:
        return known | {"remark": bounds.why}
    except RequirementError:
        return known | {"remark": "over the memory there is"}
    if session.learner.parts > 1:
        return known | {"remark": "over the memory there is"}
    on_gpu = session.device.type == "cuda"
    return known | {"bytes": torch.cuda.max_memory_allocated() if on_gpu else bounds.peak, "steps_per_s": speed}


def _steps_per_s(session: Session, bounds: Bounds) -> float:
    """Without the first step, in which memory is taken and kernels are chosen; a slow model takes but two."""
    batches = {person: _batch(session, seed) for seed, person in enumerate(PEOPLE)}
    first, spent = 0.0, 0.0
    for count in itertools.count():
        bounds.begin()
        begun = time.perf_counter()
        session.learn(batches, session.rate(0.0))  # waits for the device in the end
        seconds = time.perf_counter() - begun
        if not count:
            first = seconds
            continue
        spent += seconds
        if spent >= _MEASURED_S or first + spent >= _LONG_S:
            return count / spent
    raise AssertionError("counting has no end")


def _batch(session: Session, seed: int) -> Batch:
    """Noise, a face all over."""
    chance = torch.Generator().manual_seed(seed)
    count, (inside, outside) = session.config.batch, session.sizes
    seen, target = (
        torch.rand(count, 3, side, side, generator=chance).to(session.device, memory_format=torch.channels_last)
        for side in (inside, outside)
    )
    mask = torch.ones(count, 1, outside, outside, device=session.device)
    return Batch(seen, target, mask, torch.zeros_like(mask), torch.zeros_like(mask))


if __name__ == "__main__":
    torch.set_num_threads(tensors.cores())
    free = _FREE * psutil.virtual_memory().available
    print(json.dumps(measured(sys.argv[1], sys.argv[2], int(sys.argv[3]), Bounds(free))))
