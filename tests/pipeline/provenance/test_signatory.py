"""Who signs: our own certificate, bought ones of all kinds, and programs that have the key."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.x509.oid import ExtendedKeyUsageOID

from pipeline.errors import ConfigError, RequirementError
from pipeline.provenance import signatory as module
from pipeline.provenance.home import Home
from pipeline.provenance.settings import ALGORITHMS, Config
from pipeline.provenance.signatory import signatory
from tests.pipeline.provenance.certificates import bought, issue, key_for, write_key

DATA = b"what is claimed"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def check(key: object, algorithm: str, signature: bytes) -> None:
    """As RFC 9053 and 8230 say, by hand."""
    bits = algorithm[2:]
    digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}.get(bits)
    if algorithm == "ed25519":
        key.verify(signature, DATA)  # type: ignore[attr-defined]
    elif algorithm.startswith("ps"):
        scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)  # type: ignore[arg-type, union-attr]
        key.verify(signature, DATA, scheme, digest)  # type: ignore[attr-defined]
    else:
        size = {"256": 32, "384": 48, "512": 66}[bits]
        assert len(signature) == 2 * size
        r, s = (int.from_bytes(part, "big") for part in (signature[:size], signature[size:]))
        key.verify(utils.encode_dss_signature(r, s), DATA, ec.ECDSA(digest))  # type: ignore[attr-defined, arg-type]


def test_our_own_is_made_when_it_is_first_needed(home: Home) -> None:
    found = signatory(Config(), home)
    assert found.chain_pem == home.signing.read_bytes()
    assert (found.algorithm, found.timestamp_url, found.subject) == ("es256", None, "Understudy (Understudy user)")
    assert timedelta(days=390) < found.expires - datetime.now(UTC) < timedelta(days=398)
    assert len(found.sign(DATA)) == 64


def test_our_own_signs_by_one_algorithm_only(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"provenance\.algorithm: our own certificate signs by es256"):
        signatory(Config(algorithm="ps256"), home)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bought_keys_of_all_kinds(tmp_path: Path, home: Home, algorithm: str) -> None:
    shop = bought(tmp_path, algorithm)
    config = Config(certificate=shop.chain, key=shop.key, algorithm=algorithm, timestamp_url="http://stamps.invalid")
    found = signatory(config, home)
    assert (found.subject, found.timestamp_url) == ("leaf (Bought)", "http://stamps.invalid")
    assert found.expires == shop.leaf.certificate.not_valid_after_utc
    check(shop.leaf.key.public_key(), algorithm, found.sign(DATA))
    assert not home.folder.exists()


@pytest.mark.parametrize(
    ("algorithm", "said", "right"),
    [("es384", "es256", "es384"), ("ed25519", "es256", "ed25519"), ("ps256", "es256", "ps256, ps384 or ps512")],
)
def test_an_algorithm_that_is_not_the_keys(tmp_path: Path, home: Home, algorithm: str, said: str, right: str) -> None:
    shop = bought(tmp_path, algorithm)
    with pytest.raises(ConfigError, match=rf"provenance\.algorithm: {said} is not .*: {right}$"):
        signatory(Config(certificate=shop.chain, key=shop.key, algorithm=said), home)


def test_certificates_that_do_not_do(tmp_path: Path, home: Home) -> None:
    def refused(why: str, **leaf: object) -> None:
        shop = bought(tmp_path, **leaf)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=rf"^provenance\.certificate: \S*chain\.pem {why}"):
            signatory(Config(certificate=shop.chain, key=shop.key), home)

    now = datetime.now(UTC)
    refused("ended on .*: get a new one", begins=now - timedelta(days=20), lasts=timedelta(days=10))
    refused("is good only from ", begins=now + timedelta(days=20))
    refused("is for something else", purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
    refused("is not for signatures", signs=False)
    refused("lacks the extension extendedKeyUsage", ca=True)


def test_chains_that_do_not_do(tmp_path: Path, home: Home) -> None:
    shop = bought(tmp_path)
    other = issue("other", None, ca=True)
    config = Config(certificate=shop.chain, key=shop.key)
    for content, why in (
        (b"", "holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate"),
        (shop.leaf.pem + other.pem, "must begin with"),
        (shop.chain.read_bytes().removeprefix(shop.leaf.pem) + shop.leaf.pem, "must begin with"),
        (bytes(1 << 20), "cannot be read: it is longer"),
    ):
        shop.chain.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"chain\.pem .*({why})"):
            signatory(config, home)
    alone = issue("alone", None, shop.leaf.key)
    shop.chain.write_bytes(alone.pem)
    with pytest.raises(ConfigError, match="vouches for itself"):
        signatory(config, home)


def test_keys_that_do_not_do(tmp_path: Path, home: Home) -> None:
    shop = bought(tmp_path)
    config = Config(certificate=shop.chain, key=shop.key)
    good = shop.key.read_bytes()
    shop.key.chmod(0o644)
    with pytest.raises(ConfigError, match=r"provenance\.key: .*chmod 600"):
        signatory(config, home)
    for why, key, password in (
        ("is not the key of", key_for("es256"), None),
        ("is locked by a password: sign with provenance.signer", shop.leaf.key, b"secret"),
    ):
        write_key(shop.key, key, password)
        with pytest.raises(ConfigError, match=why):
            signatory(config, home)
    shop.key.write_bytes(good.replace(b"PRIVATE", b"PUBLIC"))
    with pytest.raises(ConfigError, match="holds no private key in PEM"):
        signatory(config, home)
    shop.key.unlink()
    with pytest.raises(ConfigError, match=r"provenance\.key: .* cannot be read: no such file"):
        signatory(config, home)
    os.mkfifo(shop.key)
    with pytest.raises(ConfigError, match="no regular file"):
        signatory(config, home)


SIGNER = """
import sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
key = serialization.load_pem_private_key(open(sys.argv[1], "rb").read(), None)
der = key.sign(sys.stdin.buffer.read(), ec.ECDSA(hashes.SHA256()))
r, s = utils.decode_dss_signature(der)
raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
sys.stdout.buffer.write(der if len(sys.argv) > 2 else raw)
"""


def program(tmp_path: Path, code: str) -> str:
    file = tmp_path / "signer.py"
    file.write_text(code)
    return str(file)


def with_program(tmp_path: Path, home: Home, code: str, *given: str) -> module.Signatory:
    shop = bought(tmp_path)
    command = (sys.executable, program(tmp_path, code), str(shop.key), *given)
    found = signatory(Config(certificate=shop.chain, signer=command), home)
    return found


def test_a_program_signs(tmp_path: Path, home: Home) -> None:
    shop = bought(tmp_path)
    command = (sys.executable, program(tmp_path, SIGNER), str(shop.key))
    found = signatory(Config(certificate=shop.chain, signer=command), home)
    check(shop.leaf.key.public_key(), "es256", found.sign(DATA))


def test_a_signature_of_another_form_is_refused(tmp_path: Path, home: Home) -> None:
    with pytest.raises(RequirementError, match="must write the raw one") as caught:
        with_program(tmp_path, home, SIGNER, "der").sign(DATA)
    assert isinstance(caught.value.__cause__, InvalidSignature)


def test_a_program_that_fails_says_why(tmp_path: Path, home: Home) -> None:
    code = "import sys; print('no\\ncard \\x1b[31m' + 'x' * 999, file=sys.stderr); sys.exit(3)"
    with pytest.raises(RequirementError, match=r"ended with 3: card \\x1b\[31mx{50}") as caught:
        with_program(tmp_path, home, code).sign(DATA)
    assert len(str(caught.value)) < 300


def test_a_program_that_is_not_there(tmp_path: Path, home: Home) -> None:
    shop = bought(tmp_path)
    found = signatory(Config(certificate=shop.chain, signer=(str(tmp_path / "none"),)), home)
    with pytest.raises(RequirementError, match="none cannot be run: no such file"):
        found.sign(DATA)


def test_a_program_is_no_line_for_a_shell(tmp_path: Path, home: Home) -> None:
    shop = bought(tmp_path)
    found = signatory(Config(certificate=shop.chain, signer=(f"touch {tmp_path / 'made'}; true",)), home)
    with pytest.raises(RequirementError, match="cannot be run"):
        found.sign(DATA)
    assert not (tmp_path / "made").exists()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_program_that_hangs_goes_with_its_children(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIGNER_TIMEOUT_S", 1.5)
    told, shop = tmp_path / "pid", bought(tmp_path)
    command = ("/bin/sh", "-c", f"sleep 60 & echo $! > '{told}'; wait")
    began = time.monotonic()
    with pytest.raises(RequirementError, match="sh has not signed within 2 s"):
        signatory(Config(certificate=shop.chain, signer=command), home).sign(DATA)
    assert time.monotonic() - began < 20
    child = int(told.read_text())
    while is_alive(child):
        assert time.monotonic() - began < 20
        time.sleep(0.02)
