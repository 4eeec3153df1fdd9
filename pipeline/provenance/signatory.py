"""Who signs results: our own certificate, a bought one with its key, or one whose key only another program has."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.consent import private
from pipeline.errors import ConfigError, RequirementError
from pipeline.logs import printable
from pipeline.provenance import authority
from pipeline.provenance.home import Home
from pipeline.provenance.settings import Config

#: A signing program that takes longer is stopped; it may ask a device far away, but nobody is asked at a keyboard.
SIGNER_TIMEOUT_S = 60.0

_LONGEST = 1 << 18
_LONGEST_COMPLAINT = 200  # characters of what a signing program says of itself

#: C2PA 2.2, 14.5.1: what a certificate must be for: mail, documents, or claims of this very standard.
_PURPOSES = {
    ExtendedKeyUsageOID.EMAIL_PROTECTION,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36"),
    x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1"),
}

_HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES: dict[str, type[ec.EllipticCurve]] = {"256": ec.SECP256R1, "384": ec.SECP384R1, "512": ec.SECP521R1}
_LEAST_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class Signatory:
    """What signing takes.

    Attributes:
        chain_pem: the certificate that signs, then those that vouch for it, in PEM.
        algorithm: how it signs, one of `settings.ALGORITHMS`.
        expires: when the certificate ends; what it signed without a time stamp is not valid any more then.
        sign: gives the raw signature of some bytes: for the elliptic ones r and s, one after the other (RFC 9053).
            Raises RequirementError.
        timestamp_url: whom to ask for a time stamp; None: nobody.
        subject: the certificate's name, as shown to people.
    """

    chain_pem: bytes
    algorithm: str
    expires: datetime
    sign: Callable[[bytes], bytes]
    timestamp_url: str | None
    subject: str


def signatory(config: Config, home: Home, now: datetime | None = None) -> Signatory:
    """Who signs according to the settings; our own authority and certificate are made or renewed where there is need.

    Raises ConfigError: a file is missing or damaged, certificate, key and `provenance.algorithm` do not go together,
    the certificate has ended, or is not of the kind that C2PA asks for.
    """
    now = now or datetime.now(UTC)
    if config.certificate is None:
        return _own(config, home, now)
    pem = _read("certificate", config.certificate)
    leaf = _checked_chain(config.certificate, pem, now)
    scheme = _scheme_of(config.algorithm, leaf.public_key())
    sign = _program(config.signer, scheme) if config.signer else _with_key(config, scheme)
    return _made(config, pem, leaf, sign)


def _own(config: Config, home: Home, now: datetime) -> Signatory:
    if config.algorithm != "es256":
        raise ConfigError(
            f"provenance.algorithm: our own certificate signs by es256: {config.algorithm} needs "
            "provenance.certificate and provenance.key"
        )
    pem, key = authority.own(home, now)
    leaf = x509.load_pem_x509_certificate(pem)
    return _made(config, pem, leaf, _scheme_of("es256", leaf.public_key()).signing(key))


def _made(config: Config, pem: bytes, leaf: x509.Certificate, sign: Callable[[bytes], bytes]) -> Signatory:
    # the library takes an empty URL for one that it should ask
    url = config.timestamp_url or None
    return Signatory(pem, config.algorithm, leaf.not_valid_after_utc, sign, url, _shown(leaf.subject))


def _shown(name: x509.Name) -> str:
    """The common name, with the organisation in brackets."""
    parts = [
        printable(str(found[0].value))
        for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
        if (found := name.get_attributes_for_oid(kind))
    ]
    return " ".join([parts[0], *(f"({each})" for each in parts[1:])]) if parts else "nameless"


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How a kind of key signs, and how that is looked at: both on raw signatures."""

    public: PublicKeyTypes
    sign: Callable[[PrivateKeyTypes, bytes], bytes]
    verify: Callable[[bytes, bytes], None]  # signature, data; raises InvalidSignature

    def signing(self, key: PrivateKeyTypes) -> Callable[[bytes], bytes]:
        return lambda data: self.sign(key, data)


def _scheme_of(algorithm: str, public: PublicKeyTypes) -> _Scheme:
    """Raises ConfigError: the key is not one for that algorithm."""
    bits = algorithm[2:]
    if algorithm == "ed25519" and isinstance(public, ed25519.Ed25519PublicKey):
        return _Scheme(public, lambda key, data: key.sign(data), public.verify)  # type: ignore[union-attr, call-arg]
    if algorithm.startswith("es") and isinstance(public, ec.EllipticCurvePublicKey) and _is_on(public, bits):
        return _elliptic(public, _HASHES[bits])
    if algorithm.startswith("ps") and isinstance(public, rsa.RSAPublicKey) and public.key_size >= _LEAST_RSA_BITS:
        return _pss(public, _HASHES[bits])
    raise ConfigError(f"provenance.algorithm: {algorithm} is not what the certificate's key is for: {_kind(public)}")


def _is_on(public: ec.EllipticCurvePublicKey, bits: str) -> bool:
    return isinstance(public.curve, _CURVES[bits])


