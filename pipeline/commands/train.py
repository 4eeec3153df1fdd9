"""Trains a model on the face sets of two or more people. Trains on where MODEL exists already.

Of two people, the first is the one in the clips, the second the one whose face is put there. They are called a and b
unless they are named, as NAME=FACESET; sets of the same name are joined. A face set is what `understudy extract`
makes, or a folder of upright crops. Each has to say whose faces they are: `understudy identity add FACESET --self` (or
--synthetic, --consented, ...). What that person agreed to is asked first and goes into the model.

It ends after --minutes or --iterations, when the held-out faces have not come out better for a while
(train.judge.patience), or when it is stopped with Ctrl-C; in each case the model is saved first. MODEL/preview.png
shows what it can do by now, MODEL/report.html how it got there, MODEL/survey.png which poses each person's faces have,
MODEL/MODEL.md whose faces are in it and what for; `understudy monitor MODEL` shows it while it trains.
Several GPUs: torchrun --nproc-per-node N -m pipeline train ..."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.commands._learning import Record, ask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.carried import Identities
    from models.faceset import FaceSet
    from models.reports.judge import Landmarks
    from models.train.clock import Progress as Step
    from models.train.loop import Around, TrainingResult
    from models.train.recipe import Config
    from pipeline.progress import Progress

SUMMARY = "train a model on people's face sets"

EXAMPLES = """\
  understudy train faces/anna faces/bert -o model
  understudy train anna=faces/anna bert=faces/bert -o model --minutes 30
  understudy train faces/anna faces/bert -o model --arch saehd --preset df-ud --set train.options.size=128
  understudy train faces/anna faces/bert -o model --profile 8gb
  understudy train anna=a1 anna=a2 bert=b carl=c -o many --set train.judge.every=1000
  understudy train faces/anna faces/bert -o model --find-lr
