"""Says whose faces a face set shows and what that person has agreed to, checks it, and takes it back.

`add` writes the file identity.yaml into the folder of a face set: a pseudonym, on whose word the face may be used, for
what and how long, digests of the papers, and a signature. A training hands it on to its model. Whatever uses the face
later looks at it first: train, convert, pipe, and each job of a daemon. The registry of them is in the private folder
(provenance.folder), and so is the key that signs.

Exit codes: 2 a wrong argument; 3 a file cannot be read; 10 somebody has not agreed, or a file says nothing that holds;
6 (--delete, prune) something cannot be removed; 8 the audit cannot be used."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands import _identities, _identity_ends, _identity_words
from pipeline.commands._acts import acts, done

if TYPE_CHECKING:
    from pipeline.app import Settings
    from pipeline.commands._identities import Meant

SUMMARY = "say whose faces these are and what was agreed to; revoke it"

EXAMPLES = """\
  understudy identity add faces/me --self
  understudy identity add faces/puppet --synthetic
  understudy identity add faces/anna --consented --evidence release=anna.pdf --until 2027-12-31 \\
      --contact consent@example.org --purpose film --territory DE
  understudy identity list
  understudy identity show faces/anna                (or a model, an identity file, an id)
  understudy identity check model                    (may it be used now? exits with 10 if not)
  understudy identity renew faces/anna --until 2028-12-31
  understudy identity attach model anna=faces/anna   (to a model that was trained before there was one)
  understudy identity revoke id-0123456789abcdef --because "asked to, by mail" --delete
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    add = acts(parser)
    _identity_words.add_arguments(add)
    add("show", "tell all that is known of an identity", _show).add_argument(
        "what", metavar="WHAT", help="a face set, a model, an identity file, or an id"
    )
    add("list", "list the identities that are known here", _list)
    checked = add("check", "tell whether a face set may be learnt, or a model used, now", _check)
    checked.add_argument("what", metavar="WHAT", help="a face set, or a model")
    checked.add_argument("--roles", metavar="ROLE,...", type=_identities.roles, help=f"for these: {_identities.ROLES}")
    attached = add("attach", "have a model carry identities that it does not, or others", _attach)
    attached.add_argument("model", metavar="MODEL", type=Path, help="the model's folder")
    attached.add_argument("people", metavar="NAME=FACESET", nargs="+", help="whose face sets the model has learnt")
    add("key", "print our public key, for others to trust", _key)
    trusted = add("trust", "have somebody else's signatures count here", _trust)
    trusted.add_argument("key", metavar="KEY.pem", type=Path, help="what `understudy identity key` printed there")
    _identity_ends.add_arguments(add)


def run(args: argparse.Namespace) -> int:
    """Does what was asked for."""
    return done(args)


def _show(args: argparse.Namespace) -> int:
    from pipeline.logs import printable

    _, registry = _identities.known(args)
    meant = _identities.meant(args.what, registry)
    shown = {
        person: None if each is None else _identities.as_json(each, registry) for person, each in meant.people.items()
    }
    if args.json:
        print(json.dumps({"people": shown}, indent=2))
        return 0
    for number, (person, each) in enumerate(shown.items()):
        print("\n" * bool(number) + printable(person))
        named = [("id", "none: it has no identity file")] if each is None else [*_identities.facts(each)]
        print("\n".join(f"  {line}" for line in _identities.lines(named)))
    return 0


def _list(args: argparse.Namespace) -> int:
    from pipeline.logs import printable
    from pipeline.wording import table

    _, registry = _identities.known(args)
    found = [(id, registry.newest(id)) for id in registry.ids()]
    shown = [_identities.as_json(each, registry) if each else {"id": id, "state": "revoked"} for id, each in found]
    if args.json:
        print(json.dumps({"identities": shown}, indent=2))
    elif not shown:
        print("no identities are known here; `understudy identity add FACESET --self` makes one")
    else:
        rows = [("id", "state", "kind", "until", "signed by", "face sets"), *map(_row, shown)]
        print("\n".join(table([tuple(map(printable, row)) for row in rows], 1 << 20, 5)))
    return 0


def _row(shown: Mapping[str, Any]) -> tuple[str, ...]:
    if "kind" not in shown:
        return (shown["id"], shown["state"], "", "", "", "")
    signed = shown["signature"]["by"] if shown["signature"] else "nobody"
    return (
        *(shown["id"], shown["state"], shown["kind"], shown["valid"]["until"][:10], signed),
        ", ".join(shown["face_sets"]),
    )


