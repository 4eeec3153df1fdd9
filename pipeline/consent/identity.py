"""Whose face it is and what has been agreed to: the file identity.yaml in the folder of a person's face set.

    version: 1
    id: id-0123456789abcdef           a pseudonym, drawn at random; the name is nowhere
    kind: consented                   self, consented, licensed, synthetic, public-domain-test
    scope:
      roles: [train, appear, replace]
      purposes: [film]                empty: any, and so are the next two
      projects: []
      territory: [DE, AT]
      excluded: [advertising]         never, whatever else is said
    issued: 2026-08-01T10:00:00Z
    valid: {from: 2026-08-01T00:00:00Z, until: 2027-07-31T23:59:59Z}     until: open has no end
    evidence:
    - {kind: release, sha256: ...}
    contact: consent@example.org      where it can be taken back
    signature: {key: ..., value: ...} Ed25519 (RFC 8032): public key and signature in hexadecimal; may be missing

What is signed, and digested, is the canonical JSON (RFC 8785) of all but the signature, so neither comments nor the
order of keys nor the way in which a time is written matter; the signature is on that with a prefix of its own, so that
it says nothing but this. To sign a file later does not change its digest.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipeline.consent import forms, plain_yaml, private
from pipeline.errors import ConsentError

VERSION = 1
FILE = "identity.yaml"

#: The longest file that is read, in bytes; real ones have one thousand.
LONGEST = 64 << 10

#: On whose word a face may be used.
KINDS = ("self", "consented", "licensed", "synthetic", "public-domain-test")

#: What may be done with it: be learnt; be put on others; be replaced in footage.
ROLES = ("train", "appear", "replace")

#: What shows that it was agreed to.
EVIDENCE = ("release", "contract", "video", "other")

#: Kinds in which somebody else has agreed: they need evidence, and an address for taking it back.
AGREED = ("consented", "licensed")

#: The word for a validity without an end.
OPEN = "open"

#: All but the signature, in the order in which people read them.
_KEYS = ("version", "id", "kind", "scope", "issued", "valid", "evidence", "contact")

_ID = re.compile(r"id-[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY, _SIGNATURE = _SHA256, re.compile(r"[0-9a-f]{128}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?P<time>T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2}))?")

_LONGEST_WORD, _LONGEST_CONTACT = 64, 200

_PREFIX = b"understudy identity 1\n"

_COMMENT = """\
# Whose face this is, and what has been agreed to. It belongs into the folder of the person's face set and goes into
# every model that is trained on it. Keep it to yourself: it says that this person's faces are here.
#
# `id` stands for the person; the name is nowhere. An empty list of purposes, projects or territory allows any;
# `excluded` never. `evidence` is only digests of the papers, which you keep. Whoever agreed can take it back at
# `contact`; then run: understudy identity revoke ID --because TEXT
#
# A change by hand breaks the signature: use `understudy identity renew`, or sign again with `understudy identity sign`.
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """What has been agreed to.

    Attributes:
        roles: of `ROLES`.
        purposes, projects, territory: words of which one must be asked for; empty: any.
        excluded: words that are refused wherever they are asked for.
    """

    roles: tuple[str, ...] = ROLES
    purposes: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    territory: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        forms.check_each("roles", self.roles, forms.one_of(ROLES))
        for name in ("purposes", "projects", "territory", "excluded"):
            forms.check_each(name, getattr(self, name), lambda word: forms.check_line("a word", word, _LONGEST_WORD))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What shows that it was agreed to: one of `EVIDENCE`, and the file's SHA-256 in hexadecimal."""

    kind: str
    sha256: str

    def __post_init__(self) -> None:
        forms.one_of(EVIDENCE)(self.kind)
        forms.check_form("evidence's sha256", self.sha256, _SHA256, "64 hexadecimal digits")


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature: the public key that it names, 64 hexadecimal digits, and its value, 128."""

    key_id: str
    value: str

    def __post_init__(self) -> None:
        forms.check_form("the signature's key", self.key_id, _KEY, "64 hexadecimal digits")
        forms.check_form("the signature's value", self.value, _SIGNATURE, "128 hexadecimal digits")


@dataclass(frozen=True, slots=True)
class Identity:
    """One version of what a person has agreed to. Times are aware, in UTC, whole seconds. Raises ValueError.

    Attributes:
        id: the pseudonym, `id-` and 16 hexadecimal digits; the same in all versions.
        kind: one of `KINDS`.
        issued: when this version was made; of two, the later one counts.
        valid_from, valid_until: both included; None: open.
        contact: where it can be taken back: an address, a telephone number, a desk; may be empty for most kinds.
    """

    id: str
    kind: str
    scope: Scope
    issued: datetime
    valid_from: datetime
    valid_until: datetime | None = None
    evidence: tuple[Evidence, ...] = ()
    contact: str = ""
    signature: Signature | None = None

    def __post_init__(self) -> None:
        check_id(self.id)
        forms.one_of(KINDS)(self.kind)
        moments = [self.issued, self.valid_from, *([self.valid_until] if self.valid_until else [])]
        if any(moment.tzinfo is not UTC or moment.microsecond for moment in moments):
            raise ValueError("times must be in UTC, in whole seconds")
        if self.valid_until is not None and self.valid_until < self.valid_from:
            raise ValueError(f"it would end, {written(self.valid_until)}, before it begins, {written(self.valid_from)}")
        forms.check_each("evidence", self.evidence, lambda each: None)
        if self.contact or self.kind in AGREED:
            forms.check_line(f"contact (which {self.kind} needs)", self.contact, _LONGEST_CONTACT)
        if self.kind in AGREED and not self.evidence:
            raise ValueError(f"evidence must not be empty: {self.kind} needs a release, a contract or a video")

    @property
    def digest(self) -> str:
        """SHA-256 of all but the signature, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def canonical(self) -> bytes:
        """All but the signature as canonical JSON (RFC 8785): keys in order, no blanks, UTF-8."""
        return json.dumps(_tree(self), ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def new_id() -> str:
    """A pseudonym that nobody has: 64 random bits."""
    return f"id-{secrets.token_hex(8)}"


def check_id(text: str) -> None:
    """Raises ValueError where this is no pseudonym."""
    forms.check_form("id", text, _ID, "id- and 16 hexadecimal digits")


def moment(text: str, at_end: bool = False) -> datetime:
    """A time such as 2027-12-31T18:00:00+01:00, or a date: its first second in UTC, or its last if `at_end`.

    Raises ValueError: it is neither, says no offset from UTC, or is not in the calendar.
    """
    match = _MOMENT.fullmatch(text)
    wanted = "a date such as 2027-12-31, or a time with its offset such as 2027-12-31T18:00:00Z"
    if match is None:
        raise ValueError(f"{text[:40]!r} must be {wanted}")
    try:
        return datetime.fromisoformat(text if match["time"] else f"{text}T{_day(at_end)}Z").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is not in the calendar; give {wanted}") from error


def _day(at_end: bool) -> str:
    return "23:59:59" if at_end else "00:00:00"


def written(moment: datetime) -> str:
    """A time in UTC as it stands in files: 2027-12-31T18:00:00Z."""
    return moment.isoformat().replace("+00:00", "Z")


def read(path: Path) -> Identity:
    """The identity in a file.

    Raises:
        ConsentError: it is missing, cannot be read, or is not what `parse` takes.
    """
    try:
        data = private.read(path, LONGEST)
    except FileNotFoundError as error:
        raise ConsentError(f"{path} does not exist; `understudy identity add FACESET --self` makes one") from error
    except OSError as error:
        raise ConsentError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConsentError(f"{path} is no identity file: {error}") from error
    return parse(data, str(path))


def in_face_set(folder: Path) -> Identity | None:
    """The identity of whom a face set shows; None where it has none. Raises ConsentError, as `read`."""
    file = folder / FILE
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConsentError(f"{file} cannot be read: {error.strerror}") from error
    return read(file)


def parse(data: bytes, where: str) -> Identity:
    """The identity that an identity.yaml holds; `where` is what an error calls it.

    Raises:
        ConsentError: it is too long, no such YAML, has a key too many or too few, or a value that cannot be.
    """
    try:
        if len(data) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST >> 10} KiB")
        return _from_tree(plain_yaml.load(data))
    except ValueError as error:
        raise ConsentError(f"{where} is no identity file that can be used: {error}") from error


