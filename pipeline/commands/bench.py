"""Measures the pipeline against its bars, each as a ratio inside one run: what was reached, must be, is aimed at."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SUMMARY = "measure the pipeline against its bars"

EXAMPLES = """\
  understudy bench
  understudy bench --only P4 P8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--only", metavar="BAR", nargs="+", default=[], help="measures only these, e.g. P4")
    parser.add_argument("--quick", action="store_true", help="fewer repeats; good for a look, not for a claim")


def run(args: argparse.Namespace) -> int:
    """Runs the benchmarks, which stand beside the packages in the project's folder, in a process of their own."""
    from pipeline.errors import RequirementError

    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks/__main__.py").is_file():
        raise RequirementError("the benchmarks are not installed with the program; run this in the project's folder")
    flags = [name for name in ("quick", "json", "quiet", "verbose") if getattr(args, name)]
    options = [*(f"--{flag}" for flag in flags), *(["--only", *args.only] if args.only else [])]
    return subprocess.run([sys.executable, "-m", "benchmarks", *options], cwd=root, check=False).returncode
