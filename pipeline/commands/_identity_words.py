"""What a person has agreed to, put into words: `understudy identity add`, `renew` and `sign`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from pipeline.commands import _identities
from pipeline.commands._acts import Add

if TYPE_CHECKING:
    from pipeline.consent.identity import Evidence, Identity
    from pipeline.consent.registry import Registry

_KINDS = {
    "self": "you",
    "synthetic": "nobody: the faces are made up",
    "consented": "somebody who has agreed",
    "licensed": "somebody whose face is licensed, by contract",
    "public-domain-test": "somebody in footage of the public domain, for tests alone",
}

# As in pipeline.consent.identity, which --help does not wait for.
_EVIDENCE, _AGREED, _OPEN = "release, contract, video or other", ("consented", "licensed"), "open"

#: The word for no limit.
_ANY = "any"

_WHAT = "a face set, an identity file, or an id"


def add_arguments(add: Add) -> None:
    """The three acts, and their arguments."""
    added = add("add", "say whose faces a face set shows, and on whose word they may be used", _add)
    added.add_argument("face_set", metavar="FACESET", type=Path, help="the folder of the faces")
    kinds = added.add_mutually_exclusive_group(required=True)
    for kind, meaning in _KINDS.items():
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=f"it is {meaning}")
    _content(added)
    renewed = add("renew", "make a new version: what is given replaces what was said, the rest stays", _renew)
    renewed.add_argument("what", metavar="WHAT", help=_WHAT)
    _content(renewed)
    add("sign", "sign an identity file: to vouch for what it says", _sign).add_argument(
        "what", metavar="WHAT", help=_WHAT
    )


def _content(parser: argparse.ArgumentParser) -> None:
    """What an identity may say."""
    content = parser.add_argument_group("what it says")
    content.add_argument("--from", dest="begin", metavar="DATE", type=_moment(False), help="valid from then on, UTC")
    content.add_argument("--until", metavar="DATE", type=_moment(True), help=f"valid to its end, UTC; or: {_OPEN}")
    content.add_argument("--roles", metavar="ROLE,...", type=_identities.roles, help=f"of {_identities.ROLES}: all")
    for name, meaning in (("purpose", "for this"), ("project", "in this project"), ("territory", "to be seen there")):
        content.add_argument(
            f"--{name}", metavar="WORD", action="append", help=f"only {meaning}; may be repeated; {_ANY}: no limit"
        )
    content.add_argument("--exclude", metavar="WORD", action="append", help="never for, in or to be seen in this")
    content.add_argument(
        "--evidence",
        metavar="KIND=FILE",
        action="append",
        default=[],
        help=f"KIND is {_EVIDENCE}; of the file only the digest is kept",
    )
    content.add_argument("--contact", metavar="TEXT", help="where it can be taken back: e-mail, URL, telephone, desk")
    content.add_argument("--no-sign", dest="sign", action="store_false", help="leaves it unsigned")


def _add(args: argparse.Namespace) -> int:
    from pipeline.consent import identity as identities
    from pipeline.errors import ConfigError, InputError

    registry = _identities.known(args)[1]
    folder: Path = args.face_set
    if not folder.is_dir():
        raise InputError(f"the face set {folder} is no folder; give one that `understudy extract` made")
    before = identities.in_face_set(folder)
    if before is not None and registry.revocation(before.id) is None:
        change = f"understudy identity renew {quote(str(folder))}"
        raise ConfigError(f"{folder} has an identity already, {before.id}; change it with {change}")
    needed = {"--until DATE": args.until, "--evidence KIND=FILE": args.evidence, "--contact TEXT": args.contact}
    if args.kind in _AGREED and (lacking := [option for option, value in needed.items() if not value]):
        raise ConfigError(f"--{args.kind} needs {' and '.join(lacking)} as well")
    now = _identities.now()
    blank = identities.Identity(identities.new_id(), "self", identities.Scope(), now, now)
    made = _built(lambda: replace(blank, kind=args.kind, **_said(blank, args)))
    return _put(args, registry, made, folder / identities.FILE, "added")


def _renew(args: argparse.Namespace) -> int:
    from pipeline.consent.identity import FILE
    from pipeline.errors import ConfigError

    registry = _identities.known(args)[1]
    file, shown = _one(args.what, registry)
    before = max((shown, *registry.versions(shown.id)), key=lambda each: each.issued)
    for each in (shown, before):
        _refuse_doubtful(each, registry, args.what)
    said = _built(lambda: replace(before, **_said(before, args)))
    if said == replace(before, signature=None):
        raise ConfigError("say what is new, such as --until DATE; `understudy identity renew --help` lists what may be")
    made = replace(said, issued=max(_identities.now(), before.issued + timedelta(seconds=1)))
    return _put(args, registry, made, file if file is not None and file.name == FILE else None, "renewed")


def _sign(args: argparse.Namespace) -> int:
    from pipeline.errors import ConsentError

    registry = _identities.known(args)[1]
    file, before = _one(args.what, registry)
    if registry.revocation(before.id) is not None:
        see = f"understudy identity show {before.id}"
        raise ConsentError(f"{before.id} was revoked, so nobody can vouch for it; see {see}")
    return _put(args, registry, before, file, "signed")


def _said(before: Identity, args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say, in the place of what was said. Raises ValueError."""
    scope = before.scope if args.roles is None else replace(before.scope, roles=args.roles)
    words = {"purposes": args.purpose, "projects": args.project, "territory": args.territory, "excluded": args.exclude}
    given = {name: () if each == [_ANY] else tuple(each) for name, each in words.items() if each is not None}
    said = {
        "scope": replace(scope, **given),
        "valid_from": args.begin or before.valid_from,
        "evidence": tuple(dict.fromkeys((*before.evidence, *map(_evidence, args.evidence)))),
        "contact": before.contact if args.contact is None else args.contact,
        "signature": None,
    }
    return said if args.until is None else {**said, "valid_until": None if args.until == _OPEN else args.until}


