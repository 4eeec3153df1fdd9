"""The registry: what was added is found, what was revoked stays revoked whatever happens to its file."""

from __future__ import annotations

import errno
import os
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.consent import identity as identities
from pipeline.consent.registry import Registry, as_pem, public_key
from pipeline.errors import ConsentError
from pipeline.provenance.home import Home
from tests.pipeline.consent.samples import NOW, made

ID = "id-0123456789abcdef"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Home(tmp_path / "data" / "home"))


def modes(folder: Path) -> set[tuple[bool, int]]:
    """(is it a folder, its permissions) of all that is in it, and of itself."""
    found = [folder, *folder.rglob("*")]
    return {(each.is_dir(), stat.S_IMODE(each.stat().st_mode)) for each in found}


def test_nothing_is_known_at_first_and_looking_makes_nothing(registry: Registry) -> None:
    assert registry.ids() == registry.trusted_keys() == registry.versions(ID) == registry.places(ID) == ()
    assert registry.newest(ID) is None and registry.revocation(ID) is None
    assert not registry.home.folder.exists()


def test_versions(registry: Registry) -> None:
    versions = [made(issued=NOW + timedelta(days=days)) for days in (0, 2, 1)]
    for each in versions:
        registry.add(each)
    assert registry.newest(ID) == versions[1] and len(registry.versions(ID)) == 3
    signed = identities.signed(versions[0], Ed25519PrivateKey.generate())
    registry.add(signed)
    assert len(registry.versions(ID)) == 3 and registry.versions(ID)[2] == signed
    assert registry.ids() == (ID,)


def test_it_is_nobody_else_s_business(registry: Registry) -> None:
    before = os.umask(0)
    try:
        registry.add(made())
        registry.remember(ID, [Path("/faces/anna")])
        registry.trust(Ed25519PrivateKey.generate().public_key())
        registry.revoke(ID, "asked to", NOW)
    finally:
        os.umask(before)
    assert modes(registry.home.folder) == {(True, 0o700), (False, 0o600)}


def test_a_file_under_another_s_name(registry: Registry) -> None:
    file = registry.add(made())
    file.write_bytes(identities.to_bytes(made(valid_until=None)))
    with pytest.raises(ConsentError, match="not what was registered"):
        registry.newest(ID)
    file.write_bytes(b"rubbish")
    with pytest.raises(ConsentError, match="no identity file"):
        registry.newest(ID)
    other = made(id="id-fedcba9876543210")
    file.rename(file.with_name(f"{other.digest}.yaml"))
    file.with_name(f"{other.digest}.yaml").write_bytes(identities.to_bytes(other))
    with pytest.raises(ConsentError, match="not what was registered"):
        registry.newest(ID)


@pytest.mark.parametrize(
    "id", ["../../etc", "id-0123456789abcdeF", "id-0123456789abcdef\n", "", "id-0123456789abcdef/.."]
)
def test_no_id_leads_out_of_the_folder(registry: Registry, id: str) -> None:
    for ask in (registry.versions, registry.revocation, registry.places):
        with pytest.raises(ValueError, match="16 hexadecimal"):
            ask(id)


def test_revoked_for_good(registry: Registry) -> None:
    first = registry.revoke(ID, "asked to", NOW)
    assert registry.revocation(ID) == first and first.genuine and first.when == NOW
    assert registry.revoke(ID, "again", NOW + timedelta(days=1)) == first == registry.revocation(ID)
    assert registry.ids() == (ID,)
    assert registry.revocation("id-fedcba9876543210") is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"version: 1\n", b"a: &a\n", b"#" * (1 << 20)])
def test_a_damaged_revocation_counts(registry: Registry, content: bytes) -> None:
    registry.revoke(ID, "asked to", NOW)
    file = registry.home.revoked / f"{ID}.yaml"
    file.write_bytes(content)
    found = registry.revocation(ID)
    assert found is not None and (found.when, found.genuine) == (None, False)
    assert registry.revoke(ID, "once more", NOW).genuine


