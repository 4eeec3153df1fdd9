"""A running chain of stage processes, as the parent holds it: spawned, listened to, stopped. It knows nothing of jobs.

Each process is given only its own pipe ends, so that every death is an end of file to its neighbours.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from pipeline.board import Board, Doing
from pipeline.messages import Control, Ready, pack, unpack
from pipeline.pool import SharedBlock
from pipeline.specs import EngineConfig, ProcessSpec, StageSpec
from pipeline.worker import PEER_GONE, Post, main

#: Set while children are spawned. One thread for each stage: the stages are the parallelism. Passive waiting leaves the
#: core to the encoder (see docs/performance.md), and has to be said before torch loads.
CHILD_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "GLOG_minloglevel": "2",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # glibc gives large blocks back at once and has the kernel clear them anew for the next frame: a sixth of the cpu
    # time of align, swap and blend. These have a process keep, and use again, what it needs for a frame.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


@dataclass(slots=True)
class StageProcess:
    """A stage process: which stages, where on the board, and what became of it."""

    spec: ProcessSpec
    rows: tuple[int, ...]
    process: SpawnProcess
    events: Connection
    ready: bool = False
    verdict: str = ""  # why we killed it, where we did

    @property
    def name(self) -> str:
        """Its stages: "detect/align"."""
        return "/".join(self.spec.stages)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.exitcode is None

    @property
    def at_fault(self) -> bool:
        """Whether it ended by itself, and not because a neighbour or the parent had gone."""
        return self.process.exitcode not in (None, 0, PEER_GONE)

    @property
    def end(self) -> str:
        """How it ended, as the rest of a sentence that starts with "its process"."""
        if self.verdict:
            return self.verdict
        code = self.process.exitcode or 0
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def hear(self) -> Iterator[Control]:
        """What it has said since it was last asked."""
        while not self.events.closed and self.events.poll():
            try:
                message = unpack(self.events.recv_bytes())
            except (EOFError, OSError):
                self.events.close()
                return
            if isinstance(message, Ready):
                self.ready = True
            else:
                yield message


class Chain:
    """All the processes of an engine, from the one that takes jobs to the one that publishes."""

    def __init__(self, specs: Mapping[str, StageSpec], config: EngineConfig, board: Board, block: SharedBlock) -> None:
        """Spawns them; they are of use when `ready` says so."""
        self._board = board
        self._config = config
        self._context = multiprocessing.get_context("spawn")
        self.processes: list[StageProcess] = []
        self._jobs: Connection | None = None
        self._spawn(specs, block)

    def _spawn(self, specs: Mapping[str, StageSpec], block: SharedBlock) -> None:
        groups = self._config.processes
        jobs, self._jobs = self._context.Pipe(duplex=False)
        credits_in, credits_out = self._context.Pipe(duplex=False)
        # pipes[g][m][n] joins worker m of group g to worker n of the next
        pipes = [
            [[self._context.Pipe(duplex=False) for _ in range(after.workers)] for _ in range(before.workers)]
            for before, after in pairwise(groups)
        ]
        ends: list[Connection] = [jobs, credits_in, credits_out]
        ends += [end for group in pipes for sender in group for pipe in sender for end in pipe]
        row = 0
        with _environment(CHILD_ENVIRONMENT):
            for at, group in enumerate(groups):
                for place in range(group.workers):
                    rows = tuple(range(row, row + len(group.stages)))
                    row += len(group.stages)
                    events, told = self._context.Pipe(duplex=False)
                    post = Post(
                        name="/".join(group.stages),
                        specs=tuple(specs[name] for name in group.stages),
                        rows=rows,
                        place=place,
                        places=group.workers,
                        block=block,
                        board=self._board,
                        scratch_nbytes=self._config.scratch_kb << 10,
                        max_frames=self._config.max_frames,
                        events=told,
                        inlets=[sender[place][0] for sender in pipes[at - 1]] if at else [],
                        outlets=[pipe[1] for pipe in pipes[at][place]] if at < len(pipes) else [],
                        jobs=jobs if at == 0 else None,
                        credits_in=credits_in if at == 0 else None,
                        credits_out=credits_out if at == len(groups) - 1 else None,
                    )
                    self._start(group, rows, post, events)
        for end in ends:
            end.close()

    def _start(self, group: ProcessSpec, rows: tuple[int, ...], post: Post, events: Connection) -> None:
        for row in rows:
            self._board.forget(row)
        process = self._context.Process(target=main, args=(post,), name=f"understudy {post.name}")
        process.start()
        post.events.close()
        self.processes.append(StageProcess(group, rows, process, events))

    @property
    def ready(self) -> bool:
        """Whether every process has loaded its stages."""
        return all(process.ready for process in self.processes)

    @property
    def broken(self) -> bool:
        """Whether any process has ended."""
        return not all(process.alive for process in self.processes)

    @property
    def open(self) -> bool:
        """Whether it takes jobs."""
        return self._jobs is not None

    def send(self, message: Control) -> None:
        """Says a word to the first process, where it still listens; its death is noticed by `broken`."""
        if self._jobs is not None:
            with suppress(BrokenPipeError):
                self._jobs.send_bytes(pack(message))

    def listen(self, timeout_s: float, dead: bool = True) -> list[Control]:
        """What the processes have to say; does not wait once there is something, or (with `dead`) once one has died."""
        live = {process.events: process for process in self.processes if not process.events.closed}
        sentinels = [p.process.sentinel for p in self.processes if dead or p.alive]
        messages: list[Control] = []
        for heard in wait([*live, *sentinels], timeout_s):
            if isinstance(heard, Connection):
                messages += live[heard].hear()
        return messages

    def last_words(self) -> list[Control]:
        """What the processes said before they ended."""
        return [message for process in self.processes for message in process.hear()]

    def kill_overdue(self) -> None:
        """Ends every process that has been busy with one thing for longer than the deadline."""
        now = time.monotonic_ns()
        for process in self.processes:
            reads = [self._board.read(row) for row in process.rows]
            limit_ns = self._config.deadline_s * 1e9
            if process.alive and any(r.doing is Doing.BUSY and now - r.since_ns > limit_ns for r in reads):
                process.verdict = f"made no progress for {self._config.deadline_s:g} s"
                process.process.kill()
                process.process.join()

    def close_input(self) -> None:
        """No more jobs: the end of file runs down the chain, and everybody leaves."""
        if self._jobs is not None:
            self._jobs.close()
            self._jobs = None

    def stop(self, patience_s: float) -> list[Control]:
        """Closes the input; who has not left by then is killed. Gives what was said meanwhile."""
        self.close_input()
        messages: list[Control] = []
        deadline = time.monotonic() + patience_s
        while any(process.alive for process in self.processes) and time.monotonic() < deadline:
            messages += self.listen(0.05, dead=False)
        for process in self.processes:
            if process.alive:
                process.process.kill()
            process.process.join()
            messages += process.hear()
            process.events.close()
            process.process.close()
        self.processes.clear()
        return messages


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
