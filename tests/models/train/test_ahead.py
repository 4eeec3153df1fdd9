"""models.train.ahead: real processes that draw the same to the bit, fail as themselves, and go when they shall."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest
import torch

from models.train.ahead import Ahead
from models.train.batch import Batch
from models.train.data import Faces
from models.train.feed import Drawer, open_feed
from models.train.recipe import Augment, Config, Data
from pipeline.errors import InputError, RequirementError, StageError

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]

EVERYTHING = Augment(clahe=0.5, transfer=0.5, blur=0.5, compression=0.5, warp="landmarks")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Failing(Drawer):
    """Draws, but not every step."""

    def __call__(self, step: int) -> dict[str, Batch]:
        if step == 2:
            raise InputError("the face is gone; look for it")
        if step == 3:
            raise StageError("swap", "clip", 7, "an error that does not pickle")
        if step == 9:
            os._exit(1)
        return super().__call__(step)


def drawer(kind: type[Drawer] = Drawer) -> Drawer:
    faces = {}
    for place, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(place)
        pictures = torch.randint(0, 256, (8, 40, 40, 6), generator=generator, dtype=torch.uint8)
        landmarks = torch.rand(8, 478, 2, generator=generator) - 0.5
        faces[name] = Faces(pictures=pictures, landmarks=landmarks, reach=2 / 3)
    return kind(faces, (16, 32), Config(batch=4, augment=EVERYTHING))


def same(one: dict[str, Batch], other: dict[str, Batch]) -> bool:
    pairs = [(getattr(one[person], f.name), getattr(other[person], f.name)) for person in one for f in fields(Batch)]
    return list(one) == list(other) and all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs)


def test_workers_draw_the_same_to_the_bit_whichever_step_comes_next() -> None:
    here = drawer()
    settings = replace(here.config, data=Data(workers=2, prefetch=2))
    state = torch.get_rng_state()
    feed = open_feed(here.faces, here.sizes, settings, CPU)
    assert isinstance(feed, Ahead)
    with feed:
        got = {step: feed.batches(step) for step in (5, 6, 7, 8, 9, 10, 3, 4, 5, 200)}  # goes back, leaps ahead
        assert all(same(batches, here(step)) for step, batches in got.items())  # and none was written over
        assert len(active_children()) == 2
    assert not active_children()
    assert torch.equal(torch.get_rng_state(), state)
    feed.close()  # once more does no harm
    with pytest.raises(ValueError, match="closed"):
        feed.batches(201)


def test_errors_arrive_as_themselves_and_the_death_of_a_worker_at_once() -> None:
    here = drawer(Failing)
    with Ahead(here, 1, 1, CPU) as feed:
        assert same(feed.batches(1), here(1))
        with pytest.raises(InputError) as caught:
            feed.batches(2)
        assert str(caught.value) == "the face is gone; look for it"
        assert "in a worker process" in caught.value.__notes__[0] and "test_ahead.py" in caught.value.__notes__[0]
        with pytest.raises(RuntimeError, match="StageError: swap failed on clip at frame 7"):
            feed.batches(3)
        assert same(feed.batches(4), here(4))  # it goes on
        feed.batches(8)
        began = time.monotonic()
        with pytest.raises(RequirementError, match=r"a worker process .* has died, .*train\.data\.workers"):
            feed.batches(9)
        assert time.monotonic() - began < 3
        assert not active_children()


PROGRAM = """
import os, signal, sys, time
from multiprocessing import active_children
import torch
from tests.models.train.test_ahead import CPU, Ahead, drawer

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: print("asked to stop", flush=True))
    signal.signal(signal.SIGTERM, lambda *_: print("told to stop", flush=True))
    feed = Ahead(drawer(), 1, 2, CPU)
    print(*(child.pid for child in active_children()), flush=True)
    for line in sys.stdin:
        feed.batches(int(line))
        print("drew", int(line), flush=True)
    sys.exit(7)  # without closing
"""


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a feed of one worker, in a group of its own: send it a step, read what it says."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(program)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        with process:
            yield process
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def draws(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{step}\n")
    process.stdin.flush()
    assert said(process) == f"drew {step}"


def gone(pids: list[int], within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(psutil.pid_exists, pids))


def test_workers_leave_signals_to_the_trainer_and_die_with_it(trainer: subprocess.Popen[str], tmp_path: Path) -> None:
    pids = [int(pid) for pid in said(trainer).split()]
    assert len(pids) == 1
    os.killpg(trainer.pid, signal.SIGINT)  # Ctrl-C while they load, which is when it is likeliest
    assert said(trainer) == "asked to stop"
    draws(trainer, 1)
    for number, word in ((signal.SIGINT, "asked"), (signal.SIGTERM, "told")):
        os.killpg(trainer.pid, number)
        assert said(trainer) == f"{word} to stop"
    for step in range(2, 8):
        draws(trainer, step)
    trainer.kill()
    assert gone(pids)
    assert (tmp_path / "stderr").read_text() == ""


@pytest.mark.slow
def test_a_trainer_that_forgets_to_close_still_ends(trainer: subprocess.Popen[str], tmp_path: Path) -> None:
    pids = [int(pid) for pid in said(trainer).split()]
    draws(trainer, 1)
    assert trainer.stdin is not None
    trainer.stdin.close()
    assert trainer.wait(60) == 7
    assert gone(pids)
    assert (tmp_path / "stderr").read_text() == ""
