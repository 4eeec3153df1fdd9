"""models.train.step: the same step whatever it takes, and nothing left of one that broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.adversarial import Adversaries
from models.autoencoder import Autoencoder, Decoded
from models.train import step as step_module
from models.train.batch import Batch
from models.train.objective import Objective
from models.train.recipe import Config, Losses, Memory, Optimiser
from models.train.step import Diverged, Learner, Stopped
from models.train.world import World
from pipeline.errors import RequirementError, WeightsError
from tests.models.train.trainings import CONFIG, batches, model

FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
ADVERSE = Losses(gan=0.1, true_face=0.1, style=0.1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def never() -> bool:
    return False


def learner(network: Autoencoder, config: Config = CONFIG, stop: Callable[[], bool] = never, size: int = 32) -> Learner:
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return Learner(network, (size, size), config, dtype, World.alone(), stop)


def taught(config: Config, steps: int = 1, size: int = 32) -> tuple[Autoencoder, Learner, dict[str, float]]:
    """A new model after some steps; its gradients are those of the last."""
    network = model(config)
    its = learner(network, config, size=size)
    for step in range(steps):
        costs = its.learn(batches(size, seed=step), 1e-3, step, 0)
    return network, its, costs.loss


def gradients(network: Autoencoder) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], share: float = 1e-4) -> None:
    """Each tensor is off by at most such a share of its largest number."""
    assert one.keys() == other.keys() and one
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-9 + share * float(value.abs().max()), msg=name)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and one
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def everything(network: Autoencoder, its: Learner) -> dict[str, Tensor]:
    """Weights, buffers and all that is remembered; copies."""
    return copied(network.state_dict()) | copied(its.state()[0])


# The same step, whatever it may take


def test_steps_lower_the_loss() -> None:
    first = taught(CONFIG)[2]
    network = model()
    its = learner(network)
    for step in range(30):
        last = its.learn(batches(), 3e-3, step, 0).loss
    assert first.keys() == last.keys() == {"a", "b"}
    assert all(last[person] < 0.8 * first[person] for person in first)


@pytest.mark.parametrize("parts", [2, 3, 4, 99])
@pytest.mark.parametrize("losses", [Losses(), Losses(gan=0.1)], ids=["plain", "gan"])
def test_parts_add_up(parts: int, losses: Losses) -> None:
    plain, _, loss = taught(replace(CONFIG, losses=losses))
    config = replace(CONFIG, losses=losses, optimiser=replace(CONFIG.optimiser, accumulate=parts))
    parted, its, parted_loss = taught(config)
    assert its.parts == parts
    assert parted_loss == pytest.approx(loss, rel=1e-5)
    assert_close(gradients(parted), gradients(plain))


def test_terms_of_all_faces_together_are_nearly_the_same_in_parts() -> None:
    """Textures are compared, and codes brought to one size, over the faces that go through together."""
    config = replace(CONFIG, losses=Losses(true_face=0.1, style=0.1))
    plain, _, loss = taught(config)
    for changed in (
        replace(config, optimiser=replace(CONFIG.optimiser, accumulate=2)),
        replace(config, memory=Memory(one_person=True)),
    ):
        parted, _, parted_loss = taught(changed)
        assert parted_loss == pytest.approx(loss, rel=1e-3) and parted_loss != loss
        assert_close(gradients(parted), gradients(plain), share=0.05)


@pytest.mark.parametrize("losses", [Losses(), Losses(gan=0.1, style=0.1)], ids=["plain", "gan and style"])
def test_one_person_after_the_other_is_both_at_once(losses: Losses) -> None:
    config = replace(CONFIG, losses=losses)
    plain, _, loss = taught(config)
    one, _, one_loss = taught(replace(config, memory=Memory(one_person=True)))
    assert one_loss == pytest.approx(loss, rel=1e-5)
    assert_close(gradients(one), gradients(plain))


def test_adversaries_see_everybody_at_once_in_any_case() -> None:
    config = replace(CONFIG, losses=ADVERSE)
    found = []
    for changed in (
        config,
        replace(config, memory=Memory(one_person=True), optimiser=replace(CONFIG.optimiser, accumulate=2)),
    ):
        state, _ = taught(changed)[1].state()
        found.append({k: v for k, v in state.items() if k.startswith("adversaries.") and k.endswith(".exp_avg")})
    assert {name.split(".")[1] for name in found[0]} == {"gan", "true_face"}
    assert_close(*found)


@pytest.mark.parametrize("forgets", [False, True])
def test_activations_are_forgotten_where_that_is_asked_for(forgets: bool) -> None:
    config = replace(CONFIG, memory=Memory(checkpointing=forgets))
    network = model(config)
    passes = [0]
    inner = network.decoders["a"].face[1].convolution  # type: ignore[index, union-attr]
    inner.register_forward_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    learner(network, config).learn(batches(), 1e-3, 0, 0)
    assert passes[0] == 1 + forgets


@pytest.mark.parametrize(("architecture", "preset"), [("original", ""), ("unbalanced", "sketch"), ("saehd", "sketch")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_forgotten_activations_come_back_the_same(architecture: str, preset: str, precision: Any) -> None:
    options = CONFIG.options if architecture == "original" else {}
    config = replace(CONFIG, architecture=architecture, preset=preset, options=options, precision=precision)
    size = 64 if preset else 32
    plain, plain_learner, loss = taught(config, size=size)
    forgetful, its, forgetful_loss = taught(replace(config, memory=Memory(checkpointing=True)), size=size)
    assert forgetful_loss == loss
    assert_equal(gradients(forgetful), gradients(plain))
    assert_equal(everything(forgetful, its), everything(plain, plain_learner))


def test_a_batch_norm_sees_each_batch_once() -> None:
    config = replace(CONFIG, architecture="dlight", preset="sketch", options={})
    found = []
    for memory in (Memory(), Memory(checkpointing=True)):
        network, its, _ = taught(replace(config, memory=memory), size=128)
        found.append(everything(network, its))
    assert [name for name in found[0] if "running_mean" in name]
    assert_equal(*found)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_optimiser_elsewhere_does_the_same(share: float) -> None:
    config = replace(CONFIG, optimiser=replace(CONFIG.optimiser, lr_dropout=share))
    plain, plain_learner, loss = taught(config, 3)
    away, its, away_loss = taught(replace(config, memory=Memory(optimiser_on_cpu=True)), 3)
    assert away_loss == loss
    assert_equal(everything(away, its), everything(plain, plain_learner))


def test_a_share_of_the_weights_moves() -> None:
    config = replace(CONFIG, optimiser=replace(CONFIG.optimiser, lr_dropout=0.3))
    before = copied(dict(model(config).named_parameters()))
    after = dict(taught(config)[0].named_parameters())
    moved = sum(int((after[name] != old).sum()) for name, old in before.items())
    assert 0.2 < moved / sum(old.numel() for old in before.values()) < 0.4


def test_dropout_is_the_steps_own() -> None:
    config = replace(CONFIG, architecture="unbalanced", preset="sketch", options={})
    rows = []
    for step, noise in ((5, 1), (5, 2), (6, 3)):
        torch.manual_seed(noise)
        network = model(config)
        learner(network, config, size=64).learn(batches(64), 1e-3, step, 0)
        rows.append(gradients(network))
    assert_equal(rows[0], rows[1])
    apart = {name.split(".")[1] for name, value in rows[2].items() if not torch.equal(value, rows[0][name])}
    assert "a" in apart, "whose decoder leaves channels out"


def test_bf16_is_near_and_weights_stay_fp32() -> None:
    exact, _, loss = taught(CONFIG)
    rounded, _, rounded_loss = taught(replace(CONFIG, precision="bf16"))
    assert rounded_loss == pytest.approx(loss, rel=0.02) and rounded_loss != loss
    assert {weight.dtype for weight in rounded.parameters()} == {torch.float32}
    assert {gradient.dtype for gradient in gradients(rounded).values()} == {torch.float32}
    assert not torch.equal(rounded.encoder[0][0].weight, exact.encoder[0][0].weight)  # type: ignore[index, union-attr]


def test_frozen_parts_and_those_who_were_not_drawn_stay() -> None:
    network = model()
    for weight in network.encoder.parameters():  # type: ignore[union-attr]
        weight.requires_grad_(False)
    before = copied(network.state_dict())
    its = learner(network)
    assert its.learn(batches(people=("b",)), 1e-3, 0, 0).loss.keys() == {"b"}
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("decoders.b.") for name in moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_is_learned_from_who_is_frozen(dtype: torch.dtype) -> None:
    config = replace(CONFIG, memory=Memory(one_person=True))
    network = model()
    for name, weight in network.named_parameters():
        weight.requires_grad_(name.startswith("decoders.b."))
    its = Learner(network, (32, 32), config, dtype, World.alone())
    before = copied(network.state_dict())
    assert its.learn(batches(people=("a",)), 1e-3, 0, 0).loss.keys() == {"a"}
    assert_equal(before, network.state_dict())
    assert its.learn(batches(), 1e-3, 1, 0).loss.keys() == {"a", "b"}
    assert not torch.equal(
        before["decoders.b.face.0.convolution.weight"], network.state_dict()["decoders.b.face.0.convolution.weight"]
    )


# What breaks


class Injected:
    """Replaces the objective: from its call number `at` on, `spoil` changes one term."""

    def __init__(self, patch: pytest.MonkeyPatch, spoil: Callable[[Tensor, Decoded], Tensor], at: int = 0) -> None:
        self.calls = -1
        outer = self

        class Spoiled(Objective):
            def __call__(self, decoded: Decoded, batch: Batch) -> dict[str, Tensor]:
                terms = super().__call__(decoded, batch)
                outer.calls += 1
                return terms if outer.calls < at else terms | {"mae": spoil(terms["mae"], decoded)}

        patch.setattr(step_module, "Objective", Spoiled)


def _flat(x: Tensor) -> Tensor:
    """0, with the slope of `x`."""
    return x - x.detach()


SPOILED: dict[str, tuple[Callable[[Tensor, Decoded], Tensor], str]] = {
    "NaN": (lambda term, _: term * float("nan"), "the loss of a is nan"),
    "infinity": (lambda term, _: term + float("inf"), "the loss of a is inf"),
    # the loss is sound, its slope is not: 0 * infinity
    "gradient": (lambda term, decoded: term + (decoded.picture.mean() * 0).sqrt(), "the gradient's norm is nan"),
    "long gradient": (lambda term, decoded: term + _flat(decoded.picture.mean()) * 1e30, "the gradient's norm is inf"),
}


@pytest.mark.parametrize("kind", SPOILED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_no_number_is_caught_in_the_same_step(
    kind: str, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, said = SPOILED[kind]
    Injected(monkeypatch, spoil, at=4)
    its = learner(model(), replace(CONFIG, precision=precision))
    for step in range(2):
        its.learn(batches(), 1e-3, step, 0)
    with pytest.raises(Diverged, match=said):
        its.learn(batches(), 1e-3, 2, 0)


def test_an_adversary_that_is_no_number_is_caught_too(monkeypatch: pytest.MonkeyPatch) -> None:
    its = learner(model(), replace(CONFIG, losses=ADVERSE))
    its.learn(batches(), 1e-3, 0, 0)
    monkeypatch.setattr(Adversaries, "learn", lambda *_, **__: {"gan": torch.tensor(float("nan"))})
    with pytest.raises(Diverged, match="the adversaries' error is nan"):
        its.learn(batches(), 1e-3, 1, 0)


def test_what_broke_is_gone_when_a_state_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, losses=ADVERSE)
    network = model(config)
    its = learner(network, config)
    its.learn(batches(), 1e-3, 0, 0)
    sound, state, facts = copied(network.state_dict()), copied(its.state()[0]), its.state()[1]
    after = its.learn(batches(seed=1), 1e-3, 1, 0).loss
    kept = everything(network, its)
    for weight in network.parameters():
        weight.data.fill_(float("nan"))
    with pytest.raises(Diverged):
        its.learn(batches(seed=2), 1e-3, 2, 0)
    network.load_state_dict(sound)
    assert its.restore(state, facts) == ()
    assert its.learn(batches(seed=1), 1e-3, 1, 0).loss == after
    assert_equal(everything(network, its), kept)


@pytest.mark.parametrize("facts", [{"optimiser": "adam"}, {"optimiser": "lion"}])
def test_what_a_state_does_not_hold_begins_anew(facts: dict[str, str]) -> None:
    """Moments of another optimiser, adversaries that were just turned on: nothing of what broke may stay in them."""
    config = replace(CONFIG, losses=ADVERSE)
    network = model(config)
    its = learner(network, config)
    fresh = everything(network, its)
    sound = copied(network.state_dict())
    with pytest.raises(Diverged):
        its.learn({p: replace(b, input=b.input * float("nan")) for p, b in batches().items()}, 1e-3, 0, 0)
    network.load_state_dict(sound)
    notes = its.restore({}, facts)
    assert [note for note in notes if "begins anew: it was lion" in note] == list(notes)
    assert len(notes) == (facts["optimiser"] == "lion")
    assert_equal(everything(network, its), fresh)


@pytest.mark.parametrize("said", ["{", "[1]", "7", '{"scale": "x"}', '{"scale": 0, "_growth_tracker": 0}'])
def test_a_scale_that_is_none_is_refused(said: str) -> None:
    its = Learner(model(), (32, 32), CONFIG, torch.float16, World.alone())
    its.learn(batches(), 1e-3, 0, 0)
    state, facts = its.state()
    its.restore(state, facts)
    assert its.state()[1] == facts
    with pytest.raises(WeightsError, match="scale of the loss"):
        its.restore(state, facts | {"scaler": said})


@pytest.mark.parametrize(("before", "now", "kept"), [("adam", "adamw", True), ("adam", "nadam", False)])
def test_moments_that_another_optimiser_can_use_are_used(before: Any, now: Any, kept: bool) -> None:
    _, old, _ = taught(replace(CONFIG, optimiser=Optimiser(before)), 2)
    _, new, _ = taught(replace(CONFIG, optimiser=Optimiser(now)))
    notes = new.restore(*old.state())
    steps = {float(value) for name, value in new.state()[0].items() if name.endswith(".step")}
    assert (steps, bool(notes)) == (({2.0}, False) if kept else ({0.0}, True))


def test_what_was_frozen_learns_beside_what_was_not() -> None:
    network = model()
    for weight in network.encoder.parameters():  # type: ignore[union-attr]
        weight.requires_grad_(False)
    its = learner(network)
    its.learn(batches(), 1e-3, 0, 0)
    state, facts = its.state()
    thawed = learner(model())
    assert thawed.restore(state, facts) == ()
    steps = {name: float(value) for name, value in thawed.state()[0].items() if name.endswith(".step")}
    assert {value for name, value in steps.items() if ".encoder." in name} == {0.0}
    assert {value for name, value in steps.items() if ".decoders." in name} == {1.0}
    thawed.learn(batches(), 1e-3, 1, 0)
    frozen_again = learner(network)
    frozen_again.restore(*thawed.state())
    assert not [name for name in frozen_again.state()[0] if ".encoder." in name]


# Memory


class Full:
    """A convolution that has room for so many faces at once, and otherwise fails as `error` does."""

    def __init__(self, network: nn.Module, room: int, error: Exception) -> None:
        self.room, self.error, self.seen = room, error, []
        layer = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
        layer.register_forward_pre_hook(self)

    def __call__(self, layer: nn.Module, given: tuple[Tensor]) -> None:
        self.seen.append(len(given[0]))
        if len(given[0]) > self.room:
            raise self.error


ERRORS = [torch.OutOfMemoryError("full"), RuntimeError(FULL), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")]


@pytest.mark.parametrize("error", ERRORS, ids=["gpu", "cpu", "library"])
@pytest.mark.parametrize("losses", [Losses(), Losses(gan=0.1)], ids=["plain", "gan"])
def test_a_step_that_is_too_large_goes_through_in_parts(error: Exception, losses: Losses) -> None:
    config = replace(CONFIG, losses=losses)
    plain, plain_learner, loss = taught(config)
    network = model(config)
    its = learner(network, config)
    full = Full(network, 4, error)  # of 2 people's 4 faces each
    assert its.learn(batches(), 1e-3, 0, 0).loss == pytest.approx(loss, rel=1e-5)
    assert its.parts == 2 and full.seen == [8, 4, 4]
    assert_close(gradients(network), gradients(plain))
    moments = [{k: v for k, v in e.state()[0].items() if k.endswith("exp_avg")} for e in (its, plain_learner)]
    assert_close(*moments)
    its.learn(batches(), 1e-3, 1, 0)
    assert full.seen[3:] == [4, 4], "it remembers"


def test_not_even_one_face_fits() -> None:
    network = model()
    full = Full(network, 1, torch.OutOfMemoryError("full"))
    with pytest.raises(RequirementError, match=r"not enough free memory for one face of each person.*checkpointing"):
        learner(network).learn(batches(), 1e-3, 0, 0)
    assert full.seen == [8, 4, 2]


def test_a_step_that_is_repeated_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running statistics, too, see only the faces that were learned from."""
    config = replace(
        CONFIG, architecture="dlight", preset="sketch", options={}, optimiser=replace(CONFIG.optimiser, accumulate=2)
    )
    plain, _, _ = taught(config, size=128)
    config = replace(config, optimiser=CONFIG.optimiser)
    network = model(config)
    its = learner(network, config, size=128)
    out = [part for part in network.modules() if isinstance(part, nn.Conv2d)][-1]
    once = iter([torch.OutOfMemoryError("full")])

    def full(*_: object) -> None:
        for error in once:
            raise error

    out.register_forward_hook(full)
    its.learn(batches(128), 1e-3, 0, 0)
    assert its.parts == 2
    assert_equal(dict(network.named_buffers()), dict(plain.named_buffers()))


