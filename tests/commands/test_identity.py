"""`identity`: people are added, checked, renewed and revoked, and what carries a revoked one is found and removed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models import checkpoint, description
from pipeline import result
from pipeline.consent import identity as identities
from pipeline.consent.registry import Registry
from pipeline.provenance.audit import Audit
from pipeline.provenance.credentials import detached_path
from pipeline.provenance.home import Home
from tests.program import Program, as_json, the_error

CONSENTED = ("--consented", "--until", "2099-12-31", "--contact", "desk 3")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Home(tmp_path / "data" / "understudy")


@pytest.fixture
def anna(program: Program, home: Home) -> Path:
    """A face set that looks like an extracted one."""
    return face_set("anna")


def face_set(name: str) -> Path:
    folder = Path("faces") / name
    for part in ("crops", "masks"):
        (folder / part).mkdir(parents=True)
        (folder / part / "000000.png").write_bytes(b"a picture")
    for file in ("faceset.json", "faces.jsonl"):
        (folder / file).write_text("{}")
    return folder


def added(program: Program, folder: Path, *more: str) -> dict[str, Any]:
    code, out, err = program("identity", "add", folder, "--json", *(more or ("--self",)))
    assert code == 0, err
    shown: dict[str, Any] = as_json(out)
    return shown


def events(home: Home) -> list[str]:
    return [row.event for row in Audit(home).rows(newest_first=False)]


@pytest.mark.parametrize("kind", ["--self", "--synthetic", "--public-domain-test"])
def test_one_command_and_nothing_else(program: Program, anna: Path, home: Home, kind: str) -> None:
    code, out, err = program("identity", "add", anna, kind)
    assert (code, err) == (0, "") and f"{kind[2:]}, valid" in out and "by us" in out
    file = anna / "identity.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = identities.read(file)
    registry = Registry(home)
    assert found.kind == kind[2:] and identities.is_genuine(found, registry.trusted_keys())
    assert registry.newest(found.id) == found and registry.places(found.id) == (anna.resolve(),)
    (row,) = Audit(home).rows()
    assert row.event == "identity-added" and "anna" not in row.written
    code, out, err = program("identity", "check", anna, "--set", "consent.policy=signed")
    assert (code, out, err) == (0, "covered, by the policy signed\n", "")


def test_what_somebody_else_has_agreed_to(program: Program, anna: Path) -> None:
    Path("anna.pdf").write_bytes(b"yes, I do")
    shown = added(
        program,
        *(anna, "--licensed", "--from", "2020-01-01", "--until", "2099-12-31", "--contact", "a@example.org"),
        *(
            "--roles",
            "train,appear",
            "--purpose",
            "film",
            "--purpose",
            "theatre",
            "--project",
            "X",
            "--territory",
            "NO",
        ),
        *("--exclude", "advertising", "--evidence", "contract=anna.pdf", "--evidence", "video=anna.pdf"),
    )
    digest = hashlib.sha256(b"yes, I do").hexdigest()
    assert shown["evidence"] == [{"kind": "contract", "sha256": digest}, {"kind": "video", "sha256": digest}]
    assert shown["valid"] == {"from": "2020-01-01T00:00:00Z", "until": "2099-12-31T23:59:59Z"}
    assert shown["scope"] == {
        "roles": ["train", "appear"],
        "purposes": ["film", "theatre"],
        "projects": ["X"],
        "territory": ["NO"],
        "excluded": ["advertising"],
    }
    assert (shown["kind"], shown["state"], shown["contact"]) == ("licensed", "valid", "a@example.org")
    assert "anna.pdf" not in (anna / "identity.yaml").read_text()
    assert as_json(program("identity", "show", anna, "--json")[1])["people"] == {"anna": shown}


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--consented", "--until", "2099-01-01"], 2, "--consented needs --evidence KIND=FILE and --contact TEXT"),
        (["--consented", "--evidence", "other=f", "--contact", "x"], 2, "--consented needs --until DATE"),
        (["--self", "--synthetic"], 2, "not allowed with"),
        ([], 2, "is required"),
        (["--self", "--until", "tomorrow"], 2, "must be a date"),
        (["--self", "--from", "open"], 2, "must be a date"),
        (["--self", "--until", "1999-01-01"], 2, "before it begins"),
        (["--self", "--roles", "train,play"], 2, "'play' is none of"),
        (["--self", "--roles", "train,train"], 2, "names something twice"),
        (["--self", "--purpose", "a\nb"], 2, "one line"),
        (["--self", "--contact", os.fsdecode(b"\xff")], 2, "one line"),
        (["--self", "--evidence", "f"], 2, "write KIND=FILE"),
        (["--self", "--evidence", "rumour=f"], 2, "write KIND=FILE"),
        (["--self", "--evidence", "other=none"], 3, "cannot be read"),
        (["--self", "--evidence", "other=/dev/zero"], 3, "cannot be read"),
    ],
)
def test_what_cannot_be_added(
    program: Program, anna: Path, home: Home, words: list[str], code: int, reason: str
) -> None:
    Path("f").write_bytes(b"")
    found, out, err = program("identity", "add", anna, *words)
    assert (found, out) == (code, "") and reason in err and "Traceback" not in err
    assert not (anna / "identity.yaml").exists() and not home.folder.exists()


def test_adding_twice_or_nowhere(program: Program, anna: Path, home: Home) -> None:
    code, _, err = program("identity", "add", "faces/nobody", "--self")
    assert code == 3 and "is no folder" in the_error(err)
    shown = added(program, anna)
    before = (anna / "identity.yaml").read_bytes()
    code, _, err = program("identity", "add", anna, "--synthetic")
    assert code == 2 and shown["id"] in err and "understudy identity renew faces/anna" in the_error(err)
    assert (anna / "identity.yaml").read_bytes() == before
    assert program("identity", "revoke", shown["id"], "--because", "asked to")[0] == 0
    assert added(program, anna)["id"] != shown["id"]  # one who agrees anew


def test_list_and_show(program: Program, anna: Path, home: Home) -> None:
    assert "no identities are known" in program("identity", "list")[1]
    one, other = (
        added(program, anna),
        added(program, face_set("bert"), "--synthetic", "--until", "2099-01-01", "--no-sign"),
    )
    program("identity", "revoke", one["id"], "--because", "asked to")
    found = as_json(program("identity", "list", "--json")[1])["identities"]
    assert {each["id"]: each["state"] for each in found} == {one["id"]: "revoked", other["id"]: "valid"}
    code, out, err = program("identity", "list")
    assert (code, err) == (0, "") and len(out.splitlines()) == 3
    assert out.splitlines()[1:] == sorted(out.splitlines()[1:])
    line = next(line for line in out.splitlines() if other["id"] in line)
    assert line.split()[1:] == ["valid", "synthetic", "2099-01-01", "nobody", str(Path("faces/bert").resolve())]
    for word in (one["id"], str(anna), str(anna / "identity.yaml")):
        shown = as_json(program("identity", "show", word, "--json")[1])["people"]
        assert [each["revoked"]["because"] for each in shown.values()] == ["asked to"]
    assert "asked to" in program("identity", "show", anna)[1]


def test_what_there_is_nothing_to_show_of(program: Program, anna: Path) -> None:
    code, _, err = program("identity", "show", anna)
    assert code == 10 and "understudy identity add faces/anna --self" in the_error(err)
    for word in ("id-0123456789abcdef", "nowhere", os.fsdecode(b"\xff\n")):
        code, _, err = program("identity", "show", word)
        assert code == 2 and "`understudy identity list`" in the_error(err)
    (anna / "identity.yaml").write_bytes(b"a: &a [*a]")
    code, _, err = program("identity", "show", anna)
    assert code == 10 and "no identity file that can be used" in the_error(err)


def test_check_says_what_mends_it_and_that_does(program: Program, anna: Path) -> None:
    code, out, err = program("identity", "check", anna)
    assert (code, out) == (10, "") and the_error(err).endswith("run understudy identity add faces/anna --self")
    added(program, anna, "--self", "--from", "2020-01-01", "--until", "2020-12-31", "--no-sign", "--roles", "appear")
    code, _, err = program("identity", "check", anna)
    assert code == 10 and the_error(err).endswith("understudy identity renew faces/anna --until DATE")
    assert program("identity", "renew", anna, "--until", "2099-12-31", "--no-sign")[0] == 0
    code, _, err = program("identity", "check", anna)
    assert code == 10 and the_error(err).endswith("understudy identity renew faces/anna --roles train,appear")
    assert program("identity", "check", anna, "--roles", "appear")[0] == 0
    assert program("identity", "renew", anna, "--roles", "train,appear", "--no-sign")[0] == 0
    assert program("identity", "check", anna)[0] == 0
    code, out, _ = program("identity", "check", anna, "--set", "consent.policy=signed", "--json")
    said = as_json(out)
    assert code == 10 and not said["agreed"] and said["reason"].endswith("run understudy identity sign faces/anna")
    assert program("identity", "sign", anna)[0] == 0
    code, out, _ = program("identity", "check", anna, "--set", "consent.policy=signed", "--json")
    assert (code, as_json(out)) == (0, {"agreed": True, "policy": "signed", "reason": "", "notes": []})


def test_a_forged_file(program: Program, anna: Path) -> None:
    added(program, anna, "--self", "--until", "2098-12-31")
    file = anna / "identity.yaml"
    file.write_text(file.read_text().replace("2098-12-31", "2099-12-31"))
    for words in (["check", anna], ["renew", anna, "--until", "open"]):
        code, _, err = program("identity", *words)
        assert code == 10 and the_error(err).endswith("understudy identity sign faces/anna")
    assert "nobody (forged" in program("identity", "show", anna)[1]
    assert program("identity", "sign", anna)[0] == 0
    assert program("identity", "check", anna)[0] == 0


def test_renew(program: Program, anna: Path, home: Home) -> None:
    Path("f").write_bytes(b"f")
    first = added(program, anna, *CONSENTED, "--evidence", "other=f", "--purpose", "film", "--exclude", "war")
    assert program("identity", "renew", anna)[0] == program("identity", "renew", anna, "--purpose", "film")[0] == 2
    Path("g").write_bytes(b"g")
    code, out, _ = program(
        *(
            "identity",
            "renew",
            anna,
            "--until",
            "open",
            "--purpose",
            "any",
            "--exclude",
            "war",
            "--evidence",
            "video=g",
        ),
        "--json",
    )
    second = as_json(out)
    assert code == 0 and (second["id"], second["kind"], second["contact"]) == (first["id"], "consented", "desk 3")
    assert second["issued"] > first["issued"] and second["valid"] == {**first["valid"], "until": "open"}
    assert second["scope"] == {**first["scope"], "purposes": []} and second["versions"] == 2
    assert [each["kind"] for each in second["evidence"]] == ["other", "video"]
    assert identities.read(anna / "identity.yaml").digest == second["digest"]
    shutil.copytree(anna, "faces/copy")
    code, out, _ = program("identity", "renew", first["id"], "--contact", "desk 4", "--json")
    assert code == 0 and as_json(out)["versions"] == 3
    assert identities.read(anna / "identity.yaml").contact == "desk 4"  # it is known where it lies
    assert (
        program("identity", "renew", "faces/copy", "--contact", "desk 5")[0] == 0
    )  # an older version: the newest goes on
    assert {identities.read(each / "identity.yaml").contact for each in (anna, Path("faces/copy"))} == {"desk 5"}
    program("identity", "revoke", first["id"], "--because", "asked to")
    for verb in (["renew", anna, "--until", "open"], ["sign", anna]):
        assert program("identity", *verb)[0] == 10


def test_trust(program: Program, anna: Path, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    added(program, anna)
    code, pem, err = program("identity", "key")
    assert (code, err) == (0, "") and pem.startswith("-----BEGIN PUBLIC KEY-----")
    Path("key.pem").write_text(pem)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    code, out, _ = program("identity", "check", anna)
    assert code == 0 and "not trusted here" in out
    code, _, err = program("identity", "check", anna, "--set", "consent.policy=signed")
    assert code == 10 and the_error(err).endswith("run understudy identity trust KEY.pem")
    key = as_json(program("identity", "trust", "key.pem", "--json")[1])["key"]
    assert identities.read(anna / "identity.yaml").signature == identities.Signature(
        key, getattr(identities.read(anna / "identity.yaml").signature, "value", "")
    )
    assert program("identity", "check", anna, "--set", "consent.policy=signed")[0] == 0
    assert "a trusted key" in program("identity", "show", anna)[1]
    assert program("identity", "trust", "nowhere.pem")[0] == 3
    code, _, err = program("identity", "trust", home.identity_key)
    assert code == 10 and "holds no public key" in the_error(err)


@pytest.fixture
def net(model: Path, home: Home) -> Path:
    """A model of a and b that may be changed."""
    shutil.copytree(model, "net")
    return Path("net")


def carries(net: Path) -> dict[str, str]:
    return description.read(net).identities


def test_attach(program: Program, net: Path, anna: Path, home: Home) -> None:
    checkpoint.attach(net, {}, {})
    a, b = added(program, anna), added(program, face_set("bert"), "--synthetic", "--roles", "train,appear")
    code, out, err = program("identity", "attach", net, "a=faces/anna", "b=faces/bert", "--json")
    assert (code, err) == (0, "")
    assert carries(net) == as_json(out)["identities"] == {"a": a["digest"], "b": b["digest"]}
    row = next(Audit(home).rows())
    assert row.facts["digest"] == description.read(net).digest and row.facts["model"] == str(net.absolute())
    assert row.facts["identities"] == [[a["id"], a["digest"]], [b["id"], b["digest"]]]
    checkpoint.load(net)
    assert program("identity", "check", net)[0] == 0
    code, _, err = program("identity", "check", net, "--set", "swap.to=a")
    assert code == 10 and b["id"] in the_error(err) and "--roles train,appear,replace" in err
    shown = as_json(program("identity", "show", net, "--json")[1])["people"]
    assert {person: each["id"] for person, each in shown.items()} == {"a": a["id"], "b": b["id"]}
    assert program("identity", "attach", net, "a=faces/anna")[0] == 0
    assert len(next(Audit(home).rows()).facts["identities"]) == 2  # of everybody in it
    for verb in ("sign", "renew"):
        code, _, err = program("identity", verb, net)
        assert code == 2 and "is a model" in the_error(err)


def test_what_cannot_be_attached(program: Program, net: Path, anna: Path) -> None:
    code, _, err = program("identity", "attach", net, "b=faces/anna", "--set", "consent.policy=off-for-self")
    assert code == 10 and the_error(err).endswith("run understudy identity add faces/anna --self")
    added(program, anna, "--self", "--until", "2020-01-01", "--from", "2019-01-01")
    assert program("identity", "attach", net, "b=faces/anna")[0] == 10
    program("identity", "renew", anna, "--until", "open")
    for words in (["carl=faces/anna"], ["faces/anna"], ["b=faces/anna", "b=faces/anna"], ["b="]):
        assert program("identity", "attach", net, *words)[0] == 2
    assert program("identity", "attach", "nowhere", "b=faces/anna")[0] == 5


def test_a_model_that_carries_something_else(program: Program, net: Path, anna: Path) -> None:
    added(program, anna)
    assert program("identity", "attach", net, "a=faces/anna", "b=faces/anna")[0] == 0
    (copy,) = (net / "identities").iterdir()
    content = copy.read_bytes()
    for changed in (content.replace(b"  - appear\n", b""), b"rubbish"):
        copy.write_bytes(changed)
        code, _, err = program("identity", "check", net)
        assert code == 10 and "understudy identity attach net " in the_error(err)
    copy.write_bytes(content)
    described = json.loads((net / "model.json").read_text())
    (net / "model.json").write_text(json.dumps({**described, "identities": {}}))
    code, _, err = program("identity", "check", net)
    assert code == 10 and "edited after training" in the_error(err)


# The end of it.


def published(home: Home, name: str, who: dict[str, Any]) -> Path:
    """A result, its report and its detached credentials, and a row that tells of them."""
    target = Path("out") / name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(name.encode("utf-8", "surrogateescape"))
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    result.path_for(str(target)).write_text(json.dumps({"version": 1, "output": {"sha256": digest}}))
    detached_path(str(target)).write_bytes(b"credentials")
    facts = {"target": str(target.absolute()), "output_sha256": digest, "identities": [[who["id"], who["digest"]]]}
    Audit(home).append("published", facts)
    return target


def revoke(program: Program, id: str, *more: str) -> tuple[dict[str, str], list[str]]:
    """What carries it: the state of each by its name; and what was removed."""
    code, out, err = program("identity", "revoke", id, "--because", "asked to", "--json", *more)
    assert code == 0, err
    said = as_json(out)
    return {Path(each["path"]).name: each["state"] for each in said["carriers"]}, said["removed"]


def test_revoke_names_what_carries_it(program: Program, anna: Path, home: Home, net: Path) -> None:
    who, other = added(program, anna), added(program, face_set("bert"), "--synthetic")
    program("identity", "attach", net, "a=faces/bert", "b=faces/anna")
    kept = published(home, os.fsdecode(b"-a\xff\n.mp4"), who)
    changed, gone, foreign = (published(home, name, who) for name in ("b.mp4", "c.mp4", "d.mp4"))
    Audit(home).append("published", {"target": str(foreign.absolute()), "output_sha256": "ab" * 32, "identities": []})
    published(home, "e.mp4", other)
    changed.write_bytes(b"something else")
    gone.unlink()
    states, removed = revoke(program, who["id"])
    assert states == {kept.name: "there", "b.mp4": "changed", "c.mp4": "gone", "d.mp4": "there", "net": "there"}
    assert removed == [] and kept.exists() and events(home)[-1] == "identity-revoked"
    row = next(Audit(home).rows())
    assert row.facts == {"identities": [[who["id"], who["digest"]]]}
    count = len(events(home))
    assert revoke(program, who["id"])[0] == states  # saying it again changes nothing
    assert len(events(home)) == count
    code, out, err = program("identity", "revoke", who["id"], "--because", "asked to")
    assert (code, err) == (0, "") and "-a\\udcff\\n.mp4" in out and "nothing is made with this face" in out
    assert program("identity", "check", anna)[0] == program("identity", "check", net)[0] == 10


def test_revoke_and_delete(program: Program, anna: Path, home: Home, net: Path) -> None:
    who = added(program, anna)
    program("identity", "attach", net, "a=faces/anna", "b=faces/anna")
    (net / "preview.png").write_bytes(b"faces")
    (net / "notes.txt").write_bytes(b"mine")
    kept, changed = published(home, "a.mkv", who), published(home, "b.mkv", who)
    mine = published(home, "c.mkv", who)
    result.path_for(str(mine)).write_text('{"somebody": "else\'s"}')
    changed.write_bytes(b"something else")
    code, _, err = program("identity", "revoke", who["id"], "--because", "asked to", "--delete")
    assert code == 2 and "--yes" in the_error(err) and Registry(home).revocation(who["id"]) is None
    _, removed = revoke(program, who["id"], "--delete", "--yes")
    assert sorted(each.name for each in Path("out").iterdir()) == ["b.mkv", "b.mkv.c2pa", "b.mkv.json", "c.mkv.json"]
    assert [each.name for each in net.iterdir()] == ["notes.txt"]
    assert str(kept.absolute()) in removed and anna.is_dir()
    rows = list(Audit(home).rows("deleted"))
    assert {(row.facts["was"], Path(row.facts["path"]).name) for row in rows} == {
        ("result", "a.mkv"),
        ("result", "c.mkv"),
        ("model", "net"),
    }
    assert all(
        row.facts["identities"] == [[who["id"], who["digest"]]] * (2 if row.facts["was"] == "model" else 1)
        for row in rows
    )
    assert Audit(home).verify().faults == ()
    states, removed = revoke(program, who["id"], "--delete", "--yes")
    assert removed == [] and set(states.values()) == {"gone", "changed"}


def test_an_audit_with_faults_removes_nothing_unless_told_to(program: Program, anna: Path, home: Home) -> None:
    who = added(program, anna)
    kept = published(home, "a.mkv", who)
    with closing(sqlite3.connect(home.audit)) as table, table:
        for (name,) in table.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            table.execute(f"DROP TRIGGER {name}")
        table.execute("UPDATE audit SET at = '2020-01-01T00:00:00.000+00:00' WHERE number = 1")
    code, _, err = program("identity", "revoke", who["id"], "--because", "asked to", "--delete", "--yes")
    assert code == 8 and "--despite-faults" in the_error(err) and kept.exists()
    _, removed = revoke(program, who["id"], "--delete", "--yes", "--despite-faults")
    assert str(kept.absolute()) in removed and not kept.exists()


def test_people_are_asked(program: Program, anna: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    who = added(program, anna)
    kept = published(home, "a.mp4", who)
    for answer, there in (("", True), ("no\n", True), ("y\n", False)):

        class Terminal:
            answer_ = answer

            def isatty(self) -> bool:
                return True

            def readline(self) -> str:
                return self.answer_

        monkeypatch.setattr("sys.stdin", Terminal())
        code, _, err = program("identity", "revoke", who["id"], "--because", "asked to", "--delete")
        assert code == 0 and "remove these 1" in err and kept.exists() == there


def test_nothing_is_removed_by_an_audit_that_was_changed(program: Program, anna: Path, home: Home) -> None:
    import sqlite3
    from contextlib import closing

    who = added(program, anna)
    mine = published(home, "a.mp4", who)
    with closing(sqlite3.connect(home.audit)) as table, table:
        table.execute("DROP TRIGGER no_update")
        table.execute("UPDATE audit SET facts = replace(facts, 'a.mp4', 'a.mp4') || ' ' WHERE event = 'published'")
    code, _, err = program("identity", "revoke", who["id"], "--because", "asked to", "--delete", "--yes")
    assert code == 8 and "understudy audit verify" in the_error(err)
    assert mine.exists() and Registry(home).revocation(who["id"]) is not None


def test_a_link_in_the_place_of_a_result(program: Program, anna: Path, home: Home) -> None:
    who = added(program, anna)
    target = published(home, "a.mp4", who)
    target.rename("precious.mp4")
    target.symlink_to(Path("precious.mp4").absolute())
    states, removed = revoke(program, who["id"], "--delete", "--yes")
    assert states == {"a.mp4": "changed"} and removed == [] and target.is_symlink()


def test_who_is_not_known_cannot_be_revoked_by_mistake(program: Program, home: Home) -> None:
    code, _, err = program("identity", "revoke", "id-0123456789abcdef", "--because", "asked to")
    assert code == 2 and "nothing is known of" in the_error(err) and not home.revoked.exists()
    assert program("identity", "revoke", "anna", "--because", "asked to")[0] == 2
    assert revoke(program, "id-0123456789abcdef", "--unknown") == ({}, [])
    assert as_json(program("identity", "list", "--json")[1])["identities"] == [
        {"id": "id-0123456789abcdef", "state": "revoked"}
    ]
    for reason in ("", "a\nb"):
        assert program("identity", "revoke", "id-0123456789abcdef", "--because", reason, "--unknown")[0] == 2


def _ended(registry: Registry, folder: Path, days: int) -> identities.Identity:
    """Registers a face set's identity whose end was so many days ago."""
    now = datetime.now(UTC).replace(microsecond=0)
    begin = now - timedelta(days=400)
    made = identities.Identity(
        identities.new_id(), "self", identities.Scope(), begin, begin, now - timedelta(days=days)
    )
    registry.add(made)
    (folder / "identity.yaml").write_bytes(identities.to_bytes(made))
    registry.remember(made.id, [folder])
    return made


