"""The audit: rows that stay, from any number of processes; what is done to them is found, named, and not covered up."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import database
from pipeline.errors import ConsentError, TableError
from pipeline.provenance import audit_check, audit_head
from pipeline.provenance.audit import BROKEN, EVENTS, Audit
from pipeline.provenance.audit_row import GENESIS, LONGEST, SCHEMA, Row, as_columns, as_row, mentions, new
from pipeline.provenance.home import Home

ROOT = Path(__file__).parents[3]

ROWS = 10

ANNA, BERT = "id-00000000000000aa", "id-00000000000000bb"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def published(number: int) -> dict[str, object]:
    return {
        "job": number,
        "payload": f"{number:012x}",
        "target": f"/out/-\n\udcff{number}.mp4",
        "output_sha256": f"{number:064x}",
        "model": "e" * 64,
        "identities": [[ANNA if number % 2 else BERT, "f" * 64]],
    }


def fill(audit: Audit, count: int = ROWS) -> None:
    for number in range(1, count + 1):
        audit.append(EVENTS[number % 2], published(number))


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(Home(tmp_path / "home"), clock=lambda: datetime(2026, 11, 21, 12, tzinfo=UTC))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """One with rows in it, to be copied."""
    audit = Audit(Home(tmp_path_factory.mktemp("filled") / "home"))
    fill(audit)
    return audit


@contextmanager
def copied(audit: Audit) -> Iterator[Audit]:
    """A copy to do something to."""
    copy = Audit(Home(audit.home.folder.with_name("copy")))
    shutil.copytree(audit.home.folder, copy.home.folder)
    try:
        yield copy
    finally:
        shutil.rmtree(copy.home.folder)


@contextmanager
def forced(audit: Audit) -> Iterator[sqlite3.Connection]:
    """The table without what guards it."""
    with closing(sqlite3.connect(audit.home.audit, isolation_level=None)) as connection:
        for name in ("no_update", "no_delete", "no_replace"):
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        yield connection


def head(audit: Audit) -> Path:
    return audit_head.path_of(audit.home)


def named(audit: Audit, *sentences: str) -> None:
    """What is wrong is found, and is still found, and says the same, when another row has been written."""
    faults = audit.verify().faults
    assert set(sentences) <= set(faults), faults
    rows = sum(1 for _ in audit.rows())
    row = audit.append("trained", {"model": "m"})
    assert next(audit.rows()) == row and sum(1 for _ in audit.rows()) > rows
    again = " / ".join(audit.verify().faults)
    assert all(sentence in again for sentence in sentences), again


# What is written stays


def test_rows_follow_each_other(audit: Audit) -> None:
    assert (list(audit.rows()), audit.row(1), audit.verify().faults) == ([], None, ())
    first = audit.append("trained", {"model": "/m", "identities": [["a", "b"]]})
    second = audit.append("refused", {"reason": "\ud800\n<b>"})
    assert (first.number, first.previous, first.at) == (1, GENESIS, "2026-11-21T12:00:00.000+00:00")
    assert (second.number, second.previous, second.facts) == (2, first.digest, {"reason": "\ud800\n<b>"})
    assert list(audit.rows()) == [second, first] and list(audit.rows(newest_first=False)) == [first, second]
    assert (audit.row(2), audit.row(3)) == (second, None)
    assert audit.verify() == audit_check.Verdict(2, second.digest, ())


def test_nobody_else_may_read_it(audit: Audit) -> None:
    fill(audit, 1)
    held = database.opened(audit.home.audit, SCHEMA)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in audit.home.folder.iterdir()}
    held.close()
    assert stat.S_IMODE(audit.home.folder.stat().st_mode) == 0o700
    assert len(modes) >= 5 and set(modes.values()) == {0o600}, modes


def test_the_digest_is_what_is_said_of_it(audit: Audit) -> None:
    row = audit.append("deleted", {"b": 1, "a": "é"})
    assert row.written == r'{"a":"\u00e9","b":1}'
    said = json.dumps([1, row.at, "deleted", row.written, GENESIS], separators=(",", ":"))
    assert row.digest == hashlib.sha256(b"understudy audit row 1\n" + said.encode()).hexdigest()


@given(facts=st.dictionaries(st.text(), JSON, max_size=4))
@settings(max_examples=60)
def test_facts_come_back_as_they_were(facts: dict[str, object]) -> None:
    row = new(7, "now", "trained", facts, GENESIS)
    assert row.facts == facts and row.written.isascii()
    columns = as_columns(row)
    back = as_row([columns[0], *(str(value).encode() for value in columns[1:])])
    assert back == row and back.computed == row.digest


def test_what_cannot_be_a_row(audit: Audit) -> None:
    for event in ("", "published ", BROKEN):
        with pytest.raises(ValueError, match="event must be one of published"):
            audit.append(event, {})
    wrong: list[dict[str, object]] = [{"x": float("nan")}, {"x": "a" * LONGEST}, {"x": {1, 2}}, {"x": b""}]
    for facts in wrong:
        with pytest.raises((ValueError, TypeError)):
            audit.append("trained", facts)
    assert not audit.home.folder.exists()


def test_rows_are_found_by_what_they_tell_of(filled: Audit) -> None:
    def numbers(event: str = "", identity: str = "", digest: str = "", payload: str = "") -> list[int]:
        return [row.number for row in filled.rows(event, identity, digest, payload)]

    assert numbers(event="trained") == [9, 7, 5, 3, 1]
    assert numbers(identity=ANNA) == [9, 7, 5, 3, 1] and numbers(identity=BERT, event="trained") == []
    assert numbers(payload=f"{4:012x}") == [4] and numbers(digest=f"{7:064x}") == [7]
    assert numbers(digest="e" * 64, identity=BERT) == [10, 8, 6, 4, 2] and numbers(payload="0" * 12) == []
    assert mentions({"payload": "x", "a": [{"b": ("c" * 64,)}, "id-1"], "n": 5}) == {("digest", "c" * 64)}


def test_more_rows_than_are_read_at_once(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.provenance.audit._PAGE", 3)
    monkeypatch.setattr(audit_check, "_PAGE", 3)
    fill(audit)
    assert [row.number for row in audit.rows()] == list(range(ROWS, 0, -1))
    assert [row.number for row in audit.rows(newest_first=False, identity=BERT)] == [2, 4, 6, 8, 10]
    assert audit.verify().rows == ROWS and not audit.verify().faults


def test_slips_are_refused(filled: Audit) -> None:
    with copied(filled) as audit, closing(sqlite3.connect(audit.home.audit, isolation_level=None)) as connection:
        for slip in (
            "UPDATE audit SET facts = '{}' WHERE number = 3",
            "DELETE FROM audit WHERE number = 3",
            "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE number = 3",
            "INSERT INTO audit VALUES (NULL, x'00', '', '', '', '')",
        ):
            with pytest.raises(sqlite3.DatabaseError, match=r"the audit keeps what it was told|cannot store BLOB"):
                connection.execute(slip)


# Many at once, and deaths


CODE = """
import sys
from pathlib import Path
from pipeline.provenance.audit import Audit
from pipeline.provenance.home import Home
audit = Audit(Home(Path(sys.argv[1])))
for number in range(int(sys.argv[2])):
    print(audit.append("published", {"by": sys.argv[3], "number": number}).number, flush=True)
