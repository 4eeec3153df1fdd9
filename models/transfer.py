"""What a new model takes over from another, and which of its parts stay as they are.

Pretraining on many people and fine-tuning on two is a transfer: the new model has two decoders, and `Transfer.people`
says which of the old ones they start from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from models import carried, checkpoint, kept
from models.autoencoder import Autoencoder
from models.carried import Identities
from models.train.recipe import Transfer
from pipeline.errors import ConfigError

#: How many names of tensors a note spells out.
_NAMED = 3


def start(model: Autoencoder, transfer: Transfer) -> tuple[str, ...]:
    """Puts the weights of `transfer.start_from` into `model`, wherever name and shape agree; gives notes for people.

    A part that belongs to one person takes that of the old person whom `transfer.people` names, else of the one with
    the same name, else of the old model's first.

    Raises:
        ConfigError: nothing agrees, or `transfer.people` names somebody whom one of the models does not know.
        WeightsError: the old model cannot be loaded.
    """
    if transfer.start_from is None:
        return ()
    old, description = checkpoint.load(transfer.start_from)
    roles = _roles(model.people, old.people, transfer)
    theirs, ours = old.state_dict(), model.state_dict()
    sources = {name: name for name in ours} | dict(_sources(model, roles))
    taken = {name: theirs[source] for name, source in sources.items() if _fits(ours[name], theirs.get(source))}
    if not any(tensor.dim() > 1 for tensor in taken.values()):  # biases and counters fit by chance
        raise ConfigError(
            f"train.transfer.start_from: nothing in {transfer.start_from} ({description.architecture}) fits this "
            "model; start from one of the same architecture and size"
        )
    with torch.no_grad():
        for name, tensor in taken.items():
            ours[name].copy_(tensor)
    left = [name for name in ours if name not in taken]
    return tuple(_notes(transfer, roles, taken, left, {name for name in left if sources[name] in theirs}))


def identities(transfer: Transfer, given: Identities) -> Identities:
    """Whose faces a new model carries: those `given`, and those in the weights that it starts from.

    Raises:
        WeightsError: the old model cannot be read.
    """
    if transfer.start_from is None:
        return given
    origin = kept.read(transfer.start_from).identities
    files = carried.copies(transfer.start_from, origin.values())
    return replace(given, digests=carried.inherited(origin, given), files=files | dict(given.files))


def freeze(model: Autoencoder, prefixes: Iterable[str]) -> int:
    """Parts whose dotted name begins with one of `prefixes` are no longer trained; gives the number of parameters.

    "encoder" means encoder.0.weight, not encoder2.weight.

    Raises:
        ConfigError: a prefix names no part that could be trained, or nothing is left to train.
    """
    frozen = 0
    for prefix in prefixes:
        parts = [parameter for name, parameter in model.named_parameters() if f"{name}.".startswith(f"{prefix}.")]
        if not parts:
            raise ConfigError(f"train.transfer.freeze: this model has no part {prefix!r}; it has: {_parts(model)}")
        for parameter in parts:
            frozen += parameter.numel() if parameter.requires_grad else 0
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("train.transfer.freeze leaves nothing of the model to train")
    return frozen


def _roles(new: Sequence[str], old: Sequence[str], transfer: Transfer) -> dict[str, str]:
    """Whom of the old model each new person starts from."""
    for person, model, known in (
        *((person, "this model", new) for person in transfer.people),
        *((person, str(transfer.start_from), old) for person in transfer.people.values()),
    ):
        if person not in known:
            raise ConfigError(f"train.transfer.people: {model} knows {', '.join(known)}, not {person!r}")
    return {person: transfer.people.get(person, person if person in old else old[0]) for person in new}


def _sources(model: Autoencoder, roles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each tensor that is one person's own, and what it is called in the old model."""
    for place, module in model.named_modules():
        if isinstance(module, nn.ModuleDict) and set(module) <= set(roles):
            for person, part in module.items():
                for name in part.state_dict():
                    yield f"{place}.{person}.{name}", f"{place}.{roles[person]}.{name}"


def _fits(ours: Tensor, theirs: Tensor | None) -> bool:
    return theirs is not None and theirs.shape == ours.shape


def _notes(
    transfer: Transfer, roles: Mapping[str, str], taken: Mapping[str, Tensor], left: Sequence[str], reshaped: set[str]
) -> Iterable[str]:
    count = len(taken) + len(left)
    yield f"{len(taken)} of {count} tensors taken over from {transfer.start_from}"
    yield "people start from: " + ", ".join(f"{new} from {old}" for new, old in roles.items())
    for names, what in (
        ([name for name in left if name in reshaped], "differ in shape and start anew"),
        ([name for name in left if name not in reshaped], "are not in it and start anew"),
    ):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield f"{', '.join(names[:_NAMED])}{more} {what}"


def _parts(model: Autoencoder) -> str:
    """The names of what has parameters, two levels down."""
    names = [name.split(".")[:2] for name, _ in model.named_parameters()]
    found = {name[0] for name in names} | {".".join(name) for name in names}
    return ", ".join(sorted(found))
