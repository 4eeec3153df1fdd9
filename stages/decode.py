"""Decode: a file in, its pictures out, in the pixel format and at the times that the file holds.

The planes are views of the decoder's own buffers, valid until the next frame is asked for. Errors are caught packet by
packet (`reader.py`): a damaged clip gives every picture that can be had, and the report says how much was damaged.
A clip that an earlier run began is decoded from its start all the same, since only that gives the same pictures for
certain; frames before the one that is wanted go no further.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import av
from av.sidedata.sidedata import SideData

from pipeline import checkpoints
from pipeline.errors import ConfigError, InputError
from pipeline.pixels import PixelFormat
from pipeline.publish import partial_path
from pipeline.types import Clip, Colour, Frame, Frames, Job, Report
from stages import payload
from stages.containers import DEMUXERS, open_input, unwritten
from stages.planes import nearest
from stages.reader import Reader, ToClip, gone_on, timed

#: Frames a second above this are the container's clock, which FFmpeg gives out where it knows nothing better.
_FASTEST = 1000

#: Containers whose duration counts from zero, not from the first picture.
_TELL_THE_END = ("matroska,webm", "nut")

#: Frames in a segment of a clip whose rate nobody knows.
_SEGMENT = 250

_UPRIGHT = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


@dataclass(frozen=True, slots=True)
class Config:
    """What may be decoded, and how.

    Attributes:
        threads: of the decoder; one leaves the cores to the other stages, 0 takes what FFmpeg thinks best.
        max_pixels: width x height of the largest picture that is accepted.
        max_duration_s: of the longest clip that is accepted.
        formats: FFmpeg's demuxers that may open a file.
        salt: of the payload: what is made of the clips (filled in by the program).
    """

    threads: int = 1
    max_pixels: int = 8192 * 8192
    max_duration_s: float = 6 * 3600.0
    formats: tuple[str, ...] = DEMUXERS
    salt: str = ""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError(f"decode.threads: {self.threads} is negative; 0 lets FFmpeg choose")
        if self.max_pixels < 1 or self.max_duration_s <= 0:
            raise ConfigError("decode.max_pixels and decode.max_duration_s must be above zero")


class Decode:
    """The source of every file clip."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self._reader: Reader | None = None
        self._whole = False

    def open(self, job: Job) -> Clip:
        """Opens the job's file and decodes its first picture, which tells format, colour and rotation for certain.

        Raises:
            InputError: no regular file, no known format, no video, no picture, too large or too long.
            PublishError: the job's work folder cannot be used.
        """
        self.close()
        self._whole = False
        container = open_input(job.source, self._config.formats)
        try:
            stream = video_stream(container, job.source)
            self._prepare(stream, job.source)
            reader = Reader(container, stream)
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
        """Yields the clip's frames from `clip.first` on. Planes are read-only and valid until the next frame.

        Nothing is taken from `frames`; it is asked now and then while the frames before the first are gone through.
        """
        reader, self._reader = self._reader, None
        if reader is None:
            raise RuntimeError("Decode.open comes before each run")
        try:
            if self._whole:
                return {}
            pictures = timed(clip, reader, reader.damage, self._config.max_duration_s)
            yield from gone_on(clip, pictures, ToClip(clip, reader.damage), frames)
            return reader.damage.report()
        finally:
            reader.close()

    def _prepare(self, stream: av.VideoStream, source: str) -> None:
        context = stream.codec_context
        self._check_size(context.width, context.height, source)
        context.thread_type = "NONE" if self._config.threads == 1 else "AUTO"
        context.thread_count = self._config.threads
        # Pictures that refer to lost ones come out marked, instead of not at all.
        context.flags |= av.codec.context.Flags.output_corrupt
        context.options = {**context.options, "max_pixels": str(self._config.max_pixels)}

    def _check_size(self, width: int, height: int, source: str) -> None:
        limit = self._config.max_pixels
        if width * height > limit:
            raise InputError(f"{source} is {width}x{height}, more than decode.max_pixels = {limit} allows")

    def _describe(self, job: Job, reader: Reader) -> Clip:
        first = reader.peek()
        if first is None:
            raise InputError(f"{job.source}: none of its pictures can be decoded; the file is damaged or cut short")
        self._check_size(first.width, first.height, job.source)
        stream = reader.stream
        seconds = duration_s(reader.container, stream)
        limit = self._config.max_duration_s
        if seconds is not None and seconds > limit:
            raise InputError(f"{job.source} is {seconds:.0f} s long, more than decode.max_duration_s = {limit:.0f}")
        clip = describe(job, first, stream)
        count = stream.frames or (round(seconds * clip.rate) if seconds and clip.rate else None)
        clip = replace(clip, frames=count, duration_s=seconds, payload=payload.of_file(job.source, self._config.salt))
        if job.work:
            return self._begun(clip, job)
        return replace(clip, partial=partial_path(job.target, job.id) if job.target else "")

    def _begun(self, clip: Clip, job: Job) -> Clip:
        """The clip with what its work folder holds of it."""
        try:
            checkpoints.sweep(job.work)
        except OSError as error:
            raise unwritten(job.work, error) from error
        segment = max(1, round(job.segment_s * clip.rate)) if clip.rate else _SEGMENT
        clip = replace(clip, work=job.work, segment=segment)
        checkpoint = checkpoints.read(job.work)
        if checkpoint is None:
            return clip
        self._whole = checkpoint.whole
        return replace(clip, first=checkpoint.first, kept=checkpoint.kept)


