"""Models on disk: written whole or not at all, checked when read, never pickled.

`models/description.py` says what lies in a model's folder and why a crash can't spoil it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from models import autoencoders, carried, durable, kept, tensor_file
from models.autoencoder import Autoencoder
from models.blocks import Layers
from models.description import FILE, ModelDescription, read
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError, WeightsError

_PLAIN = LayerOptions()


def new(
    architecture: str,
    config: Any,
    *,
    layers: LayerOptions = _PLAIN,
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
    identity_files: Mapping[str, bytes] | None = None,
) -> ModelDescription:
    """Writes the model, replacing the one in `folder` at once and durably; gives the description as written.

    `state` (with `state_facts`, strings) is what a resumed training needs beside the weights. `identity_files`, by
    their digests, are those that `description.identities` names, unless they are there. What is kept (`models/kept.py`)
    stays.

    Raises:
        WeightsError: a weight is no number, or the folder can't be written; the old model is still there then.
    """
    folder = Path(folder)
    weights = {name: _kept(tensor) for name, tensor in model.state_dict().items()}
    if name := _not_finite(weights):
        raise WeightsError(f"the model {folder} is not saved: {name} holds infinities or what is no number")
    try:
        durable.make_folder(folder, private=True)
        carried.put(folder, identity_files or {})
        file, digest = tensor_file.write(folder, "model", weights, carried.facts(description.identities))
        state_file, state_digest = "", ""
        if state is not None:
            state_file, state_digest = tensor_file.write(folder, "state", state, state_facts or {})
        written = replace(
            description,
            weights=file,
            digest=digest,
            state=state_file,
            state_digest=state_digest,
            saved=datetime.now(UTC).isoformat(),
        )
        _put_in_place(folder, written)
    except OSError as error:
        with suppress(OSError):  # the weights of a state that no longer fitted, else each attempt would leave some
            kept.drop_unnamed(folder)
        raise WeightsError(f"the model {folder} cannot be written: {error}") from error
    return written


def load(folder: Path | str) -> tuple[Autoencoder, ModelDescription]:
    """The model in `folder`, on the CPU, in float32, ready for inference (`eval`), and its description.

    Raises:
        WeightsError: something is missing, damaged, or of another shape than the description says; it offers the
            newest good model that was kept.
        ConsentError: its weights were made of other people than it says.
    """
    folder = Path(folder)
    try:
        description = read(folder)
        model = _build(folder, description)
        where = folder / description.weights
        weights, facts = tensor_file.read(where, description.digest)
        carried.agree(facts, folder, description)
        _check_shapes(weights, model.state_dict(), where)
        if name := _not_finite(weights):
            raise WeightsError(f"{where}: {name} holds infinities or what is no number")
    except WeightsError as error:
        raise WeightsError(f"{error}{kept.offer(folder)}") from error
    model.load_state_dict(weights, assign=True)
    if any(tensor.is_meta for tensor in itertools.chain(model.parameters(), model.buffers())):
        # Buffers that are not saved have only what the constructor puts into them.
        with torch.random.fork_rng(devices=[]):
            model = _built(description)
        model.load_state_dict(weights)
    return model.eval(), description


def load_state(folder: Path | str, description: ModelDescription) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The `state` and `state_facts` saved beside the weights.

    Raises:
        WeightsError: there are none, or they are damaged; it offers the newest good model that was kept.
    """
    folder = Path(folder)
    try:
        if not description.state:
            raise WeightsError(f"the model {folder} was saved without its training state and cannot be trained on")
        return tensor_file.read(folder / description.state, description.state_digest)
    except WeightsError as error:
        raise WeightsError(f"{error}{kept.offer(folder)}") from error


def attach(folder: Path | str, files: Mapping[str, bytes], digests: Mapping[str, str]) -> ModelDescription:
    """Has the model in `folder` carry identities that it did not, or renewed ones; gives its new description.

    Its weights stay what they are, in a file with another header, and so do its training's state and what is kept of
    it. Nobody else may be changing the model meanwhile.

    Args:
        files: identity files by their digests; digests: of each person concerned, by name.

    Raises:
        ConfigError: the model does not know one of these people.
        ConsentError: it was edited after training.
        WeightsError: it is damaged, in use, or cannot be written; it is what it was then.
    """
    folder = Path(folder)
    with kept.claimed(folder):
        before = kept.read(folder)
        known = dict.fromkeys((*before.people, *before.identities))  # the latter: origins, who may be renewed
        if strangers := sorted(set(digests) - set(known)):
            raise ConfigError(f"the model {folder} knows {', '.join(known)}, not {strangers[0]!r}")
        weights, facts = tensor_file.read(folder / before.weights, before.digest)
        carried.agree(facts, folder, before)
        after = replace(before, identities=before.identities | dict(digests))
        try:
            carried.put(folder, files)
            file, digest = tensor_file.write(folder, "model", weights, carried.facts(after.identities))
            after = replace(after, weights=file, digest=digest)
            _put_in_place(folder, after)
        except OSError as error:
            raise WeightsError(f"the model {folder} cannot be written: {error}") from error
    return after


def _put_in_place(folder: Path, description: ModelDescription) -> None:
    """Makes the model what the description says, whose files are there. Raises OSError."""
    durable.sync_folder(folder)  # else the description could outrun the files it names to the disk
    with durable.replacing(folder / FILE) as out:
        out.write(description.to_json().encode())
    durable.sync_folder(folder)
    kept.drop_unnamed(folder)


def _build(folder: Path, description: ModelDescription) -> Autoencoder:
    """The network that is described, on the meta device: shapes without numbers. Raises WeightsError."""
    try:
        config = autoencoders.config(description.architecture, description.options)
        with torch.device("meta"):
            model = _built(description)
    except (ConfigError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{folder / FILE}: {error}") from error
    if (config.input_size, config.output_size) != (description.input_size, description.output_size):
        raise WeightsError(
            f"{folder / FILE} says {description.input_size} px in and {description.output_size} px out, "
            f"its options make {config.input_size} and {config.output_size}"
        )
    return model


def _built(description: ModelDescription) -> Autoencoder:
    config = autoencoders.config(description.architecture, description.options)
    layers = Layers(description.layer_options)
    model: Autoencoder = autoencoders.module(description.architecture).build(config, description.people, layers)
    return model


def _not_finite(weights: Mapping[str, Tensor]) -> str:
    """The name of a tensor that has something in it that is no finite number; empty where there is none."""
    for name, tensor in weights.items():
        # A sum is finite but for such a number or, rarely, an overflow: a look at all of them is the exception.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            return name
    return ""


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
