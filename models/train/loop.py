"""The training loop: draw faces of both people, learn from them, tell, save; until an end is reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from models import tensors
from models.description import ModelDescription
from models.faceset import FaceSet
from models.train import augment, data
from models.train.recipe import Config
from models.train.session import Session
from models.train.threads import Threads, candidates

_REPORT_S = 0.5  # between two looks at the loss; each waits for the device


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Attributes:
        iteration: steps the model has had; `steps` of them in this session, `seconds` of it gone.
        loss: of each person, smoothed.
        faces_per_s: both people's faces through the network in a second, lately.
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


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a session came to: the model as saved, and why it ended ("iterations", "minutes" or "stopped").

    `preview` is the last preview sheet; `notes` names the faces that could not be used, one sentence each.
    """

    description: ModelDescription
    steps: int
    seconds: float
    faces_per_s: float
    ended: str
    preview: Path | None
    notes: tuple[str, ...] = ()


def train(
    config: Config,
    set_a: FaceSet,
    set_b: FaceSet,
    folder: Path | str,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Trains the model in `folder` on, or a new one where there is none, until an end of `config` or `stop`.

    Args:
        on_progress: called about twice a second and after each save.
        stop: asked before every step; once it says so, the model is saved and training ends.

    Raises:
        ConfigError: settings that do not fit the model in `folder`.
        InputError: a face set without a usable face.
        WeightsError: the model in `folder` is damaged, cannot be written, or its loss is no number any more.
    """
    session = Session.begin(config, Path(folder))
    people, sizes = session.people, session.sizes
    faces = {
        person: data.load(found, sizes[1], config.coverage, config.memory_mb / 2).to(session.device)
        for person, found in zip(people, (set_a, set_b), strict=True)
    }
    switches = augment.Switches(config.warp, config.flip, config.colour)
    threads = Threads(_thread_counts(config, session.device.type))
    clock = _Clock(config, session.description.iterations)
    while not (ended := clock.ended(session.iteration) or ("stopped" if stop() else "")):
        session.set_learning_rate(clock.share(session.iteration))
        with threads.step():
            batches = {p: augment.draw(faces[p], config.batch, sizes, switches, session.generator) for p in people}
            session.learn(batches)
        if clock.report_due():
            session.look_at_errors()
            on_progress(clock.progress(session))
        if clock.save_due():
            session.save(faces, clock.seconds)
            on_progress(replace(clock.progress(session), saved=True))
    sheet = session.save(faces, clock.seconds)
    on_progress(replace(clock.progress(session), saved=True))
    steps = session.iteration - session.description.iterations
    rate = 2 * config.batch * steps / max(clock.seconds, 1e-9)
    notes = tuple(note for person in people for note in _notes(person, faces[person]))
    return TrainingResult(session.saved, steps, clock.seconds, rate, ended, sheet, notes)


def _thread_counts(config: Config, device: str) -> tuple[int, ...]:
    if config.threads:
        return (config.threads,)
    return candidates(tensors.cores()) if device == "cpu" else (tensors.cores(),)


def _notes(person: str, faces: data.Faces) -> list[str]:
    notes = [f"{person}: {junk}" for junk in faces.junk]
    if faces.passed_over:
        notes.append(f"{person}: {faces.passed_over} faces left out to stay within train.memory_mb")
    return notes


class _Clock:
    """Time and share of a session."""

    def __init__(self, config: Config, first: int) -> None:
        self._config = config
        self._first = first
        self._start = self._last_save = self._last_report = time.monotonic()
        self._last_iteration = first
        self.faces_per_s = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def share(self, iteration: int) -> float:
        """0..1 of whichever end is nearer; 0 throughout where there is none."""
        shares = [0.0]
        if self._config.iterations:
            shares.append((iteration - self._first) / max(1, self._config.iterations - self._first))
        if self._config.minutes:
            shares.append(self.seconds / (60 * self._config.minutes))
        return min(1.0, max(shares))

    def ended(self, iteration: int) -> str:
        if self._config.iterations and iteration >= self._config.iterations:
            return "iterations"
        return "minutes" if self._config.minutes and self.seconds >= 60 * self._config.minutes else ""

    def report_due(self) -> bool:
        return time.monotonic() - self._last_report >= _REPORT_S

    def save_due(self) -> bool:
        due = time.monotonic() - self._last_save >= 60 * self._config.save_minutes
        if due:
            self._last_save = time.monotonic()
        return due

    def progress(self, session: Session) -> Progress:
        now = time.monotonic()
        if session.iteration > self._last_iteration:
            faces = 2 * self._config.batch * (session.iteration - self._last_iteration)
            self.faces_per_s = faces / (now - self._last_report)
        self._last_report, self._last_iteration = now, session.iteration
        steps = session.iteration - self._first
        share = self.share(session.iteration) if self._config.iterations or self._config.minutes else None
        eta = self.seconds * (1 - share) / share if share else None
        return Progress(session.iteration, steps, self.seconds, dict(session.loss), self.faces_per_s, share, eta)
