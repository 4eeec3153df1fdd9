"""Lists the daemon's jobs, tells all about one, has jobs tried again or cancelled, or changes whose turn it is.

It reads and writes the table of jobs in the daemon's folder, so it works whether or not the daemon runs; one that runs
heeds it within a second or so, one that does not when it is started. A change concerns all the jobs it names or, where
one of them is unknown or cannot be changed so, none. A range such as 3-9 means those in it that can be.

Exit codes: 2 there is no such job, or it cannot be changed like that;
8 no daemon has run here, or its table cannot be used."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.commands._looking import add_state, state_folder

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.jobs import Entry, State, Table

SUMMARY = "list the daemon's jobs, try them again, cancel them"

EXAMPLES = """\
  understudy jobs list                          (those at work, then those that wait, then what ended last)
  understudy jobs list --only failed,blocked --all
  understudy jobs show 12
  understudy jobs retry 12 15-20
  understudy jobs retry --failed
  understudy jobs cancel 12
  understudy jobs priority 12 10                (the higher, the sooner)
"""

_STATES = ("waiting", "running", "done", "failed", "blocked", "cancelled")

_LINES = 10  # of the log

_WIDTH = 80

#: Of a report: what is said already, or is of the report rather than of the clip.
_SAID = ("version", "job", "frames", "seconds", "attempts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    add_state(parser)
    acts = parser.add_subparsers(title="what to do", dest="what", metavar="WHAT", required=True)

    def add(name: str, summary: str, act: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = acts.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            parents=[_options()],
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        sub.set_defaults(act=act)
        return sub

    listed = add("list", "list jobs: those at work, then those that wait, then what ended last", _list)
    listed.add_argument(
        "--only", metavar="STATE", type=_states, help=f"in these states, e.g. failed,blocked ({', '.join(_STATES)})"
    )
    listed.add_argument("-n", "--lines", metavar="N", type=_whole, default=20, help="at most so many")
    listed.add_argument("--all", action="store_true", help="however many there are")
    add("show", "tell all about one job", _show).add_argument("id", metavar="ID", type=_whole, help="its number")
    again = add("retry", "have jobs that ended tried again, from the beginning", _retry)
    again.add_argument("ids", metavar="ID", nargs="*", type=_range, help="a number, or a range such as 3-9")
    again.add_argument("--failed", action="store_true", help="all that failed")
    again.add_argument("--blocked", action="store_true", help="all that are blocked")
    stop = add("cancel", "cancel jobs that wait, are blocked, or are at work", _cancel)
    stop.add_argument("ids", metavar="ID", nargs="+", type=_range, help="a number, or a range such as 3-9")
    turn = add("priority", "change whose turn it is", _prioritise)
    turn.add_argument("ids", metavar="ID", nargs="+", type=_range, help="a number, or a range such as 3-9")
    turn.add_argument("priority", metavar="N", type=int, help="the higher, the sooner; most have 0")


def _options() -> argparse.ArgumentParser:
    """Those of every verb once more, for they may stand after WHAT, too; what is not given there stays as it was."""
    more = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = more.add_argument_group("options of every verb")
    group.add_argument("-c", "--config", metavar="FILE", help="settings to use instead of ./config.yaml")
    group.add_argument("--set", metavar="KEY=VALUE", action="append", dest="set_here", help="overrides a setting")
    group.add_argument("--json", action="store_true", help="prints the result as JSON")
    group.add_argument("-v", "--verbose", action="store_true", help="shows the traceback of a defect")
    group.add_argument("-q", "--quiet", action="store_true", help="says nothing but errors and the result")
    group.add_argument("--state", metavar="DIR", help="the daemon's folder (default: daemon.state of the settings)")
    return more


def run(args: argparse.Namespace) -> int:
    """Does what was asked for."""
    from pipeline.errors import TableError
    from pipeline.jobs import Damaged
    from pipeline.overview import said_of

    args.set = [*args.set, *getattr(args, "set_here", [])]
    try:
        return int(args.act(args))
    except Damaged as error:
        raise TableError(said_of(error)) from error


def _list(args: argparse.Namespace) -> int:
    from pipeline.jobs import State, Table

    states = frozenset(map(State, args.only or _STATES))
    with Table.looking(_file(args)) as table:
        counts = table.counts()
        found = _chosen(table, states, 1 << 40 if args.all else args.lines)
    if args.json:
        print(json.dumps({"jobs": [asdict(entry) for entry in found], "counts": counts}, indent=2))
        return 0
    print("\n".join(_screen(found, time.time(), _width())))
    left = sum(counts[state] for state in states) - len(found)
    if left > 0 and not args.quiet:
        print(f"and {left} more: see --all, -n and --only")
    return 0


def _chosen(table: Table, states: Collection[State], limit: int) -> list[Entry]:
    """Jobs in these states, in the order in which people ask for them."""
    from pipeline.jobs import State

    found = table.listing({State.RUNNING}, limit) if State.RUNNING in states else []
    if State.WAITING in states:
        found += table.waiting(math.inf, limit)
    if ended := set(states) - {State.RUNNING, State.WAITING}:
        found += table.listing(ended, limit)
    return found[:limit]


def _screen(jobs: Sequence[Entry], now: float, width: int) -> list[str]:
    """A line for each job below a line of titles; what does not fit is shortened."""
    from pipeline.wording import shortened, table

    if not jobs:
        return ["no jobs"]
    rows = [("id", "state", "priority", "age", "clip", "reason")]
    for job in jobs:
        reason = shortened(_reason(job), max(20, width // 3))
        priority = str(job.priority) if job.priority else ""
        rows.append((str(job.id), str(job.state), priority, _age(now - job.accepted, job), _clip(job), reason))
    return table(rows, width, 4, frozenset({0, 2}))


def _reason(job: Entry) -> str:
    from pipeline.logs import printable
    from pipeline.wording import unnamed

    said = unnamed(job.reason, job.source)
    return printable(f"{said} (to be cancelled)".strip() if job.wish == "cancel" else said)


def _clip(job: Entry) -> str:
    from pipeline.logs import printable

    return printable(job.source.removeprefix(f"{job.folder.rstrip(os.sep)}{os.sep}"))


def _age(seconds: float, job: Entry) -> str:
    from models.reports.wording import duration

    return " ".join(duration(seconds).split()[:2]) if job.accepted else ""


def _show(args: argparse.Namespace) -> int:
    from pipeline import result
    from pipeline.jobs import Table
    from pipeline.logbook import Logbook
    from pipeline.logs import printable

    path = _file(args)
    with Table.looking(path) as table:
        job = _known(table.entry(args.id), args.id)
    report = result.read(result.path_for(job.target))
    if report is not None and report.get("job") != job.id:
        report = None  # another job's
    with Logbook(path.parent) as book:
        log = list(book.last(_LINES, lambda line: line.job == job.id))
    if args.json:
        print(json.dumps({**asdict(job), "report": report, "log": [line.entry for line in log]}, indent=2))
        return 0
    facts = [*_facts(job, report)]
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        print(f"{name + ':':<{width}}{printable(value)}")
    for line in log:
        print(line.plain())
    return 0


def _facts(job: Entry, report: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What there is to say of a job, in names and values."""
    yield "job", f"{job.id}, {job.state}" + ("" if job.current else "; its path holds another clip, or none, by now")
    yield "clip", job.source
    yield "result", job.target
    yield "size", f"{job.mark.size} bytes"
    yield "priority", str(job.priority)
    yield "attempts", f"{job.attempts}" + (f"; a process died in {job.crashes} of them" if job.crashes else "")
    moments = {"seen": job.seen, "accepted": job.accepted, "begun": job.claimed, "ended": job.ended}
    if job.state == "waiting":
        moments["not before"] = job.due
    yield from ((name, _when(moment)) for name, moment in moments.items() if moment)
    if job.reason:
        yield "reason", job.reason
    if job.wish:
        yield "wish", job.wish
    for name in ("stage", "frame", "error", "signal", "errno"):
        value = (job.failure or {}).get(name)
        if value or (name, value) == ("frame", 0):
            yield f"  {name}", str(value)
    if job.state == "done":
        yield "frames", f"{job.frames} in {job.seconds:.1f} s"
        yield "source", f"SHA-256 {job.digest}"
    told = {name: value for name, value in (report or {}).items() if isinstance(value, str | int | float)}
    yield from ((f"  {name.replace('_', ' ')}", str(value)) for name, value in told.items() if name not in _SAID)


