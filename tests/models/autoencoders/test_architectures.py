"""What every file of models/autoencoders promises, whichever there are, with every option that all have in common."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import autoencoders
from models.autoencoder import Autoencoder, Decoded
from models.blocks import Layers, Stack, set_checkpointing
from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

NAMES = autoencoders.names()
PEOPLE = ("anna", "train", "third")  # one called like a method of torch's modules
VARIANTS = {
    "plain": LayerOptions(),
    "mask": LayerOptions(mask=True),
    "resize": LayerOptions(upscaler="resize"),
    "hybrid": LayerOptions(upscaler="hybrid"),
    "fast": LayerOptions(upscaler="fast"),
    "transposed": LayerOptions(upscaler="transposed", mask=True),
    "icnr": LayerOptions(icnr=True),
    "convolution_aware": LayerOptions(initialiser="convolution_aware"),
    "reflect": LayerOptions(padding="reflect", mask=True),
}
MASKED = VARIANTS["mask"]


def sketch(name: str) -> Any:
    return autoencoders.preset(name, "sketch")


def build(name: str, options: LayerOptions = MASKED, people: tuple[str, ...] = PEOPLE) -> Autoencoder:
    torch.manual_seed(0)
    model = autoencoders.module(name).build(sketch(name), people, Layers(options))
    assert isinstance(model, Autoencoder)
    return model


def faces(name: str, count: int = 2, people: tuple[str, ...] = PEOPLE) -> dict[str, Tensor]:
    """Smooth random pictures, another lot for each person."""
    draw = torch.Generator().manual_seed(1)
    side = sketch(name).input_size
    coarse = {person: torch.rand(count, 3, 8, 8, generator=draw) for person in people}
    return {person: F.interpolate(x, (side, side), mode="bilinear") for person, x in coarse.items()}


def loss(model: Autoencoder, x: dict[str, Tensor]) -> Tensor:
    """The error of every output, draws repeated."""
    torch.manual_seed(2)
    decoded, _ = model(x)
    errors = []
    for person, out in decoded.items():
        for picture in out.pictures:
            errors.append((picture - F.interpolate(x[person], picture.shape[2:], mode="area")).abs().mean())
        if out.mask is not None:
            errors.append((out.mask - 0.9).abs().mean())
    return torch.stack(errors).sum()


def same(one: Decoded, other: Decoded, atol: float = 1e-5) -> bool:
    masks = [out.mask for out in (one, other) if out.mask is not None]
    pairs = list(zip(one.pictures, other.pictures, strict=True)) + ([(masks[0], masks[1])] if masks else [])
    return all(torch.allclose(a, b, atol=atol) for a, b in pairs)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_range_and_people(name: str, variant: str) -> None:
    config, options = sketch(name), VARIANTS[variant]
    model = build(name, options).eval()
    x = faces(name)["anna"]
    with torch.inference_mode():
        code = model.encode(x)
        outs = {person: model.decode(code, person) for person in PEOPLE}
        for out in outs.values():
            assert out.picture.shape == (2, 3, config.output_size, config.output_size)
            assert all(small.shape[2] < config.output_size for small in out.pictures[:-1])
            made = [*out.pictures, *([] if out.mask is None else [out.mask])]
            assert all(m.dtype == torch.float32 and m.min() >= 0 and m.max() <= 1 for m in made)
            assert all(m.std() > 0 for m in made)
            assert out.mask is not None or not options.mask  # some learn it whatever the options say
            if out.mask is not None:
                assert out.mask.shape == (2, 1, config.output_size, config.output_size)
        assert not torch.allclose(outs["anna"].picture, outs["train"].picture)
        assert not torch.allclose(outs["train"].picture, outs["third"].picture)
        alone = model.swap(x[1:], "train")
        assert torch.allclose(alone.picture, outs["train"].picture[1:], atol=1e-5)
        with pytest.raises(KeyError):
            model.decode(code, "stranger")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_lowers_the_loss(name: str, variant: str) -> None:
    model, x = build(name, VARIANTS[variant], PEOPLE[:2]).train(), faces(name, 1, PEOPLE[:2])
    before = loss(model, x)
    before.backward()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            assert weight.grad is not None, key
            assert weight.grad.isfinite().all(), key
            weight -= 1e-4 * weight.grad.sign()
        assert loss(model, x) < before


@pytest.mark.parametrize("name", NAMES)
def test_steps_go_on_lowering_the_loss(name: str) -> None:
    model, x = build(name, people=PEOPLE[:2]).train(), faces(name, 1, PEOPLE[:2])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        losses.append(loss(model, x))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] * 0.985


@pytest.mark.parametrize("name", NAMES)
def test_all_at_once_is_each_alone(name: str) -> None:
    model, x = build(name).eval(), faces(name)
    x["third"] = x["third"][:1]
    with torch.inference_mode():
        decoded, codes = model(x)
        assert list(decoded) == list(codes) == list(PEOPLE)
        for person, pictures in x.items():
            code = model.encode(pictures)
            assert torch.allclose(codes[person], code, atol=1e-4)
            assert same(decoded[person], model.decode(code, person))
            assert same(decoded[person], model.swap(pictures, person))


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    model, x = build(name, people=PEOPLE[:2]).train(), faces(name, 1, PEOPLE[:2])
    other = copy.deepcopy(model)
    set_checkpointing(other, True)
    assert any(isinstance(part, Stack) for part in other.modules()), "nothing to forget"
    kept = [saved_bytes(m, x) for m in (model, other)]
    assert kept[1] < 0.9 * kept[0]
    for (key, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-6), key
    for (key, one), two in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(one, two), key


def saved_bytes(model: Autoencoder, x: dict[str, Tensor]) -> int:
    """What a step keeps for its way back, weights aside; leaves the gradients."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        error = loss(model, x)
        total = sum(kept.values())
        error.backward()
    return total


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_changes_nothing(name: str) -> None:
    model, x = build(name, people=PEOPLE[:2]).eval(), faces(name, people=PEOPLE[:2])
    with torch.inference_mode():
        before, _ = model(x)
        model.to(memory_format=torch.channels_last)
        after, _ = model({p: pictures.to(memory_format=torch.channels_last) for p, pictures in x.items()})
    assert all(same(before[p], after[p], 1e-4) for p in x)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_and_bf16_weights(name: str) -> None:
    model, x = build(name, people=PEOPLE[:2]), faces(name, people=PEOPLE[:2])
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        error = loss(model, x)
    error.backward()
    assert error.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.inference_mode():
        exact = model.swap(x["anna"], "train")
        rounded = model.to(torch.bfloat16).swap(x["anna"].to(torch.bfloat16), "train")
    assert rounded.picture.dtype == torch.float32
    assert same(exact, rounded, 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_on_the_meta_device_takes_the_weights_of_another(name: str) -> None:
    model, x = build(name).eval(), faces(name)["anna"]
    with torch.device("meta"):
        empty = autoencoders.module(name).build(sketch(name), PEOPLE, Layers(MASKED)).eval()
    empty.load_state_dict(model.state_dict(), assign=True)
    with torch.inference_mode():
        assert same(model.swap(x, "train"), empty.swap(x, "train"))


@pytest.mark.parametrize("name", NAMES)
def test_masks_can_be_dropped(name: str) -> None:
    model, x = build(name).eval(), faces(name)["anna"]
    with torch.inference_mode():
        before = model.swap(x, "train")
        model.drop_masks()
        after = model.swap(x, "train")
    assert after.mask is None
    assert torch.equal(before.picture, after.picture)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    one, other = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.mark.parametrize("name", NAMES)
def test_presets_survive_json_and_have_the_shapes_they_say(name: str) -> None:
    module = autoencoders.module(name)
    assert next(iter(module.PRESETS)) == "sketch"
    assert autoencoders.preset(name, "") == module.Config()
    for config in {"": module.Config(), **module.PRESETS}.values():
        options = json.loads(json.dumps(autoencoders.options(config)))
        assert autoencoders.config(name, options) == config
        with torch.device("meta"):
            model = module.build(config, PEOPLE[:2], Layers(MASKED)).eval()
            out = model.swap(torch.empty(2, 3, config.input_size, config.input_size), "train")
        assert out.picture.shape == (2, 3, config.output_size, config.output_size)
        assert out.mask.shape == (2, 1, config.output_size, config.output_size)


@pytest.mark.parametrize("value", [None, -1, 10**9, "nonsense", (), (0,), [8], float("nan"), {}])
@pytest.mark.parametrize("name", NAMES)
def test_nonsense_in_any_option_is_refused_by_name(name: str, value: Any) -> None:
    for field in fields(sketch(name)):
        with pytest.raises(ConfigError, match=rf"^{name}\."):
            replace(sketch(name), **{field.name: value})


def test_strange_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^original\.wings is no option of the architecture original; it has: base,"):
        autoencoders.config("original", {"wings": 2})
    with pytest.raises(ConfigError, match=r"^there is no architecture named 'cubist'; there are: .*original"):
        autoencoders.config("cubist", {})
    with pytest.raises(ConfigError, match="has no preset 'vast'; it has: sketch, light"):
        autoencoders.preset("original", "vast")


def test_options_come_over_the_preset() -> None:
    config = autoencoders.chosen("original", "sketch", {"dense": 8, "decoder": (8, 8, 8)})
    assert config == replace(sketch("original"), dense=8, decoder=(8, 8, 8))
    assert autoencoders.chosen("original", "", {}) == autoencoders.module("original").Config()
    assert autoencoders.chosen("original", "", {"encoder": [8, 8]}).encoder == (8, 8)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("cubist", "", {}), r"^train\.architecture: there is none named 'cubist'; there are: "),
        (("original", "vast", {}), r"^train\.preset: architecture original has no preset 'vast'; it has: sketch, "),
        (("original", "", {"wings": 2}), r"^train\.options\.wings is no option of the architecture original"),
        (("original", "", {"size": 65}), r"^train\.options\.size must be a whole number from 32 to 1024 in steps"),
    ],
)
def test_what_cannot_be_chosen_is_named_by_its_setting(asked: tuple[str, str, dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        autoencoders.chosen(*asked)
