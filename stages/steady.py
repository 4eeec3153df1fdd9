"""Damping the tremor of crops that follow faces, without lagging behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pipeline.types import Array
from stages.geometry import apply, invert, umeyama

#: Tremor, as a share of the crop's side: what the landmarks of a still face shake by, measured on real clips.
_TREMOR = 0.02


class Steady:
    """Damps the tremor of each track's crop: the nearer a new place is to the last one, the less it counts.

    A step of d (in crop sides, the farthest corner's) is taken by 1 - smoothing * exp(-(d / tremor)^2): whole when
    the face moves, a part of it when only the landmarks shake. The lag is so bounded to a fraction of the tremor.
    """

    def __init__(self, smoothing: float) -> None:
        self._smoothing = smoothing
        self._last: dict[int, tuple[int, Array]] = {}

    def clear(self) -> None:
        """Forgets where faces were: another shot begins."""
        self._last.clear()

    def __call__(self, track: int, index: int, upright_to_crop: Array, size: int) -> Array:
        """The steadied upright_to_crop (2, 3) of the track's face in frame `index`; a similarity, as it was."""
        corners = np.array([[0.0, 0.0], [size - 1.0, size - 1.0]])
        now = apply(invert(upright_to_crop), corners)
        self._last = {number: seen for number, seen in self._last.items() if seen[0] >= index - 1}
        _, last = self._last.get(track, (index, now))
        side = math.dist(now[0], now[1]) / math.sqrt(2)
        step = max(math.dist(now[0], last[0]), math.dist(now[1], last[1])) / side
        now = last + (now - last) * (1 - self._smoothing * math.exp(-((step / _TREMOR) ** 2)))
        self._last[track] = (index, now)
        return umeyama(now, corners)

    def snapshot(self, index: int) -> dict[str, Array]:
        """What is remembered before frame `index`; frames are counted from that one."""
        places = [(track, at - index, *corners.ravel().tolist()) for track, (at, corners) in self._last.items()]
        return {"places": np.array(places, np.float64)}

    def restore(self, known: Mapping[str, Array]) -> None:
        """Knows again what `snapshot` said; the frame it was taken before is now frame 0."""
        self._last = {
            int(track): (int(at), np.array(corners).reshape(2, 2)) for track, at, *corners in known["places"].tolist()
        }
