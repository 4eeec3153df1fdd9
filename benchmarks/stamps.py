"""The first and the last stage and the finisher as they are, noting when they did what; the clip's report tells."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from pipeline.types import Clip, Frame, Frames, Job, Pulled, Pulse, Report
from stages import decode, encode, finish


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
