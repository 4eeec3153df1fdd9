"""P12 and T1 to T5: what a training step costs, against plainer ways to take it.

All ways train the same network (the full Original; "sketch" for a quick look) on as many threads as this process may
use, or on the GPU, with 16 faces of each of two people in a step, and take turns in one run:

    drawn      our step as the training loop takes it: faces drawn and distorted by the feed, then learned from
    worker     the same, drawn ahead by one worker process
    still      our step on one batch that lies ready
    fp32       the same in float32
    compiled   the same through torch.compile
    separate   its loss in float32, one person passed after the other, one Adam step (P12)
    textbook   `benchmarks/textbook.py`, from the same files (T1)
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from benchmarks import busy, face_files, textbook
from benchmarks.bars import Result, explained, line
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle, ratio
from models import tensors
from models.train import data, recipe
from models.train.batch import Batch
from models.train.feed import open_feed
from models.train.objective import Objective
from models.train.session import Session, fresh
from models.train.world import World

Step = Callable[[], None]

#: Which two ways each bar holds against each other.
_COMPARED = {
    "P12": ("still", "separate"),
    "T1": ("drawn", "textbook"),
    "T2": ("drawn", "still"),
    "T3": ("still", "fp32"),
    "T4": ("compiled", "still"),
}
_BATCH = 16
_CONFIG = recipe.Config(
    architecture="original",
    batch=_BATCH,
    safety=recipe.Safety(collapse=0),  # the same batch again and again, then others: no loss is unusual here
)
_PEOPLE = ("a", "b")
_FACES = 150  # of each person


def measure(quick: bool, machine: Machine, wanted: Collection[str] = tuple(_COMPARED)) -> list[Result]:
    """Those of P12 and T1 to T4 that are wanted, out of one run."""
    bars = [bar_id for bar_id in _COMPARED if bar_id in wanted]
    names = {name for bar_id in bars for name in _COMPARED[bar_id]} | ({"worker"} if "T2" in bars else set())
    with _all_cores(), Ways("sketch" if quick else "original") as ways:
        steps = {name: step for name in sorted(names) if (step := ways.made(name)) is not None}
        turns = {name: _turn(step, 0.5 if quick else 4.0) for name, step in steps.items()}
        samples = interleaved(turns, 3 if quick else 5, machine)
        return [_result(bar_id, samples, ways) for bar_id in bars]


def busy_share(quick: bool) -> Result:
    """T5, of a model that people train on a GPU; of the small one that the other bars have, it is printed too."""
    if not torch.cuda.is_available():
        return Result("T5", None, note="there is no GPU here")
    shares = {}
    for architecture, preset in (("saehd", "sketch" if quick else "df-ud"), ("original", "original")):
        with Ways(preset, architecture) as ways:
            step = ways.made("drawn")
            assert step is not None
            shares[architecture] = busy.share(step, 10 if quick else 50)
    return Result("T5", shares["saehd"], {"original": shares["original"], "device": torch.cuda.get_device_name()})


class Ways:
    """The ways to take a step. Each is made, and its first step taken, when it is asked for.

    Attributes:
        folder: what they learn from; it goes with them.
        facts: what a bar's line says beside its figure.
        missing: why a way cannot be gone here.
    """

    def __init__(self, preset: str, architecture: str = "original", faces: int = _FACES) -> None:
        self._count = faces
        self._config = replace(_CONFIG, architecture=architecture, preset=preset)
        self._stack = ExitStack()
        self.facts: dict[str, float | int | str] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Ways:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-bench-")))
        self._sets = {
            person: face_files.written(self.folder / person, self._count, seed) for seed, person in enumerate(_PEOPLE)
        }
        self._ours = self._session(self._config)  # drawn, worker and still are the same model's steps
        description = self._ours.description
        self._faces = {
            person: data.load(each, self._ours.sizes[1], description.coverage, self._config.data.memory_mb)
            for person, each in self._sets.items()
        }
        with open_feed(self._faces, self._ours.sizes, self._config, self._ours.device) as feed:
            self._batches = feed.batches(0)
        self.precision = tensors.precision_name(self._ours.dtype)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def made(self, name: str) -> Step | None:
        """The way of that name; None where it cannot be gone, and `missing` says why."""
        makers: Mapping[str, Callable[[], Step]] = {
            "drawn": lambda: self._drawn("auto"),
            "worker": lambda: self._drawn(1),
            "still": lambda: _learning(self._ours, itertools.repeat(self._batches)),
            "fp32": self._in_fp32,
            "compiled": self._compiled,
            "separate": self._separate,
            "textbook": self._textbook,
        }
        if name == "fp32" and self._ours.dtype == torch.float32:
            self.missing[name] = "this device has no instructions for bf16, so that training is in fp32 anyway"
            return None
        try:
            step = makers[name]()
            begun = time.perf_counter()
            step()
        except (BackendCompilerFailed, InductorError) as error:
            self.missing[name] = f"torch.compile does not work here: {str(error).strip().splitlines()[0]}"
            return None
        if name == "compiled":
            self.facts["compiling_s"] = time.perf_counter() - begun
        return step

    def _session(self, config: recipe.Config) -> Session:
        """A new model, of which nothing is saved."""
        return Session.begin(config, self.folder / "model", _PEOPLE, World.alone())

    def _drawn(self, workers: int | str) -> Step:
        config = replace(self._config, data=recipe.Data(workers=workers))  # type: ignore[arg-type]
        feed = self._stack.enter_context(open_feed(self._faces, self._ours.sizes, config, self._ours.device))
        return _learning(self._ours, map(feed.batches, itertools.count()))

    def _in_fp32(self) -> Step:
        return _learning(self._session(replace(self._config, precision="fp32")), itertools.repeat(self._batches))

    def _compiled(self) -> Step:
        config = replace(self._config, memory=recipe.Memory(compile=True))
        return _learning(self._session(config), itertools.repeat(self._batches))

    def _separate(self) -> Step:
        model, _ = fresh(self._config, _PEOPLE)
        model.to(self._ours.device).train()
        optimiser = torch.optim.Adam(model.parameters(), self._config.optimiser.lr)
        objective = Objective(self._config.losses)
        plain = {
            person: replace(batch, input=batch.input.contiguous(), target=batch.target.contiguous())
            for person, batch in self._batches.items()
        }

        def step() -> None:
            optimiser.zero_grad()
            for person, batch in plain.items():
                terms = objective(model.swap(batch.input, person), batch)
                torch.stack(list(terms.values())).sum().backward()
            optimiser.step()

        return step

    def _textbook(self) -> Step:
        model, _ = fresh(self._config, _PEOPLE)
        files = {person: [face.crop for face in each.faces] for person, each in self._sets.items()}
        return textbook.Loop(model, files, self._ours.sizes[0], _BATCH, self._ours.device).step  # type: ignore[arg-type]


def _learning(session: Session, batches: Iterator[dict[str, Batch]]) -> Step:
    return lambda: session.learn(next(batches), session.rate(0.0))


def _turn(step: Step, seconds: float) -> Callable[[], Sample]:
    """Steps per second over at least `seconds`, two steps at least."""

    def run() -> Sample:
        step()
        _finish()
        begun, count = time.perf_counter(), 0
        while count < 2 or time.perf_counter() - begun < seconds:
            step()
            count += 1
        _finish()
        return Sample(count / (time.perf_counter() - begun))

    return run


def _finish() -> None:
    """Waits for what is under way."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def _all_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(tensors.cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _result(bar_id: str, samples: Mapping[str, list[Sample]], ways: Ways) -> Result:
    compared = _COMPARED[bar_id]
    for name in compared:
        if name in ways.missing:
            return Result(bar_id, None, note=ways.missing[name])
    facts: dict[str, float | int | str] = {f"{name}_steps_per_s": middle(samples[name]) for name in compared}
    facts |= {"precision": ways.precision, "threads": torch.get_num_threads()}
    if bar_id == "T1":
        facts["faces_per_s"] = middle(samples["drawn"]) * len(_PEOPLE) * _BATCH
    if bar_id == "T2":
        facts["with_one_worker"] = ratio(samples, "worker", "still")
        facts["drawing_ms"] = 1000 / middle(samples["drawn"]) - 1000 / middle(samples["still"])
    if bar_id == "T4":
        facts |= ways.facts
    return Result(bar_id, ratio(samples, *compared), facts, disturbance({name: samples[name] for name in compared}))


if __name__ == "__main__":
    quickly = "--quick" in sys.argv
    for result in [*measure(quickly, Machine(patience_s=60)), busy_share(quickly)]:
        print(line(result), explained(result), sep="\n")
