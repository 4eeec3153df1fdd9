"""Identities for the people of tests, who are painted: without one, nobody is trained on or put anywhere."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from pipeline.consent.identity import FILE, Identity, Scope, to_bytes

#: Of each identity that is made here, so that its digest is always the same.
ISSUED = datetime(2026, 1, 1, tzinfo=UTC)


def identity_of(name: str) -> Identity:
    """The identity of somebody who was never born; the same name always is the same one. It is not signed."""
    return Identity(f"id-{hashlib.sha256(name.encode()).hexdigest()[:16]}", "synthetic", Scope(), ISSUED, ISSUED)


def synthetic(folder: Path, name: str) -> str:
    """Puts that into a face set's folder; gives its digest."""
    made = identity_of(name)
    (folder / FILE).write_bytes(to_bytes(made))
    return made.digest


def consented(model: Path) -> Path:
    """Has a model carry such an identity for each of its people; gives its folder."""
    from models import checkpoint, description

    people = {name: identity_of(name) for name in description.read(model).people}
    files = {each.digest: to_bytes(each) for each in people.values()}
    checkpoint.attach(model, files, {name: each.digest for name, each in people.items()})
    return model
