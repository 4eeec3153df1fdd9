"""models.transfer: what one model learnt, another begins with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models import checkpoint, transfer
from models.autoencoders import iae, original
from models.layer_options import LayerOptions
from models.train.recipe import Transfer
from pipeline.errors import ConfigError, WeightsError

MINI = original.Config(32, (8, 16, 16), 16, 8, 8, (8, 8, 8))
WIDER = original.Config(32, (8, 16, 16), 16, 8, 8, (8, 12, 8))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new(people: tuple[str, ...], seed: int = 1, config: original.Config = MINI, **more: LayerOptions) -> Any:
    return checkpoint.new("original", config, people=people, seed=seed, **more)[0]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A model that knows anna, bert and cleo."""
    folder = tmp_path / "old"
    checkpoint.save(folder, *checkpoint.new("original", MINI, people=("anna", "bert", "cleo"), seed=9))
    return folder


def same(one: Any, other: Any) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_people_start_from_whom_they_are_told_else_their_namesake_else_the_first(old: Path) -> None:
    model = new(("dora", "bert", "emil"))
    notes = transfer.start(model, Transfer(old, {"dora": "cleo"}))
    theirs = checkpoint.load(old)[0]
    assert same(model.encoder, theirs.encoder)
    assert same(model.decoders["dora"], theirs.decoders["cleo"])
    assert same(model.decoders["bert"], theirs.decoders["bert"])
    assert same(model.decoders["emil"], theirs.decoders["anna"])
    count = len(model.state_dict())
    assert notes[0] == f"{count} of {count} tensors taken over from {old}"
    assert notes[1] == "people start from: dora from cleo, bert from bert, emil from anna"
    assert len(notes) == 2


def test_a_person_who_is_called_like_a_part(tmp_path: Path) -> None:
    people = ("face", "0", "weight")
    checkpoint.save(tmp_path, *checkpoint.new("original", MINI, people=people, seed=9))
    model, theirs = new(("weight", "0")), checkpoint.load(tmp_path)[0]
    notes = transfer.start(model, Transfer(tmp_path, {"0": "face", "weight": "0"}))
    assert same(model.encoder, theirs.encoder)
    assert same(model.decoders["0"], theirs.decoders["face"])
    assert same(model.decoders["weight"], theirs.decoders["0"])
    assert len(notes) == 2


def test_what_does_not_fit_starts_anew_and_is_said(old: Path) -> None:
    model, untouched = (new(("anna", "bert"), config=WIDER, layers=LayerOptions(mask=True)) for _ in range(2))
    notes = transfer.start(model, Transfer(old))
    theirs = checkpoint.load(old)[0]
    assert same(model.encoder, theirs.encoder)
    assert same(model.decoders["bert"].mask, untouched.decoders["bert"].mask)
    assert torch.equal(
        model.state_dict()["decoders.bert.face.1.convolution.weight"],
        untouched.state_dict()["decoders.bert.face.1.convolution.weight"],
    )
    fitting = len(theirs.encoder.state_dict()) + 2 * (len(theirs.decoders["anna"].state_dict()) - 3)
    assert notes[0] == f"{fitting} of {len(model.state_dict())} tensors taken over from {old}"
    assert notes[2].startswith("decoders.anna.face.1.convolution.weight, decoders.anna.face.1.convolution.bias, ")
    assert notes[2].endswith(" and 3 more differ in shape and start anew")
    assert notes[3].startswith("decoders.anna.mask.0.convolution.weight, ")
    assert notes[3].endswith(" and 13 more are not in it and start anew")


def test_the_old_model_stays_as_it_is(old: Path) -> None:
    before = {file: file.read_bytes() for file in old.iterdir()}
    model = new(("anna", "bert"))
    transfer.start(model, Transfer(old))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert {file: file.read_bytes() for file in old.iterdir()} == before


