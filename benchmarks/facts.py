"""What is published with every release: speed, shares and costs of the real job at several sizes and face counts."""

from __future__ import annotations

import shutil
from functools import partial

from benchmarks.rounds import Machine, Sample, interleaved, middle
from benchmarks.runs import engine_run, ffmpeg_run
from benchmarks.workshop import RATE, SIX, Workshop, table

#: Width, height, faces.
_CASES = ((1280, 720, 1), (1920, 1080, 0), (1920, 1080, 1), (1920, 1080, 4), (3840, 2160, 1))
_RING_MB = 512


def at_sizes(quick: bool, machine: Machine, workshop: Workshop) -> list[dict[str, object]]:
    """One entry for each case, every figure of its median turn."""
    return [_case(*case, quick, machine, workshop) for case in (_CASES[:2] if quick else _CASES)]


def _case(width: int, height: int, faces: int, quick: bool, machine: Machine, workshop: Workshop) -> dict[str, object]:
    seconds = 2 if quick else 6
    source = workshop.clip(width, height, seconds)
    program = shutil.which("ffmpeg")
    with engine_run(workshop, workshop.chain(faces), table(SIX), _RING_MB, sealer=workshop.sealer()) as run:
        variants = {"job": partial(run, source)}
        if program:
            variants["ffmpeg"] = partial(ffmpeg_run, program, workshop, source, seconds * RATE)
        samples = interleaved(variants, 1 if quick else 3, machine)
    turns = sorted(samples["job"], key=lambda sample: sample.value)
    shown: Sample = turns[len(turns) // 2]
    floor = middle(samples["ffmpeg"]) if program else None
    return {
        "size": f"{width}x{height}",
        "faces": faces,
        "fps": shown.value,
        "of_ffmpeg": shown.value / floor if floor else None,
        **shown.facts,
    }


def as_table(entries: list[dict[str, object]]) -> str:
    """The entries as columns, a figure a line."""
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    return "\n".join(f"{name:<28}" + "".join(f"{_cell(entry.get(name)):>12}" for entry in entries) for name in names)


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
