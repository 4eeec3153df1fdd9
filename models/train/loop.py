"""The training loop: both people in every step, one pass through the encoder they share.

The sum of both losses has the same gradient as two passes, for half of the weights' traffic.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import autoencoders, checkpoint, tensors
from models.description import FILE, ModelDescription
from models.faceset import FaceSet
from models.reports import preview
from models.train import augment, data, losses
from models.train.recipe import Config
from pipeline.errors import ConfigError, WeightsError

_REPORT_S = 0.5  # between two looks at the loss; each waits for the device
_SMOOTHING = 0.9


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Attributes:
        iteration: steps the model has had; `steps` of them in this session, `seconds` of it gone.
        loss: of each person, smoothed.
        faces_per_s: both people's faces through the network in a second, lately.
        share: of the session that is done, 0..1, or None where only `stop` ends it; `eta_s` the rest in seconds.
        saved: the model has just been saved.
    """

    iteration: int
    steps: int
    seconds: float
    loss: dict[str, float]
    faces_per_s: float
    share: float | None
    eta_s: float | None
    saved: bool = False


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a session came to: the model as saved, and why it ended ("iterations", "minutes" or "stopped").

    `preview` is the last preview sheet; `notes` names the faces that could not be used, one sentence each.
    """

    description: ModelDescription
    steps: int
    seconds: float
    faces_per_s: float
    ended: str
    preview: Path | None
    notes: tuple[str, ...] = ()


def train(
    config: Config,
    set_a: FaceSet,
    set_b: FaceSet,
    folder: Path | str,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Trains the model in `folder` on, or a new one where there is none, until an end of `config` or `stop`.

    Args:
        on_progress: called about twice a second and after each save.
        stop: asked before every step; once it says so, the model is saved and training ends.

    Raises:
        ConfigError: settings that do not fit the model in `folder`.
        InputError: a face set without a usable face.
        WeightsError: the model in `folder` is damaged, cannot be written, or its loss is no number any more.
    """
    session = _Session.begin(config, Path(folder))
    people, sizes = session.people, session.sizes
    faces = {
        person: data.load(found, sizes[1], config.coverage, config.memory_mb / 2).to(session.device)
        for person, found in zip(people, (set_a, set_b), strict=True)
    }
    switches = augment.Switches(config.warp, config.flip, config.colour)
    clock = _Clock(config, session.description.iterations)
    while not (ended := clock.ended(session.iteration) or ("stopped" if stop() else "")):
        session.set_learning_rate(clock.share(session.iteration))
        batches = {p: augment.draw(faces[p], config.batch, sizes, switches, session.generator) for p in people}
        session.errors = errors(session.model, batches, config.dssim, session.dtype)
        session.optimiser.zero_grad()
        torch.stack(list(session.errors.values())).sum().backward()
        session.optimiser.step()
        session.iteration += 1
        if clock.report_due():
            session.look_at_errors()
            on_progress(clock.progress(session))
        if clock.save_due():
            session.save(faces, clock.seconds)
            on_progress(replace(clock.progress(session), saved=True))
    sheet = session.save(faces, clock.seconds)
    on_progress(replace(clock.progress(session), saved=True))
    steps = session.iteration - session.description.iterations
    rate = 2 * config.batch * steps / max(clock.seconds, 1e-9)
    notes = tuple(note for person in people for note in _notes(person, faces[person]))
    return TrainingResult(session.saved, steps, clock.seconds, rate, ended, sheet, notes)


