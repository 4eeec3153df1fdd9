"""Shows on one screen what the daemon does: whether it runs, the folders that it watches, the clips at work, how busy
each stage is, how many jobs there are, and the last that failed or are blocked, each with its reason and what mends it.

Exit codes, as systemctl has them: 0 the daemon runs (if it is paused, too: the screen says why); 3 it does not. With
--quiet nothing is said but that. It counts as running while its process is there and renews live.json in its folder.

With --json there is one object: up, state (starting, running, paused, draining or down), folder, live (what the daemon
last said of itself, as in live.json; null where it has ended), counts (of jobs, by state), failures (the last ones:
job, state, source, target, reason, failure, attempts, ended, and retry: the words of the command, null where the clip
is gone) and trouble (why the table of jobs cannot be read)."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

from pipeline.commands._looking import add_state, state_folder, token_file, wait
from pipeline.logs import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.overview import Overview

SUMMARY = "show what the daemon does, on one screen"

EXAMPLES = """\
  understudy status
  understudy status -w                          (again every 2 seconds, until Ctrl-C)
  understudy status --json | jq .counts
  understudy status -q && echo it runs
  xdg-open "$(understudy status --url)"         (the daemon's page)
"""

_DOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument(
        "-w", "--watch", metavar="SECONDS", nargs="?", type=_seconds, const=2.0,
        help="shows it again every so many seconds (2 if none are given)",
    )  # fmt: skip
    parser.add_argument("--url", action="store_true", help="prints only the page's address, with the token in it")
    add_state(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the overview, or the page's address."""
    from pipeline import overview

    folder = state_folder(args)
    if args.url:
        return _print_address(folder, token_file(args), args.json)
    mending = [*_mending(args)]
    try:
        while True:
            seen = overview.look(folder, time.time())
            if args.json:
                print(json.dumps(overview.as_json(seen, mending), indent=None if args.watch else 2), flush=True)
            elif not args.quiet:
                _print_screen(seen, mending, args.watch is not None)
            if args.watch is None:
                return 0 if seen.up else _DOWN
            wait(args.watch, sys.stdout)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"it is a number of seconds from 0.1 to 86400, not {text!r}")
    return seconds


def _mending(args: argparse.Namespace) -> Iterator[str]:
    """The command that has a job tried again, up to its number: by the same settings as this one."""
    yield from ("understudy", "jobs", "retry")
    if args.state is not None:
        yield from ("--state", args.state)
        return
    if args.config is not None:
        yield from ("-c", args.config)
    for setting in args.set:
        yield from ("--set", setting)


def _print_address(folder: Path, token_at: Path, as_json: bool) -> int:
    from urllib.parse import quote

    from pipeline import overview
    from pipeline.errors import InputError

    seen = overview.look(folder, time.time())
    if seen.live is None or not seen.up:
        raise InputError(f"the daemon of {folder} is not running, so there is no page")
    if not seen.live.web:
        raise InputError(f"the daemon of {folder} serves no page; see its log with `understudy logs`")
    try:
        token = token_at.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is no token"
        raise InputError(f"{token_at} cannot be read ({reason}); ask as the user that the daemon runs as") from error
    url = f"{seen.live.web.rstrip('/')}/?token={quote(token, safe='')}"
    print(json.dumps({"url": url}) if as_json else printable(url))
    return 0


def _print_screen(seen: Overview, mending: Sequence[str], again: bool) -> None:
    """On a terminal a screen that is shown again takes the place of the one before."""
    from pipeline.commands._screen import WIDTH, screen

    terminal = sys.stdout.isatty()
    columns, rows = shutil.get_terminal_size((WIDTH, 24)) if terminal else (WIDTH, 0)
    lines = screen(seen, mending, max(columns, 40))
    if again and terminal:
        sys.stdout.write("\x1b[H\x1b[J" + "\n".join(lines[: rows - 1]) + "\n")
    else:
        print("\n".join(lines) + ("\n" if again else ""))
    sys.stdout.flush()
