"""Decode: a file in, its pictures out, in the pixel format and at the times that the file holds.

The planes are views of the decoder's own buffers, valid until the next frame is asked for. Errors are caught packet by
packet: a damaged clip gives every picture that can be had, and the report says how much was damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av

from pipeline.errors import InputError
from pipeline.pixels import PixelFormat
from pipeline.publish import partial_path
from pipeline.types import Clip, Colour, Frame, Frames, Job, Report
from stages.containers import DEMUXERS, open_input, reason
from stages.planes import nearest, view

#: So many read errors without a packet between them, and the rest of the file is given up.
_GIVE_UP_AFTER = 16


@dataclass(frozen=True, slots=True)
class Config:
    """What may be decoded, and how.

    Attributes:
        threads: of the decoder; one leaves the cores to the other stages, 0 takes what FFmpeg thinks best.
        max_pixels: width x height of the largest picture that is accepted.
        max_duration_s: of the longest clip that is accepted.
        formats: FFmpeg's demuxers that may open a file.
    """

    threads: int = 1
    max_pixels: int = 8192 * 8192
    max_duration_s: float = 6 * 3600.0
    formats: tuple[str, ...] = DEMUXERS


@dataclass
class Damage:
    """What went wrong on the way through one clip."""

    packets: int = 0
    damaged_packets: int = 0
    damaged_frames: int = 0
    read_errors: int = 0
    converted_frames: int = 0
    repaired_timestamps: int = 0

    def report(self) -> Report:
        """Packets always, the others where there is something to tell."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "packets"}
        return {"packets": self.packets, **{name: count for name, count in found.items() if count}}


class Reader:
    """Decoded AVFrames of one stream of an open container, errors counted instead of raised."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, damage: Damage) -> None:
        self.container = container
        self.stream = stream
        self.damage = damage
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
            del first
        yield from self._frames

    def close(self) -> None:
        """Closes the container; safe to call twice."""
        self._first = None
        self._frames.close()
        self.container.close()

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        for packet in self._packets():
            self.damage.packets += bool(packet is not None and packet.size)
            try:
                decoded = self.stream.codec_context.decode(packet)
            except EOFError:
                return
            except av.error.FFmpegError:
                self.damage.damaged_packets += 1
                continue
            while decoded:
                yield decoded.pop(0)

    def _packets(self) -> Iterator[av.Packet | None]:
        """The stream's packets, then None to flush the decoder. Goes on behind a read error where FFmpeg can."""
        errors = 0
        while errors < _GIVE_UP_AFTER:
            try:
                for packet in self.container.demux(self.stream):
                    if packet.size:
                        errors = 0
                        self.damage.damaged_packets += packet.is_corrupt
                        yield packet
                break
            except (av.error.FFmpegError, OSError):
                errors += 1
                self.damage.read_errors += 1
        yield None


class Decode:
    """The source of every file clip."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self._reader: Reader | None = None
        self._reformatter = av.video.reformatter.VideoReformatter()

    def open(self, job: Job) -> Clip:
        """Opens the job's file and decodes its first picture, which tells format, colour and rotation for certain.

        Raises:
            InputError: no regular file, no known format, no video, no picture, too large or too long.
        """
        self.close()
        container = open_input(job.source, self._config.formats)
        try:
            stream = video_stream(container, job.source)
            self._prepare(stream, job.source)
            reader = Reader(container, stream, Damage())
            clip = self._describe(job, reader)
        except BaseException:
            container.close()
            raise
        self._reader = reader
        return clip

    def close(self) -> None:
        """Drops what `open` opened, where no run followed."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """Yields the clip's frames; `frames` is not looked at. Planes are read-only and valid until the next frame."""
        reader, self._reader = self._reader, None
        if reader is None:
            raise RuntimeError("Decode.open comes before the run, once for each")
        try:
            yield from _numbered(clip, self._own_format(clip, reader), reader.damage, self._config.max_duration_s)
            return reader.damage.report()
        finally:
            reader.close()

    def _prepare(self, stream: av.VideoStream, source: str) -> None:
        context = stream.codec_context
        self._check_size(context.width, context.height, source)
        context.thread_type = "NONE" if self._config.threads == 1 else "AUTO"
        context.thread_count = self._config.threads
        context.flags |= av.codec.context.Flags.output_corrupt
        context.options = {**context.options, "max_pixels": str(self._config.max_pixels)}

    def _check_size(self, width: int, height: int, source: str) -> None:
        if width * height > self._config.max_pixels:
            raise InputError(
                f"{source} is {width}x{height}, more than decode.max_pixels = {self._config.max_pixels} allows"
            )

    def _describe(self, job: Job, reader: Reader) -> Clip:
        first = reader.peek()
        if first is None:
            raise InputError(f"{job.source}: none of its pictures could be decoded; the file is damaged or cut short")
        self._check_size(first.width, first.height, job.source)
        stream = reader.stream
        seconds = duration_s(reader.container, stream)
        if seconds is not None and seconds > self._config.max_duration_s:
            limit = self._config.max_duration_s
            raise InputError(
                f"{job.source} is {seconds:.0f} s long, more than decode.max_duration_s = {limit:.0f} allows"
            )
        rate = stream.average_rate or stream.guessed_rate
        count = stream.frames or (round(seconds * rate) if seconds and rate else None)
        return describe(job, first, stream, rate=rate, frames=count, seconds=seconds)

    def _own_format(self, clip: Clip, reader: Reader) -> Iterator[av.VideoFrame]:
        """The frames, those of another format or size than the clip's converted to it."""
        wanted = (clip.pixel_format.name, clip.width, clip.height)
        for frame in reader:
            if (frame.format.name, frame.width, frame.height) == wanted:
                yield frame
            else:
                reader.damage.converted_frames += 1
                yield self._converted(frame, clip)

    def _converted(self, frame: av.VideoFrame, clip: Clip) -> av.VideoFrame:
        try:
            other = self._reformatter.reformat(frame, clip.width, clip.height, clip.pixel_format.name)
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(
                f"{clip.source}: {frame.format.name} pictures cannot be converted: {reason(error)}"
            ) from error
        other.pts, other.time_base = frame.pts, frame.time_base
        return other


