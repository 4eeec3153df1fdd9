"""P1 to P3: what it costs to hand a frame from one process to the next, on the pipeline's own ring and channel.

Two spawned processes, each on a core of its own where there are two; the parent tells both what to do next, so that
all ways of moving a frame take turns in the same pair.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from typing import Any

import numpy as np

from benchmarks.bars import Result
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle, middle_fact
from pipeline.channel import Inlet, Messages, Outlet
from pipeline.messages import Begin, End, FaceRecord, FrameRecord, Placed
from pipeline.pixels import PIXEL_FORMATS
from pipeline.pool import Ring, SharedBlock, Slots
from pipeline.specs import EngineConfig
from pipeline.types import Clip, Frame, Picture

_FORMAT = PIXEL_FORMATS["yuv420p"]
_CLIP = Clip(1, "bench", "", "", 1920, 1080, _FORMAT, Fraction(1, 30))
_FRAMES_IN_FLIGHT = 16
_SOURCES = 8  # pictures that the sender copies from in turn, so that the source is no warmer than a decoder's
_FACE = FaceRecord(
    (760.0, 340.0, 1160.0, 740.0),
    0.9,
    3,
    (0.16, 0.0, -120.0, 0.0, 0.16, -54.0),
    (
        Placed(3110400, (478, 2), "<f4"),
        Placed(3114240, (64, 64, 3), "|u1"),
        Placed(3126528, (128, 128), "<f4"),
        Placed(3192064, (64, 64, 3), "|u1"),
    ),
)


@dataclass(frozen=True, slots=True)
class _Ends:
    """What both processes share; each uses its own ends."""

    block: SharedBlock
    scratch_nbytes: int
    queue: Queue[Any]


def _pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and cpu seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


class _Sender:
    def __init__(self, ends: _Ends, frames: Connection, credits_: Connection) -> None:
        self._outlet = Outlet([frames])
        self._credits = Messages(credits_)
        self._queue = ends.queue
        self._slots = Slots(ends.block, _CLIP, ends.scratch_nbytes)
        self._ring = Ring(ends.block.nbytes, _FRAMES_IN_FLIGHT)
        rng = np.random.default_rng(0)
        shapes = _FORMAT.shapes(_CLIP.width, _CLIP.height)
        self._pictures = [
            Picture(_FORMAT, 1920, 1080, tuple(rng.integers(0, 256, shape, np.uint8) for shape in shapes))
            for _ in range(_SOURCES)
        ]
        self._arrays = [rng.integers(0, 256, (1620, 1920), np.uint8) for _ in range(_SOURCES)]

    def descriptors(self, count: int) -> None:
        self._outlet.send(Begin(_CLIP))
        for index in range(count):
            self._outlet.send_frame(FrameRecord(1, index, index, 1, index, 0, 3204352, 0, (_FACE,)))
        self._outlet.send(End(1, count))

    def ring(self, count: int) -> None:
        self._outlet.send(Begin(_CLIP))
        for index in range(count):
            while (piece := self._ring.reserve(self._slots.piece_nbytes)) is None:
                self._take_credits()
            frame = Frame(1, index, index, self._pictures[index % _SOURCES])
            self._outlet.send_frame(self._slots.describe(self._slots.adopt(frame, piece)))
        self._outlet.send(End(1, count))
        while self._ring.pieces_out:
            self._take_credits()

    def _take_credits(self) -> None:
        for credit in self._credits.arrived():
            self._ring.release(int.from_bytes(credit, "little"))

    def memcpy(self, count: int) -> None:
        for index in range(count):
            inside = self._slots.picture(index % _FRAMES_IN_FLIGHT * self._slots.piece_nbytes)
            for target, plane in zip(inside.planes, self._pictures[index % _SOURCES].planes, strict=True):
                np.copyto(target, plane)

    def queue(self, count: int) -> None:
        for index in range(count):
            self._queue.put(self._arrays[index % _SOURCES])
        self._credits.next()


class _Receiver:
    def __init__(self, ends: _Ends, frames: Connection, credits_: Connection) -> None:
        self._inlet = Inlet([frames])
        self._credits = credits_
        self._queue = ends.queue
        self._slots = Slots(ends.block, _CLIP, ends.scratch_nbytes)

    def _frames(self) -> Iterator[FrameRecord]:
        self._inlet.begin()
        while isinstance(message := self._inlet.receive(), FrameRecord):
            yield message

    def descriptors(self, count: int) -> None:
        assert sum(1 for _ in self._frames()) == count

    def ring(self, count: int) -> None:
        for record in self._frames():
            frame = self._slots.frame(record)
            assert frame.index < count
            self._credits.send_bytes(record.serial.to_bytes(8, "little"))

    def memcpy(self, count: int) -> None:
        """The sender copies alone."""

    def queue(self, count: int) -> None:
        for _ in range(count):
            assert self._queue.get().shape == (1620, 1920)
        self._credits.send_bytes(b"all")


def _serve(end: type[_Sender] | type[_Receiver], core: int, ends: _Ends, pipes: tuple[Connection, ...]) -> None:
    orders, *own = pipes
    _pin(core)
    worker = end(ends, *own)
    while (order := orders.recv()) is not None:
        way, count = order
        orders.send(_timed(partial(getattr(worker, way), count)))
    ends.queue.cancel_join_thread()


class Pair:
    """The parent's side: `run` lets both processes move frames one way and gives what it took."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        scratch = EngineConfig().scratch_kb << 10
        # every plane of this clip is a whole number of cache lines, so a piece is no larger than the sum of its parts
        self._block = SharedBlock(_FRAMES_IN_FLIGHT * (_CLIP.picture_nbytes + scratch))
        self._queue = context.Queue(8)  # kept: its semaphores have a name until the children have opened them
        ends = _Ends(self._block, scratch, self._queue)
        frames_in, frames_out = context.Pipe(duplex=False)
        credits_in, credits_out = context.Pipe(duplex=False)
        self._orders = []
        self._processes = []
        for core, (end, own) in enumerate(((_Sender, (frames_out, credits_in)), (_Receiver, (frames_in, credits_out)))):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(end, core, ends, (theirs, *own)))
            process.start()
            theirs.close()
            self._orders.append(mine)
            self._processes.append(process)
        for pipe in (frames_in, frames_out, credits_in, credits_out):
            pipe.close()

    def run(self, way: str, count: int) -> tuple[float, float]:
        """Moves `count` frames; wall seconds at the sender (until all is received), cpu seconds of both."""
        for orders in self._orders:
            orders.send((way, count))
        (wall, cpu), (_, other) = (orders.recv() for orders in self._orders)
        return wall, cpu + other

    def close(self) -> None:
        """Ends both processes."""
        for orders in self._orders:
            orders.send(None)
        for process in self._processes:
            process.join()
        for orders in self._orders:
            orders.close()
        self._queue.close()
        self._block.close()


