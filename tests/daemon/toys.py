"""Stages for a daemon that has no time to load models: light, but with a memory; slow or deadly where they are told.

What `Trail` makes of a frame hangs on every frame before it, so a clip that was gone on with wrongly shows.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline import checkpoints
from pipeline.types import Array, Clip, Frame, Frames, Pulled, Report
from stages import encode, finish

#: So many frames before a segment's first does `Trail` have to begin in order to come to it.
LAG = 3


@dataclass(frozen=True)
class Trouble:
    """`what` happens at frame `at` (of the file) of the clip called `clip`; each frame of any clip takes `delay_s`."""

    delay_s: float = 0.0
    clip: str = ""
    at: int = 0
    what: str = ""


class Trail:
    """Draws a trail of all pictures before into each one's luma."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Trouble) -> None:
        self._config = config

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        known: deque[tuple[int, Array]] = deque(maxlen=LAG + 1)
        memory: Array | None = None
        for frame in frames:
            number = clip.first + frame.index
            if memory is None:
                memory = self._begun(clip, frame)
            known.append((number, memory))
            if clip.work and number > clip.kept and number % clip.segment == 0:
                first, then = known[0]
                checkpoints.save_state(clip.work, "trail", number, first, {"memory": then})
            self._misbehave(clip, number)
            luma = frame.picture.planes[0]
            memory = (memory * np.uint16(3) + luma) // np.uint16(4)
            luma[:] = memory
            yield frame
        return {"mean": 0 if memory is None else int(memory.mean())}

    def _begun(self, clip: Clip, frame: Frame) -> Array:
        if not clip.kept:
            return np.zeros(frame.picture.planes[0].shape, np.uint16)
        first, arrays = checkpoints.load_state(clip.work, "trail", clip.kept)
        assert first == clip.first, "it begins where the checkpoint says"
        return arrays["memory"]

    def _misbehave(self, clip: Clip, number: int) -> None:
        time.sleep(self._config.delay_s)
        if (Path(clip.source).name, number) != (self._config.clip, self._config.at):
            return
        match self._config.what:
            case "crash":
                sys.stderr.write("these are my last words\nand this line has no e")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(3600)


@dataclass(frozen=True)
class Slow:
    """Each frame takes `frame_s` longer, and each sync of the disk `sync_s`."""

    encode: encode.Config
    frame_s: float = 0.0
    sync_s: float = 0.0


class SlowEncode(encode.Encode):
    """The real one, on a slow machine."""

    def __init__(self, config: Slow) -> None:
        super().__init__(config.encode)
        self._frame_s = config.frame_s
        slow_disk(config.sync_s)

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        return (yield from super().__call__(clip, Pulled(self._slowly(frames), frames.ready)))

    def _slowly(self, frames: Frames) -> Iterator[Frame]:
        for frame in frames:
            time.sleep(self._frame_s)
            yield frame


class SlowFinish(finish.Finish):
    """The real one, on a slow disk."""

    def __init__(self, config: Slow) -> None:
        super().__init__(finish.Config(config.encode))
        slow_disk(config.sync_s)


def slow_disk(sync_s: float) -> None:
    """Has this process wait for each sync."""
    quick = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(sync_s)
        quick(descriptor)

    if sync_s:
        os.fsync = slow
