"""A training as it is now: what a page or a line shows of it, read from the model's folder alone. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import kept
from models.reports import history
from models.reports.history import Event, History, Judgement, Session
from models.reports.samples import Sample
from models.train.recipe import METRICS

EMPTY, RUNNING, KILLED, ENDED = "empty", "running", "killed", "ended"

_SESSIONS, _JUDGEMENTS, _EVENTS, _KEPT = 12, 8, 14, 12  # the newest that are shown
_QUIET = ("saved", "backup", "snapshot", "")  # events that say only that all is well: the last of each is enough
_SPEED_OVER = 5  # samples by which the rest is reckoned


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement.

    Attributes:
        metrics: by name, those of all people together; `best` those that were never better.
    """

    iteration: int
    metrics: Mapping[str, float]
    best: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Present:
    """A training as it is; in JSON's types but for tuples. Times are ISO 8601, UTC.

    Attributes:
        name: the folder's.
        state: EMPTY, RUNNING, KILLED or ENDED; `reason` why it ended.
        iteration: steps the model has had; `loss` of each person.
        heard: when it last said something.
        seconds: of the newest session; `share` of it that is done, 0..1, and `left_s` the rest, None where unknown.
        faces_per_s, lr, waiting: as in `journal.Point`, None where unknown.
        facts: what it is and runs on, by name.
        sessions, verdicts, events, kept: the newest first; not all.
        metrics: which ones verdicts have, and whether more of it is better; `whose`: the newest verdict's for each
            person or pair.
    """

    name: str
    state: str = EMPTY
    reason: str = ""
    iteration: int = 0
    loss: Mapping[str, float] = field(default_factory=dict)
    heard: str = ""
    seconds: float = 0.0
    share: float | None = None
    left_s: float | None = None
    faces_per_s: float | None = None
    lr: float | None = None
    waiting: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    sessions: tuple[Mapping[str, Any], ...] = ()
    metrics: Mapping[str, bool] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    whose: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    kept: tuple[Mapping[str, Any], ...] = ()


def read(folder: Path | str) -> Present:
    """The training of the model in `folder`, whether or not it has begun.

    Raises:
        WeightsError: there is no such folder, or its journal cannot be read.
    """
    folder = Path(folder)
    told = history.read(folder)
    entries = tuple(_entry(entry) for entry in kept.entries(folder)[:_KEPT])
    name = folder.resolve().name
    if not told.sessions:
        return Present(name, kept=entries, events=_events(told.events))
    session = told.sessions[-1]
    newest = told.points[-1] if told.points and told.points[-1].session == session.number else None
    share = _share(told.recipe, session)
    metrics = _metrics(told.judgements)
    state = session.reason if session.reason in (RUNNING, KILLED) else ENDED
    return Present(
        name=name,
        state=state,
        reason=session.reason if state == ENDED else "",
        iteration=session.last,
        loss=session.loss,
        heard=_heard(told),
        seconds=session.seconds,
        share=share,
        left_s=_left_s(told, session, share) if state == RUNNING else None,
        faces_per_s=newest.faces_per_s if newest else None,
        lr=newest.lr if newest else None,
        waiting=newest.waiting if newest else None,
        facts=_facts(session),
        sessions=tuple(_session(each) for each in reversed(told.sessions[-_SESSIONS:])),
        metrics=metrics,
        verdicts=_verdicts(told.judgements, metrics),
        whose=_whose(told.judgements, metrics),
        events=_events(told.events),
        kept=entries,
    )


def _heard(told: History) -> str:
    session = told.sessions[-1]
    times = [session.end, *(event.when for event in told.events[-1:] if event.when is not None)]
    return max(times).isoformat(timespec="seconds")


def _share(recipe: Mapping[str, Any], session: Session) -> float | None:
    """Of the session, by whichever of its ends is nearer."""
    shares = []
    iterations, minutes = _positive(recipe.get("iterations")), _positive(recipe.get("minutes"))
    if iterations:
        shares.append((session.last - session.first) / max(1.0, iterations - session.first))
    if minutes:
        shares.append(session.seconds / (60 * minutes))
    return min(1.0, max(0.0, *shares, 0.0)) if shares else None


