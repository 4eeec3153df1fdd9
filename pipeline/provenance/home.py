"""The private folder of keys, identities and the audit: where each thing lies in it.

HOME/                        0700; files in it 0600
  authority.pem .key         our own certificate authority (`authority.py`)
  signing.pem .key           its certificate that signs results, the authority's after it
  identity.key               Ed25519: signs identity files, revocations and the audit's head
  watermark.key              32 random bytes: the pattern of the invisible watermark hangs on them
  trusted/*.pem              public Ed25519 keys of others whose identity files count as signed
  identities/ID/DIGEST.yaml  every version of each identity that was added here
  revoked/ID.yaml            what was revoked, when, why
  audit.sqlite audit.head    the append-only table (SQLite's -wal and -shm beside it), and its signed head
  .lock audit.sqlite.turn    held by whoever makes keys, or a table
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """The folder, and the places in it; nothing is made or read here."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate; its private key lies beside, as .key."""
        return self.folder / "authority.pem"

    @property
    def signing(self) -> Path:
        """The signing certificate, then the authority's; its private key lies beside, as .key."""
        return self.folder / "signing.pem"

    @property
    def identity_key(self) -> Path:
        """The private Ed25519 key, PEM (PKCS #8)."""
        return self.folder / "identity.key"

    @property
    def watermark_key(self) -> Path:
        """32 bytes as they are."""
        return self.folder / "watermark.key"

    @property
    def trusted(self) -> Path:
        """The folder of others' public keys."""
        return self.folder / "trusted"

    @property
    def identities(self) -> Path:
        """The folder of identity files, ID/DIGEST.yaml."""
        return self.folder / "identities"

    @property
    def revoked(self) -> Path:
        """The folder of revocations, ID.yaml."""
        return self.folder / "revoked"

    @property
    def audit(self) -> Path:
        """The audit's table; its signed head lies beside, as .head."""
        return self.folder / "audit.sqlite"