@contextmanager
def _pair() -> Iterator[Pair]:
    pair = Pair()
    try:
        yield pair
    finally:
        pair.close()


def measure(quick: bool, machine: Machine) -> list[Result]:
    """P1, P2 and P3."""
    counts = {"descriptors": 4000 if quick else 20000, "memcpy": 300, "ring": 300, "queue": 30 if quick else 60}
    with _pair() as pair:

        def turn(way: str) -> Callable[[], Sample]:
            def run() -> Sample:
                wall, cpu = pair.run(way, counts[way])
                return Sample(wall / counts[way] * 1e6, {"cpu_us": cpu / counts[way] * 1e6})

            return run

        for way in ("ring", "memcpy", "queue", "descriptors"):  # touches every page once
            pair.run(way, 40)
        samples = interleaved({way: turn(way) for way in counts}, 3 if quick else 7, machine)
    note = disturbance(samples)
    walls = {f"{way}_us": middle(samples[way]) for way in counts}
    cpu = {f"{way}_cpu_us": middle_fact(samples[way], "cpu_us") for way in counts}
    return [
        Result("P1", cpu["descriptors_cpu_us"], {"wall_us": walls["descriptors_us"]}, note),
        Result(
            "P2",
            walls["ring_us"] / walls["memcpy_us"],
            {"hop_us": walls["ring_us"], "memcpy_us": walls["memcpy_us"], "hop_cpu_us": cpu["ring_cpu_us"]},
            note,
        ),
        Result(
            "P3",
            walls["queue_us"] / walls["ring_us"],
            {"ring_us": walls["ring_us"], "queue_us": walls["queue_us"], "queue_cpu_us": cpu["queue_cpu_us"]},
            note,
        ),
    ]
