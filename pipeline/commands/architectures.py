"""Lists the architectures that `understudy train` knows, their presets, and what each sees, gives and weighs.

Parameters are those of a model of two people without learned masks."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "list the models that can be trained"

EXAMPLES = """\
  understudy architectures
  understudy architectures saehd --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these; with their options")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from models import autoencoders

    rows = [row for name in args.names or autoencoders.names() for row in _rows(name)]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'architecture':<14}{'preset':<14}{'sees':>6}{'gives':>7}{'parameters':>15}")
    for row in rows:
        gives = f"{row['output_size']} px"
        sees = f"{row['input_size']} px"
        print(f"{row['architecture']:<14}{row['preset'] or '-':<14}{sees:>6}{gives:>7}{row['parameters']:>15,}")
    for name in args.names:
        options = ", ".join(f"{key}={value}" for key, value in _defaults(name).items())
        print(f"\n{name}: {options}\n  set with --set train.options.NAME=VALUE")
    return 0


def _defaults(name: str) -> dict[str, Any]:
    from models import autoencoders

    return autoencoders.options(autoencoders.module(name).Config())


def _rows(name: str) -> list[dict[str, Any]]:
    """The family's defaults (preset ""), then its presets."""
    import torch

    from models import autoencoders
    from models.blocks import Layers

    family = autoencoders.module(name)
    rows = []
    for preset, config in {"": family.Config(), **family.PRESETS}.items():
        with torch.device("meta"):
            model = family.build(config, ("a", "b"), Layers())
        rows.append(
            {
                "architecture": name,
                "preset": preset,
                "input_size": config.input_size,
                "output_size": config.output_size,
                "parameters": sum(weight.numel() for weight in model.parameters()),
                "options": autoencoders.options(config),
            }
        )
    return rows
