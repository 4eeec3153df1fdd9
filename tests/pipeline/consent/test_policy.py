"""The policy: who is covered, who is not, and what is said then."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.__main__ import parser
from pipeline.consent import identity as identities
from pipeline.consent import policy
from pipeline.consent.identity import Identity, Scope
from pipeline.consent.policy import Carried, Consent, Origin
from pipeline.consent.registry import Registry
from pipeline.consent.settings import Config
from pipeline.errors import ConsentError
from pipeline.provenance.home import Home
from tests.pipeline.consent.samples import NOW, made

FACES = Origin(face_sets={"anna": "faces/anna b"})
MODEL = Origin(model="a model")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Home(tmp_path / "home"))


class Check(Protocol):
    def __call__(self, identity: Identity | None, *roles: str, **asked: Any) -> Consent: ...


@pytest.fixture
def check(registry: Registry) -> Check:
    """Asks for anna."""

    def ask(
        identity: Identity | None, *roles: str, now: datetime = NOW, origin: Origin = FACES, **asked: Any
    ) -> Consent:
        return policy.check({"anna": identity}, {"anna": roles}, Config(**asked), registry, now, origin)

    return ask


def refused(check: Check, identity: Identity | None, *roles: str, **asked: Any) -> str:
    """What is said; whatever command it names is one that there is."""
    with pytest.raises(ConsentError) as caught:
        check(identity, *roles, **asked)
    said = str(caught.value)
    assert "anna" in said and "\n" not in said and said.count("understudy ") == 1, said
    if identity is not None:
        assert identity.id in said
    command = shlex.split("understudy " + said.partition("understudy ")[2])
    command = [{"DATE": "2099-12-31"}.get(word, word) for word in command]
    assert parser().parse_args(command[1:]).verb == "identity"
    return said


def test_who_has_agreed(check: Check) -> None:
    identity = made()
    found = check(identity, "train", "appear", "replace")
    assert found == Consent({"anna": Carried(identity.id, identity.digest, "consented")}, "present")


def test_nobody_s_consent_is_needed_where_nobody_is(registry: Registry) -> None:
    assert policy.check({}, {}, Config(), registry, NOW) == Consent({}, "present")


def test_one_who_has_not_is_enough(registry: Registry) -> None:
    with pytest.raises(ConsentError, match="bert has no identity file"):
        policy.check({"anna": made(), "bert": None}, {}, Config(), registry, NOW)


def test_without_a_file(check: Check) -> None:
    for strict in ("present", "signed"):
        assert refused(check, None, policy=strict).endswith("run understudy identity add 'faces/anna b' --self")
        assert "identity attach 'a model' anna=FACESET" in refused(check, None, policy=strict, origin=MODEL)
    found = check(None, "train", policy="off-for-self")
    assert found.people == {"anna": None} and "taken to be the user" in found.notes[0]


KEY = Ed25519PrivateKey.generate()


def test_forged_under_every_policy(check: Check, registry: Registry) -> None:
    forged = replace(identities.signed(made(), KEY), valid_until=None)
    for each in ("present", "signed", "off-for-self"):
        assert "forged" in refused(check, forged, policy=each)
    registry.trust(KEY.public_key())
    registry.add(identities.signed(made(valid_until=None), registry.own_key()))  # the same, with a good signature
    assert "identity sign 'faces/anna b'" in refused(check, forged)
    where = f"identity sign 'a model/identities/{forged.digest}.yaml'"
    assert where in refused(check, forged, origin=MODEL)


def test_signed_by_somebody(check: Check, registry: Registry) -> None:
    signed = identities.signed(made(), KEY)
    assert "not trusted here" in check(signed).notes[0]
    assert "identity trust KEY.pem" in refused(check, signed, policy="signed")
    registry.trust(KEY.public_key())
    assert check(signed, policy="signed").notes == check(signed).notes == ()


def test_unsigned(check: Check, registry: Registry) -> None:
    assert check(made()).notes == ()
    assert refused(check, made(), policy="signed").endswith("run understudy identity sign 'faces/anna b'")
    registry.add(identities.signed(made(), registry.own_key()))  # which vouches for copies in models, too
    assert check(made(), policy="signed", origin=MODEL).notes == ()


def test_the_clock_at_the_borders(check: Check) -> None:
    identity = made(valid_from=NOW, valid_until=NOW + timedelta(seconds=10))
    second = timedelta(seconds=1)
    assert "not valid before 2026-09-01T12:00:00Z" in refused(check, identity, now=NOW - timedelta(microseconds=1))
    for good in (NOW, NOW + 10 * second, NOW + 10 * second + timedelta(microseconds=999_999)):
        check(identity, now=good)
    said = refused(check, identity, now=NOW + 11 * second)
    assert "expired, 2026-09-01T12:00:10Z; run understudy identity renew 'faces/anna b' --until DATE" in said
    check(made(valid_until=None), now=NOW.replace(year=9999))


def test_the_zone_of_the_clock(check: Check) -> None:
    identity = made(valid_from=NOW, valid_until=NOW)
    for hours in (-12, 0, 14):
        zone = timezone(timedelta(hours=hours))
        check(identity, now=NOW.astimezone(zone))
        refused(check, identity, now=(NOW + timedelta(seconds=1)).astimezone(zone))
        refused(check, identity, now=(NOW - timedelta(seconds=1)).astimezone(zone))


def test_revoked(check: Check, registry: Registry) -> None:
    registry.revoke(made().id, "asked to", NOW)
    for each in ("present", "signed", "off-for-self"):
        assert "was revoked on 2026-09-01" in refused(check, made(), policy=each)
    registry.add(identities.signed(made(issued=NOW + timedelta(days=1)), registry.own_key()))
    assert "revoked" in refused(check, made())  # renewing does not help
    assert "revoked" in refused(check, made(), origin=MODEL)
    (registry.home.revoked / f"{made().id}.yaml").write_bytes(b"rubbish")
    assert "signature is not good, which counts all the same" in refused(check, made())


@pytest.mark.parametrize("role", policy.ROLES)
def test_roles(check: Check, role: str) -> None:
    only = made(scope=Scope(tuple(each for each in policy.ROLES if each != role)))
    check(only, *only.scope.roles)
    check(only)
    assert refused(check, only, role).endswith("--roles train,appear,replace")
    check(made(scope=Scope((role,))), role)


WORDS = [("purpose", "purposes"), ("project", "projects"), ("territory", "territory")]


@pytest.mark.parametrize(("asked", "allowed"), WORDS)
def test_words(check: Check, asked: str, allowed: str) -> None:
    only = made(scope=Scope(**{allowed: ("Film", "Straße")}))
    for good in ("film", "FILM", "strasse"):
        check(only, **{asked: good})
    said = refused(check, only, **{asked: "a show"})
    assert f"allows Film, Straße, not 'a show' (consent.{asked})" in said
    assert said.endswith(f"renew 'faces/anna b' --{asked} Film --{asked} 'Straße' --{asked} 'a show'")
    assert check(made(), **{asked: "anything"}).notes == ()
    assert "does not say what this is" in check(only).notes[0]


@pytest.mark.parametrize(("asked", "allowed"), WORDS)
def test_excluded_words(check: Check, asked: str, allowed: str) -> None:
    scope = Scope(excluded=("Advertising",), **{allowed: ("advertising",)})
    assert "excludes 'advertising'" in refused(check, made(scope=scope), **{asked: "advertising"})
    check(made(scope=Scope(excluded=("Advertising",))), **{asked: "other"})
    check(made(scope=Scope(excluded=("Advertising",))))


def test_the_world_is_wide(check: Check) -> None:
    check(made(scope=Scope(territory=("Worldwide",))), territory="DE")
    refused(check, made(scope=Scope(territory=("DE",))), territory="worldwide")
    assert "excludes 'US', a part of" in refused(check, made(scope=Scope(excluded=("US",))), territory="worldwide")
    check(made(scope=Scope(excluded=("US", "advertising"))), territory="DE")
    refused(check, made(scope=Scope(purposes=("worldwide",))), purpose="film")  # which is no purpose


def test_a_renewed_version_decides(check: Check, registry: Registry) -> None:
    old = made(valid_until=NOW - timedelta(days=1))
    refused(check, old)
    registry.add(made(issued=NOW))
    found = check(old)
    assert found.people["anna"] == Carried(old.id, old.digest, old.kind)  # what is carried is what was shown
    registry.add(made(issued=NOW + timedelta(seconds=1), scope=Scope(("train",))))
    refused(check, old, "appear")
    refused(check, made(), "appear")


def test_an_older_one_does_not(check: Check, registry: Registry) -> None:
    registry.add(made(issued=NOW - timedelta(days=60), valid_until=NOW - timedelta(days=1)))
    check(made())


def test_a_signature_cannot_be_taken_away(check: Check, registry: Registry) -> None:
    known = identities.signed(made(valid_until=NOW - timedelta(days=1)), registry.own_key())
    registry.add(known)
    later = made(issued=NOW)
    assert "no key that is trusted here has signed that" in refused(check, later)
    assert "no key that is trusted" in refused(check, identities.signed(later, KEY))
    registry.trust(KEY.public_key())
    check(identities.signed(later, KEY))
    check(identities.signed(later, registry.own_key()))
    same_time = made(issued=known.issued)  # says otherwise and does not even claim to be newer: what is known decides
    assert "expired" in refused(check, same_time)


def test_a_registered_version_that_is_forged(check: Check, registry: Registry) -> None:
    known = replace(identities.signed(made(), KEY), valid_until=None, issued=NOW)
    registry.add(known)
    assert "is registered here with a signature that is forged" in refused(check, made())


def test_a_registered_version_that_is_not_signed(check: Check, registry: Registry) -> None:
    registry.add(made(issued=NOW))
    signed = identities.signed(made(), registry.own_key())
    assert refused(check, signed, policy="signed").endswith(f"understudy identity sign {signed.id}")


def test_a_registry_that_is_damaged_refuses(check: Check, registry: Registry) -> None:
    registry.add(made()).write_bytes(b"rubbish")
    with pytest.raises(ConsentError, match="no identity file"):
        check(made())


def test_where_nothing_is_known_of_the_place(check: Check) -> None:
    assert f"renew {made().id} --until" in refused(
        check, made(valid_until=NOW - timedelta(days=1)), origin=policy.NOWHERE
    )
    assert "identity add FACESET --self" in refused(check, None, origin=policy.NOWHERE)


# The copies in a model.


def carry(folder: Path, people: Mapping[str, Identity]) -> dict[str, str]:
    """Puts the copies into a model's folder; gives what it claims."""
    (folder / "identities").mkdir(parents=True, exist_ok=True)
    for each in people.values():
        (folder / "identities" / f"{each.digest}.yaml").write_bytes(identities.to_bytes(each))
    return {person: each.digest for person, each in people.items()}


