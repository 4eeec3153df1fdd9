"""Whether what is to be done is covered by what people have agreed to.

Of each person there is one identity: that of the face set that is learnt, or the one that a model carries. Which of its
versions counts is up to the registry, where a renewed one may lie. Whoever is not covered stops everything; the error
says whom it is about, what is wrong, and the one command that mends it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.consent import identity as identities
from pipeline.consent.identity import ROLES as ROLES
from pipeline.consent.identity import Identity, Scope, is_forged, is_genuine, written
from pipeline.consent.registry import Registry
from pipeline.consent.settings import Config
from pipeline.errors import ConsentError

#: Where a model keeps the identity files that it carries, as DIGEST.yaml.
CARRIED = "identities"

#: The territory that holds all others.
WORLDWIDE = "worldwide"

_DIGEST = re.compile(r"[0-9a-f]{64}")

#: What looks like a country (ISO 3166-1): a part of the world.
_COUNTRY = re.compile(r"[A-Za-z]{2}")

_MEANT = {"train": "being learnt", "appear": "their face being put on others", "replace": "their face being replaced"}


@dataclass(frozen=True, slots=True)
class Carried:
    """What is written down of a person whose face is used: pseudonym, the digest of what was shown, kind."""

    id: str
    digest: str
    kind: str


@dataclass(frozen=True, slots=True)
class Consent:
    """That everybody is covered.

    Attributes:
        people: by the names they have here; None: taken to be the user.
        policy: by which it was asked.
        notes: what is to be known besides, one sentence each.
    """

    people: dict[str, Carried | None]
    policy: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where identities come from, so that an error can name the command that mends it.

    Attributes:
        model: the folder of the model that carries them; empty: they lie in face sets.
        face_sets: each person's folder.
    """

    model: str = ""
    face_sets: Mapping[str, str] = field(default_factory=dict)

    def missing(self, person: str, kind: str = "self") -> str:
        """The command that gives a person an identity; in a face set, one of that kind."""
        if self.model:
            return f"understudy identity attach {shlex.quote(self.model)} {person}=FACESET"
        return f"understudy identity add {self._face_set(person)} --{kind}"

    def file(self, person: str, identity: Identity) -> str:
        """Where a person's identity lies, as `identity sign` and `renew` are told."""
        if self.model:
            return shlex.quote(str(Path(self.model) / CARRIED / f"{identity.digest}.yaml"))
        return self._face_set(person) if person in self.face_sets else identity.id

    def _face_set(self, person: str) -> str:
        return shlex.quote(self.face_sets[person]) if person in self.face_sets else "FACESET"


NOWHERE = Origin()


def check(
    people: Mapping[str, Identity | None],
    roles: Mapping[str, Sequence[str]],
    asked: Config,
    registry: Registry,
    now: datetime,
    origin: Origin = NOWHERE,
) -> Consent:
    """Whether everybody has agreed to what is to be done.

    Args:
        people: the identity of each person by the name they have here; None: there is none.
        roles: what each person's face is for, of `ROLES`; whoever is not named is for nothing but must be covered.
        asked: the policy, and what for.
        now: aware.
        origin: for the commands in errors.

    Raises:
        ConsentError: somebody is not covered.
    """
    carried: dict[str, Carried | None] = {}
    notes: list[str] = []
    for person, identity in people.items():
        if identity is None:
            if asked.policy != "off-for-self":
                raise ConsentError(f"{person} has no identity file: run {origin.missing(person)}")
            notes.append(f"{person} has no identity file and is taken to be the user (consent.policy)")
            carried[person] = None
            continue
        case = _Case(person, identity, registry, asked, origin)
        notes += case.check(roles.get(person, ()), now)
        carried[person] = Carried(identity.id, identity.digest, identity.kind)
    return Consent(carried, asked.policy, tuple(notes))


def of_model(folder: Path, people: Mapping[str, str]) -> dict[str, Identity | None]:
    """The identities that a model carries, from its own copies.

    Args:
        people: the digest that it claims for each person; empty: none.

    Raises:
        ConsentError: a copy is missing, cannot be read, or has another digest.
    """
    return {person: _copy(folder, person, digest) if digest else None for person, digest in people.items()}


def _copy(folder: Path, person: str, digest: str) -> Identity:
    mend = f"restore the whole model folder, or run {Origin(model=str(folder)).missing(person)}"
    if not _DIGEST.fullmatch(digest):
        raise ConsentError(f"the model {folder} names no digest for the identity of {person}; {mend}")
    file = folder / CARRIED / f"{digest}.yaml"
    try:
        is_there = file.exists()
    except OSError:  # reading it says why
        is_there = True
    if not is_there:
        raise ConsentError(f"{file}, the identity of {person} that the model carries, is missing; {mend}")
    try:
        found = identities.read(file)
    except ConsentError as error:
        raise ConsentError(f"{error}; {mend}") from error
    if found.digest != digest:
        raise ConsentError(f"{file} is not the identity of {person} that the model was trained with; {mend}")
    return found


