"""What align remembers from frame to frame, and how a later run of the same clip comes to know it again.

Before it hands on the first frame of a segment, align saves what it knew at the latest frame before which it held none
back (`pipeline.checkpoints`): from there it comes to that frame again by the same frames, and to the same crops, to
the bit. Frames are counted from the one that a snapshot was taken before, which is the later run's frame 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline import checkpoints
from pipeline.errors import PublishError, ResumeError
from pipeline.types import Array, Clip, Report
from stages.gaps import GapFiller
from stages.steady import Steady
from stages.tracker import CutFinder, Tracker

#: What align calls itself in the work folder.
_STAGE = "align"

#: What is counted in all the frames of a clip.
_COUNTED = ("faces", "without", "cuts")


@dataclass(slots=True)
class Memory:
    """All that align knows of the frames before one, and what it has counted in them."""

    tracker: Tracker
    gaps: GapFiller
    steady: Steady
    cut_finder: CutFinder
    faces: int = 0
    without: int = 0  # frames that had none
    cuts: int = 0

    def report(self) -> Report:
        """The counters of the whole clip so far."""
        tracks, filled = self.tracker.started, self.gaps.filled
        counted: Report = {"faces": self.faces, "frames_without_faces": self.without, "cuts": self.cuts}
        return counted | {"tracks": tracks, "misses_filled": filled}

    def snapshot(self, index: int) -> dict[str, Array]:
        """What is known before frame `index`, while none is held back. Takes about 15 microseconds."""
        counted = {name: np.array(getattr(self, name), np.int64) for name in _COUNTED}
        followed = self.tracker.snapshot() | self.gaps.snapshot(index)
        return counted | followed | self.steady.snapshot(index) | self.cut_finder.snapshot()

    def restore(self, known: Mapping[str, Array]) -> None:
        """Knows again what `snapshot` said. Raises KeyError, TypeError, ValueError where that is not all there."""
        self.faces, self.without, self.cuts = (int(known[name]) for name in _COUNTED)
        for part in (self.tracker, self.gaps, self.steady, self.cut_finder):
            part.restore(known)


class Bookmarks:
    """Where one clip can be gone on with: keeps the latest snapshot, saves it at each segment's first frame."""

    def __init__(self, clip: Clip, memory: Memory) -> None:
        self._clip = clip
        self._memory = memory
        self._segment = clip.segment if clip.work else 0
        self._latest: tuple[int, dict[str, Array]] = (0, {})

    def before_following(self, index: int) -> None:
        """Before each frame counts. Before the first, fills the memory with what an earlier run knew, if there was one.

        Raises:
            ResumeError: that is not there, or is not for the frame with which the clip goes on.
            PublishError: it cannot be read.
        """
        if index == 0 and self._clip.kept:
            self._restore()
        if self._segment and not len(self._memory.gaps):
            self._latest = (index, self._memory.snapshot(index))

    def before_leaving(self, index: int) -> None:
        """Before each frame is handed on. Raises PublishError where what it needs cannot be saved."""
        at = self._clip.first + index
        if not self._segment or at % self._segment or at <= self._clip.kept:
            return
        first, known = self._latest
        try:
            checkpoints.save_state(self._clip.work, _STAGE, at, self._clip.first + first, known)
        except OSError as error:
            raise PublishError(
                f"{self._clip.target}: what is needed to go on at frame {at} could not be saved in {self._clip.work}: "
                f"{(error.strerror or str(error)).lower()}"
            ) from error

    def _restore(self) -> None:
        clip = self._clip
        try:
            first, known = checkpoints.load_state(clip.work, _STAGE, clip.kept)
            self._memory.restore(known)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise ResumeError(
                f"{clip.source} cannot be gone on with at frame {clip.kept}: what align knew there is lost or damaged; "
                "it has to begin anew"
            ) from error
        except OSError as error:
            raise PublishError(
                f"{clip.target}: what {clip.work} holds could not be read: {(error.strerror or str(error)).lower()}"
            ) from error
        if first != clip.first:
            raise ResumeError(
                f"{clip.source} cannot be gone on with at frame {clip.kept}: align has to begin at frame {first}, not "
                f"at {clip.first}; it has to begin anew"
            )
