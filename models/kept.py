"""The model as it was: backups, snapshots and the best one, and the way back to them. Loads no torch.

    MODEL/kept/backup.000001200.json          a save in which the loss had fallen; the last few
    MODEL/kept/snapshot.000005000.json        kept for good
    MODEL/kept/best.json                      the best by the judgement
    MODEL/kept/before-restore.000006100.json  what was there before something else was restored

Each is a whole description (models/description.py) of files in MODEL, so keeping a model that was just saved costs a
few hundred bytes until training goes on, and restoring one is the exchange of model.json.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from models import carried, description, durable
from models.description import FILE, ModelDescription
from pipeline.errors import ConfigError, WeightsError

FOLDER = "kept"

#: The name of the model as it is.
NOW = "now"

#: What is kept, and whether there may be several of it, told apart by their step.
KINDS = {"backup": True, "snapshot": True, "best": False, "before-restore": True}

_NAME = re.compile(rf"(?P<kind>{'|'.join(KINDS)})(\.(?P<step>\d{{9,19}})(-\d{{1,6}})?)?")
_FILES = re.compile(rb"(?:model|state)\.[0-9a-f]{12}\.safetensors")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that can be gone back to.

    Attributes:
        name: what `restore` is told; kind: one of KINDS, or NOW.
        iteration: its training steps; loss: of each person, smoothed.
        when: it was saved, in ISO 8601, UTC.
        size: bytes of the files it names, which others may name too.
        intact: whether it can be restored; None where nobody has looked.
    """

    name: str
    kind: str
    iteration: int = 0
    loss: dict[str, float] = field(default_factory=dict)
    when: str = ""
    size: int = 0
    intact: bool | None = None


def entries(folder: Path | str) -> tuple[Entry, ...]:
    """What is kept of the model in `folder`, newest first; `intact` is False where a description can't be read."""
    found = [_entry(Path(folder), name) for name in _names(Path(folder))]
    return tuple(sorted(found, key=lambda entry: (entry.when, entry.iteration, entry.name), reverse=True))


def now(folder: Path | str) -> Entry:
    """The model as it is; `intact` is False where it can't be read or is not there."""
    return _entry(Path(folder), NOW)


def is_model(folder: Path | str) -> bool:
    """Whether there is a model in `folder`, be it one of which only something kept is left."""
    folder = Path(folder)
    return (folder / FILE).exists() or bool(_names(folder))


