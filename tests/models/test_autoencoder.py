"""models.autoencoder: the two ways to wire one, with toys for parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder, Decoded, Decoder, PerPerson, SharedDecoder, SharedEncoder
from models.autoencoders import dlight
from models.blocks import Layers
from models.transfer import freeze


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Toy(SharedDecoder):
    def __init__(self, people: tuple[str, ...]) -> None:
        super().__init__(people, nn.Conv2d(3, 4, 1), Decoder(nn.Conv2d(4, 3, 1), nn.Conv2d(4, 1, 1)))
        self.inters = PerPerson(people, (nn.Conv2d(4, 4, 1) for _ in people))

    def latent(self, code: Tensor, person: str) -> Tensor:
        latent: Tensor = self.inters[person](code)
        return latent


def shared_encoder(people: tuple[str, ...]) -> SharedEncoder:
    return SharedEncoder(people, nn.Conv2d(3, 4, 1), (Decoder(nn.Conv2d(4, 3, 1)) for _ in people))


def pictures(people: tuple[str, ...]) -> dict[str, Tensor]:
    return {person: torch.rand(n, 3, 8, 8) for n, person in enumerate(people, start=1)}


@pytest.mark.parametrize("kind", [shared_encoder, Toy])
def test_all_at_once_gives_what_each_gives_alone_with_the_same_gradients(kind: type[Autoencoder]) -> None:
    people = ("a", "b", "c")
    model, x = kind(people), pictures(people)
    decoded, codes = model(x)
    assert list(decoded) == list(codes) == list(people)
    sum(d.picture.pow(2).sum() for d in decoded.values()).backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for person, given in x.items():
        alone, code = model({person: given})
        assert torch.allclose(alone[person].picture, decoded[person].picture, atol=1e-6)
        assert torch.allclose(code[person], codes[person], atol=1e-6)
        assert torch.allclose(model.swap(given, person).picture, decoded[person].picture, atol=1e-6)
        alone[person].picture.pow(2).sum().backward()
    apart = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(together, apart, strict=True))


def test_the_shared_decoder_runs_once_and_has_a_mask() -> None:
    model = Toy(("a", "b"))
    runs: list[int] = []
    model.decoder.register_forward_hook(lambda module, given, out: runs.append(len(given[0])))
    decoded, _ = model(pictures(("a", "b")))
    assert runs == [3]
    assert [d.mask.shape for d in decoded.values() if d.mask is not None] == [(1, 1, 8, 8), (2, 1, 8, 8)]
    assert not Toy.code_is_a_face
    assert SharedEncoder.code_is_a_face


def test_only_those_who_are_there_go_through() -> None:
    model = Toy(("a", "b", "c"))
    decoded, _ = model({"c": torch.rand(1, 3, 8, 8), "a": torch.rand(2, 3, 8, 8)})
    assert list(decoded) == ["c", "a"]
    assert [len(d.picture) for d in decoded.values()] == [1, 2]


@pytest.mark.parametrize("kind", [shared_encoder, Toy])
def test_strangers(kind: type[Autoencoder]) -> None:
    with pytest.raises(KeyError):
        kind(("a", "b")).swap(torch.rand(1, 3, 8, 8), "c")


@pytest.mark.parametrize("name", ["train", "pop", "type", "keys", "both", "forward"])
def test_people_may_be_called_like_methods(name: str) -> None:
    model = shared_encoder(("a", name))
    assert model.people == ("a", name)
    assert f"decoders.{name}.face.weight" in model.state_dict()
    other = shared_encoder(("a", name))
    other.load_state_dict(model.state_dict())
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(other.swap(x, name).picture, model.swap(x, name).picture)
    assert model.train(False).decoders[name].training is False


def test_decoded_is_split_at_every_size() -> None:
    small, large, mask = torch.rand(5, 3, 2, 2), torch.rand(5, 3, 4, 4), torch.rand(5, 1, 4, 4)
    one, other = Decoded((small, large), mask).split([2, 3])
    assert torch.equal(torch.cat((one.pictures[0], other.pictures[0])), small)
    assert torch.equal(torch.cat((one.picture, other.picture)), large)
    assert one.mask is not None
    assert torch.equal(one.mask, mask[:2])
    assert [d.mask for d in Decoded((small,)).split([1, 4])] == [None, None]


def test_frozen_parts_keep_their_running_statistics() -> None:
    config = dlight.PRESETS["sketch"]
    model = dlight.build(config, ("a", "b"), Layers())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.training for norm in model.train().modules() if isinstance(norm, nn.BatchNorm2d))
    freeze(model, ["decoders"])
    model.train()
    assert model.encoder.training and not any(norm.training for norm in norms)
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    with torch.no_grad():
        model.swap(torch.rand(2, 3, config.input_size, config.input_size), "b")
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, norms, strict=True))
