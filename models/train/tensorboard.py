"""A training's course for TensorBoard: event files in MODEL/tensorboard."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from models.train.journal import ROLLED_BACK, Opening, Point, utc_now, warn
from pipeline.errors import RequirementError

FOLDER = "tensorboard"


class TensorBoard:
    """An `Observer` beside the journal.

    Events are written as they come, by the caller's thread: tensorboardX's own SummaryWriter hands them to a thread
    that ends with the first error of the disk, after which its full queue would stop the training for good. Here the
    first such error is told to `on_trouble` in one sentence, and no more is written in this session.

    Raises:
        RequirementError: tensorboardX is not installed.
    """

    def __init__(
        self, folder: Path, on_trouble: Callable[[str], None] = warn, now: Callable[[], datetime] = utc_now
    ) -> None:
        try:
            self._files = import_module("tensorboardX.event_file_writer")
            self._events = import_module("tensorboardX.proto.event_pb2")
            self._summaries = import_module("tensorboardX.proto.summary_pb2")
        except (ImportError, TypeError) as error:  # TypeError: what protobuf raises for a package of another version
            raise RequirementError(
                f"train.monitor.tensorboard needs the package tensorboardX ({error}); install it or turn this off"
            ) from error
        self._folder = folder.absolute() / FOLDER
        self._on_trouble = on_trouble
        self._now = now
        self._writer: Any = None

    def begin(self, opening: Opening) -> None:
        """A session begins, in a file of its own."""
        self.close()
        with self._watched():
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f".{round(self._now().timestamp() * 1e6)}.{os.getpid()}"  # two in one second are two files
            self._writer = self._files.EventsWriter(str(self._folder / "events"), name)
        self._forget_beyond(opening.iteration)

    def point(self, point: Point) -> None:
        """Where it is."""
        single = {"lr": point.lr, "speed/faces_per_s": point.faces_per_s, "speed/waiting": point.waiting}
        losses = {f"loss/{person}": value for person, value in point.loss.items()}
        terms = {f"{term}/{who}": value for who, values in point.terms.items() for term, value in values.items()}
        self._scalars(point.iteration, {**losses, **terms, **single})

    def judged(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """How good the model is."""
        # ">" is no character of a tag's.
        self._scalars(iteration, {f"judgement/{name.replace('>', '_as_')}": value for name, value in metrics.items()})

    def event(self, iteration: int, what: str, text: str = "") -> None:
        """Only ROLLED_BACK means something to curves."""
        if what == ROLLED_BACK:
            self._forget_beyond(iteration)

    def end(self, iteration: int, reason: str, seconds: float) -> None:
        """TensorBoard knows no end."""

    def close(self) -> None:
        """Ends the session's file. Closing again does nothing."""
        with self._watched():
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    def _forget_beyond(self, iteration: int) -> None:
        """What was written of later steps is overtaken: TensorBoard drops it where a session starts before it."""
        self._write(step=iteration + 1, session_log=self._events.SessionLog(status=self._events.SessionLog.START))

    def _scalars(self, iteration: int, values: Mapping[str, float | None]) -> None:
        summary = self._summaries.Summary()
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                summary.value.add(tag=name, simple_value=value)
        self._write(step=iteration, summary=summary)

    def _write(self, **facts: Any) -> None:
        with self._watched():
            if self._writer is not None:
                self._writer.write_event(self._events.Event(wall_time=self._now().timestamp(), **facts))
                self._writer.flush()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None  # an event file cannot be mended
            reason = error.strerror or str(error)
            self._on_trouble(f"{self._folder} cannot be written ({reason}); training goes on without it")