"""

_ENDED = {
    "stopped": "stopped and saved",
    "minutes": "time is up",
    "iterations": "done",
    "patience": "no longer getting better",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("people", metavar="FACESET", nargs="+", help="a person's faces, or NAME=FACESET; two or more")
    parser.add_argument("-o", "--out", metavar="MODEL", required=True, help="the model's folder")
    parser.add_argument("--arch", metavar="NAME", help="the architecture; `understudy architectures` lists them")
    parser.add_argument("--preset", metavar="NAME", help="one of the architecture's presets")
    parser.add_argument("--profile", metavar="NAME", help="ready-made settings: two-cores, 8gb, 24gb or 80gb")
    parser.add_argument("--minutes", metavar="N", type=float, help="ends after so many minutes")
    parser.add_argument("--iterations", metavar="N", type=int, help="ends when the model has had so many steps in all")
    parser.add_argument("--batch", metavar="N", type=int, help="faces of each person in a step")
    parser.add_argument("--find-lr", action="store_true", help="only tries out step sizes and suggests one")


def run(args: argparse.Namespace) -> int:
    """Trains, and prints where the model is and how good it has become."""
    from pipeline import app, people
    from pipeline.progress import progress

    settings = app.load_settings(args.config, args.set, profile=args.profile)
    recipe = _given(settings.train, args)
    seen = _seen(recipe, args.out)
    named = people.parse(args.people)
    sets = {name: seen.read(folders) for name, folders in named.items()}
    asked = ask(settings, named, args.out)
    from models.train.loop import Around
    from models.train.step import Stopped
    from models.train.world import World

    with (
        World.from_environment(os.environ) as world,
        progress(sys.stderr, args.quiet or args.json or world.rank > 0, unit="steps") as shown,
        _stopping() as stopped,
    ):
        around = Around(lambda step: show(step, shown), shown.say, stopped, world=world)
        _say(asked.notes if world.rank == 0 else ())
        if args.find_lr:
            with suppress(Stopped):
                return _find(recipe, sets, args, around)
            return stopped.code
        if world.rank == 0:
            record = Record(replace(settings, train=recipe), named, sets, asked, args.out)
            around = _with_picture(around, args.out, _survey(sets, seen))
            around = at_first_save(around, lambda: _written_down(record, {}, around.on_event))
        result = _train(recipe, sets, args.out, around, seen, asked.carried)
    if world.rank == 0:
        _written_down(record, result.metrics, lambda sentence: _say([sentence]))
        _report(result, args)
    return stopped.code if result.ended == "stopped" else 0


class _Seen(NamedTuple):
    """What the model sees of a person, be it there already or about to be made."""

    size: int
    coverage: float
    crop: Literal["face", "head"]

    def read(self, folders: Sequence[str]) -> FaceSet:
        """A person's face sets as one. Plain pictures, which don't say what they show, are taken to show the same."""
        from models import faceset

        sets = [faceset.read(folder, plain_coverage=self.coverage, plain_crop=self.crop) for folder in folders]
        return faceset.joined(sets)


def _seen(recipe: Config, out: str) -> _Seen:
    from models import autoencoders, kept

    if kept.is_model(out):
        model = kept.read(out)
        return _Seen(model.output_size, model.coverage, model.crop)
    chosen = autoencoders.chosen(recipe.architecture or "original", recipe.preset, recipe.options)
    return _Seen(chosen.output_size, recipe.coverage, recipe.crop)


def _given(recipe: Config, args: argparse.Namespace) -> Config:
    given = {"architecture": args.arch, "preset": args.preset, "minutes": args.minutes}
    given |= {"iterations": args.iterations, "batch": args.batch}
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def _train(
    recipe: Config, sets: Mapping[str, FaceSet], out: str, around: Around, seen: _Seen, identities: Identities
) -> TrainingResult:
    from models.train.loop import train

    with _landmarks(bool(recipe.judge.every) and around.world.rank == 0, seen) as landmarks:
        return train(recipe, sets, out, replace(around, landmarks=landmarks), identities)


def _written_down(record: Record, metrics: Mapping[str, float], say: Callable[[str], None]) -> None:
    """In the audit and in the card, without which a model is what it is."""
    from pipeline.errors import InputError, WeightsError

    try:
        record.write(metrics)
    except (InputError, WeightsError) as error:
        say(f"the model's card is not that of the model: {error}")


@contextmanager
def _landmarks(judges: bool, seen: _Seen) -> Iterator[Landmarks | None]:
    """What the judgement finds landmarks with; nothing is loaded where there is none."""
    if not judges:
        yield None
        return
    from stages.crop_landmarks import CropLandmarks
    from stages.landmarker import MediaPipeFinder

    finder = MediaPipeFinder()
    try:
        yield CropLandmarks(finder, seen.coverage, seen.crop)
    finally:
        finder.close()


def _find(recipe: Config, sets: Mapping[str, FaceSet], args: argparse.Namespace, around: Around) -> int:
    """Tries out step sizes, writes the picture and prints the suggestion."""
    from models.reports import preview
    from models.train import finder
    from models.train.loop import try_rates

    finding = try_rates(recipe, sets, args.out, around)
    if around.world.rank:
        return 0
    picture = preview.write(Path(args.out) / "lr.png", finder.picture(finding))
    found = {"suggested": finding.suggested, "diverged": finding.diverged, "picture": str(picture)}
    if args.json:
        print(json.dumps(found, indent=2))
    elif finding.suggested is None:
        print(f"no step size lowered the loss; look at {picture}, and at the face sets")
    else:
        print(f"train.optimiser.lr={finding.suggested:.1e} is suggested; {picture} shows why")
    return 0


def _survey(sets: Mapping[str, FaceSet], seen: _Seen) -> NDArray[np.uint8]:
    """Says what the face sets lack, before hours are spent on them; gives the picture of it."""
    from models.reports import survey, survey_picture

    found = survey.survey(sets, seen.size / seen.coverage)
    _say(survey.warnings(found))
    return survey_picture.draw(found, sets)


def _say(notes: Iterable[str]) -> None:
    from pipeline.logs import printable

    for note in notes:
        print(printable(f"note: {note}"), file=sys.stderr)


def _with_picture(around: Around, out: str, picture: NDArray[np.uint8]) -> Around:
    """Also puts the survey's picture into the model's folder, once that is there to stay."""
    from models.reports import survey_picture
    from pipeline.errors import InputError

    def write() -> None:
        try:
            survey_picture.write(Path(out) / "survey.png", picture)
        except InputError as error:  # a picture is worth no training
            around.on_event(str(error))

    return at_first_save(around, write)


def at_first_save(around: Around, act: Callable[[], None]) -> Around:
    """Also acts once, as soon as the model's folder is there to stay and holds what this training begins with."""
    tell = around.on_progress
    waiting = [act]

    def told(step: Step) -> None:
        if step.saved and waiting:
            waiting.pop()()
        tell(step)

    return replace(around, on_progress=told)


class _Stop:
    """Whether a signal has asked for an end, and which."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self) -> bool:
        return self.signal != 0

    @property
    def code(self) -> int:
        """The program's, once it has ended; where another process of the training had the signal, as for SIGTERM."""
        return 128 + (self.signal or signal.SIGTERM)


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
    eta = f", {_time(step.eta_s)} left" if step.eta_s is not None else ""
    session = f"{step.steps} in this session, {_time(step.seconds)}"
    shown.show("training", step.iteration, total, f"{session}, loss {losses}, {step.faces_per_s:.0f} faces/s{eta}")


def _time(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


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
            "metrics": {name: round(value, 4) for name, value in result.metrics.items()},
            "notes": list(result.notes),
            "description": asdict(description),
        }
        print(json.dumps(content, indent=2))
        return
    _say(result.notes)
    losses = ", ".join(f"{person} {loss:.4f}" for person, loss in description.loss.items())
    print(
        printable(
            f"{args.out}: {_ENDED[result.ended]} after {result.steps} steps in {result.seconds:.0f} s "
            f"({result.faces_per_s:.0f} faces a second); {description.iterations} steps in all, loss {losses}"
        )
    )
    if result.metrics:
        bare = (f"{name} {value:.3g}" for name, value in result.metrics.items() if "/" not in name)
        print(printable(f"held-out faces: {', '.join(bare)}"))
    if result.preview:
        print(printable(f"preview: {result.preview}"))