def _numbered(clip: Clip, decoded: Iterator[av.VideoFrame], damage: Damage, max_duration_s: float) -> Iterator[Frame]:
    """Our frames: counted from 0, with timestamps that always rise."""
    last: int | None = None
    first = 0
    step = max(1, round(1 / clip.rate / clip.time_base)) if clip.rate else 1
    for index, frame in enumerate(decoded):
        pts = _ticks(frame, clip.time_base)
        if pts is None or (last is not None and pts <= last):
            # None to keep, or not rising: one frame further on where nothing is known, else the next free tick.
            damage.repaired_timestamps += 1
            pts = 0 if last is None else last + (step if pts is None else 1)
        last = pts
        first = pts if index == 0 else first
        if (pts - first) * clip.time_base > max_duration_s:
            raise InputError(f"{clip.source} is longer than decode.max_duration_s = {max_duration_s:.0f} allows")
        damage.damaged_frames += bool(frame.is_corrupt)
        yield Frame(
            clip.id,
            index,
            pts,
            view(frame, clip.pixel_format),
            duration=max(0, frame.duration or 0),
            damaged=bool(frame.is_corrupt),
        )
        del frame


def _ticks(frame: av.VideoFrame, time_base: Fraction) -> int | None:
    ticks = frame.pts if frame.pts is not None else frame.dts
    if ticks is None or frame.time_base in (None, time_base):
        return ticks
    return round(ticks * frame.time_base / time_base)


def video_stream(container: av.container.InputContainer, source: str) -> av.VideoStream:
    """The first stream of moving pictures; cover art is not one.

    Raises:
        InputError: there is none, or no decoder for it.
    """
    moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not moving:
        kinds = sorted({s.type for s in container.streams if s.type in ("audio", "subtitle")})
        what = f"only {' and '.join(kinds)}" if kinds else "no stream"
        raise InputError(f"{source} has no video: {what} in it")
    for stream in moving:
        if stream.codec_context is not None:
            return stream
    raise InputError(f"{source}: this FFmpeg has no decoder for its video")


def duration_s(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """The stream's length in seconds, else the container's; None where neither tells."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


def describe(
    job: Job,
    first: av.VideoFrame,
    stream: av.VideoStream,
    *,
    rate: Fraction | None,
    frames: int | None,
    seconds: float | None,
) -> Clip:
    """The clip that a stream's first picture and its header tell of."""
    pixel_format = nearest(first.format.name)
    clip = Clip(
        id=job.id,
        source=job.source,
        target=job.target,
        partial=partial_path(job.target, job.id),
        width=first.width,
        height=first.height,
        pixel_format=pixel_format,
        time_base=stream.time_base or Fraction(1, 90000),
        rate=rate,
        sample_aspect_ratio=stream.codec_context.sample_aspect_ratio or Fraction(1),
        colour=colour_of(first),
        display_matrix=display_matrix(first),
        frames=frames,
        duration_s=seconds,
        video_stream=stream.index,
    )
    return _without_alien_colour(clip, first.format, pixel_format)


def _without_alien_colour(clip: Clip, was: av.VideoFormat, now: PixelFormat) -> Clip:
    """A palette or packed format that was converted to another family keeps no matrix tag of its old one."""
    if was.is_rgb == (now.model == "rgb"):
        return clip
    return replace(clip, colour=replace(clip.colour, matrix=2, range=0))


def colour_of(frame: av.VideoFrame) -> Colour:
    """The frame's colour tags as integers."""
    return Colour(int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace), int(frame.color_range))


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The container's 3x3 matrix as nine integers; None where there is none or it changes nothing."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            matrix = struct.unpack("=9i", bytes(data))
            return None if matrix == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30) else matrix
    return None


def absolute(path: str) -> str:
    """`path` made absolute without following links."""
    return str(Path(path).absolute())
