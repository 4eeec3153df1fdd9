"""Whether the audit is what was written: row by row against the chain, and its end against the signed heads.

Found is every row that was changed, moved, put in or taken out, at the end as well, and a table or a head that is gone
or another's. Not found is who brings table and head together back to a state that they were in before, and whoever has
the key. For these there are the reports beside the results, which have the number and the digest of their row
(`understudy provenance verify`), and copies elsewhere (`understudy audit export`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pipeline import database
from pipeline.database import Damaged, Database
from pipeline.errors import TableError
from pipeline.provenance import audit_head
from pipeline.provenance.audit_head import Head
from pipeline.provenance.audit_row import BROKEN, COLUMNS, EVENTS, GENESIS, SCHEMA, Row, as_row, mentions

#: Faults that are told one by one.
MOST_FAULTS = 1000

_PAGE = 1000  # rows read at once

_MENTIONED = "SELECT number, CAST(kind AS BLOB), CAST(value AS BLOB) FROM mention WHERE number BETWEEN ? AND ?"

_SNAPSHOT = (
    "SELECT (SELECT max(number) FROM audit), CAST(number AS BLOB), CAST(digest AS BLOB), CAST(signature AS BLOB)"
    " FROM (SELECT 1) LEFT JOIN head"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at the whole audit has found.

    Attributes:
        rows: how many there are.
        head: the newest one's digest; GENESIS where there is none.
        faults: a sentence each, in the order of the rows; none: the audit is what was written.
    """

    rows: int
    head: str
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ends:
    """The audit's end at one moment, as the table has it and as it is signed.

    Attributes:
        last: the newest row's number, 0 where there is none.
        own: the head in the table; None where there is none.
        beside: the head in the file; None where there is none, or (`is_none`) something else.
    """

    last: int
    own: Head | None
    beside: Head | None
    is_none: bool = False

    def begun(self) -> bool:
        """Whether there are rows, or signs that there were."""
        return bool(self.last or self.own or self.beside or self.is_none)


def ends(held: Database | None, path: Path) -> Ends:
    """Looks at them; `held` is None where there is no table. Raises TableError, OSError."""
    # The file's first: the table's is then at least as new, whoever is writing.
    beside, is_none = _beside(path)
    if held is None:
        return Ends(0, None, beside, is_none)
    last, *columns = held.read(_SNAPSHOT)[0]
    own = None
    if columns[0] is not None:
        number, digest, signature = (bytes(value or b"").decode("ascii", "replace") for value in columns)
        own = Head(int(number) if number.isdecimal() else -1, digest, signature)
    if beside is None and not is_none:  # the first row may have been written meanwhile, and the head before it
        beside, is_none = _beside(path)
    return Ends(int(last or 0), own, beside, is_none)


def _beside(path: Path) -> tuple[Head | None, bool]:
    try:
        return audit_head.read(path), False
    except ValueError:
        return None, True


def end_faults(held: Database | None, end: Ends, key: Ed25519PublicKey | None) -> list[str]:
    """What is wrong with the audit's end, a sentence each. Raises TableError."""
    if not end.begun():
        return []
    faults = []
    if end.beside is None:
        faults.append("audit.head is no head of an audit" if end.is_none else "audit.head is missing")
    if end.own is None and end.last:
        faults.append("the table has no head of its own")
    if key is None:
        return [*faults, "identity.key is missing, with which the head was signed: nobody can tell whether it is ours"]
    for called, head in (("the head in the table", end.own), ("audit.head", end.beside)):
        if head is not None:
            faults += _head_faults(held, end.last, called, head, key)
    if end.own is not None and 0 <= end.own.number < end.last:
        faults.append(f"{_rows(end.own.number + 1, end.last)} not written by this program: no signature covers them")
    return list(dict.fromkeys(faults))


def _head_faults(held: Database | None, last: int, called: str, head: Head, key: Ed25519PublicKey) -> Iterator[str]:
    if not head.is_genuine(key):
        yield f"{called} is not signed with identity.key: it is another audit's, or has been changed"
        return
    if head.number > last:
        yield _missing(last + 1, head.number)
        return
    if head.number == 0 or held is None:
        return
    found = held.read("SELECT CAST(digest AS BLOB) FROM audit WHERE number = ?", (head.number,))
    if found and found[0][0] != head.digest.encode():
        yield f"row {head.number} is not the one that was signed"


