"""What a result's C2PA manifest says: what was opened, what was done to it by what, for whom that was agreed.

Pure data: nothing is read or signed here. No names: people are pseudonymous ids, files are digests.

Sources: C2PA 2.2, 18.15 (actions), and IPTC's vocabulary of digital source types. The invisible watermark is told of as
`c2pa.watermarked.unbound` (2.3): it leads to the job that made the picture, by our own audit. A *bound* one needs a
`c2pa.soft-binding` assertion with an algorithm from C2PA's list, by which anybody could find the manifest; ours
is keyed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

#: The program, as claims name it; by this our own manifests are known again.
PROGRAM = "Understudy"

#: The assertion that has everything, for `provenance verify` to give back.
MAKING = "org.understudy.making"

#: The ingredient that was opened, as actions point to it.
SOURCE = "source"

_VERSION = 1
_IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"


class Treatment(Enum):
    """What was done to a clip; the value says so in our own words."""

    SWAP = "swap"
    STAND_IN = "stand-in"
    REDACTION = "redaction"
    GENERATION = "generation"

    @property
    def source_type(self) -> str:
        """The IPTC digital source type, a URI."""
        return _IPTC + _SOURCE_TYPES[self]


_SOURCE_TYPES = {
    Treatment.SWAP: "compositeWithTrainedAlgorithmicMedia",
    Treatment.STAND_IN: "compositeWithTrainedAlgorithmicMedia",
    Treatment.REDACTION: "algorithmicallyEnhanced",
    Treatment.GENERATION: "trainedAlgorithmicMedia",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a result.

    Attributes:
        job: the job's number or id; nothing that names a file.
        payload: what its invisible watermark says, 12 hexadecimal digits.
        treatment: what was done.
        version: of this program.
        made: when, with its time zone.
        model_digest: of the model's weights, hexadecimal; empty: there was none.
        source_sha256: the digest of the source; empty: not known.
        identities: id and digest of each person whose face is in it.
        marks: what the per-frame marks report: `watermark` and `label` 1 or 0, and why one is off.
    """

    job: str
    payload: str
    treatment: Treatment
    version: str
    made: datetime
    model_digest: str = ""
    source_sha256: str = ""
    identities: tuple[tuple[str, str], ...] = ()
    marks: Mapping[str, Any] = field(default_factory=dict)


def compose(facts: Facts) -> dict[str, Any]:
    """The definition of the manifest, as c2pa's Builder takes it, without ingredients and what binds it to its file."""
    made = facts.made.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    people = [{"id": id_, "digest": digest} for id_, digest in facts.identities]
    said = {"payload": facts.payload, "model": facts.model_digest, "identities": people, "marks": dict(facts.marks)}
    told = {"job": facts.job, "treatment": facts.treatment.value, "source_sha256": facts.source_sha256, "made": made}
    agent = {"name": PROGRAM, "version": facts.version}
    return {
        "claim_generator_info": [agent],
        "title": f"{PROGRAM} result {facts.payload}",  # never a file's name, which may be a person's
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": _actions(facts, agent, made, said)}},
            {"label": MAKING, "data": {"version": _VERSION, **told, **said}},
        ],
    }


def _actions(facts: Facts, agent: dict[str, str], made: str, said: dict[str, Any]) -> list[dict[str, Any]]:
    done: dict[str, Any] = {
        "digitalSourceType": facts.treatment.source_type,
        "softwareAgent": agent,
        "when": made,
        "parameters": {f"org.understudy.{name}": value for name, value in said.items()},
    }
    if facts.treatment is Treatment.GENERATION:
        actions = [{"action": "c2pa.created", **done}]
    else:
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [SOURCE]}}
        actions = [opened, {"action": "c2pa.edited", **done}]
    if facts.marks.get("watermark"):
        actions.append({"action": "c2pa.watermarked.unbound", "softwareAgent": agent})
    return actions
