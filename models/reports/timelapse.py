"""The same faces with each save, and in the end a video of them: how a model learns, in a minute."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from models import pictures
from models.durable import make_folder, replacing
from models.reports.dated import called, named, thin_out
from pipeline.errors import InputError, WeightsError

FOLDER, FILE = "timelapse", "timelapse.mp4"

#: Pictures that are kept, at most; spread over the whole training.
KEPT = 600

_SUFFIX = ".jpg"
_SIDE = 960  # px of a picture's longer side, at most
_STRIP = 32  # px above the pictures, for the number of steps
_HOLD_S = 2.0  # for which the last picture stays
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers, of colour space, primaries and curve, and of the range

Picture = NDArray[np.uint8]


def add(folder: Path, iteration: int, picture: Picture) -> None:
    """Keeps an (H, W, 3) uint8 RGB picture of the model in `folder` at that iteration, scaled down if it is large.

    Pictures of later iterations go: the model they show is no more. Raises WeightsError.
    """
    side = max(picture.shape[:2])
    if side > _SIDE:
        width, height = (max(1, round(px * _SIDE / side)) for px in (picture.shape[1], picture.shape[0]))
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    done, content = cv2.imencode(_SUFFIX, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done, "JPEG takes any 8-bit picture"
    into = folder / FOLDER
    try:
        make_folder(into)
        with replacing(into / called(iteration, _SUFFIX)) as out:
            out.write(content.tobytes())
        thin_out(into, _SUFFIX, iteration, KEPT)
    except OSError as error:
        raise WeightsError(f"the time-lapse {into} cannot be written: {error}") from error


def film(folder: Path, out: Path, fps: int = 12) -> Path | None:
    """Makes an H.264 video of the pictures of the model in `folder`, `fps` a second; pictures that are damaged are
    left out. Gives `out`, or None where there are no pictures. Raises WeightsError.
    """
    try:
        files = named(folder / FOLDER, _SUFFIX) if (folder / FOLDER).is_dir() else []
        size = _size(files)
        if size is None:
            return None
        with replacing(out) as file, av.open(file, "w", format="mp4") as container:
            stream = _stream(container, size, fps)
            _encode(container, stream, files, size)
    except (OSError, av.FFmpegError) as error:
        raise WeightsError(f"the time-lapse {out} cannot be made: {error}") from error
    return out


def _size(files: Sequence[Path]) -> tuple[int, int] | None:
    """The newest picture's, width and height in px."""
    for file in reversed(files):
        if (picture := _read(file)) is not None:
            return picture.shape[1], picture.shape[0]
    return None


def _read(file: Path) -> Picture | None:
    """The picture; None where it is damaged, or larger than those that are kept here."""
    try:
        picture = pictures.read(file)
    except InputError:
        return None
    return None if max(picture.shape) > _SIDE else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _stream(container: av.container.OutputContainer, size: tuple[int, int], fps: int) -> VideoStream:
    stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "20"})
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = (px + px % 2 for px in (size[0], size[1] + _STRIP))
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = Fraction(1, fps)
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    return stream


def _encode(
    container: av.container.OutputContainer, stream: VideoStream, files: Sequence[Path], size: tuple[int, int]
) -> None:
    rate = stream.codec_context.time_base.denominator
    shown: av.VideoFrame | None = None
    index = 0
    for file in files:
        if (picture := _read(file)) is None:
            continue
        page = _page(picture, int(file.stem), size, (stream.width, stream.height))
        shown = av.VideoFrame.from_ndarray(page, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        container.mux(stream.encode(_at(shown, index, rate)))
        index += 1
    for _ in range(round(_HOLD_S * rate) if shown is not None else 0):
        assert shown is not None
        container.mux(stream.encode(_at(shown, index, rate)))
        index += 1
    container.mux(stream.encode(None))


def _at(frame: av.VideoFrame, index: int, rate: int) -> av.VideoFrame:
    frame.pts, frame.time_base = index, Fraction(1, rate)
    return frame


def _page(picture: Picture, iteration: int, size: tuple[int, int], page: tuple[int, int]) -> Picture:
    """The picture, fitted into `size`, under the number of steps; (height, width, 3) uint8 RGB of `page` px."""
    shown = np.zeros((page[1], page[0], 3), np.uint8)
    text = f"{iteration:,} steps".replace(",", " ")
    cv2.putText(shown, text, (8, _STRIP - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (235, 235, 235), 1, cv2.LINE_AA)
    height, width = picture.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    if scale != 1:
        fitted = max(1, round(width * scale)), max(1, round(height * scale))
        picture = np.asarray(cv2.resize(picture, fitted, interpolation=cv2.INTER_AREA), np.uint8)
    shown[_STRIP : _STRIP + picture.shape[0], : picture.shape[1]] = picture
    return shown
