"""Identity files: what goes in comes out, what is signed stays, and what strangers wrote does no harm."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.consent import identity as identities
from pipeline.consent.identity import Evidence, Identity, Scope, Signature, moment, parse, to_bytes
from pipeline.errors import ConsentError
from tests.pipeline.consent.samples import NOW, made
from tests.pipeline.consent.samples import identities as any_identity

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
SIGNED = identities.signed(made(scope=Scope(territory=("NO", "DE"))), KEY)
CONTENT = to_bytes(SIGNED)


@given(any_identity(), st.booleans())
def test_what_is_written_is_read(identity: Identity, is_signed: bool) -> None:
    identity = identities.signed(identity, KEY) if is_signed else identity
    assert parse(to_bytes(identity), "it") == identity


@given(any_identity())
def test_signing_leaves_the_digest_alone(identity: Identity) -> None:
    once = identities.signed(identity, KEY)
    again = identities.signed(once, OTHER)
    assert once.digest == again.digest == identity.digest
    assert identities.is_genuine(once, [OTHER.public_key(), KEY.public_key()])
    assert not identities.is_genuine(once, [OTHER.public_key()]) and not identities.is_forged(once)
    assert identities.is_genuine(again, [OTHER.public_key()])
    assert not identities.is_genuine(identity, [KEY.public_key()]) and not identities.is_forged(identity)


@given(any_identity(), any_identity())
def test_only_the_same_has_the_same_digest(one: Identity, other: Identity) -> None:
    assert (one.digest == other.digest) == (one == other)


@settings(max_examples=400)
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(at: int, by: int) -> None:
    changed = bytearray(CONTENT)
    changed[at] ^= by
    _harmless(bytes(changed))


@settings(max_examples=200)
@given(st.integers(0, len(CONTENT)), st.integers(0, 20), st.binary(max_size=20))
def test_so_are_bytes_that_are_gone_or_put_in(at: int, gone: int, put_in: bytes) -> None:
    _harmless(CONTENT[:at] + put_in + CONTENT[at + gone :])


def _harmless(content: bytes) -> None:
    try:
        found = parse(content, "it")
    except ConsentError:
        return
    if found.signature is None:  # the line was turned into a comment: then it is not signed, and says so
        assert found.digest == SIGNED.digest
    else:
        assert found == SIGNED or not identities.is_genuine(found, [KEY.public_key()])


def test_every_value_is_signed() -> None:
    changes: dict[str, Any] = {
        "id": "id-fedcba9876543210",
        "kind": "licensed",
        "scope": Scope(excluded=("film",)),
        "issued": NOW,
        "valid_from": NOW,
        "valid_until": None,
        "evidence": (Evidence("release", "cd" * 32),),
        "contact": "elsewhere",
    }
    assert {*changes, "signature"} == set(Identity.__slots__)
    for name, value in changes.items():
        forged = replace(SIGNED, **{name: value})
        assert identities.is_forged(forged) and forged.digest != SIGNED.digest, name


def test_a_signature_for_something_else_is_none_for_this() -> None:
    bare = KEY.sign(SIGNED.canonical).hex()
    assert identities.is_forged(replace(SIGNED, signature=Signature(identities.key_id(KEY.public_key()), bare)))


def test_canonical_form() -> None:
    assert (
        made(scope=Scope(("train",), purposes=('Ärger"',))).canonical
        == (
            '{"contact":"consent@example.org","evidence":[{"kind":"release","sha256":"' + "ab" * 32 + '"}],'
            '"id":"id-0123456789abcdef","issued":"2026-08-02T12:00:00Z","kind":"consented","scope":{"excluded":[],'
            '"projects":[],"purposes":["Ärger\\""],"roles":["train"],"territory":[]},'
            '"valid":{"from":"2026-08-02T12:00:00Z","until":"2027-08-02T12:00:00Z"},"version":1}'
        ).encode()
    )


def test_other_programs_read_words_as_words() -> None:
    tree = yaml.safe_load(CONTENT)
    assert tree["scope"]["territory"] == ["NO", "DE"] and tree["issued"] == "2026-08-02T12:00:00Z"


def test_layout_comments_and_offsets_do_not_matter() -> None:
    text = CONTENT.decode().replace("'2026-08-02T12:00:00Z'", "2026-08-02T14:00:00+02:00")
    text = text.replace("scope:\n", "# for what\nscope:\n").replace("- NO\n", "- NO   # not no\n")
    assert text.encode() != CONTENT and parse(text.encode(), "it") == SIGNED


def _with(old: str, new: str) -> bytes:
    content = CONTENT.decode()
    assert re.search(old, content, re.DOTALL), old
    return re.sub(old, lambda _: new, content, count=1, flags=re.DOTALL).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"# nothing", "empty"),
        (b"- a", "keys and values"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"\x00", "not allowed|no YAML"),
        (CONTENT + b"---\nversion: 1\n", "several documents"),
        (b"%YAML 1.1\n%FOO\n", "line|no YAML|expected"),
        (_with("version: 1", "version: 2"), "version"),
        (_with("version: 1", "version: [1]"), "version"),
        (_with("version: 1\n", ""), "lacks the key 'version'"),
        (CONTENT + b"name: Anna\n", "'name'"),
        (CONTENT + b"kind: self\n", "stands twice"),
        (CONTENT + b"? [a, b]\n: c\n", "a key must be a word"),
        (_with("id: [^\n]*", "id: anna"), "16 hexadecimal digits"),
        (_with("id: [^\n]*", "id: ../../../etc/passwd"), "16 hexadecimal digits"),
        (_with("id: id-", "id: ID-"), "16 hexadecimal digits"),
        (_with("kind: consented", "kind: famous"), "none of self"),
        (_with("- train", "- everything"), "none of train"),
        (_with("- train", "- appear"), "twice"),
        (_with("'NO'", "''"), "1 to 64 characters"),
        (_with("'NO'", '"a\\nb"'), "one line"),
        (_with("'NO'", f"'{'x' * 65}'"), "1 to 64 characters"),
        (_with("'NO'", "[NO]"), "must be text"),
        (_with("purposes: \\[\\]", f"purposes: [{','.join(map(str, range(65)))}]"), "more than 64"),
        (_with("purposes: \\[\\]", "purposes: film"), "must be a list"),
        (_with("issued: [^\n]*", "issued: 2026-02-30"), "calendar"),
        (_with("issued: [^\n]*", "issued: 2026-08-02T12:00:00"), "offset"),
        (_with("issued: [^\n]*", "issued: now"), "must be a date"),
        (_with("issued: [^\n]*", "issued: 0001-01-01T00:00:00+14:00"), "calendar"),
        (_with("issued: [^\n]*", "issued: ２０２６-08-02"), "must be a date"),
        (_with("until: [^\n]*", "until: 2020-01-01"), "before it begins"),
        (_with("until: [^\n]*", "until: ''"), "must be a date"),
        (_with("until: [^\n]*", ""), "lacks the key 'until'"),
        (_with("evidence:.*contact", "evidence: []\ncontact"), "needs a release"),
        (_with("kind: release", "kind: rumour"), "none of release"),
        (_with("sha256: a", "sha256: A"), "64 hexadecimal digits"),
        (_with("contact: [^\n]*", "contact: ''"), "contact"),
        (_with("contact: [^\n]*", "contact: ' '"), "contact"),
        (_with("  key: [^\n]*", "  key: ours"), "signature's key"),
        (_with("  value: [^\n]*", "  value: yes"), "signature's value"),
        (_with("\nsignature:.*", "\nsignature: none\n"), "signature must hold"),
        (b"a: &a [x]\nb: *a\n", "anchors"),
        (b"b: *a\n", "anchors"),
        (_with("version: 1", "version: &a 1"), "anchors"),
        (b"version: !!python/object/apply:os.system ['true']\n", "tags"),
        (b"!!set {a, b}\n", "tags"),
        (b"version: !!int 1\n", "tags"),
        (b"<<: {version: 1}\n", "'<<'"),
        (b"[" * 60_000, "too deep"),
        (b"{a: " * 15_000, "too deep"),
        (b"- " * 30_000, "too deep|no YAML|not allowed|expected"),
        (b"x" * (64 << 10), "keys and values"),
        (b"a: 1\n" * 13_000, "stands twice"),
        (CONTENT + b"#" * (64 << 10), "longer than 64 KiB"),
    ],
)
def test_what_is_refused(content: bytes, reason: str) -> None:
    begun = time.process_time()
    with pytest.raises(ConsentError, match=reason) as caught:
        parse(content, "faces/anna/identity.yaml")
    said = str(caught.value)
    assert said.startswith("faces/anna/identity.yaml is no identity file") and len(said) < 400
    assert time.process_time() - begun < 5


def test_a_bomb_does_not_go_off() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join(['*' + old] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(ConsentError, match="anchors"):
        parse("\n".join(lines).encode(), "it")


def test_a_date_means_its_first_second_or_its_last() -> None:
    assert moment("2027-12-31") == datetime(2027, 12, 31, tzinfo=UTC)
    assert moment("2027-12-31", at_end=True) == datetime(2027, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert moment("2027-12-31T18:00:00+05:30", at_end=True) == datetime(2027, 12, 31, 12, 30, tzinfo=UTC)
    assert moment("2024-02-29T23:59:59-12:00").tzinfo is UTC
    for wrong in ("2027-12-31 ", "20271231", "2027-W01-1", "2027-12-31T18:00Z", "2027-12-31T24:00:00Z", ""):
        with pytest.raises(ValueError, match="2027-12-31"):
            moment(wrong)


def test_the_clock_s_zone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for zone in ("Pacific/Kiritimati", "America/Los_Angeles", "UTC"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found.add(parse(CONTENT, "it").digest)
    monkeypatch.undo()
    time.tzset()
    assert found == {SIGNED.digest}


def test_times_that_are_not_utc_are_a_mistake_of_ours() -> None:
    for wrong in (NOW.replace(tzinfo=None), NOW.replace(microsecond=1)):
        with pytest.raises(ValueError, match="UTC"):
            made(issued=wrong)


def test_who_needs_what() -> None:
    for kind in ("self", "synthetic", "public-domain-test"):
        assert made(kind=kind, evidence=(), contact="", valid_until=None).contact == ""
    for kind in ("consented", "licensed"):
        assert made(kind=kind, valid_until=None).valid_until is None
        with pytest.raises(ValueError, match="evidence"):
            made(kind=kind, evidence=())
        with pytest.raises(ValueError, match="contact"):
            made(kind=kind, contact="")


def test_ids_are_drawn() -> None:
    drawn = {identities.new_id() for _ in range(100)}
    assert len(drawn) == 100
    for each in drawn:
        identities.check_id(each)


def test_in_a_face_set(tmp_path: Path) -> None:
    assert identities.in_face_set(tmp_path) is None
    assert identities.in_face_set(tmp_path / "nowhere") is None
    file = tmp_path / identities.FILE
    file.write_bytes(CONTENT)
    assert identities.in_face_set(tmp_path) == SIGNED == identities.read(file)
    assert identities.in_face_set(file) is None
    with pytest.raises(ConsentError, match="does not exist; `understudy identity add"):
        identities.read(tmp_path / "other.yaml")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / identities.FILE
    os.mkfifo(file)
    with pytest.raises(ConsentError, match="cannot be read"):
        identities.in_face_set(tmp_path)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(ConsentError, match="cannot be read"):
        identities.in_face_set(tmp_path)
    file.unlink()
    file.symlink_to("nowhere")  # not the same as none: somebody has put it there
    with pytest.raises(ConsentError, match="does not exist"):
        identities.in_face_set(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(ConsentError, match="cannot be read"):
        identities.in_face_set(tmp_path)
    file.rmdir()
    file.write_bytes(b"#" * (1 << 20))
    with pytest.raises(ConsentError, match="longer than 64 KiB"):
        identities.in_face_set(tmp_path)
