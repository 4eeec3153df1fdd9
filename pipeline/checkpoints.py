"""How a clip that was not finished is gone on with: what a job's work folder holds, whole or not at all.

A clip with a work folder is encoded in segments of `Clip.segment` frames, each a closed GOP by an encoder of its own,
so that what a segment holds depends on its frames alone. Before a stage that remembers things (tracks, say) hands on
the first frame of a segment, it saves what it knew at some frame at or before it: at `first`, from which it can come
to that frame again. Once the segment before is on the disk, encode writes the checkpoint: the frames that are finished
(`kept`), and from where a later run has to begin (`first`, the least that any stage needs).

    WORK/ID-KEY/                    one folder a job; KEY changes with the source, the model and the settings
        checkpoint.json             replaced as a whole, synced; the last thing that is written for a segment
        segment.000000250.packets   from frame 250 on
        state.align.000000250.npz   what align has to know to come to frame 250
        reports.json                what the stages said of a clip that is whole
        preview.jpg                 the frame being made, before and after; only while somebody looks
    WORK/watched                    its time of change tells when somebody has last looked
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.types import Report

#: Somebody looks at the previews as long as the file of this name, in the folder of all jobs' folders, changes.
WATCHED = "watched"

#: The preview of the frame being made.
PREVIEW = "preview.jpg"

_FILE = "checkpoint.json"
_REPORTS = "reports.json"
_VERSION = 1
_LONGEST = 16 << 20

#: What comes out of the reader of an archive that is none, or not the one that was written; besides ValueError.
_DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, EOFError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Segment:
    """Finished frames: `frames` of them from the clip's frame `first` on, in `file` of the work folder.

    Attributes:
        nbytes: the file's size.
        depth: how far at most a picture is stored behind its place in the order of showing.
    """

    first: int
    frames: int
    file: str
    nbytes: int
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a clip is.

    Attributes:
        first: the file's frame with which a later run begins; at most `kept`.
        kept: frames that the segments hold.
        segments: in order, without gaps.
        whole: whether that is all of the clip, and only the joining is missing.
    """

    first: int
    kept: int
    segments: tuple[Segment, ...]
    whole: bool = False


def segment_name(first: int) -> str:
    """The file of the segment that begins with the clip's frame `first`."""
    return f"segment.{first:09d}.packets"


def write(work: str, checkpoint: Checkpoint) -> None:
    """Puts the checkpoint on the disk, in the place of the last one. OSError leaves that as it was."""
    _replace(Path(work) / _FILE, json.dumps({"version": _VERSION, **asdict(checkpoint)}).encode())


def read(work: str) -> Checkpoint | None:
    """The last checkpoint, where all of its segments are there and as long as they were; else None: begin anew."""
    try:
        facts = _facts(Path(work) / _FILE)
        if facts.pop("version") != _VERSION:
            return None
        facts["segments"] = tuple(Segment(**segment) for segment in facts["segments"])
        checkpoint = Checkpoint(**facts)
        return checkpoint if _holds(Path(work), checkpoint) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _facts(path: Path) -> Any:
    """What a file of ours says, whoever may have written to it. Raises OSError, ValueError."""
    if not path.is_file():  # a pipe of that name would keep us waiting
        raise ValueError(f"{path} is no file")
    with path.open("rb") as file:
        try:
            return json.loads(file.read(_LONGEST))
        except RecursionError as error:
            raise ValueError(f"{path} goes too deep") from error


def _holds(work: Path, checkpoint: Checkpoint) -> bool:
    """Whether it is true of the folder. Raises OSError, and TypeError where values are of other types."""
    reached = 0
    for segment in checkpoint.segments:
        if segment.first != reached or not 0 <= segment.depth < segment.frames:
            return False
        if segment.file != segment_name(reached) or (work / segment.file).stat().st_size != segment.nbytes:
            return False
        reached += segment.frames
    return reached == checkpoint.kept and 0 <= checkpoint.first <= checkpoint.kept


def sweep(work: str) -> None:
    """Makes the folder where there is none, and removes what a run that was killed left half-written. OSError."""
    Path(work).mkdir(mode=0o700, exist_ok=True)
    for part in Path(work).glob(".*.part"):
        part.unlink(missing_ok=True)


def keep_reports(work: str, reports: Mapping[str, Report]) -> None:
    """Keeps what the stages said of a clip that only has to be joined: a later run has nothing to say. OSError."""
    _replace(Path(work) / _REPORTS, json.dumps(reports).encode())


def kept_reports(work: str) -> dict[str, Report] | None:
    """What `keep_reports` kept; None where there is nothing that can be read."""
    try:
        found = _facts(Path(work) / _REPORTS)
    except (OSError, ValueError):
        return None
    told = isinstance(found, dict) and all(isinstance(report, dict) for report in found.values())
    return found if told else None


def save_state(work: str, stage: str, at: int, first: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Saves what `stage` knew before frame `first`, from which it can come to frame `at`. Raises OSError."""
    path = _state(work, stage, at)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            np.savez(file, first=np.int64(first), **arrays)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_state(work: str, stage: str, at: int) -> tuple[int, dict[str, NDArray[Any]]]:
    """What `save_state` saved: (first, arrays). Raises OSError, ValueError where it is not there or damaged."""
    path = _state(work, stage, at)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return int(arrays.pop("first")), arrays
    except _DAMAGED as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def settle(work: str, at: int) -> int:
    """Syncs what the stages saved for frame `at`; gives the least `first` of them, `at` where none saved anything.

    The folder is synced too, and with it the names of the segments in it. Raises OSError, ValueError.
    """
    first = at
    for path in Path(work).glob(f"state.*.{at:09d}.npz"):
        stage = path.name.split(".")[1]
        first = min(first, load_state(work, stage, at)[0])
        _sync(path)
    _sync(Path(work))
    return first


def forget(work: str, before: int) -> None:
    """Removes what the stages saved for frames before `before`: no checkpoint needs it any more."""
    for path in Path(work).glob("state.*.npz"):
        number = path.name.split(".")[2]
        if number.isdecimal() and int(number) < before:
            with suppress(FileNotFoundError):
                path.unlink()


def _state(work: str, stage: str, at: int) -> Path:
    return Path(work) / f"state.{stage}.{at:09d}.npz"


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