def _positive(value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12
    return float(value) if known else 0.0  # type: ignore[arg-type]  # it is a number


def _left_s(told: History, session: Session, share: float | None) -> float | None:
    """By the speed of late, where steps end it; by the clock, where minutes do."""
    iterations, minutes = _positive(told.recipe.get("iterations")), _positive(told.recipe.get("minutes"))
    ways = [60 * minutes - session.seconds] if minutes else []
    late = [point for point in told.points[-_SPEED_OVER:] if point.session == session.number]
    if iterations and (pace := _pace(late, session)):
        ways.append((iterations - session.last) * pace)
    return max(0.0, min(ways)) if ways and share is not None else None


def _pace(late: Sequence[Sample], session: Session) -> float:
    """Seconds a step; 0 where nothing is known of it."""
    if len(late) > 1 and late[-1].iteration > late[0].iteration:
        return (late[-1].seconds - late[0].seconds) / (late[-1].iteration - late[0].iteration)
    return session.seconds / session.steps if session.steps else 0.0


def _facts(session: Session) -> dict[str, str]:
    device = " ".join(filter(None, (session.device, session.precision)))
    facts = {
        "model": " ".join(filter(None, (session.architecture, session.preset))),
        "people": ", ".join(session.people[:8]) + (f" and {len(session.people) - 8} more" * (len(session.people) > 8)),
        "on": f"{session.world} x {device}" if session.world > 1 else device,
        "threads": str(session.threads) if session.threads and session.device == "cpu" else "",
        "batch": str(session.batch),
    }
    return {name: value for name, value in facts.items() if value}


def _session(session: Session) -> dict[str, Any]:
    names = ("number", "first", "last", "steps", "batch", "seconds", "reason")
    facts = {name: getattr(session, name) for name in names}
    start = session.start.isoformat(timespec="seconds")
    return facts | {"start": start, "faces_per_s": session.faces_per_s, "loss": dict(session.loss)}


def _metrics(judgements: Sequence[Judgement]) -> dict[str, bool]:
    there = {name for judgement in judgements for name in judgement.metrics}
    return {name: more for name, more in METRICS.items() if name in there}


def _verdicts(judgements: Sequence[Judgement], metrics: Mapping[str, bool]) -> tuple[Verdict, ...]:
    best = {
        name: (max if more else min)(judged.metrics[name] for judged in judgements if name in judged.metrics)
        for name, more in metrics.items()
    }
    found = []
    for judged in reversed(judgements[-_JUDGEMENTS:]):
        values = {name: judged.metrics[name] for name in metrics if name in judged.metrics}
        leading = tuple(name for name, value in values.items() if math.isclose(value, best[name]))
        found.append(Verdict(judged.iteration, values, leading))
    return tuple(found)


def _whose(judgements: Sequence[Judgement], metrics: Mapping[str, bool]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, value in judgements[-1].metrics.items() if judgements else ():
        metric, _, whose = name.partition("/")
        if whose and metric in metrics:
            found.setdefault(whose, {})[metric] = value
    return dict(list(found.items())[:64])


def _events(events: Sequence[Event]) -> tuple[dict[str, Any], ...]:
    told: set[str] = set()
    chosen = []
    for event in reversed(events):
        if event.what in _QUIET and event.what in told:
            continue
        told.add(event.what)
        chosen.append(event)
        if len(chosen) == _EVENTS:
            break
    return tuple(
        {
            "iteration": event.iteration,
            "when": event.when.isoformat(timespec="seconds") if event.when else "",
            "what": event.what,
            "text": event.text,
        }
        for event in chosen
    )


def _entry(entry: kept.Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "iteration": entry.iteration,
        "loss": dict(entry.loss),
        "when": entry.when[:19],
        "size": entry.size,
        "damaged": entry.intact is False,
    }
