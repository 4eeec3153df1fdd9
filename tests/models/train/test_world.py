"""models.train.world: two processes come to the gradients of one; one alone is left alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.train.world import World
from pipeline.errors import ConfigError, RequirementError

ROOT = Path(__file__).resolve().parents[3]

MEMBER = """
import os, sys
import torch
from torch import nn
from models.train import world as module
from models.train.world import World

torch.set_num_threads(1)
module._PART_BYTES = 400
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4), nn.Linear(4, 2))
net.to(memory_format=torch.channels_last)
extra = {name: nn.Parameter(torch.ones(3)) for name in ("nobody", "first", "frozen")}
extra["first"] = nn.Parameter(torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last))
weights = [*net.parameters(), *extra.values()]
faces, wanted = torch.randn(8, 3, 8, 8), torch.randn(8, 2)

def loss(rows):
    return (net(faces[rows]) - wanted[rows]).square().mean()

with World.from_environment(os.environ) as world:
    assert (world.size, world.rank) == (2, int(sys.argv[1])), world
    loss(slice(None)).backward()
    whole = [weight.grad.clone() for weight in net.parameters()]
    net.zero_grad()
    loss(slice(4 * world.rank, 4 * world.rank + 4)).backward()
    assert not torch.allclose(net[3].weight.grad, whole[-2], rtol=1e-3)
    if world.rank == 0:
        extra["first"].grad = torch.full((2, 3, 2, 2), 3.0).to(memory_format=torch.channels_last)
    layouts = [weight.grad.stride() for weight in net.parameters()]
    world.average_gradients(iter(weights))
    for weight, wanted_gradient, layout in zip(net.parameters(), whole, layouts):
        torch.testing.assert_close(weight.grad, wanted_gradient)
        assert weight.grad.stride() == layout
    assert extra["first"].grad.eq(1.5).all() and extra["first"].grad.stride() == extra["first"].stride()
    assert extra["nobody"].grad is None and extra["frozen"].grad is None

    mine = [weight.grad.clone() for weight in net.parameters()]
    world.broadcast(weight.grad for weight in net.parameters())
    assert all(torch.equal(a, b.grad) for a, b in zip(mine, net.parameters()))  # equal to the bit already

    values = [torch.full((2, 3, 2, 2), float(world.rank)).to(memory_format=torch.channels_last),
              torch.tensor(world.rank + 2**60 + 1), torch.tensor([world.rank == 0]), nn.Parameter(torch.rand(300))]
    world.broadcast(values)
    assert values[0].eq(0).all() and values[1] == 2**60 + 1 and values[2].all()
    assert values[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(world.mean(values[3]), values[3])

    given = torch.tensor([1.0, 2.0]) + 2 * world.rank
    assert world.mean(given).tolist() == [2.0, 3.0] and given[0] == 1 + 2 * world.rank
    assert world.any(world.rank == 1) and world.any(True) and not world.any(False)
    assert world.leaders(0.1 + world.rank) == 0.1
    assert world.device("cpu") == torch.device("cpu")
    world.barrier()
    # The first one goes away, the other one wants to talk.
    from pipeline.errors import RequirementError
    if world.rank == 0:
        os._exit(0)
    try:
        for _ in range(100):
            world.barrier()
    except RequirementError as error:
        assert "lost the others" in str(error)
        os._exit(0)
    os._exit(1)
"""


def test_two_are_one_until_one_goes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environ = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(rank)],
            env=environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [member.communicate(timeout=100)[1] for member in members]
    finally:
        for member in members:
            member.kill()
            member.wait()
    assert [member.returncode for member in members] == [0, 0], errors


def test_alone_nothing_happens() -> None:
    with World.from_environment({}) as world:
        assert world == World.alone() == World() == World.from_environment({"WORLD_SIZE": "1", "RANK": "0"})
        weight = torch.ones(3, requires_grad=True)
        world.average_gradients([weight])
        assert weight.grad is None
        world.broadcast([weight])
        world.barrier()
        assert world.any(True) and not world.any(False) and world.leaders(0.5) == 0.5
        assert world.mean(weight) is weight
        assert world.device("cpu") == torch.device("cpu")
        with pytest.raises(ConfigError):
            world.device("gpu")
    assert not torch.distributed.is_initialized()


GIVEN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


def test_reads_what_torchrun_says() -> None:
    assert World.from_environment(GIVEN) == World(3, 4, 1, "host:29500")
    assert World.from_environment(GIVEN | {"MASTER_ADDR": "::1"}).address == "[::1]:29500"


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_refuses_half_an_environment(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*torchrun"):
        World.from_environment({key: value for key, value in GIVEN.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "0"), ("WORLD_SIZE", "two"), ("RANK", "4"), ("RANK", "-1"), ("MASTER_PORT", "0")]
)
def test_refuses_numbers_out_of_range(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a number"):
        World.from_environment(GIVEN | {name: value})


def test_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert World(1, 2, 1, "host:1").device("auto") == torch.device("cuda:1") and chosen == [1]
    assert World().device("cuda:1") == torch.device("cuda:1")
    assert World(1, 2, 1, "host:1").device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="each takes its own"):
        World(1, 2, 1, "host:1").device("cuda:1")
    with pytest.raises(RequirementError, match="start 2 processes"):
        World(2, 3, 2, "host:1").device("auto")
