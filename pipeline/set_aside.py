"""Why a clip has failed, or was set aside: FAILED/REL.json for the clip INBOX/REL, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import result
from pipeline.inbox import WatchConfig
from pipeline.jobs import Entry
from pipeline.originals import digest, mark_of, never, open_regular, put_away
from pipeline.publish import discard, partial_path, publish, write
from pipeline.retries import died
from pipeline.specs import Failure, Outcome

__all__ = ["add_digest", "digest", "put_away", "read_reason", "reason_path", "write_reason"]

_VERSION = 1
_LONGEST = 4 << 20  # bytes of a reason file
_LINES = 50
_DETAIL = 20_000  # characters of a traceback, its end

#: What the versions of are worth knowing when a clip kills a process. Looked up, not imported.
_DISTRIBUTIONS = ("understudy", "av", "torch", "mediapipe")


def reason_path(config: WatchConfig, source: Path) -> Path:
    """Where is said why `source`, a clip of that folder, has failed; long names are shortened."""
    relative = source.absolute().relative_to(config.inbox.absolute())
    return result.path_for(str(config.failed_folder.absolute() / relative))


def write_reason(path: Path, entry: Entry, what: str, outcome: Outcome | None, lines: Sequence[str]) -> None:
    """Says in `path`, whole or not at all, why a job has failed; what was said there before goes.

    The source is not read for it, however large it is: its digest is in it where `entry` has one; see `add_digest`.

    Args:
        entry: the row while the job ran: its attempts count the last one, its crashes only those before.
        what: what happened, in a sentence.
        outcome: None where the job was refused before it was begun.
        lines: the last ones of the log about the job.

    Raises:
        OSError: it cannot be written; PublishError where it cannot be put in its place.
    """
    failure = outcome.failure if outcome is not None else None
    facts = {
        "version": _VERSION,
        "what": what,
        "job": entry.id,
        "source": entry.source,
        "target": entry.target,
        "mark": asdict(entry.mark),
        "sha256": entry.digest or None,
        **_facts_of(failure),
        "attempts": entry.attempts,
        "crashes": entry.crashes + (failure is not None and died(failure)),
        "log": list(lines[-_LINES:]),
        "versions": _versions(),
        "when": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds"),
        "retry": f"understudy jobs retry {entry.id}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, facts, entry.id)


def add_digest(path: Path, source: Path, stop: Callable[[], bool] = never) -> None:
    """Adds the digest of the source to what `write_reason` said, which may take as long as reading it does.

    Nothing happens where the source has changed since, or the reason.

    Raises:
        OSError: the source cannot be read, or the reason not be replaced; InterruptedError where `stop` said so.
    """
    facts = read_reason(path)
    if facts is None or _mark(source) != facts.get("mark"):
        return
    found = digest(source, stop)
    if read_reason(path) == facts and _mark(source) == facts["mark"]:
        _replace(path, {**facts, "sha256": found}, 0)


def read_reason(path: Path) -> dict[str, Any] | None:
    """What `write_reason` wrote; None where there is nothing, or something else."""
    try:
        with open_regular(path, os.O_NOFOLLOW) as file:
            facts = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and facts.get("version") == _VERSION else None


def _facts_of(failure: Failure | None) -> dict[str, Any]:
    failure = failure or Failure("", None, "", "")
    return {
        "stage": failure.stage or None,
        "frame": failure.frame,
        "error": failure.error or None,
        "signal": _signal_name(failure.signal),
        "errno": errno.errorcode.get(failure.errno, str(failure.errno)) if failure.errno else None,
        "detail": failure.detail[-_DETAIL:] or None,
    }


def _signal_name(number: int) -> str | None:
    with suppress(ValueError):
        return signal.Signals(number).name
    return str(number) if number else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _replace(path: Path, facts: Mapping[str, Any], job: int) -> None:
    partial = partial_path(str(path), job)
    try:
        write(partial, json.dumps(facts, indent=1).encode() + b"\n")
        publish(partial, str(path))
    except OSError:
        with suppress(OSError):
            discard(partial)
        raise


def _mark(path: Path) -> dict[str, int] | None:
    mark = mark_of(path)
    return asdict(mark) if mark else None
