"""The parent's side: spawns the chain of stage processes, feeds it jobs, hears how they end, mends it when it breaks.

A chain is replaced as a whole: when one process dies, its neighbours see an end of file, finish what whole clips they
hold, and leave. The clip that the dead process was at fails and says so; clips that had not reached it are submitted
again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from pipeline import errors
from pipeline.board import Board, Doing
from pipeline.chain import Chain, StageProcess
from pipeline.ends import cancelled
from pipeline.errors import StageError, UnderstudyError
from pipeline.messages import Broken, Cancel, Control, Ended, Opened
from pipeline.pool import SharedBlock
from pipeline.publish import discard
from pipeline.specs import EngineConfig, Failure, Outcome, StageSpec, StageStats, check_chain
from pipeline.types import Clip, Job

_log = logging.getLogger(__name__)

#: Jobs that are with the chain at once: one being encoded, one being decoded, and some to go on with.
_AHEAD = 4

#: How often the parent looks at deadlines while it waits.
_LOOK_S = 0.25

#: How often the chain is started again without a single clip ending in between.
_MENDS = 3

#: How long those who are told to stop have for it: given-up clips take their half-written files away.
_PATIENCE_S = 5.0


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
        self._board = Board(sum(len(group.stages) * group.workers for group in config.processes))
        self._block = SharedBlock(config.ring_mb << 20)
        self._chain: Chain | None = None
        self._pending: deque[Job] = deque()
        self._inside: dict[int, Job] = {}  # with the chain
        self._clips: dict[int, Clip] = {}  # opened by it
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
        self._chain = chain = Chain(self._specs, self._config, self._board, self._block)
        deadline = time.monotonic() + self._config.start_s
        try:
            while not chain.ready:
                self._heed(chain.listen(_LOOK_S))
                if chain.broken:
                    self._heed(chain.last_words())
                    dead = next(process for process in chain.processes if not process.alive)
                    raise UnderstudyError(f"{dead.name} did not start: its process {dead.end}")
                if time.monotonic() > deadline:
                    slow = ", ".join(process.name for process in chain.processes if not process.ready)
                    raise UnderstudyError(f"{slow} did not start within engine.start_s = {self._config.start_s:g} s")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops: running clips are given up, their half-written files removed. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._chain is not None:
            self._chain.stop(_PATIENCE_S)
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
                self._done.append(Outcome(job, failure=cancelled()))
                return
        if job_id in self._inside:
            self._running.send(Cancel(job_id))

    def poll(self, timeout_s: float) -> list[Outcome]:
        """The jobs that have ended, waiting up to `timeout_s` for one; notices and mends what has died or hangs."""
        deadline = time.monotonic() + timeout_s
        while not self._done:
            self._feed()
            left = deadline - time.monotonic()
            self._heed(self._running.listen(max(0.0, min(left, _LOOK_S))))
            self._running.kill_overdue()
            if self._running.broken:
                self._mend()
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
        for process in self._chain.processes if self._chain is not None else ():
            pids.setdefault(process.name, []).append(process.process.pid or 0)
        return pids

    @property
    def _running(self) -> Chain:
        if self._chain is None:
            raise ValueError("the engine has not been started")
        return self._chain

    # --- what is heard --------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        while self._pending and len(self._inside) < _AHEAD and self._chain is not None and self._chain.open:
            job = self._pending.popleft()
            self._inside[job.id] = job
            self._begun[job.id] = time.monotonic()
            self._chain.send(job)

    def _heed(self, messages: Iterable[Control]) -> None:
        for message in messages:
            if isinstance(message, Broken):
                raise _as_error(message.failure)
            if isinstance(message, Opened):
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

    # --- what has died --------------------------------------------------------------------------------------------

    def _mend(self) -> None:
        """Lets the broken chain run dry, settles which clip is to blame, starts the chain anew, resubmits the rest."""
        chain = self._running
        chain.close_input()
        while any(process.alive for process in chain.processes):
            # the neighbours of the dead finish what they can; the deadline still holds for each frame
            self._heed(chain.listen(0.1, dead=False))
            chain.kill_overdue()
        self._heed(chain.last_words())
        blamed = [process for process in chain.processes if process.at_fault]
        at_fault = self._blame(blamed)
        for process in blamed:
            _log.warning("%s: its process %s; starting the stages again", process.name, process.end)
        self._fruitless += 1
        if self._fruitless > _MENDS and not at_fault:
            named = (blamed or chain.processes)[0]
            raise UnderstudyError(f"the stages do not stay up: {named.name}'s process {named.end}, again and again")
        chain.stop(patience_s=0)
        self._resubmit(at_fault)
        self.start()

    def _blame(self, dead: Iterable[StageProcess]) -> dict[int, Failure]:
        """The clips that the dead were at, by id, and where it happened: the stage that was busy, if one was."""
        at_fault: dict[int, Failure] = {}
        for process in dead:
            for name, row in zip(process.spec.stages, process.rows, strict=True):
                read = self._board.read(row)
                if read.clip and (read.clip not in at_fault or read.doing is Doing.BUSY):
                    frame = read.frame if read.frame >= 0 else None
                    at_fault[read.clip] = Failure(name, frame, f"its process {process.end}")
        return at_fault

    def _resubmit(self, at_fault: dict[int, Failure]) -> None:
        """Ends the jobs that are to blame; puts the others back where they were, at the front."""
        again = []
        for job in list(self._inside.values()):
            if clip := self._clips.pop(job.id, None):
                _discard(clip)
            if job.id in at_fault:
                self._end(Outcome(job, failure=at_fault[job.id]))
            else:
                again.append(self._inside.pop(job.id))
        self._pending.extendleft(reversed(again))


def _as_error(failure: Failure) -> UnderstudyError:
    """The exception that a stage raised in its own process, as one of ours."""
    kind = getattr(errors, failure.error, None)
    if isinstance(kind, type) and issubclass(kind, UnderstudyError) and kind is not StageError:
        return kind(failure.reason)
    if failure.detail:
        _log.error("%s", failure.detail)
    return UnderstudyError(f"{failure.stage} did not start: {failure.reason}")


def _discard(clip: Clip) -> None:
    if clip.target:
        discard(clip.partial)
