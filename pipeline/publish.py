"""Putting a finished file in its place: written beside the target, synced, renamed; never half there.

A partial file is called `.NAME.PID-JOB.part`: hidden, in the target's own folder (a rename must not cross file
systems), and it says who writes it, so that what a killed process left behind can be told from what another is still
writing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.errors import PublishError

#: The longest name that common file systems take, in bytes.
NAME_MAX = 255

#: What lies beside a finished file whose container takes no manifest; and what a file is called while it gets one.
DETACHED, SEALING = ".c2pa", ".sealing"

_PARTIAL = re.compile(r"^\..*\.(?P<pid>\d+)-\d+\.part$", re.DOTALL)


def partial_path(target: str, job: int, pid: int = 0) -> str:
    """Where to write what shall become `target`: a hidden name in the same folder, shortened where it must be.

    `pid` is the writer's; 0: this process's. Two targets of one job have two such names.
    """
    place = Path(target)
    name = os.fsencode(place.name)
    tail = f".{pid or os.getpid()}-{job}.part"
    if len(name) > NAME_MAX - 1 - len(tail):  # a file and its report may differ only in what is cut off
        tail = f".{hashlib.sha256(name).hexdigest()[:16]}{tail}"
    # Cut in bytes, then drop a character that was cut in half.
    kept = name[: NAME_MAX - 1 - len(tail)].decode("utf-8", "ignore")
    return str(place.with_name(f".{kept}{tail}"))


def path_beside(target: str, suffix: str) -> Path:
    """Where what belongs to a finished file lies: its name with the suffix after it, shortened where it must be."""
    place = Path(target)
    name = os.fsencode(place.name)
    if len(name) + len(suffix) <= NAME_MAX:
        return place.with_name(place.name + suffix)
    tail = f".{hashlib.sha256(name).hexdigest()[:16]}{suffix}"
    return place.with_name(name[: NAME_MAX - len(tail)].decode("utf-8", "ignore") + tail)


def write(partial: str, content: bytes) -> None:
    """Makes a partial file; what is there goes first. Raises OSError.

    Its name can be foretold, and its folder may be open to others, who may have put a link there that leads elsewhere.
    """
    discard(partial)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def take_over(partial: str, own: str, target: str) -> None:
    """Renames another process's partial file to one of this process's. Raises PublishError: it is not there."""
    try:
        Path(partial).replace(own)
    except OSError as error:
        raise _refused(target, error) from error


def publish(partial: str, target: str, beside: Sequence[tuple[str, str]] = ()) -> None:
    """Syncs the partial file, renames it to the target (replacing it), and syncs the folder.

    Args:
        beside: small files of which the same is true (their partials, their targets) and that shall be there whenever
            the target is: they come first, and go again where the target cannot follow and there is none.

    Raises:
        PublishError: the file is not there, the disk is full, or the folder may not be written; `errno` says which.
    """
    try:
        if beside:
            sync(partial)  # which may fail, and then there is nothing to speak of
        try:
            for each in beside:
                _place(*each)
            _place(partial, target)
        except OSError:
            if not Path(target).exists():
                for _, companion in beside:
                    discard(companion)
            raise
    except OSError as error:
        raise _refused(target, error) from error


def _place(partial: str, target: str) -> None:
    sync(partial)
    Path(partial).replace(target)
    sync(str(Path(target).parent))


def _refused(target: str, error: OSError) -> PublishError:
    refused = PublishError(f"{target} could not be put in its place: {(error.strerror or str(error)).lower()}")
    refused.errno = error.errno
    return refused


def discard(partial: str) -> None:
    """Removes a partial file; nothing happens where there is none."""
    with suppress(FileNotFoundError):
        Path(partial).unlink()


def sweep(folder: str) -> list[str]:
    """Removes partial files in `folder` whose writers are dead; returns their names."""
    removed = []
    for entry in sorted(Path(folder).iterdir()):
        match = _PARTIAL.match(entry.name)
        if match and entry.is_file() and not _alive(int(match["pid"])):
            discard(str(entry))
            removed.append(entry.name)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sync(path: str) -> None:
    """Waits until a file, or what a folder says of its files, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a share that cannot sync folders
            raise
    finally:
        os.close(descriptor)
