"""What a model's journal tells: its sessions, its curves, how it was judged and what happened. Loads no torch.

A journal may be years long, torn by kills, or somebody else's: it is read line by line, what is no record is passed
by, and what is kept of it is bounded. Curves are thinned as they are read, by joining neighbours.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from models.reports.samples import POINTS, Sample, Samples
from models.train import journal
from models.train.journal import ROLLED_BACK, is_count
from pipeline.errors import WeightsError

#: Sessions and events, at most; the newest ones.
NEWEST = 2000

_NAMES = 256  # of a session's people
_JUDGED = 1_000_000  # numbers that all judgements together may hold
_LONGEST = 200  # characters of any text that is shown
_NAME = re.compile(r"[A-Za-z0-9_./>-]{1,160}")


@dataclass(frozen=True, slots=True)
class Session:
    """One training session.

    Attributes:
        number: the first is 1; `start`, `end` UTC, the latter of the last thing known of it where nothing ended it.
        first, last: the model's steps before and after it; `steps` it did, also those that were rolled back.
        batch: faces of each person in a step; `faces`: of all, through the network.
        seconds: its length.
        reason: why it ended; "killed" where nothing says so, "running" where it has not.
        loss: of each person, the last that is known.
        overtakes: the iteration that the model had reached before it was taken up at `first`; None where that is it.
    """

    number: int
    start: datetime
    end: datetime
    first: int
    last: int
    steps: int
    batch: int
    faces: int
    seconds: float
    reason: str
    loss: Mapping[str, float]
    people: tuple[str, ...] = ()
    architecture: str = ""
    preset: str = ""
    device: str = ""
    precision: str = ""
    threads: int = 0
    world: int = 1
    overtakes: int | None = None

    @property
    def faces_per_s(self) -> float:
        """All its faces against all its time, saves included."""
        return self.faces / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good the model was: "ssim/a", "identity/a>b", "ssim" (of all), ..."""

    iteration: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth knowing."""

    iteration: int
    when: datetime | None
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class History:
    """All of it. Points and judgements are those of the model as it is: none that was overtaken.

    Attributes:
        recipe: the newest session's settings, in JSON's types.
    """

    sessions: tuple[Session, ...] = ()
    points: tuple[Sample, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    events: tuple[Event, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def people(self) -> tuple[str, ...]:
        """Whose losses there are."""
        return tuple(dict.fromkeys(person for point in self.points for person in point.loss))


def read(folder: Path | str) -> History:
    """The history of the model in `folder`; empty where it has no journal.

    Raises:
        WeightsError: there is no such folder, or its journal cannot be read.
    """
    folder = Path(folder)
    file = folder / journal.FILE
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise WeightsError(f"the model {folder} {what}; give the folder that `understudy train -o` made")
    reading = _Reading()
    try:
        if not file.exists():
            return History()
        running = journal.is_written(file)
        for record in journal.records(file):
            reading.take(record)
    except OSError as error:
        raise WeightsError(f"the journal {file} cannot be read: {error.strerror or error}") from error
    return reading.history(running)


class _Reading:
    """The state between two lines."""

    def __init__(self) -> None:
        self._sessions: deque[Session] = deque(maxlen=NEWEST)
        self._open: _Open | None = None
        self._points = Samples()
        self._judgements: list[Judgement] = []
        self._judged = 0
        self._events: deque[Event] = deque(maxlen=NEWEST)
        self._recipe: Mapping[str, Any] = {}

    def take(self, record: Mapping[str, Any]) -> None:
        """One record; what it lacks or has too much of is passed by."""
        iteration = record.get("iteration")
        takes = {
            "session": self._session,
            "point": self._point,
            "judgement": self._judgement,
            "event": self._event,
            "end": self._end,
        }
        take = takes.get(record["kind"])
        if take is not None and is_count(iteration):
            take(iteration, record)

    def history(self, running: bool) -> History:
        """What the lines came to; `running` says what has become of a session that nothing ended."""
        self._close("running" if running else "killed")
        return History(
            tuple(self._sessions), self._points.thinned(), tuple(self._judgements), tuple(self._events), self._recipe
        )

    def _session(self, iteration: int, record: Mapping[str, Any]) -> None:
        self._close("killed")
        number = record.get("number")
        self._open = _Open(number if is_count(number) else len(self._sessions) + 1, iteration, record)
        recipe = record.get("recipe")
        self._recipe = recipe if isinstance(recipe, dict) else {}
        self._drop_beyond(iteration)

    def _point(self, iteration: int, record: Mapping[str, Any]) -> None:
        loss = _numbers(record.get("loss"))
        seconds = _number(record.get("seconds")) or 0.0
        number = 0
        if self._open is not None:
            self._open.reached(iteration, seconds, loss)
            number = self._open.number
        of_people = record.get("terms")
        terms = {
            f"{person}/{term}": value
            for person, values in (of_people.items() if isinstance(of_people, dict) else ())
            for term, value in _numbers(values).items()
        }
        lr, rate, waiting = (_number(record.get(name)) for name in ("lr", "faces_per_s", "waiting"))
        self._drop_beyond(iteration)
        self._points.add(Sample(iteration, number, seconds, loss, loss, loss, terms, lr, rate, waiting))

    def _judgement(self, iteration: int, record: Mapping[str, Any]) -> None:
        while self._judgements and self._judgements[-1].iteration >= iteration:
            self._judgements.pop()
        self._judgements.append(Judgement(iteration, _numbers(record.get("metrics"))))
        self._judged += 1 + len(self._judgements[-1].metrics)
        if len(self._judgements) > 2 * POINTS or self._judged > _JUDGED:
            del self._judgements[:-1:2]
            self._judged = sum(1 + len(judgement.metrics) for judgement in self._judgements)

    def _event(self, iteration: int, record: Mapping[str, Any]) -> None:
        what = _text(record.get("what"))
        if self._open is not None:
            if what == ROLLED_BACK:
                self._open.last = iteration
            self._open.reached(iteration)
        self._events.append(Event(iteration, _time(record.get("time")), what, _text(record.get("text"))))
        if what == ROLLED_BACK:
            self._drop_beyond(iteration)

    def _end(self, iteration: int, record: Mapping[str, Any]) -> None:
        if self._open is not None:
            self._open.reached(iteration, _number(record.get("seconds")) or 0.0)
            self._close(_text(record.get("reason")) or "ended")

    def _close(self, reason: str) -> None:
        if self._open is not None:
            self._sessions.append(self._open.session(reason))
        self._open = None

    def _drop_beyond(self, iteration: int) -> None:
        self._points.drop_beyond(iteration)
        while self._judgements and self._judgements[-1].iteration > iteration:
            self._judgements.pop()


class _Open:
    """A session whose end has not been read yet."""

    def __init__(self, number: int, iteration: int, record: Mapping[str, Any]) -> None:
        self.number = number
        self.last = self._first = iteration
        self._record = {name: value for name, value in record.items() if name != "recipe"}
        self._start = _time(record.get("time")) or datetime.fromtimestamp(0, UTC)
        self._steps = 0
        self._seconds = 0.0
        self._loss: Mapping[str, float] = {}

    def reached(self, iteration: int, seconds: float = 0.0, loss: Mapping[str, float] | None = None) -> None:
        """The session was seen at this step, after so many seconds; an earlier step than the last counts for none."""
        self._steps += max(0, iteration - self.last)
        self.last = iteration
        self._seconds = max(self._seconds, seconds)
        self._loss = dict(list(loss.items())[:_NAMES]) if loss else self._loss

    def session(self, reason: str) -> Session:
        """It as far as it is known, ended for this reason."""
        record = self._record
        people = record.get("people")
        named = tuple(_text(person) for person in people[:_NAMES]) if isinstance(people, list) else ()
        batch = self._count("batch", 0)
        return Session(
            number=self.number,
            start=self._start,
            end=_later(self._start, self._seconds),
            first=self._first,
            last=self.last,
            steps=self._steps,
            batch=batch,
            faces=self._steps * self._count("faces_per_step", batch * len(named)),
            seconds=self._seconds,
            reason=reason,
            loss=self._loss,
            people=named,
            **{name: _text(record.get(name)) for name in ("architecture", "preset", "device", "precision")},
            threads=self._count("threads", 0),
            world=self._count("world", 1),
            overtakes=self._count("overtakes", 0) or None,
        )

    def _count(self, name: str, otherwise: int) -> int:
        value = self._record.get(name)
        return value if is_count(value) else otherwise


def _number(value: object) -> float | None:
    """A finite number of sane size, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value)


def _numbers(values: object) -> dict[str, float]:
    found = {name: _number(value) for name, value in values.items()} if isinstance(values, dict) else {}
    return {name: value for name, value in found.items() if value is not None and _NAME.fullmatch(name)}


def _text(value: object) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _time(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(_text(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _later(start: datetime, seconds: float) -> datetime:
    try:
        return start + timedelta(seconds=max(0.0, seconds))
    except OverflowError:
        return start