"""


def appending(audit: Audit, count: int, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, str(audit.home.folder), str(count), name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_many_processes_write_one_chain(audit: Audit) -> None:
    children = [appending(audit, 50, str(name)) for name in range(8)]
    told = sorted(int(line) for child in children for line in child.communicate(timeout=120)[0].splitlines())
    assert told == list(range(1, 401)) and not any(child.returncode for child in children)
    verdict = audit.verify()
    assert (verdict.rows, verdict.faults) == (400, ())
    for name in range(8):
        assert [row.facts["number"] for row in audit.rows(newest_first=False) if row.facts["by"] == str(name)] == list(
            range(50)
        )
    assert json.loads(head(audit).read_text())["number"] == 400


def test_verifying_while_others_write(audit: Audit) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            audit.append("trained", {})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        counts: list[int] = []
        while len(counts) < 100 or counts[-1] < 10:
            verdict = audit.verify()
            assert verdict.faults == ()
            counts.append(verdict.rows)
    finally:
        stop.set()
        thread.join()
    assert counts == sorted(counts)


def test_killed_at_any_moment(audit: Audit) -> None:
    """Whatever was told to be written is there, and nothing is wrong with what is."""
    told: list[int] = []
    for turn in range(6):
        child = appending(audit, 10_000, str(turn))
        assert child.stdout is not None
        with child:
            for _ in range(1 + turn):
                told.append(int(child.stdout.readline()))
            child.send_signal(signal.SIGKILL)
            told += [int(line) for line in child.stdout.read().split("\n")[:-1]]
        assert audit.verify().faults == ()
    assert {row.number for row in audit.rows()} >= set(told)
    assert audit.append("trained", {}).number > max(told) and audit.verify().faults == ()


def test_killed_while_it_was_made(audit: Audit) -> None:
    audit.home.folder.mkdir()
    audit.home.audit.touch()
    assert (list(audit.rows()), audit.row(1), audit.verify().faults) == ([], None, ())
    fill(audit, 2)
    assert audit.verify() == audit_check.Verdict(2, next(audit.rows()).digest, ())
    os.truncate(audit.home.audit, 0)
    assert audit.verify().faults == ("rows 1 to 2 are missing",)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_head_that_lags_is_no_fault(audit: Audit, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine died between a row and the head beside: several times in a row, at the very first row as well."""
    fill(audit, rows)
    for number in range(rows + 1, rows + 4):
        with monkeypatch.context() as dying:
            dying.setattr(Audit, "_show", lambda *_: None)
            assert audit.append("trained", {}).number == number
        assert json.loads(head(audit).read_text())["number"] == rows
        assert audit.verify().faults == ()
    audit.append("trained", {})
    assert json.loads(head(audit).read_text())["number"] == rows + 4 and audit.verify().faults == ()


