"""Looking through a finished clip outside any engine: its pictures in order, as they are meant to be seen."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.types import Array, Clip, Frame, Job, Pulled
from stages.decode import Decode
from stages.upright import upright


@dataclass(frozen=True, slots=True)
class View:
    """One moment of a clip: planes are the decoder's own and hold until the next is asked for."""

    clip: Clip
    frame: Frame

    @property
    def seconds(self) -> float:
        """Since the clip's zero."""
        return float(self.frame.pts * self.clip.time_base)

    def upright(self, height: int) -> Array:
        """(height, w, 3) uint8 RGB: turned, mirrored and stretched as the container asks, then brought to `height`."""
        return upright(self.clip, self.frame.picture, height)


def views(path: Path) -> Generator[View, None, None]:
    """The clip's moments, in order; its file is closed when the generator is.

    Raises:
        InputError: the clip cannot be opened or read.
    """
    source = str(path.absolute())
    decode = Decode()
    clip = decode.open(Job(0, source, source))
    with closing(decode(clip, Pulled(()))) as frames:
        for frame in frames:
            yield View(clip, frame)
