"""Trains a model on the face sets of two people. Trains on where MODEL exists already.

It ends after --minutes or --iterations, or when it is stopped with Ctrl-C; in each case the model is saved first.
MODEL/preview.png shows what it can do by now: original, reconstructed and swapped faces of both."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.train.loop import Progress as Step
    from models.train.loop import TrainingResult
    from pipeline.progress import Progress

SUMMARY = "train a model on two people's face sets"

EXAMPLES = """\
  understudy train faces/anna faces/bert -o model
  understudy train faces/anna faces/bert -o model --minutes 30
  understudy train faces/anna faces/bert -o small --set train.preset=sketch --iterations 5000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("a", metavar="A", help="the face set of the person in the clips")
    parser.add_argument("b", metavar="B", help="the face set of the person whose face is put there")
    parser.add_argument("-o", "--out", metavar="MODEL", required=True, help="the model's folder")
    parser.add_argument("--minutes", metavar="N", type=float, help="ends after so many minutes")
    parser.add_argument("--iterations", metavar="N", type=int, help="ends when the model has had so many steps in all")
    parser.add_argument("--preset", metavar="NAME", help="the size of the network; `train.preset` of the settings")


def run(args: argparse.Namespace) -> int:
    """Trains, and prints where the model is and how good it has become."""
    from models import faceset
    from pipeline import app
    from pipeline.progress import progress

    settings = app.load_settings(args.config, args.set)
    given = {"minutes": args.minutes, "iterations": args.iterations, "preset": args.preset}
    recipe = replace(settings.train, **{name: value for name, value in given.items() if value is not None})
    set_a, set_b = faceset.read(args.a), faceset.read(args.b)
    from models.train.loop import train

    with progress(sys.stderr, args.quiet or args.json, unit="steps") as shown, _stopping() as stopped:
        result = train(recipe, set_a, set_b, args.out, lambda step: show(step, shown), stopped)
    _report(result, args)
    return 128 + stopped.signal if result.ended == "stopped" else 0


class _Stop:
    """Whether a signal has asked for an end, and which."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self) -> bool:
        return self.signal != 0


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """The first SIGINT or SIGTERM asks for an end, after which the model is saved; the second ends at once."""
    stop = _Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        stop.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(step: Step, shown: Progress) -> None:
    """Shows where a training is."""
    total = round(step.iteration - step.steps + step.steps / step.share) if step.share and step.steps else None
    losses = " ".join(f"{person} {loss:.4f}" for person, loss in step.loss.items())
    eta = f", {step.eta_s:.0f} s left" if step.eta_s is not None else ""
    shown.show("training", step.iteration, total, f"loss {losses}, {step.faces_per_s:.0f} faces/s{eta}")


def _report(result: TrainingResult, args: argparse.Namespace) -> None:
    from pipeline.logs import printable

    description = result.description
    if args.json:
        content = {
            "model": str(Path(args.out).absolute()),
            "ended": result.ended,
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "faces_per_s": round(result.faces_per_s, 2),
            "preview": result.preview and str(result.preview),
            "notes": list(result.notes),
            "description": asdict(description),
        }
        print(json.dumps(content, indent=2))
        return
    for note in result.notes:
        print(printable(f"note: {note}"), file=sys.stderr)
    losses = ", ".join(f"{person} {loss:.4f}" for person, loss in description.loss.items())
    what = {"stopped": "stopped and saved", "minutes": "time is up", "iterations": "done"}[result.ended]
    print(
        printable(
            f"{args.out}: {what} after {result.steps} steps in {result.seconds:.0f} s ({result.faces_per_s:.0f} faces "
            f"a second); {description.iterations} steps in all, loss {losses}"
        )
    )
    if result.preview:
        print(printable(f"preview: {result.preview}"))
