"""The codecs that results can have: encoders, our settings for them, and what becomes of a clip's pixels and tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.errors import ConfigError
from pipeline.pixels import PIXEL_FORMATS, PixelFormat
from pipeline.types import Clip, Colour, Picture
from stages.planes import copied, has_alpha, padded, view, wrap

_UNKNOWN, _BT709, _BT601 = 2, 1, 5
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True, slots=True)
class Codec:
    """One encoder and our settings for it.

    Attributes:
        encoder: FFmpeg's name for it.
        preset_option: what its speed setting is called, empty where it has none; `preset` our value.
        quality_option: what its constant quality is called, empty where it has none; `quality` our value.
        fixed: options that always go with it.
        steady: gives further ones, without which the same pictures need not give the same bytes on this machine.
        formats: pixel formats to offer where the encoder itself lists none.
        tags: four-letter code by muxer, where FFmpeg's own choice plays in fewer places.
        even: pictures with halved chroma must have even sides.
        rgb: it may code RGB as it is; a result that players cannot show helps nobody, so the others get 4:2:0.
        alpha: likewise for transparency.
        limited: files cannot say that they are full range, so samples are brought to the limited one.
        thread_type: of FFmpeg's kinds of threads. PyAV's own choice, slices, costs x264 a seventh more bytes. Encoders
            of FFmpeg's own that had one thread a frame would go on reading pictures after they have been let go.
    """

    encoder: str
    preset_option: str = ""
    preset: str = ""
    quality_option: str = ""
    quality: float = 0.0
    fixed: Mapping[str, str] = field(default_factory=dict)
    steady: Callable[[], Mapping[str, str]] = dict
    formats: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    even: bool = False
    rgb: bool = False
    alpha: bool = False
    limited: bool = False
    thread_type: str = "AUTO"

    def options(self, preset: str, quality: float | None) -> dict[str, str]:
        """The encoder's options for these settings; empty and None take ours."""
        found = {**self.fixed, **self.steady()}
        if self.preset_option:
            found[self.preset_option] = preset or self.preset
        if self.quality_option:
            found[self.quality_option] = f"{self.quality if quality is None else quality:g}"
        return found

    def pixel_formats(self) -> list[str]:
        """What the encoder takes, the plain names of FFmpeg only (yuv420p, not yuvj420p)."""
        if self.formats:
            return list(self.formats)
        offered = [one.name for one in av.codec.Codec(self.encoder, "w").video_formats or []]
        return [name for name in offered if not name.startswith("yuvj")]


def _without_avx512() -> dict[str, str]:
    """Keeps x264 from AVX-512: its macroblock tree then reads memory that nobody has written, where a row of
    macroblocks does not fill a register, and what comes out differs from run to run. It is no slower for that.
    """
    try:
        with Path("/proc/cpuinfo").open() as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return {}
    if not {"avx512f", "avx2", "fma", "bmi1", "bmi2", "abm"} <= set(flags):
        return {}
    # x264 can only be told what to use, not what to leave. Every processor with AVX-512 has all of these.
    return {"x264-params": "asm=MMX2,SSE2,SSE2Fast,LZCNT,SSE3,SSSE3,SSE4.2,AVX,FMA3,BMI1,BMI2,AVX2"}


CODECS: dict[str, Codec] = {
    "h264": Codec("libx264", "preset", "veryfast", "crf", 18.0, steady=_without_avx512, even=True),
    "hevc": Codec(
        *("libx265", "preset", "fast", "crf", 20.0),
        fixed={"x265-params": "log-level=error"},
        tags={"mp4": "hvc1", "mov": "hvc1"},
        even=True,
    ),
    "av1": Codec("libsvtav1", "preset", "8", "crf", 28.0, even=True),
    "prores": Codec("prores_ks", fixed={"vendor": "apl0"}, alpha=True, limited=True, thread_type="SLICE"),
    "ffv1": Codec("ffv1", fixed={"level": "3", "slicecrc": "1"}, rgb=True, alpha=True, thread_type="SLICE"),
}


