"""Segments: a clip's frames into files of packets in its work folder, a checkpoint after each.

Every segment has an encoder of its own, so that what it holds depends on its frames alone: a run that was broken off
and gone on with makes the very bytes of one that was not. `finish.py` joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av

from pipeline import checkpoints
from pipeline.checkpoints import Checkpoint, Segment
from pipeline.errors import PublishError, ResumeError
from pipeline.types import Clip, Frame, Report
from stages.containers import unwritten, writing
from stages.encoder import Config, Encoding
from stages.packets import PacketWriter


class Segments:
    """One clip's frames on their way into segments."""

    def __init__(self, clip: Clip, config: Config, alive: Callable[[], None]) -> None:
        """Goes on behind the first `clip.kept` frames; `alive` is called now and then while it is busy.

        Raises:
            ConfigError: the target's container cannot hold the codec, or the encoder lacks the pixel format.
            ResumeError: the checkpoint is no longer the one that the clip was opened with.
        """
        self._clip = clip
        self._encoding = Encoding(clip, config)
        self._alive = alive
        self._seen = clip.first
        self._open: _OpenSegment | None = None
        self._done, self._whole = _begun(clip)

    def write(self, frame: Frame) -> None:
        """Takes the next frame; those that are in a finished segment are let pass. Raises ConfigError, PublishError."""
        number = self._clip.first + frame.index
        self._seen = number + 1
        if number < self._clip.kept:
            return
        if self._open is not None and number % self._clip.segment == 0:
            self._settle(number)
        if self._open is None:
            path = Path(self._clip.work) / checkpoints.segment_name(number)
            self._open = _OpenSegment(path, number, self._encoding, self._alive)
        self._open.write(frame)

    def finish(self) -> Report:
        """Finishes the last segment and writes the checkpoint that says that all are there.

        Raises:
            ResumeError: there are fewer frames than an earlier run has found.
            PublishError: it could not be written.
        """
        if not self._whole:
            if self._open is None:
                # An earlier run has seen the frame behind its last segment, else it had called the clip whole.
                raise ResumeError(
                    f"{self._clip.source} ends before frame {self._clip.kept}, where an earlier run broke off; it has "
                    "to begin anew"
                )
            self._settle(self._seen, whole=True)
        kept = sum(segment.frames for segment in self._done)
        found: Report = {"frames": kept, "segments": len(self._done)}
        if self._clip.kept:
            found |= {"resumed_at": self._clip.first, "kept": self._clip.kept}
        return found | self._encoding.report()

    def close(self) -> None:
        """Drops the segment that is not finished."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _settle(self, at: int, whole: bool = False) -> None:
        """Finishes the open segment, which ends before frame `at`, and puts the checkpoint on the disk."""
        assert self._open is not None
        self._done.append(self._open.finish())
        self._open = None
        work = self._clip.work
        try:
            first = checkpoints.settle(work, at)
            checkpoints.write(work, Checkpoint(first, at, tuple(self._done), whole))
            checkpoints.forget(work, at)
        except (OSError, ValueError) as error:
            raise unwritten(work, error) from error


def _begun(clip: Clip) -> tuple[list[Segment], bool]:
    """The segments that an earlier run finished, and whether they are all."""
    if not clip.kept:
        return [], False
    checkpoint = checkpoints.read(clip.work)
    if checkpoint is None or checkpoint.kept != clip.kept:
        raise ResumeError(f"{clip.work} does not hold any more what it did when {clip.source} was opened")
    return list(checkpoint.segments), checkpoint.whole


class _OpenSegment:
    """A segment that is being written."""

    def __init__(self, path: Path, first: int, encoding: Encoding, alive: Callable[[], None]) -> None:
        self._path = path
        self._first = first
        self._alive = alive
        self._times: list[int] = []
        self._encoder = encoding.alone()
        with writing(str(path)):
            self._packets = PacketWriter(path, self._encoder.parameters)

    def write(self, frame: Frame) -> None:
        with writing(str(self._path)):
            for packet in self._encoder.encode(frame):
                self._take(packet)

    def finish(self) -> Segment:
        with writing(str(self._path)):
            for packet in self._encoder.flush():
                self._take(packet)
                self._alive()
            nbytes = self._packets.finish()
        frames = self._encoder.frames
        if len(self._times) != frames:
            raise PublishError(f"{self._path}: the encoder made {len(self._times)} packets of {frames} pictures")
        return Segment(self._first, frames, self._path.name, nbytes, depth(self._times))

    def close(self) -> None:
        self._packets.close()

    def _take(self, packet: av.Packet) -> None:
        assert packet.pts is not None
        self._times.append(packet.pts)
        self._packets.write(packet)


def depth(times: list[int]) -> int:
    """How far at most a packet comes behind its place in the order of showing, given presentation times as coded."""
    place = {time: rank for rank, time in enumerate(sorted(times))}
    return max((position - place[time] for position, time in enumerate(times)), default=0)
