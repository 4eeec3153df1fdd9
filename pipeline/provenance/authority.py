"""Our own certificate authority, the certificate that signs results, and the two other keys of the private folder.

C2PA takes no certificate that signs itself, so there are two: the authority, made once, which others may be given to
trust (`authority.pem`), and the certificate that signs, which lasts about a year and is made anew before it ends. What
a certificate has to say is in C2PA 2.2, 14.5.1 (certificate profile), and RFC 5280.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.consent import private
from pipeline.errors import ConfigError
from pipeline.provenance.home import Home

#: How long the authority lasts, and the certificate that signs: public ones may last 398 days at most.
AUTHORITY_LASTS, SIGNING_LASTS = timedelta(days=3650), timedelta(days=397)

#: A signing certificate that ends sooner is made anew; an authority that ends sooner can make none.
RENEWED_BEFORE = timedelta(days=30)

#: Nothing in the folder that is read here is longer.
_LONGEST = 1 << 18

#: A clock that is behind by less does not find the certificates made in its future.
_CLOCKS_DIFFER = timedelta(hours=1)

_ORGANISATION = "Understudy user"
_WATERMARK_KEY_NBYTES = 32


def init(home: Home, force: bool = False, now: datetime | None = None) -> tuple[str, ...]:
    """Makes what is missing in the private folder; the names of the files that were made.

    Args:
        force: also another authority and signing certificate. The old authority's certificate stays, as
            `authority-SERIAL.pem`: what it vouched for is still good. The two other keys are kept: without them older
            watermarks would not be found and older identity files count as forged.
        now: for tests; None: by the clock.

    Raises:
        ConfigError: the folder is somebody else's or open to others, what is in it is damaged, or the disk refuses.
    """
    with _locked(home):
        return _complete(home, now or datetime.now(UTC), force)


def ensure(home: Home, now: datetime | None = None) -> bool:
    """The same for every run: whether anything had to be made. Several processes may do it at once."""
    return bool(init(home, now=now))


def own(home: Home, now: datetime) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """Our signing certificate with the authority's after it (PEM), and its key, made where they are missing or end.

    Raises ConfigError as `init`.
    """
    with _locked(home):
        _complete(home, now, force=False)
        return _read(home.signing), _key_of(home.signing)


def anchors(home: Home) -> list[bytes]:
    """The certificates (PEM) of our authority and of those it has replaced; none where nothing was made yet.

    Raises ConfigError: one cannot be read.
    """
    if not home.folder.is_dir():
        return []
    old = sorted(home.folder.glob(f"{home.authority.stem}-*{home.authority.suffix}"))
    return [_read(file) for file in (home.authority, *old) if file.exists()]


def _complete(home: Home, now: datetime, force: bool) -> tuple[str, ...]:
    made = []
    if force:
        _retire(home)
    if force or not home.authority.exists():
        made += _make_authority(home, now)
    if made or not _is_signing_sound(home, now):
        made += _make_signing(home, now)
    fresh = {
        home.identity_key: lambda: _pem(ed25519.Ed25519PrivateKey.generate()),
        home.watermark_key: lambda: secrets.token_bytes(_WATERMARK_KEY_NBYTES),
    }
    for file, key in fresh.items():  # where all is there, nothing is written: the disk may be full, or read-only
        if not file.exists() and private.write_first(file, key()):
            made.append(file.name)
    return tuple(made)


def _make_authority(home: Home, now: datetime) -> list[str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Understudy private authority {secrets.token_hex(4)}")
    signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _begun(name, name, key.public_key(), now, now + AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signs, critical=True)
        .sign(key, hashes.SHA256())
    )
    return _put(home.authority, certificate.public_bytes(serialization.Encoding.PEM), key)


def _make_signing(home: Home, now: datetime) -> list[str]:
    authority, key_of_authority = _certificate_of(home.authority), _key_of(home.authority)
    if key_of_authority.public_key() != authority.public_key():
        raise _unusable(home.authority, "does not go with its key")
    ends = authority.not_valid_after_utc
    if ends - now < RENEWED_BEFORE:
        raise _unusable(home.authority, f"ends on {ends:%d %B %Y}")
    key = ec.generate_private_key(ec.SECP256R1())
    signs = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    certificate = (
        _begun(_name("Understudy"), authority.subject, key.public_key(), now, min(now + SIGNING_LASTS, ends))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(signs, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key_of_authority.public_key()), critical=False
        )
        .sign(key_of_authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return _put(home.signing, certificate.public_bytes(pem) + authority.public_bytes(pem), key)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(until - _CLOCKS_DIFFER)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
        ]
    )


def _is_signing_sound(home: Home, now: datetime) -> bool:
    """Whether certificate and key are there and whole, go together, are the authority's, and last for a while.

    A key without its certificate is what a crash between the two leaves behind.
    """
    authority = _certificate_of(home.authority)
    try:
        certificate, key = _certificate_of(home.signing), _key_of(home.signing)
        certificate.verify_directly_issued_by(authority)
    except (ConfigError, ValueError, TypeError, InvalidSignature):
        return False
    lasts = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc - RENEWED_BEFORE
    return lasts and certificate.public_key() == key.public_key()


def _retire(home: Home) -> None:
    """Keeps the certificate of an authority that is replaced; its key, and what it signed with, goes."""
    with suppress(ConfigError):  # one that is damaged or missing vouches for nothing
        serial = _certificate_of(home.authority).serial_number
        private.write(home.authority.with_stem(f"{home.authority.stem}-{serial:x}"), _read(home.authority))
    for file in (home.authority, home.signing):
        file.unlink(missing_ok=True)
        file.with_suffix(".key").unlink(missing_ok=True)


def _put(file: Path, certificates: bytes, key: ec.EllipticCurvePrivateKey) -> list[str]:
    """The key first: where the power goes between the two, there is no certificate, and both are made anew."""
    key_file = file.with_suffix(".key")
    private.write(key_file, _pem(key))
    private.write(file, certificates)
    return [key_file.name, file.name]


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_of(file: Path) -> x509.Certificate:
    content = _read(file)
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise _unusable(file, "holds no certificate") from error


def _key_of(file: Path) -> ec.EllipticCurvePrivateKey:
    """The key beside a certificate."""
    key_file = file.with_suffix(".key")
    content = _read(key_file)
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(key_file, "holds no private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(key_file, "holds another kind of key than we make")
    return key


def _read(file: Path) -> bytes:
    try:
        return private.read(file, _LONGEST)
    except FileNotFoundError as error:
        raise _unusable(file, "is missing") from error
    except (OSError, ValueError) as error:
        raise _refused(file, error) from error


def _unusable(file: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{file} {why}: restore it from a copy, or make another authority with `understudy provenance init --force`"
    )


def _refused(file: Path, error: OSError | ValueError) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ConfigError(f"provenance.folder: {file} cannot be used: {reason.lower()}")


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    """Makes the folder, sees that it is private, and keeps other processes out for so long."""
    try:
        private.make_folder(home.folder)
        _check_private(home.folder)
        # a file that is never removed: two processes could hold locks on two files of the same name
        lock = os.open(home.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _refused(home.folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise _refused(home.folder, error) from error
    finally:
        os.close(lock)


def _check_private(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise ConfigError(f"provenance.folder: {folder} belongs to somebody else: name a folder of your own")
    if stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"provenance.folder: others may write to {folder}: run `chmod 700 {folder}`")
