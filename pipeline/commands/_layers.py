"""The layers of marks that a file may carry, each looked at by itself, and what they come to together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline import originals, result
from pipeline.errors import InputError
from pipeline.provenance import credentials
from pipeline.provenance.audit import Audit, Row
from pipeline.provenance.credentials import Credentials
from pipeline.provenance.credentials import State as Signed
from pipeline.provenance.verdict import Claim, Ingredient
from stages import containers, tags, watermark_finder
from stages.watermark_finder import Found

#: In the order in which they are shown.
CREDENTIALS, REPORT, AUDIT, TAGS, WATERMARK = "credentials", "report", "audit", "tags", "watermark"

#: People that are named one by one.
_MOST = 20


class State(StrEnum):
    """What a layer does: it proves that the file is whole, tells something, is not there, or tells of a change."""

    PROVES = "proves"
    TELLS = "tells"
    ABSENT = "absent"
    CONTRADICTS = "contradicts"


@dataclass(frozen=True, slots=True)
class Layer:
    """One of them.

    Attributes:
        says: what there is to say of it, a line each; the first one is enough by itself.
        facts: the same for programs.
    """

    name: str
    state: State
    says: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trust:
    """What is known here.

    Attributes:
        own, others: PEM certificates of our authorities, and of further ones that are trusted.
        key: of our watermark, 32 bytes; None: there is none.
    """

    audit: Audit
    own: Sequence[bytes]
    others: Sequence[bytes]
    key: bytes | None


@dataclass(frozen=True, slots=True)
class Looked:
    """A file that was looked at, and all that was found."""

    path: Path
    sha256: str
    layers: tuple[Layer, ...]

    @property
    def state(self) -> State:
        """PROVES: something that is trusted here says where it comes from and that not a bit has changed."""
        found = {layer.state for layer in self.layers}
        return next(state for state in (State.CONTRADICTS, State.PROVES, State.TELLS, State.ABSENT) if state in found)

    @property
    def verdict(self) -> str:
        """All of it in a sentence."""
        state = self.state
        first = next(layer for layer in self.layers if layer.state is state)
        if state is State.CONTRADICTS:
            return f"not what it was: {first.says[0]}"
        if state is State.PROVES:
            return f"whole: {first.says[0]}"
        told = ", ".join(layer.name for layer in self.layers if layer.state is State.TELLS)
        if told:
            return f"not proven: it has marks ({told}), but none that is trusted here and covers every bit"
        return "not proven: it has no marks; where it comes from cannot be told"


def look(path: Path, trust: Trust) -> Looked:
    """Looks at all layers of a file. Raises InputError where it cannot be read, TableError where the audit can't."""
    containers.check_regular(str(path))
    digest = sha256(path)
    signed, own = _read(path, trust)
    report = result.read(result.path_for(str(path)))
    found = _detected(path, trust.key)
    layers = (
        _credentials(signed, own),
        _report(report, digest),
        _audit(trust.audit, digest, report if own else None) or _audit_of(trust.audit, _payloads(found), signed.state),
        _tags(path),
        _watermark(found, trust.key, signed.facts if own else {}),
    )
    return Looked(path, digest, layers)