@dataclass(frozen=True, slots=True)
class _Case:
    """One person who has an identity."""

    person: str
    shown: Identity
    registry: Registry
    asked: Config
    origin: Origin

    def check(self, roles: Iterable[str], now: datetime) -> list[str]:
        """Notes. Raises ConsentError."""
        if is_forged(self.shown):
            raise self._refused(
                "has a signature that is forged, or the file was changed after it was signed",
                f"restore the file, or read it and vouch for it: {self._command('sign')}",
            )
        self._check_not_revoked()
        counts = self._version()
        notes = self._check_signature(counts)
        self._check_time(counts, now)
        self._check_scope(counts, roles)
        return [*notes, *self._not_asked(counts)]

    def _check_not_revoked(self) -> None:
        revocation = self.registry.revocation(self.shown.id)
        if revocation is None:
            return
        since = f" on {written(revocation.when)[:10]}" if revocation.when else ""
        doubt = "" if revocation.genuine else " (by a file whose signature is not good, which counts all the same)"
        if self.origin.model:
            mend = f"train another model without this person: see {self._command('show')}"
        else:
            anew = self.origin.missing(self.person, self.shown.kind)
            mend = f"leave these faces out; who has agreed anew gets an identity anew: {anew}"
        raise self._refused(f"was revoked{since}{doubt}", mend)

    def _version(self) -> Identity:
        """The version that counts: the registry's, where that is newer, or the same one with a signature.

        A file that says otherwise than what was registered here under a signature that counts must have such a
        signature itself: otherwise taking the signature away would be a way to change what was agreed to.
        """
        known, keys = self.registry.newest(self.shown.id), self.registry.trusted_keys()
        if known is None:
            return self.shown
        if is_forged(known):
            raise self._refused(
                "is registered here with a signature that is forged or does not fit any more",
                f"read it and vouch for it: understudy identity sign {self.shown.id}",
            )
        if known.digest == self.shown.digest:
            return max(known, self.shown, key=lambda each: (is_genuine(each, keys), each.signature is not None))
        if known.issued >= self.shown.issued:
            return known
        if is_genuine(self.shown, keys) or not is_genuine(known, keys):
            return self.shown
        raise self._refused(
            "says otherwise than what was registered here, and no key that is trusted here has signed that",
            f"restore the file, or read it and vouch for it: {self._command('sign')}",
        )

    def _check_signature(self, counts: Identity) -> list[str]:
        """Notes."""
        strict = self.asked.policy == "signed"
        if counts.signature is None:
            if strict:
                here = f"understudy identity sign {counts.id}"  # the registry's, which the file is older than
                command = self._command("sign") if counts.digest == self.shown.digest else here
                raise self._refused("is not signed, as consent.policy asks", f"run {command}")
            return []
        if is_genuine(counts, self.registry.trusted_keys()):
            return []
        whose = f"signed by a key that is not trusted here ({counts.signature.key_id[:16]})"
        if strict:
            raise self._refused(f"is {whose}", "if it is known to you, run understudy identity trust KEY.pem")
        return [f"{self._whose()} is {whose}"]

    def _check_time(self, counts: Identity, now: datetime) -> None:
        until = counts.valid_until
        if now < counts.valid_from:
            what = f"is not valid before {written(counts.valid_from)}"
            raise self._refused(what, f"wait, or run {self._command('renew')} --from DATE")
        if until is not None and now.replace(microsecond=0) > until:
            raise self._refused(f"expired, {written(until)}", f"run {self._command('renew')} --until DATE")

    def _check_scope(self, counts: Identity, roles: Iterable[str]) -> None:
        scope, asked = counts.scope, self.asked
        renew = self._command("renew")
        for role in roles:
            if role not in scope.roles:
                wanted = ",".join(each for each in ROLES if each in (*scope.roles, role))
                agreed = f"does not allow {_MEANT[role]}"
                raise self._refused(agreed, f"if that has been agreed to, run {renew} --roles {wanted}")
        excluded = _plain(scope.excluded)
        for name, word, allowed in filter(lambda each: each[1], self._words(scope)):
            if word.casefold() in excluded:
                raise self._refused(f"excludes {word!r} (consent.{name})", f"see {self._command('show')}")
            if not _allows(name, word, allowed):
                what = f"allows {', '.join(allowed)}, not {word!r} (consent.{name})"
                options = " ".join(f"--{name} {shlex.quote(each)}" for each in (*allowed, word))
                raise self._refused(what, f"if that has been agreed to, run {renew} {options}")
        if asked.territory.casefold() == WORLDWIDE and (parts := list(filter(_COUNTRY.fullmatch, scope.excluded))):
            what = f"excludes {parts[0]!r}, a part of {asked.territory!r} (consent.territory)"
            raise self._refused(what, f"see {self._command('show')}")

    def _words(self, scope: Scope) -> Sequence[tuple[str, str, tuple[str, ...]]]:
        """What may be asked for: the setting, its word (empty: not asked), the words that are allowed."""
        return (
            ("purpose", self.asked.purpose, scope.purposes),
            ("project", self.asked.project, scope.projects),
            ("territory", self.asked.territory, scope.territory),
        )

    def _not_asked(self, counts: Identity) -> list[str]:
        """What was agreed to for certain things alone, where nobody has said what this is."""
        return [
            f"{self._whose()} allows {', '.join(allowed)} only, and consent.{name} does not say what this is"
            for name, word, allowed in self._words(counts.scope)
            if allowed and not word
        ]

    def _whose(self) -> str:
        return f"the identity of {self.person} ({self.shown.id})"

    def _refused(self, what: str, mend: str) -> ConsentError:
        return ConsentError(f"{self._whose()} {what}; {mend}")

    def _command(self, verb: str) -> str:
        return f"understudy identity {verb} {self.origin.file(self.person, self.shown)}"


def _allows(name: str, word: str, allowed: Sequence[str]) -> bool:
    plain = _plain(allowed)
    return not plain or word.casefold() in plain or (name == "territory" and WORLDWIDE in plain)


def _plain(words: Iterable[str]) -> set[str]:
    return {word.casefold() for word in words}
