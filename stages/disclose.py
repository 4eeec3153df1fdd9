"""Disclose: the marks that every picture of a result carries, put into its own planes: a watermark and a visible label.

The last thing that is done to a picture before it is encoded or handed on. A frame's marks hang on the settings, on the
clip, and on the frame's own samples and time, never on what this process has seen before it: so a clip that was broken
off and gone on with carries the very marks of one that was not. What an input carries already is looked for before.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.errors import ConfigError
from pipeline.types import Clip, Frame, Frames, Report
from stages import label, watermark
from stages.watermark_finder import Finder

#: A watermark in the input is looked for in one frame of so many, and in so many in all: it stands still, and ten
#: frames are enough to read it.
_EVERY, _LOOKS = 8, 12

#: A stated reason has at least so many words and characters.
_WORDS, _CHARACTERS = 2, 8
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Config:
    """How pictures are marked.

    Attributes:
        label: the words that can be seen.
        watermark: the pattern that cannot.
    """

    label: label.Config = field(default_factory=label.Config)
    watermark: watermark.Config = field(default_factory=watermark.Config)

    def __post_init__(self) -> None:
        _check_reason("label", self.label.off_because)
        _check_reason("watermark", self.watermark.off_because)


def _check_reason(mark: str, reason: str) -> None:
    """Raises ConfigError for a reason to leave a mark out that is none; no reason at all leaves it in."""
    if not reason:
        return
    if len(reason.split()) < _WORDS or len(reason.strip()) < _CHARACTERS:
        raise ConfigError(f"disclose.{mark}.off_because must say why there is none, in two words or more")
    if len(reason) > _LONGEST or not reason.isprintable():
        raise ConfigError(f"disclose.{mark}.off_because must be at most {_LONGEST} printable characters on one line")


class Disclose:
    """Marks frames in place; reports what it put in, what not and why, and what was there before."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False  # frames could be shared out, but not the search for what they carry

    def __init__(self, config: Config) -> None:
        """Raises ConfigError: the watermark's key or the label's font is missing or none, or lacks a character."""
        self._config = config
        self._key = _key(config.watermark)
        self._font = None if config.label.off_because else label.font_for(config.label)

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        words = None if self._config.label.off_because else label.Label(self._config.label, clip, self._font)
        unmarked = self._config.watermark.off_because or ("" if clip.payload else "the clip has no payload")
        pattern = None if unmarked or self._key is None else watermark.Watermark(self._key, clip)
        search = None if self._key is None else _Search(self._key, clip)
        for frame in frames:
            if search is not None:
                search.look(frame)
            if pattern is not None:
                pattern.apply(frame.picture)
            if words is not None:
                words.draw(frame.picture, float((frame.pts - clip.begins) * clip.time_base))
            yield frame
        report: Report = {"payload": f"{clip.payload:012x}"} if clip.payload else {}
        report |= {"watermark": int(pattern is not None), "label": int(words is not None)}
        if unmarked:
            report["watermark_off_because"] = unmarked
        if words is None:
            report["label_off_because"] = self._config.label.off_because
        else:
            report["label_text"] = words.text
        return report | (search.report() if search is not None else {})


def _key(config: watermark.Config) -> bytes | None:
    """The key that marks, and finds marks; None where there need not be one."""
    if config.off_because and not config.key:
        return None
    try:
        return watermark.read_key(config.key)
    except ConfigError as error:
        raise ConfigError(f"{error}; understudy provenance init makes a key where there is none") from error


class _Search:
    """Looks for a watermark in some frames of a clip, before they get their own."""

    def __init__(self, key: bytes, clip: Clip) -> None:
        self._finder = Finder(key)
        self._first = clip.first
        self._aspect = float(clip.sample_aspect_ratio)
        self._left = _LOOKS

    def look(self, frame: Frame) -> None:
        if self._left and (self._first + frame.index) % _EVERY == 0:
            self._left -= 1
            self._finder.look(watermark.luma_of(frame.picture), self._aspect)

    def report(self) -> Report:
        found = self._finder.found(thoroughly=False)
        if found is None:
            return {}
        return {"found_payload": f"{found.payload:012x}", "found_confidence": found.confidence}
