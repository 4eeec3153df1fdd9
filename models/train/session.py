"""A training session: what the loop changes step by step, how it is taken up again and how it is saved."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import autoencoders, checkpoint, tensors
from models.description import FILE, ModelDescription
from models.reports import preview
from models.train import losses
from models.train.augment import Batch
from models.train.data import Faces
from models.train.recipe import Config
from pipeline.errors import ConfigError, RequirementError, WeightsError

_SMOOTHING = 0.9  # of the losses that are shown


@dataclass(slots=True)
class Session:
    """What training changes: the model, its optimiser, the generator of every draw, and how far it is."""

    config: Config
    folder: Path
    device: torch.device
    dtype: torch.dtype
    model: Any
    optimiser: torch.optim.Adam
    generator: torch.Generator
    description: ModelDescription  # as the session began
    saved: ModelDescription
    iteration: int
    loss: dict[str, float] = field(default_factory=dict)
    errors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(cls, config: Config, folder: Path) -> Session:
        device = tensors.choose_device(config.device)
        dtype = tensors.choose_precision(config.precision, device)
        resumes = (folder / FILE).exists()
        model, description = checkpoint.load(folder) if resumes else _fresh(config)
        if resumes:
            _check_fits(config, description, folder)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.train()
        optimiser = torch.optim.Adam(
            model.parameters(), config.lr, (config.beta1, config.beta2), config.eps, fused=True
        )
        generator = torch.Generator().manual_seed(config.seed)
        if resumes:
            _restore(folder, description, model, optimiser, generator)
        iteration, loss = description.iterations, dict(description.loss)
        return cls(
            config, folder, device, dtype, model, optimiser, generator, description, description, iteration, loss
        )

    @property
    def people(self) -> tuple[str, ...]:
        return self.description.people

    @property
    def sizes(self) -> tuple[int, int]:
        return self.description.input_size, self.description.output_size

    def set_learning_rate(self, share: float) -> None:
        """Along half a cosine from `lr` to `lr * lr_end`."""
        fall = (1 - self.config.lr_end) * (1 - math.cos(math.pi * share)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * (1 - fall)

    def learn(self, batches: Mapping[str, Batch]) -> None:
        """One step of the optimiser on one batch of each person. RequirementError where the GPU's memory is full."""
        try:
            self.errors = errors(self.model, batches, self.config.dssim, self.dtype)
            self.optimiser.zero_grad()
            torch.stack(list(self.errors.values())).sum().backward()
            self.optimiser.step()
        except torch.cuda.OutOfMemoryError as error:
            raise RequirementError(
                f"{self.device} has not enough free memory; use a smaller train.batch or train.preset"
            ) from error
        self.iteration += 1

    def look_at_errors(self) -> None:
        """Takes the last step's losses into the smoothed ones. Raises WeightsError where one is no number."""
        for person, error in self.errors.items():
            value = error.item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss of {person} is {value}")
            self.loss[person] = _SMOOTHING * self.loss.get(person, value) + (1 - _SMOOTHING) * value

    def save(self, faces: Mapping[str, Faces], seconds: float) -> Path | None:
        """Writes model, state and preview; gives the preview's path. WeightsError where a weight is no number."""
        self.look_at_errors()
        for name, weight in self.model.named_parameters():
            if not torch.isfinite(weight).all():
                raise self._diverged(f"the weights of {name} are no numbers")
        begun = self.description
        description = replace(
            begun,
            iterations=self.iteration,
            faces=begun.faces + 2 * self.config.batch * (self.iteration - begun.iterations),
            seconds=round(begun.seconds + seconds, 3),
            loss={person: round(loss, 6) for person, loss in self.loss.items()},
        )
        self.saved = checkpoint.save(self.folder, self.model, description, *_state(self))
        if not self.config.preview:
            return None
        return preview.write(self.folder / preview.FILE, preview.sheet(self.model, faces, self.sizes[0]))

    def _diverged(self, what: str) -> WeightsError:
        kept = (
            f"the model of step {self.saved.iterations} in {self.folder} is kept"
            if self.saved.digest
            else "nothing was saved"
        )
        return WeightsError(
            f"training broke down at step {self.iteration}: {what}; {kept}; train with a lower train.lr"
        )


def errors(model: Any, batches: Mapping[str, Batch], dssim: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """Each person's loss; activations are of `dtype`.

    All faces go through the shared encoder at once: the sum of the losses has the same gradient as a pass for each
    person, for half of the weights' traffic.
    """
    inputs = [batch.input for batch in batches.values()]
    with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        latents = model.encode(torch.cat(inputs)).split([len(part) for part in inputs])
        pictures = [model.decode(latent, person) for person, latent in zip(batches, latents, strict=True)]
    return {
        person: losses.reconstruction(picture, batch.target, batch.weight, dssim)
        for picture, (person, batch) in zip(pictures, batches.items(), strict=True)
    }


def _fresh(config: Config) -> tuple[torch.nn.Module, ModelDescription]:
    preset = autoencoders.preset(config.architecture, config.preset)
    return checkpoint.new(config.architecture, preset, coverage=config.coverage, seed=config.seed)


def _check_fits(config: Config, description: ModelDescription, folder: Path) -> None:
    options = autoencoders.options(autoencoders.preset(config.architecture, config.preset))
    wanted = (config.architecture, options, config.coverage)
    if (description.architecture, description.options, description.coverage) != wanted:
        raise ConfigError(
            f"the model in {folder} is no {config.architecture}/{config.preset} at coverage {config.coverage:g}; "
            "train it on with the settings it began with, or give another folder"
        )
    if len(description.people) != 2:
        raise ConfigError(f"the model in {folder} knows {len(description.people)} people; training takes two")


def _state(session: Session) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Adam's moments under the weights' names, and the generator."""
    state = {"generator": session.generator.get_state()}
    for name, weight in session.model.named_parameters():
        state |= {f"adam.{name}.{key}": value for key, value in session.optimiser.state[weight].items()}
    return state, {"recipe": json.dumps(asdict(session.config))}


def _restore(
    folder: Path,
    description: ModelDescription,
    model: torch.nn.Module,
    optimiser: torch.optim.Adam,
    generator: torch.Generator,
) -> None:
    state, _ = checkpoint.load_state(folder, description)
    try:
        generator.set_state(state["generator"])
        for name, weight in model.named_parameters():
            if description.iterations:
                moments = {key: state[f"adam.{name}.{key}"] for key in ("exp_avg", "exp_avg_sq")}
                if any(moment.shape != weight.shape for moment in moments.values()):
                    raise WeightsError(f"{folder / description.state} belongs to a model of another shape: {name}")
                # In the weight's own memory layout: the fused Adam goes through all of them as they lie.
                laid_out = {k: torch.empty_like(weight, requires_grad=False).copy_(v) for k, v in moments.items()}
                optimiser.state[weight] = {"step": state[f"adam.{name}.step"].to(weight.device)} | laid_out
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{folder / description.state} is no training state of this model: {error}") from error
