"""Stages that only a benchmark needs: faces that are known, frames passed on, an encoder that dawdles."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.types import Array, Clip, Face, Frame, Frames, Report
from stages import encode

_LANDMARKS = Path(__file__).with_name("landmarks.txt")


class Pass:
    """Passes frames on."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = True

    def __init__(self, config: None = None) -> None:
        """Takes no settings."""

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        yield from frames
        return {}


@dataclass(frozen=True, slots=True)
class KnownFacesConfig:
    """How many faces each frame has, and how high they are as a share of the picture's height."""

    count: int = 1
    height: float = 0.37  # 400 px of 1080


class KnownFaces:
    """Stands where `detect` stands, with landmarks that are known: faces that sway, nod and come nearer."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"landmarks"})
    stateless: ClassVar[bool] = True

    def __init__(self, config: KnownFacesConfig) -> None:
        self._config = config
        self._mesh = mesh()

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        for frame in frames:
            faces = tuple(self._face(clip, frame, place) for place in range(self._config.count))
            yield frame.with_(faces=faces)
        return {}

    def _face(self, clip: Clip, frame: Frame, place: int) -> Face:
        landmarks = frame.allocate((478, 2), np.float32)
        landmarks[:] = face_at(self._mesh, frame.index, place, self._config, clip.width, clip.height)
        x0, y0 = landmarks.min(axis=0)
        x1, y1 = landmarks.max(axis=0)
        return Face((float(x0), float(y0), float(x1), float(y1)), 0.99, landmarks)


def mesh() -> Array:
    """(478, 2): MediaPipe's face mesh of an upright face about 0, of height 1."""
    found: Array = np.loadtxt(_LANDMARKS)
    return found


def face_at(mesh: Array, index: int, place: int, config: KnownFacesConfig, width: int, height: int) -> Array:
    """(478, 2) px: where the face number `place` is in frame `index`."""
    turn = 0.2 * np.sin(index / 17 + place)
    size = config.height * height * (1 + 0.06 * np.sin(index / 29))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * size
    x = width * ((place + 0.5) / config.count + 0.06 * np.sin(index / 23 + place))
    y = height * (0.5 + 0.03 * np.sin(index / 11 + place))
    moved: Array = mesh @ rotation.T + (x, y)
    return moved


@dataclass(frozen=True, slots=True)
class SlowEncodeConfig:
    """The encoder's own settings, and how many times its own time each frame takes."""

    encode: encode.Config
    slowed: float = 20.0


class SlowEncode(encode.Encode):
    """Encode, made slower: after each frame it sleeps for as long as it takes to be `slowed` times as slow."""

    def __init__(self, config: SlowEncodeConfig) -> None:
        super().__init__(config.encode)
        self._factor = config.slowed - 1

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        waiting = _Timed(frames)
        work = super().__call__(clip, waiting)
        while True:
            begun, waited = time.monotonic(), waiting.waited_s
            try:
                frame = next(work)
            except StopIteration as stop:
                report: Report = stop.value or {}
                return report
            own = time.monotonic() - begun - (waiting.waited_s - waited)
            time.sleep(self._factor * own)
            yield frame


class _Timed:
    """Frames, and how long they were waited for."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.waited_s = 0.0
        self.ready = frames.ready

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> Frame:
        begun = time.monotonic()
        try:
            return next(self._frames)
        finally:
            self.waited_s += time.monotonic() - begun
