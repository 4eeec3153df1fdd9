"""Worker processes that draw the batches of the steps to come while the model computes.

Step i of a run goes to worker i mod N, which is asked for a few steps in advance and answers in order. Batches lie in
memory shared with the worker, a place for each step it is ahead; what passes through its pipe is a few words. A pipe's
end of file is the other side's death: a worker leaves when the trainer is gone, however that ended, and the trainer
hears at once that a worker is. DataLoader is not used: its workers abort at times while they are closed, and it raises
the death of one out of any line of the trainer, the saving of a model included.
"""

from __future__ import annotations

import atexit
import pickle
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Protocol, Self

import cv2
import torch
import torch.multiprocessing  # tensors pass to spawned processes as shared memory

from models.train.batch import Batch
from pipeline.errors import RequirementError

_PATIENCE_S = 5.0

Room = list[Batch]  # one batch for each person of a step


class Draws(Protocol):
    """What is drawn for each step; it goes to the workers as a pickle."""

    def __call__(self, step: int) -> dict[str, Batch]: ...

    def room(self) -> Room:
        """Memory for what any step gives."""
        ...


class Ahead:
    """A feed (see `feed.Feed`) whose steps are drawn by `workers` processes, each `prefetch` steps ahead.

    A step that does not follow the last one is a new beginning: what was drawn ahead is thrown away. The workers leave
    the terminal's SIGINT and a service manager's SIGTERM to the trainer.
    """

    def __init__(self, drawer: Draws, workers: int, prefetch: int, device: torch.device) -> None:
        self._device = device
        self._first = self._next = 0
        self._workers: list[_Worker] = []
        atexit.register(self.close)  # before multiprocessing's own, which would wait for the workers for ever
        with _born_deaf():
            for _ in range(workers):
                self._workers.append(_Worker(drawer, prefetch))

    def batches(self, step: int) -> dict[str, Batch]:
        """As in `feed.Feed`. Raises what the drawing raised, and RequirementError where a worker has died."""
        if not self._workers:
            raise ValueError("the feed is closed")
        try:
            if step != self._next or not self._workers[0].asked:
                self._begin(step)
            worker = self._workers[(step - self._first) % len(self._workers)]
            came = worker.answer(self._device)
            self._next = step + 1
            worker.ask(step + len(self._workers) * len(worker.rooms))
        except (EOFError, OSError) as error:
            self.close()
            raise RequirementError(
                "a worker process that draws batches has died, as it does when memory is full; "
                "train with fewer train.data.workers, or 0"
            ) from error
        if isinstance(came, Exception):
            raise came
        return came

    def _begin(self, step: int) -> None:
        for worker in self._workers:
            while worker.asked:
                worker.answer(None)
        self._first = step
        for ahead in range(len(self._workers[0].rooms)):
            for place, worker in enumerate(self._workers):
                worker.ask(step + ahead * len(self._workers) + place)

    def close(self) -> None:
        """Ends the workers."""
        atexit.unregister(self.close)
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(_PATIENCE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Worker:
    """One process, as the trainer sees it: what it was asked for and where its answers lie."""

    def __init__(self, drawer: Draws, prefetch: int) -> None:
        self.asked = 0
        self.rooms = [[_shared(batch) for batch in drawer.room()] for _ in range(prefetch)]
        self._read = 0
        context = torch.multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(drawer, self.rooms, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, step: int) -> None:
        self.pipe.send(step)
        self.asked += 1

    def answer(self, device: torch.device | None) -> dict[str, Batch] | Exception:
        """The next answer, out of the shared memory, which is then free again; with no device it is dropped."""
        people = self.pipe.recv()
        room = self.rooms[self._read % len(self.rooms)]
        self._read += 1
        self.asked -= 1
        if isinstance(people, Exception) or device is None:
            return people if isinstance(people, Exception) else {}
        return {person: _copied(batch, device) for person, batch in zip(people, room, strict=True)}


def _shared(batch: Batch) -> Batch:
    return Batch(*(getattr(batch, field.name).share_memory_() for field in fields(batch)))


def _copied(batch: Batch, device: torch.device) -> Batch:
    parts = [getattr(batch, field.name) for field in fields(batch)]
    if device.type == "cuda":  # out of pinned memory, which goes by itself while the trainer goes on
        return Batch(*(part.pin_memory().to(device, non_blocking=True) for part in parts))
    return Batch(*(part.clone() for part in parts))


@contextmanager
def _born_deaf() -> Iterator[None]:
    """Processes started within hear neither SIGINT nor SIGTERM, not even while they load."""
    resource_tracker.ensure_running()  # else it were started within, and would let both through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _work(drawer: Draws, rooms: list[Room], pipe: Connection) -> None:
    """What a worker runs: draws the steps it is asked for, one after the other, until the trainer goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count = 0
    with suppress(EOFError, OSError):
        while True:
            pipe.send(_filled(rooms[count % len(rooms)], drawer, pipe.recv()))
            count += 1


def _filled(room: Room, drawer: Draws, step: int) -> list[str] | Exception:
    """Who takes part in the step, whose batches now lie in the room; or why they do not."""
    try:
        drawn = drawer(step)
        for place, batch in zip(room, drawn.values(), strict=True):
            for field in fields(batch):
                getattr(place, field.name).copy_(getattr(batch, field.name))
        return list(drawn)
    except Exception as error:  # noqa: BLE001  (raised again in the trainer)
        return _portable(error)


def _portable(error: Exception) -> Exception:
    """The error as it can go to another process, with the place where it was raised as a note."""
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (our own, made in this line)
    except Exception:  # noqa: BLE001  (an error that takes other arguments than it shows)
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in a worker process:\n{where}")
    return error
