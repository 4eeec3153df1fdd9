"""P4 to P9: whole jobs, as frames per second against other ways to do the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from benchmarks.bars import Result
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle, middle_fact, ratio
from benchmarks.runs import (
    Inline,
    engine_run,
    ffmpeg_run,
    make_naive,
    make_transcode,
    servant,
)
from benchmarks.workshop import RATE, SIX, THREE, Workshop, bitrate, encoder_options, table, unmarked
from pipeline.child import CHILD_ENVIRONMENT
from pipeline.publish import discard
from pipeline.specs import StageSpec
from pipeline.types import Frame, Job, Pulled, Source

#: Below this many cores no core is idle while a job runs.
_CORES_TO_BE_IDLE = 8


def no_op(quick: bool, machine: Machine, workshop: Workshop) -> Result:
    """P4: decode, stages that pass frames on, encode; against ffmpeg's program with the same encoder settings."""
    seconds = 3 if quick else 10
    source = workshop.clip(1920, 1080, seconds)
    program = shutil.which("ffmpeg")
    with ExitStack() as stack:
        variants: dict[str, Callable[[], Sample]] = {}
        variants["staged"] = partial(
            stack.enter_context(engine_run(workshop, workshop.empty_chain(), table(SIX))), source
        )
        if program:
            variants["other"] = partial(ffmpeg_run, program, workshop, source, seconds * RATE)
        else:
            plain = stack.enter_context(servant(workshop, make_transcode, encoder_options()))
            variants["other"] = partial(plain, source)
        samples = interleaved(variants, 2 if quick else 5, machine)
    against = _version(program) if program else "no ffmpeg on PATH: a one-process PyAV transcode stands in"
    facts: dict[str, float | int | str] = {
        "fps": middle(samples["staged"]),
        "other_fps": middle(samples["other"]),
        "cpu_ms": middle_fact(samples["staged"], "cpu_ms"),
        "other_cpu_ms": middle_fact(samples["other"], "cpu_ms"),
        "against": against,
        "mbit_s": bitrate(source, seconds),
    }
    return Result("P4", ratio(samples, "staged", "other"), facts, disturbance(samples))


def _version(program: str) -> str:
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
    return " ".join(told.split()[:3])


def whole(quick: bool, machine: Machine, workshop: Workshop, wanted: Collection[str]) -> list[Result]:
    """P5, P7, P8 and P9: a real job with the full model, staged in six processes, in three, in one, and naively.

    None of them marks or signs anything, for the script does not; M1 is what that costs.
    """
    seconds = 3 if quick else 8
    source = workshop.clip(1920, 1080, seconds)
    chain = unmarked(workshop.chain())
    with ExitStack() as stack:
        runs: dict[str, Callable[[Path], Sample]] = {
            "six": stack.enter_context(engine_run(workshop, chain, table(SIX)))
        }
        if "P9" in wanted:
            runs["three"] = stack.enter_context(engine_run(workshop, chain, table(THREE)))
        if "P7" in wanted:
            runs["one"] = stack.enter_context(servant(workshop, Inline, chain, env=CHILD_ENVIRONMENT))
            cores = os.cpu_count() or 1
            spread, env = unmarked(workshop.chain(threads=cores)), CHILD_ENVIRONMENT | {"OMP_NUM_THREADS": str(cores)}
            runs["one, network on all cores"] = stack.enter_context(servant(workshop, Inline, spread, env=env))
        if "P8" in wanted:
            model = str(workshop.model())
            runs["naive"] = stack.enter_context(servant(workshop, make_naive, model, "b", encoder_options()))
        variants = {name: partial(run, source) for name, run in runs.items()}
        samples = interleaved(variants, 1 if quick else 3, machine)
    fps = {f"{name}_fps": middle(turns) for name, turns in samples.items()}
    cpu = {f"{name}_cpu_ms": middle_fact(turns, "cpu_ms") for name, turns in samples.items()}
    note = disturbance(samples)
    results = [Result("P5", middle_fact(samples["six"], "efficiency"), {"fps": fps["six_fps"], **cpu}, note)]
    if "P7" in wanted:
        results.append(Result("P7", ratio(samples, "six", "one"), fps, note))
    if "P8" in wanted:
        results.append(Result("P8", ratio(samples, "six", "naive"), {**fps, "mbit_s": bitrate(source, seconds)}, note))
    if "P9" in wanted:
        results.append(Result("P9", ratio(samples, "six", "three"), fps, note))
    return [result for result in results if result.id in wanted]


def idle_cores(quick: bool, machine: Machine, workshop: Workshop) -> Result:
    """P6: the job's frames per second against those of its slowest stage when that runs alone."""
    cores = os.cpu_count() or 1
    if cores < _CORES_TO_BE_IDLE:
        return Result("P6", None, note=f"not measurable on {cores} cores, needs {_CORES_TO_BE_IDLE}")
    source = workshop.clip(1920, 1080, 3 if quick else 10)
    chain, env = unmarked(workshop.chain()), CHILD_ENVIRONMENT
    with engine_run(workshop, chain, table(SIX)) as run, servant(workshop, Alone, chain, env=env) as alone:
        samples = interleaved({"job": partial(run, source), "alone": partial(alone, source)}, 3, machine)
    return Result(
        "P6",
        ratio(samples, "job", "alone"),
        {"fps": middle(samples["job"]), "slowest_alone_fps": middle(samples["alone"])},
        disturbance(samples),
    )


class Alone:
    """Each stage on its own over the same frames, everything before it done beforehand; timed by the slowest."""

    def __init__(self, chain: tuple[StageSpec, ...]) -> None:
        self._stages = [spec.build() for spec in chain]

    def __call__(self, source: str, target: str) -> tuple[int, float]:
        """How many frames there were, and the seconds of the slowest stage."""
        first, *rest = self._stages
        clip = cast(Source, first).open(Job(1, source, target))
        begun = time.perf_counter()
        frames = [_own(frame) for frame in first(clip, Pulled(()))]
        seconds = [time.perf_counter() - begun]
        for stage in rest:
            begun = time.perf_counter()
            frames = list(stage(clip, Pulled(frames)))
            seconds.append(time.perf_counter() - begun)
        discard(clip.partial)
        return len(frames), max(seconds)


def _own(frame: Frame) -> Frame:
    picture = frame.picture
    return frame.with_(picture=replace(picture, planes=tuple(plane.copy() for plane in picture.planes)))
