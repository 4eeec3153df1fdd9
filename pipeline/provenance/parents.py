"""What a result's manifest says of the file that it was made from: an ingredient, with that file's own credentials.

A chain is handed on as it was found, good or not, with the verdict of now. A source that cannot be read, or brings
credentials that cannot, is an ingredient without any.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import publish
from pipeline.errors import InputError
from pipeline.provenance import boxes, manifest, reading
from pipeline.provenance.verdict import Credentials, State

#: How the ingredient refers to the store that is handed over beside the definition.
_STORE = "source.c2pa"


@dataclass(frozen=True, slots=True)
class Parent:
    """A source, as a result's manifest tells of it.

    Attributes:
        credentials: what was found in the source or beside it.
        ingredient: for the definition.
        store: the source's own manifest store, which the result's will hold; None: there is none to keep.
    """

    credentials: Credentials
    ingredient: Mapping[str, Any]
    store: bytes | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the source's own credentials go with the result."""
        return self.store is not None

    def resources(self) -> dict[str, io.BytesIO]:
        """What the definition refers to, by name."""
        return {} if self.store is None else {_STORE: io.BytesIO(self.store)}

    def without_store(self) -> Parent:
        """The same source, its own credentials left out."""
        return replace(self, ingredient=_plain(str(self.ingredient["format"])), store=None)


def of(source: Path, anchors: Sequence[bytes], alive: Callable[[], None]) -> Parent:
    """Looks at a source, and at the `.c2pa` file beside it where it has one. `alive` as in `reading.read`."""
    try:
        mime = boxes.mime_of(source) or reading.BYTES
        beside = publish.path_beside(str(source), publish.DETACHED)
        found = reading.examine(source, beside, anchors, alive)
    except (InputError, OSError):  # it is not needed for anything but this any more
        return Parent(Credentials(State.NONE, notes=("the source could not be read again",)), _plain(reading.BYTES))
    if found.store is None or found.report is None or not found.report.active:
        return Parent(found.credentials, _plain(mime))
    kept = {
        "active_manifest": found.report.active,
        "manifest_data": {"format": "application/c2pa", "identifier": _STORE},
        "validation_results": found.report.store.get("validation_results"),
    }
    return Parent(found.credentials, _plain(mime) | kept, found.store)


def _plain(mime: str) -> dict[str, Any]:
    return {"title": manifest.SOURCE, "format": mime, "relationship": "parentOf", "label": manifest.SOURCE}
