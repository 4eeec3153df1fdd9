"""How the C2PA library is called: what it may do, what it reads and writes through, what its complaints become.

It never asks the network for anything but a time stamp from the URL that was configured; it spools the file that it
signs, as large as it is, in a file without a name, which is put on the result's own disk rather than into /tmp; and it
makes no thumbnails, for they would be pictures of faces.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import c2pa
from cryptography import x509

from pipeline.errors import PublishError, UnderstudyError
from pipeline.logs import printable
from pipeline.provenance import boxes
from pipeline.provenance.signatory import Signatory
from pipeline.provenance.verdict import Report

if TYPE_CHECKING:
    from pipeline.provenance.parents import Parent

#: What the library keeps in memory before it spools, MiB; its hashing takes up to twice 256 MiB beside that, which
#: cannot be set.
_SPOOLED_MIB = 16

#: Assertions that the claim says to have made itself, rather than gathered from elsewhere (C2PA 2.2, 10.3.2).
_CREATED = ["c2pa.actions", "c2pa.ingredient", "c2pa.hash.data", "c2pa.hash.bmff", "org.understudy.making"]

#: Seconds.
_SAID_EVERY_S = 0.5

_ONE_AT_A_TIME = threading.Lock()

_ERRNO = re.compile(r"\(os error (\d+)\)")


def nothing() -> None:
    """For those who need not be told that a long task goes on."""


def context(anchors: Sequence[bytes]) -> c2pa.Context:
    """The library's settings for one call, to be closed; `anchors` (PEM) are trusted for claims and time stamps.

    Raises ValueError: an anchor is no certificate in PEM.
    """
    for anchor in anchors:  # the library passes by what it cannot read
        x509.load_pem_x509_certificates(anchor)
    pem = b"\n".join(anchors).decode()
    trusted = [{"trust_anchors": pem, "trust_kind": kind} for kind in ("manifest", "tsa")] if anchors else None
    settings: dict[str, Any] = {
        "version": 1,
        "trust": {"anchors": trusted},
        "core": {
            "allowed_network_hosts": [],  # a signer's own time stamp is not asked for this way
            "allow_redirects": False,
            "backing_store_memory_threshold_in_mb": _SPOOLED_MIB,
            "decode_identity_assertions": False,
            "max_decompressed_manifest_size_in_mb": boxes.LONGEST >> 20,
        },
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
        "builder": {
            "thumbnail": {"enabled": False},
            "bmff_hash_exclude_free_and_skip_boxes": False,  # else bits in them could be changed unseen
            "created_assertion_labels": _CREATED,
        },
    }
    return c2pa.Context.from_dict(settings)


class Watched:
    """A file as the library reads and writes it: says that the work goes on, and keeps what the library swallows.

    What goes wrong in here is nothing but "failed" on the other side; `reraise` brings it back.
    """

    def __init__(self, file: BinaryIO, alive: Callable[[], None] = nothing) -> None:
        """`alive` is called at most a few times a second, and may raise what it likes."""
        self._file = file
        self._alive = alive
        self._said = time.monotonic()
        self._failed: BaseException | None = None

    def reraise(self) -> None:
        """Raises what has gone wrong in here, if anything has."""
        if self._failed is not None:
            raise self._failed

    def read(self, length: int = -1) -> Any:
        """Up to so many bytes."""
        return self._kept(self._file.read, length)

    def readinto(self, buffer: Any) -> Any:
        """Fills the buffer as far as the file goes; bytes read."""
        return self._kept(self._file.readinto, buffer)  # type: ignore[attr-defined]

    def write(self, data: bytes) -> Any:
        """Writes all of it; bytes written."""
        return self._kept(self._file.write, data)

    def seek(self, offset: int, whence: int = 0) -> Any:
        """Goes to a place; gives where that is."""
        return self._kept(self._file.seek, offset, whence)

    def tell(self) -> Any:
        """Where it is."""
        return self._kept(self._file.tell)

    def flush(self) -> Any:
        """Hands on what was written."""
        return self._kept(self._file.flush)

    def _kept(self, call: Callable[..., Any], *given: Any) -> Any:
        try:
            if time.monotonic() - self._said > _SAID_EVERY_S:
                self._said = time.monotonic()
                self._alive()
            return call(*given)
        except BaseException as error:
            self._failed = self._failed or error
            raise OSError(errno.EIO, "see `reraise`") from error  # all that the library can be told


class Remembering:
    """A signer's function whose error is kept for whoever called the library."""

    def __init__(self, sign: Callable[[bytes], bytes]) -> None:
        self._sign = sign
        self._failed: UnderstudyError | None = None

    def __call__(self, data: bytes) -> bytes:
        """The signature; none where the function failed."""
        try:
            return self._sign(data)
        except UnderstudyError as error:
            self._failed = error
            return b""

    def reraise(self) -> None:
        """Raises what the function has raised, if anything."""
        if self._failed is not None:
            raise self._failed


