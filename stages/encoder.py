"""The encoder: frames into packets, in a container's stream or on its own, with the same settings either way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import av

from pipeline.errors import ConfigError
from pipeline.types import Clip, Frame, Report
from stages.codecs import CODECS, coding_for, frame_rate
from stages.containers import muxer_for, reason
from stages.tags import Config as Tags

_PROGRESSIVE = 1

#: What FFmpeg calls the codec's own idea of how exact a bit rate is; PyAV has it in a container's streams.
_TOLERANCE = 128_000


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
        tags: what the container says about where its pictures come from (filled in by the program); None: nothing.
    """

    codec: str = "h264"
    preset: str = ""
    quality: float | None = None
    threads: int = 0
    pixel_format: str = "auto"
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    tags: Tags | None = None

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ConfigError(f"encode.codec: {self.codec!r} is not one of {', '.join(CODECS)}")
        if self.threads < 0:
            raise ConfigError(f"encode.threads: {self.threads} is negative; 0 chooses by the number of cores")

    def on_this_machine(self) -> Self:
        """With the threads that 0 stands for: what an encoder makes may hang on their number."""
        return replace(self, threads=self.threads or min(16, 2 * len(os.sched_getaffinity(0))))


class Encoding:
    """How one clip is encoded: what its encoders, be they one or many, have in common.

    Attributes:
        muxer: FFmpeg's name for the target's container.
        encoder: FFmpeg's name for the encoder.
    """

    def __init__(self, clip: Clip, config: Config) -> None:
        """Raises ConfigError: the target's container cannot hold the codec, or the encoder lacks the pixel format."""
        self._clip = clip
        self._config = config
        self._codec = CODECS[config.codec]
        self._coding = coding_for(clip, self._codec, config.pixel_format)
        self.muxer = muxer_for(clip.target, config.codec)
        self.encoder = self._codec.encoder

    def add_to(self, out: av.container.OutputContainer) -> av.VideoStream:
        """The video's stream in the target's container; its encoder opens when the header is written."""
        stream = out.add_stream(self.encoder, rate=frame_rate(self._clip), options=self._options())
        assert isinstance(stream, av.VideoStream)
        stream.time_base = self._clip.time_base
        self._set_up(stream.codec_context)
        if self._clip.display_matrix is not None:
            stream.set_display_matrix(self._clip.display_matrix)
        return stream

    def alone(self) -> Encoder:
        """An encoder without a container, opened; what it makes suits the target's.

        Raises:
            ConfigError: it refuses its options.
        """
        context = av.CodecContext.create(self.encoder, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.options = self._options()
        context.framerate = frame_rate(self._clip)
        context.bit_rate, context.bit_rate_tolerance = 0, _TOLERANCE
        # Every container that results can have keeps parameter sets in its header.
        context.flags |= av.codec.context.Flags.global_header
        self._set_up(context)
        try:
            context.open()
        except (av.error.FFmpegError, ValueError) as error:
            raise self.refusal(error) from error
        return Encoder(self, context)

    def frame(self, frame: Frame) -> av.VideoFrame:
        """The frame as the encoder takes it."""
        coded = self._coding.frame(frame.picture)
        coded.pts, coded.time_base, coded.duration = frame.pts, self._clip.time_base, frame.duration
        return coded

    def refusal(self, error: Exception) -> ConfigError:
        """What to say when the encoder will not open."""
        pictures = f"{self._coding.width}x{self._coding.height} {self._coding.pixel_format}"
        return ConfigError(f"{self.encoder} refuses {pictures} with these options: {reason(error)}")

    def report(self) -> Report:
        """What the pictures became."""
        clip, coding = self._clip, self._coding
        found: Report = {"codec": self.encoder, "pixel_format": coding.pixel_format}
        if coding.pixel_format != coding.name:
            found["converted_from"] = clip.pixel_format.name
        if (coding.width, coding.height) != (clip.width, clip.height):
            found["padded_to"] = f"{coding.width}x{coding.height}"
        return found

    def _options(self) -> dict[str, str]:
        found = self._codec.options(self._config.preset, self._config.quality)
        for name, value in self._config.options.items():
            # Lists of an encoder's own parameters add up; in such a list, what comes later counts.
            found[name] = f"{found[name]}:{value}" if name in found and name.endswith("-params") else value
        return found

    def _set_up(self, context: av.VideoCodecContext) -> None:
        clip, coding = self._clip, self._coding
        context.width, context.height, context.pix_fmt = coding.width, coding.height, coding.pixel_format
        context.time_base = clip.time_base
        context.sample_aspect_ratio = clip.sample_aspect_ratio
        context.thread_type = self._codec.thread_type
        context.thread_count = self._config.on_this_machine().threads
        context.flags |= av.codec.context.Flags.frame_duration
        context.color_primaries, context.color_trc = coding.colour.primaries, coding.colour.transfer
        context.colorspace, context.color_range = coding.colour.matrix, coding.colour.range
        if clip.field_order > _PROGRESSIVE:
            context.field_order = clip.field_order
        if tag := self._codec.tags.get(self.muxer):
            context.codec_tag = tag


class Encoder:
    """One open encoder.

    Attributes:
        frames: how many it was given.
    """

    def __init__(self, encoding: Encoding, context: av.VideoCodecContext) -> None:
        self.frames = 0
        self._encoding = encoding
        self._context = context

    @property
    def parameters(self) -> bytes:
        """What a decoder has to know before the first packet: the container's header holds it."""
        return self._context.extradata or b""

    def encode(self, frame: Frame) -> Iterator[av.Packet]:
        """Takes one frame; gives the packets that are ready. The frame is done with when the last has been taken."""
        self.frames += 1
        return iter(self._context.encode(self._encoding.frame(frame)))

    def flush(self) -> Iterator[av.Packet]:
        """The packets that are left, as they come; nothing can be encoded any more."""
        for packet in self._context.encode_lazy(None):
            if self.frames <= 2:
                # x265 never sets the decoding time in a clip as short as this; with no B-frame it is the other.
                packet.dts = packet.pts
            yield packet