def errors(model: Any, batches: Mapping[str, augment.Batch], dssim: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """Each person's loss, all faces going through the shared encoder at once; activations are of `dtype`."""
    inputs = [batch.input for batch in batches.values()]
    with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        latents = model.encode(torch.cat(inputs)).split([len(part) for part in inputs])
        pictures = [model.decode(latent, person) for person, latent in zip(batches, latents, strict=True)]
    return {
        person: losses.reconstruction(picture, batch.target, batch.weight, dssim)
        for picture, (person, batch) in zip(pictures, batches.items(), strict=True)
    }


def _notes(person: str, faces: data.Faces) -> list[str]:
    notes = [f"{person}: {junk}" for junk in faces.junk]
    if faces.passed_over:
        notes.append(f"{person}: {faces.passed_over} faces left out to stay within train.memory_mb")
    return notes


class _Clock:
    """Time and share of a session."""

    def __init__(self, config: Config, first: int) -> None:
        self._config = config
        self._first = first
        self._start = self._last_save = self._last_report = time.monotonic()
        self._last_iteration = first
        self.faces_per_s = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def share(self, iteration: int) -> float:
        """0..1 of whichever end is nearer; 0 throughout where there is none."""
        shares = [0.0]
        if self._config.iterations:
            shares.append((iteration - self._first) / max(1, self._config.iterations - self._first))
        if self._config.minutes:
            shares.append(self.seconds / (60 * self._config.minutes))
        return min(1.0, max(shares))

    def ended(self, iteration: int) -> str:
        if self._config.iterations and iteration >= self._config.iterations:
            return "iterations"
        return "minutes" if self._config.minutes and self.seconds >= 60 * self._config.minutes else ""

    def report_due(self) -> bool:
        return time.monotonic() - self._last_report >= _REPORT_S

    def save_due(self) -> bool:
        due = time.monotonic() - self._last_save >= 60 * self._config.save_minutes
        if due:
            self._last_save = time.monotonic()
        return due

    def progress(self, session: _Session) -> Progress:
        now = time.monotonic()
        if session.iteration > self._last_iteration:
            faces = 2 * self._config.batch * (session.iteration - self._last_iteration)
            self.faces_per_s = faces / (now - self._last_report)
        self._last_report, self._last_iteration = now, session.iteration
        steps = session.iteration - self._first
        share = self.share(session.iteration) if self._config.iterations or self._config.minutes else None
        eta = self.seconds * (1 - share) / share if share else None
        return Progress(session.iteration, steps, self.seconds, dict(session.loss), self.faces_per_s, share, eta)


@dataclass(slots=True)
class _Session:
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
    def begin(cls, config: Config, folder: Path) -> _Session:
        torch.set_num_threads(config.threads or tensors.cores())
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

    def look_at_errors(self) -> None:
        """Takes the last step's losses into the smoothed ones. Raises WeightsError where one is no number."""
        for person, error in self.errors.items():
            value = error.item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss of {person} is {value}")
            self.loss[person] = _SMOOTHING * self.loss.get(person, value) + (1 - _SMOOTHING) * value

    def save(self, faces: dict[str, data.Faces], seconds: float) -> Path | None:
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


def _fresh(config: Config) -> tuple[torch.nn.Module, ModelDescription]:
    preset = autoencoders.preset(config.architecture, config.preset)
    return checkpoint.new(config.architecture, preset, coverage=config.coverage, seed=config.seed)


def _check_fits(config: Config, description: ModelDescription, folder: Path) -> None:
    wanted = _fresh_options(config)
    if (description.architecture, description.options, description.coverage) != wanted:
        raise ConfigError(
            f"the model in {folder} is no {config.architecture}/{config.preset} at coverage {config.coverage:g}; "
            "train it on with the settings it began with, or give another folder"
        )
    if len(description.people) != 2:
        raise ConfigError(f"the model in {folder} knows {len(description.people)} people; training takes two")


def _fresh_options(config: Config) -> tuple[str, dict[str, Any], float]:
    preset = autoencoders.preset(config.architecture, config.preset)
    return config.architecture, autoencoders.options(preset), config.coverage


def _state(session: _Session) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Adam's moments under the weights' names, and the generator."""
    state = {"generator": session.generator.get_state()}
    for name, weight in session.model.named_parameters():
        state |= {f"adam.{name}.{key}": value for key, value in session.optimiser.state[weight].items()}
    return state, {"recipe": json.dumps({key: getattr(session.config, key) for key in session.config.__slots__})}


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
                laid_out = {key: torch.empty_like(weight).copy_(moment) for key, moment in moments.items()}
                steps = state[f"adam.{name}.step"].to(weight.device)
                optimiser.state[weight] = {"step": steps} | {k: v.detach() for k, v in laid_out.items()}
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{folder / description.state} is no training state of this model: {error}") from error
