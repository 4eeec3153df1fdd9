"""What the daemon says of itself while it runs: a small file, renewed every second or so, that anybody may read.

It holds what the table of jobs does not: how far running clips are, what the stages are doing, what is arriving. It is
for looking at only; nothing depends on it, so it is replaced but never synced. Where its disk is full, which is what
people then want to read there, what is most needed is written into the file that is there.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FILE = "live.json"
_LONGEST = 4 << 20

#: The file is filled up with blanks to a multiple of that: as much can be written again without more room.
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Arriving:
    """A file that is not taken yet, and why: it has not been still for long enough, or is not complete."""

    source: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A watched folder. `mode` is "events" or "polling"; `trouble` says why it cannot be read now."""

    inbox: str
    out: str
    mode: str
    trouble: str = ""
    arriving: tuple[Arriving, ...] = ()


@dataclass(frozen=True, slots=True)
class StageNow:
    """A stage of a lane: shares 0..1 of the last few seconds, per worker."""

    name: str
    workers: int
    busy: float
    wait_in: float
    wait_out: float


@dataclass(frozen=True, slots=True)
class Lane:
    """An engine for one model and person on one device; `state` is starting, ready, resting, stopping or down.

    `reason` says why it is down, or what it had to give up; `restarts` how often its processes were started again.
    """

    model: str
    to: str
    device: str
    state: str
    restarts: int = 0
    reason: str = ""
    stages: tuple[StageNow, ...] = ()


@dataclass(frozen=True, slots=True)
class Running:
    """A clip at work. `step` is the stage furthest behind, or "publish"; `eta_s` is None where nobody can tell.

    `preview` is the absolute path of the picture of the frame being made, before and after; it need not be there.
    """

    job: int
    source: str
    target: str
    step: str
    frame: int
    frames: int | None
    fps: float
    eta_s: float | None
    seconds: float
    preview: str


@dataclass(frozen=True, slots=True)
class Live:
    """The daemon as it is at `time` (seconds since the epoch).

    Attributes:
        state: starting, running, paused, draining.
        reason: why it is paused or not ready, in a sentence; empty where all is well.
        ready: whether it takes clips and can make them.
        web: the address of the page, without its token; empty where there is none.
        watched: the folder of all jobs' work folders: whoever looks at previews touches `checkpoints.WATCHED` in it.
        sheets: the folder of contact sheets, named ID.jpg after the job.
    """

    pid: int
    version: str
    started: float
    time: float
    state: str
    reason: str = ""
    ready: bool = False
    web: str = ""
    watched: str = ""
    sheets: str = ""
    folders: tuple[Folder, ...] = ()
    lanes: tuple[Lane, ...] = ()
    running: tuple[Running, ...] = ()


def write(folder: Path, live: Live) -> None:
    """Replaces the file in the daemon's `folder`. Raises OSError."""
    beside = folder / f".{FILE}.{os.getpid()}.part"
    try:
        beside.write_bytes(_packed(live))
        beside.replace(folder / FILE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _write_over(folder / FILE, live)
    finally:
        with suppress(OSError):
            beside.unlink()


def _packed(live: Live) -> bytes:
    text = json.dumps(asdict(live)).encode()
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK)


def _write_over(path: Path, live: Live) -> None:
    """Writes into the file that is there, if need be without what can be done without. Raises OSError."""
    folders = tuple(replace(folder, arriving=()) for folder in live.folders)
    least = replace(live, folders=folders, lanes=(), running=())
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        text = next((text for text in (_packed(live), _packed(least)) if len(text) <= size), b"")
        if text:  # in one go, so that nobody reads half of it
            file.write(text.ljust(size))


def read(folder: Path) -> Live | None:
    """What the daemon of that folder last said; None where there is nothing that can be read."""
    try:
        with (folder / FILE).open("rb") as file:
            facts = json.loads(file.read(_LONGEST))
        return _live(facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _live(facts: dict[str, Any]) -> Live:
    folders = tuple(
        Folder(**{**folder, "arriving": tuple(Arriving(**one) for one in folder["arriving"])})
        for folder in facts["folders"]
    )
    lanes = tuple(
        Lane(**{**lane, "stages": tuple(StageNow(**one) for one in lane["stages"])}) for lane in facts["lanes"]
    )
    running = tuple(Running(**one) for one in facts["running"])
    return Live(**{**facts, "folders": folders, "lanes": lanes, "running": running})
