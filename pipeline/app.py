"""The composition root: settings become stage specs, stage specs become an engine. Loads no torch, no mediapipe.

This is the only place that knows all stages. A stage gets the one small `Config` it needs; what it has to know of
another (the model's crop size, say) is put together here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from models import carried, kept
from models.description import ModelDescription
from models.train import profiles, recipe
from pipeline import config
from pipeline.consent import policy
from pipeline.consent import settings as consent
from pipeline.consent.policy import Consent, Origin
from pipeline.consent.registry import Registry
from pipeline.daemon_config import DaemonConfig
from pipeline.engine import Engine
from pipeline.errors import ConfigError, UnderstudyError
from pipeline.inbox import WatchConfig
from pipeline.lanes import Station
from pipeline.provenance import authority, seal
from pipeline.provenance import settings as provenance
from pipeline.provenance.home import Home
from pipeline.provenance.manifest import Treatment
from pipeline.provenance.signatory import signatory
from pipeline.specs import EngineConfig, ProcessSpec, StageSpec
from pipeline.types import Job, Source, Stage
from stages import (
    align,
    blend,
    collect,
    containers,
    decode,
    detect,
    disclose,
    encode,
    finish,
    mask,
    payload,
    pictures,
    pipes,
    receive,
    send,
    swap,
    tags,
    watermark,
)

#: Keys that the program fills in itself: they follow from the model.
FIXED = (
    *("decode.salt", "swap.model", "swap.digest", "align.size", "align.coverage", "align.crop"),
    *("extract.folder", "extract.add"),
    *("disclose.watermark.key", "encode.tags", "publish.encode", "publish.sheets", "publish.sheets_kept"),
)

#: What the chain does to faces.
TREATMENT = Treatment.SWAP

#: The file that is read where no other is named.
DEFAULT_FILE = "config.yaml"

_RATE = Fraction(25)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set; each section stands in its stage's own file.

    Attributes:
        model: the folder of the model that converts; the command line's --model comes before it.
        daemon: of `understudy watch`; `watch` are its folders.
    """

    model: Path | None = None
    decode: decode.Config = field(default_factory=decode.Config)
    detect: detect.Config = field(default_factory=detect.Config)
    align: align.Config = field(default_factory=align.Config)
    mask: mask.Config = field(default_factory=mask.Config)
    swap: swap.Config = field(default_factory=lambda: swap.Config(model=""))
    blend: blend.Config = field(default_factory=blend.Config)
    disclose: disclose.Config = field(default_factory=disclose.Config)
    encode: encode.Config = field(default_factory=encode.Config)
    publish: finish.Config = field(default_factory=finish.Config)
    engine: EngineConfig = field(default_factory=EngineConfig)
    extract: collect.Config = field(default_factory=collect.Config)
    train: recipe.Config = field(default_factory=recipe.Config)
    consent: consent.Config = field(default_factory=consent.Config)
    provenance: provenance.Config = field(default_factory=provenance.Config)
    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    watch: tuple[WatchConfig, ...] = ()


def load_settings(
    file: str | None = None,
    overrides: Sequence[str] = (),
    model: str | None = None,
    to: str | None = None,
    profile: str | None = None,
) -> Settings:
    """The defaults, then the configuration file, then the profile, then `key=value` overrides, then --model and --to.

    Args:
        file: the configuration; None takes config.yaml in the current folder where there is one. Relative paths in
            it are relative to its folder.
        overrides: relative paths in them are relative to the current folder.
        profile: one of models/train/profiles.

    Raises:
        ConfigError: names the file or the override, the key, and what is allowed.
    """
    settings = Settings()
    path = Path(file) if file is not None else Path(DEFAULT_FILE)
    if file is not None or path.is_file():
        settings = _apply(settings, path, config.read_file(path))
    if profile is not None:
        settings = _apply(settings, profiles.path(profile), config.read_file(profiles.path(profile)))
    settings = config.apply(settings, config.read_overrides(overrides), Path.cwd(), FIXED, entries=True)
    if model is not None:
        settings = replace(settings, model=Path(model).absolute())
    return settings if to is None else replace(settings, swap=replace(settings.swap, to=to))