# Whatever is done to it


COLUMNS = ("at", "event", "facts", "previous", "digest")


def rewrite(connection: sqlite3.Connection, number: int, resealed: bool, **columns: str) -> None:
    """Other columns, and with `resealed` the digest that they have."""
    for column, value in columns.items():
        connection.execute(f"UPDATE audit SET {column} = ? WHERE number = ?", (value, number))
    if resealed:
        row = read(connection, number)
        connection.execute("UPDATE audit SET digest = ? WHERE number = ?", (row.computed, number))


def read(connection: sqlite3.Connection, number: int) -> Row:
    found = connection.execute("SELECT * FROM audit WHERE number = ?", (number,)).fetchone()
    return as_row([found[0], *(value.encode() for value in found[1:])])


@given(number=st.integers(1, ROWS), column=st.sampled_from(COLUMNS), value=st.text(), resealed=st.booleans())
@settings(max_examples=60)
def test_a_changed_row_is_named(filled: Audit, number: int, column: str, value: str, resealed: bool) -> None:
    with copied(filled) as audit:
        with forced(audit) as connection:
            before = read(connection, number)
            try:
                rewrite(connection, number, resealed, **{column: value})
            except UnicodeEncodeError:
                return  # SQLite's own driver does not take it
            if as_columns(read(connection, number)) == as_columns(before):
                return  # nothing was changed
        if not resealed:
            named(audit, f"row {number} has been changed")
        elif number == ROWS:
            named(audit, f"row {number} is not the one that was signed")
        else:
            named(audit, f"row {number + 1} does not follow row {number}: one of them is not what it was")


@given(first=st.integers(1, ROWS), last=st.integers(1, ROWS), own=st.booleans())
@settings(max_examples=40)
def test_missing_rows_are_named(filled: Audit, first: int, last: int, own: bool) -> None:
    """At the start, in the middle, at the end, all of them; with `own` the head in the table as well."""
    first, last = min(first, last), max(first, last)
    with copied(filled) as audit:
        with forced(audit) as connection:
            connection.execute("DELETE FROM audit WHERE number BETWEEN ? AND ?", (first, last))
            connection.execute("DELETE FROM mention WHERE number BETWEEN ? AND ?", (first, last))
            if own:
                connection.execute("DELETE FROM head")
        named(audit, f"row {first} is missing" if first == last else f"rows {first} to {last} are missing")


@given(one=st.integers(1, ROWS), other=st.integers(1, ROWS), resealed=st.booleans())
@settings(max_examples=40)
def test_rows_that_changed_places_are_named(filled: Audit, one: int, other: int, resealed: bool) -> None:
    if one == other:
        return
    with copied(filled) as audit:
        with forced(audit) as connection:
            for before, after in ((one, -1), (other, one), (-1, other)):
                connection.execute("UPDATE audit SET number = ? WHERE number = ?", (after, before))
            if resealed:
                rewrite(connection, one, True)
                rewrite(connection, other, True)
        if resealed:
            first = min(one, other)
            named(audit, f"row {first} does not follow row {first - 1}: one of them is not what it was")
        else:
            named(audit, f"row {one} has been changed", f"row {other} has been changed")


@given(number=st.integers(ROWS + 1, ROWS + 5) | st.integers(-5, 0), chained=st.booleans())
@settings(max_examples=30)
def test_a_row_put_in_is_named(filled: Audit, number: int, chained: bool) -> None:
    with copied(filled) as audit:
        with forced(audit) as connection:
            previous = read(connection, ROWS).digest if chained else GENESIS
            row = new(number, "2026-01-01", "published", {}, previous)
            connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", as_columns(row))
        if number < 1:
            named(audit, f"row {number} was not written by this program")
        else:
            rows = f"row {number} was" if number == ROWS + 1 else f"rows {ROWS + 1} to {number} were"
            named(audit, f"{rows} not written by this program: no signature covers them")


def test_a_chain_written_anew_is_found(filled: Audit) -> None:
    """By somebody who has all but the key."""
    with copied(filled) as audit:
        with forced(audit) as connection:
            previous = GENESIS
            for number in range(1, ROWS + 1):
                rewrite(connection, number, True, previous=previous, at="2020-01-01")
                previous = read(connection, number).digest
            connection.execute("UPDATE head SET digest = ?", (previous,))
        named(
            audit,
            "the head in the table is not signed with identity.key: it is another audit's, or has been changed",
            f"row {ROWS} is not the one that was signed",
        )


def test_an_older_state_of_the_table_is_found(audit: Audit) -> None:
    fill(audit, 3)
    kept = audit.home.audit.read_bytes()
    fill(audit, 2)
    audit.home.audit.write_bytes(kept)
    named(audit, "rows 4 to 5 are missing")
    with closing(sqlite3.connect(audit.home.audit)) as connection:
        assert [row[0] for row in connection.execute("SELECT number FROM audit ORDER BY number")] == [1, 2, 3, 6, 7]


def test_a_table_that_is_gone_is_found(filled: Audit) -> None:
    with copied(filled) as audit:
        audit.home.audit.unlink()
        named(audit, f"rows 1 to {ROWS} are missing")
        assert [row.event for row in audit.rows()] == ["trained", BROKEN]


