"""Ways to run a job that can be timed: through a warm engine, in one process of its own, by ffmpeg's program."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.rounds import Sample, cpu_s
from benchmarks.workshop import Workshop, encoder_options
from pipeline.engine import Engine
from pipeline.errors import UnderstudyError
from pipeline.runner import inline
from pipeline.specs import EngineConfig, Outcome, ProcessSpec, StageSpec, StageStats
from pipeline.types import Job
from stages import finish


class EngineRun:
    """A warm engine; calling it runs one job and gives frames per second, with what the machine spent on it."""

    def __init__(self, engine: Engine, workshop: Workshop) -> None:
        self.engine = engine
        self._workshop = workshop
        self._jobs = 0

    def __call__(self, source: Path, segment_s: float = 0.0) -> Sample:
        pids = self.engine.processes()
        cpu = {name: sum(map(cpu_s, group)) for name, group in pids.items()}
        before = self.engine.stats()
        begun = time.monotonic()
        job = self.submit(source, segment_s)
        outcome, occupancy = self._finish(job)
        seconds = time.monotonic() - begun
        nbytes = Path(job.target).stat().st_size
        Path(job.target).unlink()
        spent = {name: sum(map(cpu_s, group)) - cpu[name] for name, group in pids.items()}
        facts = _facts(outcome, seconds, spent, before, self.engine.stats(), occupancy) | _told(outcome)
        return Sample(outcome.frames / seconds, facts | {"bytes": float(nbytes)})

    def submit(self, source: Path, segment_s: float = 0.0) -> Job:
        """Hands a job to the engine and returns at once; it is made in segments of that length, or (0) in one go."""
        self._jobs += 1
        target = self._workshop.target()
        work = f"{target}.work" if segment_s else ""
        job = Job(self._jobs, str(source), target, work, segment_s or 10.0)
        self.engine.submit(job)
        return job

    def _finish(self, job: Job) -> tuple[Outcome, list[int]]:
        occupancy: list[int] = []
        while not (ended := self.engine.poll(0.05)):
            stats = self.engine.stats()
            occupancy.append(stats[0].frames - stats[-1].frames)
        (outcome,) = ended
        done(outcome)
        return outcome, occupancy


def done(outcome: Outcome) -> None:
    """Raises UnderstudyError where the job failed."""
    if outcome.failure is not None:
        raise UnderstudyError(f"{outcome.failure.stage} failed in a benchmark: {outcome.failure.reason}")


#: What stamped marks and seal say that they took, of the reports of those two.
_COSTS = {"disclose": "marking_cpu_s", "publish": "sealing_cpu_s"}


def _told(outcome: Outcome) -> dict[str, float]:
    reports = outcome.reports
    return {name: float(reports[of][name]) for of, name in _COSTS.items() if name in reports.get(of, {})}


def _facts(
    outcome: Outcome,
    seconds: float,
    spent: Mapping[str, float],
    before: Sequence[StageStats],
    after: Sequence[StageStats],
    occupancy: list[int],
) -> dict[str, float]:
    total = sum(spent.values())
    facts = {
        "seconds": seconds,
        "cpu_ms": total / outcome.frames * 1e3,
        "efficiency": total / seconds / (os.cpu_count() or 1),
    }
    facts |= {f"cpu_ms {name}": value / outcome.frames * 1e3 for name, value in spent.items()}
    facts |= {f"busy {b.name}": (a.busy - b.busy) / seconds for b, a in zip(before, after, strict=True)}
    for share in (10, 50, 90):
        facts[f"in flight {share} %"] = float(sorted(occupancy)[len(occupancy) * share // 100]) if occupancy else 0.0
    return facts


@contextmanager
def engine_run(
    workshop: Workshop,
    chain: tuple[StageSpec, ...],
    processes: tuple[ProcessSpec, ...],
    ring_mb: int = 256,
    verify: str = "decode",
    sealer: StageSpec | None = None,
) -> Iterator[EngineRun]:
    """An engine for the chain, started, warmed with one short clip, closed at the end; no sealer: nothing is signed."""
    with Engine(chain, EngineConfig(processes=processes, ring_mb=ring_mb), finisher(chain, verify), sealer) as engine:
        run = EngineRun(engine, workshop)
        run(workshop.clip(640, 360, 1))
        yield run


def finisher(chain: tuple[StageSpec, ...], verify: str = "decode") -> StageSpec:
    """What publishes the files of a chain, as in a real job; `verify` as in `finish.Config`."""
    return StageSpec("publish", "stages.finish:Finish", finish.Config(chain[-1].config, verify))


class Servant:
    """A spawned process that makes something callable and calls it when told: one-process variants, warm as well."""

    def __init__(self, workshop: Workshop, make: Callable[..., Any], *arguments: Any, env: Mapping[str, str]) -> None:
        self._workshop = workshop
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        with _environment(env):
            self._process.start()
        theirs.close()
        self._pipe.recv()

    def __call__(self, source: Path) -> Sample:
        self._pipe.send((str(source), self._workshop.target()))
        frames, wall, cpu = self._pipe.recv()
        return Sample(frames / wall, {"seconds": wall, "cpu_ms": cpu / frames * 1e3})

    def close(self) -> None:
        """Ends the process."""
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join()
        self._pipe.close()


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name)
        os.environ.update(before)


def _serve(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    work = make(*arguments)
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        wall, cpu = time.perf_counter(), time.process_time()
        told = work(*order)  # frames, or frames and seconds where the call does more than what is timed
        frames, seconds = told if isinstance(told, tuple) else (told, time.perf_counter() - wall)
        pipe.send((frames, seconds, time.process_time() - cpu))


@contextmanager
def servant(
    workshop: Workshop, make: Callable[..., Any], *arguments: Any, env: Mapping[str, str] | None = None
) -> Iterator[Servant]:
    """A servant, warmed with one short clip, ended at the end."""
    run = Servant(workshop, make, *arguments, env=env or {})
    try:
        run(workshop.clip(640, 360, 1))
        yield run
    finally:
        run.close()


class Inline:
    """The same stages, each called on the one before."""

    def __init__(self, chain: tuple[StageSpec, ...]) -> None:
        self._stages = [spec.build() for spec in chain]
        self._finisher = finish.Finish(finisher(chain).config)
        self._jobs = 0

    def __call__(self, source: str, target: str) -> int:
        """Converts the clip; returns how many frames it had."""
        self._jobs += 1
        outcome = inline(self._stages, Job(self._jobs, source, target), self._finisher)
        done(outcome)
        Path(target).unlink()
        return outcome.frames


# Made in the servant's own process: the import of torch belongs there.
def make_naive(model: str, to: str, encoder: dict[str, str]) -> Callable[[str, str], int]:
    """The naive script."""
    from benchmarks.naive import Script

    return Script(model, to, encoder)


def make_transcode(encoder: dict[str, str]) -> Callable[[str, str], int]:
    """Decode and encode in one process."""
    from benchmarks.naive import Transcode

    return Transcode(encoder)


def ffmpeg_run(program: str, workshop: Workshop, source: Path, frames: int) -> Sample:
    """The same job by ffmpeg's own program, its start included: decode, encode, sound copied."""
    target = workshop.target()
    options = [word for name, value in encoder_options().items() for word in (f"-{name}", value)]
    command = [program, "-nostdin", "-loglevel", "error", "-i", str(source), "-c:a", "copy", "-c:v", "libx264"]
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    subprocess.run([*command, *options, target], check=True)
    seconds = time.monotonic() - begun
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    Path(target).unlink()
    spent = now.ru_utime - cpu.ru_utime + now.ru_stime - cpu.ru_stime
    return Sample(frames / seconds, {"seconds": seconds, "cpu_ms": spent / frames * 1e3})
