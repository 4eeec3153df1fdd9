"""A training session: what the loop changes step by step, how it is taken up, kept, and taken back when it breaks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from models import autoencoders, carried, checkpoint, kept, tensors, transfer
from models.autoencoder import Autoencoder
from models.description import FILE, ModelDescription
from models.train import draws, recipe, schedule
from models.train.batch import Batch
from models.train.step import Costs, Diverged, Learner
from models.train.world import World
from pipeline.errors import ConfigError, WeightsError

_SMOOTHING = 0.99  # of the losses that are shown and kept
_USUAL = 50  # steps after which a session knows what a usual loss is


@dataclass(slots=True)
class Record:
    """What is known of the training beside weights and counts; a part of the checkpoint.

    Attributes:
        attempt: how often the training has been taken back; draws differ and steps are half as long after each.
        lowest: the lowest smoothed loss of which a backup was made, the mean of all people; best: the best judgement.
        waited: judgements since then.
    """

    attempt: int = 0
    lowest: float | None = None
    best: float | None = None
    waited: int = 0


@dataclass(slots=True)
class Session:
    """What training changes.

    Attributes:
        description: the model as this session began; `saved` as it was last saved.
        notes: what a person should know about how it began.
        identity_files: those that are carried with it, by their digests.
    """

    config: recipe.Config
    folder: Path
    world: World
    device: torch.device
    dtype: torch.dtype
    model: Autoencoder
    learner: Learner
    description: ModelDescription
    saved: ModelDescription
    record: Record
    notes: tuple[str, ...]
    iteration: int
    loss: dict[str, float]
    identity_files: Mapping[str, bytes] = field(default_factory=dict)
    costs: Costs | None = None
    rollbacks: int = 0
    last_rate: float = 0.0
    _usual: dict[str, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        config: recipe.Config,
        folder: Path,
        people: Sequence[str],
        world: World,
        stop: Callable[[], bool] = lambda: False,
        identities: carried.Identities = carried.NOBODY,
    ) -> Session:
        """Takes up the model in `folder`, or begins a new one where there is none.

        `identities` are of the people in the faces; those that are in the weights already stay with them.

        Raises:
            ConsentError: the weights were made of other people than the model says.
            ConfigError: settings that do not fit the model in `folder`, or an unknown architecture or option.
            WeightsError: the model is damaged, or has no training state.
        """
        if config.batch % world.size:
            raise ConfigError(f"train.batch must be a multiple of the {world.size} processes, not {config.batch}")
        device = world.device(config.device)
        dtype = tensors.choose_precision(config.precision, device)
        notes: tuple[str, ...] = ()
        resumes = kept.is_model(folder)
        if resumes:
            model, description = checkpoint.load(folder)
            _check_fits(config, description, folder, people)
            digests = carried.renewed(description.identities, identities)
        else:
            model, description = fresh(config, people)
            notes += transfer.start(model, config.transfer)
            identities = transfer.identities(config.transfer, identities)
            digests = dict(identities.digests)
        description = replace(description, session=description.session + 1, identities=digests)
        transfer.freeze(model, config.transfer.freeze)
        memory_format = torch.channels_last if config.memory.channels_last else torch.contiguous_format
        model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        model.train()
        learner = Learner(model, (description.input_size, description.output_size), config, dtype, world, stop)
        record = Record()
        if resumes:
            state, facts = checkpoint.load_state(folder, description)
            notes += _restored(learner, state, facts, folder / description.state)
            record = _recorded(facts, config, folder / description.state)
        loss = dict(description.loss)
        return cls(
            config,
            folder,
            world,
            device,
            dtype,
            model,
            learner,
            description,
            description,
            record,
            notes,
            description.iterations,
            loss,
            identities.files,
        )

    @property
    def people(self) -> tuple[str, ...]:
        """Whom the model knows, in its own order."""
        return self.description.people

    @property
    def sizes(self) -> tuple[int, int]:
        """Px of the square it sees, and of the one it gives."""
        return self.description.input_size, self.description.output_size

    @property
    def faces_per_step(self) -> int:
        """Of everyone who takes part in a step, on all devices."""
        everyone = len(self.people)
        return min(self.config.people_per_step or everyone, everyone) * self.config.batch

    @property
    def seed(self) -> int:
        """Of every draw; another one after each time that the training was taken back."""
        attempt = self.record.attempt
        return draws.seed_of(self.config.seed, "attempt", attempt) if attempt else self.config.seed

    def rate(self, share: float) -> float:
        """The step size where `share` of the training is over."""
        return schedule.rate(self.config.optimiser, share, self.iteration) * 0.5**self.record.attempt

    def learn(self, batches: Mapping[str, Batch], rate: float) -> None:
        """One step on one batch of each person.

        Raises:
            Diverged, Stopped, RequirementError: as `Learner.learn`; Diverged also where a loss has left all bounds.
        """
        self.costs = self.learner.learn(batches, rate, self.iteration, self.seed)
        self.last_rate = rate
        for person, loss in self.costs.loss.items():
            self._compare(person, loss)
            smoothed = self.loss.get(person, loss)
            self.loss[person] = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
        self.iteration += 1

    def _compare(self, person: str, loss: float) -> None:
        """With what is usual in this session: settings, and so losses, may be others than in the last."""
        count, usual = self._usual.get(person, (0, loss))
        limit = self.config.safety.collapse
        if limit and count >= _USUAL and loss > limit * usual:
            raise Diverged(f"the loss of {person} is {loss:.4g}, {loss / usual:.0f} times what it was")
        weight = max(1 - _SMOOTHING, 1 / (count + 1))
        self._usual[person] = (count + 1, (1 - weight) * usual + weight * loss)

    def save(self, seconds: float) -> list[tuple[str, str]]:
        """Writes model and state, and keeps backups and snapshots of it; gives what was done, as (what, name).

        Raises:
            WeightsError: a weight is no number, or the folder cannot be written.
        """
        begun, safety = self.description, self.config.safety
        before = self.saved.iterations
        steps = self.iteration - begun.iterations
        description = replace(
            begun,
            iterations=self.iteration,
            faces=begun.faces + self.faces_per_step * max(0, steps),
            seconds=round(begun.seconds + seconds, 3),
            loss=dict(self.loss),
        )
        # The mean, not the sum: where few of many people are drawn for a step, more of them have a loss at each save.
        mean = sum(self.loss.values()) / len(self.loss) if self.loss else None
        fallen = mean is not None and (self.record.lowest is None or mean < self.record.lowest)
        record = replace(self.record, lowest=mean) if fallen else self.record
        state, facts = self.learner.state()
        facts |= {"recipe": json.dumps(asdict(self.config), default=str), "record": json.dumps(asdict(record))}
        self.saved = checkpoint.save(self.folder, self.model, description, state, facts, self.identity_files)
        self.record = record  # only now: a save that fails is no backup either
        done = [("saved", FILE)]
        if fallen and safety.backups:
            done.append(("backup", kept.keep(self.folder, self.saved, "backup", safety.backups)))
        every = safety.snapshot_iterations
        if every and self.iteration // every > before // every:
            done.append(("snapshot", kept.keep(self.folder, self.saved, "snapshot")))
        return done

    def judged(self, value: float | None) -> bool:
        """Takes a judgement's leading figure; whether it is the best so far. Save and keep the model then."""
        if value is None:
            return False
        better = recipe.METRICS[self.config.judge.best]
        best = self.record.best
        is_best = best is None or (value > best if better else value < best)
        self.record.waited = 0 if is_best else self.record.waited + 1
        if is_best:
            self.record.best = value
        return is_best

    def take_back(self, why: Diverged) -> str:
        """Goes back to the last save, with other draws and shorter steps; gives a sentence about it.

        Raises:
            WeightsError: that has been done as often as `train.safety.rollbacks` allows.
        """
        broken = f"training broke down at step {self.iteration + 1}: {why}"
        if self.rollbacks >= self.config.safety.rollbacks:
            raise WeightsError(
                f"{broken}; the model of step {self.saved.iterations} in {self.folder} is kept; "
                "train with a lower train.optimiser.lr"
            ) from why
        self.rollbacks += 1
        old, description = checkpoint.load(self.folder)
        state, facts = checkpoint.load_state(self.folder, description)
        self.model.load_state_dict(old.state_dict())
        self.learner.restore(state, facts)
        self.record = replace(self.record, attempt=self.record.attempt + 1)
        self.iteration, self.loss, self._usual = description.iterations, dict(description.loss), {}
        return f"{broken}; back to step {self.iteration}, with steps half as long"


