"""The audit: an append-only table of what was trained, made, refused and revoked; each row vouches for the last.

A row that `append` returns is on the disk. Any number of processes may append at once. Rows are never changed or
removed: what is to be forgotten is a file (a face set, a result), and that it went is one more row.

Whatever is wrong with the audit's end, work goes on: the next row is put behind what is there, and one before it tells
what was wrong, so that it is never covered up (`audit_check.verify` names it from then on). Only a file that SQLite
cannot read any more has to be set aside by somebody; the first row behind it tells that those before are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline import database
from pipeline.consent.registry import Registry
from pipeline.database import Damaged, Database
from pipeline.errors import TableError
from pipeline.provenance import audit_check, audit_head, audit_row
from pipeline.provenance.audit_check import Verdict
from pipeline.provenance.audit_row import BROKEN, COLUMNS, EVENTS, GENESIS, SCHEMA, Row, as_columns, as_row, mentions
from pipeline.provenance.home import Home

__all__ = ["BROKEN", "EVENTS", "Audit", "Row", "Verdict"]

_log = logging.getLogger(__name__)

_PAGE = 200  # rows read at once

#: A number from here on is nobody's; the table can count twice as far.
_LAST = 1 << 62


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit of a home: files are opened for each call, so any thread may use it. Everything raises TableError where
    the table cannot be read or written, with `errno` where that is known (ENOSPC: the disk is full), and ConsentError
    where the home's key cannot be read.
    """

    home: Home
    clock: Callable[[], datetime] = _now

    def check(self) -> None:
        """Sees that a row could be written now, before hours of work. Raises TableError, ConsentError."""
        Registry(self.home).own_key()
        database.opened(self.home.audit, SCHEMA).close()

    def append(self, event: str, facts: Mapping[str, Any]) -> Row:
        """Writes down what has happened; the row is on the disk when this returns.

        Args:
            event: one of `EVENTS`.
            facts: in JSON's types, of `audit_row.LONGEST` bytes at most. The row is found by "payload" (12 hexadecimal
                digits) and by whatever identities and SHA-256 digests there are, however deep.

        Raises:
            ValueError, TypeError: there is no such event, or facts are not JSON's.
            TableError, ConsentError: nothing has been written.
        """
        if event not in EVENTS:
            raise ValueError(f"event must be one of {', '.join(EVENTS)}, not {event!r}")
        row = audit_row.new(1, "", event, facts, GENESIS)  # what is wrong with facts is said before anything is made
        key = Registry(self.home).own_key()
        with closing(database.opened(self.home.audit, SCHEMA)) as held:
            with held.writing():
                row = self._written(held, key, row)
            self._show(held)
        return row

    def rows(
        self, event: str = "", identity: str = "", digest: str = "", payload: str = "", newest_first: bool = True
    ) -> Generator[Row, None, None]:
        """All rows, or those of an event that tell of an identity, a digest, a payload (empty: of whichever).

        The table is read bit by bit, as rows are asked for.
        """
        told = [each for each in (("payload", payload), ("digest", digest), ("identity", identity)) if each[1]]
        order, beyond, start = ("DESC", "<", (1 << 63) - 1) if newest_first else ("ASC", ">", -1 << 63)
        # The rarest leads, in the order of its index: no page costs more than the rows that it looks at.
        source, number = ("mention CROSS JOIN audit USING (number)", "mention.number") if told else ("audit", "number")
        wanted = ["kind = ? AND value = ?"] if told else []
        wanted += ["EXISTS (SELECT 1 FROM mention AS m WHERE (m.kind, m.value, m.number) = (?, ?, audit.number))"] * (
            len(told) - 1
        )
        wanted += ["event = ?"] if event else []
        statement = (
            f"SELECT {COLUMNS} FROM {source} WHERE {' AND '.join((*wanted, f'{number} {beyond} ?'))}"  # noqa: S608
            f" ORDER BY {number} {order} LIMIT {_PAGE}"
        )
        values = [word for each in told for word in each] + ([event] if event else [])
        with audit_check.looking(self.home.audit) as held:
            while held and (page := [as_row(columns) for columns in held.read(statement, (*values, start))]):
                yield from page
                start = page[-1].number

    def row(self, number: int) -> Row | None:
        """The row of that number; None where there is none."""
        with audit_check.looking(self.home.audit) as held:
            return _row(held, number) if held else None

    def verify(self) -> Verdict:
        """Whether it is what was written; what else is wrong with it is a fault, and each names the row."""
        key = Registry(self.home).own_key().public_key() if self.home.identity_key.exists() else None
        try:
            return audit_check.verify(self.home.audit, self._beside, key)
        except TableError:
            raise
        except OSError as error:
            raise self._refused("cannot be read", error) from error

    def set_aside(self) -> Path:
        """Renames a table that cannot be read any more, and gives its name; the next row tells that it is missing."""
        if not self.home.audit.exists():
            raise TableError(f"there is no audit: {self.home.audit} does not exist")
        return database.set_aside(self.home.audit, SCHEMA.called)

    @property
    def _beside(self) -> Path:
        return audit_head.path_of(self.home)

    def _written(self, held: Database, key: Ed25519PrivateKey, row: Row) -> Row:
        """Puts the row behind what is there, and before it one that tells what is wrong there."""
        try:
            end = audit_check.ends(held, self._beside)
            if not end.begun():
                audit_head.write(self._beside, audit_head.none_yet(key))
                end = audit_check.ends(held, self._beside)
            faults = audit_check.end_faults(held, end, key.public_key())
        except TableError:
            raise
        except OSError as error:
            raise self._refused("cannot be written", error) from error
        last = _row(held, end.last)
        genuine = [head.number for head in (end.own, end.beside) if head and head.is_genuine(key.public_key())]
        number, previous = max(end.last, *genuine, 0), last.digest if last else GENESIS
        if number >= _LAST:
            raise Damaged(f"the audit {self.home.audit} is damaged: there is no number left; {SCHEMA.mended}")
        at = self.clock().astimezone(UTC).isoformat(timespec="milliseconds")
        if faults:
            _log.warning("the audit %s is not what it was: %s", self.home.audit, "; ".join(faults))
            heads = {"own": end.own and end.own.as_json(), "beside": end.beside and end.beside.as_json()}
            told = audit_row.new(number + 1, at, BROKEN, {"faults": faults, "heads": heads}, previous)
            _insert(held, told)
            number, previous = told.number, told.digest
        row = audit_row.new(number + 1, at, row.event, row.facts, previous)
        _insert(held, row)
        head = audit_head.signed(row.number, row.digest, key)
        held.write("INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?)", (head.number, head.digest, head.signature))
        return row

    def _show(self, held: Database) -> None:
        """Has audit.head say what the table's head says. The row is written already, so this must not fail it."""
        try:
            with held.writing():  # one after the other, so it is never an older one that stays
                number, digest, signature = held.read("SELECT number, digest, signature FROM head")[0]
                audit_head.write(self._beside, audit_head.Head(number, digest, signature))
        except OSError as error:
            _log.warning("%s lags behind until the next row: %s", self._beside, error.strerror or error)

    def _refused(self, what: str, error: OSError) -> TableError:
        refused = TableError(f"the audit {self.home.audit} {what}: {(error.strerror or str(error)).lower()}")
        refused.errno = error.errno
        return refused


def _row(held: Database, number: int) -> Row | None:
    found = held.read(f"SELECT {COLUMNS} FROM audit WHERE number = ?", (number,))  # noqa: S608
    return as_row(found[0]) if found else None


def _insert(held: Database, row: Row) -> None:
    held.write("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", as_columns(row))
    for kind, value in sorted(mentions(row.facts)):
        held.write("INSERT OR IGNORE INTO mention VALUES (?, ?, ?)", (kind, value, row.number))
