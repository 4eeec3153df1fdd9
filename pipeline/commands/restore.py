"""Lists what a model's training has kept, and makes the model one of them again: a backup (the loss had fallen), a
snapshot (every so many steps) or the best one by the judgement.

What the model is now is kept first, as before-restore, so that nothing is lost and a restore can be undone. Each is
checked against its digests before it takes the model's place."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.kept import Entry

SUMMARY = "list what a training has kept, and go back to it"

EXAMPLES = """\
  understudy restore model                            (what there is to go back to)
  understudy restore model --check                    (is all of it whole? exits with 5 if not)
  understudy restore model backup.000012000
  understudy restore model best --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("model", metavar="MODEL", help="the folder that `understudy train -o` made")
    parser.add_argument("name", metavar="NAME", nargs="?", help="what to go back to; without it there is a list")
    parser.add_argument("--check", action="store_true", help="reads all files and compares their digests")


def run(args: argparse.Namespace) -> int:
    """Lists, checks or restores."""
    from models import kept
    from pipeline.errors import ConfigError

    if args.name is not None and args.check:
        raise ConfigError("--check goes without NAME: what is restored is always checked")
    if args.name is None:
        return _list(args)
    with kept.claimed(args.model):
        before = kept.entries(args.model)
        model = kept.restore(args.model, args.name)
        added = {entry.name for entry in kept.entries(args.model)} - {entry.name for entry in before}
    saved = next(iter(added), None)
    if args.json:
        print(json.dumps({"model": args.model, "restored": args.name, "step": model.iterations, "before": saved}))
    else:
        undone = f"; what was there is kept as {saved}" if saved else ""
        print(f"the model is that of step {model.iterations} again{undone}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from models import description, kept
    from pipeline.errors import WeightsError

    if not kept.is_model(args.model):
        description.read(args.model)  # says what is there instead
    found = [kept.now(args.model), *kept.entries(args.model)]
    faults: dict[str, str] = {}
    if args.check:
        faults = {entry.name: kept.check(args.model, entry) for entry in found}
        found = [replace(entry, intact=not faults[entry.name]) for entry in found]
    if args.json:
        present, *others = [_as_json(entry, faults) for entry in found]
        print(json.dumps({"model": args.model, "now": present, "kept": others}, indent=2))
    else:
        print("\n".join(table(found, faults)))
    return WeightsError.exit_code if any(faults.values()) else 0


def table(found: Sequence[Entry], faults: dict[str, str]) -> list[str]:
    """A line for each model, newest first, then a line for each fault."""
    from pipeline.logs import printable

    rows = [("name", "step", "loss", "saved", "size", "")]
    for entry in found:
        loss = ", ".join(f"{person} {value:.4f}" for person, value in entry.loss.items())
        state = {True: "intact", False: "damaged", None: ""}[entry.intact]
        saved = entry.when[:19].replace("T", " ")
        rows.append((entry.name, str(entry.iteration), loss, saved, f"{entry.size / 1e6:.1f} MB", state))
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(rows[0]))]
    right = {"step", "size"}
    lines = [
        "  ".join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(row, widths, rows[0], strict=True)
        ).rstrip()
        for row in shown
    ]
    if len(found) == 1:
        lines.append("nothing is kept yet; train.safety.backups and snapshot_iterations say what is")
    return lines + [printable(f"{name}: {fault}") for name, fault in faults.items() if fault]


def _as_json(entry: Entry, faults: dict[str, str]) -> dict[str, Any]:
    return {**asdict(entry), "fault": faults.get(entry.name) or None}
