"""models.train.optimisers: every algorithm goes down, goes on to the bit, and keeps to its papers and its share."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.train import optimisers
from models.train.draws import generator
from models.train.optimisers import Descent
from models.train.recipe import OPTIMISERS, Optimiser
from pipeline.errors import WeightsError

RATE = 0.01


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that the networks below fall into several parts."""
    monkeypatch.setattr(optimisers, "_PART_BYTES", 600)


class Net(nn.Module):
    """A convolution (channels last), a person's layer each, a single number, and something frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 6, 3)
        self.a = nn.Linear(6, 5)
        self.b = nn.Linear(6, 5)
        self.gain = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(7), requires_grad=False)

    def forward(self, x: Tensor, person: str) -> Tensor:
        code = self.convolution(x).mean((2, 3)) * self.gain
        result: Tensor = {"a": self.a, "b": self.b}[person](code)
        return result


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def backward(model: Net, step: int, people: str = "ab") -> None:
    draw = generator(step, "test")
    for person in people:
        x, wanted = torch.randn(3, 4, 5, 5, generator=draw), torch.randn(3, 5, generator=draw)
        (model(x, person) - wanted).square().mean().backward()


def train(model: Net, descent: Descent, steps: range) -> None:
    for step in steps:
        descent.zero_grad()
        backward(model, step, "b" if step == 0 else "ab")  # a's layer is a step behind
        descent.step(RATE / (1 + step), generator(step, "dropout"))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def config(name: str, **changed: float) -> Optimiser:
    return replace(Optimiser(weight_decay=0.01), name=name, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_lowers_a_quadratic(name: str) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0, 0.5]))
    descent = Descent([("weight", weight)], replace(Optimiser(), name=name))  # type: ignore[arg-type]
    losses = []
    for step in range(400):
        descent.zero_grad()
        loss = (weight * torch.tensor([1.0, 2.0, 0.5])).square().sum()
        loss.backward()
        descent.step(0.03 * (1 - step / 400))
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 1000


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_goes_on_to_the_bit(name: str, share: float, on_cpu: bool) -> None:
    settings = config(name, lr_dropout=share, clip=0.5)
    unbroken = net()
    train(unbroken, descent := Descent(unbroken.named_parameters(), settings, on_cpu), range(6))

    first = net()
    train(first, before := Descent(first.named_parameters(), settings, on_cpu), range(3))
    kept = {key: value.clone(memory_format=torch.contiguous_format) for key, value in before.state().items()}
    resumed = copy.deepcopy(first)
    after = Descent(resumed.named_parameters(), settings, on_cpu)
    after.restore(kept)
    train(first, before, range(3, 6))  # what was kept is a copy's affair alone
    train(resumed, after, range(3, 6))

    assert same(unbroken, resumed) and same(unbroken, first)
    assert not same(unbroken, net())
    ends = descent.state(), after.state()
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    assert ends[0]["a.weight.step"] == 5 and ends[0]["b.weight.step"] == 6 and ends[0]["frozen.step"] == 0
    for key in ("exp_avg", "square_avg"):
        if f"convolution.weight.{key}" in ends[1]:
            assert ends[1][f"convolution.weight.{key}"].stride() == resumed.convolution.weight.stride()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_on_the_cpu_is_the_same(name: str) -> None:
    settings = config(name, lr_dropout=0.7, clip=0.2)
    plain, beside = net(), net()
    train(plain, Descent(plain.named_parameters(), settings), range(4))
    train(beside, Descent(beside.named_parameters(), settings, on_cpu=True), range(4))
    assert same(plain, beside)


@pytest.mark.parametrize("on_cpu", [False, True])
def test_weights_may_be_changed_between_steps(on_cpu: bool) -> None:
    model = net()
    descent = Descent(model.named_parameters(), config("adam"), on_cpu)
    train(model, descent, range(2))
    with torch.no_grad():
        model.a.weight.fill_(5.0)
    train(model, descent, range(2, 3))
    assert (model.a.weight - 5).abs().max() < 0.1


@pytest.mark.parametrize("name", OPTIMISERS)
def test_parts_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parted, whole = net(), net()
    train(parted, several := Descent(parted.named_parameters(), config(name, lr_dropout=0.5)), range(3))
    monkeypatch.setattr(optimisers, "_PART_BYTES", 2**30)
    train(whole, one := Descent(whole.named_parameters(), config(name, lr_dropout=0.5)), range(3))
    assert len(several._parts) > 2 and len(one._parts) == 1
    assert same(parted, whole)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_without_a_gradient_nothing_moves(name: str) -> None:
    model, settings = net(), config(name, lr_dropout=0.5)
    before = copy.deepcopy(model)
    descent = Descent(model.named_parameters(), settings)
    backward(model, 0, "a")
    descent.step(RATE, generator(0))
    assert torch.equal(model.b.weight, before.b.weight) and torch.equal(model.frozen, before.frozen)
    assert not torch.equal(model.a.weight, before.a.weight)
    descent.zero_grad()
    once = copy.deepcopy(model)
    descent.step(RATE, generator(1))
    assert same(model, once) and descent.norm == 0
    assert all(weight.grad is None for weight in model.parameters())


def test_dropout_changes_what_is_drawn_and_nothing_else() -> None:
    every, some = nn.Parameter(torch.zeros(100, 50)), nn.Parameter(torch.zeros(100, 50))
    other = nn.Parameter(torch.zeros(100, 50))
    steps = {1.0: Descent([("w", every)], config("adam")), 0.3: Descent([("w", some)], config("adam", lr_dropout=0.3))}
    again = Descent([("w", other)], config("adam", lr_dropout=0.3))
    gradient = torch.randn(100, 50, generator=generator("gradient"))
    for weight in (every, some, other):
        weight.grad = gradient.clone()
    for descent in steps.values():
        descent.step(RATE, generator(1))
    again.step(RATE, generator(2))
    changed = some != 0
    assert 0.27 < changed.float().mean() < 0.33
    assert torch.equal(some, torch.where(changed, every, 0.0))
    assert not torch.equal(changed, other != 0)  # drawn anew from another generator
    whole, part = steps[1.0].state(), steps[0.3].state()
    assert all(torch.equal(whole[key], part[key]) for key in whole)  # the moments see every gradient


def test_two_weights_of_a_step_draw_apart() -> None:
    weights = {name: nn.Parameter(torch.zeros(400)) for name in "ab"}
    descent = Descent(weights.items(), config("lion", lr_dropout=0.5))
    for weight in weights.values():
        weight.grad = torch.ones(400)
    descent.step(RATE, generator(1))
    assert not torch.equal(weights["a"], weights["b"])


def test_dropout_needs_a_generator() -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    with pytest.raises(ValueError, match="generator"):
        Descent([("w", weight)], config("adam", lr_dropout=0.3)).step(RATE)


def test_clips_all_gradients_together() -> None:
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    descent = Descent([("a", weights[0]), ("b", weights[1])], Optimiser(clip=1.0))
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    descent.step(RATE)
    assert descent.norm == 5
    assert torch.allclose(descent.state()["a.exp_avg"], torch.tensor([0.1 * 3 / 5, 0.0]), atol=1e-6)
    assert torch.allclose(descent.state()["b.exp_avg"], torch.tensor([0.1 * 4 / 5]), atol=1e-6)
    weights[0].grad, weights[1].grad = torch.tensor([0.3, 0.0]), torch.tensor([0.4])  # short ones stay
    descent.step(RATE)
    assert torch.allclose(descent.norm, torch.tensor(0.5))
    assert torch.allclose(weights[1].grad, torch.tensor([0.4]))


def reference(name: str, weight: list[float], gradients: list[list[float]], settings: Optimiser) -> list[float]:
    """AdaBelief's and Lion's formulas, number by number."""
    beta1, beta2, eps = settings.beta1, settings.beta2, settings.eps
    w, m, s = list(weight), [0.0] * len(weight), [0.0] * len(weight)
    for t, gradient in enumerate(gradients, 1):
        for i, g in enumerate(gradient):
            decayed = w[i] - RATE * settings.weight_decay * w[i]
            if name == "lion":
                vote = beta1 * m[i] + (1 - beta1) * g
                w[i] = decayed - RATE * (vote > 0) + RATE * (vote < 0)
                m[i] = beta2 * m[i] + (1 - beta2) * g
            else:
                m[i] = beta1 * m[i] + (1 - beta1) * g
                s[i] = beta2 * s[i] + (1 - beta2) * (g - m[i]) ** 2 + (1 - beta2) * eps**2
                mean, variance = m[i] / (1 - beta1**t), s[i] / (1 - beta2**t)
                w[i] = decayed - RATE * mean / (math.sqrt(variance) + eps)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adabelief", "lion"])
def test_agrees_with_the_paper(name: str, decay: float) -> None:
    settings = config(name, beta1=0.8, beta2=0.95, eps=1e-2)
    settings = replace(settings, weight_decay=decay)
    begun = torch.randn(6, generator=generator("weight"), dtype=torch.float64)
    gradients = torch.randn(9, 6, generator=generator("gradients"), dtype=torch.float64)
    weight = nn.Parameter(begun.clone())
    descent = Descent([("w", weight)], settings)
    for gradient in gradients:
        weight.grad = gradient.clone()
        descent.step(RATE)
    wanted = reference(name, begun.tolist(), gradients.tolist(), settings)
    assert weight.tolist() == pytest.approx(wanted, rel=1e-9)


def test_small_gradients_take_adabelief_as_far_as_large_ones() -> None:
    moved = []
    for size in (1.0, 1e-5):
        weight = nn.Parameter(torch.zeros(200))
        descent = Descent([("w", weight)], config("adabelief"))
        for step in range(20):
            weight.grad = size * torch.randn(200, generator=generator(step))
            descent.step(RATE)
        moved.append(weight.detach().clone())
    assert (moved[0] - moved[1]).abs().mean() < 0.05 * moved[0].abs().mean()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rate_beats_the_settings(name: str) -> None:
    weight = nn.Parameter(torch.ones(3))
    descent = Descent([("w", weight)], replace(Optimiser(lr=1.0), name=name))  # type: ignore[arg-type]
    weight.grad = torch.ones(3)
    descent.step(0.0)
    assert torch.equal(weight, torch.ones(3))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_layouts_are_kept_apart(name: str) -> None:
    """Weights with gaps in memory, transposed ones, and gradients that lie otherwise than their weights."""
    begun = torch.randn(4, 6, generator=generator("begun"))
    gapped, turned, plain = begun.repeat(1, 2)[:, ::2], begun.t().contiguous().t(), begun.clone()
    gapped.copy_(begun)
    weights = [nn.Parameter(weight) for weight in (gapped, turned, plain)]
    assert not weights[0].is_contiguous() and not weights[1].is_contiguous()
    descents = [Descent([("w", weight)], config(name)) for weight in weights]
    for step in range(3):
        gradient = torch.randn(4, 6, generator=generator(step))
        for weight, descent in zip(weights, descents, strict=True):
            weight.grad = gradient.clone()
            descent.step(RATE)
    assert torch.allclose(weights[0], weights[2]) and torch.allclose(weights[1], weights[2])


def spoil(state: dict[str, Tensor], key: str, value: Tensor | None) -> dict[str, Tensor]:
    spoilt = {k: v.clone() for k, v in state.items() if k != key}
    return spoilt if value is None else spoilt | {key: value}


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("a.weight.exp_avg", None, "lacks a.weight.exp_avg"),
        ("a.weight.step", None, "lacks a.weight.step"),
        ("frozen.step", None, "lacks frozen.step"),
        ("a.weight.exp_avg", torch.zeros(6, 5), r"a.weight.exp_avg must be \(5, 6\) float32, not \(6, 5\)"),
        ("a.weight.exp_avg", torch.zeros(5, 6, dtype=torch.float16), "float16"),
        ("a.weight.step", torch.zeros(3), "a.weight.step must be"),
        ("a.weight.step", torch.tensor(math.nan), "count of steps"),
        ("a.weight.step", torch.tensor(-1.0), "count of steps"),
        ("a.weight.step", torch.tensor(2.5), "count of steps"),
        ("a.weight.step", torch.tensor(math.inf), "count of steps"),
        ("stranger.step", torch.tensor(1.0), "holds stranger.step"),
    ],
)
def test_refuses_another_state(key: str, value: Tensor | None, said: str, on_cpu: bool) -> None:
    model = net()
    descent = Descent(model.named_parameters(), config("adam"), on_cpu)
    train(model, descent, range(2))
    kept = {k: v.clone() for k, v in descent.state().items()}
    with pytest.raises(WeightsError, match=said):
        descent.restore(spoil(kept, key, value))
    assert all(torch.equal(v, kept[k]) for k, v in descent.state().items())  # nothing was changed


def test_algorithms_do_not_take_each_others_state() -> None:
    model = net()
    train(model, adam := Descent(model.named_parameters(), config("adam")), range(2))
    for name in set(OPTIMISERS) - {"adam", "adamw"}:
        with pytest.raises(WeightsError):
            Descent(model.named_parameters(), config(name)).restore(adam.state())
    Descent(model.named_parameters(), config("adamw")).restore(adam.state())


def test_restores_the_state_of_a_beginning() -> None:
    model = net()
    descent = Descent(model.named_parameters(), config("nadam"))
    fresh = {key: value.clone() for key, value in descent.state().items()}
    assert set(fresh) == {f"{name}.step" for name, _ in model.named_parameters()}
    train(model, descent, range(2))
    descent.restore(fresh)
    assert descent.state().keys() == fresh.keys()


def test_serves_a_scaler_of_gradients() -> None:
    plain, scaled = net(), net()
    descents = [Descent(model.named_parameters(), config("adamw", clip=0.1)) for model in (plain, scaled)]
    backward(plain, 1)
    descents[0].step(RATE)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    draw = generator(1, "test")
    for person in "ab":
        x, wanted = torch.randn(3, 4, 5, 5, generator=draw), torch.randn(3, 5, generator=draw)
        scaler.scale((scaled(x, person) - wanted).square().mean()).backward()
    scaler.unscale_(descents[1])  # type: ignore[arg-type]
    scaler.step(descents[1], RATE, None)  # type: ignore[arg-type]
    scaler.update()
    assert same(plain, scaled)
    scaled.gain.grad = torch.tensor(math.inf)
    before = copy.deepcopy(scaled)
    scaler.unscale_(descents[1])  # type: ignore[arg-type]
    scaler.step(descents[1], RATE, None)  # type: ignore[arg-type]
    assert same(before, scaled)