def test_a_model_of_which_nothing_fits(old: Path) -> None:
    other = original.Config(64, (12, 20, 28, 36), 24, 12, 20, (20, 28, 36))
    with pytest.raises(ConfigError, match=r"nothing in .*old \(original\) fits this model; start from one of"):
        transfer.start(new(("anna", "bert"), config=other), Transfer(old))
    with pytest.raises(WeightsError, match="does not exist"):
        transfer.start(new(("anna", "bert")), Transfer(old / "er"))
    assert transfer.start(new(("anna", "bert")), Transfer()) == ()


def test_strangers(old: Path) -> None:
    with pytest.raises(ConfigError, match=r"people: .*old knows anna, bert, cleo, not 'zoe'"):
        transfer.start(new(("anna", "bert")), Transfer(old, {"anna": "zoe"}))
    with pytest.raises(ConfigError, match="people: this model knows anna, bert, not 'zoe'"):
        transfer.start(new(("anna", "bert")), Transfer(old, {"zoe": "anna"}))


def test_layers_between_are_people_s_own_too(tmp_path: Path) -> None:
    smallest = next(iter(iae.PRESETS.values()))
    checkpoint.save(tmp_path, *checkpoint.new("iae", smallest, people=("anna", "bert", "cleo"), seed=9))
    model, theirs = checkpoint.new("iae", smallest, people=("x", "y"))[0], checkpoint.load(tmp_path)[0]
    assert len(transfer.start(model, Transfer(tmp_path, {"x": "bert", "y": "cleo"}))) == 2
    assert same(model.decoder, theirs.decoder)
    assert same(model.inters["x"], theirs.inters["bert"])
    assert same(model.inters["y"], theirs.inters["cleo"])


def test_freezing() -> None:
    model = new(("anna", "bert"))
    frozen = transfer.freeze(model, ("encoder", "decoders.anna"))
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert names == {name for name, _ in model.named_parameters() if name.startswith(("encoder.", "decoders.anna."))}
    assert frozen == sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    assert transfer.freeze(model, ("encoder",)) == 0
    assert transfer.freeze(model, ()) == 0


@pytest.mark.parametrize("prefix", ["encode", "decoders.ann", "encoder.0.", "inter"])
def test_freezing_what_is_not_there(prefix: str) -> None:
    model = new(("anna", "bert"))
    with pytest.raises(
        ConfigError, match=rf"no part '{prefix}'; it has: decoders, decoders\.anna, decoders\.bert, enc"
    ):
        transfer.freeze(model, (prefix,))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_something_has_to_be_left() -> None:
    with pytest.raises(ConfigError, match="leaves nothing"):
        transfer.freeze(new(("anna", "bert")), ("encoder", "decoders"))


def learn(model: Any, faces: dict[str, torch.Tensor], steps: int, lr: float = 2e-3) -> float:
    """The mean absolute error after some steps."""
    model.train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimiser.zero_grad()
        decoded, _ = model(faces)
        error = torch.stack([(decoded[person].picture - faces[person]).abs().mean() for person in faces]).mean()
        error.backward()
        optimiser.step()
    return error.item()


def test_pretraining_on_many_and_fine_tuning_on_two(tmp_path: Path) -> None:
    """What four people taught the encoder is worth more than a fresh start, and stays while it is frozen."""
    generator = torch.Generator().manual_seed(4)
    people = ("anna", "bert", "cleo", "dora", "x", "y")
    coarse = torch.rand(len(people), 4, 3, 4, 4, generator=generator)
    faces = {p: torch.nn.functional.interpolate(c, 32, mode="bilinear") for p, c in zip(people, coarse, strict=True)}
    model, description = checkpoint.new("original", MINI, people=people[:4], seed=3)
    learn(model, {person: faces[person] for person in people[:4]}, 60)
    checkpoint.save(tmp_path, model, description)

    two = {person: faces[person] for person in ("x", "y")}
    fresh, tuned = new(("x", "y")), new(("x", "y"))
    transfer.start(tuned, Transfer(tmp_path, {"x": "anna", "y": "dora"}))
    transfer.freeze(tuned, ("encoder.0",))
    before = tuned.encoder[0].state_dict()["0.weight"].clone()
    assert learn(tuned, two, 15) < learn(fresh, two, 15) - 0.01
    assert torch.equal(tuned.encoder[0].state_dict()["0.weight"], before)