def test_another_error_is_not_taken_for_it() -> None:
    network = model()
    Full(network, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        learner(network).learn(batches(), 1e-3, 0, 0)


def test_no_room_for_the_optimiser_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError(FULL)

    its = learner(model())
    monkeypatch.setattr(step_module.Descent, "step", full)
    with pytest.raises(RequirementError, match=r"not enough free memory for the optimiser.*optimiser_on_cpu"):
        its.learn(batches(), 1e-3, 0, 0)
    assert its.parts == 1


# Stopping within a step


class Asked:
    """A `stop` that counts how often it is asked and says so from the `at`-th time on."""

    def __init__(self) -> None:
        self.times, self.at = 0, float("inf")

    def __call__(self) -> bool:
        self.times += 1
        return self.times > self.at


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_stop_is_heard_at_every_layer_there_and_back(checkpointing: bool) -> None:
    config = replace(CONFIG, memory=Memory(checkpointing=checkpointing))
    network, asked = model(config), Asked()
    its = learner(network, config, asked)
    its.learn(batches(), 1e-3, 0, 0)
    layers = sum(isinstance(part, nn.Conv2d | nn.Linear) for part in network.modules())
    assert asked.times >= 2 * layers
    each = asked.times
    before = everything(network, its)
    for at in range(each):
        asked.times, asked.at = 0, at
        with pytest.raises(Stopped):
            its.learn(batches(seed=1), 1e-3, 1, 0)
        assert asked.times == at + 1
    assert_equal(everything(network, its), before)
    asked.at = float("inf")
    its.learn(batches(seed=1), 1e-3, 1, 0)
    straight, its_learner, _ = taught(config, 2)
    assert_equal(everything(network, its), everything(straight, its_learner))


def test_a_stopped_step_leaves_running_statistics_alone() -> None:
    config = replace(CONFIG, architecture="dlight", preset="sketch", options={})
    network, asked = model(config), Asked()
    its = learner(network, config, asked, 128)
    before = everything(network, its)
    assert [name for name in before if "running" in name]
    for at in (10, 60):  # there, and back
        asked.times, asked.at = 0, at
        with pytest.raises(Stopped):
            its.learn(batches(128), 1e-3, 0, 0)
        assert_equal(everything(network, its), before)


def test_a_model_in_use_is_not_stopped() -> None:
    """Preview sheets are drawn after the stop."""
    network = model()
    learner(network, stop=lambda: True)
    network.eval()
    with torch.no_grad():
        network.swap(batches()["a"].input, "b")


def test_where_several_learn_together_none_leaves_alone() -> None:
    class Two(World):
        """The other one has the same gradients."""

        __slots__ = ()

        def _talk(self, *_: object) -> None:
            pass

    network = model()
    its = Learner(network, (32, 32), CONFIG, torch.float32, Two(0, 2), lambda: True)
    its.learn(batches(), 1e-3, 0, 0)
