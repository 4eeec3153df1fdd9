"""A row of the audit: what it says, its digest, and how it lies in SQLite.

The digest is the SHA-256 of a prefix and a JSON array (ASCII, no blanks) of number, at, event, facts and previous.
There facts is JSON in a text, its keys sorted, and previous the digest of the row before: each row so vouches for all
before it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.database import Schema

#: What a row may tell of.
EVENTS = ("published", "trained", "refused", "identity-added", "identity-revoked", "deleted")

#: What the audit tells of itself: that something was wrong with it when the next row came.
BROKEN = "broken"

#: What comes before the first row.
GENESIS = "0" * 64

#: Bytes of a row's facts, at most.
LONGEST = 1 << 20

_PREFIX = b"understudy audit row 1\n"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_IDENTITY = re.compile(r"id-[0-9a-f]{16}")
_PAYLOAD = re.compile(r"[0-9a-f]{12}")

_KEPT = "the audit keeps what it was told"

# The triggers guard against slips and other programs' habits; whoever can write the file can drop them. What tells then
# is the chain. `mention` is an index: which rows speak of an identity, a digest, a payload. `head` is the newest row's
# number and digest, signed, in the same transaction.
SCHEMA = Schema(
    application=0x554E4155,
    version=1,
    statements=(
        """CREATE TABLE audit (
            number INTEGER PRIMARY KEY, at TEXT NOT NULL, event TEXT NOT NULL, facts TEXT NOT NULL,
            previous TEXT NOT NULL, digest TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE mention (
            kind TEXT NOT NULL, value TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (kind, value, number)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE head (
            one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL, digest TEXT NOT NULL,
            signature TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX by_event ON audit (event, number)",
        "CREATE INDEX mentioned ON mention (number)",
        f"CREATE TRIGGER no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, '{_KEPT}'); END",
        f"CREATE TRIGGER no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, '{_KEPT}'); END",
        f"""CREATE TRIGGER no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE number = NEW.number)
            BEGIN SELECT RAISE(ABORT, '{_KEPT}'); END""",  # noqa: S608  our own words
    ),
    called="the audit",
    mended="run `understudy audit set-aside` to go on with another, which will tell that this one is missing",
    checked=False,  # which takes long for a long one, and says less than the chain
)

#: What SQLite is asked for, in the order that `as_row` takes: as bytes, whatever somebody has put there.
COLUMNS = ", ".join(
    (
        "number",
        *(f"CAST({column} AS BLOB)" for column in ("at", "event")),
        f"substr(CAST(facts AS BLOB), 1, {LONGEST + 1})",
        *(f"CAST({column} AS BLOB)" for column in ("previous", "digest")),
    )
)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that happened.

    Attributes:
        number: from 1 on.
        at: when, UTC, as ISO 8601.
        event: one of `EVENTS`, or BROKEN.
        facts: what there is to say of it, in JSON's types; empty where what lies there is none of ours.
        previous, digest: SHA-256 in hexadecimal, of the row before and of this one.
        written: the facts as they lie in the table.
    """

    number: int
    at: str
    event: str
    facts: Mapping[str, Any]
    previous: str
    digest: str
    written: str

    @property
    def computed(self) -> str:
        """The digest that a row of this content has."""
        said = json.dumps([self.number, self.at, self.event, self.written, self.previous], separators=(",", ":"))
        return hashlib.sha256(_PREFIX + said.encode("ascii")).hexdigest()


def new(number: int, at: str, event: str, facts: Mapping[str, Any], previous: str) -> Row:
    """The row that comes after the one whose digest is `previous`.

    Raises ValueError, TypeError where facts are not JSON's, hold a number that is none, or are longer than LONGEST.
    """
    written = json.dumps(facts, sort_keys=True, allow_nan=False, separators=(",", ":"))
    if len(written) > LONGEST:
        raise ValueError(f"facts of {len(written)} bytes are more than the {LONGEST} that a row of the audit holds")
    bare = Row(number, at, event, json.loads(written), previous, "", written)
    return Row(number, at, event, bare.facts, previous, bare.computed, written)


def as_row(columns: Sequence[Any]) -> Row:
    """The row that lies in these columns, whatever somebody has put there."""
    number, *rest = columns
    at, event, written, previous, digest = ((value or b"").decode("ascii", "replace") for value in rest)
    return Row(number, at, event, _facts(written), previous, digest, written)


def as_columns(row: Row) -> tuple[Any, ...]:
    """What SQLite is given."""
    return row.number, row.at, row.event, row.written, row.previous, row.digest


def _facts(written: str) -> Mapping[str, Any]:
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def mentions(facts: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """What a row can be found by, as (kind, value): its payload, and all identities and digests, however deep."""
    found = set()
    payload = facts.get("payload")
    if isinstance(payload, str) and _PAYLOAD.fullmatch(payload):
        found.add(("payload", payload))
    left: list[Any] = [facts]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, list | tuple):
            left.extend(value)
        elif isinstance(value, str) and _DIGEST.fullmatch(value):
            found.add(("digest", value))
        elif isinstance(value, str) and _IDENTITY.fullmatch(value):
            found.add(("identity", value))
    return frozenset(found)