@contextmanager
def spooling_in(folder: Path) -> Iterator[None]:
    """Lets the library put its nameless files into `folder`. It asks the environment where, so one at a time."""
    with _ONE_AT_A_TIME:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(folder)
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


def sign(
    definition: Mapping[str, Any],
    parent: Parent | None,
    signatory: Signatory,
    mime: str | None,
    streams: tuple[Watched, Watched],
) -> bytes:
    """Signs what the first stream holds into the second; the manifest store.

    Args:
        mime: the container's; None: the definition has the binding to a file, and nothing is read or written.

    Raises:
        PublishError: the library could not.
        RequirementError: whoever signs has not.
    """
    callback = Remembering(signatory.sign)
    algorithm = c2pa.C2paSigningAlg[signatory.algorithm.upper()]
    try:
        with ExitStack() as stack:
            settings = stack.enter_context(context((signatory.chain_pem,)))
            builder = stack.enter_context(c2pa.Builder(_with_parent(definition, parent), context=settings))
            for name, content in parent.resources().items() if parent else ():
                builder.add_resource(name, content)
            if mime is None:
                builder.set_no_embed()
            chain, url = signatory.chain_pem.decode(), signatory.timestamp_url
            signer = stack.enter_context(c2pa.Signer.from_callback(callback, algorithm, chain, url))
            return bytes(builder.sign(signer, mime or "application/c2pa", *streams))
    except c2pa.C2paError as error:
        for each in (callback, *streams):
            each.reraise()
        raise _unsigned(error, signatory) from error


def _with_parent(definition: Mapping[str, Any], parent: Parent | None) -> dict[str, Any]:
    if parent is None:
        return dict(definition)
    actions = [each["data"]["actions"] for each in definition["assertions"] if each["label"] == "c2pa.actions.v2"]
    is_opened = any(action["action"] == "c2pa.opened" for action in actions[0])
    return {
        **definition,
        "ingredients": [{**parent.ingredient, "relationship": "parentOf" if is_opened else "inputTo"}],
    }


def report(reader: c2pa.Reader) -> Report:
    """What a reader says. Raises c2pa.C2paError, json.JSONDecodeError, RecursionError."""
    manifests = json.loads(reader.crjson()).get("manifests", [])
    signatures = {each.get("label"): each.get("signature", {}) for each in manifests}
    return Report(json.loads(reader.json()), signatures)


def refused(path: Path, error: OSError) -> PublishError:
    """What it means that the disk refused; `errno` says why."""
    refusal = PublishError(f"{path} could not be signed: {(error.strerror or str(error)).lower()}")
    refusal.errno = error.errno
    return refusal


def _unsigned(error: c2pa.C2paError, signatory: Signatory) -> OSError:
    """What the library's complaint is about: a disk, the time stamp, or anything else."""
    if found := _ERRNO.search(str(error)):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    why = printable(str(error))
    if signatory.timestamp_url and any(word in why for word in ("http", "time stamp", "timestamp")):
        failed = PublishError(f"no time stamp could be had from provenance.timestamp_url ({signatory.timestamp_url})")
        failed.errno = errno.EHOSTUNREACH  # which passes, and says nothing against the file
        return failed
    return PublishError(f"the result could not be signed: {why}")
