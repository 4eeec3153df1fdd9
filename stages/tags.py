"""What a container says about where its pictures come from: two machine-readable tags, and a sentence for people.

- `AIGC`: the implicit label of GB 45438-2025 (annex E), a JSON object. TC260's practice guide for video files has it
  under this very key: in MP4 and MOV among QuickTime's own keys (`moov/meta/keys`), in Matroska and WebM a tag. There
  platforms in China look for it. It is ASCII, so no reader can stumble over an encoding.
- `digital_source_type`: a URI of IPTC's vocabulary. What IPTC's Video Metadata Hub asks for is XMP
  (`Iptc4xmpExt:DigitalSourceType`), which FFmpeg does not write; who looks for that finds the same URI in the content
  credentials. This key is for whatever shows a container's own tags, such as ffprobe.
- `comment`: plain words, and only where there is no comment yet.

All three come back from mp4, mov, mkv, webm and nut (AVI would keep the comment alone, but results are not written as
AVI). Tags that a source has under these names go on as `AIGC_input` and `digital_source_type_input`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.types import Clip, Report

AIGC = "AIGC"
SOURCE_TYPE = "digital_source_type"
COMMENT = "comment"

#: The fields of the `AIGC` object, in the standard's order.
FIELDS = ("Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2")

#: `Label`: made by AI for certain; 2 would be "possibly", 3 "suspected".
_CERTAIN = "1"

#: Who has made it where nobody else says to answer for it.
_PROGRAM = "understudy"

#: Ends of IPTC's URIs, and what they mean to people.
_WORDS = {
    "compositeWithTrainedAlgorithmicMedia": "Parts of this video were made with artificial intelligence (understudy).",
    "trainedAlgorithmicMedia": "This video was made with artificial intelligence (understudy).",
    "algorithmicallyEnhanced": "Parts of this video were changed by software (understudy).",
}
#: Those that the AIGC label is for.
_GENERATED = ("compositeWithTrainedAlgorithmicMedia", "trainedAlgorithmicMedia")

#: No more of an input's tag is reported, characters, or understood; the file keeps all of it.
_REPORTED, _READ = 300, 4096


@dataclass(frozen=True, slots=True)
class Config:
    """What results say about themselves (filled in by the program).

    Attributes:
        source_type: the IPTC digital source type, a URI.
        producer: who answers for what is made; empty: the program.
    """

    source_type: str
    producer: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The marks that a container's tags hold; None where there is none.

    Attributes:
        aigc: the text under `AIGC`, whatever it is.
        source_type: the text under `digital_source_type`.
    """

    aigc: str | None = None
    source_type: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        """The fields of the AIGC object, as far as the text is one: only the standard's own, and only text."""
        try:
            said = json.loads((self.aigc or "")[: _READ + 1])
        except (ValueError, RecursionError):
            return {}
        return {name: said[name] for name in FIELDS if isinstance(said.get(name), str)} if type(said) is dict else {}

    def report(self) -> Report:
        """What is said of an input: the beginnings of what was found."""
        found = {"input_aigc": self.aigc, "input_source_type": self.source_type}
        return {name: text[:_REPORTED] for name, text in found.items() if text is not None}


def tags(clip: Clip, config: Config) -> dict[str, str]:
    """The tags of what is made of the clip; AIGC's only where pictures are generated, not where they are blurred."""
    kind = config.source_type.rpartition("/")[2]
    found = {SOURCE_TYPE: config.source_type}
    if kind in _GENERATED:
        label = dict.fromkeys(FIELDS, "") | {
            "Label": _CERTAIN,
            "ContentProducer": config.producer or _PROGRAM,
            "ProduceID": f"{clip.payload:012x}" if clip.payload else "",
        }
        found = {AIGC: json.dumps(label, separators=(",", ":"))} | found
    return found | ({COMMENT: _WORDS[kind]} if kind in _WORDS else {})


def marked(metadata: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """An input's metadata with our tags: these first, since a reader may give up at something long behind them.

    What the input has under the same names, however they are spelt, is kept under others.
    """
    found = {key: value for key, value in ours.items() if key != COMMENT or not _has(metadata, COMMENT)}
    names = {key.casefold(): key for key in ours if key != COMMENT}
    taken = {key.casefold() for key in (*metadata, *ours)}
    for key, value in metadata.items():
        name = key
        if key.casefold() in names:
            name = _free(f"{names[key.casefold()]}_input", taken)
            taken.add(name.casefold())
        found[name] = value
    return found


def read(metadata: Mapping[str, str]) -> Found:
    """The marks in a container's metadata: names in any spelling, with or without what QuickTime puts before them."""
    named = {_bare(key): value for key, value in reversed(list(metadata.items()))}
    return Found(named.get(_bare(AIGC)), named.get(_bare(SOURCE_TYPE)))


def _has(metadata: Mapping[str, str], name: str) -> bool:
    return any(key.casefold() == name for key in metadata)


def _free(name: str, taken: set[str]) -> str:
    """The name, or where it is taken the first of `name_2`, `name_3` that is not."""
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _bare(key: str) -> str:
    """A name without its domain and without what spellings differ in: `com.example.Digital-Source-Type`."""
    return re.sub(r"[\W_]", "", re.split(r"[.:]", key)[-1]).casefold()
