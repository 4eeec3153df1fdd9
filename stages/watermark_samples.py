"""Some pictures out of a file, spread over it, in bounded time: what is looked at to find its invisible watermark."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import suppress

import av

from pipeline.errors import InputError
from pipeline.types import Array
from stages.containers import open_input
from stages.decode import duration_s, video_stream
from stages.planes import nearest, view
from stages.reader import Reader
from stages.watermark import luma_of

#: A file of so many seconds at most is gone through; in a longer one, jumps are made.
_SHORT_S = 12.0

#: At each spot so many pictures, every so many-th: their own content differs, at least a little.
_RUN, _APART = 4, 5

#: After so many seconds no further picture is asked for.
_PATIENCE_S = 20.0

#: As in `decode.max_pixels`: width times height of the largest picture that is looked at.
_MOST_PIXELS = 8192 * 8192

#: Frames a second where nobody tells.
_RATE = 25.0


def samples(path: str, frames: int) -> Iterator[tuple[Array, float]]:
    """Luma of up to `frames` pictures as `Finder.look` takes it, and the shape of their samples.

    Raises:
        InputError: the file cannot be opened, has no video, or pictures that are too large.
    """
    container = open_input(path)
    try:
        stream = video_stream(container, path)
        _check(stream.codec_context.width, stream.codec_context.height, path)
        stream.codec_context.options = {**stream.codec_context.options, "max_pixels": str(_MOST_PIXELS)}
        aspect = float(stream.sample_aspect_ratio or 1)
        ends = time.monotonic() + _PATIENCE_S
        for frame in _spread(container, stream, frames):
            _check(frame.width, frame.height, path)
            yield _luma(frame), aspect
            if time.monotonic() > ends:
                return
    finally:
        container.close()


def _check(width: int, height: int, path: str) -> None:
    if width * height > _MOST_PIXELS:
        raise InputError(f"{path} has pictures of {width}x{height}, too large to look for a watermark in")


def _spread(container: av.container.InputContainer, stream: av.VideoStream, frames: int) -> Iterator[av.VideoFrame]:
    """Of a short file every so many-th picture; of a long one, or one of unknown length, some at places all over it."""
    seconds = duration_s(container, stream)
    if seconds is None or seconds <= _SHORT_S or stream.time_base is None:
        rate = min(float(stream.average_rate or _RATE), 120.0)
        step = max(1, int((seconds or _SHORT_S) * rate / frames))
        yield from itertools.islice(Reader(container, stream), 0, step * frames, step)
        return
    spots = max(1, frames // _RUN)
    for spot in range(spots):
        at = (stream.start_time or 0) + int(seconds * (spot + 0.5) / spots / stream.time_base)
        # Where a file cannot be gone through at will, what comes next is as good.
        with suppress(av.error.FFmpegError):
            container.seek(at, stream=stream)
        yield from itertools.islice(Reader(container, stream), 0, _RUN * _APART, _APART)


def _luma(frame: av.VideoFrame) -> Array:
    format = nearest(frame.format.name)
    if format.name != frame.format.name:
        frame = frame.reformat(format=format.name)
    return luma_of(view(frame, format))
