"""What the daemon says of itself, put together once a second from what it holds (see `live`)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from pipeline import checkpoints, live
from pipeline.dispatch import Lanes
from pipeline.lanes import Lane
from pipeline.specs import StageStats
from pipeline.types import Clip

_log = logging.getLogger(__name__)

#: So often the file is renewed; while nothing is made, only so often that it is seen that the daemon lives.
_WORKING_S, _RESTING_S = 0.9, 5.0

#: What is wrong is logged so often at most, while something is.
_LOGGED_S = 60.0


class Teller:
    """Writes the live file."""

    def __init__(self, state: Path, work: Path) -> None:
        self._state = state
        self._work = str(work.absolute())
        self._started = time.time()
        self._said = 0.0  # by the monotonic clock
        self._speeds: dict[int, _Speed] = {}
        self._reason = ""  # as the log has it
        self._logged = 0.0
        self._last: tuple[object, ...] = ()
        self.version = metadata.version("understudy")

    def tell(self, reason: str, folders: tuple[live.Folder, ...], lanes: Lanes, draining: bool, web: str) -> None:
        """Renews the file, where a second has passed; says in the log when what is wrong changes."""
        self._log_reason(reason)
        now = time.monotonic()
        running = tuple(shown for lane in lanes.all for shown in self._running(lane))
        trouble = next((folder.trouble for folder in folders if folder.trouble), "")
        summary = (reason, trouble, draining, web, *(lane.state for lane in lanes.all), *(one.job for one in running))
        if summary == self._last and now - self._said < (_WORKING_S if running else _RESTING_S):
            return
        self._said, self._last = now, summary
        self._speeds = {
            number: speed for number, speed in self._speeds.items() if any(number == r.job for r in running)
        }
        state = "draining" if draining else "paused" if reason else "running"
        shown = lanes.shown
        told = live.Live(
            pid=os.getpid(),
            version=self.version,
            started=self._started,
            time=time.time(),
            state=state,
            reason=reason or trouble or (next(iter(shown)).reason if _all_down(shown) else ""),
            ready=state == "running" and not trouble and not _all_down(shown),
            web=web,
            watched=self._work,
            sheets=str((self._state / "sheets").absolute()),
            folders=folders,
            lanes=shown,
            running=running,
        )
        try:
            live.write(self._state, told)
        except OSError as error:  # a full disk is said elsewhere; what is told is for looking at only
            _log.debug("the live file could not be written: %s", error)

    def end(self) -> None:
        """The daemon is gone."""
        with suppress(OSError):  # it says whose it is, and that process is gone
            (self._state / live.FILE).unlink()

    def _log_reason(self, reason: str) -> None:
        """Says why it is paused, and not each time that a figure in that changes."""
        now = time.monotonic()
        both = reason and self._reason
        if reason == self._reason or (both and now - self._logged < _LOGGED_S):
            return
        if reason:
            _log.warning("paused: %s", reason)
        else:
            _log.info("going on")
        self._reason, self._logged = reason, now

    def _running(self, lane: Lane) -> list[live.Running]:
        now = lane.now
        return [self._clip(number, clip, now.stats, now.finishing, lane) for number, clip in now.clips.items()]

    def _clip(
        self,
        number: int,
        clip: Clip,
        stats: tuple[StageStats, ...],
        finishing: Mapping[int, tuple[int, int | None]],
        lane: Lane,
    ) -> live.Running:
        at = [stage for stage in stats if stage.clip == number and stage.frame >= 0]
        if number in finishing:
            (frame, frames), step = finishing[number], "publish"
        elif at:
            last = at[-1]
            # Of a clip that is gone on with, some frames that are finished are gone through once more.
            frame, frames, step = max(clip.kept, last.frame + 1), clip.frames, last.name
        else:
            frame, frames, step = clip.kept, clip.frames, "decode"
        speed = self._speeds.setdefault(number, _Speed(step, frame, time.monotonic()))
        fps = speed.fps(step, frame, time.monotonic())
        eta_s = (frames - frame) / fps if frames and fps > 0 and frames >= frame else None
        seconds = time.monotonic() - speed.begun
        preview = str(Path(clip.work) / checkpoints.PREVIEW) if clip.work else ""
        source, target = clip.source, clip.target
        return live.Running(
            number, source, target, step, frame, frames, round(fps, 2), eta_s, round(seconds, 1), preview
        )


def _all_down(lanes: Sequence[live.Lane]) -> bool:
    """Whether there were engines, and none of them runs any more."""
    return bool(lanes) and all(lane.state == "down" for lane in lanes)


class _Speed:
    """How fast a clip goes: over its whole time in one step."""

    def __init__(self, step: str, frame: int, now: float) -> None:
        self.begun = self._since = now
        self._publishing = step == "publish"
        self._first = frame

    def fps(self, step: str, frame: int, now: float) -> float:
        """Frames a second so far; begins anew when the clip goes to the door."""
        publishing = step == "publish"
        if publishing != self._publishing:
            self._publishing, self._first, self._since = publishing, frame, now
        return max(0.0, frame - self._first) / (now - self._since) if now > self._since else 0.0
