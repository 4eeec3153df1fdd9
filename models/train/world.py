"""Several processes, a GPU each, that train one model together, as `torchrun` starts them.

Each computes the gradient of its own faces; before the weights move, all take the average, and so stay equal to the
bit. There is no wrapper around the model: a step may go backward as often as it likes, and the average is taken once,
when it is done.

Whatever every process must do alike has to be agreed upon, since they would wait for each other for ever otherwise:
`any` for what one of them knows, `leaders` for what only the first may say (the clock, for example).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from models import tensors
from pipeline.errors import ConfigError, RequirementError

_PART_BYTES = 32 * 2**20  # that travel at once: enough for the line's speed, little beside the network


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one training. Alone, everything here does nothing. Enter it before they are to talk.

    Attributes:
        rank: this process, 0 being the first: the one that writes files and speaks to people.
        size: how many there are.
        local_rank: this process among those of the same machine, and the number of its GPU.
        address: "host:port" where they meet; empty when alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = ""

    @classmethod
    def alone(cls) -> World:
        """A training in one process."""
        return cls()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> World:
        """As torchrun's WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say; alone without the first.

        Raises:
            ConfigError: one is missing, or is no number in its range.
        """
        if "WORLD_SIZE" not in environ:
            return cls.alone()
        size = _number(environ, "WORLD_SIZE", range(1, 2**16))
        if size == 1:
            return cls.alone()
        rank, local_rank = _number(environ, "RANK", range(size)), _number(environ, "LOCAL_RANK", range(size))
        port = _number(environ, "MASTER_PORT", range(1, 2**16))
        host = environ.get("MASTER_ADDR", "")
        if not host:
            raise ConfigError("WORLD_SIZE is set, but MASTER_ADDR is not; start several processes with torchrun")
        return cls(rank, size, local_rank, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def __enter__(self) -> World:
        """Waits until all are there. Raises RequirementError where they don't find each other."""
        if self.size > 1:
            # One of the two carries tensors in the computer's memory: agreements don't wait for the GPU.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
            try:
                dist.init_process_group(
                    backend, init_method=f"tcp://{self.address}", rank=self.rank, world_size=self.size
                )
            except (RuntimeError, ValueError) as error:
                raise RequirementError(
                    f"the {self.size} processes of this training did not find each other at {self.address}: {error}"
                ) from error
        return self

    def __exit__(self, *error: object) -> None:
        if self.size > 1:
            dist.destroy_process_group()

    def device(self, name: str) -> torch.device:
        """The device of this process: `tensors.choose_device`, but a GPU for each process of a machine.

        Raises:
            ConfigError: another name; or one GPU is named for all processes.
            RequirementError: there are more processes than GPUs, or none.
        """
        device = tensors.choose_device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise ConfigError(f"device is {name} for {self.size} processes; use auto or cuda, and each takes its own")
        if self.local_rank >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise RequirementError(
                f"process {self.local_rank + 1} of this machine has no GPU: there are {count}; start {count} processes"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Gives every process the average of all gradients, in place; where one has none, it counts as zero.

        Weights without a gradient in any process stay without. Every process passes the same weights in the same order.
        """
        if self.size == 1:
            return
        weights = list(parameters)
        there = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        self._talk(dist.all_reduce, there, dist.ReduceOp.MAX)
        learned = [weight for weight, known in zip(weights, there.tolist(), strict=True) if known]
        for part in _parted(learned):
            flat = torch.cat([_gradient(weight).reshape(-1) for weight in part])
            self._talk(dist.all_reduce, flat)
            flat /= self.size
            for weight, mean in zip(part, flat.split([weight.numel() for weight in part]), strict=True):
                if weight.grad is None:
                    weight.grad = torch.empty_like(weight, requires_grad=False)
                weight.grad.copy_(mean.view(weight.shape))

    @torch.no_grad()
    def broadcast(self, values: Iterable[Tensor]) -> None:
        """Gives every process the first one's values, in place and to the bit."""
        if self.size == 1:
            return
        for part in _parted(values):
            flat = torch.cat([value.detach().reshape(-1) for value in part])
            self._talk(dist.broadcast, flat.view(torch.uint8), 0)  # bytes: every type travels, no number is touched
            for value, new in zip(part, flat.split([value.numel() for value in part]), strict=True):
                value.detach().copy_(new.view(value.shape))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.uint8)
        self._talk(dist.all_reduce, flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def leaders(self, value: float) -> float:
        """What the first process says."""
        if self.size == 1:
            return value
        said = torch.tensor([value], dtype=torch.float64)
        self._talk(dist.broadcast, said, 0)
        return said.item()

    def mean(self, values: Tensor) -> Tensor:
        """The average over all processes, number by number, of floats of any shape; alone, `values` itself."""
        if self.size == 1:
            return values
        total = values.detach().clone(memory_format=torch.contiguous_format)
        self._talk(dist.all_reduce, total)
        return total / self.size

    def barrier(self) -> None:
        """Waits until every process is here."""
        self.any(False)

    def _talk(self, say: Callable[..., object], *said: object) -> None:
        try:
            say(*said)
        except RuntimeError as error:
            raise RequirementError(
                f"process {self.rank} lost the others of this training ({str(error).splitlines()[0]}); "
                "their output says why, and the last save is kept"
            ) from error


def _number(environ: Mapping[str, str], name: str, allowed: range) -> int:
    text = environ.get(name, "")
    if not (text.isascii() and text.isdecimal() and int(text) in allowed):
        raise ConfigError(
            f"{name} must be a number from {allowed[0]} to {allowed[-1]}, not {text!r}; "
            "start several processes with torchrun"
        )
    return int(text)


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight, requires_grad=False) if weight.grad is None else weight.grad


def _parted(values: Iterable[Tensor]) -> Iterator[Sequence[Tensor]]:
    """In their order, as many at a time as travel at once; those of a part are of one type, on one device."""
    part: list[Tensor] = []
    taken = 0
    for value in values:
        size = value.numel() * value.element_size()
        if part and (taken + size > _PART_BYTES or (value.dtype, value.device) != (part[0].dtype, part[0].device)):
            yield part
            part, taken = [], 0
        part.append(value)
        taken += size
    if part:
        yield part