def _elliptic(public: ec.EllipticCurvePublicKey, digest: hashes.HashAlgorithm) -> _Scheme:
    size = (public.curve.key_size + 7) // 8

    def sign(key: PrivateKeyTypes, data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))  # type: ignore[union-attr, call-arg, arg-type]
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    def verify(signature: bytes, data: bytes) -> None:
        if len(signature) != 2 * size:
            raise InvalidSignature
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        public.verify(encode_dss_signature(r, s), data, ec.ECDSA(digest))

    return _Scheme(public, sign, verify)


def _pss(public: rsa.RSAPublicKey, digest: hashes.HashAlgorithm) -> _Scheme:
    scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return _Scheme(
        public,
        lambda key, data: key.sign(data, scheme, digest),  # type: ignore[union-attr, call-arg, arg-type]
        lambda signature, data: public.verify(signature, data, scheme, digest),
    )


def _kind(public: PublicKeyTypes) -> str:
    if isinstance(public, ec.EllipticCurvePublicKey):
        fitting = [f"es{bits}" for bits in _CURVES if _is_on(public, bits)]
        return fitting[0] if fitting else f"none of them can use {public.curve.name}"
    if isinstance(public, rsa.RSAPublicKey):
        return "ps256, ps384 or ps512" if public.key_size >= _LEAST_RSA_BITS else "none of them, it is too short"
    return "ed25519" if isinstance(public, ed25519.Ed25519PublicKey) else "none of them"


def _checked_chain(file: Path, pem: bytes, now: datetime) -> x509.Certificate:
    """The certificate that signs. Raises ConfigError where C2PA would refuse what it signs."""
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise _wrong("certificate", file, "holds no certificate in PEM") from error
    leaf = chain[0]
    for issued, issuer in pairwise(chain):
        try:
            issued.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise _wrong("certificate", file, "must begin with the one that signs, then who vouches for it") from error
    if not leaf.not_valid_before_utc <= now:
        raise _wrong("certificate", file, f"is good only from {leaf.not_valid_before_utc:%d %B %Y}: see to the clock")
    if now > leaf.not_valid_after_utc:
        raise _wrong("certificate", file, f"ended on {leaf.not_valid_after_utc:%d %B %Y}: get a new one")
    if why := _unfit(leaf):
        raise _wrong("certificate", file, f"{why}: get one for signing C2PA manifests")
    return leaf


def _unfit(leaf: x509.Certificate) -> str:
    """What C2PA's certificate profile finds wrong with it; empty: nothing."""
    if leaf.issuer == leaf.subject:
        return "vouches for itself"
    try:
        extensions = leaf.extensions
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound as error:
        return f"lacks the extension {error.oid._name}"
    except ValueError:
        return "has extensions that cannot be read"
    if usage.key_cert_sign or not usage.digital_signature:
        return "is not for signatures"
    return "" if purposes & _PURPOSES else "is for something else"


def _with_key(config: Config, scheme: _Scheme) -> Callable[[bytes], bytes]:
    file = config.key
    assert file is not None  # the settings see to it
    content = _read("key", file)
    if file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise _wrong("key", file, f"can be read by everybody: run `chmod 600 {file}`")
    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError as error:
        raise _wrong("key", file, "is locked by a password: sign with provenance.signer") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _wrong("key", file, "holds no private key in PEM") from error
    if key.public_key() != scheme.public:
        raise _wrong("key", file, "is not the key of provenance.certificate")
    return scheme.signing(key)


def _program(command: tuple[str, ...], scheme: _Scheme) -> Callable[[bytes], bytes]:
    shown = printable(Path(command[0]).name)

    def sign(data: bytes) -> bytes:
        signature = _run(command, shown, data)
        try:
            scheme.verify(signature, data)
        except InvalidSignature as error:
            raise RequirementError(
                f"provenance.signer: {shown} gave no signature by the certificate's key: it must write the raw one "
                "of what it reads, and nothing else"
            ) from error
        return signature

    return sign


def _run(command: tuple[str, ...], shown: str, data: bytes) -> bytes:
    """What the program writes; its children go with it where it takes too long."""
    pipe = subprocess.PIPE
    try:
        program = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as error:
        raise RequirementError(f"provenance.signer: {shown} cannot be run: {(error.strerror or '').lower()}") from error
    with program:
        try:
            out, complaint = program.communicate(data, SIGNER_TIMEOUT_S)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise RequirementError(
                f"provenance.signer: {shown} has not signed within {SIGNER_TIMEOUT_S:.0f} s"
            ) from error
    if program.returncode:
        said = printable(complaint.decode("utf-8", "replace").strip().rpartition("\n")[2])[:_LONGEST_COMPLAINT]
        raise RequirementError(f"provenance.signer: {shown} ended with {program.returncode}: {said or 'no word why'}")
    return out


def _read(setting: str, file: Path) -> bytes:
    try:
        return private.read(file, _LONGEST)
    except OSError as error:
        raise _wrong(setting, file, f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise _wrong(setting, file, f"cannot be read: {error}") from error


def _wrong(setting: str, file: Path, why: str) -> ConfigError:
    return ConfigError(f"provenance.{setting}: {printable(str(file))} {why}")
