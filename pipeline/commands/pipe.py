"""Frames in on standard input, frames with swapped faces out on standard output, and nothing but frames there.

YUV4MPEG2, Matroska and NUT say themselves what they are; raw video needs --from raw and its --size, --pixel-format and
--rate. Each frame goes out as soon as it is done, so this works in the middle of a live pipeline. When the reader goes
away the exit code is 141, as with any filter.

Frames carry the watermark and the visible label; content credentials and the container's tags are up to whoever writes
the file. That they went out is in the audit."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.app import Settings
    from pipeline.consent.policy import Consent
    from pipeline.engine import Engine
    from pipeline.specs import Outcome
    from pipeline.types import Report

SUMMARY = "swap faces in frames that come and go through pipes"

EXAMPLES = """\
  ffmpeg -i in.mp4 -f yuv4mpegpipe - | understudy pipe --model model | ffmpeg -i - out.mp4
  ffmpeg -i in.mp4 -f rawvideo -pix_fmt yuv420p - \\
    | understudy pipe --model model --from raw --size 1280x720 --rate 30 | ffplay -f rawvideo -video_size 1280x720 -
  ffmpeg -i in.mkv -c copy -f matroska - | understudy pipe --model model --to-format nut | ffplay -
"""

_FORMATS = {"y4m": "y4m", "raw": "raw", "rawvideo": "raw", "matroska": "matroska", "nut": "nut"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--model", metavar="FOLDER", help="the model, as `understudy train -o` made it")
    parser.add_argument("--to", metavar="NAME", help="whose face to put there, by its name in the model (b)")
    parser.add_argument("--from", dest="source", choices=("auto", *_FORMATS), default="auto", help="what comes in")
    parser.add_argument("--to-format", choices=tuple(_FORMATS), help="what goes out (y4m; raw where raw comes in)")
    parser.add_argument("--size", metavar="WxH", help="of raw video, e.g. 1280x720")
    parser.add_argument("--pixel-format", metavar="NAME", default="yuv420p", help="of raw video, FFmpeg's name")
    parser.add_argument(
        "--latency", metavar="MS", type=float, default=100.0, help="how long a stage may hold a frame back for others"
    )
    parser.add_argument("--rate", metavar="N", default="25", help="of raw video, e.g. 25 or 30000/1001")


def run(args: argparse.Namespace) -> int:
    """Runs until the input ends or the reader goes."""
    from pipeline import app, outcomes
    from pipeline.errors import ConfigError
    from pipeline.progress import stage_table

    settings = app.load_settings(args.config, args.set, args.model, args.to)
    agreed = app.agreed(settings)
    # a writer that has nothing to say and a reader that is paused hold the ends up for as long as they like
    settings = replace(settings, engine=replace(settings.engine, deadline_s=math.inf))
    settings = _hurried(settings, args.latency)
    for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
        if stream.isatty():
            raise ConfigError(f"standard {name} is a terminal; frames come and go through pipes, see --help")
    width, height = _size(args.size)
    with _only_frames() as (frames_in, frames_out):
        source = app.receiver(
            frames_in, _FORMATS.get(args.source, "auto"), width, height, args.pixel_format, _rate(args.rate)
        )
        sink = app.sender(frames_out, _FORMATS[args.to_format or ("raw" if args.source.startswith("raw") else "y4m")])
        with app.engine(settings, app.stage_specs(settings, source, sink)) as engine:
            begun = time.monotonic()
            outcome = _streamed(engine, partial(_record, settings, agreed, source.config.payload))
            if args.verbose:
                print(stage_table(engine.stats(), time.monotonic() - begun), file=sys.stderr)
    return _end(outcome, args.quiet) if not outcome.ok else outcomes.exit_code([outcome])


def _streamed(engine: Engine, record: Callable[[int, Report], None]) -> Outcome:
    """What became of the stream. That frames went out is recorded whatever ends it: a live one, as a rule, a signal."""
    from pipeline.types import Job

    outcome = None
    try:
        (outcome,) = engine.run([Job(1, "standard input", "")])
        return outcome
    finally:
        frames = engine.stats()[-1].frames if outcome is None else outcome.frames
        if frames:
            record(frames, {} if outcome is None else outcome.reports.get("disclose", {}))


def _record(settings: Settings, agreed: Consent, payload: int, frames: int, report: Report) -> None:
    """Writes into the audit that frames were handed on: marked, but signed by nobody. Raises TableError.

    `report` is that of the stage that marks; it is empty for a stream that broke off.
    """
    from pipeline import app
    from pipeline.provenance.audit import Audit

    _, model = app.describe_model(settings)
    identities = [[each.id, each.digest] for each in agreed.people.values() if each is not None]
    facts = {"job": "pipe", "target": "standard output", "model": model.digest, "frames": frames}
    marks = {name: value for name, value in report.items() if name != "payload"}
    told = {"payload": f"{payload:012x}", "identities": identities, "marks": marks}
    Audit(app.home(settings)).append("published", {**facts, **told})


def _hurried(settings: Settings, latency_ms: float) -> Settings:
    """The settings with no stage holding a frame back for longer than the latency."""
    from pipeline.errors import ConfigError

    if not latency_ms >= 0:
        raise ConfigError(f"--latency must be 0 ms or more, not {latency_ms:g}")
    return replace(
        settings,
        swap=replace(settings.swap, max_wait_ms=min(settings.swap.max_wait_ms, latency_ms)),
        align=replace(settings.align, max_wait_ms=min(settings.align.max_wait_ms, latency_ms)),
    )


def _end(outcome: Outcome, quiet: bool) -> int:
    """The exit code of a stream that failed, and one line about it; a reader that left is no failure."""
    from pipeline import logs, outcomes

    assert outcome.failure is not None
    if outcome.failure.error == BrokenPipeError.__name__:
        if not quiet:
            print(f"understudy: the reader has gone after {outcome.frames} frames", file=sys.stderr)
        return 128 + signal.SIGPIPE
    print(f"understudy: error: {logs.printable(outcomes.sentence(outcome))}", file=sys.stderr)
    return outcomes.exit_code([outcome])


@contextmanager
def _only_frames() -> Iterator[tuple[int, int]]:
    """Descriptors of standard input and output for frames alone: whatever else prints, prints on standard error."""
    sys.stdout.flush()
    taken = [os.dup(0), os.dup(1)]
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    try:
        yield taken[0], taken[1]
    finally:
        for place, descriptor in enumerate(taken):
            os.dup2(descriptor, place)
            os.close(descriptor)


def _size(text: str | None) -> tuple[int, int]:
    from pipeline.errors import ConfigError

    if text is None:
        return 0, 0
    width, x, height = text.partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--size must be WxH such as 1280x720, not {text!r}")
    return int(width), int(height)


def _rate(text: str) -> Fraction:
    from pipeline.errors import ConfigError

    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"--rate must be a number such as 25 or 30000/1001, not {text!r}") from error
