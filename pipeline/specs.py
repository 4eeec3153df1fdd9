"""What to run, declared before anything is built: specs cross process borders, live objects are made where used."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from pipeline.errors import ConfigError
from pipeline.types import Job, Report, Stage


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage to be made in its own process: `factory` is "module:Class", called with `config`."""

    name: str
    factory: str
    config: Any = None

    def build(self) -> Stage:
        """Imports and makes the stage: weights and heavy libraries load here."""
        module, _, name = self.factory.partition(":")
        stage: Stage = getattr(import_module(module), name)(self.config)
        return stage

    def declared(self) -> type[Stage]:
        """The stage's class, whose `needs`, `gives` and `stateless` can be read without making one."""
        module, _, name = self.factory.partition(":")
        declared: type[Stage] = getattr(import_module(module), name)
        return declared


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """Stages that share a process, by name, and how many such processes share each clip's frames."""

    stages: tuple[str, ...]
    workers: int = 1


def one_process_per_stage() -> tuple[ProcessSpec, ...]:
    """The default table."""
    groups = (("decode",), ("detect", "align"), ("mask",), ("swap",), ("blend",), ("disclose", "encode"))
    return tuple(ProcessSpec(stages) for stages in groups)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine's own settings.

    Attributes:
        processes: which stages share a process, in the order of the chain.
        ring_mb: MiB of shared memory for frames in flight; with it, how far decode may run ahead.
        scratch_kb: KiB of each frame's slot kept for its faces' landmarks, crops and masks, at least; more is taken
            where the model's crops and `detect.max_faces` need more.
        max_frames: how many frames at most are in flight, however small they are.
        deadline_s: how long a stage may be busy with one frame before its process is replaced; infinity: for ever.
        deadlines_s: the same for single stages, by name; "publish" is what becomes of a clip after the last of them.
        start_s: how long a process may take to load its models.
    """

    processes: tuple[ProcessSpec, ...] = field(default_factory=one_process_per_stage)
    ring_mb: int = 256
    scratch_kb: int = 2048
    max_frames: int = 32
    deadline_s: float = 120.0
    deadlines_s: dict[str, float] = field(default_factory=dict)
    start_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("ring_mb", "scratch_kb", "max_frames"):
            if not 1 <= getattr(self, name) <= 1 << 20:
                raise ConfigError(f"engine.{name} must be from 1 to {1 << 20}, not {getattr(self, name)}")
        for name in ("deadline_s", "start_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"engine.{name} must be above 0, not {getattr(self, name):g}")
        for name, seconds in self.deadlines_s.items():
            if not seconds > 0:
                raise ConfigError(f"engine.deadlines_s.{name} must be above 0, not {seconds:g}")

    def deadline_of(self, stage: str) -> float:
        """How long the stage of that name may be busy with one frame, in seconds."""
        return self.deadlines_s.get(stage, self.deadline_s)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a clip ended without a result: the stage, its frame (None: before the first), and one sentence.

    `error` is the name of the exception's class, mostly one of `pipeline.errors`; `detail` is the traceback where the
    failure was not foreseen, or the last lines that a process that died had written, for the log. `errno` is the
    system's number for the cause where it has one (28: the disk is full); `signal` the one that killed the process.
    `frame` counts from the start of the file.
    """

    stage: str
    frame: int | None
    reason: str
    error: str = "StageError"
    detail: str = ""
    errno: int = 0
    signal: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: `failure` is None when the target has been published.

    `frames` is how many went through the stages, which of a clip that was gone on with are not all.
    """

    job: Job
    frames: int = 0
    failure: Failure | None = None
    reports: dict[str, Report] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the target has been published."""
        return self.failure is None


@dataclass(frozen=True, slots=True)
class StageStats:
    """What a stage has done since the engine started, summed over its workers; times in seconds.

    Attributes:
        clip: id of the job it is at, 0 when idle; `frame` the frame, counted from the start of the file.
        wait_in: idle, nothing came; `wait_out`: held up by the next stage or by a full ring.
    """

    name: str
    process: int
    workers: int
    frames: int = 0
    busy: float = 0.0
    wait_in: float = 0.0
    wait_out: float = 0.0
    clip: int = 0
    frame: int = -1


def check_chain(specs: tuple[StageSpec, ...], processes: tuple[ProcessSpec, ...]) -> None:
    """Refuses a chain in which a stage's needs are met by none before it, or whose process table does not fit.

    Raises:
        ConfigError: "blend needs swapped; nothing before it gives it".
    """
    given: set[str] = set()
    for spec in specs:
        stage = spec.declared()
        if missing := sorted(stage.needs - given):
            raise ConfigError(f"{spec.name} needs {' and '.join(missing)}; nothing before it gives it")
        given |= stage.gives
    names = tuple(spec.name for spec in specs)
    grouped = tuple(name for process in processes for name in process.stages)
    if grouped != names:
        raise ConfigError(
            f"engine.processes must list the stages in the order {', '.join(names)}; it lists {', '.join(grouped)}"
        )
    if len(processes) < 2:
        raise ConfigError("engine.processes must have at least two processes, one that decodes and one that encodes")
    by_name = {spec.name: spec.declared() for spec in specs}
    for place, process in enumerate(processes):
        if process.workers < 1:
            raise ConfigError(f"engine.processes: {'+'.join(process.stages)} needs at least one worker")
        for name in process.stages:
            if process.workers > 1 and (not by_name[name].stateless or place in (0, len(processes) - 1)):
                raise ConfigError(
                    f"engine.processes: {name} keeps state from frame to frame and cannot have {process.workers} "
                    "workers; move it to a process of its own"
                )
