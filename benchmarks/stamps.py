"""Stages, finisher and sealer as they are, noting when they did what or what it took; the clip's report tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pipeline.provenance import seal
from pipeline.types import Clip, Frame, Frames, Job, Pulled, Pulse, Report, Sealed
from stages import decode, disclose, encode, finish


class Decode(decode.Decode):
    """Notes when a clip's opening began and when it was over."""

    def __init__(self, config: decode.Config | None = None) -> None:
        super().__init__(config)
        self._stamps: Report = {}

    def open(self, job: Job) -> Clip:
        """As the stage."""
        begun = time.time()
        clip = super().open(job)
        self._stamps = {"opening_at": begun, "opened_at": time.time()}
        return clip

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """As the stage."""
        stamps = self._stamps
        report = yield from super().__call__(clip, frames)
        return report | stamps


class Encode(encode.Encode):
    """Notes when the first and the last frame came and when all of them were on the disk."""

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """As the stage."""
        coming = _Noted(frames)
        report = yield from super().__call__(clip, Pulled(coming, frames.ready))
        return report | {"first_at": coming.first, "last_at": coming.last, "encoded_at": time.time()}


class _Noted:
    """Frames, and when the first and the last of them came."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.first = self.last = 0.0

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        frame = next(self._frames)
        self.last = time.time()
        self.first = self.first or self.last
        return frame


class Finish(finish.Finish):
    """Notes when a clip came, when its file was joined, and when that was verified and its sheet made."""

    def make(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> Report:
        """As the finisher."""
        begun = time.time()
        report = super().make(clip, reports, pulse)
        return report | {"finishing_at": begun, "joined_at": time.time()}

    def check(self, clip: Clip, pulse: Pulse) -> Report:
        """As the finisher."""
        begun = time.time()
        report = super().check(clip, pulse)
        return report | {"sealed_at": begun, "finished_at": time.time()}


class Disclose(disclose.Disclose):
    """Notes the cpu time that marking took, and looking for the marks of others; not what waited for frames did."""

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """As the stage."""
        coming = _Free(frames)
        work = super().__call__(clip, Pulled(coming, frames.ready))
        spent_s = 0.0
        while True:
            begun = coming.clock_s()
            try:
                frame = next(work)
            except StopIteration as stop:
                report: Report = stop.value or {}
                return report | {"marking_cpu_s": spent_s + coming.clock_s() - begun}
            spent_s += coming.clock_s() - begun
            yield frame


class _Free:
    """Frames, and a clock of this thread's cpu time that stands still while one is got."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._spent_s = 0.0

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        begun = time.thread_time()
        try:
            return next(self._frames)
        finally:
            self._spent_s += time.thread_time() - begun

    def clock_s(self) -> float:
        """Seconds."""
        return time.thread_time() - self._spent_s


class Sealer(seal.Sealer):
    """Notes the cpu time of its process, which does nothing else meanwhile: signing, reading back, and the audit."""

    def seal(
        self, clip: Clip, reports: Mapping[str, Report], facts: Mapping[str, Any], alive: Callable[[], None]
    ) -> Sealed:
        """As the sealer."""
        begun = time.process_time()
        sealed = super().seal(clip, reports, facts, alive)
        return replace(sealed, report=sealed.report | {"sealing_cpu_s": time.process_time() - begun})

    def record(self, clip: Clip, reports: Mapping[str, Report], facts: Mapping[str, Any]) -> dict[str, Any]:
        """As the sealer."""
        begun = time.process_time()
        about = super().record(clip, reports, facts)
        sealing_s = float(reports["publish"]["sealing_cpu_s"])
        reports["publish"]["sealing_cpu_s"] = sealing_s + time.process_time() - begun
        return about
