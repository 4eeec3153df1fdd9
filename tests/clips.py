"""Builds small test clips with PyAV: any codec, pixel format, timing, rotation, and company of other streams."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.pixels import PIXEL_FORMATS, PixelFormat
from pipeline.types import Array, Clip, Colour, Frame, Picture

ONE = 1 << 16
_LAST = 1 << 30

#: Display matrices by name: what phones write (and two that they should not).
MATRICES: dict[str, tuple[int, ...]] = {
    "90": (0, ONE, 0, -ONE, 0, 0, 0, 0, _LAST),
    "180": (-ONE, 0, 0, 0, -ONE, 0, 0, 0, _LAST),
    "270": (0, -ONE, 0, ONE, 0, 0, 0, 0, _LAST),
    "mirrored": (-ONE, 0, 0, 0, ONE, 0, 0, 0, _LAST),
    "flipped": (ONE, 0, 0, 0, -ONE, 0, 0, 0, _LAST),
    "mirrored 90": (0, ONE, 0, ONE, 0, 0, 0, 0, _LAST),
    "mirrored 270": (0, -ONE, 0, -ONE, 0, 0, 0, 0, _LAST),
}


def picture(pixel_format: PixelFormat, width: int, height: int, index: int = 0) -> Picture:
    """A deterministic picture: slanted gradients that move with `index`, a bright moving box, light texture."""
    planes = []
    for number, (layout, shape) in enumerate(zip(pixel_format.planes, pixel_format.shapes(width, height), strict=True)):
        rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
        value = (rows * (2 + number) + columns * (3 - number) + index * 5 + (rows * 7 + columns * 13) % 5) % 200 + 28
        if layout.components in ("y", "g"):
            left = (index * 3) % max(1, shape[1] - 8)
            value[4:12, left : left + 8] = 235
        scaled = value.astype(np.float64) / 255 * pixel_format.peak
        if len(shape) == 3:
            scaled = np.stack([np.roll(scaled, 3 * k, axis=1) for k in range(shape[2])], axis=-1)
        planes.append((scaled.astype(pixel_format.dtype) << pixel_format.shift).astype(pixel_format.dtype))
    return Picture(pixel_format, width, height, tuple(planes))


def to_av(shown: Picture) -> av.VideoFrame:
    """The picture as an AVFrame, copied row by row."""
    frame = av.VideoFrame(shown.width, shown.height, shown.format.name)
    for plane, samples in zip(frame.planes, shown.planes, strict=True):
        rows = np.ascontiguousarray(samples).view(np.uint8).reshape(samples.shape[0], -1)
        buffer = np.zeros((samples.shape[0], plane.line_size), np.uint8)
        buffer[:, : rows.shape[1]] = rows
        plane.update(buffer.tobytes())
    return frame


def make_clip(
    path: Path,
    *,
    width: int = 64,
    height: int = 48,
    pixel_format: str = "yuv420p",
    codec: str = "libx264",
    frames: int = 12,
    rate: Fraction | int = 30,
    time_base: Fraction | None = None,
    pts: Sequence[int] | None = None,
    display_matrix: Sequence[int] | None = None,
    audio: str | None = None,
    audio_seconds: float | None = None,
    subtitles: str | None = None,
    cover: bool = False,
    attachment: bytes | None = None,
    chapters: Sequence[dict[str, Any]] = (),
    metadata: Mapping[str, str] | None = None,
    sar: Fraction | None = None,
    colour: Colour | None = None,
    options: Mapping[str, str] | None = None,
    pictures: Iterable[Picture] | None = None,
    container: str | None = None,
) -> Path:
    """Writes a clip and returns its path.

    `pts` (in `time_base`) makes it a variable-rate clip; otherwise frames are evenly spaced at `rate`. `audio` and
    `subtitles` name codecs ("aac", "libopus", "pcm_s16le"; "srt", "mov_text"). `pictures` replaces the default ones.
    """
    base = time_base or 1 / Fraction(rate)
    given = list(pictures) if pictures is not None else None
    count = frames if given is None else len(given)
    ticks = list(pts) if pts is not None else [round(i / Fraction(rate) / base) for i in range(count)]
    shown = given or [picture(PIXEL_FORMATS[pixel_format], width, height, i) for i in range(len(ticks))]
    seconds = audio_seconds if audio_seconds is not None else float(ticks[-1] * base + 1 / Fraction(rate))
    extra = {"movie_timescale": str(base.denominator)} if path.suffix in (".mp4", ".mov", ".m4v") else {}
    with av.open(str(path), "w", format=container, container_options=extra) as out:
        out.metadata.update(metadata or {})
        video = out.add_stream(codec, rate=Fraction(rate), options=dict(options or _fast(codec)))
        context = video.codec_context
        context.width, context.height, context.pix_fmt = shown[0].width, shown[0].height, pixel_format
        context.time_base = base
        context.thread_count = 1
        if sar:
            context.sample_aspect_ratio = sar
        if colour:
            context.color_primaries, context.color_trc = colour.primaries, colour.transfer
            context.colorspace, context.color_range = colour.matrix, colour.range
        if display_matrix is not None:
            video.set_display_matrix(display_matrix)
        sound = _add_audio(out, audio) if audio else None
        text = out.add_stream(subtitles) if subtitles else None
        if text is not None:
            _prepare_subtitles(text)
        picture_stream = _add_cover(out) if cover else None
        if attachment is not None:
            out.add_attachment("font.ttf", "application/x-truetype-font", attachment)
        if chapters:
            out.set_chapters(list(chapters))
        out.start_encoding()
        if picture_stream is not None:
            out.mux(_cover_packet(picture_stream))
        if text is not None:
            _write_subtitles(out, text, seconds)
        if sound is not None:
            _write_audio(out, sound, seconds)
        for tick, one in zip(ticks, shown, strict=True):
            frame = to_av(one)
            frame.pts, frame.time_base = tick, base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def _fast(codec: str) -> dict[str, str]:
    presets = {"libx264": "ultrafast", "libx265": "ultrafast", "libsvtav1": "12"}
    found = {"preset": presets[codec]} if codec in presets else {}
    if codec == "libx265":
        found["x265-params"] = "log-level=error"
    return found


def _add_audio(out: av.container.OutputContainer, codec: str) -> Any:
    return out.add_stream(codec, rate=48000, layout="mono")


def _write_audio(out: av.container.OutputContainer, stream: Any, seconds: float) -> None:
    samples = round(seconds * 48000)
    tone = (np.sin(np.arange(samples) * 2 * np.pi * 440 / 48000) * 0.2 * 32767).astype(np.int16)
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=48000)
    fifo = av.AudioFifo()
    whole = av.AudioFrame.from_ndarray(tone.reshape(1, -1), format="s16", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = 48000, 0, Fraction(1, 48000)
    for part in resampler.resample(whole):
        fifo.write(part)
    size = stream.codec_context.frame_size or 1024
    while (chunk := fifo.read(size)) is not None or (chunk := fifo.read(partial=True)) is not None:
        out.mux(stream.encode(chunk))
    out.mux(stream.encode(None))


def _prepare_subtitles(stream: Any) -> None:
    """Text subtitles need an ASS header before their encoder opens."""
    stream.codec_context.subtitle_header = (
        b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize\r\n"
        b"Style: Default,Arial,16\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, "
        b"MarginV, Effect, Text\r\n"
    )


def _write_subtitles(out: av.container.OutputContainer, stream: Any, seconds: float) -> None:
    for number in range(2):
        text = f"line {number}".encode()
        packet = av.Packet(struct.pack(">H", len(text)) + text if stream.codec_context.name == "mov_text" else text)
        packet.stream = stream
        packet.time_base = Fraction(1, 1000)
        packet.pts = packet.dts = round(seconds * 1000 * number / 2)
        packet.duration = round(seconds * 400)
        out.mux(packet)


def _add_cover(out: av.container.OutputContainer) -> Any:
    stream = out.add_stream("mjpeg", rate=1)
    stream.codec_context.width, stream.codec_context.height = 16, 16
    stream.codec_context.pix_fmt = "yuvj420p"
    stream.codec_context.time_base = Fraction(1, 90000)
    stream.disposition = av.stream.Disposition.attached_pic
    return stream


def _cover_packet(stream: Any) -> av.Packet:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mjpeg") as jpeg:
        still = jpeg.add_stream("mjpeg", rate=1)
        still.codec_context.width, still.codec_context.height = 16, 16
        still.codec_context.pix_fmt = "yuvj420p"
        frame = to_av(picture(PIXEL_FORMATS["yuvj420p"], 16, 16))
        jpeg.mux(still.encode(frame))
        jpeg.mux(still.encode(None))
    packet = av.Packet(buffer.getvalue())
    packet.stream = stream
    packet.pts = packet.dts = 0
    packet.time_base = Fraction(1, 90000)
    packet.is_keyframe = True
    return packet


def owned(frame: Frame) -> Frame:
    """The frame with writable, tightly packed planes of its own, as the engine's ring gives to stages."""
    planes = tuple(np.array(plane, order="C") for plane in frame.picture.planes)
    own = Picture(frame.picture.format, frame.picture.width, frame.picture.height, planes)
    return frame.with_(picture=own)


