"""The settings of where results say they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: How a certificate's key may sign, by COSE's names (RFC 9053) in lower case.
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")


@dataclass(frozen=True, slots=True)
class Config:
    """Who signs results, and how.

    Attributes:
        folder: the private folder of keys, identities and the audit; None: `understudy` in the user's data folder.
        certificate: a PEM file: a bought certificate, then those that vouch for it; None: our private authority's.
        key: the PEM file of its private key; None where `signer` signs.
        algorithm: how the key signs, one of `ALGORITHMS`.
        signer: a program and its arguments that signs instead of `key`: the bytes come in, the raw signature goes out.
        timestamp_url: a time-stamping authority (RFC 3161) that is asked at each signature; empty: none is.
        anchors: a PEM file of further authorities that `provenance verify` trusts; None: none.
        producer: who answers for what is made, as the AIGC label names it; empty: the program.
    """

    folder: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    algorithm: str = "es256"
    signer: tuple[str, ...] = ()
    timestamp_url: str = ""
    anchors: Path | None = None
    producer: str = ""

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, not {self.algorithm!r}")
        if (self.certificate is None) != (self.key is None and not self.signer):
            raise ValueError("certificate needs a key or a signer, and each of these a certificate")
        if self.key is not None and self.signer:
            raise ValueError("key and signer exclude each other")
        if self.timestamp_url and not self.timestamp_url.startswith(("http://", "https://")):
            raise ValueError(f"timestamp_url must begin with http:// or https://, not {self.timestamp_url!r}")
