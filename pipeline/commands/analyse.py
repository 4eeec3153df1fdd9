"""Says how a model was trained: each session, and all of them together.

Steps are those a session did, also the ones that were taken back later. A session that was killed ends where it was
last heard of."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from models.reports.history import History, Session

SUMMARY = "say how a model was trained, session by session"

EXAMPLES = """\
  understudy analyse model
  understudy analyse model --csv sessions.csv
  understudy analyse model --report model/report.html
"""

_FORMULA = tuple("=+-@\t\r")  # what makes a spreadsheet calculate instead of show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("model", metavar="MODEL", help="the model's folder")
    parser.add_argument("--csv", metavar="FILE", help="also writes the sessions as CSV; `-` prints that alone")
    parser.add_argument("--report", metavar="FILE", help="also writes the report as one HTML file")


def run(args: argparse.Namespace) -> int:
    """Prints the sessions, and writes what was asked for."""
    from models.reports import history
    from models.train import journal
    from pipeline.errors import InputError
    from pipeline.logs import printable

    folder = Path(args.model)
    found = history.read(folder)
    if not found.sessions:
        raise InputError(f"{folder} holds no {journal.FILE} with a session in it: no training was recorded there")
    if args.report:
        _report(folder, found, Path(args.report))
    if args.csv == "-":
        _rows(sys.stdout, found.sessions)
        return 0
    if args.csv:
        _csv(Path(args.csv), found.sessions)
    if args.json:
        print(json.dumps(as_json(found), indent=2))
        return 0
    for line in (*table(found.sessions), "", total(found)):
        print(printable(line))
    return 0


def table(sessions: Sequence[Session]) -> Iterator[str]:
    """The sessions in aligned columns, earliest first; times in the zone of whoever reads them."""
    from models.reports import wording

    rows: list[tuple[str, ...]] = [
        ("no.", "start", "end", "iterations", "from", "to", "batch", "faces/s", "ended", "loss")
    ]
    for session in sessions:
        start, end = (wording.when(moment.astimezone()) for moment in (session.start, session.end))
        steps = (wording.count(number) for number in (session.steps, session.first, session.last))
        speed = (str(session.batch), f"{session.faces_per_s:.1f}")
        rows.append((str(session.number), start, end, *steps, *speed, session.reason, wording.losses(session.loss)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (0, 3, 4, 5, 6, 7)
    for row in rows:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


@dataclass(frozen=True, slots=True)
class _Sums:
    """All sessions together; `iterations` are those done, also the ones taken back, `last` is where the model is."""

    sessions: int
    iterations: int
    last: int
    faces: int
    seconds: float

    @classmethod
    def of(cls, found: History) -> _Sums:
        sessions = found.sessions
        steps, faces = sum(s.steps for s in sessions), sum(s.faces for s in sessions)
        return cls(len(sessions), steps, sessions[-1].last, faces, sum(s.seconds for s in sessions))

    @property
    def faces_per_s(self) -> float:
        return self.faces / self.seconds if self.seconds > 0 else 0.0


def total(found: History) -> str:
    """All sessions in one sentence."""
    from models.reports import wording

    sums = _Sums.of(found)
    plural = "" if sums.sessions == 1 else "s"
    back = sums.iterations - (sums.last - found.sessions[0].first)
    lost = f", {wording.count(back)} of them taken back or lost" if back > 0 else ""
    return (
        f"{sums.sessions} session{plural}, {wording.duration(sums.seconds)}: {wording.count(sums.iterations)} "
        f"iterations{lost}, {wording.count(sums.faces)} faces, {sums.faces_per_s:.1f} a second; "
        f"the model is at iteration {wording.count(sums.last)}"
    )


def as_json(found: History) -> dict[str, Any]:
    """The sessions, their sums, the newest judgement and what happened, for machines. Times are UTC, ISO 8601."""
    sums = _Sums.of(found)
    judged = found.judgements[-1] if found.judgements else None
    return {
        "sessions": [
            _facts(session) | {"people": list(session.people), "loss": dict(session.loss)} for session in found.sessions
        ],
        "total": {
            "sessions": sums.sessions,
            "iterations": sums.iterations,
            "last": sums.last,
            "faces": sums.faces,
            "seconds": round(sums.seconds, 3),
            "faces_per_s": round(sums.faces_per_s, 2),
        },
        "judgement": judged and {"iteration": judged.iteration, "metrics": dict(judged.metrics)},
        "events": [
            {"iteration": event.iteration, "when": _iso(event.when), "what": event.what, "text": event.text}
            for event in found.events
        ],
    }


def _facts(session: Session) -> dict[str, Any]:
    """All but the loss, by column; times are UTC, ISO 8601."""
    return {
        "session": session.number,
        "start": _iso(session.start),
        "end": _iso(session.end),
        "seconds": round(session.seconds, 3),
        "first": session.first,
        "last": session.last,
        "iterations": session.steps,
        "batch": session.batch,
        "faces": session.faces,
        "faces_per_s": round(session.faces_per_s, 2),
        "ended": session.reason,
        "architecture": session.architecture,
        "preset": session.preset,
        "device": session.device,
        "precision": session.precision,
        "threads": session.threads,
        "processes": session.world,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def _csv(file: Path, sessions: Sequence[Session]) -> None:
    from pipeline.errors import PublishError

    try:
        with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out:
            _rows(out, sessions)
    except OSError as error:
        raise PublishError(f"the sessions {file} cannot be written: {error.strerror or error}") from error


def _rows(out: TextIO, sessions: Sequence[Session]) -> None:
    """One line a session, with a column for each person's loss."""
    rows = [
        {name: _shown(value) for name, value in _facts(session).items()}
        | {f"loss/{person}": f"{value:.6g}" for person, value in session.loss.items()}
        for session in sessions
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(out, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _shown(value: object) -> object:
    """Text as text, wherever the journal came from."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _report(folder: Path, found: History, file: Path) -> None:
    from models.reports import curves, page

    page.write(file, page.render(folder, found, curves.draw(found)))
