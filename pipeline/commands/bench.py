"""Measures the pipeline against its bars, each as a ratio inside one run: what was reached, must be, is aimed at."""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SUMMARY = "measure the pipeline against its bars"

EXAMPLES = """\
  understudy bench
  understudy bench --only P4 P8
  understudy bench --sizes
  understudy bench --models
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--only", metavar="BAR", nargs="+", default=[], help="measures only these, e.g. P4")
    parser.add_argument("--quick", action="store_true", help="fewer repeats; good for a look, not for a claim")
    parser.add_argument("--sizes", action="store_true", help="instead: costs at several sizes and face counts")
    parser.add_argument("--models", action="store_true", help="instead: what training each model costs, as a table")
    parser.add_argument(
        "--patience", metavar="S", type=float, default=120.0, help="seconds to wait in all for a quiet machine"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the benchmarks, which stand beside the packages in the project's folder, in a process of their own.

    Returns 1 where a bar that could be measured was not reached.
    """
    from pipeline.errors import RequirementError

    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks/__main__.py").is_file():
        raise RequirementError("the benchmarks are not installed with the program; run this in the project's folder")
    if find_spec("psutil") is None:
        raise RequirementError("the benchmarks count other processes' work with psutil; run `make setup`")
    flags = [name for name in ("quick", "sizes", "models", "json", "quiet", "verbose") if getattr(args, name)]
    options = [*(f"--{flag}" for flag in flags), *(["--only", *args.only] if args.only else [])]
    options += ["--patience", str(args.patience)]
    return subprocess.run([sys.executable, "-m", "benchmarks", *options], cwd=root, check=False).returncode
