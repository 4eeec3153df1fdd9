"""M1 and M2: what it costs that results carry marks and are signed, of a whole job and of a frame.

The same job takes turns with marks, label, signing and audit, and with none of it. The time of two turns beside each
other also has what the marks cost others: the encoder, which codes the pattern, and the disk. A busy machine shakes
that, so the cpu time that marking and signing themselves take is counted as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import cv2

from benchmarks.bars import Result, bar
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle_fact
from benchmarks.runs import engine_run
from benchmarks.workshop import RATE, SIX, Workshop, table, unmarked
from pipeline.provenance import seal
from pipeline.specs import StageSpec
from pipeline.types import Clip, Frame, Job, Picture, Pulled
from stages import decode, label, watermark
from stages.watermark_finder import Finder

#: Seconds of the clip that is judged, and of those that a daemon mostly gets.
_LONG_S, _SHORT_S = 10, 2

#: Frames that are marked one by one, round and round.
_FRAMES, _ROUNDS = 24, 3


def measure(quick: bool, machine: Machine, workshop: Workshop) -> list[Result]:
    """M1 and M2."""
    marked, plain = stamped(workshop.chain()), unmarked(workshop.chain())
    sealer = workshop.sealer("benchmarks.stamps:Sealer")
    with (
        engine_run(workshop, marked, table(SIX), sealer=sealer) as on,
        engine_run(workshop, plain, table(SIX)) as off,
    ):
        variants: dict[str, Callable[[], Sample]] = {}
        for seconds in (_LONG_S, _SHORT_S):
            clip = workshop.clip(1920, 1080, seconds)
            variants |= {f"on {seconds}": partial(on, clip), f"off {seconds}": partial(off, clip)}
        samples = interleaved(variants, 3 if quick else 7, machine)
    long, short = (Costs.of(samples[f"on {s}"], samples[f"off {s}"], s * RATE) for s in (_LONG_S, _SHORT_S))
    facts = long.told() | {f"short_{name}": value for name, value in short.told().items()}
    unmet = "" if long.own <= bar("M1").must else f"{long.own:.1f} % of its cpu time"
    chain_ms = middle_fact(samples[f"on {_LONG_S}"], "cpu_ms")
    frames = _frame_costs(workshop)
    note = disturbance(samples)
    return [
        Result("M1", long.time, facts, note, unmet),
        Result("M2", frames.pop("watermark_ms"), {**frames, "chain_cpu_ms": chain_ms}, note),
    ]


def stamped(chain: Sequence[StageSpec]) -> tuple[StageSpec, ...]:
    """The chain, saying what its marks cost."""
    return tuple(
        replace(spec, factory="benchmarks.stamps:Disclose") if spec.name == seal.MARKING else spec for spec in chain
    )


@dataclass(frozen=True, slots=True)
class Costs:
    """What marks and signing cost a job; shares are in % of what it takes with them.

    Attributes:
        time, cpu: what it takes less without them, in time and in cpu time of all its processes.
        own: what marking and signing themselves take, of the cpu time.
        marking_s, sealing_s: that, in cpu seconds.
        bytes_ratio: the result's size with marks and manifest, against without.
    """

    time: float
    cpu: float
    own: float
    marking_s: float
    sealing_s: float
    bytes_ratio: float

    @classmethod
    def of(cls, on: Sequence[Sample], off: Sequence[Sample], frames: int) -> Costs:
        """Of turns with and without, taken beside each other, of a clip of so many frames."""
        own = [one.facts["marking_cpu_s"] + one.facts["sealing_cpu_s"] for one in on]
        total = [one.facts["cpu_ms"] * frames / 1e3 for one in on]
        return cls(
            _less(on, off, "seconds"),
            _less(on, off, "cpu_ms"),
            100 * median(part / whole for part, whole in zip(own, total, strict=True)),
            median(one.facts["marking_cpu_s"] for one in on),
            median(one.facts["sealing_cpu_s"] for one in on),
            median(one.facts["bytes"] / other.facts["bytes"] for one, other in zip(on, off, strict=True)),
        )

    def told(self) -> dict[str, float | int | str]:
        """As facts of a figure."""
        return {
            "time_%": self.time,
            "cpu_%": self.cpu,
            "own_cpu_%": self.own,
            "marking_cpu_s": self.marking_s,
            "sealing_cpu_s": self.sealing_s,
            "bytes_ratio": self.bytes_ratio,
        }


def _less(on: Sequence[Sample], off: Sequence[Sample], name: str) -> float:
    """By how many % of `on` the figure is less without, of two turns beside each other, on the median."""
    return 100 * (1 - median(bare.facts[name] / full.facts[name] for full, bare in zip(on, off, strict=True)))


def _frame_costs(workshop: Workshop) -> dict[str, float]:
    """CPU milliseconds of each part of marking, in one thread: for a frame; for a clip what is done once."""
    clip, pictures = _pictures(workshop.clip(1920, 1080, _SHORT_S))
    key = os.urandom(32)
    pattern, words, finder = watermark.Watermark(key, clip), label.Label(label.Config(), clip), Finder(key)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as in the stages' processes
    try:
        look_ms = _each_ms(lambda picture: finder.look(watermark.luma_of(picture)), pictures)
        once: Mapping[str, Callable[[], object]] = {
            "found_ms_a_clip": lambda: finder.found(thoroughly=False),
            "watermark_ms_a_clip": lambda: watermark.Watermark(key, clip),
            "label_ms_a_clip": lambda: label.Label(label.Config(), clip).draw(pictures[0], 0.0),
        }
        return {
            "watermark_ms": _each_ms(pattern.apply, pictures),
            "label_ms": _each_ms(lambda picture: words.draw(picture, 0.0), pictures),
            "look_ms": look_ms,
            **{name: _cpu_ms(work) for name, work in once.items()},
        }
    finally:
        cv2.setNumThreads(threads)


def _each_ms(work: Callable[[Picture], object], pictures: Sequence[Picture]) -> float:
    """For one picture, in the best round."""
    return min(_cpu_ms(lambda: [work(picture) for picture in pictures]) for _ in range(_ROUNDS)) / len(pictures)


def _cpu_ms(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return (time.thread_time() - begun) * 1e3


def _pictures(source: Path) -> tuple[Clip, list[Picture]]:
    """The clip and its first pictures, with planes of their own."""
    stage = decode.Decode()
    clip = stage.open(Job(1, str(source), ""))
    frames = stage(clip, Pulled(()))
    pictures = [_own(next(frames)) for _ in range(_FRAMES)]
    frames.close()
    return clip, pictures


def _own(frame: Frame) -> Picture:
    return replace(frame.picture, planes=tuple(plane.copy() for plane in frame.picture.planes))
