"""What a model is, readable without torch: the file model.json in its folder.

    model.json                       this description of the model as it is now
    model.<digest>.safetensors       the weights it names
    state.<digest>.safetensors       the training's state it names, if training may go on
    identities/<digest>.yaml         whose faces are in the weights, and what they agreed to (models/carried.py)
    kept/backup.000001200.json ...   descriptions of the model as it was (models/kept.py)

Weights and states are named after their content and never change; a model is what a description names. So putting
another model.json in the place of the old one (an atomic rename) takes the folder from one whole model to the next,
whenever the power goes.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from models import autoencoders, durable
from models.layer_options import LayerOptions
from pipeline.errors import WeightsError

VERSION = 3
FILE = "model.json"

#: The version before models carried identities: read as one of people who have none.
_WITHOUT_IDENTITIES = 2

#: The longest description that is read, in bytes; real ones have two thousand.
LONGEST = 1 << 20

_DIGEST = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = re.compile(r"model\.[0-9a-f]{12}\.safetensors")
_STATE = re.compile(r"state\.[0-9a-f]{12}\.safetensors")
_PERSON = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ORIGIN = re.compile(r"origin:[A-Za-z0-9_-]{1,80}")
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")
_LAYERS = get_type_hints(LayerOptions)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything about a model but its numbers.

    Attributes:
        architecture: a file of models/autoencoders.
        options: that architecture's Config.
        input_size: px of the square the network sees; `output_size`: of the one it gives.
        layers: the LayerOptions it is made with; `layer_options` gives them as such.
        crop: what the square is centred on, and coverage: its side against that one's own (a face's: brow to chin).
        people: whom it can give; of two, the first is the one in the clips, the second whose face is put there.
        weights: the weights' file name in the folder; `digest` its SHA-256 in hexadecimal.
        state: the same for the training's state; both empty where the model is not for training on.
        session: how many sessions of training it has had.
        iterations: training steps so far; `faces`: faces seen, all people together; `seconds`: time spent.
        loss: the last smoothed training loss of each person.
        saved: when it was written, in ISO 8601, UTC; empty where that is not known.
        identities: the digest (SHA-256, hexadecimal) of the identity file of each person who has one, by name; and,
            by names that begin with "origin:", of those in the weights of a model that this one was started from.
    """

    architecture: str
    options: dict[str, Any]
    input_size: int
    output_size: int
    layers: dict[str, bool | str] = field(default_factory=lambda: asdict(LayerOptions()))
    crop: Literal["face", "head"] = "face"
    coverage: float = 1.0
    people: tuple[str, ...] = ("a", "b")
    weights: str = ""
    digest: str = ""
    state: str = ""
    state_digest: str = ""
    session: int = 0
    iterations: int = 0
    faces: int = 0
    seconds: float = 0.0
    loss: dict[str, float] = field(default_factory=dict)
    saved: str = ""
    identities: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    @property
    def layer_options(self) -> LayerOptions:
        """`layers`, for `models.blocks.Layers`."""
        return LayerOptions(**self.layers)  # type: ignore[arg-type]

    def to_json(self) -> str:
        """The content of model.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    return (isinstance(value, float) and math.isfinite(value) and value >= 0) or _is_count(value)


def _between(low: float, high: float, check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: check(value) and low <= value <= high  # type: ignore[operator]


def _is_people(value: object) -> bool:
    if not isinstance(value, list) or not 2 <= len(value) <= 4096:
        return False
    return all(isinstance(p, str) and _PERSON.fullmatch(p) for p in value) and len(set(value)) == len(value)


def _is_options(value: object) -> bool:
    """Bounded, so that an architecture never sets out to build what no memory holds."""
    if not isinstance(value, dict) or len(value) > 64:
        return False
    single = [item for option in value.values() for item in (option if isinstance(option, list) else [option])]
    return len(single) <= 1024 and all(_is_option(item) for item in single)


def _is_option(value: object) -> bool:
    small = isinstance(value, int | float) and abs(value) <= 2**20  # which no NaN is
    return small or (isinstance(value, str) and len(value) <= 64)


def _is_losses(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_identities(value: object) -> bool:
    if not isinstance(value, dict) or len(value) > 8192:
        return False
    return all(
        (_PERSON.fullmatch(name) or _ORIGIN.fullmatch(name)) and isinstance(digest, str) and _DIGEST.fullmatch(digest)
        for name, digest in value.items()
    )


def _matches(pattern: re.Pattern[str], may_be_empty: bool = False) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return isinstance(value, str) and (bool(pattern.fullmatch(value)) or (may_be_empty and value == ""))

    return check


_SIDE = (_between(16, 1024, _is_count), "a whole number from 16 to 1024")

_CHECKS: dict[str, tuple[Callable[[object], bool], str]] = {
    "version": (_is_count, "a whole number"),
    "architecture": (lambda v: isinstance(v, str), "a name"),
    "options": (_is_options, "an object of numbers up to 2^20, short words, and lists of them"),
    "input_size": _SIDE,
    "output_size": _SIDE,
    "layers": (lambda v: isinstance(v, dict), "an object"),
    "crop": (lambda v: v in ("face", "head"), '"face" or "head"'),
    "coverage": (_between(0.5, 4, _is_number), "a number from 0.5 to 4"),
    "people": (_is_people, "a list of at least two different names of letters, digits, - and _"),
    "weights": (_matches(_WEIGHTS), "a file name such as model.0123456789ab.safetensors"),
    "digest": (_matches(_DIGEST), "64 hexadecimal digits"),
    "state": (_matches(_STATE, may_be_empty=True), "empty or a file name such as state.0123456789ab.safetensors"),
    "state_digest": (_matches(_DIGEST, may_be_empty=True), "empty or 64 hexadecimal digits"),
    "session": (_is_count, "a whole number"),
    "iterations": (_is_count, "a whole number"),
    "faces": (_is_count, "a whole number"),
    "seconds": (_is_number, "a number"),
    "loss": (_is_losses, "an object of numbers"),
    "saved": (_matches(_WHEN, may_be_empty=True), "empty or a time such as 2024-05-17T21:04:09+00:00"),
    "identities": (_is_identities, "an object of people's names and 64 hexadecimal digits each"),
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
    if version == _WITHOUT_IDENTITIES and "identities" not in content:
        content |= {"version": VERSION, "identities": {}}
    elif version != VERSION:
        raise WeightsError(f"{where} has version {reprlib.repr(version)}, this program reads {VERSION}")
    if foreign := sorted(set(content) - set(_CHECKS)):
        raise WeightsError(f"{where} has a key {reprlib.repr(foreign[0])} that models do not have")
    if missing := sorted(set(_CHECKS) - set(content)):
        raise WeightsError(f"{where} lacks the key {missing[0]!r}")
    for key, (check, wanted) in _CHECKS.items():
        if not check(content[key]):
            raise WeightsError(f"{where}: {key} must be {wanted}, not {reprlib.repr(content[key])}")
    _check_layers(content["layers"], where)
    if bool(content["state"]) != bool(content["state_digest"]):
        raise WeightsError(f"{where} must name either both of state and state_digest or neither")
    if content["architecture"] not in autoencoders.names():
        known = ", ".join(autoencoders.names())
        named = reprlib.repr(content["architecture"])
        raise WeightsError(f"{where} names the architecture {named}; this program has: {known}")
    if strangers := sorted(set(filter(_PERSON.fullmatch, content["identities"])) - set(content["people"])):
        raise WeightsError(f"{where}: identities names {strangers[0]}, who is none of its people")
    content["people"] = tuple(content["people"])
    content["layers"] = asdict(LayerOptions(**content["layers"]))
    return ModelDescription(**content)


def _check_layers(layers: dict[str, object], where: str) -> None:
    if foreign := sorted(set(layers) - set(_LAYERS)):
        raise WeightsError(f"{where}: layers has no option {reprlib.repr(foreign[0])}; it has: {', '.join(_LAYERS)}")
    for name, value in layers.items():
        kind = _LAYERS[name]
        if kind is bool:
            fits, wanted = isinstance(value, bool), "true or false"
        else:
            fits, wanted = value in get_args(kind), "one of " + ", ".join(get_args(kind))
        if not fits:
            raise WeightsError(f"{where}: layers.{name} must be {wanted}, not {reprlib.repr(value)}")


def read(folder: Path | str) -> ModelDescription:
    """The description of the model in `folder`. Raises WeightsError, saying in one sentence what is wrong."""
    folder = Path(folder)
    file = folder / FILE
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise WeightsError(f"the model {folder} {what}; give the folder that `understudy train -o` made")
    try:
        return parse_file(file)
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} holds no {FILE}; give the folder that `understudy train -o` made") from error


def parse_file(file: Path) -> ModelDescription:
    """The description in one file. Raises WeightsError, but FileNotFoundError where there is none."""
    try:
        with durable.open_regular(file) as content:
            raw = content.read(LONGEST + 1)
        text = raw.decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error
    if len(raw) > LONGEST:
        raise WeightsError(f"{file} describes no model: it is longer than {LONGEST >> 10} KiB")
    return parse(text, str(file))


assert set(_CHECKS) == {f.name for f in fields(ModelDescription)}, "every field of the description is checked"