def video_stream(container: av.container.InputContainer, source: str) -> av.VideoStream:
    """The first stream of moving pictures that can be decoded; cover art is not one.

    Raises:
        InputError: there is none.
    """
    attached = av.stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not moving:
        kinds = sorted({stream.type for stream in container.streams if stream.type in ("audio", "subtitle")})
        what = f"nothing but {' and '.join(kinds)} in it" if kinds else "no stream in it"
        raise InputError(f"{source} has no video: {what}")
    for stream in moving:
        # FFmpeg knows more codecs than it can decode; those have no context.
        if stream.codec_context is not None:
            return stream
    raise InputError(f"{source}: this FFmpeg has no decoder for its video")


def duration_s(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """The stream's length in seconds, else the container's; None where neither tells.

    Matroska and NUT tell when a clip ends, which for one that does not begin at zero is another thing.
    """
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is None:
        return None
    from_zero = container.format.name in _TELL_THE_END
    begins = (container.start_time or 0) if from_zero else 0
    return (container.duration - max(0, begins)) / av.time_base


def describe(job: Job, first: av.VideoFrame, stream: av.VideoStream) -> Clip:
    """The clip that a stream's first picture and its header tell of; without a partial path."""
    pixel_format = nearest(first.format.name)
    return Clip(
        id=job.id,
        source=job.source,
        target=job.target,
        partial="",
        width=first.width,
        height=first.height,
        pixel_format=pixel_format,
        time_base=stream.time_base or Fraction(1, 90000),
        rate=frame_rate_of(stream),
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        colour=_colour(first, pixel_format),
        display_matrix=display_matrix(first),
        video_stream=stream.index,
        field_order=stream.codec_context.field_order,
        begins=first.pts or 0,
    )


def frame_rate_of(stream: av.VideoStream) -> Fraction | None:
    """Frames a second; None where nothing tells.

    A container that counts milliseconds averages 60000/1001 as 19001/317: where the codec's own header says nearly the
    same, it is the one to believe.
    """
    told = (stream.average_rate, stream.guessed_rate, stream.codec_context.framerate)
    average = next((rate for rate in told if rate and rate <= _FASTEST), None)
    named = stream.codec_context.framerate
    if average and named and abs(named / average - 1) < Fraction(1, 1000):
        return named
    return average


def _colour(frame: av.VideoFrame, pixel_format: PixelFormat) -> Colour:
    """The frame's colour tags; those of matrix and range are void where it had to change to another family."""
    same = frame.format.is_rgb == (pixel_format.model == "rgb")
    matrix, levels = (int(frame.colorspace), int(frame.color_range)) if same else (2, 0)
    return Colour(int(frame.color_primaries), int(frame.color_trc), matrix, levels)


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The container's 3x3 matrix as nine integers; None where there is none or it changes nothing.

    Read from the matrix itself: an angle alone, as `frame.rotation` gives it, loses mirroring.
    """
    for data in frame.side_data:
        if isinstance(data, SideData) and data.type.name == "DISPLAYMATRIX":
            matrix = struct.unpack("=9i", bytes(data))
            return None if matrix == _UPRIGHT else matrix
    return None
