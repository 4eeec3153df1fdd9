"""models.adversarial: who learns what from whom, and that a state brings everything back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from models.adversarial import Adversaries
from models.autoencoder import Autoencoder, Decoded
from models.train import recipe
from models.train.batch import Batch
from pipeline.errors import ConfigError, WeightsError

SIZE, CODE = 32, (4, 8, 8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Tiny(Autoencoder):
    """A code of 8x8 places; a decoder each."""

    def __init__(self, people: Sequence[str]) -> None:
        super().__init__(people)
        self.encoder = nn.Conv2d(3, CODE[0], 4, 4)
        self.decoders = nn.ModuleDict({person: nn.ConvTranspose2d(CODE[0], 3, 4, 4) for person in people})

    def encode(self, x: Tensor) -> Tensor:
        code: Tensor = self.encoder(x)
        return code

    def decode(self, code: Tensor, person: str) -> Decoded:
        return Decoded((self.decoders[person](code).sigmoid(),))


class Inters(Tiny):
    code_is_a_face = False


def model(people: Sequence[str] = ("a", "b")) -> Tiny:
    torch.manual_seed(0)
    return Tiny(people)


def adversaries(of: Autoencoder, lr: float = 2e-3, seed: int = 0, **powers: float) -> Adversaries:
    return Adversaries(recipe.Losses(**powers), lr, of, CODE, SIZE, seed=seed)


def batch(place: int, step: int, count: int = 4) -> Batch:
    """Striped pictures: each person's stripes have a direction and a colour of their own."""
    generator = torch.Generator().manual_seed(100 * place + step)
    stripes = (torch.arange(SIZE) // 2 % 2).float().expand(count, 3, SIZE, SIZE)
    stripes = stripes if place % 2 else stripes.transpose(2, 3)
    colour = torch.tensor([(0.9, 0.5, 0.2), (0.2, 0.5, 0.9), (0.5, 0.9, 0.2)][place % 3]).view(1, 3, 1, 1)
    target = stripes * colour * (0.6 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator))
    ones = torch.ones(count, 1, SIZE, SIZE)
    return Batch(target, target, ones, 0 * ones, 0 * ones)


def step_of(of: Tiny, step: int) -> tuple[dict[str, Decoded], dict[str, Tensor], dict[str, Batch]]:
    batches = {person: batch(place, step) for place, person in enumerate(of.people)}
    decoded, codes = of({person: b.input for person, b in batches.items()})
    return decoded, codes, batches


def total(terms: dict[str, dict[str, Tensor]]) -> Tensor:
    return torch.stack([term for of_person in terms.values() for term in of_person.values()]).sum()


def weights(of: Adversaries) -> dict[str, Tensor]:
    return {name: value for name, value in of.state().items() if "network." in name}


def test_without_powers_there_is_nobody() -> None:
    made = adversaries(model())
    assert not made
    step = step_of(model(), 0)
    assert made.terms(*step) == {"a": {}, "b": {}}
    assert made.learn(*step) == {}
    assert made.state() == {}
    made.restore({"gan.network.first.bias": torch.zeros(1)})


@pytest.mark.parametrize("people", [("a", "b"), ("a", "b", "c")])
def test_terms_are_weighted_scalars_by_person(people: tuple[str, ...]) -> None:
    tiny = model(people)
    one = adversaries(tiny, gan=1, true_face=1).terms(*step_of(tiny, 0))
    more = adversaries(tiny, gan=0.1, true_face=3).terms(*step_of(tiny, 0))
    assert list(one) == list(people)
    for person, terms in one.items():
        assert set(terms) == {"gan", "true_face"}
        assert all(term.shape == () and term.dtype == torch.float32 for term in terms.values())
        assert more[person]["gan"].item() == pytest.approx(0.1 * terms["gan"].item())
        assert more[person]["true_face"].item() == pytest.approx(3 * terms["true_face"].item(), abs=1e-6)
    few = {people[1]}  # a step need not have all people
    decoded, codes, batches = step_of(tiny, 0)
    part = adversaries(tiny, gan=1).terms(
        *({p: v for p, v in x.items() if p in few} for x in (decoded, codes, batches))
    )
    assert part[people[1]]["gan"].item() == pytest.approx(one[people[1]]["gan"].item(), rel=1e-5)


