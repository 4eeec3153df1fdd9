"""Shows what the daemon has logged, the newest at the end, and with --follow what it logs from now on.

`understudy watch` keeps its log in the folder of its state: log.jsonl and its last five predecessors, 10 MiB each.
Lines look as they did when they were printed, with the number and the name of the clip that they are about. With --json
each is an object: time (UTC), level, logger, message, then job and clip where it is about one, traceback where there
was one, and whatever else was noted. What is no log entry is passed over. Ctrl-C ends --follow, with exit code 130."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from pipeline.commands._looking import add_state, state_folder, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.logbook import Line, Logbook

SUMMARY = "show what the daemon has logged"

EXAMPLES = """\
  understudy logs                           (the last 100 lines)
  understudy logs -f                        (and those to come)
  understudy logs --job 12 -n all           (all there is about one job)
  understudy logs --level warning --json    (what went wrong, for machines)
"""

_LEVELS = ("debug", "info", "warning", "error", "critical")

_EVERY_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--job", metavar="ID", type=int, help="only what is about this job")
    parser.add_argument("--level", choices=_LEVELS, default="debug", help="only what is as grave as this, or more so")
    parser.add_argument(
        "-n", "--lines", metavar="N", type=_count, default="100", help="the last N lines of those, or all"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="goes on with those to come")
    add_state(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the lines there are, and with --follow those to come."""
    from pipeline.errors import InputError
    from pipeline.logbook import Logbook

    folder = state_folder(args)
    grave = _LEVELS[_LEVELS.index(args.level) :]

    def wanted(line: Line) -> bool:
        return line.level in grave and (args.job is None or line.job == args.job)

    try:
        with Logbook(folder) as book:
            for line in book.last(args.lines, wanted):
                _show(line, args.json)
            if args.follow:
                _follow(book, wanted, args.json)
            if not book.found:
                raise InputError(f"{folder} has no log that can be read; is it the daemon's? say where with --state")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _follow(book: Logbook, wanted: Callable[[Line], bool], as_json: bool) -> NoReturn:
    while True:
        sys.stdout.flush()
        wait(_EVERY_S, sys.stdout)
        for line in filter(wanted, book.new()):
            _show(line, as_json)


def _show(line: Line, as_json: bool) -> None:
    print(json.dumps(line.entry) if as_json else line.plain())


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"it is a number of lines, or all, not {text!r}")
    return int(text)
