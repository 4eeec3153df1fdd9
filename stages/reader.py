"""Reading one video stream through whatever is wrong with it: all pictures that can be had, and a count of the rest."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av

from pipeline.errors import InputError
from pipeline.types import Clip, Frame, Frames, Report
from stages.containers import reason
from stages.planes import view

#: So many read errors without a packet between them, and the rest of the file is given up.
_GIVE_UP_AFTER = 16

#: How often a long way through a file gives a sign of life, seconds.
_ASK_S = 1.0


@dataclass
class Damage:
    """What was met on the way through one clip.

    Attributes:
        packets: how many were read.
        damaged_packets: that the container or the decoder called broken.
        damaged_frames: that the decoder made something of, but marked.
        read_errors: of the file or the container's structure.
        converted_frames: whose size or pixel format is not the clip's.
        repaired_timestamps: that were missing, or not later than the one before.
        stored_formats: pixel formats of converted frames.
    """

    packets: int = 0
    damaged_packets: int = 0
    damaged_frames: int = 0
    read_errors: int = 0
    converted_frames: int = 0
    repaired_timestamps: int = 0
    stored_formats: set[str] = field(default_factory=set)

    def report(self) -> Report:
        """Packets always, the others where there is something to tell."""
        counts = ("damaged_packets", "damaged_frames", "read_errors", "converted_frames", "repaired_timestamps")
        found: Report = {"packets": self.packets}
        found |= {name: getattr(self, name) for name in counts if getattr(self, name)}
        if self.stored_formats:
            found["stored_formats"] = ", ".join(sorted(self.stored_formats))
        return found


class Reader:
    """Decoded AVFrames of one stream of an open container, errors counted instead of raised."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.container = container
        self.stream = stream
        self.damage = Damage()
        self._frames = self._decode()
        self._first: av.VideoFrame | None = None

    def peek(self) -> av.VideoFrame | None:
        """The first frame, which iteration will give again; None when there is none."""
        if self._first is None:
            self._first = next(self._frames, None)
        return self._first

    def __iter__(self) -> Iterator[av.VideoFrame]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._frames

    def close(self) -> None:
        """Closes the container; safe to call twice."""
        self._first = None
        self._frames.close()
        self.container.close()

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        context = self.stream.codec_context
        for packet in self._packets():
            try:
                decoded = context.decode(packet)
            except EOFError:
                return
            except av.error.FFmpegError:
                self.damage.damaged_packets += 1
                continue
            while decoded:
                yield decoded.pop(0)

    def _packets(self) -> Iterator[av.Packet | None]:
        """The stream's packets, then None to flush the decoder. Goes on behind a read error where FFmpeg can."""
        for packet in demuxed(self.container, [self.stream], self.damage):
            self.damage.packets += 1
            self.damage.damaged_packets += packet.is_corrupt
            yield packet
        yield None


def demuxed(
    container: av.container.InputContainer, streams: list[av.stream.Stream], damage: Damage
) -> Iterator[av.Packet]:
    """Packets of some streams; read errors are counted and passed over where FFmpeg can go on behind them."""
    errors = 0
    while errors < _GIVE_UP_AFTER:
        try:
            for packet in container.demux(streams):
                # An empty packet is PyAV's own sign for "flush", not something from the file.
                if packet.size:
                    errors = 0
                    yield packet
            return
        except (av.error.FFmpegError, OSError):
            errors += 1
            damage.read_errors += 1


def numbered(
    clip: Clip, decoded: Iterable[av.VideoFrame], damage: Damage, max_duration_s: float = float("inf")
) -> Iterator[Frame]:
    """Our frames: counted from 0, with timestamps that always rise.

    Raises:
        InputError: the clip goes on for longer than `max_duration_s`.
    """
    for index, (pts, frame) in enumerate(timed(clip, decoded, damage, max_duration_s)):
        yield _frame(clip, index, pts, frame)


def gone_on(clip: Clip, timed: Iterable[tuple[int, av.VideoFrame]], to_clip: ToClip, frames: Frames) -> Iterator[Frame]:
    """Our frames from the file's frame `clip.first` on, counted from 0; those before it are only gone through.

    `frames` is asked now and then meanwhile, which proves that somebody is at work.
    """
    asked = time.monotonic()
    for number, (pts, frame) in enumerate(timed):
        if number >= clip.first:
            yield _frame(clip, number - clip.first, pts, to_clip(frame))
            continue
        to_clip.count(frame)
        if time.monotonic() - asked > _ASK_S:
            frames.ready(0)
            asked = time.monotonic()


def timed(
    clip: Clip, decoded: Iterable[av.VideoFrame], damage: Damage, max_duration_s: float
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Each frame with its timestamp in the clip's ticks; these always rise.

    Raises:
        InputError: the clip goes on for longer than `max_duration_s`.
    """
    last: int | None = None
    start = 0
    step = max(1, round(1 / clip.rate / clip.time_base)) if clip.rate else 1
    for index, frame in enumerate(decoded):
        pts = _ticks(frame, clip.time_base)
        if pts is None or (last is not None and pts <= last):
            # Nothing known: one frame further on. Not later than the one before: the next free tick.
            damage.repaired_timestamps += 1
            pts = 0 if last is None else last + (step if pts is None else 1)
        start = pts if index == 0 else start
        last = pts
        if (pts - start) * clip.time_base > max_duration_s:
            raise InputError(f"{clip.source} is longer than decode.max_duration_s = {max_duration_s:.0f} allows")
        damage.damaged_frames += bool(frame.is_corrupt)
        yield pts, frame


def _frame(clip: Clip, index: int, pts: int, frame: av.VideoFrame) -> Frame:
    picture, duration = view(frame, clip.pixel_format), max(0, frame.duration or 0)
    return Frame(clip.id, index, pts, picture, duration=duration, damaged=bool(frame.is_corrupt))


def _ticks(frame: av.VideoFrame, time_base: Fraction) -> int | None:
    ticks = frame.pts if frame.pts is not None else frame.dts
    if ticks is None or frame.time_base is None or frame.time_base == time_base:
        return ticks
    return round(ticks * frame.time_base / time_base)


class ToClip:
    """Converts frames of another size or pixel format than the clip's, and passes the others on as they are."""

    def __init__(self, clip: Clip, damage: Damage) -> None:
        self._clip = clip
        self._damage = damage
        # One for all frames: FFmpeg keeps its tables between calls.
        self._reformatter = av.video.reformatter.VideoReformatter()

    def count(self, frame: av.VideoFrame) -> bool:
        """Whether the frame is as the clip's; counts it among the damage where it is not."""
        clip = self._clip
        if (frame.format.name, frame.width, frame.height) == (clip.pixel_format.name, clip.width, clip.height):
            return True
        self._damage.converted_frames += 1
        self._damage.stored_formats.add(frame.format.name)
        return False

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame, or its conversion with the same timestamps.

        Raises:
            InputError: FFmpeg cannot convert from this format.
        """
        clip, own = self._clip, frame.format.name
        if self.count(frame):
            return frame
        try:
            other = self._reformatter.reformat(frame, clip.width, clip.height, clip.pixel_format.name)
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(f"{clip.source}: {own} pictures cannot be converted: {reason(error)}") from error
        other.pts, other.time_base, other.duration = frame.pts, frame.time_base, frame.duration
        return other
