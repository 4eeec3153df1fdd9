"""The identities known on this machine, whose signatures count here, and what was revoked.

    HOME/identities/ID/DIGEST.yaml    every version of each identity
    HOME/identities/ID/places.json    the folders of face sets that it lies in
    HOME/revoked/ID.yaml              version, id, revoked (when), because, signature
    HOME/trusted/KEY.pem              others' public keys, beside our own

A revocation counts if there is a file of its name, whatever is in it: what cannot be read must not be read as a yes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipeline.consent import forms, plain_yaml, private
from pipeline.consent import identity as identities
from pipeline.consent.identity import Identity, Signature
from pipeline.errors import ConsentError
from pipeline.provenance.home import Home

T = TypeVar("T")

_VERSION = "1"
_PREFIX = b"understudy revocation 1\n"
_PLACES = "places.json"
_LONGEST_KEY, _LONGEST_PLACES, LONGEST_REASON = 16 << 10, 1 << 20, 500

_DIGEST_FILE = re.compile(r"[0-9a-f]{64}\.yaml")


@dataclass(frozen=True, slots=True)
class Revocation:
    """That consent has been taken back.

    Attributes:
        when: in UTC; None where the file does not say so any more.
        because: why; empty likewise.
        genuine: whether a key that is trusted here has signed it. It counts in any case.
    """

    id: str
    when: datetime | None
    because: str
    genuine: bool


@dataclass(frozen=True, slots=True)
class Registry:
    """The identities of a home. Files are opened for each call. Everything raises ConsentError where one of them cannot
    be read or written, or is damaged.
    """

    home: Home

    def ids(self) -> tuple[str, ...]:
        """Whoever is known here or was revoked here, in order."""
        folders = _do(self.home.identities, "read", lambda: [each.name for each in _entries(self.home.identities)])
        files = _do(self.home.revoked, "read", lambda: [each.stem for each in _entries(self.home.revoked)])
        return tuple(sorted(name for name in {*folders, *files} if _is_id(name)))

    def add(self, identity: Identity) -> Path:
        """Keeps a version, or its new signature; gives where."""
        file = self._folder(identity.id) / f"{identity.digest}.yaml"
        _do(file, "written", lambda: _put(file, identities.to_bytes(identity)))
        return file

    def versions(self, id: str) -> tuple[Identity, ...]:
        """Every version of an identity that is known here, newest first; none where it is not known."""
        folder = self._folder(id)
        files = [file for file in _do(folder, "read", lambda: _entries(folder)) if _DIGEST_FILE.fullmatch(file.name)]
        found = [_checked(identities.read(file), file, id) for file in files]
        return tuple(sorted(found, key=lambda each: (each.issued, each.digest), reverse=True))

    def newest(self, id: str) -> Identity | None:
        """The version that was issued last; None where the identity is not known here."""
        return next(iter(self.versions(id)), None)

    def revoke(self, id: str, because: str, now: datetime) -> Revocation:
        """Records that consent has been taken back, for good; what was recorded before stays as it is.

        Raises:
            ValueError: this is no id, or no reason of one line.
        """
        identities.check_id(id)
        forms.check_line("the reason", because, LONGEST_REASON)
        before = self.revocation(id)
        if before is not None and before.genuine:
            return before
        when = identities.written(now.astimezone(UTC).replace(microsecond=0))
        key = self.own_key()
        value = key.sign(_signed(id, when, because)).hex()
        tree = {"version": 1, "id": id, "revoked": when, "because": because}
        tree["signature"] = {"key": identities.key_id(key.public_key()), "value": value}
        content = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=1 << 16).encode()
        file = self._revoked(id)
        _do(file, "written", lambda: _put(file, content))
        return Revocation(id, identities.moment(when), because, genuine=True)

    def revocation(self, id: str) -> Revocation | None:
        """That an identity was revoked; None where it was not."""
        file = self._revoked(id)
        try:
            file.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(file, "read", error) from error
        try:
            return self._read_revocation(file, id)
        except (OSError, ValueError):
            return Revocation(id, None, "", genuine=False)

    def trusted_keys(self) -> tuple[Ed25519PublicKey, ...]:
        """Whose signatures count: ours, if there is one, and those of `trust`."""
        files = sorted(_do(self.home.trusted, "read", lambda: _entries(self.home.trusted)))
        others = [public_key(file) for file in files if file.suffix == ".pem" and not file.name.startswith(".")]
        has_own = _do(self.home.identity_key, "read", self.home.identity_key.exists)
        own = [self.own_key().public_key()] if has_own else []
        return (*own, *others)

    def trust(self, key: Ed25519PublicKey) -> Path:
        """From now on that key's signatures count; gives where it is kept."""
        file = self.home.trusted / f"{identities.key_id(key)[:16]}.pem"
        _do(file, "written", lambda: _put(file, as_pem(key)))
        return file

    def own_key(self) -> Ed25519PrivateKey:
        """Our key; it is made where there is none."""
        file = self.home.identity_key
        if not _do(file, "read", file.exists):
            fresh = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            _do(file, "written", lambda: _put_first(file, fresh))
        content = _do(file, "read", lambda: private.read(file, _LONGEST_KEY))
        try:
            key = serialization.load_pem_private_key(content, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConsentError(
                f"{file} holds no private key; restore it, or move it away to have another made"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConsentError(f"{file} holds no Ed25519 key; restore it, or move it away to have another made")
        return key

    def places(self, id: str) -> tuple[Path, ...]:
        """The face sets' folders that are known to have had this identity."""
        file = self._folder(id) / _PLACES
        try:
            found = json.loads(_do(file, "read", lambda: private.read(file, _LONGEST_PLACES)))
        except FileNotFoundError:
            return ()
        except (ValueError, RecursionError) as error:
            raise ConsentError(f"{file} is damaged; remove it") from error
        if not isinstance(found, list) or not all(isinstance(each, str) and each.startswith("/") for each in found):
            raise ConsentError(f"{file} is damaged; remove it")
        return tuple(map(Path, found))

    def remember(self, id: str, folders: Sequence[Path]) -> None:
        """The face sets' folders of this identity are these, besides those that are known already."""
        known = {str(each): None for each in (*self.places(id), *(folder.resolve() for folder in folders))}
        self._write_places(id, list(known))

    def forget(self, id: str, folder: Path) -> None:
        """One of them is not there any more."""
        self._write_places(id, [str(each) for each in self.places(id) if each != folder])

    def _write_places(self, id: str, places: list[str]) -> None:
        file = self._folder(id) / _PLACES
        _do(file, "written", lambda: _put(file, json.dumps(places, indent=1).encode()))

    def _folder(self, id: str) -> Path:
        identities.check_id(id)
        return self.home.identities / id

    def _revoked(self, id: str) -> Path:
        identities.check_id(id)
        return self.home.revoked / f"{id}.yaml"

    def _read_revocation(self, file: Path, id: str) -> Revocation:
        """What the file says. Raises OSError, ValueError where it does not say it."""
        tree = plain_yaml.load(private.read(file, identities.LONGEST))
        given = forms.mapping("it", tree, ("version", "id", "revoked", "because", "signature"))
        signature = forms.mapping("signature", given["signature"], ("key", "value"))
        version, named, when, because = (forms.text(key, given[key]) for key in ("version", "id", "revoked", "because"))
        key, value = (forms.text(name, signature[name]) for name in ("key", "value"))
        forms.check_line("because", because, LONGEST_REASON)
        genuine = (
            (version, named) == (_VERSION, id)
            and key in map(identities.key_id, self.trusted_keys())
            and identities.verifies(Signature(key, value), _signed(id, when, because))
        )
        return Revocation(id, identities.moment(when), because, genuine)


def public_key(file: Path) -> Ed25519PublicKey:
    """The public Ed25519 key in a PEM file. Raises ConsentError."""
    content = _do(file, "read", lambda: private.read(file, _LONGEST_KEY))
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConsentError(f"{file} holds no public key in PEM; have `understudy identity key` print one") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConsentError(f"{file} holds no Ed25519 key; have `understudy identity key` print one")
    return key


def as_pem(key: Ed25519PublicKey) -> bytes:
    """A public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _signed(id: str, when: str, because: str) -> bytes:
    said = json.dumps({"because": because, "id": id, "revoked": when}, ensure_ascii=False, separators=(",", ":"))
    return _PREFIX + said.encode("utf-8", "backslashreplace")


def _checked(identity: Identity, file: Path, id: str) -> Identity:
    if identity.id != id or f"{identity.digest}.yaml" != file.name:
        raise ConsentError(f"{file} is not what was registered under its name; restore it, or remove it")
    return identity


def _is_id(name: str) -> bool:
    try:
        identities.check_id(name)
    except ValueError:
        return False
    return True


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:  # nothing was added yet; whatever else is there instead is an error
        return []


def _put(file: Path, content: bytes) -> None:
    private.make_folder(file.parent)
    private.write(file, content)


def _put_first(file: Path, content: bytes) -> None:
    private.make_folder(file.parent)
    private.write_first(file, content)


def _do(path: Path, what: str, act: Callable[[], T]) -> T:
    """What `act` gives. Raises ConsentError where the disk refuses, but FileNotFoundError as it is."""
    try:
        return act()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(path, what, error) from error
    except ValueError as error:
        raise ConsentError(f"{path} cannot be {what}: {error}") from error


def _refused(path: Path, what: str, error: OSError) -> ConsentError:
    return ConsentError(f"{path} cannot be {what}: {(error.strerror or str(error)).lower()}")
