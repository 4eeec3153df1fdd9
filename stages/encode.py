"""Encode: frames into a file beside the target, or into segments from which it will be joined.

The file is removed where anything fails; segments that are finished stay, for a later run to go on with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import ClassVar, Protocol

from pipeline.publish import discard
from pipeline.types import Clip, Frame, Frames, Report
from stages.containers import writing
from stages.encoder import Config as Config
from stages.output import Output
from stages.segments import Segments


class Sink(Protocol):
    """Where a clip's frames go."""

    def write(self, frame: Frame) -> None:
        """Takes one frame; its planes may be overwritten afterwards."""
        ...

    def finish(self) -> Report:
        """All frames have come: puts the rest on the disk and says what was written."""
        ...

    def close(self) -> None:
        """Lets go of what is open, and drops what is half."""
        ...


class Encode:
    """The last stage of every file clip."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        # SVT-AV1 takes its log level from here and from nowhere else; 1 is errors only.
        os.environ.setdefault("SVT_LOG", "1")

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """Yields each frame once the encoder has it: its planes may then be overwritten.

        Raises:
            ConfigError: the target's container cannot hold the codec, or the encoder refuses its options.
            ResumeError: an earlier run's segments cannot be gone on with: they, or the source, are not what they were.
            PublishError: the file or a segment could not be written; `errno` says why where the system did.
        """

        def alive() -> None:
            frames.ready(0)

        sink: Sink = Segments(clip, self._config, alive) if clip.work else OneFile(clip, self._config, alive)
        try:
            for frame in frames:
                sink.write(frame)
                yield frame
            return sink.finish()
        finally:
            sink.close()


class OneFile:
    """The whole clip from one encoder, into `clip.partial`."""

    def __init__(self, clip: Clip, config: Config, alive: Callable[[], None]) -> None:
        self._clip = clip
        self._alive = alive
        self._whole = False
        self._first_pts = 0
        self._last_pts = 0
        try:
            self._output = Output(clip, config)
        except BaseException:
            discard(clip.partial)
            raise
        self._encoder = self._output.encoder

    def write(self, frame: Frame) -> None:
        """Hands one frame to the encoder and writes what comes out of it."""
        self._first_pts = frame.pts if self._encoder.frames == 0 else self._first_pts
        self._last_pts = frame.pts
        with writing(self._clip.target):
            for packet in self._encoder.encode(frame):
                self._output.mux(packet)

    def finish(self) -> Report:
        """Writes what the encoder still has, and the container's end."""
        with writing(self._clip.target):
            for packet in self._encoder.flush():
                self._output.mux(packet)
                self._alive()
        report = self._output.finish()
        self._whole = True
        span_s = float((self._last_pts - self._first_pts) * self._clip.time_base)
        return {"frames": self._encoder.frames, "span_s": span_s} | report

    def close(self) -> None:
        """Removes the file unless it is whole."""
        self._output.close()
        if not self._whole:
            discard(self._clip.partial)
