"""Whose faces a training learns: asked before it begins, carried in its model, written down when that is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConsentError

if TYPE_CHECKING:
    from models.carried import Identities
    from models.faceset import FaceSet
    from models.reports.card import Agreed, Learnt
    from pipeline.app import Settings
    from pipeline.consent.identity import Identity

    Known = Mapping[str, Identity | None]

#: What the faces of the first of two people are for, those of the second, and those of anybody among more.
_FIRST, _SECOND, _ANY = ("train", "replace"), ("train", "appear"), ("train", "appear", "replace")


@dataclass(frozen=True, slots=True)
class Asked:
    """Everybody whose faces will be in the weights, all of whom are covered.

    Attributes:
        carried: what the model is given to carry.
        known: the identities, by their digests.
        notes: what is to be known besides, one sentence each.
    """

    carried: Identities
    known: Mapping[str, Identity]
    notes: tuple[str, ...]


def ask(settings: Settings, folders: Mapping[str, Sequence[str]], out: str) -> Asked:
    """Asks for everybody's consent: of those in the face sets, and of those in weights that are there already.

    Args:
        folders: each person's face sets; out: the model's folder.

    Raises:
        ConsentError: somebody is not covered, face sets of two people are joined, or the model learnt somebody else
            under that name, or was edited after training.
        WeightsError: the model, or the one that it starts from, cannot be read.
    """
    from models.carried import Identities
    from pipeline import app
    from pipeline.consent import identity, policy
    from pipeline.consent.registry import Registry

    given = {person: _joined(person, of) for person, of in folders.items()}
    weights = _weights(settings, out)
    if weights.folder == out:
        _check_same(given, weights.known, folders, out)
    own = {person: each for person, each in given.items() if each is not None}
    ids = {each.id for each in own.values()}
    others = {name: each for name, each in weights.known.items() if each is None or each.id not in ids}
    registry, now = Registry(app.home(settings)), datetime.now(UTC)
    sets = policy.Origin(face_sets={person: of[0] for person, of in folders.items()})
    roles = _roles(weights.order or tuple(folders))
    first = policy.check(given, roles, settings.consent, registry, now, sets)
    roles = dict.fromkeys(others, ("train",))
    second = policy.check(others, roles, settings.consent, registry, now, policy.Origin(model=weights.folder))
    carried = Identities(
        {person: each.digest for person, each in own.items()},
        {each.digest: identity.to_bytes(each) for each in own.values()},
        {each.digest for each in weights.known.values() if each is not None and each.id in ids},
    )
    known = {each.digest: each for each in (*own.values(), *others.values()) if each is not None}
    return Asked(carried, known, (*first.notes, *second.notes))


def _joined(person: str, folders: Sequence[str]) -> Identity | None:
    """The one identity of a person's face sets, in its newest version."""
    from pipeline.consent import identity

    found = {folder: identity.in_face_set(Path(folder)) for folder in folders}
    first, *others = found
    for other in others:
        ids = [each.id if each else "has none" for each in (found[first], found[other])]
        if ids[0] != ids[1]:
            raise ConsentError(
                f"the face sets of {person} have different identities ({first}: {ids[0]}, {other}: {ids[1]}); "
                f"give each person a name of their own or, if it is the same person, copy {identity.FILE} from the one "
                "to the other"
            )
    return max(filter(None, found.values()), key=lambda each: each.issued, default=None)


@dataclass(frozen=True, slots=True)
class _Weights:
    """What a training begins with: the model's folder (empty: none), who is in it, and its people in their order."""

    folder: str = ""
    known: Known = field(default_factory=dict)
    order: tuple[str, ...] = ()


def _weights(settings: Settings, out: str) -> _Weights:
    from models import carried, kept
    from pipeline.consent import policy

    resumes, origin = kept.is_model(out), settings.train.transfer.start_from
    if not resumes and origin is None:
        return _Weights()
    folder = out if resumes else str(origin)
    model = kept.read(folder)
    carried.check(folder, model)
    # Who is learnt again shows an identity with the faces; of whom else is in the weights, the model has to know.
    claimed = model.identities if resumes else dict.fromkeys(model.people, "") | model.identities
    return _Weights(folder, policy.of_model(Path(folder), claimed), model.people if resumes else ())


def _check_same(given: Known, before: Known, folders: Mapping[str, Sequence[str]], out: str) -> None:
    """Raises ConsentError where a model would learn somebody else under a name that it has."""
    for person, each in given.items():
        known = before.get(person)
        if known is not None and (each is None or each.id != known.id):
            shown = each.id if each else "nobody who is known"
            raise ConsentError(
                f"the model {out} has learnt {known.id} as {person}, and the faces in {folders[person][0]} are of "
                f"{shown}; train another model with -o, or give that person's faces"
            )


def _roles(people: Sequence[str]) -> dict[str, Sequence[str]]:
    if len(people) != 2:
        return dict.fromkeys(people, _ANY)
    return {people[0]: _FIRST, people[1]: _SECOND}


class Record:
    """Writes down what a training learnt: a row in the audit, and the card in the model's folder."""

    def __init__(
        self,
        settings: Settings,
        folders: Mapping[str, Sequence[str]],
        sets: Mapping[str, FaceSet],
        asked: Asked,
        out: str,
    ) -> None:
        self._settings = settings
        self._folders = folders
        self._sets = sets
        self._asked = asked
        self._out = Path(out)
        self._learnt: dict[str, Learnt] = {}
        self._digest = ""

    def write(self, metrics: Mapping[str, float]) -> None:
        """Writes down the model as it was last saved.

        Raises:
            TableError, ConsentError: the audit cannot be written.
            WeightsError: the card cannot, or there is no model; the audit has its row all the same.
        """
        from models import description
        from models.reports import card
        from pipeline import app
        from pipeline.provenance.audit import Audit

        model = description.read(self._out)
        known = self._asked.known
        if model.digest != self._digest:
            ids = [[known[digest].id, digest] for digest in model.identities.values() if digest in known]
            facts = {"model": str(self._out.absolute()), "digest": model.digest, "identities": ids}
            Audit(app.home(self._settings)).append("trained", facts)
            self._digest = model.digest
        self._learnt = self._learnt or self._looked_at()
        agreed = {digest: _agreed(each) for digest, each in known.items()}
        recipe = card.settings_digest(asdict(self._settings.train))
        card.write(self._out, model, card.Facts(self._learnt, agreed, metrics, recipe, app.versions()))

    def _looked_at(self) -> dict[str, Learnt]:
        from models.faceset import divided
        from models.reports import card
        from pipeline.errors import InputError

        train = self._settings.train
        share = train.data.held_out if train.judge.every else 0.0
        found = {}
        for person, faces in self._sets.items():
            held = len(divided(faces, share)[1].faces)
            sources = len({face.source for face in faces.faces})
            try:
                digests = tuple(card.digest(folder) for folder in self._folders[person])
            except OSError as error:
                raise InputError(f"the faces of {person} cannot be read any more: {error}") from error
            found[person] = card.Learnt(len(faces.faces), sources, faces.size, held, digests)
        return found


def _agreed(identity: Identity) -> Agreed:
    from models.reports.card import Agreed
    from pipeline.consent.identity import OPEN, written

    scope, until = identity.scope, identity.valid_until
    end = OPEN if until is None else written(until)[:10]
    words = (scope.roles, scope.purposes, scope.projects, scope.territory, scope.excluded)
    return Agreed(identity.id, identity.digest, identity.kind, *words, end)
