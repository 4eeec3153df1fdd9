"""The parent's side: spawns the chain of stage processes, feeds it jobs, hears how they end, mends it when it breaks.

A chain is replaced as a whole: when one process dies, its neighbours see an end of file, finish what whole clips they
hold, and leave. The clip that the dead process was at fails and says so; clips that had not reached it are submitted
again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Self

from pipeline import errors
from pipeline.board import Board, Doing
from pipeline.errors import StageError, UnderstudyError
from pipeline.messages import Broken, Cancel, Control, Ended, Opened, Ready, pack, unpack
from pipeline.pool import SharedBlock
from pipeline.publish import discard
from pipeline.specs import EngineConfig, Failure, Outcome, ProcessSpec, StageSpec, StageStats, check_chain
from pipeline.types import Clip, Job
from pipeline.worker import PEER_GONE, Post, main

_log = logging.getLogger(__name__)

#: Jobs that are with the chain at once: one being encoded, one being decoded, and some to go on with.
_AHEAD = 4

#: How often the parent looks at deadlines while it waits.
_LOOK_S = 0.25

#: How often the chain is started again without a single clip ending in between.
_MENDS = 3

#: Set while children are spawned. One thread for each stage: the stages are the parallelism. Passive waiting leaves the
#: core to the encoder (see docs/performance.md), and has to be said before torch loads.
_CHILD_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "GLOG_minloglevel": "2",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclass(slots=True)
class _Process:
    """A running stage process, as the parent sees it."""

    spec: ProcessSpec
    rows: tuple[int, ...]
    process: SpawnProcess
    events: Connection
    ready: bool = False
    verdict: str = ""  # why we killed it, where we did

    @property
    def name(self) -> str:
        return "/".join(self.spec.stages)


class Engine:
    """Runs jobs through the stages, each group of stages in processes of its own, kept warm from clip to clip.

    A context manager; `close` (or leaving it) stops what is running and leaves no process and no memory behind.
    Not thread-safe: one thread submits, polls and closes.
    """

    def __init__(self, stages: Sequence[StageSpec], config: EngineConfig) -> None:
        """Checks the chain; raises ConfigError. Nothing is started before `start`."""
        self._specs = {spec.name: spec for spec in stages}
        self._config = config
        check_chain(tuple(stages), config.processes)
        self._context = multiprocessing.get_context("spawn")
        workers = [(spec, place) for spec in config.processes for place in range(spec.workers)]
        self._board = Board(sum(len(spec.stages) for spec, _ in workers))
        self._block = SharedBlock(config.ring_mb << 20)
        self._processes: list[_Process] = []
        self._jobs: Connection | None = None
        self._pending: deque[Job] = deque()
        self._inside: dict[int, Job] = {}
        self._clips: dict[int, Clip] = {}
        self._begun: dict[int, float] = {}
        self._done: deque[Outcome] = deque()
        self._fruitless = 0
        self._closed = False

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Spawns the processes and waits until every stage has loaded.

        Raises:
            UnderstudyError: of the class that the stage raised, e.g. WeightsError.
        """
        self._spawn()
        deadline = time.monotonic() + self._config.start_s
        try:
            while not all(process.ready for process in self._processes):
                self._listen(_LOOK_S)
                for process in self._processes:
                    if not process.ready and process.process.exitcode is not None:
                        self._hear(process)
                        raise StageError(process.name, "the model", None, _end_of(process))
                if time.monotonic() > deadline:
                    slow = ", ".join(p.name for p in self._processes if not p.ready)
                    raise StageError(slow, "the model", None, f"not ready after {self._config.start_s:g} s")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops: running clips are given up, their half-written files removed. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._stop()
        for clip in self._clips.values():
            _discard(clip)
        self._board.close()
        self._block.close()

    # --- work -----------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queues a job; its id must be a positive number that no unfinished job has."""
        if job.id < 1 or job.id in self._inside or any(other.id == job.id for other in self._pending):
            raise ValueError(f"job id {job.id} is taken or not positive")
        self._pending.append(job)
        self._feed()

    def cancel(self, job_id: int) -> None:
        """Stops a job, running or not; its outcome says so. A job that has ended is left alone."""
        for job in self._pending:
            if job.id == job_id:
                self._pending.remove(job)
                self._done.append(
                    Outcome(job, failure=Failure("", None, "stopped before it was finished", "Cancelled"))
                )
                return
        if job_id in self._inside:
            self._send(Cancel(job_id))

    def poll(self, timeout_s: float) -> list[Outcome]:
        """The jobs that have ended, waiting up to `timeout_s` for one; notices and mends what has died or hangs."""
        deadline = time.monotonic() + timeout_s
        while not self._done:
            self._feed()
            left = deadline - time.monotonic()
            self._listen(max(0.0, min(left, _LOOK_S)))
            self._look()
            if left <= 0:
                break
        outcomes = list(self._done)
        self._done.clear()
        return outcomes

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Runs all jobs, drawing them one by one as there is room; yields outcomes as they end."""
        source = iter(jobs)
        more = True
        while more or self.busy:
            while more and len(self._pending) + len(self._inside) < _AHEAD:
                job = next(source, None)
                more = job is not None
                if job is None:
                    break
                self.submit(job)
            if self.busy:
                yield from self.poll(1.0)

    @property
    def busy(self) -> bool:
        """Whether any job has not ended, or its outcome has not been fetched."""
        return bool(self._pending or self._inside or self._done)

    def clip(self, job_id: int) -> Clip | None:
        """What is known of a running job's clip: its size, its estimated number of frames."""
        return self._clips.get(job_id)

    def stats(self) -> tuple[StageStats, ...]:
        """What each stage has done since the engine was made, workers added up."""
        stats = []
        row = 0
        for place, spec in enumerate(self._config.processes):
            for at, name in enumerate(spec.stages):
                reads = [self._board.read(row + worker * len(spec.stages) + at) for worker in range(spec.workers)]
                furthest = max(reads, key=lambda read: (read.clip, read.frame))
                stats.append(
                    StageStats(
                        name,
                        place,
                        spec.workers,
                        sum(read.frames for read in reads),
                        sum(read.busy_ns for read in reads) / 1e9,
                        sum(read.wait_in_ns for read in reads) / 1e9,
                        sum(read.wait_out_ns for read in reads) / 1e9,
                        furthest.clip,
                        furthest.frame,
                    )
                )
            row += len(spec.stages) * spec.workers
        return tuple(stats)

    def processes(self) -> dict[str, list[int]]:
        """Process ids by the stages they run ("detect/align")."""
        pids: dict[str, list[int]] = {}
        for process in self._processes:
            pids.setdefault(process.name, []).append(process.process.pid or 0)
        return pids

    # --- the chain ------------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        """Starts every process, giving each only its own pipe ends, so that every death is an end of file."""
        specs = self._config.processes
        jobs_in, self._jobs = self._context.Pipe(duplex=False)
        credits_in, credits_out = self._context.Pipe(duplex=False)
        pipes = [
            [[self._context.Pipe(duplex=False) for _ in range(after.workers)] for _ in range(before.workers)]
            for before, after in pairwise(specs)
        ]
        ends: list[Connection] = [jobs_in, credits_in, credits_out]
        ends += [end for group in pipes for sender in group for pipe in sender for end in pipe]
        row = 0
        with _environment(_CHILD_ENVIRONMENT):
            for at, spec in enumerate(specs):
                for place in range(spec.workers):
                    rows = tuple(range(row, row + len(spec.stages)))
                    row += len(spec.stages)
                    for each in rows:
                        self._board.forget(each)
                    events, told = self._context.Pipe(duplex=False)
                    post = Post(
                        name="/".join(spec.stages),
                        specs=tuple(self._specs[name] for name in spec.stages),
                        rows=rows,
                        place=place,
                        places=spec.workers,
                        block=self._block,
                        board=self._board,
                        scratch_nbytes=self._config.scratch_kb << 10,
                        max_frames=self._config.max_frames,
                        events=told,
                        inlets=[pipes[at - 1][sender][place][0] for sender in range(specs[at - 1].workers)]
                        if at
                        else [],
                        outlets=[pipe[1] for pipe in pipes[at][place]] if at < len(pipes) else [],
                        jobs=jobs_in if at == 0 else None,
                        credits_in=credits_in if at == 0 else None,
                        credits_out=credits_out if at == len(specs) - 1 else None,
                    )
                    process = self._context.Process(target=main, args=(post,), name=f"understudy {post.name}")
                    process.start()
                    told.close()
                    self._processes.append(_Process(spec, rows, process, events))
        for end in ends:
            end.close()

    def _stop(self, patience_s: float = 5.0) -> None:
        """Closes the first pipe and lets the end of file run down the chain; who does not leave is killed."""
        if self._jobs is not None:
            self._jobs.close()
            self._jobs = None
        deadline = time.monotonic() + patience_s
        while any(p.process.exitcode is None for p in self._processes) and time.monotonic() < deadline:
            self._listen(0.05)
        for process in self._processes:
            if process.process.exitcode is None:
                process.process.kill()
            process.process.join()
            process.events.close()
            process.process.close()
        self._processes.clear()

    # --- what is heard --------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        while self._pending and len(self._inside) < _AHEAD and self._jobs is not None:
            job = self._pending.popleft()
            self._inside[job.id] = job
            self._begun[job.id] = time.monotonic()
            self._send(job)

    def _send(self, message: Control) -> None:
        if self._jobs is not None:
            with suppress(BrokenPipeError):  # the first process has died; its sentinel says so, and jobs are kept
                self._jobs.send_bytes(pack(message))

    def _listen(self, timeout_s: float) -> None:
        """Hears what the processes have to say, and returns at once when one of them has died."""
        live = {process.events: process for process in self._processes if not process.events.closed}
        sentinels = [p.process.sentinel for p in self._processes]
        for heard in wait([*live, *sentinels], timeout_s):
            if isinstance(heard, Connection):
                self._hear(live[heard])
        if not live and not sentinels:
            time.sleep(timeout_s)

    def _hear(self, process: _Process) -> None:
        while not process.events.closed and process.events.poll():
            try:
                message = unpack(process.events.recv_bytes())
            except (EOFError, OSError):
                process.events.close()
                return
            self._heed(process, message)

    def _heed(self, process: _Process, message: Control) -> None:
        if isinstance(message, Ready):
            process.ready = True
        elif isinstance(message, Broken):
            raise _as_error(message.failure)
        elif isinstance(message, Opened):
            self._clips[message.clip.id] = message.clip
            self._begun[message.clip.id] = time.monotonic()
        elif isinstance(message, Ended):
            failure = message.outcome.failure
            if failure is None or failure.error != "SenderGone":  # else what died tells more, see _mend
                self._end(message.outcome)

    def _end(self, outcome: Outcome) -> None:
        self._fruitless = 0
        job = self._inside.pop(outcome.job.id)
        self._clips.pop(job.id, None)
        seconds = time.monotonic() - self._begun.pop(job.id)
        if outcome.failure is not None and outcome.failure.detail:
            _log.error("%s", outcome.failure.detail)
        self._done.append(replace(outcome, job=job, seconds=seconds))

    # --- what has died ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Kills what has been busy with one frame for too long, and mends the chain if anything has died."""
        now = time.monotonic_ns()
        for process in self._processes:
            reads = [self._board.read(row) for row in process.rows]
            if any(r.doing is Doing.BUSY and now - r.since_ns > self._config.deadline_s * 1e9 for r in reads):
                process.verdict = f"made no progress for {self._config.deadline_s:g} s"
                process.process.kill()
                process.process.join()
        if any(process.process.exitcode is not None for process in self._processes):
            self._mend()

    def _mend(self) -> None:
        """Lets the broken chain run dry, settles which clip is to blame, starts the chain anew, resubmits the rest."""
        self._run_dry()
        blamed = [p for p in self._processes if p.process.exitcode not in (0, PEER_GONE)]
        at_fault: dict[int, Failure] = {}
        for process in blamed:
            for name, row in zip(process.spec.stages, process.rows, strict=True):
                read = self._board.read(row)
                if read.clip:
                    frame = read.frame if read.frame >= 0 else None
                    # the last stage of the process that was busy is where it happened
                    if read.clip not in at_fault or read.doing is Doing.BUSY:
                        at_fault[read.clip] = Failure(name, frame, f"its process {_end_of(process)}")
        self._fruitless += 1
        if self._fruitless > _MENDS:
            named = blamed or self._processes
            raise UnderstudyError(
                f"the stages do not stay up: {named[0].name}'s process {_end_of(named[0])}, again and again"
            )
        for process in blamed:
            _log.warning("%s: process %s; starting the stages again", process.name, _end_of(process))
        self._stop(patience_s=1.0)
        again = []
        for job in list(self._inside.values()):
            if clip := self._clips.pop(job.id, None):
                _discard(clip)
            if job.id in at_fault:
                self._end(Outcome(job, failure=at_fault[job.id]))
            else:
                again.append(job)
        for job in again:
            del self._inside[job.id]
        self._pending.extendleft(reversed(again))
        self.start()

    def _run_dry(self) -> None:
        """Waits for the neighbours of the dead to finish what they can; the deadline still holds for each frame."""
        if self._jobs is not None:
            self._jobs.close()
            self._jobs = None
        while any(process.process.exitcode is None for process in self._processes):
            alive = [p for p in self._processes if p.process.exitcode is None]
            self._listen_to(alive, 0.1)
            now = time.monotonic_ns()
            for process in alive:
                since = max(self._board.read(row).since_ns for row in process.rows)
                if now - since > self._config.deadline_s * 1e9:
                    process.process.kill()
        for process in self._processes:
            self._hear(process)

    def _listen_to(self, alive: list[_Process], timeout_s: float) -> None:
        live = {process.events: process for process in alive if not process.events.closed}
        for heard in wait([*live, *(p.process.sentinel for p in alive)], timeout_s):
            if isinstance(heard, Connection):
                self._hear(live[heard])


def _end_of(process: _Process) -> str:
    if process.verdict:
        return process.verdict
    code = process.process.exitcode or 0
    if code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"exited with code {code}"


def _as_error(failure: Failure) -> UnderstudyError:
    """The exception that a stage raised in its own process, as one of ours."""
    kind = getattr(errors, failure.error, None)
    if isinstance(kind, type) and issubclass(kind, UnderstudyError) and kind is not StageError:
        return kind(failure.reason)
    if failure.detail:
        _log.error("%s", failure.detail)
    return StageError(failure.stage, "the model", None, failure.reason)


def _discard(clip: Clip) -> None:
    if clip.target:
        discard(clip.partial)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