def _check(args: argparse.Namespace) -> int:
    from pipeline.consent import policy
    from pipeline.errors import ConsentError
    from pipeline.logs import printable

    settings, registry = _identities.known(args)
    reason, notes = "", tuple[str, ...]()
    try:
        meant = _identities.meant(args.what, registry)
        roles = _roles_in(meant, settings, args.roles)
        found = policy.check(meant.people, roles, settings.consent, registry, _identities.now(), meant.origin)
        notes = found.notes
    except ConsentError as error:
        if not args.json:
            raise
        reason = str(error)
    if args.json:
        shown = {"agreed": not reason, "policy": settings.consent.policy, "reason": reason, "notes": list(notes)}
        print(json.dumps(shown, indent=2))
        return ConsentError.exit_code if reason else 0
    print("\n".join(map(printable, ("covered, by the policy " + settings.consent.policy, *notes))))
    return 0


def _roles_in(meant: Meant, settings: Settings, given: tuple[str, ...] | None) -> dict[str, tuple[str, ...]]:
    """What everybody's face is for: to be learnt in a face set, what a conversion does in a model."""
    from pipeline import app

    if given is not None:
        return dict.fromkeys(meant.people, given)
    if meant.description is None:
        return dict.fromkeys(meant.people, ("train",))
    people, to = meant.description.people, settings.swap.to
    return app.roles(meant.description, to if to in people else people[-1])


def _trust(args: argparse.Namespace) -> int:
    from pipeline.consent.identity import key_id
    from pipeline.consent.registry import public_key
    from pipeline.errors import InputError

    _, registry = _identities.known(args)
    try:
        key = public_key(args.key)
    except FileNotFoundError as error:
        raise InputError(f"{args.key} does not exist; give what `understudy identity key` printed elsewhere") from error
    file = registry.trust(key)
    print(json.dumps({"key": key_id(key), "file": str(file)}) if args.json else f"trusted: {key_id(key)}")
    return 0


def _key(args: argparse.Namespace) -> int:
    from pipeline.consent.identity import key_id
    from pipeline.consent.registry import as_pem

    key = _identities.known(args)[1].own_key().public_key()
    pem = as_pem(key).decode()
    sys.stdout.write(json.dumps({"key": key_id(key), "pem": pem}) + "\n" if args.json else pem)
    return 0


def _attach(args: argparse.Namespace) -> int:
    from models import kept
    from pipeline.consent import identity as identities
    from pipeline.consent import policy
    from pipeline.logs import printable
    from pipeline.provenance.audit import Audit

    settings, registry = _identities.known(args)
    folders = _each_named(args.people)
    found = {person: identities.in_face_set(Path(folder)) for person, folder in folders.items()}
    asked = settings.consent
    if asked.policy == "off-for-self":  # there is nothing to attach of whoever has none
        asked = replace(asked, policy="present")
    roles, origin = dict.fromkeys(found, ("train",)), policy.Origin(face_sets=folders)
    notes = policy.check(found, roles, asked, registry, _identities.now(), origin).notes
    given = {person: each for person, each in found.items() if each is not None}
    others = {name: digest for name, digest in kept.read(args.model).identities.items() if name not in given}
    everybody = [each for each in (*given.values(), *policy.of_model(args.model, others).values()) if each is not None]
    from models import checkpoint

    digests = {person: each.digest for person, each in given.items()}
    files = {each.digest: identities.to_bytes(each) for each in given.values()}
    model = checkpoint.attach(args.model, files, digests)
    pairs = [[each.id, each.digest] for each in everybody]
    facts = {"model": str(args.model.absolute()), "digest": model.digest, "identities": pairs}
    Audit(registry.home).append("identity-added", facts)
    if args.json:
        print(json.dumps({"model": str(args.model), "digest": model.digest, "identities": dict(model.identities)}))
        return 0
    said = (f"{args.model} carries the identity of {person}: {each.id}" for person, each in given.items())
    print("\n".join(map(printable, (*said, *notes))))
    return 0


def _each_named(words: Sequence[str]) -> dict[str, str]:
    """Each person's one face set. Raises ConfigError."""
    from pipeline import people
    from pipeline.errors import ConfigError

    found = people.parse(words)
    if any(not people.NAME.fullmatch(word.partition("=")[0]) for word in words) or len(found) < len(words):
        raise ConfigError(
            "write NAME=FACESET for each person, whose NAME is that in the model, and one FACESET of each"
        )
    return {person: folder for person, (folder,) in found.items()}
