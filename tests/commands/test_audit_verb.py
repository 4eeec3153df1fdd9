"""`audit`: what happened here, and whether that is what was written."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.originals import digest
from pipeline.provenance.audit import Audit
from pipeline.provenance.home import Home
from tests.program import Program, as_json, the_error

ODD = "/out/-\n\udcff<b>.mp4"

ANNA = "id-00000000000000aa"


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """That of the home which the program is told to use."""
    return Audit(Home(tmp_path / "home"))


@pytest.fixture
def told(program: Program, audit: Audit) -> Program:
    """`audit` with that home."""

    def run(*argv: str | Path) -> tuple[int, str, str]:
        return program("audit", "--set", f"provenance.folder={audit.home.folder}", *argv)

    return run


def fill(audit: Audit, result: Path) -> None:
    audit.append("trained", {"model": "/m", "digest": "d" * 64, "identities": [[ANNA, "f" * 64]]})
    audit.append("identity-added", {"identity": "id-00000000000000bb", "digest": "e" * 64})
    audit.append(
        "published",
        {
            "job": 7,
            "payload": "0123456789ab",
            "target": ODD,
            "output_sha256": digest(result),
            "identities": [[ANNA, "f" * 64]],
            "marks": {"label": {"text": "AI"}, "watermark": True},
            "consent": {"policy": "present", "notes": ["n"]},
        },
    )


def test_nothing_has_happened_yet(told: Program, audit: Audit) -> None:
    assert told("list") == (0, "no rows\n", "")
    assert told("verify") == (0, "the audit is what was written: 0 rows\n", "")
    assert told("export") == (0, "", "") and not audit.home.folder.exists()
    code, _, err = told("show", "1")
    assert (code, the_error(err)) == (2, "there is no row 1; `understudy audit list` tells which there are")
    assert told("set-aside")[0] == 8


def test_what_happened_last_comes_first(told: Program, audit: Audit, tmp_path: Path) -> None:
    result = tmp_path / ODD.rpartition("/")[2]
    result.write_bytes(b"x")
    fill(audit, result)
    title, *lines = told("list")[1].splitlines()
    assert title.split("  ")[0] == "row" and [line.split()[0] for line in lines] == ["3", "2", "1"]
    assert "/out/-\\n\\udcff<b>.mp4" in lines[0] and ANNA in lines[0]
    _, first, more = told("list", "-n", "1")[1].splitlines()
    assert (first.split(), more) == (lines[0].split(), "and more: see --all, -n, --event and --identity")
    assert len(told("list", "-n", "1", "-q")[1].splitlines()) == 2

    def numbers(*argv: str | Path) -> list[int]:
        return [row["number"] for row in as_json(told("list", "--json", *argv)[1])["rows"]]

    assert numbers() == [3, 2, 1] == numbers("-n", "3") == numbers("--all", "-n", "1")
    assert numbers("--event", "trained") == [1] and numbers("--identity", ANNA) == [3, 1]
    assert numbers("--payload", "0123456789AB") == [3] and numbers("--file", result) == [3]
    result.write_bytes(b"y")
    assert numbers("--file", result) == []


def test_all_about_one_row(told: Program, audit: Audit, tmp_path: Path) -> None:
    result = tmp_path / "x"
    result.write_bytes(b"x")
    fill(audit, result)
    code, out, _ = told("show", "3")
    lines = [line.split(None, 1) for line in out.splitlines()]
    assert code == 0 and ["row:", "3, published"] in lines and ["target:", "/out/-\\n\\udcff<b>.mp4"] in lines
    assert "  label:" in out and "    text: " in out and "identities:" in out
    row = audit.row(3)
    assert row is not None and as_json(told("show", "3", "--json")[1])["digest"] == row.digest


def test_faults_are_named(told: Program, audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    fill(audit, tmp_path / "x")
    assert told("verify", "-q") == (0, "", "")
    code, out, _ = told("verify")
    assert code == 0 and out.startswith("the audit is what was written: 3 rows, the last one's digest ")
    with closing(sqlite3.connect(audit.home.audit, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER no_update")
        connection.execute("UPDATE audit SET facts = '{}' WHERE number = 2")
    code, out, err = told("verify")
    assert (code, err) == (8, "")
    assert out == "row 2 has been changed\nthe audit is not what was written: 1 fault in 3 rows\n"
    code, out, _ = told("verify", "--json")
    assert (code, as_json(out)["faults"]) == (8, ["row 2 has been changed"])
    assert "row:            2, identity-added; its content is not what was written" in told("show", "2")[1]


def test_a_copy_to_keep(told: Program, audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    fill(audit, tmp_path / "x")
    rows = [json.loads(line) for line in told("export")[1].splitlines()]
    assert [row["number"] for row in rows] == [1, 2, 3] and rows[2]["facts"]["target"] == ODD
    assert [row["previous"] for row in rows[1:]] == [row["digest"] for row in rows[:-1]]


def test_what_cannot_be_read_is_set_aside(told: Program, audit: Audit) -> None:
    audit.append("trained", {})
    audit.home.audit.write_bytes(b"\xff" * 5000)
    code, _, err = told("list")
    assert code == 8 and "is damaged" in the_error(err)
    kept = as_json(told("set-aside", "--json")[1])["kept"]
    assert Path(kept).read_bytes() == b"\xff" * 5000
    code, out, _ = told("verify")
    assert code == 8 and out.startswith("row 1 is missing\n")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("list", "--payload", "xyz"), 2, "is not 12 hexadecimal digits"),
        (("list", "--event", "made"), 2, "invalid choice"),
        (("list", "-n", "-1"), 2, "is no number"),
        (("list", "--file", "/nowhere/-\nx"), 3, "/nowhere/-\\nx cannot be read: no such file or directory"),
        (("list", "--file", "/dev/zero"), 3, "/dev/zero cannot be read: it is no regular file"),
        (("show", "x"), 2, "is no number"),
        ((), 2, "required: WHAT"),
    ],
)
def test_what_is_refused(told: Program, argv: tuple[str, ...], code: int, said: str) -> None:
    found, out, err = told(*argv)
    assert (found, out) == (code, "") and said in the_error(err)