def _apply(settings: Settings, path: Path, tree: dict[str, object]) -> Settings:
    try:
        return config.apply(settings, tree, path.absolute().parent, FIXED)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def home(settings: Settings) -> Home:
    """The folder of keys, identities and the audit; it need not be there yet.

    By default it lies where the XDG Base Directory Specification has a program's data: $XDG_DATA_HOME/understudy, or
    ~/.local/share/understudy.

    Raises:
        ConfigError: there is no telling where it is, or this user may not look into it.
    """
    folder = settings.provenance.folder or _data_folder() / "understudy"
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", "") or str(error)).lower()
        raise ConfigError(
            f"provenance.folder: {folder} cannot be looked into: {reason}; name a folder of your own"
        ) from error
    return Home(folder)


def _data_folder() -> Path:
    """Where this user's programs keep their data. Raises ConfigError: a user who has no home."""
    named = os.environ.get("XDG_DATA_HOME", "")
    if named.startswith("/"):  # others are void by that paper
        return Path(named)
    try:
        return Path.home() / ".local" / "share"
    except RuntimeError as error:
        raise ConfigError("this user has no home folder for keys and the audit; set provenance.folder") from error


def describe_model(settings: Settings) -> tuple[Path, ModelDescription]:
    """The model's folder and what it says of itself.

    Raises:
        ConfigError: no model is set, or it does not know the person of swap.to.
        WeightsError: the folder is no model.
    """
    if settings.model is None:
        raise ConfigError("no model is set; give --model FOLDER, or model: in config.yaml")
    found = kept.read(settings.model)
    if settings.swap.to not in found.people:
        people = " and ".join(found.people)
        raise ConfigError(f"the model {settings.model} knows {people}, not {settings.swap.to!r}; choose with --to")
    return settings.model, found


def agreed(settings: Settings) -> Consent:
    """That everybody who is in the model has agreed to what the settings have it do, by now.

    Raises:
        ConfigError, WeightsError: as `describe_model`.
        ConsentError: somebody has not, or cannot be shown to have.
    """
    folder, model = describe_model(settings)
    carried.check(folder, model)
    asked, known = roles(model, settings.swap.to), Registry(home(settings))
    shown = policy.of_model(folder, {person: model.identities.get(person, "") for person in asked})
    return policy.check(shown, asked, settings.consent, known, datetime.now(UTC), Origin(str(folder)))


def roles(model: ModelDescription, to: str) -> dict[str, tuple[str, ...]]:
    """What everybody who is in a model has to have agreed to for `to`'s face to be put on others.

    Of two people, the other is the one in the clips. Of more, who that is cannot be told; whoever was learnt, here or
    by the model that this one was started from, must not have taken that back.
    """
    others = ("replace",) if len(model.people) == 2 else ()
    found: dict[str, tuple[str, ...]] = dict.fromkeys(model.identities, ())
    return found | {person: ("appear",) if person == to else others for person in model.people}