def frames_of(clip: Clip, pictures: Iterable[Picture], pts: Sequence[int] | None = None) -> list[Frame]:
    """Frames for a clip out of pictures, one tick of the clip's rate apart unless `pts` says otherwise."""
    step = (1 / clip.rate / clip.time_base) if clip.rate else Fraction(1)
    return [Frame(clip.id, i, pts[i] if pts is not None else round(i * step), one) for i, one in enumerate(pictures)]


def decoded(path: Path) -> list[tuple[int, list[Array]]]:
    """Every frame of the first video stream, by PyAV alone: (pts, planes as uint8 rows)."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            layout = PIXEL_FORMATS[frame.format.name]
            rows = []
            for plane, shape in zip(frame.planes, layout.shapes(frame.width, frame.height), strict=True):
                raw = np.frombuffer(plane, np.uint8).reshape(shape[0], plane.line_size)
                rows.append(raw[:, : int(np.prod(shape[1:])) * layout.dtype.itemsize].copy())
            found.append((int(frame.pts or 0), rows))
    return found


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """(presentation time in s, payload) of every packet of the streams of one kind: "audio", "subtitle", "video"."""
    found = []
    with av.open(str(path)) as container:
        streams = [s for s in container.streams if s.type == kind]
        for packet in container.demux(streams) if streams else ():
            if packet.size:
                found.append(((packet.pts or 0) * packet.time_base, bytes(packet)))
    return found