def _when(moment: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
    except (OverflowError, ValueError, OSError):
        return str(moment)


def _retry(args: argparse.Namespace) -> int:
    from pipeline.errors import ConfigError
    from pipeline.jobs import State

    states = {state for state in (State.FAILED, State.BLOCKED) if getattr(args, str(state))}
    if bool(args.ids) == bool(states):
        raise ConfigError("say which jobs are to be tried again: ID..., or --failed, or --blocked")
    fit = {State.FAILED, State.BLOCKED, State.CANCELLED}

    def chosen(table: Table) -> Iterable[Entry]:
        found = table.listing(states, 1 << 40) if states else _named(table, args.ids, fit)
        return (job for job in found if not states or job.current)

    return _changed(args, chosen, lambda table, job: table.retry(job.id))


def _cancel(args: argparse.Namespace) -> int:
    from pipeline.jobs import State

    fit = {State.WAITING, State.RUNNING, State.BLOCKED}
    now = time.time()
    return _changed(args, lambda table: _named(table, args.ids, fit), lambda table, job: table.withdraw(job.id, now))


def _prioritise(args: argparse.Namespace) -> int:
    from pipeline.jobs import State

    fit = {State.WAITING, State.RUNNING, State.BLOCKED}
    return _changed(
        args,
        lambda table: _named(table, args.ids, fit),
        lambda table, job: table.prioritise(job.id, args.priority),
    )


def _changed(
    args: argparse.Namespace,
    chosen: Callable[[Table], Iterable[Entry]],
    change: Callable[[Table, Entry], Entry],
) -> int:
    """Changes jobs, all of them or none, and says what they are then."""
    from pipeline.jobs import Table

    with Table.open(_file(args), make=False) as table, table.together():
        changed = [change(table, job) for job in chosen(table)]
    if args.json:
        print(json.dumps({"jobs": [asdict(job) for job in changed]}, indent=2))
    else:
        print("\n".join(_screen(changed, time.time(), _width())))
    return 0


def _named(table: Table, ranges: Sequence[tuple[int, int]], fit: Collection[State]) -> list[Entry]:
    """The jobs of these numbers, each once; of a range, those that are current and in a `fit` state.

    Raises ConfigError where there is none of a number or in a range.
    """
    from pipeline.errors import ConfigError

    found: dict[int, Entry] = {}
    for first, last in ranges:
        if first == last:
            found[first] = _known(table.entry(first), first)
            continue
        there = table.span(first, last)
        if not there:
            raise ConfigError(f"there are no jobs from {first} to {last}; `understudy jobs list` tells which there are")
        found |= {job.id: job for job in there if job.current and job.state in fit}
    return list(found.values())


def _known(job: Entry | None, number: int) -> Entry:
    from pipeline.errors import ConfigError

    if job is None:
        raise ConfigError(f"there is no job {number}; `understudy jobs list` tells which there are")
    return job


def _file(args: argparse.Namespace) -> Path:
    """The table's file. Raises TableError where there is none."""
    from pipeline.errors import TableError
    from pipeline.jobs import FILE

    path = state_folder(args) / FILE
    if not path.exists():
        raise TableError(f"no daemon has run here: {path} does not exist; say where with --state, or daemon.state")
    return path


def _width() -> int:
    """Of a terminal; what goes elsewhere is not shortened."""
    return max(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns) if sys.stdout.isatty() else 1 << 20


def _states(text: str) -> tuple[str, ...]:
    states = tuple(text.split(","))
    if wrong := [state for state in states if state not in _STATES]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(_STATES)}")
    return states


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    begin = _whole(first)
    end = _whole(last) if dash else begin
    if end < begin:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it begins")
    return begin, end