def test_of_a_model(tmp_path: Path) -> None:
    people = {"anna": made(), "origin:carl": identities.signed(made(id="id-fedcba9876543210"), KEY)}
    claimed = carry(tmp_path, people)
    assert policy.of_model(tmp_path, claimed) == people
    assert policy.of_model(tmp_path, {**claimed, "bert": ""}) == {**people, "bert": None}


def _refusal(folder: Path, people: Mapping[str, str]) -> str:
    with pytest.raises(ConsentError) as caught:
        policy.of_model(folder, people)
    return str(caught.value)


def test_of_a_model_that_carries_something_else(tmp_path: Path) -> None:
    claimed = carry(tmp_path, {"anna": made()})
    file = tmp_path / "identities" / f"{made().digest}.yaml"
    file.write_bytes(identities.to_bytes(made(valid_until=None)))
    said = _refusal(tmp_path, claimed)
    assert "not the identity of anna that the model was trained with" in said
    assert said.endswith(f"understudy identity attach {tmp_path} anna=FACESET")
    file.write_bytes(b"rubbish")
    assert "no identity file" in _refusal(tmp_path, claimed)
    file.unlink()
    assert "is missing" in _refusal(tmp_path, claimed)
    os.mkfifo(file)
    assert "cannot be read" in _refusal(tmp_path, claimed)


@pytest.mark.parametrize("digest", ["../../secret", "AB" * 32, "ab" * 31, "ab" * 32 + "\n"])
def test_no_digest_leads_out_of_the_model(tmp_path: Path, digest: str) -> None:
    assert "names no digest" in _refusal(tmp_path, {"anna": digest})


def test_roles_are_those_of_identities() -> None:
    roles: Sequence[str] = policy.ROLES
    assert roles == identities.ROLES == Scope().roles


def test_of_a_model_on_a_share_that_went_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal, which is asked again, and no defect, which would end a daemon."""
    claimed = carry(tmp_path, {"anna": made()})

    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "exists", stale)
    monkeypatch.setattr("pipeline.consent.private.read", stale)
    assert "cannot be read: Stale file handle" in _refusal(tmp_path, claimed)
