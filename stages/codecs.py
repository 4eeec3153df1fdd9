"""The codecs that results can have: encoders, their settings, and what becomes of a clip's pixels and colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import av

from pipeline.errors import ConfigError
from pipeline.pixels import PixelFormat
from pipeline.types import Clip, Colour

Convert = Callable[[av.VideoFrame], av.VideoFrame]

_BT709 = 1
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True, slots=True)
class Codec:
    """One encoder and our settings for it.

    Attributes:
        encoder: FFmpeg's name for it.
        preset_option: what its speed setting is called, empty where it has none; `preset` our value.
        quality_option: what its constant quality is called; `quality` our value.
        fixed: options that always go with it.
        holds_frames: it works on frames after it has said that it took them, so they need buffers of their own.
    """

    encoder: str
    preset_option: str = ""
    preset: str = ""
    quality_option: str = ""
    quality: float = 0.0
    fixed: dict[str, str] = field(default_factory=dict)
    holds_frames: bool = False


CODECS: dict[str, Codec] = {
    "h264": Codec("libx264", "preset", "veryfast", "crf", 18.0),
    "hevc": Codec("libx265", "preset", "fast", "crf", 20.0, {"x265-params": "log-level=error", "tag": "hvc1"}),
    "av1": Codec("libsvtav1", "preset", "8", "crf", 28.0),
    "prores": Codec("prores_ks", holds_frames=True),
    "ffv1": Codec("ffv1", fixed={"level": "3", "slicecrc": "1", "g": "1"}),
}


@dataclass(frozen=True, slots=True)
class Coding:
    """How one clip is coded: the encoder, the pixel format it gets, the colour tags, and how pictures get there.

    `name` is what the picture's planes are called when wrapped; `convert` is None where they are coded as they are.
    """

    codec: Codec
    pixel_format: str
    name: str
    colour: Colour
    convert: Convert | None = None

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return self.codec.encoder

    @property
    def holds_frames(self) -> bool:
        """As `Codec.holds_frames`."""
        return self.codec.holds_frames

    def options(self, preset: str, quality: float | None) -> dict[str, str]:
        """The encoder's options for these settings."""
        codec = self.codec
        found = {k: v for k, v in codec.fixed.items() if k != "tag"}
        if codec.preset_option:
            found[codec.preset_option] = preset or codec.preset
        if codec.quality_option:
            found[codec.quality_option] = f"{codec.quality if quality is None else quality:g}"
        return found


def coding_for(clip: Clip, codec: str, wanted: str) -> Coding:
    """Decides how the clip's pictures are coded; `wanted` is a pixel format or "auto".

    Raises:
        ConfigError: the encoder has no such pixel format.
    """
    known = CODECS[codec]
    offered = [one.name for one in av.codec.Codec(known.encoder, "w").video_formats or []]
    name, colour = _plain(clip.pixel_format, clip.colour)
    if wanted != "auto" and wanted not in offered:
        raise ConfigError(f"encode.pixel_format: {known.encoder} cannot code {wanted}; it takes {', '.join(offered)}")
    target = _choose(clip.pixel_format, name, offered) if wanted == "auto" else wanted
    if target == name:
        return Coding(known, target, name, colour)
    return _converting(clip, known, name, target, colour)


def _plain(pixel_format: PixelFormat, colour: Colour) -> tuple[str, Colour]:
    """yuvj420p and its kin are the plain formats with a full-range tag."""
    if pixel_format.name.startswith("yuvj"):
        return pixel_format.name.replace("yuvj", "yuv"), replace(colour, range=_FULL)
    return pixel_format.name, colour


def _choose(own: PixelFormat, name: str, offered: list[str]) -> str:
    if name in offered:
        return name
    usable = [n for n in offered if not av.VideoFormat(n).is_rgb] if own.model == "rgb" else offered
    if own.model == "rgb" and own.depth <= 8 and "yuv420p" in offered:
        # 4:4:4 would be nearer, but hardly any player shows it.
        return "yuv420p"
    best, _ = av.codec.codec.find_best_pix_fmt_of_list(usable, name)
    return best.name if best is not None else offered[0]


def _converting(clip: Clip, known: Codec, name: str, target: str, colour: Colour) -> Coding:
    to_rgb = av.VideoFormat(target).is_rgb
    if clip.pixel_format.model == "rgb" and not to_rgb:
        colour = Colour(colour.primaries, colour.transfer, _BT709, _LIMITED, 0)
    reformatter = av.video.reformatter.VideoReformatter()
    convert = partial(_reformat, reformatter, clip, target, colour)
    return Coding(known, target, name, colour, convert)


def _reformat(
    reformatter: av.video.reformatter.VideoReformatter, clip: Clip, target: str, colour: Colour, frame: av.VideoFrame
) -> av.VideoFrame:
    matrix = colour.matrix if colour.matrix not in (0, 2) else (_BT709 if clip.height >= 720 else 5)
    full = colour.range == _FULL
    return reformatter.reformat(
        frame,
        clip.width,
        clip.height,
        target,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=_FULL if full or clip.pixel_format.model == "rgb" else _LIMITED,
        dst_color_range=_FULL if full else _LIMITED,
    )