def test_the_model_learns_from_terms_and_the_adversaries_do_not() -> None:
    tiny = model()
    made = adversaries(tiny, gan=1, true_face=1)
    gan_alone = adversaries(tiny, gan=1).terms(*step_of(tiny, 0))
    total(gan_alone).backward()
    assert all(p.grad is not None and p.grad.any() for p in tiny.parameters())
    tiny.zero_grad(set_to_none=True)
    total(adversaries(tiny, true_face=1).terms(*step_of(tiny, 0))).backward()
    assert tiny.encoder.weight.grad is not None and tiny.encoder.weight.grad.any()
    assert all(p.grad is None for p in tiny.decoders.parameters())
    made.learn(*step_of(tiny, 0))
    before = weights(made)
    total(made.terms(*step_of(tiny, 1))).backward()
    assert all(torch.equal(value, before[name]) for name, value in weights(made).items())
    for adversary in made._adversaries.values():
        assert all(p.grad is None for p in adversary.network.parameters())


def test_the_adversaries_learn_and_the_model_does_not() -> None:
    tiny = model()
    made = adversaries(tiny, gan=1, true_face=1)
    before = weights(made)
    errors = made.learn(*step_of(tiny, 0))
    assert set(errors) == {"gan", "true_face"}
    assert all(error.shape == () and not error.requires_grad for error in errors.values())
    assert all(p.grad is None for p in tiny.parameters())
    changed = [name for name, value in weights(made).items() if not torch.equal(value, before[name])]
    assert any(name.startswith("gan.") for name in changed)
    assert any(name.startswith("true_face.") for name in changed)


def test_they_learn_to_tell_and_the_model_pays_for_it() -> None:
    tiny = model()
    made = adversaries(tiny, gan=1, true_face=1)
    first_terms, first = made.terms(*step_of(tiny, 0)), made.learn(*step_of(tiny, 0))
    for step in range(1, 25):
        last = made.learn(*step_of(tiny, step))
    terms = made.terms(*step_of(tiny, 25))
    for person in tiny.people:
        assert terms[person]["gan"] > 1.5 * first_terms[person]["gan"]
        assert terms[person]["true_face"] > first_terms[person]["true_face"]
    assert last["gan"] < 0.75 * first["gan"]
    assert last["true_face"] < 0.6 * first["true_face"]


def test_who_gives_real_pictures_pays_less() -> None:
    tiny = model()
    made = adversaries(tiny, gan=1)
    for step in range(25):
        made.learn(*step_of(tiny, step))
    _, codes, batches = step_of(tiny, 30)
    real = made.terms({p: Decoded((b.target,)) for p, b in batches.items()}, codes, batches)
    made_up = made.terms(*step_of(tiny, 30))
    for person in tiny.people:
        assert real[person]["gan"] < 0.6 * made_up[person]["gan"]


def test_the_model_learns_to_fool_it() -> None:
    tiny = model()
    made = adversaries(tiny, gan=1)
    for step in range(25):
        made.learn(*step_of(tiny, step))
    optimiser = torch.optim.Adam(tiny.parameters(), 0.01)
    first = total(made.terms(*step_of(tiny, 25))).item()
    for _ in range(20):
        optimiser.zero_grad()
        total(made.terms(*step_of(tiny, 25))).backward()
        optimiser.step()
    assert total(made.terms(*step_of(tiny, 25))).item() < 0.7 * first


