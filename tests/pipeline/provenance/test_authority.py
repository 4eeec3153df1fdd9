"""Our own authority: private, whole, made once by however many processes, and renewed in time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from pipeline.consent.registry import Registry
from pipeline.errors import ConfigError
from pipeline.provenance import authority
from pipeline.provenance.home import Home

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
MADE = {"authority.pem", "authority.key", "signing.pem", "signing.key", "identity.key", "watermark.key"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "deep" / "home")


def certificates(file: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(file.read_bytes())


def content(home: Home) -> dict[str, bytes]:
    return {name: (home.folder / name).read_bytes() for name in MADE}


def is_whole(home: Home) -> bool:
    """Certificates and keys go together."""
    top, leaf = certificates(home.authority)[0], certificates(home.signing)[0]
    keys = [
        serialization.load_pem_private_key(file.with_suffix(".key").read_bytes(), None).public_key()
        for file in (home.authority, home.signing)
    ]
    leaf.verify_directly_issued_by(top)
    return keys == [top.public_key(), leaf.public_key()] and certificates(home.signing)[1] == top


def test_all_of_it_is_made_once_and_is_private(home: Home) -> None:
    assert authority.ensure(home, NOW)
    before = content(home)
    assert is_whole(home)
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in home.folder.iterdir()} == {0o600}
    assert {file.name for file in home.folder.iterdir()} == MADE | {".lock"}
    assert len(home.watermark_key.read_bytes()) == 32
    assert isinstance(
        serialization.load_pem_private_key(home.identity_key.read_bytes(), None), ed25519.Ed25519PrivateKey
    )
    assert not authority.ensure(home, NOW)
    assert authority.init(home, now=NOW) == ()
    assert content(home) == before


def test_what_is_missing_is_added_and_the_registry_reads_our_key(home: Home) -> None:
    authority.init(home, now=NOW)
    home.watermark_key.unlink()
    assert authority.init(home, now=NOW) == ("watermark.key",)
    key = serialization.load_pem_private_key(home.identity_key.read_bytes(), None)
    assert Registry(home).own_key().public_key() == key.public_key()


def test_the_certificate_is_what_the_profile_asks_for(home: Home) -> None:
    authority.init(home, now=NOW)
    top, leaf = certificates(home.authority)[0], certificates(home.signing)[0]
    for each in (top, leaf):
        assert isinstance(each.public_key(), ec.EllipticCurvePublicKey)
        assert each.not_valid_before_utc < NOW
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=397)
    extensions = leaf.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
    assert ExtendedKeyUsageOID.EMAIL_PROTECTION in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    above = top.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == above
    limits = top.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert limits.ca and limits.path_length == 0
    signs = top.extensions.get_extension_for_class(x509.KeyUsage).value
    assert signs.key_cert_sign and not signs.digital_signature


def test_no_certificate_names_anybody(home: Home) -> None:
    authority.init(home, now=NOW)
    for each in certificates(home.signing):
        words = {str(attribute.value) for attribute in each.subject}
        assert {word for word in words if not word.startswith("Understudy")} == set()


def test_authorities_are_told_from_each_other(tmp_path: Path) -> None:
    homes = [Home(tmp_path / name) for name in "ab"]
    for each in homes:
        authority.init(each, now=NOW)
    first, second = (certificates(each.authority)[0].subject for each in homes)
    assert first != second


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(home: Home, mode: int) -> None:
    home.folder.mkdir(parents=True)
    home.folder.chmod(mode)
    with pytest.raises(ConfigError, match=r"others may write to .*chmod 700"):
        authority.ensure(home, NOW)
    assert list(home.folder.iterdir()) == []


def test_a_folder_of_somebody_else_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        authority.ensure(home, NOW)


def test_a_file_in_the_folders_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(ConfigError, match=r"provenance\.folder: .*home cannot be used"):
        authority.ensure(Home(tmp_path / "home"), NOW)


def test_processes_that_come_at_once_end_with_one_set(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from pipeline.provenance import authority; from pipeline.provenance.home import Home\n"
        "home = Home(Path(sys.argv[1])); sys.stdin.read()\n"
        "made = authority.ensure(home)\n"
        "chain, key = authority.own(home, datetime.now(UTC))\n"
        "import hashlib; print(made, hashlib.sha256(chain + home.watermark_key.read_bytes()).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(home.folder)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(8)
    ]
    for each in running:
        assert each.stdin
        each.stdin.close()  # now all of them
        each.stdin = None
    said = [each.communicate(timeout=60)[0].split() for each in running]
    assert [each.returncode for each in running] == [0] * 8
    assert sorted(made for made, _ in said) == ["False"] * 7 + ["True"]
    assert len({digest for _, digest in said}) == 1
    assert is_whole(home)


def test_the_certificate_is_renewed_before_it_ends(home: Home) -> None:
    authority.init(home, now=NOW)
    before = content(home)
    ends = certificates(home.signing)[0].not_valid_after_utc
    assert not authority.ensure(home, ends - timedelta(days=31))
    assert authority.init(home, now=ends - timedelta(days=29)) == ("signing.key", "signing.pem")
    after = content(home)
    assert {name for name in MADE if after[name] != before[name]} == {"signing.key", "signing.pem"}
    assert is_whole(home)


def test_the_certificate_does_not_outlive_the_authority(home: Home) -> None:
    authority.init(home, now=NOW)
    ends = certificates(home.authority)[0].not_valid_after_utc
    authority.ensure(home, ends - timedelta(days=40))
    assert certificates(home.signing)[0].not_valid_after_utc <= ends
    with pytest.raises(ConfigError, match=r"authority\.pem ends on .*`understudy provenance init --force`"):
        authority.ensure(home, ends - timedelta(days=20))


@pytest.mark.parametrize("lost", ["signing.pem", "signing.key"])
def test_halves_that_a_crash_left_are_made_anew(home: Home, lost: str) -> None:
    authority.init(home, now=NOW)
    (home.folder / lost).unlink()
    assert authority.ensure(home, NOW)
    assert is_whole(home)


def test_a_key_of_another_certificate_is_seen(home: Home) -> None:
    authority.init(home, now=NOW)
    home.signing.with_suffix(".key").write_bytes(home.authority.with_suffix(".key").read_bytes())
    assert authority.ensure(home, NOW)
    assert is_whole(home)


def test_a_half_made_authority_is_made_anew(home: Home) -> None:
    authority.init(home, now=NOW)
    home.authority.unlink()
    assert authority.ensure(home, NOW)
    assert is_whole(home)


def test_without_the_authoritys_key_what_is_there_is_used_as_long_as_it_lasts(home: Home) -> None:
    authority.init(home, now=NOW)
    home.authority.with_suffix(".key").unlink()
    assert not authority.ensure(home, NOW)
    with pytest.raises(
        ConfigError, match=r"authority\.key is missing: restore it .*`understudy provenance init --force`"
    ):
        authority.ensure(home, NOW + timedelta(days=380))


@pytest.mark.parametrize("junk", [b"", b"-----BEGIN CERTIFICATE-----\n", bytes(1 << 19)])
def test_a_damaged_authority_is_one_sentence_and_force_mends_it(home: Home, junk: bytes) -> None:
    authority.init(home, now=NOW)
    kept = home.identity_key.read_bytes(), home.watermark_key.read_bytes()
    home.authority.write_bytes(junk)
    with pytest.raises(ConfigError, match=r"authority\.pem"):
        authority.ensure(home, NOW)
    authority.init(home, force=True, now=NOW)
    assert is_whole(home)
    assert kept == (home.identity_key.read_bytes(), home.watermark_key.read_bytes())


def test_an_authority_that_was_replaced_is_still_trusted(home: Home) -> None:
    assert authority.anchors(home) == []
    authority.init(home, now=NOW)
    first = home.authority.read_bytes()
    assert authority.anchors(home) == [first]
    assert "authority.pem" in authority.init(home, force=True, now=NOW)
    assert authority.anchors(home) == [home.authority.read_bytes(), first]
    assert home.authority.read_bytes() != first
    assert {stat.S_IMODE(file.stat().st_mode) for file in home.folder.iterdir()} == {0o600}


def test_a_pipe_in_a_files_place_keeps_nobody_waiting(home: Home) -> None:
    authority.init(home, now=NOW)
    home.authority.unlink()
    os.mkfifo(home.authority)
    with pytest.raises(ConfigError, match="cannot be used"):
        authority.ensure(home, NOW)
