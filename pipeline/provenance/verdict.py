"""What was found in a file's content credentials, in plain words. Pure: made from what the library reports.

Sources: C2PA 2.2, 15 (validation) and 15.2 (its status codes).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from pipeline.logs import printable
from pipeline.provenance import manifest

#: A manifest is anybody's: no text from it is longer, and no more things of one kind are told.
_LONGEST, _MOST = 300, 100

#: An untrusted signer is told by the state, an untrusted time stamp by a note.
_NO_PROBLEMS = {"signingCredential.untrusted", "timeStamp.untrusted"}

CHANGED_FILE = "the picture or sound has been changed since it was signed"
CHANGED_MANIFEST = "what the manifest says has been changed since it was signed"
_CHANGED_CLAIM = "the signature does not go with the manifest: one of them has been changed"
_NO_TIME = "it was not signed while its certificate was good, or nothing proves that it was"

#: The longest beginning of a code that is in here says what it means.
_MEANINGS = {
    "assertion.bmffHash": CHANGED_FILE,
    "assertion.dataHash": CHANGED_FILE,
    "assertion.boxesHash": CHANGED_FILE,
    "assertion.collectionHash": CHANGED_FILE,
    "assertion.multiAssetHash": CHANGED_FILE,
    "claim.hardBindings": "the manifest is not bound to any file",
    "claimSignature": _CHANGED_CLAIM,
    "claimSignature.missing": "the signature is missing",
    "claimSignature.outsideValidity": _NO_TIME,
    "signingCredential.expired": _NO_TIME,
    "signingCredential.revoked": "its certificate has been revoked",
    "signingCredential": "its certificate is not one that may sign manifests",
    "timeStamp": "its time stamp cannot be relied on",
    "algorithm": "it is signed or hashed in a way that is not safe",
    "ingredient": "what the manifest says of the file that this was made from has been changed, or was never true",
    "assertion": CHANGED_MANIFEST,
    "claim": CHANGED_MANIFEST,
    "manifest": CHANGED_MANIFEST,
}


class State(Enum):
    """How far a file's credentials go."""

    NONE = "none"
    VALID = "valid"  # unchanged since it was signed; who signed it is not among those trusted
    TRUSTED = "trusted"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that was done: `action` by C2PA's names, `source_type` an IPTC URI or empty."""

    action: str
    source_type: str
    software: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What one signer says of one file.

    Attributes:
        generator: the program that made the manifest.
        signer: the certificate's name, with its organisation.
        issuer: who vouches for the signer.
        signed_at: by the time stamp; without one as our own claims say themselves; None: not known.
        timestamped: the time was vouched for by somebody else.
        expires: when the certificate ends.
        facts: what our own manifests say of the making, as `manifest.compose` put it; empty for others'.
    """

    generator: str
    signer: str
    issuer: str
    signed_at: datetime | None
    timestamped: bool
    expires: datetime | None
    actions: tuple[Action, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A file that another was made from.

    Attributes:
        depth: 1 for what the file itself was made from, 2 for what that was made from, ...
        relationship: "parentOf", "componentOf" or "inputTo".
        claim: its own manifest's; None: it had none that was kept.
        problems: what was wrong with it when it was taken, or is now.
    """

    depth: int
    relationship: str
    title: str
    claim: Claim | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was found in a file, and beside it.

    Attributes:
        problems: why the state is INVALID, in sentences.
        notes: what else there is to know, in sentences.
        claim: the file's own; None: there is none that can be read.
        ingredients: what it was made from, and what that was made from: nearer ones first.
        detached: the manifest lies beside the file.
    """

    state: State
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    claim: Claim | None = None
    ingredients: tuple[Ingredient, ...] = ()
    detached: bool = False

    @property
    def signer(self) -> str:
        """Who signed the file itself; empty: nobody."""
        return self.claim.signer if self.claim else ""

    @property
    def signed_at(self) -> datetime | None:
        """When, see `Claim`."""
        return self.claim.signed_at if self.claim else None

    @property
    def timestamped(self) -> bool:
        """Whether somebody else vouches for the time."""
        return self.claim is not None and self.claim.timestamped

    @property
    def expires(self) -> datetime | None:
        """When the certificate ends."""
        return self.claim.expires if self.claim else None

    @property
    def actions(self) -> tuple[Action, ...]:
        """What was done."""
        return self.claim.actions if self.claim else ()

    @property
    def facts(self) -> Mapping[str, Any]:
        """What our own manifest says of the making: hostile, as long as the state is not TRUSTED."""
        return self.claim.facts if self.claim else {}


@dataclass(frozen=True, slots=True)
class Report:
    """What the library has reported: its manifest store as it tells it, and what it knows of the certificates."""

    store: Mapping[str, Any]
    signatures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def active(self) -> str:
        """The label of the file's own manifest."""
        return str(self.store.get("active_manifest", ""))

    def ours(self) -> list[str]:
        """The labels of the manifests that this program says to have written."""
        return [label for label in _mapping(self.store.get("manifests")) if self._generator(label) == manifest.PROGRAM]

    def state(self) -> State:
        """The library's own verdict."""
        return {"Trusted": State.TRUSTED, "Valid": State.VALID}.get(
            str(self.store.get("validation_state")), State.INVALID
        )

    def problems(self) -> list[str]:
        """What it found wrong with the file's own manifest, or by now with the others, in sentences."""
        results = _mapping(self.store.get("validation_results"))
        deltas = [_mapping(each.get("validationDeltas")) for each in _mappings(results.get("ingredientDeltas"))]
        return _sentences(
            [*_failures(_mapping(results.get("activeManifest"))), *(c for d in deltas for c in _failures(d))]
        )

    def claim(self, label: str) -> Claim:
        """The claim of one manifest."""
        told = self._manifest(label)
        signature = _mapping(self.signatures.get(label))
        certificate = _mapping(signature.get("certificateInfo"))
        stamped = _time(_mapping(signature.get("timeStampInfo")).get("timestamp"))
        facts = self._facts(told) if self._generator(label) == manifest.PROGRAM else {}
        return Claim(
            generator=self._generator(label),
            signer=_who(certificate.get("subject")),
            issuer=_who(certificate.get("issuer")),
            signed_at=stamped or _time(facts.get("made")),
            timestamped=stamped is not None,
            expires=_time(_mapping(certificate.get("validity")).get("notAfter")),
            actions=tuple(self._actions(told)),
            facts=facts,
        )

    def ingredients(self) -> tuple[Ingredient, ...]:
        """What the file was made from, and what that was made from."""
        found: list[Ingredient] = []
        seen = {self.active}
        level, depth = [self.active], 1
        while level and len(found) < _MOST:
            inside = []
            for each in (each for label in level for each in _mappings(self._manifest(label).get("ingredients"))):
                own = str(each.get("active_manifest", ""))
                found.append(self._ingredient(each, own, depth))
                if own and own not in seen:
                    seen.add(own)
                    inside.append(own)
            level, depth = inside, depth + 1
        return tuple(found[:_MOST])

    def _ingredient(self, told: Mapping[str, Any], own: str, depth: int) -> Ingredient:
        failures = _failures(_mapping(_mapping(told.get("validation_results")).get("activeManifest")))
        claim = self.claim(own) if own and self._manifest(own) else None
        relationship, title = text(told.get("relationship")), text(told.get("title"))
        return Ingredient(depth, relationship, title, claim, tuple(_sentences(failures)))

    def _manifest(self, label: str) -> Mapping[str, Any]:
        return _mapping(_mapping(self.store.get("manifests")).get(label))

    def _generator(self, label: str) -> str:
        told = self._manifest(label)
        named = [text(each.get("name")) for each in _mappings(told.get("claim_generator_info"))]
        return named[0] if named else text(told.get("claim_generator"))

    def _facts(self, told: Mapping[str, Any]) -> Mapping[str, Any]:
        found = [each.get("data") for each in _mappings(told.get("assertions")) if each.get("label") == manifest.MAKING]
        return _mapping(found[0]) if found else {}

    def _actions(self, told: Mapping[str, Any]) -> Iterator[Action]:
        for assertion in _mappings(told.get("assertions")):
            if str(assertion.get("label", "")).startswith("c2pa.actions"):
                for each in _mappings(_mapping(assertion.get("data")).get("actions")):
                    agent = each.get("softwareAgent")
                    software = agent.get("name") if isinstance(agent, dict) else agent
                    yield Action(text(each.get("action")), text(each.get("digitalSourceType")), text(software))


def text(value: object) -> str:
    """A text of a manifest as it may be shown: one line, not too long; empty where it is something else."""
    return printable(value[:_LONGEST]) if isinstance(value, str) else ""


def _sentences(codes: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(_meaning(code) for code in codes if code not in _NO_PROBLEMS))


def _meaning(code: str) -> str:
    parts = code.split(".")
    for length in range(len(parts), 0, -1):
        if known := _MEANINGS.get(".".join(parts[:length])):
            return known
    return f"the manifest does not pass a check ({text(code)})"


def _failures(results: Mapping[str, Any]) -> list[str]:
    return [str(each.get("code", "")) for each in _mappings(results.get("failure"))]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value[:_MOST] if isinstance(each, dict)] if isinstance(value, list) else []


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def _who(name: object) -> str:
    """A certificate's name for people: its common name, its organisation in brackets."""
    common, organisation = (text(_mapping(name).get(part)) for part in ("CN", "O"))
    return f"{common} ({organisation})" if common and organisation else common or organisation
