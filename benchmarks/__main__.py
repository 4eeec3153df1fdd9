"""`python -m benchmarks`: what `understudy bench` runs, in the project's folder."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from benchmarks import suite
from pipeline.errors import UnderstudyError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("python -m benchmarks", description=suite.__doc__)
    top.add_argument("--only", metavar="BAR", nargs="+", default=[], help="measures only these, e.g. P4")
    top.add_argument("--quick", action="store_true", help="fewer repeats; good for a look, not for a claim")
    top.add_argument("--sizes", action="store_true", help="instead: speed and costs at several sizes and face counts")
    top.add_argument("--models", action="store_true", help="instead: what training each model costs, as a table")
    top.add_argument(
        "--patience", metavar="S", type=float, default=120.0, help="seconds to wait in all for a quiet machine"
    )
    top.add_argument("--json", action="store_true", help="prints the result as JSON")
    top.add_argument("-q", "--quiet", action="store_true", help="says nothing on the way")
    top.add_argument("-v", "--verbose", action="store_true", help="says what each turn gave")
    return top


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    """0 where every bar that could be measured was reached, 1 where one was not."""
    # As the program does: torch's threads, once it loads, shall sleep while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, _terminate)  # so that every `with` on the way out is left properly
    suite.narrate(args.verbose, args.quiet)
    try:
        return 0 if suite.run(args.only, args.quick, args.json, args.sizes, args.models, args.patience) else 1
    except UnderstudyError as error:
        print(f"understudy: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