def sha256(path: Path) -> str:
    """The digest of a file's content. Raises InputError."""
    try:
        return originals.digest(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _read(path: Path, trust: Trust) -> tuple[Credentials, bool]:
    """What its credentials say, and whether it is one of our own authorities that vouches for them."""
    beside = credentials.detached_path(str(path))
    found = credentials.read(path, beside, trust.own)
    if found.state is Signed.VALID and trust.others:
        return credentials.read(path, beside, (*trust.own, *trust.others)), False
    return found, found.state is Signed.TRUSTED


def _credentials(found: Credentials, own: bool) -> Layer:
    facts = {
        "validation": found.state.value,
        "own": own,
        "problems": list(found.problems),
        "notes": list(found.notes),
        "detached": found.detached,
        "claim": _claim_facts(found.claim),
        "ingredients": [
            {"depth": each.depth, "problems": list(each.problems), "claim": _claim_facts(each.claim)}
            for each in found.ingredients
        ],
    }
    if found.state is Signed.NONE:
        return Layer(CREDENTIALS, State.ABSENT, ("none",), facts)
    details = [*_done(found.claim), *(_made_from(each) for each in found.ingredients), *found.notes]
    if found.state is Signed.INVALID:
        first, *more = found.problems or ("the content credentials do not hold",)
        says = [first, *more, *([f"they say to be signed by {found.signer}"] if found.signer else []), *details]
        return Layer(CREDENTIALS, State.CONTRADICTS, tuple(says), facts)
    when = f" on {found.signed_at:%d %B %Y}" if found.signed_at else ""
    said = f"signed by {found.signer or 'somebody without a name'}{when}, and not a bit has changed since"
    if found.state is Signed.TRUSTED:
        return Layer(CREDENTIALS, State.PROVES, (said, *details), facts)
    return Layer(CREDENTIALS, State.TELLS, (f"{said}; but nobody whom we trust vouches for that name", *details), facts)


def _done(claim: Claim | None) -> Iterator[str]:
    """What a claim says was done, and to whom."""
    if claim is None:
        return
    done = [
        each.action.removeprefix("c2pa.") + (f" ({each.source_type.rpartition('/')[2]})" if each.source_type else "")
        for each in claim.actions
    ]
    if done:
        yield f"done by {claim.generator or 'an unnamed program'}: {', '.join(done)}"
    said = claim.facts
    people = [_short(each.get("id")) for each in _list(said.get("identities"))[:_MOST] if isinstance(each, dict)]
    told = {"job": _short(said.get("job")), "model": _short(said.get("model")), "identities": ", ".join(people)}
    if any(told.values()):
        yield "; ".join(f"{name} {value}" for name, value in told.items() if value)
    marks = said.get("marks")
    for name in ("watermark", "label"):
        if isinstance(marks, dict) and (why := _short(marks.get(f"{name}_off_because"), 200)):
            yield f"without a {name}: {why}"


def _made_from(ingredient: Ingredient) -> str:
    claim = ingredient.claim
    who = f", signed by {claim.signer or 'nobody'}" if claim else ", which had no credentials that could be kept"
    wrong = f": {'; '.join(ingredient.problems)}" if ingredient.problems else ""
    return f"{'  ' * (ingredient.depth - 1)}made from {ingredient.title or 'a file'}{who}{wrong}"


def _claim_facts(claim: Claim | None) -> dict[str, Any] | None:
    if claim is None:
        return None
    return {
        "generator": claim.generator,
        "signer": claim.signer,
        "issuer": claim.issuer,
        "signed_at": _iso(claim.signed_at),
        "timestamped": claim.timestamped,
        "expires": _iso(claim.expires),
        "actions": [{"action": each.action, "source_type": each.source_type} for each in claim.actions],
        "facts": dict(claim.facts),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _report(report: Mapping[str, Any] | None, digest: str) -> Layer:
    if report is None:
        return Layer(REPORT, State.ABSENT, ("none",))
    output = report.get("output")
    told = output.get("sha256") if isinstance(output, dict) else None
    facts = {"job": report.get("job"), "sha256": told, "audit": row_named(report)}
    if not _is_hex(told, 64):
        return Layer(REPORT, State.TELLS, ("it does not say of which bytes it tells",), facts)
    if told != digest:
        said = "the report beside it tells of other bytes: the file has been changed since, or is another one"
        return Layer(REPORT, State.CONTRADICTS, (said,), facts)
    return Layer(REPORT, State.TELLS, ("the report beside it tells of these very bytes",), facts)


def row_named(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The audit's row that a report names: {"number", "digest"}."""
    within = report.get("provenance")
    for place in (report, within if isinstance(within, dict) else {}):
        named = place.get("audit")
        if isinstance(named, dict) and type(named.get("number")) is int and _is_hex(named.get("digest"), 64):
            return {"number": named["number"], "digest": named["digest"]}
    return None


def _audit(audit: Audit, digest: str, report: Mapping[str, Any] | None) -> Layer | None:
    """What the audit knows of these bytes; None: nothing.

    `report` is that of a file which was signed here: the row that it names must be there.
    """
    named = row_named(report) if report is not None else None
    if named is not None and not _has(audit, named):
        said = f"the audit lacks row {named['number']}, which the report beside it names: rows were lost or changed"
        return Layer(AUDIT, State.CONTRADICTS, (said,), {"missing": named})
    row = first_row(audit, digest=digest)
    if row is None:
        return None
    said = f"published here by {told_of(row)}, and not a bit has changed since"
    return Layer(AUDIT, State.PROVES, (said,), _row_facts(row))


def _audit_of(audit: Audit, payloads: Sequence[str], signed: Signed) -> Layer:
    """What it knows of the job that the watermark leads to, whose bytes were others."""
    for payload in payloads:
        row = first_row(audit, payload=payload)
        if row is None:
            continue
        if signed is Signed.TRUSTED:  # that covers every bit: the same was made once more, elsewhere
            return Layer(AUDIT, State.TELLS, (f"the watermark leads to {told_of(row)}",), _row_facts(row))
        said = f"made here by {told_of(row)}, but these are not the bytes that were published: it was changed since"
        return Layer(AUDIT, State.CONTRADICTS, (said,), _row_facts(row))
    return Layer(AUDIT, State.ABSENT, ("nothing is known of it here",))


def _has(audit: Audit, named: Mapping[str, Any]) -> bool:
    row = audit.row(named["number"]) if 0 < named["number"] < 1 << 62 else None
    return row is not None and row.digest == named["digest"] == row.computed


def first_row(audit: Audit, digest: str = "", payload: str = "") -> Row | None:
    """The newest row of a result with these bytes or this payload that is as it was written."""
    with closing(audit.rows("published", digest=digest, payload=payload)) as rows:
        fit = (row for row in rows if row.computed == row.digest)
        return next((row for row in fit if not digest or row.facts.get("output_sha256") == digest), None)


def told_of(row: Row) -> str:
    """The job of a row, in a few words."""
    return f"job {row.facts.get('job')} at {row.at[:19].replace('T', ' ')} UTC (row {row.number} of the audit)"


def _row_facts(row: Row) -> dict[str, Any]:
    return {"number": row.number, "at": row.at, "digest": row.digest, "facts": dict(row.facts)}


def _tags(path: Path) -> Layer:
    try:
        with closing(containers.open_input(str(path))) as container:
            found = tags.read(dict(container.metadata))
    except InputError:
        return Layer(TAGS, State.ABSENT, ("it cannot be read as a video",))
    facts = {"aigc": found.aigc, "source_type": found.source_type}
    said = []
    if found.aigc is not None:
        fields = found.fields
        who = f" by {fields['ContentProducer']}" if fields.get("ContentProducer") else ""
        said.append(f"AIGC label{who}" + (f", product {fields['ProduceID']}" if fields.get("ProduceID") else ""))
    if found.source_type is not None:
        said.append(f"digital source type {found.source_type.rpartition('/')[2] or found.source_type}")
    if not said:
        return Layer(TAGS, State.ABSENT, ("none",), facts)
    return Layer(TAGS, State.TELLS, (", ".join(said),), facts)


def _detected(path: Path, key: bytes | None) -> Found | None:
    try:
        return None if key is None else watermark_finder.detect(str(path), key)
    except InputError:
        return None  # the tags' layer says so


def _payloads(found: Found | None) -> list[str]:
    return [] if found is None else [f"{payload:012x}" for payload in (found.payload, *found.others)]


def _watermark(found: Found | None, key: bytes | None, signed: Mapping[str, Any]) -> Layer:
    """`signed`: what a manifest of ours says, whose payload must be among those found."""
    if key is None:
        return Layer(WATERMARK, State.ABSENT, ("there is no key here to look with",))
    if found is None:
        return Layer(WATERMARK, State.ABSENT, ("none of ours is found",))
    payloads = _payloads(found)
    facts = {"payloads": payloads, "confidence": found.confidence, "agreement": found.agreement}
    told = signed.get("payload")
    if _is_hex(told, 12) and told not in payloads:
        said = f"the picture says {payloads[0]}, the credentials say {told}"
        return Layer(WATERMARK, State.CONTRADICTS, (said,), facts)
    said = f"{', '.join(payloads)}, confidence {confidence(found)}"
    return Layer(WATERMARK, State.TELLS, (said,), facts)


def confidence(found: Found) -> str:
    """How sure a watermark is, never rounded up to certainty."""
    return f"{min(found.confidence, 0.999999):.6f}"


def _is_hex(value: object, digits: int) -> bool:
    return isinstance(value, str) and len(value) == digits and not set(value) - set("0123456789abcdef")


def _short(value: object, longest: int = 20) -> str:
    """A text of a manifest, which is anybody's."""
    return value[:longest] if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
