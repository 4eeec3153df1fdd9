"""The small contact sheet of a finished clip: a few moments side by side, as they were above and as they are below."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from pipeline.errors import InputError, PublishError
from pipeline.types import Array, Clip, Frame, Job
from stages.containers import open_input, unwritten
from stages.decode import describe
from stages.moments import Moments
from stages.planes import view
from stages.reader import Damage, ToClip
from stages.viewing import View

#: Moments on a sheet; height of each picture and space around it, px.
_COUNT, _HEIGHT, _GAP = 6, 90, 4
_PAPER = 250
_QUALITY = 85


class Sheet:
    """Collects moments of a clip's result while somebody else decodes it."""

    def __init__(self, clip: Clip, frames: int) -> None:
        self._clip = clip
        self._wanted = frozenset(np.linspace(0, frames - 1, min(_COUNT, frames)).round().astype(int).tolist())
        self._after: list[Array] = []
        self._seconds: list[Fraction] = []

    def take(self, number: int, picture: av.VideoFrame, stream: av.VideoStream) -> None:
        """Looks at picture `number` of the result. Raises InputError where it cannot be shown."""
        if number in self._wanted and picture.pts is not None:
            self._after.append(self._small(picture, stream))
            self._seconds.append(picture.pts * (stream.time_base or Fraction(1)))

    def write(self, target: Path, alive: Callable[[], None]) -> None:
        """Writes the sheet as a JPEG; `alive` is called while the source's moments are looked for.

        Raises:
            InputError: there is nothing to show.
            PublishError: it could not be written.
        """
        if not self._after:
            raise InputError(f"{self._clip.target} has no picture to show")
        done, data = cv2.imencode(
            ".jpg", layout(self._before(alive), self._after)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        )
        if not done:
            raise PublishError(f"{target} could not be written: the sheet is too large for a JPEG")
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            beside.write_bytes(data.tobytes())
            beside.replace(target)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise unwritten(str(target), error) from error

    def _small(self, picture: av.VideoFrame, stream: av.VideoStream) -> Array:
        """(90, w, 3) uint8 RGB, upright."""
        clip = self._clip
        shown = replace(  # not every container keeps what the source says of these two
            describe(Job(clip.id, clip.target, ""), picture, stream),
            display_matrix=clip.display_matrix,
            sample_aspect_ratio=clip.sample_aspect_ratio,
        )
        stored = view(ToClip(shown, Damage())(picture), shown.pixel_format)
        return View(shown, Frame(clip.id, 0, 0, stored)).upright(_HEIGHT)

    def _before(self, alive: Callable[[], None]) -> list[Array | None]:
        """The same moments of the source; None for what could not be had cheaply."""
        try:
            with open_input(self._clip.source) as container:
                stream = container.streams[self._clip.video_stream]
                assert isinstance(stream, av.VideoStream)
                moments = Moments(container, stream, alive)
                found = [moments.at(moment) for moment in self._seconds]
                return [None if one is None else self._small(one, stream) for one in found]
        except (av.error.FFmpegError, OSError, InputError):
            return [None] * len(self._seconds)


def layout(before: Sequence[Array | None], after: Sequence[Array]) -> Array:
    """(H, W, 3) uint8 RGB: the first row above the second; a place without a picture stays empty."""
    width, height = max(one.shape[1] for one in after), after[0].shape[0]
    sheet = np.full((2 * (height + _GAP) + _GAP, len(after) * (width + _GAP) + _GAP, 3), _PAPER, np.uint8)
    for row, pictures in enumerate((before, after)):
        for column, one in enumerate(pictures):
            if one is not None:
                y, x = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
                part = one[:height, :width]
                sheet[y : y + part.shape[0], x : x + part.shape[1]] = part
    return sheet
