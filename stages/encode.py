"""Encode: frames into a file beside the target, with everything else the source had.

Timestamps, rotation, aspect ratio and colour tags are the source's; sound, subtitles and the rest are copied packet by
packet (`streams.py`). The partial file is read back before this stage says that it is done, and removed where anything
fails.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av

from pipeline.errors import ConfigError, InputError, PublishError
from pipeline.publish import discard
from pipeline.types import Clip, Frame, Frames, Report
from stages.codecs import CODECS, coding_for, frame_rate
from stages.containers import muxer_for, muxer_options, open_input, reason
from stages.streams import Company

_PROGRESSIVE = 1

#: How much FFmpeg gathers before it writes; a packet's end is written at once (`flush_packets`). Python's own buffer is
#: only there because it, unlike a raw file, writes all it is given or raises.
_WRITE_NBYTES, _PYTHON_NBYTES = 1 << 18, 16


@dataclass(frozen=True, slots=True)
class Config:
    """How the result is coded.

    Attributes:
        codec: h264, hevc, av1, prores or ffv1 (lossless).
        preset: the encoder's own word for speed against size; empty takes ours for the codec.
        quality: the encoder's constant-quality figure (crf of x264, x265 and SVT-AV1), smaller is better; None takes
            ours for the codec. ProRes and FFV1 have none.
        threads: of the encoder; 0 is twice the cores, at most 16.
        pixel_format: FFmpeg's name, or "auto": the source's own where the encoder has it, else the nearest that keeps
            its depth.
        options: further options for the encoder, by FFmpeg's names.
        container_options: further options for the muxer.
    """

    codec: str = "h264"
    preset: str = ""
    quality: float | None = None
    threads: int = 0
    pixel_format: str = "auto"
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ConfigError(f"encode.codec: {self.codec!r} is not one of {', '.join(CODECS)}")
        if self.threads < 0:
            raise ConfigError(f"encode.threads: {self.threads} is negative; 0 chooses by the number of cores")


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
            PublishError: the file could not be written, or is not what it should be.
        """
        whole = False
        try:
            writer = Writer(clip, self._config)
            try:
                for frame in frames:
                    writer.write(frame)
                    yield frame
                report = writer.finish()
            finally:
                writer.close()
            report |= check(clip, writer)
            whole = True
            return report
        finally:
            if not whole:
                discard(clip.partial)


