"""One step: batches in, weights moved. What it takes in memory, precision and devices is settled here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.adversarial import Adversaries
from models.autoencoder import Autoencoder, Decoded
from models.blocks import set_checkpointing
from models.train import draws, recipe
from models.train.batch import Batch
from models.train.objective import Objective
from models.train.optimisers import Descent
from models.train.style import style_loss
from models.train.world import World
from pipeline.errors import RequirementError, WeightsError

Terms = dict[str, dict[str, Tensor]]

_LEAST_SCALE = 2.0**-10  # of the loss in fp16; it starts at 2^16, and each overflow halves it

#: What errors say that have no class of their own: the CPU's, and libraries' that allocate past torch.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


class Diverged(Exception):  # noqa: N818  # what happened, as the log puts it; the session decides whether it is an error
    """A loss or a gradient is no number any more, or a loss has left all bounds."""


class Stopped(Exception):  # noqa: N818  # no error: somebody asked for it
    """The step was given up because an end was asked for; no weight has moved."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a step came to.

    Attributes:
        loss: of each person who was drawn.
        terms: the parts it is made of, still on the device.
    """

    loss: dict[str, float]
    terms: Terms = field(repr=False)


class Learner:
    """Moves a model's weights. Made when the model is on its device and frozen as it shall be.

    Attributes:
        parts: in how many parts a step's faces go through the network; grows where memory is short.
    """

    def __init__(
        self,
        model: Autoencoder,
        sizes: tuple[int, int],
        config: recipe.Config,
        dtype: torch.dtype,
        world: World,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`sizes` are px of the input and the output; `dtype` the activations'; `stop` is asked within a step too."""
        self._model = model
        self._config = config
        self._dtype = dtype
        self._world = world
        self._sizes = sizes
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._device = self._weights[0].device
        set_checkpointing(model, config.memory.checkpointing)
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self._descent = Descent(trained, config.optimiser, config.memory.optimiser_on_cpu)
        self._objective = Objective(config.losses)
        self._adversaries = _adversaries(model, sizes, config, self._device)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=dtype == torch.float16)
        self._forward: Any = torch.compile(model) if config.memory.compile else model
        self.parts = config.optimiser.accumulate
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        # Several processes agree on an end between steps: one that gave up alone would leave the others waiting.
        if self._device.type == "cpu" and world.size == 1 and not config.memory.compile:
            _ask_within(model, stop)

    def learn(self, batches: Mapping[str, Batch], rate: float, step: int, seed: int) -> Costs:
        """One step of the optimiser.

        Raises:
            Diverged: a loss or the gradient is no number; the weights may be none any more either.
            Stopped: an end was asked for; nothing has changed.
            RequirementError: not even one face of each person fits into memory, or not what the optimiser remembers.
        """
        terms = self._fitted(batches, draws.seed_of(seed, step, self._world.rank, "dropout"))
        try:
            return self._follow(terms, batches, rate, draws.generator(seed, step, "lr_dropout"))
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            # Activations are gone by now, so fewer faces at a time would not help; and some weights may have moved.
            raise RequirementError(
                f"{self._device} has not enough free memory for the optimiser; choose a smaller model, or "
                "train.memory.optimiser_on_cpu"
            ) from error

    def _fitted(self, batches: Mapping[str, Batch], seed: int) -> Terms:
        """The gradient, of as many faces at a time as memory has room for."""
        while True:
            try:
                with self._unchanged_buffers():
                    return self._gradients(batches, seed)
            except RuntimeError as error:  # of which torch.OutOfMemoryError is one; the CPU's has no class of its own
                if not _is_out_of_memory(error):
                    raise
                most = max(len(batch) for batch in batches.values())
                if self.parts >= most:
                    raise RequirementError(
                        f"{self._device} has not enough free memory for one face of each person; choose a smaller "
                        "model, or train.memory.checkpointing"
                    ) from error
            self.parts = min(2 * self.parts, most)
            self._seen = {}
            self._descent.zero_grad()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _gradients(self, batches: Mapping[str, Batch], seed: int) -> Terms:
        torch.manual_seed(seed)
        self._descent.zero_grad()
        self._seen = {person: [] for person in batches} if self._adversaries is not None else {}
        summed: Terms = {person: {} for person in batches}
        count = min(self.parts, *(len(batch) for batch in batches.values()))
        for row in zip(*(batch.parts(count) for batch in batches.values()), strict=True):
            piece = dict(zip(batches, row, strict=True))
            groups = [{p: part} for p, part in piece.items()] if self._config.memory.one_person else [piece]
            for group in groups:
                shares = {person: len(part) / len(batches[person]) for person, part in group.items()}
                for person, terms in self._backward(group, piece, shares).items():
                    for name, term in terms.items():
                        summed[person][name] = summed[person][name] + term if name in summed[person] else term
        return summed

    def _backward(self, group: Mapping[str, Batch], piece: Mapping[str, Batch], shares: Mapping[str, float]) -> Terms:
        """Adds the gradient of some of a step's faces, who are such a share of all."""
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            decoded, codes = self._forward({person: batch.input for person, batch in group.items()})
            styled = self._styled(codes, piece)
        terms: Terms = {person: self._objective(decoded[person], batch) for person, batch in group.items()}
        if self._adversaries is not None:
            for person, added in self._adversaries.terms(decoded, codes, group).items():
                terms[person] |= added
            for person, faces in decoded.items():
                self._seen[person].append((faces.picture.detach(), codes[person].detach()))
        for person, style in styled.items():
            terms[person]["style"] = self._config.losses.style * style
        terms = {p: {name: term * shares[p] for name, term in of.items()} for p, of in terms.items()}
        cost = _sum(terms)
        if cost.requires_grad:  # nothing is to be learned from people all of whose parts are frozen
            self._scaler.scale(cost).backward()
        return {person: {name: term.detach() for name, term in of.items()} for person, of in terms.items()}

    def _styled(self, codes: Mapping[str, Tensor], piece: Mapping[str, Batch]) -> dict[str, Tensor]:
        """Each person as the next one: what the textures cost, under the name of whose face was swapped."""
        if not self._config.losses.style:
            return {}
        people = list(piece)
        costs: dict[str, Tensor] = {}
        for person, code in codes.items():
            to = people[(people.index(person) + 1) % len(people)]
            swapped = self._model.decode(code.detach(), to).picture
            costs[person] = style_loss(swapped, piece[person].mask, piece[to].target, piece[to].mask)
        return costs

    def _follow(self, terms: Terms, batches: Mapping[str, Batch], rate: float, generator: torch.Generator) -> Costs:
        self._world.average_gradients(self._weights)
        if self._scaler.is_enabled() and any(weight.grad is not None for weight in self._weights):
            self._scaler.unscale_(self._descent)  # type: ignore[arg-type]
            self._scaler.step(self._descent, rate, generator)  # type: ignore[arg-type]
            self._scaler.update()
            if self._scaler.get_scale() < _LEAST_SCALE:
                raise Diverged("the gradient is no number, however small the loss is made")
        else:
            self._descent.step(rate, generator)
        against = self._teach_adversaries(batches, rate)
        totals = torch.stack([*(_sum({person: of}) for person, of in terms.items()), against])
        # The one place where the step waits for the device.
        *losses, error, norm = torch.cat((self._world.mean(totals), self._descent.norm.reshape(1).float())).tolist()
        for person, loss in zip(terms, losses, strict=True):
            if not abs(loss) < float("inf"):
                raise Diverged(f"the loss of {person} is {loss}")
        if not (self._scaler.is_enabled() or abs(norm) < float("inf")):
            raise Diverged(f"the gradient's norm is {norm}")
        if not abs(error) < float("inf"):
            raise Diverged(f"the adversaries' error is {error}")
        return Costs(dict(zip(terms, losses, strict=True)), terms)

    def _teach_adversaries(self, batches: Mapping[str, Batch], rate: float) -> Tensor:
        """Their own step, by what the model has just made of all of the step's faces; gives their error."""
        if self._adversaries is None:
            return torch.zeros((), device=self._device)
        rows = {person: list(zip(*parts, strict=True)) for person, parts in self._seen.items()}
        decoded = {person: Decoded((torch.cat(pictures),)) for person, (pictures, _) in rows.items()}
        codes = {person: torch.cat(parts) for person, (_, parts) in rows.items()}
        self._adversaries.set_learning_rate(rate)
        errors = self._adversaries.learn(decoded, codes, batches, share=self._world.average_gradients)
        self._seen = {}
        return torch.stack(list(errors.values())).sum()

    @contextmanager
    def _unchanged_buffers(self) -> Iterator[None]:
        """Puts running statistics back where a step is given up."""
        before = [buffer.clone() for buffer in self._model.buffers()]
        try:
            yield
        except (Stopped, RuntimeError):
            for buffer, old in zip(self._model.buffers(), before, strict=True):
                buffer.copy_(old)
            raise

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What a resumed training needs beside the weights: tensors, and facts about them."""
        state = {f"optimiser.{name}": value for name, value in self._descent.state().items()}
        if self._adversaries is not None:
            state |= {f"adversaries.{name}": value for name, value in self._adversaries.state().items()}
        facts = {"optimiser": self._config.optimiser.name, "scaler": json.dumps(self._scaler.state_dict())}
        return state, facts

    def restore(self, state: Mapping[str, Tensor], facts: Mapping[str, str]) -> tuple[str, ...]:
        """Goes on where `state` was taken; gives notes for people. Raises WeightsError where it is another model's.

        What is not in `state` begins anew: after a breakdown, nothing of what broke may stay.
        """
        notes: list[str] = []
        trained = {name for name, weight in self._model.named_parameters() if weight.requires_grad}
        kept: dict[str, Tensor] = {}
        if facts.get("optimiser") in _same_state(self._config.optimiser.name):
            kept = {k: v for k, v in _below(state, "optimiser.").items() if k.rpartition(".")[0] in trained}
        else:
            notes.append(f"the optimiser begins anew: it was {facts.get('optimiser')}")
        self._descent.restore({f"{name}.step": torch.zeros(()) for name in trained} | kept)
        self._adversaries = _adversaries(self._model, self._sizes, self._config, self._device)
        if self._adversaries is not None:
            self._adversaries.restore(_below(state, "adversaries."))
        if self._scaler.is_enabled() and (scaler := _scaling(facts.get("scaler", "{}"))):
            self._scaler.load_state_dict(self._scaler.state_dict() | scaler)
        return tuple(notes)


def _adversaries(
    model: Autoencoder, sizes: tuple[int, int], config: recipe.Config, device: torch.device
) -> Adversaries | None:
    if not (config.losses.gan or config.losses.true_face):
        return None
    was = model.training
    with torch.no_grad():
        code = model.eval().encode(torch.zeros(1, 3, sizes[0], sizes[0], device=device))
    model.train(was)
    made = Adversaries(config.losses, config.optimiser.lr, model, code.shape[1:], sizes[1], seed=config.seed)
    return made.to(device)


def _same_state(optimiser: str) -> tuple[str, ...]:
    """The optimisers whose state it can go on with."""
    return ("adam", "adamw") if optimiser in ("adam", "adamw") else (optimiser,)


def _scaling(text: str) -> dict[str, float]:
    """How far losses were scaled up, and for how many steps that has gone well; nothing where they were not."""
    try:
        said = json.loads(text)
        scale, well = (float(said[name]) for name in ("scale", "_growth_tracker")) if said else (1.0, 0.0)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise WeightsError("the state holds no scale of the loss; restore an earlier model") from error
    if not (0 < scale < math.inf and 0 <= well < 2**31):
        raise WeightsError(f"the state's scale of the loss is {scale:g}, for {well:g} steps; restore an earlier model")
    return {"scale": scale, "_growth_tracker": int(well)} if said else {}


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _sum(terms: Terms) -> Tensor:
    return torch.stack([term for of in terms.values() for term in of.values()]).sum()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _ask_within(model: nn.Module, stop: Callable[[], bool]) -> None:
    """Asks before every layer, there and back: on a CPU, a step of a large model takes longer than a stop may.

    Only of a model that trains: once it has been stopped, preview sheets are still drawn.
    """

    def ask(module: nn.Module, given: object) -> None:
        if module.training and stop():
            raise Stopped

    def ask_back(gradient: object) -> None:
        if stop():
            raise Stopped

    def ask_on_the_way_back(module: nn.Module, given: object, result: object) -> None:
        if isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(ask_back)

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_pre_hook(ask)
            layer.register_forward_hook(ask_on_the_way_back)
