"""What `understudy identity` is told of and what it shows: whose identity is meant, and all there is to say of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands._acts import settings_of

if TYPE_CHECKING:
    from models.description import ModelDescription
    from pipeline.app import Settings
    from pipeline.consent.identity import Identity
    from pipeline.consent.policy import Origin
    from pipeline.consent.registry import Registry

# As in pipeline.consent.identity, which --help does not wait for.
ROLES = "train,appear,replace"


def known(args: argparse.Namespace) -> tuple[Settings, Registry]:
    """The settings that hold, and the identities known here. Raises ConfigError."""
    from pipeline import app
    from pipeline.consent.registry import Registry

    settings = settings_of(args)
    return settings, Registry(app.home(settings))


def roles(text: str) -> tuple[str, ...]:
    """Roles of an argument."""
    found = tuple(text.split(","))
    if wrong := [role for role in found if role not in ROLES.split(",")]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {ROLES}")
    return found


@dataclass(frozen=True, slots=True)
class Meant:
    """Whose identities are meant by a word.

    Attributes:
        people: by the names they have there; None: a person who has none.
        file: the one file that the word stands for; None: a model, or an id.
        model: the folder of the model that carries them; None: it is none.
    """

    people: Mapping[str, Identity | None]
    file: Path | None = None
    model: Path | None = None
    description: ModelDescription | None = None

    @property
    def origin(self) -> Origin:
        """For the commands in errors."""
        from pipeline.consent.identity import FILE
        from pipeline.consent.policy import Origin

        if self.model is not None:
            return Origin(str(self.model))
        in_set = self.file is not None and self.file.name == FILE
        place = str(self.file.parent if in_set else self.file) if self.file is not None else ""
        return Origin(face_sets=dict.fromkeys(self.people, place) if place else {})


def meant(word: str, registry: Registry) -> Meant:
    """A face set's folder, a model's, an identity file, or an id that is known here.

    Raises:
        ConfigError: it is none of these.
        ConsentError: the folder has no identity; a file is no such file, or is not what the model was trained with.
        WeightsError: the model's description cannot be read.
    """
    from pipeline.consent import identity as identities
    from pipeline.errors import ConfigError

    place = Path(word)
    if place.is_dir():
        return _in_folder(place)
    if place.exists():
        found = identities.read(place)
        return Meant({found.id: found}, place)
    try:
        known = registry.newest(word)
    except ValueError:  # no id
        known = None
    if known is None:
        raise ConfigError(
            f"{word} is neither a folder, nor an identity file, nor an id that is known here; "
            "`understudy identity list` tells which are"
        )
    return Meant({known.id: known})


def _in_folder(folder: Path) -> Meant:
    from models import kept
    from pipeline.consent import identity as identities
    from pipeline.consent.policy import Origin
    from pipeline.errors import ConsentError

    if kept.is_model(folder):
        return of_model(folder)
    found, name = identities.in_face_set(folder), folder.resolve().name
    if found is None:
        raise ConsentError(f"{folder} has no identity file: run {Origin(face_sets={name: str(folder)}).missing(name)}")
    return Meant({name: found}, folder / identities.FILE)


def of_model(folder: Path) -> Meant:
    """Everybody in a model, those whom its weights were started from as well.

    Raises:
        ConsentError: what it carries is not what it was trained with.
        WeightsError: it cannot be read.
    """
    from models import carried, kept
    from pipeline.consent import policy

    model = kept.read(folder)
    carried.check(folder, model)
    digests = dict.fromkeys(model.people, "") | model.identities
    return Meant(policy.of_model(folder, digests), None, folder, model)


def now() -> datetime:
    """The time, in UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def as_json(identity: Identity, registry: Registry) -> dict[str, Any]:
    """All that an identity says, and what is known of it here, in JSON's types."""
    from dataclasses import asdict

    from pipeline.consent.identity import OPEN, written

    until, revocation = identity.valid_until, registry.revocation(identity.id)
    known = asdict(revocation) if revocation is not None else None
    if known is not None:
        known["when"] = written(known["when"]) if known["when"] else None
    return {
        "id": identity.id,
        "state": state(identity, registry),
        "kind": identity.kind,
        "digest": identity.digest,
        "scope": asdict(identity.scope),
        "issued": written(identity.issued),
        "valid": {"from": written(identity.valid_from), "until": OPEN if until is None else written(until)},
        "evidence": [asdict(each) for each in identity.evidence],
        "contact": identity.contact,
        "signature": _signature(identity, registry),
        "revoked": known,
        "versions": len(registry.versions(identity.id)),
        "face_sets": [str(place) for place in registry.places(identity.id)],
    }


def state(identity: Identity, registry: Registry) -> str:
    """In a word or two, whether it holds now."""
    from pipeline.consent.identity import is_forged

    if registry.revocation(identity.id) is not None:
        return "revoked"
    if is_forged(identity):
        return "forged"
    if identity.valid_until is not None and now() > identity.valid_until:
        return "expired"
    return "not yet" if now() < identity.valid_from else "valid"


def _signature(identity: Identity, registry: Registry) -> dict[str, str] | None:
    from pipeline.consent.identity import is_forged, key_id

    if identity.signature is None:
        return None
    named = identity.signature.key_id
    own = registry.home.identity_key.exists() and named == key_id(registry.own_key().public_key())
    if is_forged(identity):
        by = "nobody (forged, or changed since)"
    elif own:
        by = "us"
    else:
        by = "a trusted key" if named in map(key_id, registry.trusted_keys()) else "an unknown key"
    return {"key": named, "by": by}


def facts(shown: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What `as_json` gives, in names and values for people."""
    scope, valid, signature, revoked = (shown[name] for name in ("scope", "valid", "signature", "revoked"))
    yield "id", f"{shown['id']}, {shown['kind']}, {shown['state']}"
    if revoked is not None:
        doubt = "" if revoked["genuine"] else " (the file is damaged or not signed by us; it counts all the same)"
        yield "revoked", f"{revoked['when'] or 'at some time'}: {revoked['because'] or 'no reason is known'}{doubt}"
    yield "roles", ", ".join(scope["roles"]) or "none"
    for name in ("purposes", "projects", "territory"):
        yield name, ", ".join(scope[name]) or "any"
    if scope["excluded"]:
        yield "excluded", ", ".join(scope["excluded"])
    yield "valid", f"from {valid['from']} until {valid['until']}"
    yield "issued", f"{shown['issued']} (versions known here: {shown['versions']})"
    for each in shown["evidence"]:
        yield "evidence", f"{each['kind']}, SHA-256 {each['sha256']}"
    if shown["contact"]:
        yield "contact", shown["contact"]
    yield "signed", f"by {signature['by']}, {signature['key']}" if signature else "by nobody"
    yield "digest", shown["digest"]
    yield from (("face set", place) for place in shown["face_sets"])


def lines(named: Sequence[tuple[str, str]]) -> list[str]:
    """Names and values as lines that can be printed."""
    from pipeline.logs import printable

    width = max((len(name) for name, _ in named), default=0) + 2
    return [f"{name + ':':<{width}}{printable(value)}" for name, value in named]


def say(args: argparse.Namespace, registry: Registry, identity: Identity, heading: str) -> None:
    """Prints an identity, for whoever reads it; for people below a heading."""
    from pipeline.logs import printable

    shown = as_json(identity, registry)
    if args.json:
        print(json.dumps(shown, indent=2))
        return
    print("\n".join((printable(heading), *lines([*facts(shown)]))))
