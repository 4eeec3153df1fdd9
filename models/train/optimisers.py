"""How the weights follow the gradient: the algorithms, and what is the same around each of them.

A network's weights are gone through in parts of some tens of MiB, each with an optimiser of its own: what a step needs
beside the weights (copies of those that a dropout leaves alone, the temporaries of torch's fused loops) is then that of
one part, not a second network. Every algorithm works number by number, so the parts change nothing of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from models.train import recipe
from pipeline.errors import WeightsError

_PART_BYTES = 64 * 2**20


class _Foreach(torch.optim.Optimizer):
    """The frame of our own algorithms: every weight counts its own steps, one call of torch does many weights."""

    zeros: tuple[str, ...]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every weight that has a gradient."""
        for group in self.param_groups:
            followed = [(weight, weight.grad) for weight in group["params"] if weight.grad is not None]
            for weight, _ in followed:
                if not self.state[weight]:
                    self.state[weight] = {"step": torch.zeros(())} | {k: torch.zeros_like(weight) for k in self.zeros}
                self.state[weight]["step"] += 1
            if followed:
                self.update([weight for weight, _ in followed], [gradient for _, gradient in followed], group)

    def update(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """The algorithm: changes `weights` and their state."""
        raise NotImplementedError

    def gathered(self, weights: list[Tensor], key: str) -> list[Tensor]:
        """What is remembered of each of the weights under `key`: the tensors themselves."""
        return [self.state[weight][key] for weight in weights]


class AdaBelief(_Foreach):
    """Adam whose step is long where the gradient is as expected, not where it is small.

    Zhuang et al. 2020, "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients",
    https://arxiv.org/abs/2010.07468, algorithm 2; weight decay is decoupled, as in AdamW. The paper adds its eps to the
    variance at every step, where it piles up to eps / (1 - beta2): Adam's 1e-7 would outweigh any gradient. So that eps
    means the same everywhere, namely what the root of the variance doesn't fall below, (1 - beta2) eps^2 is added here:
    1e-17 by default; the paper recommends 1e-16.
    pytorch_optimizer's has one count of steps for all weights: the decoder of a person who was not drawn would have its
    moments corrected for steps that it never took.
    """

    zeros = ("exp_avg", "exp_avg_var")

    def update(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Mean and variance of the gradients, corrected for their start at zero; then a step along the mean."""
        (beta1, beta2), eps, rate = group["betas"], group["eps"], group["lr"]
        steps = [step.item() for step in self.gathered(weights, "step")]
        mean, variance = self.gathered(weights, "exp_avg"), self.gathered(weights, "exp_avg_var")
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_lerp_(mean, gradients, 1 - beta1)
        surprise = torch._foreach_sub(gradients, mean)
        torch._foreach_mul_(variance, beta2)
        torch._foreach_addcmul_(variance, surprise, surprise, 1 - beta2)
        torch._foreach_add_(variance, (1 - beta2) * eps**2)
        del surprise
        root = torch._foreach_div(variance, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, eps)
        torch._foreach_addcdiv_(weights, mean, root, [-rate / (1 - beta1**step) for step in steps])


class Lion(_Foreach):
    """Steps of one length, up or down, by a vote of gradient and momentum; it wants a rate three to ten times lower.

    Chen et al. 2023, "Symbolic discovery of optimization algorithms", https://arxiv.org/abs/2302.06675, algorithm 2.
    """

    zeros = ("exp_avg",)

    def update(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """The vote first, with the momentum as it was; the momentum takes up the gradient after it."""
        (beta1, beta2), rate = group["betas"], group["lr"]
        momentum = self.gathered(weights, "exp_avg")
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        vote = torch._foreach_lerp(momentum, gradients, 1 - beta1)
        torch._foreach_sign_(vote)
        torch._foreach_add_(weights, vote, alpha=-rate)
        torch._foreach_lerp_(momentum, gradients, 1 - beta2)


@dataclass(frozen=True, slots=True)
class _Algorithm:
    """How an algorithm is made, and what it remembers of each weight beside the count of its steps.

    Attributes:
        make: from weights, settings and whether torch's fused loop can be used.
        moments: as large as the weight; scalars: single numbers.
    """

    make: Callable[[Sequence[nn.Parameter], recipe.Optimiser, bool], torch.optim.Optimizer]
    moments: tuple[str, ...]
    scalars: tuple[str, ...] = ("step",)
    fused: bool = False


def _betas(config: recipe.Optimiser) -> dict[str, Any]:
    return {"lr": config.lr, "betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay}


def _adam(weights: Sequence[nn.Parameter], config: recipe.Optimiser, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.Adam(weights, **_betas(config), eps=config.eps, fused=fused)


def _adamw(weights: Sequence[nn.Parameter], config: recipe.Optimiser, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, **_betas(config), eps=config.eps, fused=fused)


def _nadam(weights: Sequence[nn.Parameter], config: recipe.Optimiser, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.NAdam(weights, **_betas(config), eps=config.eps)


def _rmsprop(weights: Sequence[nn.Parameter], config: recipe.Optimiser, fused: bool) -> torch.optim.Optimizer:
    """The memory of the squares is beta2; there is no momentum."""
    return torch.optim.RMSprop(weights, config.lr, config.beta2, config.eps, config.weight_decay)


def _adabelief(weights: Sequence[nn.Parameter], config: recipe.Optimiser, fused: bool) -> torch.optim.Optimizer:
    return AdaBelief(weights, _betas(config) | {"eps": config.eps})


def _lion(weights: Sequence[nn.Parameter], config: recipe.Optimiser, fused: bool) -> torch.optim.Optimizer:
    return Lion(weights, _betas(config))


_ALGORITHMS = {
    "adabelief": _Algorithm(_adabelief, AdaBelief.zeros),
    "adam": _Algorithm(_adam, ("exp_avg", "exp_avg_sq"), fused=True),
    "adamw": _Algorithm(_adamw, ("exp_avg", "exp_avg_sq"), fused=True),
    "lion": _Algorithm(_lion, Lion.zeros),
    "nadam": _Algorithm(_nadam, ("exp_avg", "exp_avg_sq"), ("step", "mu_product")),
    "rmsprop": _Algorithm(_rmsprop, ("square_avg",)),
}


class _Part:
    """Some of the weights, and the optimiser that moves them.

    Attributes:
        weights: the model's own, by name.
        moved: what the optimiser moves: the weights themselves, or their twins in the computer's memory.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], config: recipe.Optimiser, algorithm: _Algorithm, on_cpu: bool
    ) -> None:
        self.weights = dict(weights)
        self.twins = on_cpu
        self.moved = {name: _twin(weight) for name, weight in weights.items()} if on_cpu else self.weights
        moved = list(self.moved.values())
        # The fused loops go through weight, gradient and moments as they lie in memory: there must be no gaps.
        self.fused = algorithm.fused and all(_dense(weight) for weight in moved)
        self.optimiser = algorithm.make(moved, config, self.fused)
        self.scalars = algorithm.scalars

    def lay_out(self) -> None:
        """Gradients in their weights' own layout, as the fused loops expect them."""
        for weight in self.weights.values():
            if weight.grad is not None and weight.grad.stride() != weight.stride():
                weight.grad = torch.empty_like(weight, requires_grad=False).copy_(weight.grad)

    def fetch(self) -> None:
        """Weights and gradients to the twins. On CUDA it is only begun: wait for the stream before they are read."""
        for name, weight in self.weights.items():
            twin = self.moved[name]
            if weight.grad is None:
                twin.grad = None
                continue
            twin.grad = _beside(weight).copy_(weight.grad, non_blocking=True)
            twin.copy_(weight, non_blocking=True)

    def step(self, rate: float, share: float, dice: torch.Generator, seeds: Mapping[str, int]) -> None:
        """One step, of which only a share of each weight's numbers is kept."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        followed = {name: weight for name, weight in self.moved.items() if weight.grad is not None}
        before = {name: weight.clone() for name, weight in followed.items()} if share < 1 else {}
        self.optimiser.step()
        for name, old in before.items():
            weight, dice = followed[name], dice.manual_seed(seeds[name])
            thrown = torch.empty(old.shape, dtype=torch.int32, device=old.device).random_(generator=dice)  # 0..2^31-1
            torch.where(thrown < int(share * 2**31), weight, old, out=weight)
        if self.twins:
            for name, weight in followed.items():
                self.weights[name].copy_(weight, non_blocking=True)
                weight.grad = None

    def remember(self, weight: nn.Parameter, values: Mapping[str, Tensor]) -> None:
        """Copies of `values` in place of what the optimiser remembers of one of `moved`."""
        self.optimiser.state.pop(weight, None)
        if not values["step"].item():
            return
        # torch keeps counts in the computer's memory, but for the fused loops, which read them where the weights are.
        counts = weight.device if self.fused else torch.device("cpu")
        self.optimiser.state[weight] = {
            key: value.to(counts, copy=True) if key in self.scalars else _like(weight, value)
            for key, value in values.items()
        }


class Descent:
    """Takes a model's weights down the gradient, step by step.

    Weights without a gradient (frozen, or of people who were not drawn) stay as they are, and so does what is
    remembered of them. Build it when the model is on its device and in its memory format; afterwards load weights in
    place.
    It has the `param_groups` that `torch.amp.GradScaler` looks for: `scaler.unscale_(descent)`, then
    `scaler.step(descent, rate, generator)`.

    Attributes:
        norm: () float32, of all gradients together at the last step, before they were clipped; on the weights' device.
    """

    def __init__(
        self, named_parameters: Iterable[tuple[str, nn.Parameter]], config: recipe.Optimiser, on_cpu: bool = False
    ) -> None:
        """`on_cpu` keeps the moments, and does the arithmetic, in the computer's memory; the result is the same.

        The weights are copied there at every step, not only their gradients, so that they may be changed in between.
        """
        weights = dict(named_parameters)
        self._config = config
        self._algorithm = _ALGORITHMS[config.name]
        self._names = tuple(weights)
        self._parts = [_Part(part, config, self._algorithm, on_cpu) for part in _parted(weights)]
        self._device = next((weight.device for weight in weights.values()), torch.device("cpu"))
        self._on_cpu = on_cpu
        self._dice = torch.Generator("cpu" if on_cpu else self._device)
        self.norm = torch.zeros((), device=self._device)

    @property
    def param_groups(self) -> list[dict[str, list[nn.Parameter]]]:
        """All weights, as torch's own optimisers show them."""
        return [{"params": [weight for part in self._parts for weight in part.weights.values()]}]

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for part in self._parts:
            for weight in part.weights.values():
                weight.grad = None

    @torch.no_grad()
    def step(self, rate: float, generator: torch.Generator | None = None) -> None:
        """Clips the gradients and moves the weights.

        Args:
            rate: the step size.
            generator: of the CPU; what `lr_dropout` below 1 draws from. One number of it is used for each weight,
                whether it has a gradient or not.
        """
        share = self._config.lr_dropout
        if share < 1 and generator is None:
            raise ValueError("learning-rate dropout needs a generator to draw from")
        seeds: dict[str, int] = {}
        if share < 1:
            drawn = torch.randint(2**62, (len(self._names),), generator=generator).tolist()
            seeds = dict(zip(self._names, drawn, strict=True))
        self._clip()
        if self._on_cpu:
            self._fetch()
        for part in self._parts:
            part.step(rate, share, self._dice, seeds)

    def _clip(self) -> None:
        for part in self._parts:
            part.lay_out()
        followed = [weight for part in self._parts for weight in part.weights.values() if weight.grad is not None]
        norm = get_total_norm([weight.grad for weight in followed if weight.grad is not None])
        self.norm = norm.to(self._device)  # of no gradients at all it is the CPU's
        if self._config.clip:
            clip_grads_with_norm_(followed, self._config.clip, self.norm)

    def _fetch(self) -> None:
        for part in self._parts:
            part.fetch()
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def state(self) -> dict[str, Tensor]:
        """What is remembered of each weight, as `<weight>.<key>`: the tensors themselves, no copies.

        "step" counts the weight's own steps; where it is 0 nothing else is remembered yet. Adam and AdamW can go on
        with each other's; no other two can.
        """
        state: dict[str, Tensor] = {}
        for part in self._parts:
            for name, weight in part.moved.items():
                remembered = part.optimiser.state.get(weight) or {"step": torch.zeros(())}
                state |= {f"{name}.{key}": value for key, value in remembered.items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where `state` was taken, to the bit. Nothing is changed where it doesn't fit.

        Raises:
            WeightsError: a weight is missing in it, unknown here, or was of another shape; or it is another
                algorithm's.
        """
        checked = {name: weight for part in self._parts for name, weight in part.weights.items()}
        known = {key for name, weight in checked.items() for key in self._keys(name, weight, state)}
        if unknown := sorted(set(state) - known):
            raise WeightsError(f"the optimiser's state holds {unknown[0]}, of which {self._config.name} knows nothing")
        for part in self._parts:
            for name, weight in part.moved.items():
                part.remember(weight, {key: state[f"{name}.{key}"] for key in self._kept(name, state)})

    def _kept(self, name: str, state: Mapping[str, Tensor]) -> tuple[str, ...]:
        """What is remembered of a weight that took so many steps."""
        return self._algorithm.scalars + self._algorithm.moments if state[f"{name}.step"].item() else ("step",)

    def _keys(self, name: str, weight: Tensor, state: Mapping[str, Tensor]) -> Iterator[str]:
        """The keys of one weight's state, checked."""
        shapes = dict.fromkeys(self._algorithm.moments, weight.shape)
        _check(f"{name}.step", state, torch.Size())
        step = state[f"{name}.step"].item()
        if not (step >= 0 and step == step // 1):
            raise WeightsError(f"the optimiser's state {name}.step must be a count of steps, not {step:g}")
        for key in self._kept(name, state):
            _check(f"{name}.{key}", state, shapes.get(key, torch.Size()))
            yield f"{name}.{key}"


def _check(key: str, state: Mapping[str, Tensor], shape: torch.Size) -> None:
    if key not in state:
        raise WeightsError(f"the optimiser's state lacks {key}; it belongs to another model or optimiser")
    found = state[key]
    if found.shape != shape or found.dtype != torch.float32:
        raise WeightsError(
            f"the optimiser's state {key} must be {tuple(shape)} float32, not {tuple(found.shape)} "
            f"{str(found.dtype).removeprefix('torch.')}; it belongs to another model"
        )


def _like(weight: Tensor, value: Tensor) -> Tensor:
    """A copy of `value` that lies in memory as the weight does."""
    return torch.empty_like(weight, requires_grad=False).copy_(value)


def _parted(weights: Mapping[str, nn.Parameter]) -> Iterator[dict[str, nn.Parameter]]:
    """The weights in their order, in parts of at most some tens of MiB, or of one weight that is larger."""
    part: dict[str, nn.Parameter] = {}
    taken = 0
    for name, weight in weights.items():
        size = weight.numel() * weight.element_size()
        if part and taken + size > _PART_BYTES:
            yield part
            part, taken = {}, 0
        part[name] = weight
        taken += size
    if part:
        yield part


def _beside(weight: Tensor) -> Tensor:
    """Room for the weight in the computer's memory, in its own layout; pinned where a GPU copies from and to it."""
    return torch.empty_like(weight, device="cpu", requires_grad=False, pin_memory=weight.is_cuda)


def _twin(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(_beside(weight), requires_grad=weight.requires_grad)


def _dense(weight: Tensor) -> bool:
    return torch.empty_like(weight, device="meta").stride() == weight.stride()
