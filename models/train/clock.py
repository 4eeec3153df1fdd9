"""Where a session is: its time, its speed, its ends, and what is due."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from models.train.recipe import Config
from models.train.session import Session

_REPORT_S = 0.5  # between two looks at where it is


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Attributes:
        iteration: steps the model has had; `steps` of them in this session, `seconds` of it gone.
        loss: of each person, smoothed.
        faces_per_s: all people's faces through the network in a second, lately.
        share: of the session that is done, 0..1, or None where only `stop` ends it; `eta_s` the rest in seconds.
        saved: the model has just been saved.
    """

    iteration: int
    steps: int
    seconds: float
    loss: dict[str, float]
    faces_per_s: float
    share: float | None
    eta_s: float | None
    saved: bool = False


class Clock:
    """Time and share of a session.

    Attributes:
        steps: taken in this session, those that were taken back included.
        faces_per_s, waited_share: lately; the latter is the share of time in which data was waited for.
    """

    def __init__(self, config: Config, session: Session) -> None:
        self._config = config
        self._session = session
        self._first = session.description.iterations
        self._start = self._last_save = self._last_report = time.monotonic()
        self._last_saved = self._first
        self.steps = self._reported = 0
        self._waited = 0.0
        self.faces_per_s = self.waited_share = 0.0

    @property
    def seconds(self) -> float:
        """Of this session, so far."""
        return time.monotonic() - self._start

    def course(self, iteration: int) -> float:
        """How far the step size has come, 0..1 towards whichever end is nearer.

        Of the steps, those of earlier sessions count too: a training in parts goes as one in a piece would.
        """
        steps = iteration / self._config.iterations if self._config.iterations else 0.0
        return min(1.0, max(steps, self.seconds / (60 * self._config.minutes) if self._config.minutes else 0.0))

    def share(self, iteration: int) -> float:
        """How much of the session is over, 0..1 of whichever end is nearer; 0 throughout where there is none."""
        shares = [0.0]
        if self._config.iterations:
            shares.append((iteration - self._first) / max(1, self._config.iterations - self._first))
        if self._config.minutes:
            shares.append(self.seconds / (60 * self._config.minutes))
        return min(1.0, max(shares))

    def time_is_up(self) -> bool:
        """Whether the session has lasted as long as it shall."""
        return bool(self._config.minutes) and self.seconds >= 60 * self._config.minutes

    def stepped(self) -> None:
        """One more step is done."""
        self.steps += 1

    def taken_back(self) -> None:
        """The training went back to its last save."""
        self._last_saved = self._session.iteration

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what only waits for data."""
        begun = time.monotonic()
        yield
        self._waited += time.monotonic() - begun

    def report_due(self) -> bool:
        """Whether the last look at where it is lies long enough back."""
        return time.monotonic() - self._last_report >= _REPORT_S

    def save_due(self, iteration: int) -> bool:
        """Whether time or steps ask for a save or a snapshot."""
        safety = self._config.safety
        steps = bool(safety.save_iterations) and iteration - self._last_saved >= safety.save_iterations
        every = safety.snapshot_iterations
        snapshot = bool(every) and iteration // every > self._last_saved // every
        return steps or snapshot or time.monotonic() - self._last_save >= 60 * safety.save_minutes

    def saved(self, iteration: int) -> None:
        """The model was just saved, or that was tried."""
        self._last_save, self._last_saved = time.monotonic(), iteration

    def progress(self) -> Progress:
        """Where it is; speed and waiting are of the time since the last such look."""
        session = self._session
        now = time.monotonic()
        passed = now - self._last_report
        if self.steps > self._reported and passed > 0:
            self.faces_per_s = session.faces_per_step * (self.steps - self._reported) / passed
            self.waited_share = min(1.0, self._waited / passed)
            self._last_report, self._reported, self._waited = now, self.steps, 0.0
        steps = session.iteration - self._first
        share = self.share(session.iteration) if self._config.iterations or self._config.minutes else None
        eta = self.seconds * (1 - share) / share if share else None
        return Progress(session.iteration, steps, self.seconds, dict(session.loss), self.faces_per_s, share, eta)
