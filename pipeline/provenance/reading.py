"""Reading a file's content credentials, and telling what is wrong with them. Everything that is read may be hostile."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import c2pa

from pipeline.consent import private
from pipeline.errors import InputError
from pipeline.originals import open_regular
from pipeline.provenance import boxes, library, verdict
from pipeline.provenance.boxes import Store
from pipeline.provenance.library import Watched, nothing
from pipeline.provenance.verdict import Credentials, Report, State

#: What a file is to the library that it has no name for: bytes, hashed from the first to the last.
BYTES = "application/octet-stream"

_UNREADABLE_TO_IT = (c2pa.C2paError, json.JSONDecodeError, RecursionError)

_UNREADABLE = "the manifest cannot be read: it has been changed or cut short"
_REMAINS = "there is what is left of a manifest, which is not where it could be read: the file has been changed"
_UNCOVERED = "what stands around the manifest's own words has been changed since it was signed"
_FIRST_BOX = "the file's first box has been changed since it was signed"

_UNSTAMPED = "no time stamp: without one it is not valid any more when its certificate ends, on {:%d %B %Y}"
_UNTRUSTED = "who signed it is not among those that are trusted here"


@dataclass(frozen=True, slots=True)
class Examined:
    """A file's manifest store, what the library says of it, and what we say of both.

    Attributes:
        store: the store's bytes; None: there is none.
        report: None: there is no store, or one that cannot be read.
    """

    credentials: Credentials
    store: bytes | None = None
    report: Report | None = None


def read(
    path: Path, detached: Path | None = None, anchors: Sequence[bytes] = (), alive: Callable[[], None] = nothing
) -> Credentials:
    """What a file's credentials say, and whether they hold.

    Args:
        detached: where its manifest lies if the file does not hold one; None, or no such file: nowhere.
        anchors: the authorities that are trusted, PEM.
        alive: called again and again; what it raises is passed on.

    Raises:
        InputError: the file cannot be read.
        ValueError: the anchors are no certificates.
    """
    return examine(path, detached, anchors, alive).credentials


def examine(path: Path, detached: Path | None, anchors: Sequence[bytes], alive: Callable[[], None]) -> Examined:
    """The same, with what it was made from. Arguments and errors as `read`."""
    try:
        store, is_beside = _store_of(path, detached)
        if store is None:
            return Examined(_without_store(path))
        report = _report(path, store.content if is_beside else None, anchors, alive)
        if report is None:
            return Examined(Credentials(State.INVALID, (_UNREADABLE,), detached=is_beside), store.content)
        return Examined(_judged(path, store, is_beside, report), store.content, report)
    except boxes.TooLargeError as error:
        return Examined(Credentials(State.INVALID, (f"{error}, which is more than any needs",)))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error


def stands(store: bytes, asset: bytes) -> bool:
    """Whether a store goes with the bytes it was made for, and everything in it is as it was written."""
    with library.context(()) as context:
        try:
            with c2pa.Reader(BYTES, io.BytesIO(asset), store, context=context) as reader:
                report = library.report(reader)
        except _UNREADABLE_TO_IT:
            return False
    return report.state() is not State.INVALID and boxes.is_tidy(store, report.ours())


def _store_of(path: Path, detached: Path | None) -> tuple[Store | None, bool]:
    """The store in the file, else the one beside it; whether it is the latter."""
    inside = boxes.embedded(path) if boxes.mime_of(path) else None
    if inside is not None or detached is None or not detached.exists():
        return inside, False
    try:
        return Store(private.read(detached, boxes.LONGEST), True), True
    except ValueError as error:
        raise boxes.TooLargeError(f"its manifest store has more than {boxes.LONGEST >> 20} MiB") from error


def _without_store(path: Path) -> Credentials:
    return Credentials(State.INVALID, (_REMAINS,)) if boxes.has_remains(path) else Credentials(State.NONE)


def _report(path: Path, beside: bytes | None, anchors: Sequence[bytes], alive: Callable[[], None]) -> Report | None:
    """What the library says of a store; None: it can make nothing of it."""
    with ExitStack() as stack:
        context = stack.enter_context(library.context(anchors))
        watched = Watched(stack.enter_context(open_regular(path)), alive)
        try:
            mime = boxes.mime_of(path) or BYTES
            reader = stack.enter_context(c2pa.Reader(mime, watched, beside, context=context))
            return library.report(reader)
        except _UNREADABLE_TO_IT:
            watched.reraise()
            return None


def _judged(path: Path, store: Store, is_beside: bool, report: Report) -> Credentials:
    claim = report.claim(report.active)
    problems = report.problems()
    state = report.state()
    ours = report.ours()
    if (report.active in ours and not store.is_announced) or not boxes.is_tidy(store.content, ours):
        problems.append(_UNCOVERED)
    if "ftyp" in claim.facts and claim.facts["ftyp"] != boxes.ftyp_digest(path):
        problems.append(_FIRST_BOX)
    if problems or state is State.INVALID:
        state, problems = State.INVALID, problems or [verdict.CHANGED_MANIFEST]
    notes = []
    if state is State.VALID:
        notes.append(_UNTRUSTED)
    if not claim.timestamped and claim.expires is not None:
        notes.append(_UNSTAMPED.format(claim.expires))
    return Credentials(state, tuple(problems), tuple(notes), claim, report.ingredients(), is_beside)