@contextmanager
def claimed(folder: Path | str) -> Iterator[None]:
    """The model is this process's alone to change; the claim ends with the process, however that ends.

    Raises:
        WeightsError: another process has it, or there is no such folder.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise WeightsError(f"the model {folder} cannot be opened: {error.strerror}") from error
    try:
        with suppress(OSError):  # a file system that knows no locks: then nobody can be told
            _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path | str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WeightsError(f"the model {folder} is being changed by another process; stop that one first") from error


def keep(folder: Path | str, model: ModelDescription, kind: str, limit: int | None = None) -> str:
    """Keeps a model as it was saved in `folder`; gives the name. Beyond `limit` the oldest of its kind go.

    Raises:
        WeightsError: the folder can't be written; what was kept before is kept still.
    """
    folder = Path(folder)
    name = _name_for(folder, model, kind)
    try:
        _put(folder, name, model)
        if limit is not None:
            older = [entry for entry in entries(folder) if entry.kind == kind and entry.name != name]
            for entry in older[max(0, limit - 1) :]:
                _file(folder, entry.name).unlink(missing_ok=True)
        drop_unnamed(folder)
    except OSError as error:
        raise WeightsError(f"the model {folder} cannot be kept as {name}: {error}") from error
    return name


def check(folder: Path | str, entry: Entry) -> str:
    """What is wrong with it, in half a sentence; empty where each of its files has the digest it shall have."""
    folder = Path(folder)
    try:
        model = description.parse_file(_file(folder, entry.name))
    except FileNotFoundError:
        return f"{_file(folder, entry.name)} is missing"
    except WeightsError as error:
        return str(error)
    return _fault(folder / model.weights, model.digest) or (
        _fault(folder / model.state, model.state_digest) if model.state else ""
    )


def restore(folder: Path | str, name: str) -> ModelDescription:
    """Makes the model in `folder` what it was; what it is now is kept first, unless it is kept already or damaged.

    Raises:
        ConfigError: nothing of that name is kept.
        WeightsError: there is no model, that one is damaged, or the folder can't be written; all is as it was then.
    """
    folder = Path(folder)
    if not is_model(folder):
        description.read(folder)
    if name not in _names(folder):
        there = ", ".join(entry.name for entry in entries(folder)) or "nothing"
        raise ConfigError(f"the model {folder} has kept no {name!r}; it has kept: {there}")
    if fault := check(folder, _entry(folder, name)):
        raise WeightsError(f"{name} of the model {folder} cannot be restored: {fault}{offer(folder)}")
    wanted = description.parse_file(_file(folder, name))
    try:
        _keep_present(folder)
        with durable.replacing(folder / FILE) as out:
            out.write(wanted.to_json().encode())
        durable.sync_folder(folder)
    except OSError as error:
        raise WeightsError(f"{name} of the model {folder} cannot be restored: {error}") from error
    return wanted


def offer(folder: Path | str) -> str:
    """The end of a sentence that says what to go back to: the newest that is intact; empty where there is none."""
    for entry in entries(folder):
        if not check(folder, entry):
            way = f"understudy restore {shlex.quote(str(folder))} {entry.name}"
            return f"; the newest good one is {entry.name} (step {entry.iteration}): {way}"
    return ""


def read(folder: Path | str) -> ModelDescription:
    """As `description.read`, but its WeightsError also says what to go back to."""
    try:
        return description.read(folder)
    except WeightsError as error:
        raise WeightsError(f"{error}{offer(folder)}") from error


def drop_unnamed(folder: Path) -> None:
    """Removes weights, states and copies of identity files that no description names, and what was half written.

    A description that is damaged still keeps what it names; while one can't be read at all, nothing is removed.
    Raises OSError where files can't be removed.
    """
    read = b""
    for name in (NOW, *_names(folder)):
        try:
            with durable.open_regular(_file(folder, name)) as content:
                read += content.read(description.LONGEST)
        except FileNotFoundError:
            continue
        except OSError:
            return
    named = set(_FILES.findall(read))
    for pattern in ("model.*.safetensors", "state.*.safetensors", ".model.*.part", ".state.*.part", "kept/.*.part"):
        for file in folder.glob(pattern):
            if file.name.encode() not in named:
                file.unlink(missing_ok=True)
    carried.drop_unnamed(folder, read)


def _names(folder: Path) -> list[str]:
    return [file.stem for file in (folder / FOLDER).glob("*.json") if _NAME.fullmatch(file.stem)]


def _file(folder: Path, name: str) -> Path:
    return folder / FILE if name == NOW else folder / FOLDER / f"{name}.json"


def _entry(folder: Path, name: str) -> Entry:
    match = _NAME.fullmatch(name)
    kind, step = (match["kind"], int(match["step"] or 0)) if match else (NOW, 0)
    file = _file(folder, name)
    when, size = "", 0
    with suppress(OSError):
        when = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    try:
        model = description.parse_file(file)
    except (FileNotFoundError, WeightsError):
        return Entry(name, kind, step, when=when, intact=False)
    for part in filter(None, (model.weights, model.state)):
        with suppress(OSError):
            size += (folder / part).stat().st_size
    return Entry(name, kind, model.iterations, model.loss, model.saved or when, size)


def _fault(file: Path, digest: str) -> str:
    try:
        return "" if durable.sha256(file) == digest else f"{file} is damaged"
    except FileNotFoundError:
        return f"{file} is missing"
    except OSError as error:
        return f"{file} cannot be read: {error}"


def _put(folder: Path, name: str, model: ModelDescription) -> None:
    durable.make_folder(folder / FOLDER)
    with durable.replacing(_file(folder, name)) as out:
        out.write(model.to_json().encode())
    durable.sync_folder(folder / FOLDER)


def _name_for(folder: Path, model: ModelDescription, kind: str) -> str:
    """A training that was rolled back comes by the same step twice: another model of it gets another name."""
    if not KINDS[kind]:
        return kind
    name = f"{kind}.{model.iterations:09d}"
    names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(free for free in names if not _file(folder, free).exists() or _is(folder, free, model))


def _is(folder: Path, name: str, model: ModelDescription) -> bool:
    try:
        other = description.parse_file(_file(folder, name))
    except (FileNotFoundError, WeightsError):
        return False
    return (other.digest, other.state_digest) == (model.digest, model.state_digest)


def _keep_present(folder: Path) -> None:
    try:
        present = description.read(folder)
    except WeightsError:
        return
    if not _fault(folder / present.weights, present.digest) and not any(
        _is(folder, name, present) for name in _names(folder)
    ):
        _put(folder, _name_for(folder, present, "before-restore"), present)
