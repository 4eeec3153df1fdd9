"""The home's Ed25519 key, which signs identity files, revocations and the audit's head: read, or made if need be.

It is kept as PKCS #8 in PEM, for its owner alone. Several processes may ask for it at once: all get the same.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline import publish
from pipeline.errors import ConfigError
from pipeline.originals import open_regular
from pipeline.provenance.home import Home

_LONGEST = 1 << 16


def read(home: Home) -> Ed25519PrivateKey | None:
    """The key; None where there is none. Raises ConfigError where the file is no such key, OSError."""
    try:
        with open_regular(home.identity_key) as file:
            content = file.read(_LONGEST)
    except FileNotFoundError:
        return None
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{home.identity_key} is no Ed25519 key without a password; put back the one that was there, or move it"
            " away and have another made with understudy provenance init"
        )
    return key


def ensure(home: Home) -> Ed25519PrivateKey:
    """The key, made where there is none; it is on the disk when this returns. Raises ConfigError, OSError."""
    if (key := read(home)) is not None:
        return key
    home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    partial = home.folder / f".identity.key.{secrets.token_hex(8)}.part"
    try:
        _write(partial, pem)
        with suppress(FileExistsError):  # another process was first: its key it is
            os.link(partial, home.identity_key)
    finally:
        partial.unlink(missing_ok=True)
    publish.sync(str(home.folder))
    made = read(home)
    if made is None:
        raise FileNotFoundError(2, "it went as soon as it was made", str(home.identity_key))
    return made


def _write(partial: Path, content: bytes) -> None:
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