def _evidence(word: str) -> Evidence:
    from pipeline.consent.identity import EVIDENCE, Evidence
    from pipeline.errors import ConfigError, InputError
    from pipeline.originals import digest

    kind, _, file = word.partition("=")
    if not file or kind not in EVIDENCE:
        raise ConfigError(f"--evidence {word}: write KIND=FILE, where KIND is {_EVIDENCE}")
    try:
        return Evidence(kind, digest(Path(file)))
    except OSError as error:
        raise InputError(f"the evidence {file} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _put(args: argparse.Namespace, registry: Registry, made: Identity, file: Path | None, what: str) -> int:
    """Signs a version unless that is not wanted, registers it, puts it where its id is, and says so."""
    from pipeline.consent import identity as identities
    from pipeline.provenance.audit import Audit

    if getattr(args, "sign", True):
        made = identities.signed(made, registry.own_key())
    registry.add(made)
    if file is not None and file.name == identities.FILE:
        registry.remember(made.id, [file.parent])
    files = {file.resolve()} if file is not None else set()
    for place in registry.places(made.id):
        if (there := identities.in_face_set(place)) is not None and there.id == made.id:
            files.add(place / identities.FILE)
    for each in sorted(files):
        _write(each, made)
    Audit(registry.home).append("identity-added", {"identities": [[made.id, made.digest]], "kind": made.kind})
    _identities.say(args, registry, made, f"{what}: {file or made.id}")
    return 0


def _write(file: Path, identity: Identity) -> None:
    from pipeline.consent import private
    from pipeline.consent.identity import to_bytes
    from pipeline.errors import ConsentError

    try:
        private.write(file, to_bytes(identity))
    except OSError as error:
        raise ConsentError(f"{file} cannot be written: {(error.strerror or str(error)).lower()}") from error


def _one(word: str, registry: Registry) -> tuple[Path | None, Identity]:
    """The file, if it is one, and the identity. Raises ConfigError where a model is meant."""
    from pipeline.errors import ConfigError

    found = _identities.meant(word, registry)
    if found.model is not None:
        see = f"understudy identity show {quote(word)}"
        raise ConfigError(f"{word} is a model; give one person's face set, or an id, as {see} tells it")
    ((_, identity),) = found.people.items()
    assert identity is not None, "only models have people without one"
    return found.file, identity


def _refuse_doubtful(identity: Identity, registry: Registry, word: str) -> None:
    """Raises ConsentError where an identity is forged or was revoked."""
    from pipeline.consent.identity import is_forged
    from pipeline.errors import ConsentError

    if is_forged(identity):
        raise ConsentError(
            f"{word} has a signature that is forged, or was changed after it was signed; "
            f"read it and vouch for it first: understudy identity sign {quote(word)}"
        )
    if registry.revocation(identity.id) is not None:
        raise ConsentError(
            f"{identity.id} was revoked, for good; who has agreed anew gets an identity anew: "
            "understudy identity add FACESET --consented"
        )


def _built(make: Callable[[], Identity]) -> Identity:
    """What `make` makes. Raises ConfigError where an argument cannot be."""
    from pipeline.errors import ConfigError, UnderstudyError

    try:
        return make()
    except UnderstudyError:  # some are ValueErrors, too
        raise
    except ValueError as error:
        raise ConfigError(f"the identity cannot be like that: {error}") from error


def _moment(at_end: bool) -> Callable[[str], Any]:
    """Reads a time; at an end, the word that there is none, too."""

    def parsed(text: str) -> Any:
        from pipeline.consent.identity import moment

        if at_end and text == _OPEN:
            return text
        try:
            return moment(text, at_end)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed
