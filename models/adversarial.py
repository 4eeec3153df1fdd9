"""Networks that learn beside the model, against it: one tells its pictures from real ones, one its codes by person.

In each step `terms` says what the model pays for being seen through; once its weights have followed, `learn` teaches
the adversaries with the same, detached, pictures and codes. `learn` changes weights in place, so the gradient of
`terms` must have been taken before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.autoencoder import Autoencoder, Decoded
from models.discriminators import CodeDiscriminator, PatchDiscriminator
from models.train import draws, recipe
from models.train.batch import Batch
from models.train.losses import toward
from models.train.objective import widened
from pipeline.errors import ConfigError, WeightsError

_BETAS = (0.5, 0.999)  # of Adam, as of nearly every adversary since Radford et al. 2016, arXiv:1511.06434
_SURE = 0.9  # how sure of a real picture a discriminator is to be (Salimans et al. 2016, arXiv:1606.03498)
_STEEPNESS = 0.1  # what the squared slope of a verdict on codes costs

#: Makes the weights' gradients the same in all processes of a training on several GPUs.
Share = Callable[[Sequence[Tensor]], object]


class _Step(NamedTuple):
    """What a step has made: by person."""

    decoded: Mapping[str, Decoded]
    codes: Mapping[str, Tensor]
    batches: Mapping[str, Batch]


class _Adversary:
    """A network with an optimiser of its own. `costs` and `error` are the two sides of the contest."""

    def __init__(self, network: nn.Module, people: Sequence[str], lr: float) -> None:
        self.network = network.requires_grad_(False).eval()
        self.people = {person: place for place, person in enumerate(people)}
        self.optimiser = torch.optim.Adam(network.parameters(), lr, _BETAS)

    def costs(self, step: _Step) -> dict[str, Tensor]:
        """What the model pays, by person: scalars."""
        raise NotImplementedError

    def error(self, step: _Step) -> Tensor:
        """How wrong the adversary is, a scalar; of detached tensors."""
        raise NotImplementedError

    def _places(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """(N,) int64: whose each row of the tensors is, by place in `people`."""
        rows = [torch.full((len(x),), self.people[person], device=x.device) for person, x in tensors.items()]
        return torch.cat(rows)

    def learn(self, step: _Step, share: Share | None) -> Tensor:
        """One step of the adversary; its error before."""
        self.network.requires_grad_(True).train()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.enable_grad():
            error = self.error(step)
            error.backward()
        if share is not None:
            share(list(self.network.parameters()))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.network.requires_grad_(False).eval()
        return error.detach()

    def state(self) -> dict[str, Tensor]:
        """Weights, buffers and the optimiser's moments, by name, on the network's device; copies."""
        state = {f"network.{name}": value.detach().clone() for name, value in self.network.state_dict().items()}
        for name, weight in self.network.named_parameters():
            for key, value in self.optimiser.state.get(weight, {}).items():
                state[f"adam.{name}.{key}"] = value.detach().clone()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The way back. KeyError or RuntimeError where the state is another network's."""
        kept = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
        learned = len(kept) < len(state)
        moments: dict[Tensor, dict[str, Tensor]] = {
            weight: {
                "step": state[f"adam.{name}.step"].detach().clone().cpu().reshape(()),
                "exp_avg": _like(weight, state[f"adam.{name}.exp_avg"]),
                "exp_avg_sq": _like(weight, state[f"adam.{name}.exp_avg_sq"]),
            }
            for name, weight in self.network.named_parameters()
            if learned
        }
        self.network.load_state_dict(kept)
        self.optimiser.state.clear()
        self.optimiser.state.update(moments)

    def to(self, device: torch.device) -> None:
        self.network.to(device)
        for moments in self.optimiser.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                moments[key] = moments[key].to(device)


def _like(weight: Tensor, moment: Tensor) -> Tensor:
    """A copy on the weight's device, in its layout. RuntimeError where the shape is another."""
    if moment.shape != weight.shape:
        raise RuntimeError(f"a weight of shape {tuple(weight.shape)} has a moment of shape {tuple(moment.shape)}")
    return torch.empty_like(weight, requires_grad=False).copy_(moment)