def test_true_face_makes_codes_alike() -> None:
    tiny = model(("a", "b", "c"))
    made = adversaries(tiny, true_face=1)
    optimiser = torch.optim.Adam(tiny.encoder.parameters(), 5e-3)

    def apart() -> float:
        """The distance of people's mean codes, against the codes' size."""
        _, codes, _ = step_of(tiny, 99)
        means = torch.stack([code.detach().mean(0) for code in codes.values()])
        return float(means.std(0).norm() / means.norm())

    for step in range(10):
        made.learn(*step_of(tiny, step))
    before = apart()
    for step in range(100):
        optimiser.zero_grad()
        current = step_of(tiny, step)
        total(made.terms(*current)).backward()
        optimiser.step()
        last = made.learn(*current)
    assert apart() < 0.5 * before
    assert last["true_face"].item() == pytest.approx(math.log(3), abs=0.15)  # it can only guess


def test_a_clueless_verdict_costs_nothing() -> None:
    tiny = model(("a", "b", "c"))
    made = adversaries(tiny, true_face=1)
    last = made._adversaries["true_face"].network.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    for terms in made.terms(*step_of(tiny, 0)).values():
        assert terms["true_face"].item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        last.bias.copy_(torch.tensor((3.0, 0.0, 0.0)))
    wrong = made.terms(*step_of(tiny, 0))
    chances = torch.tensor((3.0, 0.0, 0.0)).log_softmax(0)
    expected = float(-chances.mean()) - math.log(3)
    assert [t["true_face"].item() for t in wrong.values()] == pytest.approx([expected] * 3, rel=1e-4)


def test_what_is_not_the_face_is_not_judged() -> None:
    tiny = model()
    decoded, codes, batches = step_of(tiny, 0)
    none = {p: Batch(b.input, b.target, 0 * b.mask, b.eyes, b.mouth) for p, b in batches.items()}
    right = {p: Decoded((b.target,)) for p, b in none.items()}
    for background, equal in ((0.0, True), (0.5, False)):
        made = adversaries(tiny, gan=1, background=background)
        ours, theirs = made.terms(decoded, codes, none), made.terms(right, codes, none)
        assert all(torch.equal(ours[p]["gan"], theirs[p]["gan"]) == equal for p in none)


def test_a_state_brings_everything_back_to_the_bit() -> None:
    tiny = model()
    going_on = adversaries(tiny, gan=1, true_face=1)
    for step in range(3):
        going_on.learn(*step_of(tiny, step))
    state = going_on.state()
    assert all(value.is_contiguous() for value in state.values())
    taken_up = adversaries(tiny, seed=1, gan=1, true_face=1)
    taken_up.restore(state)
    assert equal(taken_up.state(), state)
    for step in range(3, 6):
        errors = [made.learn(*step_of(tiny, step)) for made in (going_on, taken_up)]
        assert equal(*errors)
    assert equal(going_on.state(), taken_up.state())
    one, other = (made.terms(*step_of(tiny, 6)) for made in (going_on, taken_up))
    assert all(equal(one[person], other[person]) for person in one)
    assert not equal(state, going_on.state())  # it was a copy


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_state_from_before_the_first_step() -> None:
    tiny = model()
    made, taken_up = adversaries(tiny, gan=1), adversaries(tiny, seed=1, gan=1)
    taken_up.learn(*step_of(tiny, 0))
    taken_up.restore(made.state())
    assert equal(made.learn(*step_of(tiny, 1)), taken_up.learn(*step_of(tiny, 1)))
    assert equal(made.state(), taken_up.state())


def test_one_who_comes_late_starts_afresh() -> None:
    tiny = model()
    early = adversaries(tiny, gan=1)
    early.learn(*step_of(tiny, 0))
    both = adversaries(tiny, gan=1, true_face=1)
    fresh = {name: value for name, value in both.state().items() if name.startswith("true_face.")}
    both.restore(early.state())
    assert equal(both.state(), early.state() | fresh)
    alone = adversaries(tiny, true_face=1)
    alone.restore(both.state())  # and one who is not wanted any more is passed over
    assert equal(alone.state(), fresh)