def to_bytes(identity: Identity) -> bytes:
    """The content of an identity.yaml, which `parse` reads back: a comment for people, then YAML in UTF-8."""
    tree = _tree(identity)
    ordered: dict[str, Any] = {name: tree[name] for name in _KEYS}
    if (signature := identity.signature) is not None:
        ordered["signature"] = {"key": signature.key_id, "value": signature.value}
    return (_COMMENT + yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=1 << 16)).encode()


def signed(identity: Identity, key: Ed25519PrivateKey) -> Identity:
    """The same, signed with `key` in the place of whoever has signed it before."""
    value = key.sign(_PREFIX + identity.canonical)
    return replace(identity, signature=Signature(key_id(key.public_key()), value.hex()))


def is_genuine(identity: Identity, keys: Sequence[Ed25519PublicKey]) -> bool:
    """Whether it is signed by one of these keys, and nothing in it has changed since."""
    signature = identity.signature
    if signature is None or signature.key_id not in map(key_id, keys):
        return False
    return not is_forged(identity)


def is_forged(identity: Identity) -> bool:
    """Whether there is a signature, but not by the key that it names or not on what the file says now."""
    signature = identity.signature
    return signature is not None and not verifies(signature, _PREFIX + identity.canonical)


def verifies(signature: Signature, message: bytes) -> bool:
    """Whether the signature on `message` is by the key that it names, be that whose it may."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.key_id))
        key.verify(bytes.fromhex(signature.value), message)
    except (InvalidSignature, ValueError):  # the latter: 32 bytes that are no key
        return False
    return True


def key_id(key: Ed25519PublicKey) -> str:
    """What a key is called: its 32 bytes (RFC 8032) in hexadecimal."""
    return key.public_bytes_raw().hex()


def _tree(identity: Identity) -> dict[str, Any]:
    """All but the signature, as JSON's types."""
    scope, until = identity.scope, identity.valid_until
    return {
        "version": VERSION,
        "id": identity.id,
        "kind": identity.kind,
        "scope": {name: list(getattr(scope, name)) for name in Scope.__slots__},
        "issued": written(identity.issued),
        "valid": {"from": written(identity.valid_from), "until": OPEN if until is None else written(until)},
        "evidence": [{"kind": each.kind, "sha256": each.sha256} for each in identity.evidence],
        "contact": identity.contact,
    }