def test_prune(program: Program, anna: Path, home: Home) -> None:
    assert "no face set is known" in program("identity", "prune")[1]
    registry = Registry(home)
    old = _ended(registry, anna, 31)
    _ended(registry, face_set("recent"), 29)
    added(program, face_set("open"))
    renewed = _ended(registry, face_set("renewed"), 100)
    program("identity", "renew", "faces/renewed", "--until", "open")
    _ended(registry, face_set("other"), 100)
    (Path("faces/other") / "identity.yaml").unlink()  # nobody knows any more whose these are
    pictures = face_set("pictures")
    shutil.rmtree(pictures)
    pictures.mkdir()
    for name in ("a.JPG", "b.png", "letter.txt"):
        (pictures / name).write_bytes(b"")
    _ended(registry, pictures, 100)
    assert Path("faces/renewed/identity.yaml").exists() and renewed.id
    listed = as_json(program("identity", "prune", "--json")[1])
    assert {Path(each["face_set"]).name for each in listed["face_sets"]} == {"anna", "pictures"}
    assert not listed["removed"] and anna.exists()
    code, out, err = program("identity", "prune", "--yes")
    assert (code, err) == (0, "") and "2 face sets are removed; 1 folders hold other files, too" in out
    assert sorted(each.name for each in Path("faces").iterdir()) == ["open", "other", "pictures", "recent", "renewed"]
    assert [each.name for each in pictures.iterdir()] == ["letter.txt"]
    rows = list(Audit(home).rows("deleted"))
    assert len(rows) == 2 and [old.id, old.digest] in [row.facts["identities"][0] for row in rows]
    assert not any("anna" in row.written for row in rows)
    assert "no face set is known" in program("identity", "prune")[1]
    assert program("identity", "prune", "--yes", "--set", "consent.retention_days=28")[0] == 0
    assert not Path("faces/recent").exists()


def test_a_renewal_from_elsewhere_counts_too(program: Program, anna: Path, home: Home) -> None:
    old = _ended(Registry(home), anna, 100)
    later = replace(old, issued=old.issued + timedelta(days=1), valid_until=None)
    (anna / "identity.yaml").write_bytes(identities.to_bytes(later))
    assert as_json(program("identity", "prune", "--json")[1])["face_sets"] == []


def test_faces_of_whom_it_was_revoked_go_in_time(program: Program, anna: Path) -> None:
    who = added(program, anna)
    program("identity", "revoke", who["id"], "--because", "asked to")
    assert as_json(program("identity", "prune", "--json")[1])["face_sets"] == []
    assert anna.exists()


def test_a_linked_folder_is_not_followed(program: Program, anna: Path, home: Home) -> None:
    elsewhere = Path("elsewhere")
    (anna / "crops").rename(elsewhere)
    (anna / "crops").symlink_to(elsewhere.absolute())
    _ended(Registry(home), anna, 100)
    assert program("identity", "prune", "--yes")[0] == 0
    assert [each.name for each in elsewhere.iterdir()] == ["000000.png"]
