"""Align: follows each face through the clip and cuts out the upright crop that the model sees."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pipeline.errors import ConfigError
from pipeline.types import Array, Clip, Face, Frame, Frames, Report
from stages.crop import cut_out
from stages.gaps import GapFiller
from stages.geometry import apply, compose, crop_matrix, stored_to_upright
from stages.memory import Bookmarks, Memory
from stages.steady import Steady
from stages.tracker import CutFinder, Tracker


@dataclass(frozen=True, slots=True)
class Config:
    """Crops and tracks.

    Attributes:
        size: the crop's side in px: the model's input size.
        coverage: how much the crop shows; 1 is hair line to chin (of a head crop: the head with its hair), c is c
            times as wide and high.
        crop: what it is centred on, the face or the whole head.
        start_score: how sure the detector must be of a face before it is followed, 0..1.
        memory: for how many frames a face may be missed and still keep its number.
        hold_misses: misses up to so many frames are bridged by interpolation; so many frames are held back at most
            while a face is missing (each keeps its place in the ring), none while all is well. 0 bridges nothing.
        max_wait_ms: for how long held frames wait for the next one, so that a slow live source is not held up;
            infinity: for ever, so that what comes of a file does not hang on time.
        smoothing: how far the crop's small tremors are damped, 0 (not at all) to 1; movement is followed at once.
    """

    size: int = 64
    coverage: float = 1.0
    crop: Literal["face", "head"] = "face"
    start_score: float = 0.5
    memory: int = 15
    hold_misses: int = 3
    max_wait_ms: float = 500.0
    smoothing: float = 0.5

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 2048:
            raise ConfigError(f"align.size must be from 16 to 2048 px, not {self.size}")
        if not 0.25 <= self.coverage <= 8:
            raise ConfigError(f"align.coverage must be from 0.25 to 8, not {self.coverage}")
        if not 0 <= self.start_score <= 1 or not 0 <= self.smoothing < 1:
            raise ConfigError("align.start_score must be from 0 to 1, and align.smoothing from 0 to below 1")
        if self.memory < 0 or not 0 <= self.hold_misses <= 30 or not self.max_wait_ms >= 0:
            raise ConfigError("align.memory and align.max_wait_ms cannot be negative; align.hold_misses is 0 to 30")


class Align:
    """Fills `track`, `frame_to_crop` and `aligned`; orders faces by track, drops those too faint to be followed.

    Reports how many faces were aligned, in how many tracks, how many of them bridge a miss, how many frames had none,
    and how many cuts there were. Of a clip that an earlier run began, it knows again what that run knew, and reports
    on all of it.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"landmarks"})
    gives: ClassVar[frozenset[str]] = frozenset({"track", "frame_to_crop", "aligned"})
    stateless: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """Raises PublishError where what is known cannot be saved, ResumeError where it is not there to go on with."""
        size = (clip.width, clip.height)
        to_upright, _ = stored_to_upright(clip.display_matrix, *size, clip.sample_aspect_ratio)
        memory = self._memory()
        bookmarks = Bookmarks(clip, memory)
        for frame, is_cut in self._followed(frames, memory, bookmarks):
            if is_cut:
                memory.cuts += 1
                memory.steady.clear()
            in_order = sorted(frame.faces, key=_by_track)
            faces = tuple(self._aligned(clip, frame, face, to_upright, memory.steady) for face in in_order)
            memory.faces += len(faces)
            memory.without += not faces
            bookmarks.before_leaving(frame.index)
            yield frame.with_(faces=faces)
        return memory.report()

    def _memory(self) -> Memory:
        tracker = Tracker(self._config.start_score, self._config.memory)
        return Memory(tracker, GapFiller(self._config.hold_misses), Steady(self._config.smoothing), CutFinder())

    def _followed(self, frames: Frames, memory: Memory, bookmarks: Bookmarks) -> Iterator[tuple[Frame, bool]]:
        """Every frame in order with its faces numbered and gaps bridged; and whether a shot begins with it."""
        tracker, gaps = memory.tracker, memory.gaps
        cuts: set[int] = set()
        wait_s = self._config.max_wait_ms / 1000
        while True:
            if len(gaps) and not frames.ready(wait_s):
                yield from _marked(gaps.flush(), cuts)
            frame = next(frames, None)
            if frame is None:
                break
            bookmarks.before_following(frame.index)
            if memory.cut_finder.is_cut(frame.picture):
                yield from _marked(gaps.flush(), cuts)
                tracker.cut()
                cuts.add(frame.index)
            numbers = tracker.update(frame.faces)
            pairs = zip(frame.faces, numbers, strict=True)
            faces = tuple(face.with_(track=number) for face, number in pairs if number is not None)
            yield from _marked(gaps.push(frame.with_(faces=faces), tracker.missing()), cuts)
        yield from _marked(gaps.flush(), cuts)

    def _aligned(self, clip: Clip, frame: Frame, face: Face, to_upright: Array, steady: Steady) -> Face:
        config = self._config
        to_crop = crop_matrix(apply(to_upright, face.landmarks), config.size, config.coverage, config.crop)
        if face.track is not None:
            to_crop = steady(face.track, frame.index, to_crop, config.size)
        frame_to_crop = frame.allocate((2, 3), np.float64)
        frame_to_crop[:] = compose(to_crop, to_upright)
        crop = frame.allocate((config.size, config.size, 3), np.uint8)
        cut_out(frame.picture, clip.colour, frame_to_crop, config.size, crop)
        return face.with_(frame_to_crop=frame_to_crop, aligned=crop)


def _by_track(face: Face) -> int:
    """Not by score, which changes from frame to frame: where faces overlap, the same one stays on top."""
    return -1 if face.track is None else face.track


def _marked(frames: list[Frame], cuts: set[int]) -> Iterator[tuple[Frame, bool]]:
    for frame in frames:
        yield frame, frame.index in cuts
        cuts.discard(frame.index)