class _Pictures(_Adversary):
    """Tells decoded pictures from their targets. Away from the face it sees only what the recipe's losses see."""

    network: PatchDiscriminator

    def __init__(self, network: nn.Module, people: Sequence[str], lr: float, background: float) -> None:
        super().__init__(network, people, lr)
        self._background = background

    def costs(self, step: _Step) -> dict[str, Tensor]:
        """Softplus of minus the logits: 0.69 where it cannot tell (Goodfellow et al. 2014, arXiv:1406.2661)."""
        verdicts = self.network(self._made(step), self._whose(step))
        counts = [len(batch) for batch in step.batches.values()]
        pieces = zip(*(F.softplus(-verdict).split(counts) for verdict in verdicts), strict=True)
        return {
            person: (patches.mean() + places.mean()) / 2
            for person, (patches, places) in zip(step.batches, pieces, strict=True)
        }

    def error(self, step: _Step) -> Tensor:
        real = torch.cat([batch.target for batch in step.batches.values()])
        whose = self._whose(step)
        verdicts = self.network(torch.cat((real, self._made(step))), whose.repeat(2))
        errors = []
        for verdict in verdicts:
            wanted = torch.zeros_like(verdict)
            wanted[: len(real)] = _SURE
            errors.append(F.binary_cross_entropy_with_logits(verdict, wanted))
        return torch.stack(errors).mean()

    def _made(self, step: _Step) -> Tensor:
        made = []
        for person, batch in step.batches.items():
            face = self._background + (1 - self._background) * widened(batch.mask)
            made.append(toward(step.decoded[person].picture.float(), batch.target, face))
        return torch.cat(made)

    def _whose(self, step: _Step) -> Tensor:
        return self._places({person: batch.target for person, batch in step.batches.items()})


class _Codes(_Adversary):
    """Tells people by their codes."""

    network: CodeDiscriminator

    def costs(self, step: _Step) -> dict[str, Tensor]:
        """How far its verdict is from knowing nothing: the relative entropy of equal chances to it, 0 or more.

        Tzeng et al. 2015, "Simultaneous deep transfer across domains and tasks", https://arxiv.org/abs/1510.02192.
        Unlike the opposite of its own error, this has its least value where it is clueless, not where it is wrong.
        """
        chances = self.network(_joined(step.codes)).log_softmax(1)
        entropies = -chances.mean(1) - math.log(len(self.people))
        pieces = entropies.split([len(code) for code in step.codes.values()])
        return {person: piece.mean() for person, piece in zip(step.codes, pieces, strict=True)}

    def error(self, step: _Step) -> Tensor:
        """Cross-entropy, and what keeps the contest from going in circles: the squared slope of the right verdict.

        Mescheder et al. 2018, "Which training methods for GANs do actually converge?",
        https://arxiv.org/abs/1801.04406. The slope is taken per length of a code, so that codes of any shape and
        size are alike to it.
        """
        codes = _joined(step.codes).requires_grad_()
        whose = self._places(step.codes)
        logits = self.network(codes)
        right = logits.gather(1, whose[:, None]).sum()
        (slope,) = torch.autograd.grad(right, codes, create_graph=True)
        lengths = codes.detach().flatten(1).square().sum(1).mean()
        steepness = lengths * slope.flatten(1).square().sum(1).mean()
        return F.cross_entropy(logits, whose) + _STEEPNESS / 2 * steepness


def _joined(codes: Mapping[str, Tensor]) -> Tensor:
    return torch.cat(list(codes.values())).float()


