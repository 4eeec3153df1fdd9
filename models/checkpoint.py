"""Models on disk: written whole or not at all, checked when read, never pickled.

`models/description.py` says what lies in a model's folder and why a crash can't spoil it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from models import autoencoders
from models.autoencoder import Autoencoder
from models.blocks import Layers
from models.description import FILE, ModelDescription, read
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError, WeightsError


def new(
    architecture: str,
    config: Any,
    *,
    layers: LayerOptions = LayerOptions(),
    people: Sequence[str] = ("a", "b"),
    crop: Literal["face", "head"] = "face",
    coverage: float = 1.0,
    seed: int = 0,
) -> tuple[Autoencoder, ModelDescription]:
    """An untrained model of that architecture's `config`; the same seed gives the same weights.

    Raises:
        ConfigError: there is no such architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Autoencoder = autoencoders.module(architecture).build(config, people, Layers(layers))
    description = ModelDescription(
        architecture,
        autoencoders.options(config),
        config.input_size,
        config.output_size,
        layers=asdict(layers),
        crop=crop,
        coverage=coverage,
        people=tuple(people),
    )
    return model, description


def save(
    folder: Path | str,
    model: Autoencoder,
    description: ModelDescription,
    state: Mapping[str, Tensor] | None = None,
    state_facts: Mapping[str, str] | None = None,
) -> ModelDescription:
    """Writes the model, replacing the one in `folder` at once and durably; gives the description as written.

    `state` (with `state_facts`, strings) is what a resumed training needs beside the weights.

    Raises:
        WeightsError: the folder can't be written.
    """
    folder = Path(folder)
    weights = {name: _kept(tensor).cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file, digest = _write(folder, "model", safetensors.torch.save(weights))
        state_file, state_digest = "", ""
        if state is not None:
            packed = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
            state_file, state_digest = _write(
                folder, "state", safetensors.torch.save(packed, metadata=dict(state_facts or {}))
            )
        written = replace(description, weights=file, digest=digest, state=state_file, state_digest=state_digest)
        _replace(folder / FILE, written.to_json().encode())
        _sync_folder(folder)
        _drop_others(folder, {file, state_file})
    except OSError as error:
        raise WeightsError(f"the model {folder} cannot be written: {error}") from error
    return written


def load(folder: Path | str) -> tuple[Autoencoder, ModelDescription]:
    """The model in `folder`, on the CPU, in float32, ready for inference (`eval`), and its description.

    Raises:
        WeightsError: something is missing, damaged, or of another shape than the description says.
    """
    folder = Path(folder)
    description = read(folder)
    where = folder / description.weights
    try:
        config = autoencoders.config(description.architecture, description.options)
    except ConfigError as error:
        raise WeightsError(f"{folder / FILE}: {error}") from error
    if (config.input_size, config.output_size) != (description.input_size, description.output_size):
        raise WeightsError(
            f"{folder / FILE} says {description.input_size} px in and {description.output_size} px out, "
            f"its options make {config.input_size} and {config.output_size}"
        )
    with torch.device("meta"):
        layers = Layers(description.layer_options)
        model: Autoencoder = autoencoders.module(description.architecture).build(config, description.people, layers)
    weights = _read(where, description.digest)[0]
    _check_shapes(weights, model.state_dict(), where)
    model.load_state_dict(weights, assign=True)
    return model.eval(), description


def load_state(folder: Path | str, description: ModelDescription) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The `state` and `state_facts` saved beside the weights. Raises WeightsError where there are none."""
    if not description.state:
        raise WeightsError(f"the model {folder} was saved without its training state and cannot be trained on")
    return _read(Path(folder) / description.state, description.state_digest)


def _read(file: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(f"the weights {file} are missing; copy the whole model folder") from error
    except OSError as error:
        raise WeightsError(f"the weights {file} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise WeightsError(f"the weights {file} are damaged: their SHA-256 is not the one in {FILE}; copy them again")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"the weights {file} are not a safetensors file: {error}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__", {})


def _kept(tensor: Tensor) -> Tensor:
    """Numbers as float32 whatever they are trained in; counters as they are."""
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


def _check_shapes(weights: dict[str, Tensor], wanted: Mapping[str, Tensor], where: Path) -> None:
    for name, tensor in wanted.items():
        if name not in weights:
            raise WeightsError(f"{where} is a model of another shape: it lacks the tensor {name}")
        if weights[name].shape != tensor.shape:
            raise WeightsError(
                f"{where} is a model of another shape: {name} is {tuple(weights[name].shape)}, "
                f"the description asks for {tuple(tensor.shape)}"
            )
        if weights[name].dtype != (kind := _kept(tensor).dtype):
            raise WeightsError(f"{where}: {name} is {weights[name].dtype}, not {kind}")
    if foreign := sorted(set(weights) - set(wanted)):
        raise WeightsError(f"{where} is a model of another shape: it has a tensor {foreign[0]} too many")


def _write(folder: Path, kind: str, content: bytes) -> tuple[str, str]:
    """Writes `content` under a name made of its digest; gives the name and the digest."""
    digest = hashlib.sha256(content).hexdigest()
    name = f"{kind}.{digest[:12]}.safetensors"
    _replace(folder / name, content)
    return name, digest


def _replace(file: Path, content: bytes) -> None:
    beside = file.with_name(f".{file.name}.part")
    try:
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _drop_others(folder: Path, keep: set[str]) -> None:
    for pattern in ("model.*.safetensors", "state.*.safetensors", ".*.safetensors.part"):
        for file in folder.glob(pattern):
            if file.name not in keep:
                file.unlink(missing_ok=True)