def _from_tree(tree: plain_yaml.Value) -> Identity:
    """The other way. Raises ValueError."""
    given = forms.mapping("it", tree, _KEYS, may=("signature",))
    if given["version"] != str(VERSION):
        raise ValueError(f"its version is not {VERSION}, which this program reads")
    valid = {
        name: forms.text(f"valid.{name}", value)
        for name, value in forms.mapping("valid", given["valid"], ("from", "until")).items()
    }
    scope = forms.mapping("scope", given["scope"], tuple(Scope.__slots__))
    return Identity(
        id=forms.text("id", given["id"]),
        kind=forms.text("kind", given["kind"]),
        scope=Scope(**{name: forms.listed(f"scope.{name}", words, forms.text) for name, words in scope.items()}),
        issued=moment(forms.text("issued", given["issued"])),
        valid_from=moment(valid["from"]),
        valid_until=None if valid["until"] == OPEN else moment(valid["until"], at_end=True),
        evidence=forms.listed("evidence", given["evidence"], _evidence),
        contact=forms.text("contact", given["contact"]),
        signature=_signature(given["signature"]) if "signature" in given else None,
    )


def _evidence(what: str, value: plain_yaml.Value) -> Evidence:
    given = forms.mapping(what, value, ("kind", "sha256"))
    return Evidence(forms.text(what, given["kind"]), forms.text(what, given["sha256"]))


def _signature(value: plain_yaml.Value) -> Signature:
    given = forms.mapping("signature", value, ("key", "value"))
    return Signature(forms.text("signature.key", given["key"]), forms.text("signature.value", given["value"]))
