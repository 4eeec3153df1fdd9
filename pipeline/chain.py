"""A running chain of stage processes, as the parent holds it: spawned, listened to, stopped. It knows nothing of jobs.

Each process is given only its own pipe ends, so that every death is an end of file to its neighbours.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection

from pipeline.board import Board, Doing
from pipeline.child import Child
from pipeline.messages import Control, Opened, pack
from pipeline.pool import SharedBlock
from pipeline.specs import EngineConfig, ProcessSpec, StageSpec
from pipeline.worker import Post, main


class StageProcess(Child):
    """A stage process: which stages, and where on the board."""

    def __init__(self, spec: ProcessSpec, post: Post) -> None:
        """Spawns it. Raises UnderstudyError."""
        super().__init__(post.name, main, post)
        self.spec = spec
        self.rows = post.rows


class Chain:
    """All the processes of an engine that stages run in, from the one that takes jobs to the one that writes."""

    def __init__(self, specs: Mapping[str, StageSpec], config: EngineConfig, board: Board, block: SharedBlock) -> None:
        """Spawns them; they are of use when `ready` says so. Raises UnderstudyError where there is no room for them."""
        self._board = board
        self._config = config
        self.processes: list[StageProcess] = []
        self._jobs: Connection | None = None
        try:
            for group, post in self._posts(specs, block):
                for row in post.rows:
                    board.forget(row)
                self.processes.append(StageProcess(group, post))
        except BaseException:
            self.stop()
            raise

    def _posts(self, specs: Mapping[str, StageSpec], block: SharedBlock) -> Iterator[tuple[ProcessSpec, Post]]:
        """What each process is given, one after the other; the pipes between them are theirs alone in the end."""
        groups = self._config.processes
        pipe = multiprocessing.get_context("spawn").Pipe
        jobs, self._jobs = pipe(duplex=False)
        credits_in, credits_out = pipe(duplex=False)
        # pipes[g][m][n] joins worker m of group g to worker n of the next
        pipes = [
            [[pipe(duplex=False) for _ in range(after.workers)] for _ in range(before.workers)]
            for before, after in pairwise(groups)
        ]
        ends: list[Connection] = [jobs, credits_in, credits_out]
        ends += [end for group in pipes for sender in group for joint in sender for end in joint]
        row = 0
        try:
            for at, group in enumerate(groups):
                for place in range(group.workers):
                    rows = tuple(range(row, row + len(group.stages)))
                    row += len(group.stages)
                    yield (
                        group,
                        Post(
                            name="/".join(group.stages),
                            specs=tuple(specs[name] for name in group.stages),
                            rows=rows,
                            place=place,
                            places=group.workers,
                            block=block,
                            board=self._board,
                            scratch_nbytes=self._config.scratch_kb << 10,
                            max_frames=self._config.max_frames,
                            inlets=[sender[place][0] for sender in pipes[at - 1]] if at else [],
                            outlets=[joint[1] for joint in pipes[at][place]] if at < len(pipes) else [],
                            jobs=jobs if at == 0 else None,
                            credits_in=credits_in if at == 0 else None,
                            credits_out=credits_out if at == len(groups) - 1 else None,
                        ),
                    )
        finally:
            for end in ends:
                end.close()

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

    def hear(self) -> list[Control]:
        """What the processes have said since they were last asked, clips' openings first. Never waits.

        The last is asked first: what it says of a clip comes after what the first has said of it.
        """
        messages: list[Control] = []
        for process in reversed(self.processes):
            messages += process.hear(self._board.read(process.rows[0]).clip)
        return sorted(messages, key=lambda message: not isinstance(message, Opened))

    def kill_overdue(self) -> None:
        """Ends every process that has been busy with one thing for longer than its stage's deadline."""
        now = time.monotonic_ns()
        for process in self.processes:
            for name, row in zip(process.spec.stages, process.rows, strict=True):
                read, limit_s = self._board.read(row), self._config.deadline_of(name)
                if process.alive and read.doing is Doing.BUSY and now - read.since_ns > limit_s * 1e9:
                    process.kill(f"made no progress for {limit_s:g} s")

    def close_input(self) -> None:
        """No more jobs: the end of file runs down the chain, and everybody leaves."""
        if self._jobs is not None:
            self._jobs.close()
            self._jobs = None

    def stop(self) -> None:
        """Ends the processes where they are."""
        self.close_input()
        for process in self.processes:
            process.bury()
        self.processes.clear()
