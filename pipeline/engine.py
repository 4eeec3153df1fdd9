"""The parent's side: spawns the chain of stage processes, feeds it jobs, hears how they end, mends it when it breaks.

A clip that is through the chain goes to the door (`pipeline.publisher`), while the chain is at the next. A chain is
replaced as a whole: when one process dies, its neighbours see an end of file, finish what whole clips they hold, and
leave. The clip that the dead process was at fails and says so; clips that had not reached it are submitted again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from pipeline.board import Board, Doing, stage_stats
from pipeline.chain import Chain, StageProcess
from pipeline.child import Child, listen
from pipeline.errors import StageError, UnderstudyError
from pipeline.failures import cancelled, error_of
from pipeline.messages import Broken, Cancel, Control, Ended, Finish, Opened
from pipeline.pool import SharedBlock
from pipeline.publish import discard
from pipeline.publisher import Publisher
from pipeline.specs import EngineConfig, Failure, Outcome, StageSpec, StageStats, check_chain
from pipeline.types import Clip, Job

_log = logging.getLogger(__name__)

#: Jobs that are with the chain at once: one being encoded, one being decoded, and some to go on with. Where as many
#: wait at the door, the chain gets no more.
_AHEAD = 4

#: How often the parent looks at deadlines while it waits.
_LOOK_S = 0.25

#: How often the chain is started again without a single clip ending in between.
_MENDS = 3

#: How long stages that are told to stop may go on with the frames that they have.
_LEAVING_S = 2.0


class Interrupted(UnderstudyError):  # noqa: N818  (an event, not an error of ours)
    """Another thread has had the engine stop (`Engine.stop_soon`)."""


class Engine:
    """Runs jobs through the stages, each group of stages in processes of its own, kept warm from clip to clip.

    A context manager; `close` (or leaving it) stops what is running and leaves no process and no memory behind.
    One thread starts, submits, polls and closes; only `stop_soon` may be called from others. Several engines may live
    in as many threads. It touches no signals.

    Attributes:
        restarts: how often processes that had died or hung were started again.
    """

    def __init__(
        self,
        stages: Sequence[StageSpec],
        config: EngineConfig,
        finisher: StageSpec | None = None,
        sealer: StageSpec | None = None,
    ) -> None:
        """Checks the chain; raises ConfigError. Nothing is started before `start`.

        Args:
            finisher: makes a `pipeline.types.Finisher`, in the door's process; None: jobs have no targets.
            sealer: makes a `pipeline.types.Sealer`, there too; None: files come out as the finisher makes them.
        """
        self._specs = {spec.name: spec for spec in stages}
        self._config = config
        check_chain(tuple(stages), config.processes)
        self._board = Board(sum(len(group.stages) * group.workers for group in config.processes))
        self._block = SharedBlock(config.ring_mb << 20)
        self._chain: Chain | None = None
        self._publisher = None if finisher is None else Publisher(finisher, config, sealer)
        self._pending: deque[Job] = deque()
        self._inside: dict[int, Job] = {}  # with the chain
        self._through: dict[int, Job] = {}  # with the door
        self._clips: dict[int, Clip] = {}  # opened by the chain
        self._begun: dict[int, float] = {}
        self._done: deque[Outcome] = deque()
        self._fruitless = 0
        self.restarts = 0
        self._stopping = threading.Event()
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
            UnderstudyError: of the class that the stage raised, e.g. WeightsError. Interrupted after `stop_soon`.
        """
        try:
            if self._publisher is not None:
                self._publisher.open()
            self._chain = chain = Chain(self._specs, self._config, self._board, self._block)
            deadline = time.monotonic() + self._config.start_s
            while not all(child.ready for child in self._children()):
                self._listen(_LOOK_S)
                if chain.broken:
                    self._heed(chain.hear())
                    dead = next(process for process in chain.processes if not process.alive)
                    raise UnderstudyError(f"{dead.name} did not start: its process {dead.end}")
                if time.monotonic() > deadline:
                    slow = ", ".join(child.name for child in self._children() if not child.ready)
                    raise UnderstudyError(f"{slow} did not start within engine.start_s = {self._config.start_s:g} s")
        except BaseException:
            self.close()
            raise

    def stop_soon(self) -> None:
        """Has `start` and `poll` raise Interrupted, now and from now on. The only thing that other threads may call."""
        self._stopping.set()

    def close(self, patience_s: float = 5.0) -> None:
        """Stops: clips in the stages are given up, half-written files removed. Safe to call twice.

        For so long the door may be done with the clip that it is at: `poll` says afterwards what became of it. The
        stages have a moment of it to take their half-written files away. Segments in work folders stay.
        """
        if self._closed:
            return
        self._closed = True
        self._stop(patience_s)
        for clip in self._clips.values():
            _discard(clip)
        self._board.close()
        self._block.close()

    def _stop(self, patience_s: float) -> None:
        ends = [end for end in (self._chain, self._publisher) if end is not None]
        for end in ends:
            end.close_input()
        for child in self._children():
            if not child.ready and child.alive:  # has nothing to take away, and would not hear before it has loaded
                child.kill()
        begun = time.monotonic()
        while any(child.alive for child in self._children()) and time.monotonic() - begun < patience_s:
            listen(self._children(), 0.05, dead=False)
            self._overhear()
            if self._chain is not None and time.monotonic() - begun > _LEAVING_S:
                self._chain.stop()  # what they still make of the frames in flight is nobody's
            self._attend()
        self._overhear()
        self._attend()
        for end in ends:
            end.stop()

    def _overhear(self) -> None:
        """Of what the stages say at the end only this counts: clips opened so late may leave half-written files."""
        if self._chain is not None:
            self._clips |= {word.clip.id: word.clip for word in self._chain.hear() if isinstance(word, Opened)}

    # --- work -----------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queues a job; its id must be a positive number that no unfinished job has.

        Raises:
            ValueError: it has not, or the job has a target and the engine no finisher.
        """
        if job.id < 1 or job.id in self._begun or any(other.id == job.id for other in self._pending):
            raise ValueError(f"job id {job.id} is taken or not positive")
        if job.target and self._publisher is None:
            raise ValueError(f"job {job.id} has a target, and the engine has no finisher")
        self._pending.append(job)
        self._feed()

    def cancel(self, job_id: int) -> None:
        """Stops a job, running or not; its outcome says so. One that has ended, or is at the door, is left alone."""
        for job in self._pending:
            if job.id == job_id:
                self._pending.remove(job)
                self._done.append(Outcome(job, failure=cancelled()))
                return
        if job_id in self._inside:
            self._running.send(Cancel(job_id))

    def poll(self, timeout_s: float) -> list[Outcome]:
        """The jobs that have ended, waiting up to `timeout_s` for one; notices and mends what has died or hangs.

        Of a closed engine, what had ended before it was.

        Raises:
            UnderstudyError: the processes do not stay up. Interrupted after `stop_soon`.
        """
        deadline = time.monotonic() + timeout_s
        while not self._done and not self._closed:
            self._feed()
            left = deadline - time.monotonic()
            self._listen(max(0.0, min(left, _LOOK_S)))
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
        return bool(self._pending or self._begun or self._done)

    def clip(self, job_id: int) -> Clip | None:
        """What is known of a running job's clip: its size, its estimated number of frames."""
        return self._clips.get(job_id)

    def stats(self) -> tuple[StageStats, ...]:
        """What each stage has done since the engine was made, workers added up."""
        return stage_stats(self._board, self._config.processes)

    def processes(self) -> dict[str, list[int]]:
        """Process ids by the stages they run ("detect/align"); the door is "publish"."""
        pids: dict[str, list[int]] = {}
        for child in self._children():
            pids.setdefault(child.name, []).append(child.pid)
        return pids

    @property
    def finishing(self) -> Mapping[int, tuple[int, int | None]]:
        """How far the jobs at the door are: what is done, and of how much (None: not known)."""
        return {} if self._publisher is None else self._publisher.finishing

    @property
    def _running(self) -> Chain:
        if self._chain is None:
            raise ValueError("the engine has not been started")
        return self._chain

    # --- what is heard --------------------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        chain = () if self._chain is None else self._chain.processes
        return [*chain, *(() if self._publisher is None else self._publisher.children)]

    def _feed(self) -> None:
        chain = self._running
        while self._pending and len(self._inside) < _AHEAD and len(self._through) < _AHEAD and chain.open:
            job = self._pending.popleft()
            self._inside[job.id] = job
            self._begun[job.id] = time.monotonic()
            chain.send(replace(job, about={}))  # which is for the door

    def _listen(self, timeout_s: float, dead: bool = True) -> None:
        """Waits for news up to so long, heeds it, and ends what hangs."""
        if self._stopping.is_set():
            raise Interrupted("the engine was told to stop")
        listen(self._children(), timeout_s, dead)
        self._heed(self._running.hear())
        self._running.kill_overdue()
        self._attend()

    def _attend(self) -> None:
        if self._publisher is None:
            return
        before = self._publisher.restarts
        for outcome in self._publisher.attend():
            self._end(self._through.pop(outcome.job.id), outcome)
        self.restarts += self._publisher.restarts - before

    def _heed(self, messages: Iterable[Control]) -> None:
        for message in messages:
            if isinstance(message, Broken):
                raise error_of(message.failure)
            if isinstance(message, Opened):
                self._clips[message.clip.id] = message.clip
                self._begun[message.clip.id] = time.monotonic()
            elif isinstance(message, Ended):
                failure = message.outcome.failure
                if failure is None or failure.error != "SenderGone":  # else what died tells more, see _mend
                    self._pass(message.outcome)

    def _pass(self, outcome: Outcome) -> None:
        """A job is through the chain, or has failed in it."""
        self._fruitless = 0
        job = self._inside.pop(outcome.job.id)
        if outcome.failure is None and job.target and self._publisher is not None:
            self._through[job.id] = job
            outcome = replace(outcome, seconds=time.monotonic() - self._begun[job.id])
            self._publisher.submit(Finish(self._clips[job.id], outcome, job.about))
            return
        self._end(job, outcome)

    def _end(self, job: Job, outcome: Outcome) -> None:
        clip = self._clips.pop(job.id, None)
        seconds = time.monotonic() - self._begun.pop(job.id)
        if outcome.failure is not None:
            if clip is not None:
                _discard(clip)
            # of one whose process has died, the detail is what that printed: it has been logged line by line
            if outcome.failure.detail and outcome.failure.error != StageError.__name__:
                _log.error("%s", outcome.failure.detail)
        self._done.append(replace(outcome, job=job, seconds=seconds))

    # --- what has died --------------------------------------------------------------------------------------------

    def _mend(self) -> None:
        """Lets the broken chain run dry, settles which clip is to blame, starts the chain anew, resubmits the rest."""
        chain = self._running
        chain.close_input()
        while any(process.alive for process in chain.processes):
            # the neighbours of the dead finish what they can; the deadline still holds for each frame
            self._listen(0.1, dead=False)
        self._heed(chain.hear())
        blamed = [process for process in chain.processes if process.at_fault]
        at_fault = self._blame(blamed)
        for process in blamed:
            _log.warning("%s: its process %s; starting the stages again", process.name, process.end)
        self._fruitless += 1
        if self._fruitless > _MENDS and not at_fault:
            raise _fallen((blamed or chain.processes)[0])
        chain.stop()
        self._resubmit(at_fault)
        self.restarts += 1
        self.start()

    def _blame(self, dead: Iterable[StageProcess]) -> dict[int, Failure]:
        """The clips that the dead were at, by id, and where it happened: the stage that was busy, if one was."""
        at_fault: dict[int, Failure] = {}
        for process in dead:
            for name, row in zip(process.spec.stages, process.rows, strict=True):
                read = self._board.read(row)
                if read.clip and (read.clip not in at_fault or read.doing is Doing.BUSY):
                    frame = read.frame if read.frame >= 0 else None
                    at_fault[read.clip] = Failure(
                        name, frame, f"its process {process.end}", detail=process.last_lines, signal=process.killed_by
                    )
        return at_fault

    def _resubmit(self, at_fault: dict[int, Failure]) -> None:
        """Ends the jobs that are to blame; puts the others back where they were, at the front."""
        again = []
        for job in list(self._inside.values()):
            del self._inside[job.id]
            if job.id in at_fault:
                self._fruitless = 0
                self._end(job, Outcome(job, failure=at_fault[job.id]))
                continue
            if clip := self._clips.pop(job.id, None):
                _discard(clip)
            del self._begun[job.id]
            again.append(job)
        self._pending.extendleft(reversed(again))


def _fallen(process: StageProcess) -> UnderstudyError:
    said = process.last_lines.splitlines()
    words = f"; the last that it said: {said[-1]}" if said else ""
    return UnderstudyError(f"the stages do not stay up: {process.name}'s process {process.end}, again and again{words}")


def _discard(clip: Clip) -> None:
    if clip.partial:
        with suppress(OSError):  # swept later, when its writer's process is gone
            discard(clip.partial)
