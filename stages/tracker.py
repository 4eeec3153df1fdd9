"""Following faces from frame to frame: which face here is which face there, and where a shot ends.

Each face keeps a number from where it is expected to be (a constant velocity), as long as it is missed only shortly.
Pairs are chosen greedily, the nearest first, by their distance in face sizes and the change of size, after the
two-threshold idea of ByteTrack (Zhang et al., ECCV 2022): a faint sighting may prolong a track, never begin one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.types import Array, Face, Picture

#: How far from the expected place, in face sizes, a face may be found again, and how much more for every frame missed.
_REACH, _REACH_PER_MISS = 0.6, 0.15
#: By what factor its size may have changed.
_GROWTH = 1.6
#: How much of the newest movement goes into a track's velocity.
_NEW_VELOCITY = 0.5


@dataclass(slots=True)
class _Track:
    number: int
    centre: Array
    size: float
    velocity: Array
    misses: int = 0


class Tracker:
    """Numbers the faces of a clip's frames, which must come in order."""

    def __init__(self, start_score: float, memory: int) -> None:
        """Faces surer than `start_score` begin tracks; one missed for more than `memory` frames is forgotten."""
        self._start_score = start_score
        self._memory = memory
        self._tracks: list[_Track] = []
        self._next = 0

    @property
    def started(self) -> int:
        """How many tracks there have been."""
        return self._next

    def cut(self) -> None:
        """Forgets every track: what comes next is another shot."""
        self._tracks.clear()

    def update(self, faces: Sequence[Face]) -> tuple[int | None, ...]:
        """The track number of each face of the next frame; None for one too faint to begin a track."""
        centres = [_centre(face) for face in faces]
        numbers: list[int | None] = [None] * len(faces)
        free = list(self._tracks)
        for _, place, track in self._pairs(faces, centres):
            if numbers[place] is None and track in free:
                free.remove(track)
                numbers[place] = track.number
                _follow(track, centres[place], _size(faces[place]))
        for track in free:
            track.misses += 1
        self._tracks = [track for track in self._tracks if track.misses <= self._memory]
        for place, face in enumerate(faces):
            if numbers[place] is None and face.score >= self._start_score:
                numbers[place] = self._next
                self._tracks.append(_Track(self._next, centres[place], _size(face), np.zeros(2)))
                self._next += 1
        return tuple(numbers)

    def missing(self) -> dict[int, int]:
        """Tracks that the last frame did not show, and for how many frames they have been missed."""
        return {track.number: track.misses for track in self._tracks if track.misses}

    def snapshot(self) -> dict[str, Array]:
        """What is remembered of the frames so far."""
        tracks = [(t.number, t.misses, t.size, *t.centre.tolist(), *t.velocity.tolist()) for t in self._tracks]
        return {"tracks": np.array(tracks, np.float64), "next": np.array(self._next, np.int64)}

    def restore(self, known: Mapping[str, Array]) -> None:
        """Knows again what `snapshot` said."""
        self._next = int(known["next"])
        self._tracks = [
            _Track(int(number), np.array([x, y]), size, np.array([across, down]), int(misses))
            for number, misses, size, x, y, across, down in known["tracks"].tolist()
        ]

    def _pairs(self, faces: Sequence[Face], centres: list[Array]) -> list[tuple[float, int, _Track]]:
        """What may belong together: (cost, place of the face, track), the best first."""
        pairs = []
        for track in self._tracks:
            steps = track.misses + 1
            # A velocity measured over a frame or two says little about a time long after.
            expected = track.centre + track.velocity * min(steps, 3)
            for place, face in enumerate(faces):
                growth = abs(math.log(_size(face) / track.size))
                distance = float(np.hypot(*(centres[place] - expected))) / max(track.size, _size(face))
                if growth <= math.log(_GROWTH) and distance <= _REACH + _REACH_PER_MISS * track.misses:
                    pairs.append((distance + growth, place, track))
        return sorted(pairs, key=lambda pair: (pair[0], pair[1], pair[2].number))


def _follow(track: _Track, centre: Array, size: float) -> None:
    step = (centre - track.centre) / (track.misses + 1)
    track.velocity = _NEW_VELOCITY * step + (1 - _NEW_VELOCITY) * track.velocity
    track.centre, track.size, track.misses = centre, size, 0


def _centre(face: Face) -> Array:
    x0, y0, x1, y1 = face.box
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2])


def _size(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return max(x1 - x0, y1 - y0, 1.0)


#: A thumbnail has this many columns and rows of single samples of the first plane.
_COLUMNS, _ROWS = 48, 27
#: The next shot's picture differs from the last one by more than this share of the range on average, and resembles it
#: less than this (correlation of thumbnails): a flash or a fade differs but resembles.
_DIFFERENCE, _RESEMBLANCE = 0.06, 0.5


class CutFinder:
    """Tells hard cuts from movement by what a few samples of the first plane (luma, green or packed) say."""

    def __init__(self) -> None:
        self._last: Array | None = None

    def is_cut(self, picture: Picture) -> bool:
        """Whether a new shot begins with this picture; never with the first."""
        now, last = _thumbnail(picture), self._last
        self._last = now
        if last is None or np.abs(now - last).mean() <= _DIFFERENCE:
            return False
        a, b = now - now.mean(), last - last.mean()
        strength = math.sqrt(float((a * a).sum() * (b * b).sum()))
        return strength == 0.0 or float((a * b).sum()) / strength < _RESEMBLANCE

    def snapshot(self) -> dict[str, Array]:
        """What is remembered of the last picture; of none, where there was none."""
        return {"thumbnail": np.empty((0, 0), np.float32) if self._last is None else self._last}

    def restore(self, known: Mapping[str, Array]) -> None:
        """Knows again what `snapshot` said."""
        self._last = known["thumbnail"] if known["thumbnail"].size else None


def _thumbnail(picture: Picture) -> Array:
    """(rows, columns) float32 0..1, sampled without filtering: cheap at any size."""
    plane = picture.planes[0]
    rows = np.linspace(0, plane.shape[0] - 1, _ROWS).astype(np.intp)
    columns = np.linspace(0, plane.shape[1] - 1, _COLUMNS).astype(np.intp)
    samples = plane[np.ix_(rows, columns)].astype(np.float32)
    if samples.ndim == 3:
        samples = samples.mean(2)
    thumbnail: Array = samples / np.float32(picture.format.peak << picture.format.shift)
    return thumbnail