def test_a_state_of_another_model_is_refused() -> None:
    made = adversaries(model(), gan=1, true_face=1)
    made.learn(*step_of(model(), 0))
    foreign = adversaries(model(("a", "b", "c")), gan=1)
    with pytest.raises(WeightsError, match=r"adversary of train\.losses\.gan is of another model or damaged"):
        foreign.restore(made.state())
    for broken in ("gan.network.first.bias", "gan.adam.first.bias.exp_avg", "gan.adam.first.bias.exp_avg_sq"):
        state = made.state()
        for damaged in ({k: v for k, v in state.items() if k != broken}, state | {broken: torch.zeros(7)}):
            with pytest.raises(WeightsError):
                made.restore(damaged)


def test_the_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = adversaries(model(), gan=1, true_face=1).state()
    torch.manual_seed(2)
    after = torch.get_rng_state()
    made = Adversaries(recipe.Losses(gan=1, true_face=1), 1e-3, Tiny(("a", "b")), CODE, SIZE, seed=0).state()
    assert equal(one, made)
    assert not torch.equal(before, after)
    assert not equal(one, adversaries(model(), seed=1, gan=1, true_face=1).state())
    tiny = model()
    drawn = torch.get_rng_state()
    adversaries(tiny, gan=1, true_face=1)
    assert torch.equal(drawn, torch.get_rng_state())  # the model's draws are not disturbed


def test_true_face_wants_codes_that_are_faces_of_two() -> None:
    with pytest.raises(ConfigError, match=r"train\.losses\.true_face"):
        adversaries(Inters(("a", "b")), true_face=1)
    with pytest.raises(ConfigError, match=r"train\.losses\.true_face"):
        adversaries(model(("a",)), true_face=1)
    assert adversaries(Inters(("a", "b")), gan=1)


def test_the_step_size_follows_the_models() -> None:
    tiny = model()
    made = adversaries(tiny, lr=1e-3, gan=1, adversary_lr=2.0)
    still = adversaries(tiny, lr=1e-3, gan=1, adversary_lr=0.0)
    for group, lr in ((made._adversaries["gan"].optimiser.param_groups[0], 2e-3),):
        assert group["lr"] == pytest.approx(lr)
        made.set_learning_rate(3e-3)
        assert group["lr"] == pytest.approx(6e-3)
    still.set_learning_rate(1.0)
    names = [name for name, _ in still._adversaries["gan"].network.named_parameters()]
    before = weights(still)
    still.learn(*step_of(tiny, 0))
    assert all(torch.equal(weights(still)[f"gan.network.{name}"], before[f"gan.network.{name}"]) for name in names)


def test_gradients_can_be_shared() -> None:
    tiny = model()
    made = adversaries(tiny, gan=1, true_face=1)
    seen: list[int] = []

    def share(shared: Sequence[Tensor]) -> None:
        seen.append(len(shared))
        for weight in shared:
            assert weight.grad is not None
            weight.grad.zero_()

    before = {k: v for k, v in weights(made).items() if not k.endswith(("_u", "_v"))}
    made.learn(*step_of(tiny, 0), share)
    counts = [len(list(a.network.parameters())) for a in made._adversaries.values()]
    assert seen == counts
    assert all(torch.equal(weights(made)[name], value) for name, value in before.items())


def test_autocast_and_no_grad_change_nothing() -> None:
    tiny = model()
    made, cast = adversaries(tiny, gan=1, true_face=1), adversaries(tiny, gan=1, true_face=1)
    current = step_of(tiny, 0)
    plain = made.terms(*current)
    with torch.autocast("cpu", torch.bfloat16):
        other = cast.terms(*current)
        assert all(equal(plain[person], other[person]) for person in plain)
        with torch.no_grad():
            cast.learn(*current)
    made.learn(*current)
    assert equal(made.state(), cast.state())


def test_it_goes_where_it_is_sent() -> None:
    made = adversaries(model(), gan=1, true_face=1)
    made.learn(*step_of(model(), 0))
    before = made.state()
    assert made.to(torch.device("cpu")) is made
    assert equal(before, made.state())
