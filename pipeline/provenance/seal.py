"""The seal: what the door does to every file before it gets its name, so that no setting leads around it.

It makes sure that the frames were marked and that whoever is to be seen has agreed, by now; signs the whole file with
content credentials, reads these back, and writes the audit's row. The row comes first and the name after it: so
whatever has a name is in the audit, and what was broken off in between is there as well, without a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.consent import policy
from pipeline.consent import settings as consent
from pipeline.consent.policy import Consent, Origin
from pipeline.consent.registry import Registry
from pipeline.errors import ConsentError, PublishError
from pipeline.provenance import credentials, manifest, reading, settings
from pipeline.provenance.audit import Audit
from pipeline.provenance.home import Home
from pipeline.provenance.manifest import Facts, Treatment
from pipeline.provenance.parents import Parent
from pipeline.provenance.signatory import Signatory, signatory
from pipeline.provenance.verdict import Claim, State
from pipeline.publish import SEALING, partial_path, path_beside, write
from pipeline.types import Clip, Report, Sealed

#: The stage that marks frames; its report says how.
MARKING = "disclose"

#: What of that report goes into credentials and audit.
_MARKS = ("watermark", "label", "label_text", "watermark_off_because", "label_off_because")


@dataclass(frozen=True, slots=True)
class Config:
    """What is known of all that a chain makes.

    Attributes:
        model: the model's folder, and `digest` that of its weights.
        people: the digest of each person's identity file, by the name in the model; empty: there is none.
        roles: what each of them has to have agreed to, of `policy.ROLES`.
        treatment: what is done to faces.
    """

    home: Home
    provenance: settings.Config
    consent: consent.Config
    model: str
    digest: str
    people: Mapping[str, str]
    roles: Mapping[str, Sequence[str]]
    treatment: Treatment = Treatment.SWAP


class Sealer:
    """Seals one file after the other, in the door's process."""

    def __init__(self, config: Config) -> None:
        """Reads the identity files that the model carries. Raises ConsentError."""
        self._config = config
        self._registry = Registry(config.home)
        self._audit = Audit(config.home)
        self._people = policy.of_model(Path(config.model), config.people)

    def seal(
        self, clip: Clip, reports: Mapping[str, Report], facts: Mapping[str, Any], alive: Callable[[], None]
    ) -> Sealed:
        """Signs the file at `clip.partial`, or makes what lies beside it; says how.

        Raises:
            ConsentError: somebody who is to be seen has not agreed to it, or not any more.
            PublishError: the frames are not marked, or the file could not be signed.
            ConfigError, RequirementError: nobody can sign.
        """
        marks = _marks(clip, reports)
        agreed = self._agreed(clip, facts)
        who = signatory(self._config.provenance, self._config.home)
        told = Facts(
            job=str(facts["job"]),
            payload=str(marks["payload"]),
            treatment=self._config.treatment,
            version=metadata.version("understudy"),
            made=datetime.now(UTC),
            model_digest=self._config.digest,
            source_sha256=str(facts["source_sha256"]),
            identities=tuple((each.id, each.digest) for each in agreed.people.values() if each is not None),
            marks={name: marks[name] for name in _MARKS if name in marks},
        )
        try:
            parent, beside = _signed(clip, manifest.compose(told), who, alive)
        except PublishError:  # which says so already
            raise
        except OSError as error:
            raise _unsealed(clip, error) from error
        claim = _read_back(clip, None if beside is None else Path(beside[0]), who, alive)
        return Sealed(_report(marks, claim, who, parent, beside is not None), beside)

    def record(self, clip: Clip, reports: Mapping[str, Report], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the audit's row of a file that is about to get its name; what the report shall say of it.

        Raises:
            ConsentError: somebody has not agreed, by now.
            TableError: the audit could not be written.
        """
        agreed = self._agreed(clip, facts)
        marks = _marks(clip, reports)
        identities = [[each.id, each.digest] for each in agreed.people.values() if each is not None]
        content = {
            **facts,
            "target": clip.target,
            "payload": marks["payload"],
            "model": self._config.digest,
            "identities": identities,
            "marks": {name: marks[name] for name in _MARKS if name in marks},
            "consent": {"policy": agreed.policy, "taken_to_be_the_user": len(agreed.people) - len(identities)},
        }
        row = self._audit.append("published", content)
        written = {"number": row.number, "digest": row.digest}
        return {"provenance": {"payload": marks["payload"], "identities": identities, "audit": written}}

    def _agreed(self, clip: Clip, facts: Mapping[str, Any]) -> Consent:
        config = self._config
        with self._writing_refusals(clip, facts):
            now, origin = datetime.now(UTC), Origin(config.model)
            return policy.check(self._people, config.roles, config.consent, self._registry, now, origin)

    @contextmanager
    def _writing_refusals(self, clip: Clip, facts: Mapping[str, Any]) -> Iterator[None]:
        """Puts into the audit that something was not made: pseudonyms alone, for the sentence may name somebody."""
        try:
            yield
        except ConsentError:
            ids = [[person.id, person.digest] for person in self._people.values() if person is not None]
            content = {"job": facts["job"], "target": clip.target, "model": self._config.digest, "identities": ids}
            self._audit.append("refused", content)
            raise


def _marks(clip: Clip, reports: Mapping[str, Report]) -> Report:
    """What the frames were marked with. Raises PublishError: nobody has looked after that."""
    marks = reports.get(MARKING, {})
    for mark in ("watermark", "label"):
        if not (marks.get(mark) or marks.get(f"{mark}_off_because")):
            raise PublishError(f"{clip.target} is not published: its frames carry no {mark}, and nobody says why")
    return {"payload": f"{clip.payload:012x}", **marks}


def _signed(
    clip: Clip, definition: Mapping[str, Any], who: Signatory, alive: Callable[[], None]
) -> tuple[Parent | None, tuple[str, str] | None]:
    """Leaves the signed file at `clip.partial`; the source as it was found, what has to lie beside. Raises OSError."""
    partial, source = Path(clip.partial), Path(clip.source)
    if credentials.mime_for(partial) is None:
        store, parent = credentials.sign_detached(partial, source, definition, who, alive)
        target = str(credentials.detached_path(clip.target))
        write(partial_path(target, clip.id), store)
        return parent, (partial_path(target, clip.id), target)
    into = Path(partial_path(str(path_beside(clip.target, SEALING)), clip.id))
    parent = credentials.sign(partial, source, definition, who, into, alive)
    into.replace(partial)
    return parent, None


def _read_back(clip: Clip, detached: Path | None, who: Signatory, alive: Callable[[], None]) -> Claim:
    """What the file says of itself now. Raises PublishError: not what was signed."""
    found = reading.read(Path(clip.partial), detached, (who.chain_pem,), alive)
    if found.state is not State.TRUSTED or found.claim is None:
        why = "; ".join(found.problems) or f"its credentials are {found.state.value}"
        raise PublishError(f"{clip.target} could not be signed so that it can be verified: {why}")
    return found.claim


def _report(marks: Report, claim: Claim, who: Signatory, parent: Parent | None, is_beside: bool) -> Report:
    report: Report = {"credentials": "beside" if is_beside else "embedded", "signer": who.subject}
    if not claim.timestamped:
        report["signed_until"] = who.expires.isoformat(timespec="seconds")
    if parent is not None and parent.credentials.state is not State.NONE:
        report["input_credentials"] = parent.credentials.state.value
    for name in ("found_payload", "found_confidence"):
        if name in marks:
            report[f"input_{name.removeprefix('found_')}"] = marks[name]
    return report


def _unsealed(clip: Clip, error: OSError) -> PublishError:
    failed = PublishError(f"{clip.target} could not be signed: {(error.strerror or str(error)).lower()}")
    failed.errno = error.errno
    return failed
