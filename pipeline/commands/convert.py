"""Swaps the faces in clips: everything else in them, sound and timing included, stays as it is."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.engine import Engine
    from pipeline.specs import Outcome, StageStats
    from pipeline.types import Job

SUMMARY = "swap the faces in clips"

EXAMPLES = """\
  understudy convert anna.mp4 -o swapped.mp4 --model model
  understudy convert *.mp4 -o swapped/ --model model --to b
  understudy convert anna.mp4 -o swapped.mkv --model model --set encode.codec=ffv1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("clips", metavar="CLIP", nargs="+", help="a video file")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="the result, or a folder for the results")
    parser.add_argument("--model", metavar="FOLDER", help="the model, as `understudy train -o` made it")
    parser.add_argument("--to", metavar="NAME", help="whose face to put there, by its name in the model (b)")
    parser.add_argument("--force", action="store_true", help="replaces results that exist already")


def run(args: argparse.Namespace) -> int:
    """Converts all clips, prints what became of each and which stage was the bottleneck."""
    from pipeline import app, logs, outcomes
    from pipeline.plan import plan
    from pipeline.provenance.audit import Audit

    settings = app.load_settings(args.config, args.set, args.model, args.to)
    specs = app.stage_specs(settings)
    Audit(app.home(settings)).check()
    if not args.quiet:
        for note in app.agreed(settings).notes:
            print(logs.printable(f"note: {note}"), file=sys.stderr)
    jobs = plan(args.clips, args.out, lambda source: app.result_suffix(settings, source), args.force)
    for job in jobs:
        app.check_result(settings, job.target)
    refused = [outcomes.failed(job, error) for job in jobs if (error := app.check_input(job.source))]
    for outcome in refused:
        _tell(outcome, args.json)
    bad = {outcome.job.id for outcome in refused}
    good = [job for job in jobs if job.id not in bad]
    ended, stats, seconds = _convert(app.engine(settings, specs), good, args) if good else ([], (), 0.0)
    everything = sorted([*refused, *ended], key=lambda outcome: outcome.job.id)
    _report(everything, stats, seconds, args)
    return outcomes.exit_code(everything)


def _convert(
    engine: Engine, jobs: list[Job], args: argparse.Namespace
) -> tuple[list[Outcome], tuple[StageStats, ...], float]:
    from pipeline.progress import follow, progress

    ended = []
    with progress(sys.stderr, args.quiet or args.json) as shown, engine:
        begun = time.monotonic()
        for outcome in follow(engine, jobs, shown):
            shown.close()
            _tell(outcome, args.json)
            ended.append(outcome)
        return ended, engine.stats(), time.monotonic() - begun


def _tell(outcome: Outcome, as_json: bool) -> None:
    from pipeline.logs import printable
    from pipeline.outcomes import sentence

    if not outcome.ok:
        print(f"understudy: error: {printable(sentence(outcome))}", file=sys.stderr, flush=True)
    elif not as_json:
        print(printable(sentence(outcome)), flush=True)


def _report(outcomes: list[Outcome], stats: tuple[StageStats, ...], seconds: float, args: argparse.Namespace) -> None:
    from pipeline.outcomes import as_json, stages_as_json
    from pipeline.progress import stage_table

    if args.json:
        clips = [as_json(outcome) for outcome in outcomes]
        print(json.dumps({"clips": clips, **stages_as_json(stats, seconds)}, indent=2))
    elif any(stage.frames for stage in stats) and not args.quiet:
        print(f"\n{stage_table(stats, seconds)}")
