"""The audit's head: the number and the digest of its newest row, signed, so that rows cut off at the end are missed.

It lies in the table, written with the row, and once more beside it, in audit.head, written after that: an older table
that takes the newer one's place does not fit what lies beside. The signature is Ed25519's (RFC 8032), with the key that
signs identities.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipeline.consent import private
from pipeline.provenance.audit_row import GENESIS
from pipeline.provenance.home import Home

_PREFIX = b"understudy audit head 1\n"

_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Head:
    """Number and digest of a row (0 and GENESIS: there is none yet), and the signature in hexadecimal."""

    number: int
    digest: str
    signature: str

    def is_genuine(self, key: Ed25519PublicKey) -> bool:
        """Whether that key's owner has signed it."""
        try:
            key.verify(bytes.fromhex(self.signature), _signed(self.number, self.digest))
        except (InvalidSignature, ValueError):
            return False
        return True

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return {"number": self.number, "digest": self.digest, "signature": self.signature}


def signed(number: int, digest: str, key: Ed25519PrivateKey) -> Head:
    """The head of an audit that ends with this row."""
    return Head(number, digest, key.sign(_signed(number, digest)).hex())


def none_yet(key: Ed25519PrivateKey) -> Head:
    """That of an audit that is about to begin."""
    return signed(0, GENESIS, key)


def _signed(number: int, digest: str) -> bytes:
    return _PREFIX + f"{number}\n{digest}".encode("utf-8", "backslashreplace")


def path_of(home: Home) -> Path:
    """Where it lies beside the table."""
    return home.audit.with_suffix(".head")


def read(path: Path) -> Head | None:
    """The head in the file; None where there is no file. Raises ValueError where it is no head, OSError."""
    try:
        content = private.read(path, _LONGEST)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(found, dict) or found.keys() != {"number", "digest", "signature"}:
        raise ValueError("other keys")
    head = Head(found["number"], found["digest"], found["signature"])
    if type(head.number) is not int or not (isinstance(head.digest, str) and isinstance(head.signature, str)):
        raise ValueError("values of other types")
    return head


def write(path: Path, head: Head) -> None:
    """Replaces the file; it is on the disk when this returns. OSError leaves it as it was."""
    private.write(path, json.dumps(head.as_json()).encode())
