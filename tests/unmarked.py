"""Settings under which nothing is put into pictures: for tests that hold every sample against the source's."""

from __future__ import annotations

from dataclasses import replace

from pipeline.app import Settings
from stages import disclose, label, watermark

REASON = "a test counts samples"

#: The same for a command line.
OPTIONS = ("--set", f"disclose.label.off_because={REASON}", "--set", f"disclose.watermark.off_because={REASON}")


def unmarked(settings: Settings) -> Settings:
    """The settings without label and watermark."""
    marks = disclose.Config(label.Config(off_because=REASON), watermark.Config(off_because=REASON))
    return replace(settings, disclose=marks)