def test_so_does_a_forged_one(registry: Registry) -> None:
    registry.revoke(ID, "asked to", NOW)
    file = registry.home.revoked / f"{ID}.yaml"
    file.write_bytes(file.read_bytes().replace(b"asked", b"ASKED"))
    found = registry.revocation(ID)
    assert found is not None and not found.genuine and found.because == "ASKED to"
    file.rename(registry.home.revoked / "id-fedcba9876543210.yaml")
    found = registry.revocation("id-fedcba9876543210")
    assert found is not None and not found.genuine


def test_so_does_what_is_no_file(registry: Registry) -> None:
    registry.home.revoked.mkdir(parents=True)
    file = registry.home.revoked / f"{ID}.yaml"
    for put in (lambda: file.symlink_to("nowhere"), lambda: os.mkfifo(file)):
        put()
        found = registry.revocation(ID)
        assert found is not None and not found.genuine
        file.unlink()


def test_reasons_are_one_line(registry: Registry) -> None:
    for reason in ("", "a\nb", "x" * 501):
        with pytest.raises(ValueError, match="one line"):
            registry.revoke(ID, reason, NOW)
    assert registry.revocation(ID) is None


def test_keys(registry: Registry, tmp_path: Path) -> None:
    own = registry.own_key()
    assert stat.S_IMODE(registry.home.identity_key.stat().st_mode) == 0o600
    assert registry.own_key().private_bytes_raw() == own.private_bytes_raw()
    other = Ed25519PrivateKey.generate().public_key()
    registry.trust(other)
    registry.trust(other)
    names = [identities.key_id(each) for each in registry.trusted_keys()]
    assert names == [identities.key_id(own.public_key()), identities.key_id(other)]
    (tmp_path / "key.pem").write_bytes(as_pem(other))
    assert identities.key_id(public_key(tmp_path / "key.pem")) == identities.key_id(other)


def test_a_key_is_made_once_whoever_is_faster(registry: Registry) -> None:
    found: list[bytes] = []
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait()
        found.append(registry.own_key().private_bytes_raw())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert [file.name for file in registry.home.folder.iterdir()] == ["identity.key"]


def test_what_is_no_key(registry: Registry, tmp_path: Path) -> None:
    private = registry.own_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    curve = ec.generate_private_key(ec.SECP256R1())
    public = curve.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for content in (private, public, b"", b"x" * (1 << 20)):
        (tmp_path / "key.pem").write_bytes(content)
        with pytest.raises(ConsentError, match=r"key\.pem"):
            public_key(tmp_path / "key.pem")
    registry.home.identity_key.write_bytes(b"rubbish")
    with pytest.raises(ConsentError, match="holds no private key"):
        registry.own_key()
    registry.home.identity_key.write_bytes(
        curve.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(ConsentError, match="no Ed25519 key"):
        registry.own_key()


def test_places(registry: Registry, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"a\xff\nb")
    registry.remember(ID, [tmp_path / "x" / ".." / "anna", strange])
    registry.remember(ID, [tmp_path / "anna"])
    assert registry.places(ID) == (tmp_path / "anna", strange)
    registry.forget(ID, tmp_path / "anna")
    assert registry.places(ID) == (strange,)
    for damage in (b"{}", b"[1]", b'["relative"]', b"[" * 100_000, b"\xff"):
        (registry.home.identities / ID / "places.json").write_bytes(damage)
        with pytest.raises(ConsentError, match="damaged"):
            registry.places(ID)


def test_a_disk_that_refuses(registry: Registry) -> None:
    registry.home.folder.mkdir(parents=True)
    registry.home.identities.write_bytes(b"")  # a file where a folder should be
    for ask in (lambda: registry.add(made()), lambda: registry.newest(ID), registry.ids):
        with pytest.raises(ConsentError, match="identities"):
            ask()


def test_a_home_that_may_not_be_looked_into(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.own_key()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "exists", refuse)
    for ask in (registry.own_key, registry.trusted_keys):
        with pytest.raises(ConsentError, match=r"identity\.key cannot be read: permission denied"):
            ask()
