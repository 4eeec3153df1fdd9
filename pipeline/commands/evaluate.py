"""Measures a swap: whose face is it now, and does it still do what the face in the input did?

identity is the share of swapped faces that a small classifier, trained on the two face sets given, calls B; use face
sets that the model was not trained on. expression_error is the mean distance between the landmarks of input and output,
in inter-ocular distances: 0.05 is close, 0.2 is another expression."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.faceset import FaceSet
    from pipeline.app import Settings
    from pipeline.progress import Progress
    from pipeline.types import Array, Clip, Face, Frame

SUMMARY = "measure how good a swap is"

EXAMPLES = """\
  understudy evaluate anna.mp4 swapped.mp4 --a faces/anna-held-out --b faces/bert-held-out
  understudy evaluate anna.mp4 swapped.mp4 --a faces/anna --b faces/bert --json
"""

#: Crops for the classifier: px, and the face alone.
_SIZE, _COVERAGE = 96, 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("before", metavar="INPUT", help="the clip as it was")
    parser.add_argument("after", metavar="OUTPUT", help="the clip with swapped faces")
    parser.add_argument("--a", metavar="FACESET", required=True, help="faces of the person in the input")
    parser.add_argument("--b", metavar="FACESET", required=True, help="faces of the person who was put there")
    parser.add_argument("--every", metavar="N", type=int, default=1, help="looks at every Nth frame")


def run(args: argparse.Namespace) -> int:
    """Prints both figures, and what they rest on."""
    from models import faceset
    from pipeline import app
    from pipeline.errors import ConfigError
    from pipeline.progress import progress

    if args.every < 1:
        raise ConfigError(f"--every must be at least 1, not {args.every}")
    settings = app.load_settings(args.config, args.set)
    set_a, set_b = faceset.read(args.a), faceset.read(args.b)
    with progress(sys.stderr, args.quiet or args.json) as shown:
        report = evaluate(settings, args.before, args.after, set_a, set_b, args.every, shown)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(sentences(report)))
    return 0


@dataclass(slots=True)
class _Compared:
    """What was seen in both clips."""

    before: list[Array] = field(default_factory=list)
    after: list[Array] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    frames: int = 0


def evaluate(
    settings: Settings, before: str, after: str, set_a: FaceSet, set_b: FaceSet, every: int, shown: Progress
) -> dict[str, Any]:
    """Compares two clips frame by frame.

    Raises:
        InputError: a clip or a face set cannot be used, the clips differ in size, or there is no face in the first.
    """
    from models.reports import identity
    from pipeline.errors import InputError

    faces_a, faces_b = identity.crops_of(set_a, set_a.faces), identity.crops_of(set_b, set_b.faces)
    classifier = identity.train_classifier(faces_a, faces_b)
    seen = _compare(settings, before, after, every, shown)
    if not seen.before:
        raise InputError(f"no face was found in {before}; there is nothing to compare")
    was, now = classifier.probability_b(seen.before), classifier.probability_b(seen.after)
    return {
        "identity": round(float((now > 0.5).mean()), 4),
        "expression_error": round(sum(seen.errors) / len(seen.errors), 4) if seen.errors else None,
        "identity_before": round(float((was > 0.5).mean()), 4),
        "identity_probability": round(float(now.mean()), 4),
        "faces": len(seen.before),
        "faces_lost": len(seen.before) - len(seen.errors),
        "frames": seen.frames,
        "classifier": {"accuracy": round(classifier.accuracy, 4), "held_out": classifier.held_out},
    }


def sentences(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    known = report["classifier"]
    error = "unknown" if report["expression_error"] is None else f"{report['expression_error']:.3f}"
    return [
        f"identity: {100 * report['identity']:.0f} % of {report['faces']} swapped faces are called B "
        f"(of the unswapped ones {100 * report['identity_before']:.0f} %; the classifier is right about "
        f"{100 * known['accuracy']:.0f} % of {known['held_out']} held-out faces)",
        f"expression error: {error} inter-ocular distances"
        + (f"; {report['faces_lost']} faces were not found again" if report["faces_lost"] else ""),
    ]


def _compare(settings: Settings, before: str, after: str, every: int, shown: Progress) -> _Compared:
    """Looks at the faces of `before`, and at the same places in `after`."""
    from models.reports.expression import normalised_mean_error
    from pipeline.errors import InputError
    from stages.crop import cut_out

    seen = _Compared()
    for (was_clip, was), (now_clip, now) in zip(
        _frames(settings, before, every), _frames(settings, after, every), strict=False
    ):
        if (was_clip.width, was_clip.height) != (now_clip.width, now_clip.height):
            raise InputError(f"{before} and {after} differ in size; they are not one clip before and after")
        shown.show("comparing", was.index + 1, was_clip.frames)
        seen.frames += 1
        for face in was.faces:
            if face.aligned is None or face.frame_to_crop is None:
                continue
            seen.before.append(face.aligned)
            seen.after.append(cut_out(now.picture, now_clip.colour, face.frame_to_crop, _SIZE))
            other = _same(face, now.faces)
            if other is not None:
                seen.errors.append(normalised_mean_error(face.landmarks, other.landmarks))
    return seen


def _frames(settings: Settings, file: str, every: int) -> Iterator[tuple[Clip, Frame]]:
    """Every so many frames of a clip with their faces."""
    from pipeline import app
    from pipeline.runner import chain

    source, *stages = app.inspection(settings, _SIZE, _COVERAGE)
    clip = source.open(app.job(1, file))
    for frame in chain([source, *stages], clip):
        if frame.index % every == 0:
            yield clip, frame


def _same(face: Face, others: Sequence[Face]) -> Face | None:
    """The face in the same place, if there is one: its centre is less than half a face away."""
    x0, y0, x1, y1 = face.box

    def distance(other: Face) -> float:
        u0, v0, u1, v1 = other.box
        return float((((u0 + u1) - (x0 + x1)) ** 2 + ((v0 + v1) - (y0 + y1)) ** 2) ** 0.5 / 2)

    nearest = min(others, key=distance, default=None)
    return nearest if nearest is not None and distance(nearest) < max(x1 - x0, y1 - y0) / 2 else None
