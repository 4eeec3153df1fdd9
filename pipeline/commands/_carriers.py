"""What carries an identity: models and results, as the audit knows them, and face sets; and how these go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.consent.registry import Registry
    from pipeline.provenance.audit import Audit, Row

#: What a training leaves in a model's folder that shows faces or can make them; its journal and card stay.
_OF_MODEL = (
    *("model.*.safetensors", "state.*.safetensors", "kept/*.json", "identities/*.yaml", "model.json"),
    *("preview.png", "previews/*", "timelapse/*", "lr.png", "survey.png", "report.html"),
)

#: The same of a face set that `understudy extract` made.
_OF_FACE_SET = ("crops/*.png", "masks/*.png", "faces.jsonl", ".faces.jsonl.part", "faceset.json", "identity.yaml")

THERE, CHANGED, GONE = "there", "changed", "gone"


@dataclass(frozen=True, slots=True)
class Carrier:
    """A file or a model that carries an identity.

    Attributes:
        what: "result" or "model".
        path: the file, or the model's folder.
        digests: of the file, or of the model's weights, by the audit.
        identities: (id, digest) of everybody in it.
    """

    what: str
    path: str
    digests: frozenset[str]
    identities: tuple[tuple[str, str], ...] = ()

    def state(self) -> str:
        """THERE: it is what the audit says; CHANGED: something else is there by now, or cannot be read; GONE."""
        place = Path(self.path)
        if not place.is_absolute() or place.is_symlink():
            return CHANGED
        if not place.exists():
            return GONE
        return THERE if self._digest(place) in self.digests else CHANGED

    def _digest(self, place: Path) -> str:
        """Of what is there now; empty where it cannot be read."""
        from models import description, durable
        from pipeline.errors import WeightsError

        try:
            if self.what == "result":
                return durable.sha256(place)
            model = description.read(place)
            return model.digest if durable.sha256(place / model.weights) == model.digest else ""
        except (OSError, WeightsError):
            return ""


def carriers(audit: Audit, id: str) -> list[Carrier]:
    """What the audit knows to carry an identity, what was made last first. Raises TableError."""
    found: dict[tuple[str, str], Carrier] = {}
    for row in audit.rows(identity=id):
        for what, path, digest in _named(row):
            before = found.get((what, path), Carrier(what, path, frozenset(), _identities(row)))
            found[what, path] = Carrier(what, path, before.digests | {digest}, before.identities)
    return list(found.values())


def _named(row: Row) -> Iterator[tuple[str, str, str]]:
    keys = {"published": ("result", "target", "output_sha256")}
    keys |= dict.fromkeys(("trained", "identity-added"), ("model", "model", "digest"))
    what, *names = keys.get(row.event, ("",))
    values = [row.facts.get(name) for name in names]
    if values and all(isinstance(value, str) and value and "\0" not in value for value in values):
        yield what, str(values[0]), str(values[1])


def _identities(row: Row) -> tuple[tuple[str, str], ...]:
    """(id, digest) of each, as the row has them."""
    listed = row.facts.get("identities")
    pairs = listed if isinstance(listed, list) else []
    return tuple((str(pair[0]), str(pair[1])) for pair in pairs if isinstance(pair, list) and len(pair) == 2)


def removed(carrier: Carrier) -> list[str]:
    """Removes what a result or a model consists of; gives the paths. Raises PublishError, WeightsError (in use)."""
    place = Path(carrier.path)
    return _model_removed(place) if carrier.what == "model" else _unlinked(_of_result(place, carrier.digests))


def _of_result(target: Path, digests: frozenset[str]) -> Iterator[Path]:
    """The file, its report where that is of this file, and its detached credentials."""
    from pipeline import result
    from pipeline.provenance.credentials import detached_path

    report = result.path_for(str(target))
    output = (result.read(report) or {}).get("output")
    if isinstance(output, dict) and output.get("sha256") in digests:
        yield report
    if (detached := detached_path(str(target))).is_file():
        yield detached
    yield target


def _model_removed(folder: Path) -> list[str]:
    from models import kept

    with kept.claimed(folder):
        return _unlinked(_matching(folder, _OF_MODEL))


def face_set_removed(folder: Path) -> list[str]:
    """Removes the faces in a folder, and the folder where nothing else is left in it. Raises PublishError."""
    from itertools import chain

    from models import faceset, pictures

    extracted = (folder / faceset.FILE).exists() or (folder / faceset.LINES).exists()
    plain = [] if extracted else [file for file in folder.iterdir() if file.suffix.lower() in pictures.SUFFIXES]
    return _unlinked(chain(filter(Path.is_file, plain), _matching(folder, _OF_FACE_SET)))


def _matching(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Files of these patterns, then the folders that they were in; never what lies behind a link to a folder."""
    for pattern in patterns:
        if not (folder / pattern).parent.is_symlink():
            yield from (file for file in sorted(folder.glob(pattern)) if file.is_file() or file.is_symlink())
    below = {(folder / pattern).parent for pattern in patterns} - {folder}
    yield from (place for place in (*sorted(below), folder) if place.is_dir() and not place.is_symlink())


def _unlinked(places: Iterable[Path]) -> list[str]:
    """Removes files, and folders where they are empty. Raises PublishError."""
    from contextlib import suppress

    from pipeline.errors import PublishError

    found = []
    for place in places:
        try:
            if place.is_dir() and not place.is_symlink():
                with suppress(OSError):  # something else is in it, and stays
                    place.rmdir()
                    found.append(str(place))
                continue
            place.unlink(missing_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise PublishError(f"{place} cannot be removed: {reason}; what came before it is gone") from error
        found.append(str(place))
    return found


@dataclass(frozen=True, slots=True)
class Ended:
    """A face set whose consent has ended: whose, its folder, when."""

    id: str
    digest: str
    folder: Path
    ended: datetime

    def as_json(self) -> dict[str, Any]:
        """Its fields, in JSON's types."""
        from pipeline.consent.identity import written

        return {"id": self.id, "face_set": str(self.folder), "ended": written(self.ended)}


def ended(registry: Registry, kept_days: int, now: datetime) -> list[Ended]:
    """Face sets that are known here, still there, and whose consent ended more than so many days ago."""
    return [
        each
        for id in registry.ids()
        for folder in registry.places(id)
        if (each := _ended(registry, id, folder)) is not None and now - each.ended > timedelta(days=kept_days)
    ]


def _ended(registry: Registry, id: str, folder: Path) -> Ended | None:
    """When consent to the faces in a folder has ended or will; None: at no time, or they are not there any more."""
    from pipeline.consent import identity as identities

    there, newest, revocation = identities.in_face_set(folder), registry.newest(id), registry.revocation(id)
    if there is None or there.id != id:
        return None
    counts = max((each for each in (newest, there) if each is not None), key=lambda each: each.issued)
    revoked = revocation.when if revocation is not None else None
    ends = [moment for moment in (counts.valid_until, revoked) if moment is not None]
    return Ended(id, there.digest, folder, min(ends)) if ends else None
