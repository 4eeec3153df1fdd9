"""Bridging short misses: a face that the detector lost for a frame or two is put where it must have been.

While a followed face is missing, frames are held back, at most `hold` of them; once it is found again, the held
frames get it by interpolation, and as soon as it is gone for good they leave as they are. Nothing is held while all
is well.

What is remembered of a face outlives its frame, whose memory is given back once it has been handed on and then holds
another picture's: so its landmarks are copied (3.8 kB).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from pipeline.types import Array, Face, Frame


class GapFiller:
    """Holds frames whose faces carry `track`, in order."""

    def __init__(self, hold: int) -> None:
        """At most `hold` frames are held, and so misses up to that long are bridged; 0 holds none."""
        self._hold = hold
        self._held: deque[Frame] = deque()
        self._seen: dict[int, tuple[int, Face]] = {}
        self.filled = 0

    def __len__(self) -> int:
        return len(self._held)

    def push(self, frame: Frame, missing: dict[int, int]) -> list[Frame]:
        """Takes the next frame; returns those that need not wait any longer.

        Args:
            frame: its faces all have a track number.
            missing: tracks not in this frame that may come back, and for how many frames they have been missed.
        """
        for face in frame.faces:
            if face.track is not None:
                self._bridge(face.track, face, frame.index)
                self._seen[face.track] = (frame.index, face.with_(landmarks=face.landmarks.copy()))
        self._held.append(frame)
        awaited = [n for n, misses in missing.items() if misses <= self._hold and n in self._seen]
        first = min((self._seen[number][0] for number in awaited), default=frame.index)
        self._seen = {n: seen for n, seen in self._seen.items() if n in awaited or seen[0] == frame.index}
        return self._released(first)

    def flush(self) -> list[Frame]:
        """All frames held, as they are: the shot or the clip ends here, or nothing more comes in time."""
        self._seen.clear()
        return self._released(None)

    def snapshot(self, index: int) -> dict[str, Array]:
        """What is remembered before frame `index`, while no frame is held; frames are counted from that one."""
        assert not self._held, "held frames cannot be remembered"
        seen = [(number, at - index, *face.box, face.score) for number, (at, face) in self._seen.items()]
        landmarks = [face.landmarks for _, face in self._seen.values()]
        return {
            "seen": np.array(seen, np.float64),
            "landmarks": np.array(landmarks, np.float32),
            "filled": np.array(self.filled, np.int64),
        }

    def restore(self, known: Mapping[str, Array]) -> None:
        """Knows again what `snapshot` said; the frame it was taken before is now frame 0."""
        self.filled = int(known["filled"])
        self._seen = {
            int(number): (int(at), Face(tuple(box), score, landmarks, int(number)))
            for (number, at, *box, score), landmarks in zip(known["seen"].tolist(), known["landmarks"], strict=True)
        }

    def _released(self, last: int | None) -> list[Frame]:
        out = []
        while self._held and (last is None or self._held[0].index <= last):
            out.append(self._held.popleft())
        return out

    def _bridge(self, track: int, face: Face, index: int) -> None:
        """Puts the face between its last sighting and this one into the frames held between."""
        if track not in self._seen:
            return
        before_index, before = self._seen[track]
        for place, frame in enumerate(self._held):
            if before_index < frame.index:
                share = (frame.index - before_index) / (index - before_index)
                self._held[place] = frame.with_(faces=(*frame.faces, between(before, face, share, frame)))
                self.filled += 1


def between(before: Face, after: Face, share: float, frame: Frame) -> Face:
    """The face `share` (0..1) of the way from one sighting to the next, its landmarks in `frame`'s slot."""
    landmarks = frame.allocate(before.landmarks.shape, np.float32)
    landmarks[:] = before.landmarks + np.float32(share) * (after.landmarks - before.landmarks)
    x0, y0 = landmarks.min(0).tolist()
    x1, y1 = landmarks.max(0).tolist()
    return Face((x0, y0, x1, y1), min(before.score, after.score), landmarks, after.track)