class Adversaries:
    """The adversaries that a recipe asks for; none where both powers are 0.

    Their first weights depend on nothing but `seed`.

    Raises:
        ConfigError: `train.losses.true_face` for a model whose codes are no faces, or for a single person.
    """

    def __init__(
        self,
        config: recipe.Losses,
        lr: float,
        model: Autoencoder,
        code_shape: Sequence[int],
        output_size: int,
        *,
        seed: int,
    ) -> None:
        self._multiple = config.adversary_lr
        self._powers: dict[str, float] = {}
        self._adversaries: dict[str, _Adversary] = {}
        people, lr = model.people, lr * config.adversary_lr
        if config.gan:
            with _drawing(seed, "gan"):
                patches = PatchDiscriminator(output_size, len(people))
            self._add("gan", config.gan, _Pictures(patches, people, lr, config.background))
        if config.true_face:
            if not model.code_is_a_face:
                raise ConfigError(
                    "train.losses.true_face compares people's codes, which this architecture hands on through layers "
                    "of each person's own; set it to 0 or choose another architecture"
                )
            if len(people) < 2:
                raise ConfigError("train.losses.true_face compares people's codes and needs two of them; set it to 0")
            with _drawing(seed, "true_face"):
                codes = CodeDiscriminator(code_shape, len(people))
            self._add("true_face", config.true_face, _Codes(codes, people, lr))

    def _add(self, name: str, power: float, adversary: _Adversary) -> None:
        self._powers[name] = power
        self._adversaries[name] = adversary

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._adversaries)

    def terms(
        self, decoded: Mapping[str, Decoded], codes: Mapping[str, Tensor], batches: Mapping[str, Batch]
    ) -> dict[str, dict[str, Tensor]]:
        """What the model pays, by person and then by name: weighted float32 scalars, "gan" and "true_face".

        All three go by the same people, any of the model's. The adversaries' weights get no gradient.
        """
        terms: dict[str, dict[str, Tensor]] = {person: {} for person in batches}
        step = _Step(decoded, codes, batches)
        with _uncast(codes):
            for name, adversary in self._adversaries.items():
                for person, cost in adversary.costs(step).items():
                    terms[person][name] = self._powers[name] * cost
        return terms

    def learn(
        self,
        decoded: Mapping[str, Decoded],
        codes: Mapping[str, Tensor],
        batches: Mapping[str, Batch],
        share: Share | None = None,
    ) -> dict[str, Tensor]:
        """One step of each adversary; what its error was before, by name, float32 scalars.

        To be called after the gradient of `terms` has been taken, and with all people at once, even if the model
        learns from one after the other: an adversary that sees a single person's codes would call everybody that.

        Args:
            share: makes the gradients of the weights it is given the same in all processes, where there are several.
        """
        pictures = {person: Decoded(tuple(p.detach() for p in d.pictures)) for person, d in decoded.items()}
        step = _Step(pictures, {person: code.detach() for person, code in codes.items()}, batches)
        with _uncast(codes):
            return {name: adversary.learn(step, share) for name, adversary in self._adversaries.items()}

    def set_learning_rate(self, lr: float) -> None:
        """The model's step size is `lr` from now on, so theirs is `adversary_lr` times that."""
        for adversary in self._adversaries.values():
            for group in adversary.optimiser.param_groups:
                group["lr"] = lr * self._multiple

    def to(self, device: torch.device) -> Adversaries:
        """Moves them to the device."""
        for adversary in self._adversaries.values():
            adversary.to(device)
        return self

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs, by name; copies, contiguous."""
        return {
            f"{name}.{key}": value.contiguous()
            for name, adversary in self._adversaries.items()
            for key, value in adversary.state().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a state. One who is not in it starts afresh, and one in it who is not wanted is passed over.

        Raises:
            WeightsError: the state is of another model.
        """
        for name, adversary in self._adversaries.items():
            kept = {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
            if not kept:
                continue
            try:
                adversary.restore(kept)
            except (KeyError, RuntimeError) as error:
                raise WeightsError(
                    f"the saved adversary of train.losses.{name} is of another model or damaged; "
                    f"set train.losses.{name} to 0 to train without it"
                ) from error


@contextmanager
def _drawing(seed: int, name: str) -> Iterator[None]:
    """Within it, the CPU's global generator draws what `seed` and `name` say; after it, what it would have drawn."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(draws.seed_of(seed, "adversary", name))
        yield


def _uncast(codes: Mapping[str, Tensor]) -> AbstractContextManager[object]:
    """Within it, everything is computed in float32, whatever autocast says."""
    device = next(iter(codes.values())).device
    return torch.autocast(device.type, enabled=False)
