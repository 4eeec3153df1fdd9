"""What training each model costs: the table of docs/training.md, `understudy bench --models`.

Every model is trained for a few steps in a process of its own (`benchmarks/one_model.py`), with the recipe's defaults,
on one batch of noise that lies ready. On a CPU its memory is the most that the process ever held beyond what it held
before there was a model, on a GPU the most that torch had given out.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.one_model import PEOPLE
from benchmarks.rounds import QUIET_DURING, Machine
from models import autoencoders, tensors
from models.blocks import Layers

_log = logging.getLogger("benchmarks")

_BATCH, _QUICK_BATCH = 16, 2
_SKETCH = "sketch"  # what tests train; only the Original's is of use to people
_CPU_PX = 128  # a model that sees more takes minutes for a step on a CPU
_PATIENCE_S = 600.0
_HEAD = ("architecture", "preset", "input", "output", "parameters", "memory", "steps/s")


@dataclass(frozen=True, slots=True)
class Line:
    """One model's line.

    Attributes:
        parameters: of a model of two people without learned masks.
        precision: of the activations.
        bytes: the most memory that a training took; steps_per_s: how fast it was; where they are not there, `remark`
            says why.
        others: cores that others used meanwhile.
    """

    architecture: str
    preset: str
    input_size: int
    output_size: int
    parameters: int
    precision: str = ""
    bytes: int | None = None
    steps_per_s: float | None = None
    remark: str = ""
    others: float = 0.0


def batch(quick: bool) -> int:
    """Faces of each person in a step."""
    return _QUICK_BATCH if quick else _BATCH


def table(quick: bool, machine: Machine, say: Callable[[str], None]) -> list[Line]:
    """Measures every model; `say` is given the Markdown table line by line, and a sentence about it."""
    say(f"{_row(_HEAD)}\n{_row(['---', '---', *['---:'] * (len(_HEAD) - 2)])}")
    found = []
    for line in lines(quick, machine):
        say(as_row(line))
        found.append(line)
    say(f"\n{caption(quick, found)}")
    return found


def lines(quick: bool, machine: Machine) -> Iterator[Line]:
    """Every model's line, as they come; for a quick look, the sketches with small batches."""
    on_cpu = tensors.choose_device("auto").type == "cpu"
    for line in _models(quick):
        if on_cpu and line.input_size > _CPU_PX:
            yield replace(line, remark="for GPUs")
            continue
        machine.wait_for_quiet()
        _log.warning("measuring %s %s ...", line.architecture, line.preset)
        mark = machine.mark()
        told = _told(line.architecture, line.preset, batch(quick))
        yield replace(line, others=machine.others_since(mark), **told)  # type: ignore[arg-type]


def _models(quick: bool) -> Iterator[Line]:
    for name in autoencoders.names():
        family = autoencoders.module(name)
        for preset, config in family.PRESETS.items():
            is_sketch = preset == _SKETCH
            if is_sketch if quick else name == "original" or not is_sketch:
                with torch.device("meta"):
                    model = family.build(config, PEOPLE, Layers())
                count = sum(weight.numel() for weight in model.parameters())
                yield Line(name, preset, config.input_size, config.output_size, count)


def _told(architecture: str, preset: str, count: int) -> dict[str, object]:
    """What the process found out."""
    command = [sys.executable, "-m", "benchmarks.one_model", architecture, preset, str(count)]
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return {"remark": f"over {_PATIENCE_S:.0f} s in all"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        return {"remark": f"failed: {said[-1]}"}
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


def as_row(line: Line) -> str:
    """One line of the Markdown table."""
    cells = [line.architecture, line.preset, f"{line.input_size} px", f"{line.output_size} px"]
    cells.append(f"{line.parameters / 1e6:.2f} M")
    if line.bytes is None or line.steps_per_s is None:
        return _row([*cells, "-", line.remark])
    star = " *" if line.others > QUIET_DURING else ""
    return _row([*cells, f"{line.bytes / 2**30:.2f} GiB", f"{_figure(line.steps_per_s)}{star}"])


def caption(quick: bool, measured: Sequence[Line]) -> str:
    """What the figures are, in a sentence or two below the table."""
    precisions = " and ".join(sorted({line.precision for line in measured if line.precision}))
    said = f"Two people, {batch(quick)} faces of each in a step, {precisions or 'nothing measured'}."
    most = max((line.others for line in measured), default=0.0)
    if most > QUIET_DURING:
        said += f" * while others used the machine: up to {most:.1f} cores."
    return said


def _figure(value: float) -> str:
    """Two digits that count."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
