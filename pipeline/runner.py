"""The same stages in one process, each called on the one before: tests, debugging, a notebook."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

from pipeline.failures import failure_of
from pipeline.pixels import Plane
from pipeline.publish import discard, partial_path, publish
from pipeline.specs import Failure, Outcome
from pipeline.types import Clip, Finisher, Frame, Frames, Job, Picture, Pulled, Report, Source, Stage


def inline(stages: Sequence[Stage], job: Job, finisher: Finisher | None = None) -> Outcome:
    """Runs one job through the stages, the first of which is a `Source`, and publishes what they made.

    Without a finisher the file is published as the last stage wrote it.
    """
    begun = time.monotonic()
    reports: dict[str, Report] = {}
    count = 0
    failure: Failure | None = None
    at = _name(stages[0])
    frame: int | None = None
    try:
        clip = cast(Source, stages[0]).open(job)
        for out in chain(stages, clip, reports):
            count = out.index + 1
            frame = clip.first + count
        at, frame = "publish", None
        if clip.target:
            _publish(clip, finisher, reports)
    except Exception as error:  # noqa: BLE001  the one place that owns what becomes of the job
        failure = failure_of(_blame(error) or at, frame, error)
    return Outcome(job, count, failure, reports, time.monotonic() - begun)


def _publish(clip: Clip, finisher: Finisher | None, reports: dict[str, Report]) -> None:
    if clip.work:
        clip = replace(clip, partial=partial_path(clip.target, clip.id))
    try:
        if finisher is not None:
            made = finisher.make(clip, reports, _unheard)
            reports["publish"] = made | finisher.check(clip, _unheard)
        publish(clip.partial, clip.target)
    finally:
        discard(clip.partial)


def _unheard(done: int, total: int | None) -> None:
    """Nobody waits for a sign of life."""


def chain(stages: Sequence[Stage], clip: Clip, reports: dict[str, Report] | None = None) -> Iterator[Frame]:
    """The frames of an opened clip as they come out of the last stage; fills `reports` when they have all come."""
    reports = {} if reports is None else reports
    frames: Frames = Pulled(())
    for place, stage in enumerate(stages):
        made = _Reporting(stage, clip, frames, reports)
        frames = Pulled(_own(frame) for frame in made) if place == 0 else made
    return iter(frames)


class _Reporting:
    """A stage's generator as `Frames`, which notes what it returns and which stage it was that raised."""

    def __init__(self, stage: Stage, clip: Clip, frames: Frames, reports: dict[str, Report]) -> None:
        self._name = _name(stage)
        self._generator = stage(clip, frames)
        self._reports = reports

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        try:
            return next(self._generator)
        except StopIteration as stop:
            self._reports[self._name] = stop.value or {}
            raise
        except Exception as error:
            if _blame(error) is None:
                error.add_note(_RAISED_BY + self._name)
            raise

    def ready(self, timeout_s: float) -> bool:
        return True


_RAISED_BY = "raised by the stage "


def _blame(error: BaseException) -> str | None:
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_RAISED_BY)]
    return notes[0].removeprefix(_RAISED_BY) if notes else None


def _name(stage: Stage) -> str:
    return type(stage).__name__.lower()


def _own(frame: Frame) -> Frame:
    """The frame with its own copy of the picture: the source's planes are views that it will use again."""
    picture = frame.picture
    planes: tuple[Plane, ...] = tuple(plane.copy() for plane in picture.planes)
    return frame.with_(picture=Picture(picture.format, picture.width, picture.height, planes))