HEADS: dict[str, Callable[[Path, dict[str, object]], object]] = {
    "missing": lambda path, _: path.unlink(),
    "no head of an audit": lambda path, _: path.write_bytes(b"\xff{"),
    "no head of an audit ": lambda path, _: path.write_text("[" * 4000),
    " no head of an audit": lambda path, _: path.write_text("{}" + " " * 9000),
    "no head  of an audit": lambda path, was: path.write_text(json.dumps({**was, "number": "3"})),
    "not signed": lambda path, was: path.write_text(json.dumps({**was, "number": 3})),
    "not signed ": lambda path, was: path.write_text(json.dumps({**was, "digest": "\ud800"})),
    " not signed": lambda path, was: path.write_text(json.dumps({**was, "signature": "zz"})),
    "not  signed": lambda path, was: path.write_text(json.dumps({**was, "number": 10**3000})),
}


@pytest.mark.parametrize("how", HEADS)
def test_a_head_that_is_none_is_found(filled: Audit, how: str) -> None:
    with copied(filled) as audit:
        HEADS[how](head(audit), json.loads(head(audit).read_text()))
        said = " ".join(how.split())
        rest = " with identity.key: it is another audit's, or has been changed" if said == "not signed" else ""
        named(audit, f"audit.head is {said}{rest}")


def test_another_audits_head_or_key_is_found(filled: Audit, tmp_path: Path) -> None:
    other = Audit(Home(tmp_path / "other"))
    fill(other, 3)
    said = "not signed with identity.key: it is another audit's, or has been changed"
    with copied(filled) as audit:
        shutil.copy(head(other), head(audit))
        named(audit, f"audit.head is {said}")
    with copied(filled) as audit:
        shutil.copy(other.home.identity_key, audit.home.identity_key)
        named(audit, f"audit.head is {said}", f"the head in the table is {said}")
    with copied(filled) as audit:
        audit.home.identity_key.unlink()
        assert audit.verify().faults == (
            "identity.key is missing, with which the head was signed: nobody can tell whether it is ours",
        )
        assert not audit.home.identity_key.exists()


@pytest.mark.parametrize(
    "slip",
    [
        "DELETE FROM mention WHERE number = 4 AND kind = 'identity'",
        "UPDATE mention SET value = 'id-0000000000000000' WHERE number = 4 AND kind = 'identity'",
        "INSERT INTO mention VALUES ('identity', 'id-0000000000000000', 4)",
    ],
)
def test_an_index_that_was_changed_is_named(filled: Audit, slip: str) -> None:
    """Else a revocation would not find what it concerns."""
    with copied(filled) as audit:
        with forced(audit) as connection:
            connection.execute(slip)
        named(audit, "row 4 is not found any more by what it tells of: the index has been changed")


def test_what_is_wrong_is_told_once(filled: Audit) -> None:
    with copied(filled) as audit:
        head(audit).unlink()
        audit.append("trained", {})
        audit.append("trained", {})
        events = [row.event for row in audit.rows()][:4]
        assert events == ["trained", "trained", BROKEN, "published"]
        assert len(audit.verify().faults) == 1
        told = audit.row(ROWS + 1)
        assert told is not None and told.facts["faults"] == ["audit.head is missing"]
        assert told.facts["heads"]["own"]["number"] == ROWS and told.facts["heads"]["beside"] is None


def test_more_faults_than_anybody_reads(filled: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_check, "MOST_FAULTS", 4)
    with copied(filled) as audit:
        with forced(audit) as connection:
            connection.execute("UPDATE audit SET at = 'x'")
        assert audit.verify().faults == (*(f"row {number} has been changed" for number in range(1, 5)), "and 6 more")


def test_rows_that_nobody_can_read_are_listed_all_the_same(filled: Audit) -> None:
    with copied(filled) as audit:
        with forced(audit) as connection:
            for number, facts in ((2, "{"), (3, "[1]"), (4, "[" * 100_000), (5, "é\0")):
                connection.execute("UPDATE audit SET facts = ? WHERE number = ?", (facts, number))
            connection.execute("UPDATE audit SET at = CAST(x'ff' AS TEXT) WHERE number = 6")
        rows = {row.number: row for row in audit.rows()}
        assert len(rows) == ROWS and all(rows[number].facts == {} for number in range(2, 6))
        assert [fault for fault in audit.verify().faults if "changed" in fault] == [
            f"row {number} has been changed" for number in range(2, 7)
        ]


