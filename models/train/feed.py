"""Where a step's batches come from: drawn in the loop, or ahead of it by worker processes.

Drawing is a few per cent of a step where the pictures lie decoded in the device's memory, so by default nothing runs
beside the loop. Workers are for faces that are read from disk as they are needed, and for a GPU that cannot hold them.
Either way a step's batches depend on the seed, the step and the rank alone, and are the same to the bit on a CPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from models import tensors
from models.train import augment, draws
from models.train.ahead import Ahead
from models.train.batch import Batch
from models.train.data import AnyFaces, Faces, StreamedFaces
from models.train.recipe import Config
from pipeline.errors import RequirementError

_SHARED = Path("/dev/shm")  # noqa: S108  (where the C library keeps shared memory; looked at, not written to)
_DEVICE_SHARE = 0.5  # of the GPU's free memory that faces may take: the model comes after them
_MOST_WORKERS = 8  # more than that draw faster than any model learns


class Feed(Protocol):
    """Gives the batches of any step. Use it in a `with`, or close it."""

    def batches(self, step: int) -> dict[str, Batch]:
        """The step's batch of each person who takes part in it, on the device. Steps that follow each other are quick.

        Raises what reading a face raises, and RequirementError where a worker process has died.
        """
        ...

    def close(self) -> None:
        """Ends what runs beside the loop; a feed that is closed gives no more batches."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Drawer:
    """Draws a step's batches where the faces lie; a function of the step alone.

    Attributes:
        faces: of each person; sizes: px of the input's and the target's side; rank: this process among the trainers.
    """

    faces: dict[str, AnyFaces]
    sizes: tuple[int, int]
    config: Config
    rank: int = 0

    def __call__(self, step: int) -> dict[str, Batch]:
        return {person: self._batch(step, person) for person in self.people(step)}

    def people(self, step: int) -> list[str]:
        """Who takes part in the step, the same on every rank."""
        everyone, count = list(self.faces), self.config.people_per_step
        if not 0 < count < len(everyone):
            return everyone
        order = torch.randperm(len(everyone), generator=draws.generator(self.config.seed, step, "people"))
        return [everyone[place] for place in sorted(order[:count].tolist())]

    def room(self) -> list[Batch]:
        """Memory for what any step gives."""
        inside, outside = self.sizes
        people = len(self.people(0))
        return [_empty(self.config.batch, inside, outside) for _ in range(people)]

    def shared_by(self, workers: int) -> Drawer:
        """The same for each of several processes: what streamed faces keep decoded, each keeps for itself."""
        parts = {
            person: each.within(each.memory_mb / workers) if isinstance(each, StreamedFaces) else each
            for person, each in self.faces.items()
        }
        return replace(self, faces=parts)

    def _batch(self, step: int, person: str) -> Batch:
        config = self.config
        generator = draws.generator(config.seed, step, self.rank, person, "augment")
        others = [name for name in self.faces if name != person]
        other = None
        if others:
            place = torch.randint(len(others), (), generator=generator)
            other = self.faces[others[int(place)]]
        return augment.draw(self.faces[person], config.batch, self.sizes, config.augment, generator, other)


def _empty(count: int, inside: int, outside: int) -> Batch:
    pictures = (torch.empty(count, size, size, 3).permute(0, 3, 1, 2) for size in (inside, outside))
    return Batch(*pictures, *(torch.empty(count, 1, outside, outside) for _ in range(3)))


def open_feed(
    faces: Mapping[str, AnyFaces],
    sizes: tuple[int, int],
    config: Config,
    device: torch.device,
    rank: int = 0,
) -> Feed:
    """Chooses the way that `config.data` asks for, or with "auto" the one that suits faces and device.

    Args:
        faces: each person's, in the computer's memory, in the model's order.
        sizes: px of the input's and the target's side.
        rank: this process's place among several that train together; each draws its own faces.

    Raises:
        RequirementError: workers are asked for, and there is too little shared memory for them.
    """
    drawer = Drawer(dict(faces), sizes, config, rank)
    streamed = any(isinstance(each, StreamedFaces) for each in faces.values())
    fits = _fits(faces, device)
    asked = config.data.workers
    workers = max(1, min(_MOST_WORKERS, tensors.cores() // 2)) if streamed or not fits else 0
    if isinstance(asked, int):
        workers = asked
    if workers:
        missing = _missing_mb(drawer, workers)
        if not missing:
            return Ahead(drawer.shared_by(workers), workers, config.data.prefetch, device)
        if isinstance(asked, int):
            raise RequirementError(
                f"{workers} workers need {missing} MiB more of shared memory than {_SHARED} has; enlarge it (for a "
                "container: --shm-size), use fewer train.data.workers, or 0"
            )
    if fits and device.type != "cpu":
        drawer = replace(drawer, faces={person: each.to(device) for person, each in faces.items()})
    return Resident(drawer, device)


def _fits(faces: Mapping[str, AnyFaces], device: torch.device) -> bool:
    """Whether what is in the computer's memory may lie in the device's too."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    # After a training was taken back, torch still has what its steps took, and gives that again.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return sum(part.nbytes for part in _held(faces)) <= free * _DEVICE_SHARE


def _held(faces: Mapping[str, AnyFaces]) -> list[Tensor]:
    """All the tensors of faces that are not decoded one by one."""
    parts = [part for each in faces.values() if isinstance(each, Faces) for part in (each.pictures, each.landmarks)]
    return [part for part in parts if part is not None]


def _missing_mb(drawer: Drawer, workers: int) -> int:
    """MiB of shared memory that faces and the batches under way would need and not find."""
    try:
        shared = os.statvfs(_SHARED)
    except OSError:  # no Linux: the limit is another, and not known
        return 0
    inside, outside = drawer.sizes
    a_step = len(drawer.people(0)) * drawer.config.batch * 4 * (3 * inside**2 + 6 * outside**2)
    needed = (workers * drawer.config.data.prefetch + 2) * a_step
    needed += sum(part.nbytes for part in _held(drawer.faces) if not part.is_shared())
    return max(0, math.ceil((needed - shared.f_bavail * shared.f_frsize) / 2**20))


class Resident:
    """Draws in the loop itself, on the device where the faces lie."""

    def __init__(self, drawer: Drawer, device: torch.device) -> None:
        self._drawer = drawer
        self._device = device

    def batches(self, step: int) -> dict[str, Batch]:
        drawn = self._drawer(step)
        return {
            person: Batch(*(getattr(batch, field.name).to(self._device) for field in fields(batch)))
            for person, batch in drawn.items()
        }

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
