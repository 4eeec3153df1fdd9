"""Receive: pictures out of a pipe, in YUV4MPEG2, raw video of declared size, Matroska or NUT.

A picture comes out as soon as its last byte is in; nothing is read ahead of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import av
import numpy as np

from pipeline.errors import ConfigError, InputError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Clip, Frame, Frames, Job, Picture, Report
from stages import payload, y4m
from stages.containers import reason
from stages.decode import describe, video_stream
from stages.pipes import Descriptor, Source
from stages.reader import Reader, ToClip, numbered

#: First bytes of the streams that say themselves what they are.
_MAGIC = {b"YUV4": "y4m", b"\x1aE\xdf\xa3": "matroska", b"nut/": "nut"}

FORMATS = ("auto", "y4m", "raw", "matroska", "nut")


@dataclass(frozen=True, slots=True)
class Config:
    """What comes in, and where.

    Attributes:
        descriptor: where to read.
        format: "y4m", "raw", "matroska", "nut", or "auto": whichever of these the first bytes tell (raw tells nothing).
        width, height, pixel_format, rate: of raw video, which must be declared; the pixel format by FFmpeg's name.
        max_pixels: width x height of the largest picture that is accepted.
        payload: what the watermark of what comes in shall say; 0: one by chance.
    """

    descriptor: Descriptor
    format: str = "auto"
    width: int = 0
    height: int = 0
    pixel_format: str = "yuv420p"
    rate: Fraction = Fraction(25)
    max_pixels: int = 8192 * 8192
    payload: int = 0

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"the input format {self.format!r} is not one of {', '.join(FORMATS)}")
        if self.format != "raw":
            return
        if self.width < 1 or self.height < 1:
            raise ConfigError("raw video needs its width and height declared")
        if self.pixel_format not in PIXEL_FORMATS:
            raise ConfigError(f"{self.pixel_format!r} is not a pixel format that raw video may have here")
        if self.rate <= 0:
            raise ConfigError(f"raw video cannot have {self.rate} pictures a second")


class Receive:
    """The source of a piped clip. The job's `source` is only a name for messages ("standard input")."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self._config = config
        self._source = Source(config.descriptor.fd)
        self._reader: Reader | None = None
        self._format = config.format

    def open(self, job: Job) -> Clip:
        """Reads the stream's header.

        Raises:
            InputError: nothing came, or nothing that is known.
        """
        first = self._source.peek(4)
        if not first:
            raise InputError(f"nothing came from {job.source}")
        if self._config.format == "auto":
            self._format = _MAGIC.get(first, "")
        if not self._format:
            raise InputError(
                f"{job.source} is neither YUV4MPEG2 nor Matroska nor NUT; raw video needs its size and format declared"
            )
        clip = self._describe(job)
        if clip.width * clip.height > self._config.max_pixels:
            limit = self._config.max_pixels
            raise InputError(f"{job.source} is {clip.width}x{clip.height}, more than the {limit} pixels allowed")
        return replace(clip, payload=self._config.payload or payload.drawn())

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """Yields the pictures; planes are read-only and valid until the next frame is asked for.

        Raises:
            InputError: the stream breaks off in the middle of a picture, or is not what it said.
        """
        if self._reader is not None:
            return (yield from self._demuxed(clip, self._reader))
        count = 0
        for frame in self._bare(clip):
            yield frame
            count += 1
        return {"format": self._format, "pictures": count}

    def _describe(self, job: Job) -> Clip:
        config = self._config
        if self._format == "y4m":
            return y4m.parse(self._source.line(y4m.HEADER_LIMIT), job)
        if self._format != "raw":
            return self._open_container(job)
        return Clip(
            *(job.id, job.source, job.target, ""),
            *(config.width, config.height, PIXEL_FORMATS[config.pixel_format]),
            time_base=1 / config.rate,
            rate=config.rate,
        )

    def _bare(self, clip: Clip) -> Iterator[Frame]:
        """Pictures that follow one another without timestamps, all read into one buffer."""
        memory = np.empty(clip.picture_nbytes, np.uint8)
        picture = Picture(clip.pixel_format, clip.width, clip.height, tuple(_planes(memory, clip)))
        index = 0
        while self._frame_begins(clip, index):
            got = self._source.into(memory.data)
            if got == 0 and self._format == "raw":
                return
            if got < memory.size:
                raise InputError(f"{clip.source} broke off in the middle of picture {index}")
            yield Frame(clip.id, index, index, picture, duration=1)
            index += 1

    def _frame_begins(self, clip: Clip, index: int) -> bool:
        if self._format == "raw":
            return True
        line = self._source.line(y4m.HEADER_LIMIT)
        if not line:
            return False
        if not line.startswith(y4m.FRAME) or not line.endswith(b"\n"):
            raise InputError(f"{clip.source} is not YUV4MPEG2 any more at picture {index}")
        return True

    def _open_container(self, job: Job) -> Clip:
        # Enough of the start to know the codec, not more: what is probed is read before the first picture comes out.
        options = {"protocol_whitelist": "file", "fpsprobesize": "0", "analyzeduration": "1"}
        try:
            container = av.open(self._source, format=self._format, container_options=options, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(f"{job.source} cannot be read as {self._format}: {reason(error)}") from error
        assert isinstance(container, av.container.InputContainer)
        try:
            stream = video_stream(container, job.source)
            context = stream.codec_context
            context.thread_type, context.thread_count = "NONE", 1
            context.options = {**context.options, "max_pixels": str(self._config.max_pixels)}
            reader = Reader(container, stream)
            first = reader.peek()
            if first is None:
                raise InputError(f"{job.source}: none of its pictures can be decoded")
            clip = describe(job, first, stream)
        except BaseException:
            container.close()
            raise
        self._reader = reader
        return clip

    def _demuxed(self, clip: Clip, reader: Reader) -> Generator[Frame, None, Report]:
        try:
            yield from numbered(clip, map(ToClip(clip, reader.damage), reader), reader.damage)
            return {"format": self._format, **reader.damage.report()}
        finally:
            reader.close()


def _planes(memory: Array, clip: Clip) -> Iterator[Array]:
    """Read-only views of tightly packed planes, one behind the other."""
    at = 0
    dtype = clip.pixel_format.dtype
    for shape in clip.pixel_format.shapes(clip.width, clip.height):
        size = int(np.prod(shape)) * dtype.itemsize
        plane = memory[at : at + size].view(dtype).reshape(shape)
        plane.flags.writeable = False
        yield plane
        at += size