def verify(table: Path, beside: Path, key: Ed25519PublicKey | None) -> Verdict:
    """Reads all of it, in bounded memory, while others may go on writing.

    Raises TableError, OSError where something cannot be read; what is damaged is a fault.
    """
    check = _Check()
    try:
        with looking(table) as held:
            end = ends(held, beside)
            if held is not None:
                for page in _pages(held, end.last):
                    check.page(page, _mentioned(held, page))
            at_end = end_faults(held, end, key)
    except Damaged as error:
        at_end = [str(error)]
    return check.verdict(at_end)


@contextmanager
def looking(table: Path) -> Iterator[Database | None]:
    """The table for reading; None where there is none, or one that somebody is making, or died while making it.

    Raises TableError.
    """
    try:
        held = database.looked_at(table, SCHEMA)
    except TableError as error:
        if error.errno != errno.ENOENT:
            raise
        yield None
        return
    with closing(held):
        yield held


def _pages(held: Database, last: int) -> Iterator[list[Row]]:
    number = -(1 << 63)
    statement = f"SELECT {COLUMNS} FROM audit WHERE number > ? AND number <= ? ORDER BY number LIMIT {_PAGE}"  # noqa: S608
    while page := [as_row(columns) for columns in held.read(statement, (number, last))]:
        yield page
        number = page[-1].number


def _mentioned(held: Database, page: list[Row]) -> dict[int, set[tuple[str, str]]]:
    """What each of these rows is found by."""
    known: dict[int, set[tuple[str, str]]] = {}
    for number, *words in held.read(_MENTIONED, (page[0].number, page[-1].number)):
        kind, value = (bytes(word).decode("ascii", "replace") for word in words)
        known.setdefault(number, set()).add((kind, value))
    return known


class _Check:
    """Goes along the chain."""

    def __init__(self) -> None:
        self._rows = 0
        self._number = 0
        self._digest = self._computed = GENESIS
        self._faults: list[str] = []
        self._more = 0

    def verdict(self, at_end: list[str]) -> Verdict:
        """What was found, and what is wrong at the end."""
        faults = [*self._faults, *([f"and {self._more} more"] if self._more else [])]
        return Verdict(self._rows, self._digest, tuple(dict.fromkeys([*faults, *at_end])))

    def page(self, page: list[Row], known: Mapping[int, set[tuple[str, str]]]) -> None:
        """The next rows, and what each is found by."""
        for row in page:
            self._rows += 1
            if row.number < 1:
                self._fault(f"row {row.number} was not written by this program")
                continue
            computed = row.computed
            self._place(row, computed)
            if computed != row.digest:
                self._fault(f"row {row.number} has been changed")
            else:
                self._content(row, known.get(row.number, set()))
            self._number, self._digest, self._computed = row.number, row.digest, computed

    def _place(self, row: Row, computed: str) -> None:
        if row.number > self._number + 1:
            self._fault(_missing(self._number + 1, row.number - 1))
        # One that has been changed follows nothing. The row before may have lost its digest alone, and is named then.
        elif computed == row.digest and row.previous not in (self._digest, self._computed):
            self._fault(f"row {row.number} does not follow row {row.number - 1}: one of them is not what it was")

    def _content(self, row: Row, known: set[tuple[str, str]]) -> None:
        if known != mentions(row.facts):
            self._fault(f"row {row.number} is not found any more by what it tells of: the index has been changed")
        if row.event == BROKEN:
            self._fault(f"row {row.number}, of {row.at}, tells what was wrong then: {_told(row)}")
        elif row.event not in EVENTS:
            self._fault(f"row {row.number} was not written by this program: it tells of {row.event!r}")

    def _fault(self, sentence: str) -> None:
        if len(self._faults) < MOST_FAULTS:
            self._faults.append(sentence)
        else:
            self._more += 1


def _told(row: Row) -> str:
    faults = row.facts.get("faults")
    return "; ".join(map(str, faults)) if isinstance(faults, list) else "nobody knows what"


def _rows(first: int, last: int) -> str:
    return f"row {first} was" if first == last else f"rows {first} to {last} were"


def _missing(first: int, last: int) -> str:
    return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
