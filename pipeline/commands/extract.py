"""Makes a face set of one person, aligned crops with landmarks and masks, out of videos, pictures or folders of those.

Where several people are in a clip, choose one: by the half of the picture they are in (--side), by size (--largest), or
by track number (--track; a first run lists the tracks). What holds for one input and not for another is said in a run
of its own, with --add: it goes on with the face set that is there, and may be repeated."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.app import Settings
    from pipeline.progress import Progress
    from pipeline.types import Job, Report, Stage
    from stages.collect import Collect

SUMMARY = "make a face set of one person"

EXAMPLES = """\
  understudy extract anna.mp4 anna2.mov -o faces/anna
  understudy extract both.gif -o faces/anna --side left
  understudy extract photos/ -o faces/bert --largest
  understudy extract more.mp4 -o faces/bert --side right --add
  understudy extract anna.mp4 -o heads/anna --crop head
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="a video, a picture, or a folder of pictures")
    parser.add_argument("-o", "--out", metavar="FACESET", required=True, help="the face set's folder, new or empty")
    parser.add_argument("--add", action="store_true", help="adds to the face set that is there, if there is one")
    parser.add_argument("--crop", choices=("face", "head"), help="what the crops are centred on")
    parser.add_argument("--side", choices=("left", "right"), help="keeps faces in this half of the picture")
    parser.add_argument("--largest", action="store_true", help="keeps the largest face of each frame only")
    parser.add_argument("--track", metavar="N", type=int, action="append", default=[], help="keeps this track")
    parser.add_argument("--every", metavar="N", type=int, help="looks at every Nth frame")
    parser.add_argument("--min-size", metavar="PX", type=float, help="the smallest face kept, in px of the clip")
    parser.add_argument("--min-sharpness", metavar="S", type=float, help="passes over faces more blurred than this")


def run(args: argparse.Namespace) -> int:
    """Extracts, and prints what was kept and why the rest was not."""
    from pipeline import app
    from pipeline.progress import progress

    settings = app.load_settings(args.config, args.set)
    given = {
        "add": args.add or None,
        "crop": args.crop,
        "side": args.side,
        "largest": args.largest or None,
        "tracks": tuple(args.track) or None,
        "every": args.every,
        "min_size_px": args.min_size,
        "min_sharpness": args.min_sharpness,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = replace(settings, extract=replace(settings.extract, **chosen))
    with progress(sys.stderr, args.quiet or args.json) as shown:
        report = extract(settings, args.inputs, args.out, shown)
    if args.json:
        print(json.dumps(report, indent=2))
    elif not args.quiet:
        _show(report)
    return int(report["exit_code"])


def extract(settings: Settings, inputs: Sequence[str], out: str, shown: Progress) -> dict[str, Any]:
    """Writes the face set `out`, or adds to it; gives what was found, kept and passed over, input by input.

    Raises:
        InputError: `out` holds something that cannot be added to, an input is not there, or no face was found in any.
    """
    from models import faceset
    from pipeline import app
    from pipeline.errors import InputError, UnderstudyError
    from pipeline.runner import chain
    from stages.collect import Collect

    files = [file for given in inputs for file in _files(given)]
    sources, stages = app.extraction(settings)
    is_new = not (settings.extract.add and Path(out).is_dir() and not faceset.is_empty(out))
    failures: list[UnderstudyError] = []
    counts: Counter[str] = Counter()
    with Collect(replace(settings.extract, folder=out)) as collect:
        for number, file in enumerate(files, start=1):
            try:
                source = sources[_is_picture(file)]
                reports = _through(source, [*stages, collect], app.job(number, file), shown, chain)
                counts.update({k: int(v) for k, v in reports["collect"].items()})
            except UnderstudyError as error:
                failures.append(error)
                if len(files) > 1:
                    shown.say(f"understudy: error: {error}")
    if collect.count == 0 and not counts["known"]:
        if is_new:
            _remove(Path(out))
        if len(files) == len(failures) == 1:
            raise failures[0]
        raise InputError(f"{_what(inputs)}: {_why_none(counts, len(failures))}")
    return {
        "faceset": out,
        "added": not is_new,
        "has_identity": (Path(out) / faceset.IDENTITY).exists(),
        "inputs": len(files),
        "counts": dict(counts),
        "tracks": _tracks(collect),
        "failures": [str(error) for error in failures],
        "exit_code": failures[0].exit_code if failures else 0,
    }


def _through(source: Any, stages: Sequence[Stage], job: Job, shown: Progress, chain: Any) -> dict[str, Report]:
    """Runs one file through the stages in this process; they are quick enough for it."""
    clip = source.open(job)
    reports: dict[str, Report] = {}
    for frame in chain([source, *stages], clip, reports):
        shown.show(Path(job.source).name, frame.index + 1, clip.frames)
    return reports


def _remove(folder: Path) -> None:
    """Removes a face set in which there is no face; somebody's identity stays."""
    from models import faceset

    for entry in list(folder.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != faceset.IDENTITY:
            entry.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _files(given: str) -> list[str]:
    """The file itself, or the pictures in a folder. Raises InputError."""
    from pipeline.errors import InputError

    if not Path(given).is_dir():
        return [given]
    found = sorted(str(file) for file in Path(given).iterdir() if _is_picture(str(file)) and file.is_file())
    if not found:
        raise InputError(f"the folder {given} holds no pictures; give pictures, videos, or a folder of pictures")
    return found


def _is_picture(file: str) -> bool:
    from stages.pictures import SUFFIXES

    return file.lower().endswith(SUFFIXES)


def _what(inputs: Sequence[str]) -> str:
    return inputs[0] if len(inputs) == 1 else f"{inputs[0]} and {len(inputs) - 1} more"


def _why_none(counts: Counter[str], failures: int) -> str:
    if not counts["found"]:
        return "no face was found" + (f"; {failures} inputs could not be read" if failures else "")
    reasons = {
        "other_people": "were not the one asked for",
        "too_small": "are smaller than extract.min_size_px",
        "blurred": "are more blurred than extract.min_sharpness allows",
    }
    passed = [f"{counts[name]} {why}" for name, why in reasons.items() if counts[name]]
    return f"none of its {counts['found']} faces was kept: {'; '.join(passed)}"


def _tracks(collect: Collect) -> list[dict[str, Any]]:
    return [{"source": s, "track": t, "faces": count} for (s, t), count in collect.tracks.most_common()]


def _show(report: dict[str, Any]) -> None:
    from pipeline.logs import printable

    counts = report["counts"]
    passed = {
        "there already": counts.get("known", 0),
        "other people": counts.get("other_people", 0),
        "too small": counts.get("too_small", 0),
        "blurred": counts.get("blurred", 0),
    }
    why = ", ".join(f"{count} {name}" for name, count in passed.items() if count)
    what = "faces added" if report["added"] else "faces"
    print(printable(f"{report['faceset']}: {counts['faces']} {what}" + (f"; passed over: {why}" if why else "")))
    by_source = Counter(track["source"] for track in report["tracks"])
    for track in report["tracks"]:
        if by_source[track["source"]] > 1:
            print(printable(f"  track {track['track']} of {track['source']}: {track['faces']} faces"))
    if any(count > 1 for count in by_source.values()):
        print("  if these are several people, choose one with --side, --largest or --track")
    if not report["has_identity"]:
        faces = shlex.quote(report["faceset"])
        print(printable(f"  say whose faces they are before you train: understudy identity add {faces} --self"))
