"""Finish: makes the file of a clip that has gone through all stages whole, and makes sure that it is.

What encode wrote in one go is there already; segments are joined. Once the door has had it sealed, the file is read
back, decoded once and counted, and a few of its pictures are kept for a contact sheet.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2

from pipeline.errors import ConfigError, InputError, PublishError
from pipeline.publish import discard
from pipeline.types import Clip, Pulse, Report
from stages import encode
from stages.containers import reason
from stages.joining import join
from stages.sheet import Sheet
from stages.verify import Expected, Verifier, weigh

#: How often the pulse goes, seconds.
_PULSE_S = 0.5

#: How a file may be verified.
_KINDS = ("decode", "packets")

#: What encode says of its file and is said anew here.
_COUNTED = frozenset({"frames", "span_s"})


@dataclass(frozen=True, slots=True)
class Config:
    """How results are finished.

    Attributes:
        encode: how they are coded; as for the stage.
        verify: "decode" decodes each finished file once, "packets" only counts what lies in it.
        threads: of the decoder that verifies; 0 takes what FFmpeg thinks best.
        sheets: the folder for contact sheets, ID.jpg each; empty: none are made. They need "decode".
        sheets_kept: how many of the newest are kept; 0: all.
    """

    encode: encode.Config = field(default_factory=encode.Config)
    verify: str = "decode"
    threads: int = 1
    sheets: str = ""
    sheets_kept: int = 0

    def __post_init__(self) -> None:
        if self.verify not in _KINDS:
            raise ConfigError(f"verify: {self.verify!r} is not one of {', '.join(_KINDS)}")
        if self.threads < 0:
            raise ConfigError(f"threads: {self.threads} is negative; 0 lets FFmpeg choose")


class Finish:
    """Finishes one clip after the other, in a process of its own."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self._expected: Expected | None = None  # of the file that was made last
        # As for the stage: joining opens an encoder for what the header has to say.
        os.environ.setdefault("SVT_LOG", "1")

    def make(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> Report:
        """Leaves the whole file at `clip.partial`; says what was written.

        Of a clip that was written in one go, `reports["encode"]` says how many frames went in.

        Raises:
            ConfigError, InputError: the settings do not suit the target any more; the source is gone.
            ResumeError: the segments cannot be used.
            PublishError: it could not be written; there is no file then.
        """
        whole = False
        try:
            report, self._expected = (self._joined if clip.work else self._written)(clip, reports, pulse)
            weigh(clip, int(report["bytes"]))
            whole = True
            return report
        finally:
            if not whole:
                discard(clip.partial)

    def check(self, clip: Clip, pulse: Pulse) -> Report:
        """Reads back the file at `clip.partial`, which `make` made last; says what is in it.

        Raises:
            PublishError: it is not what it should be; there is no file then.
        """
        expected, self._expected = self._expected, None
        assert expected is not None, "make comes before check"
        before = len(expected.times) if expected.times is not None else 0  # those that were joined
        whole = False
        try:
            report = self._verify(clip, expected, _Beat(pulse, before + expected.frames, before))
            whole = True
            return report
        finally:
            if not whole:
                discard(clip.partial)

    def _written(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> tuple[Report, Expected]:
        said = reports["encode"]
        facts = {key: value for key, value in said.items() if key not in _COUNTED}
        return facts, Expected(int(said["frames"]), float(said["span_s"]))

    def _joined(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> tuple[Report, Expected]:
        frames = reports.get("encode", {}).get("frames")
        total = None if frames is None else 2 * int(frames)
        facts, times = join(clip, self._config.encode, _Beat(pulse, total))
        span_s = float((times[-1] - times[0]) * clip.time_base)
        return facts, Expected(len(times), span_s, times)

    def _verify(self, clip: Clip, expected: Expected, beat: _Beat) -> Report:
        sheet = Sheet(clip, expected.frames)
        failed: list[Exception] = []

        def seen(number: int, picture: av.VideoFrame, stream: av.VideoStream) -> None:
            if self._config.sheets and not failed:
                try:
                    sheet.take(number, picture, stream)
                except (InputError, cv2.error) as error:
                    failed.append(error)

        decode = self._config.verify == "decode"
        report = Verifier(clip, expected, self._config.threads)(beat, seen if decode else None)
        if not self._config.sheets or not decode:
            return report
        # A sheet is a help for those who look; a clip without one is none the worse.
        try:
            if not failed:
                sheet.write(Path(self._config.sheets) / f"{clip.id}.jpg", lambda: beat(expected.frames))
                _trim(Path(self._config.sheets), self._config.sheets_kept)
        except (InputError, PublishError, OSError, cv2.error) as error:
            failed.append(error)
        return report | {"sheet_failed": reason(failed[0])} if failed else report


def _trim(folder: Path, kept: int) -> None:
    """Removes all sheets but so many of the newest; 0: none. Raises OSError."""
    numbers = sorted(int(file.stem) for file in folder.glob("*.jpg") if file.stem.isdecimal())
    for number in numbers[:-kept] if kept else ():
        (folder / f"{number}.jpg").unlink(missing_ok=True)


class _Beat:
    """Passes on how much is done, not too often; `before` was done by others."""

    def __init__(self, pulse: Pulse, total: int | None, before: int = 0) -> None:
        self._pulse = pulse
        self._total = total
        self._before = before
        self._last = float("-inf")

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= _PULSE_S:
            self._last = now
            self._pulse(self._before + done, self._total)