class Writer:
    """One clip's output: the container, the encoder, and the streams that travel along.

    Attributes:
        frames: how many were written.
        span: seconds from the first frame to the last.
    """

    def __init__(self, clip: Clip, config: Config) -> None:
        self.frames = 0
        self.span = 0.0
        self._clip = clip
        self._codec = CODECS[config.codec]
        self._coding = coding_for(clip, self._codec, config.pixel_format)
        self._muxer = muxer_for(clip.target, config.codec)
        self._first_pts = 0
        self._company = Company(clip)
        try:
            # A file object, not a path: FFmpeg would leave its own descriptor open when a header is refused.
            self._file = open(clip.partial, "wb", buffering=_PYTHON_NBYTES)  # noqa: SIM115, PTH123  closed by `close`
        except OSError as error:
            self._company.close()
            raise PublishError(f"{clip.target} could not be written: {reason(error)}") from error
        try:
            self._out = self._open(config)
            self._stream = self._company.join(self._out, lambda: self._add_video(config))
            self._start()
        except BaseException:
            self.close()
            raise

    def _open(self, config: Config) -> av.container.OutputContainer:
        keys = self._company.metadata
        options = muxer_options(self._muxer, self._company.time_bases, keys)
        options = {**options, "flush_packets": "1", **config.container_options}
        return av.open(self._file, "w", format=self._muxer, container_options=options, buffer_size=_WRITE_NBYTES)

    def _add_video(self, config: Config) -> av.VideoStream:
        clip, coding = self._clip, self._coding
        options = self._codec.options(config.preset, config.quality) | dict(config.options)
        stream = self._out.add_stream(self._codec.encoder, rate=frame_rate(clip), options=options)
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = coding.width, coding.height, coding.pixel_format
        context.time_base = stream.time_base = clip.time_base
        context.sample_aspect_ratio = clip.sample_aspect_ratio
        context.thread_type = self._codec.thread_type
        context.thread_count = config.threads or min(16, 2 * len(os.sched_getaffinity(0)))
        context.flags |= av.codec.context.Flags.frame_duration
        context.color_primaries, context.color_trc = coding.colour.primaries, coding.colour.transfer
        context.colorspace, context.color_range = coding.colour.matrix, coding.colour.range
        if clip.field_order > _PROGRESSIVE:
            context.field_order = clip.field_order
        if tag := self._codec.tags.get(self._muxer):
            context.codec_tag = tag
        if clip.display_matrix is not None:
            stream.set_display_matrix(clip.display_matrix)
        return stream

    def _start(self) -> None:
        try:
            self._out.start_encoding()
        except OSError as error:
            raise PublishError(f"{self._clip.target} could not be written: {reason(error)}") from error
        except (av.error.FFmpegError, ValueError) as error:
            pictures = f"{self._coding.width}x{self._coding.height} {self._coding.pixel_format}"
            raise ConfigError(
                f"{self._codec.encoder} refuses {pictures} with these options: {reason(error)}"
            ) from error

    def write(self, frame: Frame) -> None:
        """Hands one frame to the encoder and writes what comes out of it."""
        coded = self._coding.frame(frame.picture)
        coded.pts, coded.time_base, coded.duration = frame.pts, self._clip.time_base, frame.duration
        self._mux(coded)
        self._first_pts = frame.pts if self.frames == 0 else self._first_pts
        self.span = float((frame.pts - self._first_pts) * self._clip.time_base)
        self.frames += 1

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                if frame is None and self.frames <= 2:
                    # x265 never sets the decoding time in a clip as short as this; with no B-frame it is the other.
                    packet.dts = packet.pts
                assert packet.dts is not None
                self._company.advance(self._out, packet.dts * packet.time_base)
                self._out.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise PublishError(f"{self._clip.target} could not be written: {reason(error)}") from error

    def finish(self) -> Report:
        """Flushes the encoder, writes the rest of the other streams and the container's end; says what was written."""
        self._mux(None)
        try:
            self._company.advance(self._out, None)
            self._out.close()
            self._file.close()
        except (av.error.FFmpegError, OSError) as error:
            raise PublishError(f"{self._clip.target} could not be written: {reason(error)}") from error
        return self._report() | self._company.report()

    def _report(self) -> Report:
        clip, coding = self._clip, self._coding
        found: Report = {"codec": self._codec.encoder, "pixel_format": coding.pixel_format, "span_s": self.span}
        if coding.pixel_format != coding.name:
            found["converted_from"] = clip.pixel_format.name
        if (coding.width, coding.height) != (clip.width, clip.height):
            found["padded_to"] = f"{coding.width}x{coding.height}"
        return found

    def close(self) -> None:
        """Closes what is open; the file that was not finished is its owner's to remove."""
        self._company.close()
        # Closed first: PyAV then leaves out the trailer, which nobody will read. What a full disk did not take either.
        with suppress(OSError):
            self._file.close()


def check(clip: Clip, writer: Writer) -> Report:
    """Reads the partial file's packets back and compares their count and span with what went in.

    Raises:
        PublishError: it cannot be opened, frames are missing, or it is longer or shorter.
    """
    try:
        with open_input(clip.partial) as container:
            stream = next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
            base = stream.time_base or Fraction(1)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            times = [packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None]
    except (av.error.FFmpegError, InputError, StopIteration) as error:
        raise PublishError(f"{clip.target} could not be read back after writing: {reason(error)}") from error
    if len(times) != writer.frames:
        raise PublishError(f"{clip.target} holds {len(times)} pictures after writing, but {writer.frames} went in")
    span = float((max(times) - min(times)) * base) if times else 0.0
    if abs(span - writer.span) > max(0.002, 2 * float(base)):
        raise PublishError(f"{clip.target} lasts {span:.3f} s after writing, but {writer.span:.3f} s went in")
    found: Report = {"frames": writer.frames, "bytes": Path(clip.partial).stat().st_size}
    if aspect != clip.sample_aspect_ratio:
        # AV1 and ProRes have no place for it, and PyAV cannot set Matroska's.
        found["lost_aspect_ratio"] = str(clip.sample_aspect_ratio)
    return found
