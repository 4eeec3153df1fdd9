"""Finish: makes the file of a clip that has gone through all stages whole, and makes sure that it is.

What encode wrote in one go is there already. Then it is read back and decoded once, and counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipeline.errors import ConfigError
from pipeline.publish import discard
from pipeline.types import Clip, Pulse, Report
from stages import encode
from stages.verify import Expected, Verifier

#: How often the pulse goes while pictures are counted.
_PULSE_S = 0.5

#: How a file may be verified.
_KINDS = ("decode", "packets")


@dataclass(frozen=True, slots=True)
class Config:
    """How results are finished.

    Attributes:
        encode: how they are coded; as for the stage.
        verify: "decode" decodes each finished file once, "packets" only counts what lies in it.
        threads: of the decoder that verifies; 0 takes what FFmpeg thinks best.
        sheets: the folder for contact sheets, ID.jpg each; empty: none are made.
    """

    encode: encode.Config = field(default_factory=encode.Config)
    verify: str = "decode"
    threads: int = 1
    sheets: str = ""

    def __post_init__(self) -> None:
        if self.verify not in _KINDS:
            raise ConfigError(f"verify: {self.verify!r} is not one of {', '.join(_KINDS)}")


class Finish:
    """Finishes one clip after the other, in a process of its own."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()

    def __call__(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> Report:
        """Leaves the whole file at `clip.partial`; says what is in it.

        Raises:
            PublishError: it could not be written, or is not what it should be; there is no file then.
        """
        whole = False
        try:
            said = reports.get("encode", {})
            expected = Expected(int(said.get("frames", 0)), float(said.get("span_s", 0.0)))
            found = self._verify(clip, expected, _Beat(pulse, expected.frames))
            whole = True
            return found
        finally:
            if not whole:
                discard(clip.partial)

    def _verify(self, clip: Clip, expected: Expected, beat: _Beat) -> Report:
        verifier = Verifier(clip, expected, self._config.threads)
        return verifier(self._config.verify == "decode", lambda number, _: beat(number))


class _Beat:
    """Passes on how much is done, not too often."""

    def __init__(self, pulse: Pulse, total: int) -> None:
        self._pulse = pulse
        self._total = total
        self._last = float("-inf")

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= _PULSE_S:
            self._last = now
            self._pulse(done, self._total)
