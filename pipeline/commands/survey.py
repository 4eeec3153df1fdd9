"""Looks at face sets before hours are spent on training: how many faces, how sharp, how large, turned which way.

Of two people, each needs faces from every side that the other shows: in a frame whose like was never seen of the
person who is put there, the swap blurs. The picture shows this as a map for each person, and what they share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.faceset import FaceSet
    from models.reports.survey import PersonSurvey, Survey

SUMMARY = "say what face sets hold and lack before training"

EXAMPLES = """\
  understudy survey faces/anna faces/bert
  understudy survey anna=faces/anna bert=faces/bert -o survey.png
  understudy survey anna=monday anna=tuesday bert=faces/bert --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("people", metavar="FACESET", nargs="+", help="a person's faces, or NAME=FACESET")
    parser.add_argument("-o", "--out", metavar="PNG", help="also draws the survey")
    parser.add_argument(
        "--face-px", metavar="PX", type=float, default=64.0, help="the side of a face that the model shall show"
    )


def run(args: argparse.Namespace) -> int:
    """Prints what is there, then what is missing."""
    from models import faceset
    from models.reports import survey, survey_picture
    from pipeline import app, people
    from pipeline.errors import ConfigError
    from pipeline.logs import printable

    if not 1 <= args.face_px <= 4096:
        raise ConfigError(f"--face-px must be from 1 to 4096, not {args.face_px:g}")
    recipe = app.load_settings(args.config, args.set).train
    sets: dict[str, FaceSet] = {}
    for name, folders in people.parse(args.people).items():
        read = [faceset.read(each, plain_coverage=recipe.coverage, plain_crop=recipe.crop) for each in folders]
        sets[name] = faceset.joined(read)
    found = survey.survey(sets, args.face_px)
    notes = survey.warnings(found)
    picture = survey_picture.write(Path(args.out), survey_picture.draw(found, sets)) if args.out else None
    if args.json:
        drawn = None if picture is None else str(picture)
        print(json.dumps(found.to_tree() | {"notes": notes, "picture": drawn}, indent=2))
        return 0
    said = [*_lines(found, sets), *(f"note: {note}" for note in notes), *([f"see {picture}"] if picture else [])]
    print("\n".join(map(printable, said)))
    return 0


def _lines(found: Survey, sets: Mapping[str, FaceSet]) -> list[str]:
    lines = []
    for name, person in found.people.items():
        lines.append(f"{name}: {_facts(person)}")
        lines += [f"  passed over: {why}" for why in sets[name].junk]
    posed = [name for name, person in found.people.items() if len(person.poses)]
    pairs = [(a, b) for a in posed for b in posed if a != b]
    return lines + [f"{100 * found.covered(a, b):.0f} % of {a}'s faces have their like of {b}" for a, b in pairs]


def _facts(person: PersonSurvey) -> str:
    facts = [
        f"{person.faces} faces from {person.sources} {'source' if person.sources == 1 else 'sources'}",
        f"{person.face_px:.0f} px large there (median)",
        f"sharpness {person.sharpness:.3g} (median)",
    ]
    counted = {"blurred": person.blurred, "tiny": person.tiny, "repeated": person.repeated}
    return ", ".join(facts + [f"{count} {what}" for what, count in counted.items() if count])
