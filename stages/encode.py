"""Encode: frames into a file beside the target, with everything else the source had.

Timestamps, rotation, aspect ratio and colour tags are the source's; sound, subtitles and the rest are copied packet by
packet (`streams.py`). The partial file is checked before this stage says that it is done, and removed if anything fails.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import av

from pipeline.errors import ConfigError, PublishError
from pipeline.publish import discard
from pipeline.types import Clip, Frame, Frames, Report
from stages.codecs import CODECS, Coding, coding_for
from stages.containers import muxer_for, muxer_options, reason
from stages.planes import copied, wrap
from stages.streams import Company


@dataclass(frozen=True, slots=True)
class Config:
    """How the result is coded.

    Attributes:
        codec: h264, hevc, av1, prores or ffv1 (lossless).
        preset: the encoder's own word for speed against size; empty takes ours for the codec.
        quality: the encoder's constant-quality figure (x264 and x265 crf, SVT-AV1 crf, ProRes qscale), smaller is
            better; None takes ours for the codec. FFV1 has none.
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
        # SVT-AV1 reads its log level here and nowhere else; 1 is errors only.
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
                writer.finish()
            finally:
                writer.close()
            report = writer.report() | check(clip, writer.frames)
            whole = True
            return report
        finally:
            if not whole:
                discard(clip.partial)


class Writer:
    """One clip's output: the container, the encoder, and the streams that travel along."""

    def __init__(self, clip: Clip, config: Config) -> None:
        self.frames = 0
        self._clip = clip
        self._coding = coding_for(clip, config.codec, config.pixel_format)
        muxer = muxer_for(clip.target, config.codec)
        options = muxer_options(muxer, clip.time_base.denominator, config.container_options)
        self._out = av.open(clip.partial, "w", format=muxer, container_options=options)
        self._company: Company | None = None
        self._done = False
        try:
            self._stream = self._add_video(config)
            self._company = Company(clip, self._out)
            self._company.join(clip)
            self._start()
        except BaseException:
            self.close()
            raise

    def _add_video(self, config: Config) -> av.VideoStream:
        clip, coding = self._clip, self._coding
        rate = clip.rate or min(Fraction(1000), 1 / clip.time_base)
        options = coding.options(config.preset, config.quality) | dict(config.options)
        stream = self._out.add_stream(coding.encoder, rate=rate, options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = clip.width, clip.height, coding.pixel_format
        context.time_base = stream.time_base = clip.time_base
        context.sample_aspect_ratio = clip.sample_aspect_ratio
        context.thread_count = config.threads or min(16, 2 * (os.cpu_count() or 1))
        context.flags |= av.codec.context.Flags.frame_duration
        colour = coding.colour
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        context.colorspace, context.color_range = colour.matrix, colour.range
        if clip.display_matrix is not None:
            stream.set_display_matrix(clip.display_matrix)
        return stream

    def _start(self) -> None:
        try:
            self._out.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            name = self._coding.encoder
            raise ConfigError(
                f"{name} refuses {self._clip.width}x{self._clip.height} {self._coding.pixel_format} with the options of "
                f"encode: {reason(error)}"
            ) from error

    def write(self, frame: Frame) -> None:
        """Hands one frame to the encoder and writes what comes out."""
        wrapped = self._av_frame(frame)
        wrapped.pts, wrapped.time_base = frame.pts, self._clip.time_base
        wrapped.duration = frame.duration
        self._mux(wrapped)
        self.frames += 1

    def _av_frame(self, frame: Frame) -> av.VideoFrame:
        coding = self._coding
        if coding.convert is not None:
            return coding.convert(copied(frame.picture, coding.name))
        if coding.holds_frames:
            return copied(frame.picture, coding.name)
        return wrap(frame.picture, coding.name)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                if self._company is not None and packet.dts is not None:
                    self._company.advance(packet.dts * packet.time_base)
                self._out.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise PublishError(f"{self._clip.target} could not be written: {reason(error)}") from error

    def finish(self) -> None:
        """Flushes the encoder, writes the rest of the other streams and the container's end."""
        self._mux(None)
        try:
            if self._company is not None:
                self._company.advance(None)
            self._out.close()
        except (av.error.FFmpegError, OSError) as error:
            raise PublishError(f"{self._clip.target} could not be written: {reason(error)}") from error
        self._done = True

    def close(self) -> None:
        """Closes everything; a file that was not finished stays as it is, for its owner to remove."""
        if self._company is not None:
            self._company.close()
        if not self._done:
            abandon(self._out)

    def report(self) -> Report:
        """What was written; complete after `close`."""
        company = self._company
        found: Report = {"codec": self._coding.encoder, "pixel_format": self._coding.pixel_format}
        if company is not None and company.copied:
            found["copied"] = ", ".join(company.copied)
        if company is not None and company.left_out:
            found["left_out"] = ", ".join(company.left_out)
        return found


def abandon(out: av.container.OutputContainer) -> None:
    """Closes a container whose content no longer matters: what its trailer cannot say is not an error any more."""
    try:
        out.close()
    except (av.error.FFmpegError, OSError, ValueError):
        return


def check(clip: Clip, frames: int) -> Report:
    """Reads the partial file's packets and compares their count with the frames that went in.

    Raises:
        PublishError: it cannot be opened, or frames are missing.
    """
    try:
        size = os.stat(clip.partial).st_size
        with av.open(clip.partial, container_options={"protocol_whitelist": "file"}) as container:
            stream = container.streams.video[0]
            packets = sum(packet.size > 0 for packet in container.demux(stream))
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise PublishError(f"{clip.target} could not be read back after writing: {reason(error)}") from error
    if packets != frames:
        raise PublishError(f"{clip.target} holds {packets} pictures after writing, but {frames} went in")
    return {"frames": frames, "bytes": size}


__all__ = ["Coding", "Config", "Encode", "Writer", "check"]
