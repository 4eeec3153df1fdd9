"""The report beside a finished file: what it was made of, by what, and how that went. One JSON object.

The door writes it before the file that it speaks of gets its name, so a file of ours always has one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import publish
from pipeline.originals import open_regular
from pipeline.specs import Outcome
from pipeline.types import Clip, Report

SUFFIX = ".json"
_VERSION = 1

#: Of a report that is read: far more bytes, and things within things, than any of ours has.
_LONGEST, _DEEPEST = 4 << 20, 20

_CHUNK_NBYTES = 1 << 20

#: What the job's `about` says that is passed on as it is.
_PASSED_ON = ("model", "settings", "versions", "times", "attempts", "provenance")

#: Counts of a decoder that met damage (`stages.reader.Damage`).
_DAMAGE = ("damaged_packets", "damaged_frames", "read_errors")


def path_for(target: str) -> Path:
    """Where the report of a finished file lies: its name with .json after it, shortened where it must be."""
    return publish.path_beside(target, SUFFIX)


def compose(
    clip: Clip, outcome: Outcome, about: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], ended: float
) -> dict[str, Any]:
    """The report of one finished clip.

    Args:
        outcome: with the reports of all stages, and that of the finisher as "publish".
        about: the job's: model, settings, versions, times, attempts and job are passed on.
        files: what `facts` says of "source" and "output".
        ended: seconds since the epoch.
    """
    reports, seconds = outcome.reports, outcome.seconds
    return {
        "version": _VERSION,
        "understudy": metadata.version("understudy"),
        "job": about.get("job", clip.id),
        **files,
        **{name: about[name] for name in _PASSED_ON if name in about},
        "frames": frames_of(clip, outcome),
        # not detect's, which knows nothing of what an earlier run has found
        "faces": _count(reports, "align", "faces"),
        "misses": _count(reports, "align", "frames_without_faces"),
        "damage": {name: n for name in _DAMAGE if (n := _count(reports, "decode", name))},
        "fps": round(outcome.frames / seconds, 3) if seconds else 0.0,
        "seconds": round(seconds, 3),
        "times": {**about.get("times", {}), "ended": ended},
        "reports": reports,
        "resumed_at": clip.kept,
    }


def frames_of(clip: Clip, outcome: Outcome) -> int:
    """How many frames the whole file holds: as the finisher counted them, else as they went through the stages."""
    counted = outcome.reports.get("publish", {}).get("frames")
    return counted if isinstance(counted, int) else clip.first + outcome.frames


def facts(path: str, digest: str, shown: str = "") -> dict[str, Any]:
    """What a report says of a file, as lying at `shown`: its size in bytes among others. Raises OSError."""
    found = Path(path).stat()
    stamp = {"mtime_ns": found.st_mtime_ns, "inode": found.st_ino}
    return {"path": shown or path, "size": found.st_size, **stamp, "sha256": digest}


def sha256(path: str, alive: Callable[[], None]) -> str:
    """The digest of a file, in hexadecimal; `alive` is called after each part of it. Raises OSError."""
    digest = hashlib.sha256()
    with Path(path).open("rb", buffering=0) as file:
        while data := file.read(_CHUNK_NBYTES):
            digest.update(data)
            alive()
    return digest.hexdigest()


def write(path: str, report: Mapping[str, Any]) -> None:
    """Writes a report; it is not synced. Raises OSError."""
    publish.write(path, json.dumps(report, indent=1).encode())


def read(path: Path) -> dict[str, Any] | None:
    """A report that `write` wrote; None where there is none, or something else."""
    try:
        with open_regular(path) as file:  # a pipe of that name would keep us waiting
            found = json.loads(file.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(found, dict) and found.get("version") == _VERSION and _is_shallow(found, _DEEPEST)
    return found if is_ours else None


def _is_shallow(value: object, left: int) -> bool:
    """Whether there are no more than so many things within things: written out again they would take any room."""
    if not isinstance(value, dict | list):
        return True
    return left > 0 and all(
        _is_shallow(each, left - 1) for each in (value.values() if isinstance(value, dict) else value)
    )


def _count(reports: Mapping[str, Report], stage: str, name: str) -> int:
    value = reports.get(stage, {}).get(name, 0)
    return int(value) if isinstance(value, int | float) else 0
