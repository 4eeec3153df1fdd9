"""Content credentials: a C2PA manifest signed into a result or beside it, and read again.

mp4, mov and avi take the manifest inside; whatever else there is (Matroska, WebM, NUT, MPEG-TS) gets it as a `.c2pa`
file beside it, bound to it by the digest of all its bytes. What a source has of its own goes along (`parents`).

A changed bit is named wherever it is, with two exceptions: an `mfra` box, an index that only fragmented files have and
that the standard leaves out of the hash; and inside another program's manifest, what its signature does not cover.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline import publish
from pipeline.errors import PublishError
from pipeline.originals import open_regular
from pipeline.provenance import boxes, library, manifest, parents, reading
from pipeline.provenance.library import Watched, nothing
from pipeline.provenance.parents import Parent
from pipeline.provenance.reading import read
from pipeline.provenance.signatory import Signatory
from pipeline.provenance.verdict import Credentials, State

__all__ = [
    "DETACHED_SUFFIX",
    "Credentials",
    "Parent",
    "State",
    "detached_path",
    "mime_for",
    "read",
    "sign",
    "sign_detached",
]

DETACHED_SUFFIX = publish.DETACHED

#: The library holds all of an AVI in memory, twice; a larger one gets its manifest beside it.
LARGEST_AVI = 256 << 20

_PIECE = 1 << 20

#: What is signed to see whether a source's credentials can be handed on.
_TRIAL = b"\0"


def mime_for(path: Path) -> str | None:
    """What to call a container that takes a manifest, by its content; None: the manifest has to lie beside. OSError."""
    mime = boxes.mime_of(path)
    return None if mime == boxes.AVI and path.stat().st_size > LARGEST_AVI else mime


def detached_path(target: str) -> Path:
    """Where the manifest of a finished file lies that cannot hold it."""
    return publish.path_beside(target, DETACHED_SUFFIX)


def sign(
    partial: Path,
    source: Path | None,
    definition: Mapping[str, Any],
    signatory: Signatory,
    into: Path,
    alive: Callable[[], None] = nothing,
) -> Parent | None:
    """Writes the signed copy of a file of which `mime_for` says what to call it. Its disk needs room for two.

    Args:
        source: what it was made from; None: nothing, as `Treatment.GENERATION` may be.
        definition: what `manifest.compose` gave.
        into: where to; replaced where there is something, gone where signing fails.
        alive: called again and again; what it raises is passed on.

    Returns:
        What was found of the source's own credentials.

    Raises:
        PublishError: it could not be signed or written (`errno` says why, where it was the disk), or takes no manifest.
        RequirementError: whoever signs has not.
    """
    mime = mime_for(partial)
    if mime is None:
        raise PublishError(f"{partial} takes no manifest: it has to lie beside it")
    parent = _parent(source, definition, signatory, alive)
    bound = _with_ftyp(definition, boxes.ftyp_digest(partial))
    try:
        into.unlink(missing_ok=True)
        with library.spooling_in(into.parent), open_regular(partial) as file, into.open("x+b") as out:
            streams = Watched(file, alive), Watched(out, alive)
            library.sign(bound, parent, signatory, mime, streams)
    except BaseException as error:
        with suppress(OSError):
            into.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, PublishError):
            raise library.refused(into, error) from error
        raise
    return parent


def sign_detached(
    partial: Path,
    source: Path | None,
    definition: Mapping[str, Any],
    signatory: Signatory,
    alive: Callable[[], None] = nothing,
) -> tuple[bytes, Parent | None]:
    """The manifest of a file that cannot hold it, to be put beside it. Arguments, errors and parent as `sign`."""
    parent = _parent(source, definition, signatory, alive)
    digest = hashlib.sha256()
    try:
        with open_regular(partial) as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                alive()
    except OSError as error:
        raise library.refused(partial, error) from error
    return _bound_to(digest.digest(), definition, parent, signatory), parent


def _parent(
    source: Path | None, definition: Mapping[str, Any], signatory: Signatory, alive: Callable[[], None]
) -> Parent | None:
    """The source, with what it has of its own where a manifest can be made that holds it.

    Credentials that can be read may still not be handed on: what they say is anybody's. So a manifest is made with
    them, for one byte, and read.
    """
    if source is None:
        return None
    anchors = (signatory.chain_pem,)
    parent = parents.of(source, anchors, alive)
    if parent.is_kept:
        try:
            store = _bound_to(hashlib.sha256(_TRIAL).digest(), definition, parent, signatory)
        except PublishError:
            return parent.without_store()
        if not reading.stands(store, _TRIAL):
            return parent.without_store()
    return parent


def _bound_to(digest: bytes, definition: Mapping[str, Any], parent: Parent | None, signatory: Signatory) -> bytes:
    """A store that goes with the one file that has this SHA-256."""
    bytes_of_file = {"name": "the file", "alg": "sha256", "hash": list(digest), "pad": [], "exclusions": []}
    binding = {"label": "c2pa.hash.data", "data": bytes_of_file}
    bound = {**definition, "assertions": [*definition["assertions"], binding]}
    # the binding is there: the library is given nothing to hash
    return library.sign(bound, parent, signatory, None, (Watched(io.BytesIO()), Watched(io.BytesIO())))


def _with_ftyp(definition: Mapping[str, Any], digest: str | None) -> Mapping[str, Any]:
    """Has our own assertion cover the first box, which C2PA's hash of ISO files leaves out."""
    if digest is None:
        return definition
    assertions = [
        {**each, "data": {**each["data"], "ftyp": digest}} if each["label"] == manifest.MAKING else each
        for each in definition["assertions"]
    ]
    return {**definition, "assertions": assertions}
