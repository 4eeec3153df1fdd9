"""What a training shows of itself: the journal, preview sheets, the time-lapse, the report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from models import tensors
from models.reports import curves, history, page, preview, timelapse
from models.train.data import AnyFaces
from models.train.journal import Journal, Observers, Opening, Point
from models.train.recipe import Config
from models.train.session import Session
from models.train.tensorboard import TensorBoard


class Show:
    """Tells the observers, and makes the pictures after each save. Close it."""

    def __init__(self, config: Config, session: Session, faces: Mapping[str, AnyFaces]) -> None:
        self._monitor = config.monitor
        self._config = config
        self._session = session
        self._faces = faces
        observers = [Journal(session.folder)]
        extra = [TensorBoard(session.folder)] if config.monitor.tensorboard else []
        self._observers = Observers(*observers, *extra)
        self._next_point = 0.0

    def begin(self) -> None:
        """A session begins."""
        session, config = self._session, self._config
        self._observers.begin(
            Opening(
                session.iteration,
                session.people,
                session.description.architecture,
                config.preset,
                config.batch,
                session.faces_per_step,
                str(session.device),
                tensors.precision_name(session.dtype),
                torch.get_num_threads(),
                session.world.size,
                asdict(config),
            )
        )

    def point(self, seconds: float, faces_per_s: float, waiting: float) -> None:
        """Where it is, as often as `monitor.report_s` says."""
        session = self._session
        if session.costs is None or time.monotonic() < self._next_point:
            return
        self._next_point = time.monotonic() + self._monitor.report_s
        terms = {p: {name: term.item() for name, term in of.items()} for p, of in session.costs.terms.items()}
        rate = session.last_rate
        self._observers.point(Point(session.iteration, seconds, dict(session.loss), terms, rate, faces_per_s, waiting))

    def judged(self, metrics: Mapping[str, float]) -> None:
        """How good the model is."""
        self._observers.judged(self._session.iteration, metrics)

    def event(self, what: str, text: str = "") -> None:
        """Something worth knowing has happened."""
        self._observers.event(self._session.iteration, what, text)

    def saved(self) -> Path | None:
        """Renews the pictures; gives the preview sheet's path. WeightsError where one cannot be written."""
        session, monitor = self._session, self._monitor
        sheet: Path | None = None
        if monitor.preview or monitor.timelapse:
            picture = preview.sheet(session.model, self._faces, session.sizes[0])
            if monitor.preview:
                sheet = preview.write(session.folder / preview.FILE, picture)
                preview.keep(session.folder, session.iteration, picture, monitor.previews_kept)
            if monitor.timelapse:
                timelapse.add(session.folder, session.iteration, picture)
        self._report()
        return sheet

    def end(self, reason: str, seconds: float) -> None:
        """The session ends: the time-lapse becomes a video."""
        session = self._session
        self._observers.end(session.iteration, reason, seconds)
        if self._monitor.timelapse:
            timelapse.film(session.folder, session.folder / timelapse.FILE)
        self._report()

    def _report(self) -> None:
        if self._monitor.report:
            folder = self._session.folder
            found = history.read(folder)
            drawn = curves.draw(found)
            curves.write(folder, drawn)
            page.write(folder / page.FILE, page.render(folder, found, drawn))

    def close(self) -> None:
        """Nothing more is told."""
        self._observers.close()
