"""What a model is, readable without torch: the file model.json in its folder.

    model.json                    this description; the only file that is ever replaced
    model.<digest>.safetensors    the weights it names
    state.<digest>.safetensors    the optimiser's state it names, if training may go on

The other files are named after their content, so replacing model.json (an atomic rename) takes the folder from one
whole model to the next, whenever the power goes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from models import autoencoders
from pipeline.errors import WeightsError

VERSION = 1
FILE = "model.json"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = re.compile(r"(model|state)\.[0-9a-f]{12}\.safetensors")
_PERSON = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything about a model but its numbers.

    Attributes:
        architecture: a file of models/autoencoders.
        options: that architecture's Config.
        input_size: px of the square the network sees; `output_size`: of the one it gives.
        coverage: the square's side against the face's own (1: brow to chin, tightly).
        people: the decoders' names; the first is the one in the clips, the second whose face is put there.
        weights: the weights' file name in the folder; `digest` its SHA-256 in hexadecimal.
        state: the same for the optimiser's state; both empty where the model is not for training on.
        iterations: training steps so far; `faces`: faces seen, both people together; `seconds`: time spent.
        loss: the last smoothed training loss of each person.
    """

    architecture: str
    options: dict[str, Any]
    input_size: int
    output_size: int
    coverage: float = 1.0
    people: tuple[str, ...] = ("a", "b")
    weights: str = ""
    digest: str = ""
    state: str = ""
    state_digest: str = ""
    iterations: int = 0
    faces: int = 0
    seconds: float = 0.0
    loss: dict[str, float] = field(default_factory=dict)
    version: int = VERSION

    def to_json(self) -> str:
        """The content of model.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_people(value: object) -> bool:
    if not isinstance(value, list) or len(value) < 2:
        return False
    return all(isinstance(p, str) and _PERSON.fullmatch(p) for p in value) and len(set(value)) == len(value)


def _matches(pattern: re.Pattern[str], may_be_empty: bool = False) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return isinstance(value, str) and (bool(pattern.fullmatch(value)) or (may_be_empty and value == ""))

    return check


_CHECKS: dict[str, tuple[Callable[[object], bool], str]] = {
    "version": (_is_count, "a whole number"),
    "architecture": (lambda v: isinstance(v, str), "a name"),
    "options": (lambda v: isinstance(v, dict), "an object"),
    "input_size": (lambda v: _is_count(v) and 16 <= v <= 1024, "a whole number from 16 to 1024"),  # type: ignore[operator]
    "output_size": (lambda v: _is_count(v) and 16 <= v <= 1024, "a whole number from 16 to 1024"),  # type: ignore[operator]
    "coverage": (lambda v: _is_number(v) and 0.5 <= v <= 4, "a number from 0.5 to 4"),  # type: ignore[operator]
    "people": (_is_people, "a list of at least two different names of letters, digits, - and _"),
    "weights": (_matches(_WEIGHTS), "a file name such as model.0123456789ab.safetensors"),
    "digest": (_matches(_DIGEST), "64 hexadecimal digits"),
    "state": (_matches(_WEIGHTS, may_be_empty=True), "empty or a file name such as state.0123456789ab.safetensors"),
    "state_digest": (_matches(_DIGEST, may_be_empty=True), "empty or 64 hexadecimal digits"),
    "iterations": (_is_count, "a whole number"),
    "faces": (_is_count, "a whole number"),
    "seconds": (_is_number, "a number"),
    "loss": (lambda v: isinstance(v, dict) and all(map(_is_number, v.values())), "an object of numbers"),
}


def parse(text: str, where: str) -> ModelDescription:
    """The description in `text`; `where` is what an error calls it. Raises WeightsError."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where} is not JSON ({error}); train the model again or restore the file") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{where} does not describe a model: it must hold one JSON object")
    version = content.get("version")
    if version != VERSION:
        raise WeightsError(f"{where} has version {version!r}, this program reads version {VERSION}")
    if foreign := sorted(set(content) - set(_CHECKS)):
        raise WeightsError(f"{where} has a key {foreign[0]!r} that models do not have")
    if missing := sorted(set(_CHECKS) - set(content)):
        raise WeightsError(f"{where} lacks the key {missing[0]!r}")
    for key, (check, wanted) in _CHECKS.items():
        if not check(content[key]):
            raise WeightsError(f"{where}: {key} must be {wanted}, not {content[key]!r}")
    if content["architecture"] not in autoencoders.names():
        known = ", ".join(autoencoders.names())
        raise WeightsError(f"{where} names the architecture {content['architecture']!r}; this program has: {known}")
    content["people"] = tuple(content["people"])
    return ModelDescription(**content)


def read(folder: Path | str) -> ModelDescription:
    """The description of the model in `folder`. Raises WeightsError, saying in one sentence what is wrong."""
    folder = Path(folder)
    file = folder / FILE
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise WeightsError(f"the model {folder} {what}; give the folder that `understudy train -o` made")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} holds no {FILE}; give the folder that `understudy train -o` made") from error
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    return parse(text, str(file))


assert set(_CHECKS) == {f.name for f in fields(ModelDescription)}, "every field of the description is checked"
