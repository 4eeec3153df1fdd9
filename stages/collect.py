"""Collect: the sink of `extract`, which writes chosen faces into a face set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Literal, Self

import numpy as np

from models.faceset import FaceSetWriter, sharpness
from pipeline.errors import ConfigError
from pipeline.types import Clip, Face, Frame, Frames, Report
from stages.geometry import apply, stored_to_upright


@dataclass(frozen=True, slots=True)
class Config:
    """Which faces are kept, and how large their crops are.

    Attributes:
        folder: of the face set; new or empty, unless faces are added to it.
        add: go on with the face set that the folder holds; its size, coverage and crop must be these.
        size: px of the crops' side.
        coverage: the crop's side against the face's own (1: brow to chin, tightly); more leaves the trainer room.
        crop: what the crops are centred on, the face or the whole head.
        side: keep only faces whose centre lies in this half of the upright picture; "any" keeps both.
        largest: keep only the largest face of each frame, after `side` has chosen.
        tracks: keep only faces with these track numbers; empty keeps all.
        every: look at every so many frames.
        min_size_px: the smallest face kept, by the shorter side of its box in the clip.
        min_sharpness: the least variance of the crop's Laplacian; 0 keeps blurred faces too.
    """

    folder: str = ""
    add: bool = False
    size: int = 256
    coverage: float = 1.5
    crop: Literal["face", "head"] = "face"
    side: Literal["any", "left", "right"] = "any"
    largest: bool = False
    tracks: tuple[int, ...] = ()
    every: int = 1
    min_size_px: float = 32.0
    min_sharpness: float = 2.0

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise ConfigError(f"extract.size must be from 32 to 1024 px, not {self.size}")
        if not 0.5 <= self.coverage <= 4:
            raise ConfigError(f"extract.coverage must be from 0.5 to 4, not {self.coverage:g}")
        if self.every < 1:
            raise ConfigError(f"extract.every must be at least 1, not {self.every}")
        if self.min_size_px < 0 or self.min_sharpness < 0:
            raise ConfigError("extract.min_size_px and extract.min_sharpness cannot be negative")


class Collect:
    """Writes the faces of every clip it is given into one face set. Use it in a `with`, which completes the set.

    Reports how many faces were kept and why others were not. A face that the set holds already is not written again,
    so that an extraction that adds can be repeated.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"landmarks", "frame_to_crop", "aligned", "mask"})
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        """Makes the face set's folder. Raises InputError where it holds what faces cannot be added to."""
        self._config = config
        self._writer = FaceSetWriter(config.folder, config.size, config.coverage, config.crop, config.add)
        #: faces kept of each (source, track)
        self.tracks: Counter[tuple[str, int | None]] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    @property
    def count(self) -> int:
        """Faces written so far."""
        return self._writer.count

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        counts: Counter[str] = Counter(faces=0)
        for frame in frames:
            if frame.index % self._config.every == 0:
                counts["found"] += len(frame.faces)
                chosen = list(self._chosen(clip, frame))
                counts["other_people"] += len(frame.faces) - len(chosen)
                for face in chosen:
                    verdict = self._verdict(clip, frame, face)
                    counts[verdict] += 1
                    if verdict == "faces":
                        self._write(clip, frame, face)
            yield frame
        return dict(counts)

    def _chosen(self, clip: Clip, frame: Frame) -> Iterator[Face]:
        """The faces of the person asked for."""
        config = self._config
        faces = [face for face in frame.faces if not config.tracks or face.track in config.tracks]
        if config.side != "any":
            faces = [face for face in faces if _half(clip, face) == config.side]
        if config.largest and faces:
            faces = [max(faces, key=_area)]
        yield from faces

    def _verdict(self, clip: Clip, frame: Frame, face: Face) -> str:
        """ "faces" where it is kept, else the counter of why not."""
        if face.aligned is None or face.mask is None or face.frame_to_crop is None:
            return "without_crop"
        if self._writer.holds(clip.source, frame.index, face.box):
            return "known"
        x0, y0, x1, y1 = face.box
        if min(x1 - x0, y1 - y0) < self._config.min_size_px:
            return "too_small"
        return "blurred" if sharpness(face.aligned) < self._config.min_sharpness else "faces"

    def _write(self, clip: Clip, frame: Frame, face: Face) -> None:
        assert face.aligned is not None and face.mask is not None and face.frame_to_crop is not None
        self.tracks[clip.source, face.track] += 1
        self._writer.add(
            face.aligned,
            face.mask,
            apply(face.frame_to_crop, face.landmarks),
            source=clip.source,
            frame=frame.index,
            pts=frame.pts,
            track=face.track,
            score=face.score,
            box=face.box,
        )


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return (x1 - x0) * (y1 - y0)


def _half(clip: Clip, face: Face) -> Literal["left", "right"]:
    """Which half of the upright picture the face's centre lies in."""
    matrix, (width, _) = stored_to_upright(clip.display_matrix, clip.width, clip.height)
    x0, y0, x1, y1 = face.box
    centre = apply(matrix, np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))
    return "left" if centre[0, 0] < (width - 1) / 2 else "right"
