"""Send: pictures into a pipe, as YUV4MPEG2, raw video, NUT (uncompressed) or Matroska (FFV1, lossless).

Nothing but pictures goes there, each one before the next is asked for. When the reader goes away, the BrokenPipeError
is left as it is: it is no defect, and the program exits with 141 as any filter does.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Protocol

import av
import numpy as np

from pipeline.errors import ConfigError, InputError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Clip, Frame, Frames, Picture, Report
from stages import y4m
from stages.codecs import Codec, Coding, coding_for, frame_rate
from stages.containers import reason
from stages.pipes import Descriptor, Sink
from stages.planes import view

#: What raw video in NUT has a four-letter code for; without one, a reader would take the picture for another format.
_IN_NUT = tuple(
    name
    for name in PIXEL_FORMATS
    if not name.startswith(("yuvj", "p0", "p2", "p4"))
    and name not in ("yuv440p10le", "yuv440p12le", "rgb0", "0rgb", "bgr0", "0bgr", "nv16", "nv24")
)

_Y4M = Codec("rawvideo", formats=y4m.FORMATS)
_NUT = Codec("rawvideo", formats=_IN_NUT, rgb=True, alpha=True)
_MATROSKA = Codec("ffv1", fixed={"level": "3", "slicecrc": "1"}, rgb=True, alpha=True)


@dataclass(frozen=True, slots=True)
class Config:
    """What goes out, and where.

    Attributes:
        descriptor: where to write.
        format: "y4m", "raw" (the clip's own pixel format, planes one behind the other), "nut" or "matroska".
    """

    descriptor: Descriptor
    format: str = "y4m"

    def __post_init__(self) -> None:
        if self.format not in _OUTPUTS:
            raise ConfigError(f"the output format {self.format!r} is not one of {', '.join(_OUTPUTS)}")


class Send:
    """The last stage of a piped clip."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self._config = config
        self._sink = Sink(config.descriptor.fd)

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """Yields each frame once it has been written: its planes may then be overwritten.

        Raises:
            BrokenPipeError: the reader has gone.
        """
        output = _OUTPUTS[self._config.format](clip, self._sink)
        count = 0
        try:
            for frame in frames:
                output.write(frame)
                yield frame
                count += 1
            output.finish()
        finally:
            output.close()
        return {"format": self._config.format, "pictures": count}


class Output(Protocol):
    """One clip on its way out."""

    def __init__(self, clip: Clip, sink: Sink) -> None: ...

    def write(self, frame: Frame) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class Raw:
    """Planes one behind the other, nothing else."""

    def __init__(self, clip: Clip, sink: Sink) -> None:
        self._sink = sink

    def write(self, frame: Frame) -> None:
        """Writes the planes in place where their rows are gapless."""
        self._sink.write_all(_buffers(frame.picture))

    def finish(self) -> None:
        """Nothing follows the last picture."""

    def close(self) -> None:
        """Nothing is held."""


class Y4m(Raw):
    """A header line, then each picture behind a line of its own; pictures that it has no tag for are converted."""

    def __init__(self, clip: Clip, sink: Sink) -> None:
        super().__init__(clip, sink)
        self._coding = coding_for(clip, _Y4M, "auto")
        sink.write(y4m.header(clip, self._coding.pixel_format, self._coding.colour))

    def write(self, frame: Frame) -> None:
        """Writes one picture."""
        self._sink.write_all([memoryview(y4m.FRAME + b"\n"), *_buffers(_as_coded(frame.picture, self._coding))])


class Container:
    """Pictures with their timestamps, in a container of FFmpeg's."""

    muxer: ClassVar[str]
    codec: ClassVar[Codec]
    options: ClassVar[dict[str, str]]

    def __init__(self, clip: Clip, sink: Sink) -> None:
        self._clip = clip
        self._coding = coding = coding_for(clip, self.codec, "auto")
        self._out = av.open(sink, "w", format=self.muxer, container_options=self.options)
        stream = self._out.add_stream(self.codec.encoder, rate=frame_rate(clip), options=self.codec.options("", None))
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = coding.width, coding.height, coding.pixel_format
        context.time_base = stream.time_base = clip.time_base
        context.sample_aspect_ratio = clip.sample_aspect_ratio
        context.color_primaries, context.color_trc = coding.colour.primaries, coding.colour.transfer
        context.colorspace, context.color_range = coding.colour.matrix, coding.colour.range
        if clip.display_matrix is not None:
            stream.set_display_matrix(clip.display_matrix)
        try:
            self._out.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise InputError(f"{clip.source} cannot be sent as {self.muxer}: {reason(error)}") from error

    def write(self, frame: Frame) -> None:
        """Writes one picture."""
        coded = self._coding.frame(frame.picture)
        coded.pts, coded.time_base, coded.duration = frame.pts, self._clip.time_base, frame.duration
        self._out.mux(self._stream.encode(coded))

    def finish(self) -> None:
        """Writes the container's end."""
        self._out.mux(self._stream.encode(None))
        self._out.close()

    def close(self) -> None:
        """Closes; what a reader that has gone does not take is not an error any more."""
        with suppress(OSError, av.error.FFmpegError):
            self._out.close()


class Nut(Container):
    """NUT with uncompressed pictures."""

    muxer = "nut"
    codec = _NUT
    options: ClassVar[dict[str, str]] = {}


class Matroska(Container):
    """Matroska with FFV1; every picture is a cluster of its own, so that none waits for the next."""

    muxer = "matroska"
    codec = _MATROSKA
    options: ClassVar[dict[str, str]] = {"live": "1", "cluster_time_limit": "0", "avoid_negative_ts": "disabled"}


_OUTPUTS: dict[str, type[Output]] = {"y4m": Y4m, "raw": Raw, "nut": Nut, "matroska": Matroska}


def _as_coded(picture: Picture, coding: Coding) -> Picture:
    """The picture itself where the stream can hold its format, else converted."""
    if coding.pixel_format == coding.name:
        return picture
    return view(coding.frame(picture), PIXEL_FORMATS[coding.pixel_format])


def _buffers(picture: Picture) -> list[memoryview]:
    return [np.ascontiguousarray(plane).reshape(-1).view(np.uint8).data for plane in picture.planes]
