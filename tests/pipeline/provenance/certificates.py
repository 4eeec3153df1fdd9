"""Certificates as one buys them: a root, an intermediate, and a leaf that signs, of any kind of key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM
YEAR = timedelta(days=365)


def key_for(algorithm: str) -> Any:
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.startswith("ps"):
        return rsa.generate_private_key(65537, 2048)
    curve = {"es256": ec.SECP256R1, "es384": ec.SECP384R1, "es512": ec.SECP521R1}[algorithm]
    return ec.generate_private_key(curve())


@dataclass(frozen=True)
class Holder:
    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)


def issue(
    name: str,
    by: Holder | None,
    key: Any = None,
    *,
    ca: bool = False,
    begins: datetime | None = None,
    lasts: timedelta = YEAR,
    purposes: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.EMAIL_PROTECTION,),
    signs: bool = True,
) -> Holder:
    """A certificate by `by`, or by itself."""
    key = key or key_for("es256")
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bought")]
    )
    begins = begins or datetime.now(UTC) - timedelta(minutes=1)
    signer = by.key if by else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + lasts)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.KeyUsage(signs, False, False, False, False, ca, ca, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return Holder(builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()), key)


def write_key(path: Path, key: Any, password: bytes | None = None) -> Path:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
    path.chmod(0o600)
    return path


@dataclass(frozen=True)
class Bought:
    """What one gets from a shop: root (apart), chain file, key file."""

    root: bytes
    chain: Path
    key: Path
    leaf: Holder


def bought(folder: Path, algorithm: str = "es256", **leaf: Any) -> Bought:
    root = issue("root", None, ca=True)
    middle = issue("middle", root, ca=True)
    last = issue("leaf", middle, key_for(algorithm), **leaf)
    chain = folder / "chain.pem"
    chain.write_bytes(last.pem + middle.pem)
    return Bought(root.pem, chain, write_key(folder / "bought.key", last.key), last)
