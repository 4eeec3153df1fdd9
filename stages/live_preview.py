"""The frame being made, before and after, for whoever looks at the daemon's page; made only while somebody does.

The page touches one file (`pipeline.checkpoints.WATCHED`) as long as it is open. With nobody there a frame costs one
look at the clock, and a second one look at that file.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import cv2
import numpy as np

from pipeline.checkpoints import PREVIEW, WATCHED
from pipeline.types import Array, Clip, Picture
from stages.upright import shown_size, upright

log = logging.getLogger(__name__)

#: Somebody looks if the file was touched within so many seconds.
_LOOKS_S = 10.0
#: Each of the two pictures is at most so large, px.
_HIGHEST, _WIDEST = 480, 1280
_JPEG_QUALITY = 85


class LivePreview:
    """One clip's preview: a JPEG in its work folder, before on the left, after on the right, replaced as a whole."""

    def __init__(self, work: str, every_s: float = 1.0) -> None:
        """`work` is the clip's work folder; at most one picture is made in `every_s` seconds."""
        self._target = Path(work) / PREVIEW
        self._watched = Path(work).parent / WATCHED
        self._every_s = every_s
        self._due_s = -float("inf")
        self._failed = False

    def before(self, clip: Clip, picture: Picture) -> Array | None:
        """The picture, (h, w, 3) uint8 RGB, if it is time for a preview and somebody looks; call it before editing."""
        now = time.monotonic()
        if now < self._due_s:
            return None
        self._due_s = now + self._every_s
        return upright(clip, picture, _height(clip)) if self._is_watched() else None

    def after(self, clip: Clip, picture: Picture, before: Array) -> None:
        """Writes the preview of a picture that has been edited since `before`; that it cannot fails nothing."""
        both = np.hstack((before, upright(clip, picture, before.shape[0])))
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(both, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        assert done, "JPEG takes every 8-bit RGB picture of this size"
        try:
            self._write(data.tobytes())
        except OSError as error:
            if not self._failed:
                log.warning("%s could not be written, so there is no preview: %s", self._target, error.strerror)
            self._failed = True

    def _is_watched(self) -> bool:
        try:
            return abs(time.time() - self._watched.stat().st_mtime) <= _LOOKS_S
        except OSError:
            return False

    def _write(self, data: bytes) -> None:
        beside = self._target.with_name(f".{PREVIEW}.{os.getpid()}.part")
        try:
            beside.write_bytes(data)
            beside.replace(self._target)
        finally:
            beside.unlink(missing_ok=True)


def _height(clip: Clip) -> int:
    """Of each picture: its own, unless it is too large."""
    width, height = shown_size(clip)
    return max(1, min(height, _HIGHEST, height * _WIDEST // width))