@dataclass(frozen=True, slots=True)
class Coding:
    """How one clip's pictures are coded.

    Attributes:
        codec: the encoder.
        pixel_format: what it is given.
        width, height: px that it is given; larger than the clip's where it needs even sides.
        colour: the tags of what it is given.
        name: what the clip's own planes are called in FFmpeg.
        full_range: whether the clip's own samples are full range.
        reformatter: converts where `pixel_format` is not `name`.
    """

    codec: Codec
    pixel_format: str
    width: int
    height: int
    colour: Colour
    name: str
    full_range: bool = False
    reformatter: VideoReformatter = field(default_factory=VideoReformatter, repr=False, compare=False)

    def frame(self, picture: Picture) -> av.VideoFrame:
        """The picture as the encoder takes it: in place where that is safe, else copied or converted."""
        grown = (self.width, self.height) != (picture.width, picture.height)
        if self.pixel_format != self.name:
            converted = self._converted(copied(picture, self.name))
            if not grown:
                return converted
            picture = view(converted, PIXEL_FORMATS[self.pixel_format])
        if grown:
            return padded(picture, self.width, self.height, self.pixel_format)
        return wrap(picture, self.name)

    def _converted(self, frame: av.VideoFrame) -> av.VideoFrame:
        matrix = _sws_matrix(self.colour.matrix, frame.height)
        levels = _FULL if self.full_range else _LIMITED
        return self.reformatter.reformat(
            frame,
            format=self.pixel_format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            src_color_range=_FULL if frame.format.is_rgb else levels,
            dst_color_range=_FULL if self.colour.range == _FULL else _LIMITED,
            threads=1,
        )


def coding_for(clip: Clip, codec: Codec, wanted: str) -> Coding:
    """Decides how the clip's pictures are coded; `wanted` is a pixel format of FFmpeg's or "auto".

    Raises:
        ConfigError: the encoder has no such pixel format.
    """
    offered = codec.pixel_formats()
    name, colour = _plain(clip.pixel_format, clip.colour)
    if wanted != "auto" and wanted not in offered:
        raise ConfigError(f"encode.pixel_format: {codec.encoder} cannot code {wanted}; it takes {', '.join(offered)}")
    target = _nearest(name, clip.pixel_format, codec, offered) if wanted == "auto" else wanted
    if clip.pixel_format.model == "rgb" and not av.VideoFormat(target).is_rgb:
        colour = Colour(colour.primaries, colour.transfer, _BT709, _LIMITED)
    full = colour.range == _FULL
    if codec.limited:
        colour = replace(colour, range=_LIMITED)
    width, height = _even(clip.width, clip.height, target) if codec.even else (clip.width, clip.height)
    return Coding(codec, target, width, height, colour, name, full)


def _plain(pixel_format: PixelFormat, colour: Colour) -> tuple[str, Colour]:
    """yuvj420p and its kin are the plain formats with a full-range tag."""
    if pixel_format.name.startswith("yuvj"):
        return pixel_format.name.replace("yuvj", "yuv"), replace(colour, range=_FULL)
    return pixel_format.name, colour


def _nearest(name: str, own: PixelFormat, codec: Codec, offered: list[str]) -> str:
    """Itself where the encoder has it, else what loses least and keeps the depth where anything does."""
    usable = [n for n in offered if (codec.alpha or not has_alpha(n)) and (codec.rgb or not av.VideoFormat(n).is_rgb)]
    if name in usable:
        return name
    if own.model == "rgb" and not codec.rgb:
        common = "yuv420p" if own.depth <= 8 else "yuv420p10le"
        if common in usable:
            return common
    best, _ = av.codec.codec.find_best_pix_fmt_of_list(usable, name, has_alpha=has_alpha(name))
    return best.name if best is not None else usable[0]


def _even(width: int, height: int, pixel_format: str) -> tuple[int, int]:
    """The size rounded up where chroma is halved: one column or row more loses nothing, one less would."""
    known = av.VideoFormat(pixel_format, 16, 16)
    across = 16 // known.chroma_width(16)
    down = 16 // known.chroma_height(16)
    return -(-width // across) * across, -(-height // down) * down


def _sws_matrix(matrix: int, height: int) -> int:
    """swscale's number for a matrix of ISO/IEC 23091-2; untagged pictures by their height, as players guess."""
    if matrix in (0, _UNKNOWN):
        return _BT709 if height >= 720 else _BT601
    return {6: _BT601, 10: 9}.get(matrix, matrix)


def frame_rate(clip: Clip) -> Fraction:
    """Frames a second for the encoder's header and rate control: the clip's, or a guess where it has none."""
    return clip.rate or min(Fraction(60), 1 / clip.time_base)