def station(settings: Settings, folder: WatchConfig) -> Station:
    """What the clips of a watched folder have in common: the settings with those that the folder has for itself.

    Raises:
        ConfigError, WeightsError: as `describe_model` and `engine`; settings of the folder's own that are none.
        ConsentError: as `agreed`.
    """
    own = folder_settings(settings, folder)
    place, model = describe_model(own)
    specs = stage_specs(own)
    process_table(own, specs)
    # the same model, or key, in another folder is the same
    unnamed: dict[str, Any] = {"swap": own.swap, "disclose": own.disclose}
    shown = {spec.name: asdict(unnamed.get(spec.name, spec.config)) for spec in specs}
    shaping = {"model": model.digest, "stages": shown, "versions": versions(), "watermark": _pattern(own)}
    text = json.dumps(shaping, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()
    about = {
        "model": {"folder": str(place), "digest": model.digest, "to": own.swap.to},
        "settings": json.loads(text, parse_constant=lambda _: None)["stages"],  # JSON proper knows no infinity
        "versions": versions(),
    }

    def make(device: str, halvings: int) -> Engine:
        sheets = str(settings.daemon.state / "sheets") if settings.daemon.sheets else ""
        publishing = replace(own.publish, sheets=sheets, sheets_kept=settings.daemon.sheets)
        pinned = replace(own.swap, digest=model.digest)  # jobs, their segments and reports are of this model
        return engine(_on(replace(own, publish=publishing, swap=pinned), device, halvings))

    terms = hashlib.sha256(repr((own.consent, own.provenance, home(own))).encode()).hexdigest()
    return Station(key, str(place), own.swap.to, own.swap.device, own.swap.on_device_fault, about, make, terms)


def _pattern(settings: Settings) -> str:
    """A digest of the key that the watermark's pattern hangs on; empty: there is no pattern."""
    if settings.disclose.watermark.off_because:
        return ""
    return hashlib.sha256(watermark.read_key(str(home(settings).watermark_key))).hexdigest()


def folder_settings(settings: Settings, folder: WatchConfig) -> Settings:
    """The settings with what one watched folder says for itself. Raises ConfigError."""
    fixed = (*FIXED, "model", "watch", "daemon", "train", "extract", "swap.to")
    try:
        own = config.apply(settings, folder.settings, Path.cwd(), fixed)
    except ConfigError as error:
        raise ConfigError(f"the settings of the watched folder {folder.inbox}: {error}") from error
    swapping = replace(own.swap, to=folder.to or own.swap.to)
    # Frames of a file that are held back wait for the next as long as it takes: by the clock, a resumed clip could
    # come out otherwise than an unbroken one.
    aligning = replace(own.align, max_wait_ms=math.inf)
    coding = own.encode.on_this_machine()
    return replace(own, model=folder.model or own.model, swap=swapping, align=aligning, encode=coding)


def _on(settings: Settings, device: str, halvings: int) -> Settings:
    """The settings for one device, with less memory: first the ring's is halved, then the network's batches too."""
    ring_mb = max(64, settings.engine.ring_mb >> halvings)
    batch = max(1, settings.swap.batch >> max(0, halvings - 1))
    return replace(
        settings,
        engine=replace(settings.engine, ring_mb=min(ring_mb, settings.engine.ring_mb)),
        swap=replace(settings.swap, device=device, batch=batch),
    )


def versions() -> dict[str, str]:
    """Of the program and of what its results depend on."""
    names = ("understudy", "av", "mediapipe", "numpy", "opencv-python-headless", "torch")
    return {name: version for name in names if (version := _version(name))}


@cache  # read from files otherwise, each time the daemon asks for a station
def _version(name: str) -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return ""


def stage_specs(
    settings: Settings, source: StageSpec | None = None, sink: StageSpec | None = None
) -> tuple[StageSpec, ...]:
    """The chain that swaps faces: files in, files out, unless another source or sink is given.

    Raises:
        ConfigError, WeightsError: as `describe_model`.
        ConfigError: as well, the home of keys cannot be used, or nobody can sign files.
        ConsentError: as `agreed`.
    """
    agreed(settings)
    folder, model = describe_model(settings)
    place = home(settings)
    authority.ensure(place)
    if sink is None:
        signatory(settings.provenance, place)  # files are signed: who cannot shall say so before they are made
    pattern = replace(settings.disclose.watermark, key=str(place.watermark_key))
    digest = settings.swap.digest or model.digest
    salt = f"{digest} {settings.swap.to}"
    said = tags.Config(TREATMENT.source_type, settings.provenance.producer)
    return (
        source or StageSpec("decode", "stages.decode:Decode", replace(settings.decode, salt=salt)),
        *face_specs(settings, model.input_size, model.coverage, model.crop),
        StageSpec("swap", "stages.swap:Swap", replace(settings.swap, model=str(folder), digest=digest)),
        StageSpec("blend", "stages.blend:Blend", settings.blend),
        StageSpec("disclose", "stages.disclose:Disclose", replace(settings.disclose, watermark=pattern)),
        sink or StageSpec("encode", "stages.encode:Encode", replace(settings.encode, tags=said)),
    )


def face_specs(
    settings: Settings, size: int, coverage: float, crop: Literal["face", "head"] = "face"
) -> tuple[StageSpec, ...]:
    """The stages that find faces, cut them out as crops of `size` px of face or head at `coverage`, and mask them."""
    aligning = replace(settings.align, size=size, coverage=coverage, crop=crop)
    return (
        StageSpec("detect", "stages.detect:Detect", settings.detect),
        StageSpec("align", "stages.align:Align", aligning),
        StageSpec("mask", "stages.mask:Mask", settings.mask),
    )


def extraction(settings: Settings) -> tuple[tuple[Source, Source], list[Stage]]:
    """The sources for videos and for pictures, and the stages up to the mask, live in this process."""
    specs = face_specs(settings, settings.extract.size, settings.extract.coverage, settings.extract.crop)
    sources = (decode.Decode(settings.decode), pictures.Pictures(pictures.Config(settings.decode.max_pixels)))
    return sources, [spec.build() for spec in specs]


def inspection(settings: Settings, size: int, coverage: float) -> tuple[Source, Stage, Stage]:
    """A source and the stages that find faces and cut them out, live in this process: to look, not to change."""
    detecting, aligning, _ = face_specs(settings, size, coverage)
    return decode.Decode(settings.decode), detecting.build(), aligning.build()


def job(number: int, source: str, target: str = "") -> Job:
    """A job with absolute paths; without a target nothing is published."""
    return Job(number, str(Path(source).absolute()), target and str(Path(target).absolute()))


def receiver(
    descriptor: int, form: str, width: int = 0, height: int = 0, pixel_format: str = "yuv420p", rate: Fraction = _RATE
) -> StageSpec:
    """The source of frames that come through a pipe; the last four are raw video's. Raises ConfigError.

    Its configuration has the payload: whoever writes down that frames went out knows it whatever becomes of them.
    """
    end, said = pipes.Descriptor(descriptor), payload.drawn()
    config = receive.Config(end, form, width, height, pixel_format, rate, payload=said)
    return StageSpec("receive", "stages.receive:Receive", config)


def sender(descriptor: int, form: str) -> StageSpec:
    """The sink of frames that leave through a pipe. Raises ConfigError."""
    return StageSpec("send", "stages.send:Send", send.Config(pipes.Descriptor(descriptor), form))


def engine(settings: Settings, specs: Sequence[StageSpec] | None = None) -> Engine:
    """An engine for these stages (None: those of `stage_specs`), not started yet.

    Raises:
        ConfigError: the process table or the ring does not fit the stages.
    """
    specs = stage_specs(settings) if specs is None else specs
    scratch_kb = max(settings.engine.scratch_kb, _scratch_kb(settings))
    table = process_table(settings, specs)
    finisher = sealer = None
    if isinstance(specs[-1].config, encode.Config):  # files come out, not frames through a pipe
        finishing = replace(settings.publish, encode=specs[-1].config)
        finisher = StageSpec("publish", "stages.finish:Finish", finishing)
        sealer = StageSpec("seal", "pipeline.provenance.seal:Sealer", _sealing(settings))
    return Engine(specs, replace(settings.engine, processes=table, scratch_kb=scratch_kb), finisher, sealer)


def _sealing(settings: Settings) -> seal.Config:
    folder, model = describe_model(settings)
    asked = roles(model, settings.swap.to)
    people = {person: model.identities.get(person, "") for person in asked}
    place = home(settings)
    return seal.Config(
        place, settings.provenance, settings.consent, str(folder), model.digest, people, asked, TREATMENT
    )


def _scratch_kb(settings: Settings) -> int:
    """KiB that the arrays of a frame's faces take at most: landmarks, the model's crop, mask, the model's picture.

    Two faces more than detection keeps, since align may bridge the misses of faces that are away for a moment.
    """
    _, model = describe_model(settings)
    masks = 1 if settings.swap.mask == "given" else 2
    face = 478 * 2 * 4 + 3 * model.input_size**2 + masks * 4 * settings.mask.size**2 + 3 * model.output_size**2 + 4 * 64
    return -(-face * (settings.detect.max_faces + 2) // 1024)


def process_table(settings: Settings, specs: Sequence[StageSpec]) -> tuple[ProcessSpec, ...]:
    """The settings' table of processes, with the chain's own source and sink where it says decode and encode.

    Marks go into every chain: a table that does not name that stage has it right before the last one.
    """
    names = {"decode": specs[0].name, "encode": specs[-1].name}
    table = [
        ProcessSpec(tuple(names.get(name, name) for name in process.stages), process.workers)
        for process in settings.engine.processes
    ]
    named = {name for process in table for name in process.stages}
    if table and "disclose" not in named and any(spec.name == "disclose" for spec in specs):
        shared = table[-1].stages
        table[-1] = replace(table[-1], stages=(*shared[:-1], "disclose", *shared[-1:]))
    return tuple(table)


def result_suffix(settings: Settings, source: str) -> str:
    """The extension of the file that `source` becomes: its own where that container can hold the codec."""
    return containers.suffix_for(source, settings.encode.codec)


def check_result(settings: Settings, target: str) -> None:
    """Refuses a result whose container is unknown or cannot hold the codec. Raises ConfigError."""
    containers.muxer_for(target, settings.encode.codec)


def check_input(source: str) -> UnderstudyError | None:
    """What is wrong with an input at first sight; None where it is a readable file with something in it."""
    try:
        containers.check_regular(source)
    except UnderstudyError as error:
        return error
    return None
