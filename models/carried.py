"""Whose faces are in a model, as the model itself says it: digests of identity files, and copies of these.

    model.json                     identities: {"anna": "<digest>", "origin:carl": "<digest>"}
    model.<digest>.safetensors     the same in its header, so that the weights' digest stands for it too
    identities/<digest>.yaml       the files, as they were when the model was trained

What such a file says, and whether it allows anything, is not known here: a digest is its name. Loads no torch.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from models import durable
from models.description import FILE, ModelDescription
from pipeline.errors import ConsentError, WeightsError

FOLDER = "identities"

#: What begins the name of somebody whom the model does not know any more, though its weights do.
ORIGIN = "origin:"

#: The key of the weights' header.
_FACT = "identities"

#: The longest identity file that is copied, and the longest header that is read, in bytes.
_LONGEST_FILE, _LONGEST_HEADER = 1 << 20, 1 << 24

_COPY = re.compile(r"([0-9a-f]{64})\.yaml")


@dataclass(frozen=True, slots=True)
class Identities:
    """What a training gives its model to carry.

    Attributes:
        digests: of each person's identity file, by name; people without one are absent.
        files: the files by their digests.
        replaced: digests that are in a model already and that newer ones of the same people stand for from now on.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    replaced: Collection[str] = frozenset()


#: Whose faces are learnt is not known.
NOBODY = Identities()


def renewed(before: Mapping[str, str], given: Identities) -> dict[str, str]:
    """What a model that is trained on carries: what it did, with what is new. Nobody is dropped but for a newer one."""
    return {name: digest for name, digest in before.items() if digest not in given.replaced} | dict(given.digests)


def inherited(origin: Mapping[str, str], given: Identities) -> dict[str, str]:
    """What a model that is started from one with the identities `origin` carries: these too, as origins."""
    found = dict(given.digests)
    for name, digest in origin.items():
        if digest in given.replaced or digest in found.values():
            continue
        plain = f"{ORIGIN}{name.removeprefix(ORIGIN)}"
        names = itertools.chain([plain], (f"{plain}-{count}" for count in itertools.count(2)))
        found[next(free for free in names if free not in found)] = digest
    return found


def facts(digests: Mapping[str, str]) -> dict[str, str]:
    """What the weights' header says of them; nothing where there are none."""
    return {_FACT: json.dumps(dict(sorted(digests.items())), separators=(",", ":"))} if digests else {}


def agree(header: Mapping[str, object], folder: Path | str, description: ModelDescription) -> None:
    """Raises ConsentError where the facts in the weights' header are not those that the description gives."""
    if header.get(_FACT) != facts(description.identities).get(_FACT):
        raise ConsentError(
            f"{Path(folder) / FILE} was edited after training: its identities are not those in its weights; "
            "put back the model.json that was written with these weights, or train the model again"
        )


def check(folder: Path | str, description: ModelDescription) -> None:
    """Whether the weights, by their header alone, carry the identities that the description gives.

    Raises:
        ConsentError: they carry others.
        WeightsError: the weights are missing, or are no safetensors file.
    """
    agree(_header(Path(folder) / description.weights), folder, description)


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Copies identity files into a model's folder, to stay; those that are there are left as they are. OSError."""
    wanted = {digest: content for digest, content in files.items() if copy(folder, digest) != content}
    if not wanted:
        return
    durable.make_folder(folder / FOLDER, private=True)
    for digest, content in wanted.items():
        with durable.replacing(_file(folder, digest), private=True) as out:
            out.write(content)
    durable.sync_folder(folder / FOLDER)


def copies(folder: Path | str, digests: Iterable[str]) -> dict[str, bytes]:
    """The identity files that lie in a model's folder, by their digests; those that can't be read are absent."""
    found = {digest: copy(Path(folder), digest) for digest in digests}
    return {digest: content for digest, content in found.items() if content is not None}


def copy(folder: Path, digest: str) -> bytes | None:
    """One of them."""
    with suppress(OSError), durable.open_regular(_file(folder, digest)) as content:
        found = content.read(_LONGEST_FILE + 1)
        return found if len(found) <= _LONGEST_FILE else None
    return None


def drop_unnamed(folder: Path, descriptions: bytes) -> None:
    """Removes copies whose digests are nowhere in `descriptions`, and what was half written. Raises OSError."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder / FOLDER):  # noqa: PTH208  # no generator: files go meanwhile
            match = _COPY.fullmatch(name)
            if (match and match[1].encode() not in descriptions) or (name.startswith(".") and name.endswith(".part")):
                (folder / FOLDER / name).unlink(missing_ok=True)


def _file(folder: Path, digest: str) -> Path:
    return folder / FOLDER / f"{digest}.yaml"


def _header(file: Path) -> Mapping[str, object]:
    """The facts in a safetensors file: 8 bytes say how long its header is, which is JSON.

    huggingface.co/docs/safetensors, "Format". What is longer than can be is cut off, and no JSON then.
    """
    try:
        with durable.open_regular(file) as content:
            length = int.from_bytes(content.read(8), "little")
            raw = content.read(min(length, _LONGEST_HEADER))
        header = json.loads(raw)
    except FileNotFoundError as error:
        raise WeightsError(f"{file} is missing; copy the whole model folder") from error
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is no safetensors file: its header is not JSON") from error
    found = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return found if isinstance(found, dict) else {}