# No room, no leave


def test_a_full_disk_and_room_again(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(audit, 2)
    real = database.opened

    def full(*args: object) -> database.Database:
        held = real(*args)  # type: ignore[arg-type]
        held.read(f"PRAGMA max_page_count={held.read('PRAGMA page_count')[0][0]}")
        return held

    with monkeypatch.context() as lacking:
        lacking.setattr(database, "opened", full)
        with pytest.raises(TableError, match=r"the audit \S+ cannot be written: the disk is full") as refused:
            audit.append("trained", {"much": "x" * 100_000})
    assert refused.value.errno == errno.ENOSPC
    assert [row.number for row in audit.rows()] == [2, 1] and audit.verify().faults == ()
    assert audit.append("trained", {"much": "x" * 100_000}).number == 3 and audit.verify().faults == ()


def test_no_room_for_the_head(audit: Audit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as lacking:
        lacking.setattr(audit_head, "write", refused)
        with pytest.raises(TableError, match="cannot be written: no space left on device") as error:
            audit.append("trained", {})
        assert error.value.errno == errno.ENOSPC and list(audit.rows()) == []
    fill(audit, 1)
    with monkeypatch.context() as lacking:
        lacking.setattr(audit_head, "write", refused)
        assert audit.append("trained", {}).number == 2
    assert "audit.head lags behind until the next row: No space left on device" in caplog.text
    assert audit.verify().faults == ()
    audit.append("trained", {})
    assert json.loads(head(audit).read_text())["number"] == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_what_may_not_be_written(filled: Audit) -> None:
    with copied(filled) as audit:
        audit.home.audit.chmod(0o400)
        with pytest.raises(TableError, match="may not be written by this user") as refused:
            audit.append("trained", {})
        assert refused.value.errno == errno.EACCES


def test_a_key_that_is_none(filled: Audit) -> None:
    with copied(filled) as audit:
        audit.home.identity_key.write_bytes(b"\xff")
        for act in (audit.verify, lambda: audit.append("trained", {})):
            with pytest.raises(ConsentError, match=r"identity\.key"):
                act()


def test_a_file_that_cannot_be_read_is_set_aside_and_missed(filled: Audit) -> None:
    with copied(filled) as audit:
        audit.home.audit.write_bytes(b"not a database " * 1000)
        with pytest.raises(TableError, match=r"the audit \S+ is damaged: .*; run `understudy audit set-aside`"):
            audit.append("trained", {})
        assert "is damaged" in " ".join(audit.verify().faults)
        kept = audit.set_aside()
        assert kept.read_bytes().startswith(b"not a database")
        named(audit, f"rows 1 to {ROWS} are missing")
        assert audit.append("trained", {}).number == ROWS + 3


def test_a_damaged_page_is_a_fault(audit: Audit) -> None:
    fill(audit, 40)
    content = bytearray(audit.home.audit.read_bytes())
    at = content.rindex(b'"job":20,')
    page = at // 4096 * 4096
    content[page : page + 64] = b"\xff" * 64
    audit.home.audit.write_bytes(content)
    assert any("is damaged" in fault or "missing" in fault for fault in audit.verify().faults)


def test_numbers_run_out(filled: Audit) -> None:
    with copied(filled) as audit:
        with forced(audit) as connection:
            row = new((1 << 63) - 1, "", "trained", {}, GENESIS)
            connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", as_columns(row))
        with pytest.raises(TableError, match="set-aside"):
            audit.append("trained", {})
        assert any("no signature covers them" in fault for fault in audit.verify().faults)