def fresh(config: recipe.Config, people: Sequence[str]) -> tuple[Autoencoder, ModelDescription]:
    """A new model as the settings say. Raises ConfigError."""
    if len(people) < 2:
        raise ConfigError(
            f"there are faces of {' and '.join(people) or 'nobody'} alone; a swap takes two people or more"
        )
    architecture = config.architecture or "original"
    chosen = autoencoders.chosen(architecture, config.preset, config.options)
    return checkpoint.new(
        architecture,
        chosen,
        layers=config.layers,
        people=people,
        crop=config.crop,
        coverage=config.coverage,
        seed=config.seed,
    )


def _restored(learner: Learner, state: Mapping[str, Tensor], facts: Mapping[str, str], where: Path) -> tuple[str, ...]:
    try:
        return learner.restore(state, facts)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from error


def _recorded(facts: Mapping[str, str], config: recipe.Config, where: Path) -> Record:
    """The record that was saved, without what can no longer be compared since the settings changed."""
    try:
        record, before = Record(**json.loads(facts.get("record", "{}"))), json.loads(facts.get("recipe", "{}"))
        losses, best = before.get("losses"), before.get("judge", {}).get("best")
        lr = before.get("optimiser", {}).get("lr", config.optimiser.lr)
        counts, figures = (record.attempt, record.waited), (record.lowest, record.best)
        sound = all(type(count) is int and 0 <= count < 2**31 for count in counts)
        if not sound or not all(figure is None or math.isfinite(figure) for figure in figures):
            raise ValueError("a number is out of range")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{where} holds no record of a training ({error}); restore an earlier model") from error
    if losses != asdict(config.losses):
        record.lowest = None
    if lr != config.optimiser.lr:  # whoever chooses another step size means that one, not a half or a quarter of it
        record.attempt = 0
    if best != config.judge.best:
        record.best, record.waited = None, 0
    return record


def _check_fits(config: recipe.Config, found: ModelDescription, folder: Path, people: Sequence[str]) -> None:
    if set(people) != set(found.people):
        raise ConfigError(
            f"the model in {folder} knows {' and '.join(found.people)}, not {' and '.join(people)}; "
            "say who is who, as NAME=FACESET, or give another folder"
        )
    if not config.architecture:
        return
    chosen = autoencoders.chosen(config.architecture, config.preset, config.options)
    wanted = (config.architecture, autoencoders.options(chosen), asdict(config.layers), config.crop, config.coverage)
    if wanted != (found.architecture, found.options, found.layers, found.crop, found.coverage):
        raise ConfigError(
            f"the model in {folder} is another one than train.architecture, preset, options, layers, crop and coverage "
            f"say ({found.architecture} at coverage {found.coverage:g}); leave train.architecture empty to train it on "
            "as it is, or give another folder"
        )
