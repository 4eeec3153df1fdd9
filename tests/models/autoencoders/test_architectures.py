"""Every file of models/autoencoders, whichever there are: shapes, wiring, learning; and the known parameter totals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from models import autoencoders, blocks
from models.autoencoders import original
from pipeline.errors import ConfigError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smallest(name: str) -> Any:
    return next(iter(autoencoders.module(name).PRESETS.values()))


def build(name: str, people: tuple[str, ...] = ("a", "b")) -> Any:
    torch.manual_seed(0)
    return autoencoders.module(name).build(smallest(name), people)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_original_is_there() -> None:
    assert "original" in autoencoders.names()


def test_parameter_totals_of_the_original() -> None:
    with torch.device("meta"):
        model = original.build(original.PRESETS["original"], ("a", "b"))
        small = original.build(original.PRESETS["lowmem"], ("a", "b"))
    assert count(model.encoder) == 69_662_976
    assert count(model.decoders["a"]) == count(model.decoders["b"]) == 6_199_747
    assert count(model) == 82_062_470
    assert count(small) == 60_565_126


@pytest.mark.parametrize("preset", list(original.PRESETS))
def test_presets_have_the_shapes_they_say(preset: str) -> None:
    config = original.PRESETS[preset]
    with torch.device("meta"):
        model = original.build(config, ("a", "b"))
        out = model.swap(torch.empty(2, 3, config.size, config.size), "b")
    assert out.shape == (2, 3, config.output_size, config.output_size)


@pytest.mark.parametrize("name", autoencoders.names())
def test_shapes_and_range(name: str) -> None:
    config, model = smallest(name), build(name)
    side = config.input_size
    with torch.inference_mode():
        out = model.swap(torch.rand(3, 3, side, side), "b")
    assert out.shape == (3, 3, config.output_size, config.output_size)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("name", autoencoders.names())
def test_people_differ_and_each_picture_stands_alone(name: str) -> None:
    model = build(name, ("a", "b", "third")).eval()
    x = torch.rand(2, 3, smallest(name).input_size, smallest(name).input_size)
    with torch.inference_mode():
        outs = {person: model.swap(x, person) for person in ("a", "b", "third")}
        assert not torch.allclose(outs["a"], outs["b"])
        assert not torch.allclose(outs["b"], outs["third"])
        assert torch.allclose(model.swap(x[1:], "b"), outs["b"][1:], atol=1e-5)
        with pytest.raises(KeyError):
            model.swap(x, "stranger")


@pytest.mark.parametrize("name", autoencoders.names())
def test_steps_lower_the_loss_on_a_fixed_batch(name: str) -> None:
    model = build(name)
    x = torch.rand(4, 3, smallest(name).input_size, smallest(name).input_size)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = sum((model.swap(x, person) - x).abs().mean() for person in ("a", "b"))
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0] * 0.98
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", autoencoders.names())
def test_options_survive_json(name: str) -> None:
    config = smallest(name)
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    assert autoencoders.config(name, options) == config
    with pytest.raises(ConfigError, match="no option 'wings'"):
        autoencoders.config(name, options | {"wings": 2})


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 40},
        {"size": 0},
        {"size": 2048},
        {"dense": 0},
        {"dense": 1.5},
        {"base": True},
        {"encoder": ()},
        {"encoder": (3, -1)},
        {"decoder": "wide"},
        {"latent": None},
    ],
)
def test_impossible_originals_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"original\."):
        replace(original.Config(), **changes)


def test_other_sizes_work() -> None:
    config = original.Config(128, (8, 8, 8, 8, 8), 16, 8, 8, (8, 8, 8, 8))
    with torch.inference_mode():
        assert original.build(config, ("a", "b")).swap(torch.rand(1, 3, 128, 128), "a").shape == (1, 3, 128, 128)


def test_blocks() -> None:
    x = torch.randn(2, 6, 8, 8)
    assert blocks.Down(6, 10)(x).shape == (2, 10, 4, 4)
    assert blocks.Up(6, 10)(x).shape == (2, 10, 16, 16)
    picture = blocks.Out(6).bfloat16()(x.bfloat16())
    assert picture.shape == (2, 3, 8, 8)
    assert picture.dtype == torch.float32
    weight = blocks.convolution(6, 10, 5).weight
    assert weight.abs().max() <= (6 / (6 * 25)) ** 0.5  # He's uniform bound
    assert blocks.Down(6, 10)[1].negative_slope == blocks.Up(6, 10).activation.negative_slope == 0.1
