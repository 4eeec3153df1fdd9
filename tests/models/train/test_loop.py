"""models.train.loop: it learns, resumes to the bit, survives what breaks, and ends and saves when it shall."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import checkpoint, kept
from models.description import read as read_description
from models.faceset import FaceSet
from models.layer_options import LayerOptions
from models.reports import identity
from models.train import clock, loop
from models.train import step as step_module
from models.train.clock import Progress
from models.train.journal import FILE as JOURNAL
from models.train.journal import records
from models.train.loop import Around, train, try_rates
from models.train.objective import Objective
from models.train.recipe import (
    OPTIMISERS,
    Augment,
    Config,
    Data,
    Judge,
    Losses,
    Memory,
    Monitor,
    Optimiser,
    Safety,
    Transfer,
)
from models.train.session import Session
from models.train.step import Learner, Stopped
from models.train.world import World
from pipeline.errors import ConfigError, InputError, RequirementError, WeightsError
from tests.faces import face_set
from tests.models.train.trainings import CONFIG, AfterSteps, assert_same, iterations

Sets = Mapping[str, FaceSet]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("three")
    return {person: face_set(folder / person, person) for person in ("a", "b", "c")}


@pytest.fixture(scope="module")
def sets(three: Sets) -> Sets:
    return {person: three[person] for person in ("a", "b")}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    """So many faces that some can be held out."""
    folder = tmp_path_factory.mktemp("many")
    return {person: face_set(folder / person, person, 16) for person in ("a", "b")}


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(checkpoint.load(folder)[0].state_dict())


def told(folder: Path, kind: str = "event") -> list[dict[str, Any]]:
    """The journal's records of a kind."""
    return [record for record in records(folder / JOURNAL) if record["kind"] == kind]


def happened(folder: Path) -> list[str]:
    return [event["what"] for event in told(folder)]


def test_it_learns_who_is_who(sets: Sets, tmp_path: Path) -> None:
    config = replace(CONFIG, iterations=90, batch=8, optimiser=Optimiser(lr=3e-3), monitor=Monitor(report=False))
    seen: list[Progress] = []
    result = train(config, sets, tmp_path, Around(seen.append))
    assert (result.ended, result.steps, result.description.iterations) == ("iterations", 90, 90)
    assert result.description == read_description(tmp_path)
    assert result.description.faces == 90 * 16
    assert seen[-1].saved and seen[-1].share == 1 and seen[-1].loss.keys() == {"a", "b"}
    assert result.faces_per_s > 0
    model = checkpoint.load(tmp_path)[0]
    crop = torch.from_numpy(sets["a"].load(sets["a"].faces[0])[0][11:53, 11:53]).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        x = nn.functional.interpolate(crop, 32)
        as_a, as_b = (model.swap(x, person).picture[0, :, 12:20, 12:20].mean((1, 2)) for person in ("a", "b"))
    assert as_a[0] > as_a[2] + 0.2, "a is red"
    assert as_b[2] > as_b[0] + 0.2, "b is blue"


# A training in parts


def optimiser(**settings: Any) -> dict[str, Any]:
    return {"optimiser": replace(CONFIG.optimiser, **settings)}


def preset(architecture: str) -> dict[str, Any]:
    return {"architecture": architecture, "preset": "sketch", "options": {}, "batch": 2}


ALL_ELSE = {"lr_dropout": 0.3, "accumulate": 2, "clip": 1.0, "weight_decay": 0.01}
WAYS: dict[str, dict[str, Any]] = {
    **{name: optimiser(name=name) for name in OPTIMISERS},
    **{f"{name}, all else, bf16": optimiser(name=name, **ALL_ELSE) | {"precision": "bf16"} for name in OPTIMISERS},
    "warm-up and cosine": optimiser(warmup=3, lr_end=0.1),
    "one person": {"memory": Memory(one_person=True)},
    "optimiser on the CPU": {"memory": Memory(optimiser_on_cpu=True)},
    "checkpointing": {"memory": Memory(checkpointing=True), "precision": "bf16"},
    "adversaries and style": {"losses": Losses(gan=0.1, true_face=0.1, style=0.1)},
    "adversaries, bf16, in parts": {"losses": Losses(gan=0.1, true_face=0.1), "precision": "bf16"}
    | optimiser(accumulate=2),
    "every distortion": {"augment": Augment(clahe=0.5, transfer=0.5, blur=0.5, compression=0.5, warp="landmarks")},
    "learned mask": {"layers": LayerOptions(mask=True)},
    "dropout of channels": preset("unbalanced"),
    "dropout and batch norm": preset("dlight"),
}


def resumed(
    config: Config, sets: Sets, folder: Path, patch: pytest.MonkeyPatch, first: Mapping[str, Any] | None = None
) -> None:
    """Trains once in one piece and once in two; fails where they differ. `first` changes the first part's settings."""
    whole = train(config, sets, folder / "whole")
    assert whole.ended == "iterations"
    with patch.context() as within:
        result = train(replace(config, **(first or {})), sets, folder / "parts", Around(stop=AfterSteps(within, 2)))
        assert (result.ended, result.steps, iterations(folder / "parts")) == ("stopped", 2, 2)
    result = train(config, sets, folder / "parts")
    assert (result.ended, result.steps) == ("iterations", config.iterations - 2)
    assert result.metrics == whole.metrics
    assert_same(folder / "whole", folder / "parts")


@pytest.mark.parametrize("way", WAYS)
def test_sessions_add_up_to_one(way: str, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed(replace(CONFIG, **WAYS[way]), sets, tmp_path, monkeypatch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sessions_of_three_add_up(precision: Any, three: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed(replace(CONFIG, people_per_step=2, precision=precision, iterations=6), three, tmp_path, monkeypatch)


def test_sessions_with_judgements_add_up(many: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "LEAST", 99)  # or each session would teach a classifier
    resumed(replace(CONFIG, judge=Judge(every=2, faces=4)), many, tmp_path, monkeypatch)


def test_sessions_with_workers_add_up(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker drew ahead of the end is drawn again after it, here in the loop itself."""
    resumed(CONFIG, sets, tmp_path, monkeypatch, {"data": Data(workers=1, prefetch=3)})


def test_killed_and_taken_up_from_the_last_save(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, safety=Safety(save_iterations=2))
    train(config, sets, tmp_path / "whole")

    class Killed(BaseException):
        pass

    learn = Session.learn

    def until_killed(session: Session, *args: Any) -> None:
        if session.iteration == 3:
            raise Killed
        learn(session, *args)

    with monkeypatch.context() as within, pytest.raises(Killed):
        within.setattr(Session, "learn", until_killed)
        train(config, sets, tmp_path / "killed")
    assert iterations(tmp_path / "killed") == 2
    train(config, sets, tmp_path / "killed")
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_other_draws_make_another_model(sets: Sets, tmp_path: Path) -> None:
    for seed in (1, 2):
        train(replace(CONFIG, seed=seed), sets, tmp_path / str(seed))
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "1", tmp_path / "2")


# What breaks


class Spoiled:
    """Spoils every loss of some steps, counted as they are tried: 0 is the first."""

    def __init__(
        self, patch: pytest.MonkeyPatch, when: Callable[[int], bool], spoil: Callable[[Tensor], Tensor]
    ) -> None:
        self.tried = -1
        self.asked: list[tuple[int, float, int, Tensor]] = []  # step, rate, seed, first input
        learn = Learner.learn
        outer = self

        def watched(learner: Learner, batches: Any, rate: float, step: int, seed: int) -> Any:
            outer.tried += 1
            outer.asked.append((step, rate, seed, batches["a"].input.clone()))
            return learn(learner, batches, rate, step, seed)

        class Broken(Objective):
            def __call__(self, *args: Any) -> dict[str, Tensor]:
                terms = super().__call__(*args)
                return {name: spoil(term) for name, term in terms.items()} if when(outer.tried) else terms

        patch.setattr(Learner, "learn", watched)
        patch.setattr(step_module, "Objective", Broken)


BREAKDOWNS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (lambda term: term * float("nan"), "the loss of a is nan"),
    "infinity": (lambda term: term / 0, "the loss of a is inf"),
    "gradient": (lambda term: term + ((term - term.detach()) * 0).sqrt(), "the gradient's norm is nan"),
}


@pytest.mark.parametrize("kind", BREAKDOWNS)
def test_a_breakdown_goes_back_to_the_last_save(
    kind: str, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, said = BREAKDOWNS[kind]
    broken = Spoiled(monkeypatch, lambda tried: tried == 3, spoil)
    events: list[str] = []
    config = replace(CONFIG, safety=Safety(save_iterations=2), iterations=6, losses=Losses(gan=0.1))
    result = train(config, sets, tmp_path, Around(on_event=events.append))
    assert (result.ended, result.steps) == ("iterations", 6)
    sentence = f"training broke down at step 4: {said}; back to step 2, with steps half as long"
    assert events == [sentence]
    assert [event["text"] for event in told(tmp_path) if event["what"] == "rolled back"] == [sentence]
    steps, rates, seeds, inputs = zip(*broken.asked, strict=True)
    assert steps == (0, 1, 2, 3, 2, 3, 4, 5)
    assert rates == (1e-3,) * 4 + (5e-4,) * 4
    assert len(set(seeds[:4])) == len(set(seeds[4:])) == 1 and seeds[0] != seeds[4]
    assert not torch.equal(inputs[2], inputs[4])
    assert all(value.isfinite().all() for value in weights(tmp_path).values())
    state, _ = checkpoint.load_state(tmp_path, read_description(tmp_path))
    assert all(value.isfinite().all() for value in state.values())


def test_after_a_breakdown_it_is_as_if_the_save_had_just_been_taken_up(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the broken steps is left: neither moments nor adversaries, nor anything drawn ahead."""
    config = replace(CONFIG, safety=Safety(save_iterations=2), iterations=5, losses=Losses(gan=0.1))
    with monkeypatch.context() as within:
        Spoiled(within, lambda tried: tried == 3, BREAKDOWNS["NaN"][0])
        train(config, sets, tmp_path / "broken")
    with monkeypatch.context() as within:
        train(config, sets, tmp_path / "anew", Around(stop=AfterSteps(within, 2)))
    begin = Session.begin

    def second_attempt(*args: Any) -> Session:
        session = begin(*args)
        session.record.attempt = 1
        return session

    monkeypatch.setattr(loop.Session, "begin", second_attempt)
    train(config, sets, tmp_path / "anew")
    assert_same(tmp_path / "broken", tmp_path / "anew")


def test_after_a_save_that_failed_and_a_breakdown_the_next_save_comes_no_later(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spoiled(monkeypatch, lambda tried: tried == 4, BREAKDOWNS["NaN"][0])
    events: list[str] = []
    Disk(monkeypatch, lambda: "saved" in happened(tmp_path)[1:] and not events)
    config = replace(CONFIG, safety=Safety(save_iterations=2), iterations=7)
    train(config, sets, tmp_path, Around(on_event=events.append))
    assert len(events) == 2 and "No space left" in events[0] and "; back to step 2" in events[1]
    assert [event["iteration"] for event in told(tmp_path) if event["what"] == "saved"] == [0, 2, 4, 6, 7]


def test_before_the_first_save_there_is_something_to_go_back_to(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spoiled(monkeypatch, lambda tried: tried == 0, BREAKDOWNS["NaN"][0])
    result = train(CONFIG, sets, tmp_path)
    assert result.steps == 4 and happened(tmp_path)[:2] == ["saved", "rolled back"]


def test_what_was_turned_on_late_can_break_and_go_on(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save that is gone back to knows neither the adversary nor the optimiser."""
    train(replace(CONFIG, iterations=2), sets, tmp_path)
    Spoiled(monkeypatch, lambda tried: tried == 0, BREAKDOWNS["NaN"][0])
    late = replace(CONFIG, losses=Losses(gan=0.1), optimiser=Optimiser("lion", lr=1e-4))
    result = train(late, sets, tmp_path)
    assert (result.steps, happened(tmp_path).count("rolled back")) == (2, 1)


def test_it_gives_up_after_so_many(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Spoiled(monkeypatch, lambda tried: tried >= 2, BREAKDOWNS["NaN"][0])
    config = replace(CONFIG, safety=Safety(save_iterations=2, rollbacks=3))
    with pytest.raises(WeightsError, match=r"broke down at step 3: .* the model of step 2 in .* is kept; train with a"):
        train(config, sets, tmp_path)
    assert broken.tried == 2 + 3
    assert [rate for _, rate, _, _ in broken.asked[2:]] == [1e-3, 5e-4, 2.5e-4, 1.25e-4]
    assert iterations(tmp_path) == 2
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_a_collapse_goes_back_too(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Spoiled(monkeypatch, lambda tried: tried == 60, lambda term: term * 30)
    events: list[str] = []
    config = replace(CONFIG, iterations=62, safety=Safety(save_iterations=55), batch=1)
    train(config, sets, tmp_path, Around(on_event=events.append))
    (sentence,) = events
    assert sentence.startswith("training broke down at step 61: the loss of a is")
    assert "times what it was; back to step 55, with steps half as long" in sentence


class Full:
    """A network's first convolution with room for so many faces."""

    def __init__(self, patch: pytest.MonkeyPatch, room: int, error: Exception) -> None:
        begin = Session.begin

        def begun(*args: Any) -> Session:
            session = begin(*args)
            layer = next(part for part in session.model.modules() if isinstance(part, nn.Conv2d))
            layer.register_forward_pre_hook(full)
            return session

        def full(layer: nn.Module, given: tuple[Tensor]) -> None:
            if len(given[0]) > room:
                raise error

        patch.setattr(loop.Session, "begin", begun)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")],
    ids=["gpu", "cpu"],
)
def test_out_of_memory_is_an_ordinary_event(
    error: Exception, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(CONFIG, sets, tmp_path / "plain")
    Full(monkeypatch, 2, error)  # of 8
    events: list[str] = []
    result = train(CONFIG, sets, tmp_path / "full", Around(on_event=events.append))
    assert (result.ended, result.steps) == ("iterations", 4)
    assert result.description.loss == pytest.approx(plain.description.loss, rel=1e-3)
    assert events == ["cpu is out of memory: faces now go through the network in 4 parts a step"]
    assert [event["text"] for event in told(tmp_path / "full") if event["what"] == "out of memory"] == events


def test_a_gpu_without_room_for_one_face_is_named(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Full(monkeypatch, 1, torch.OutOfMemoryError("full"))
    with pytest.raises(RequirementError, match="not enough free memory for one face of each person"):
        train(CONFIG, sets, tmp_path)
    assert iterations(tmp_path) == 0, "the model is there, as it was"


# Ends


@pytest.mark.parametrize("back", [False, True], ids=["there", "and back"])
def test_a_stop_within_a_step_leaves_that_step_out(
    back: bool, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop comes while a layer computes; every other one would still take its time."""
    config = replace(CONFIG, **preset("dlight"), monitor=Monitor(report=False))
    train(replace(config, iterations=1), sets, tmp_path / "one")
    begin = Session.begin
    asked, passed = [False], [0]

    def slow(layer: nn.Module, *_: object) -> None:
        if layer.training:  # not where a preview is drawn
            time.sleep(1.0 if asked[0] else 0.0)
            passed[0] += 1
            asked[0] = passed[0] > 40

    def begun(*args: Any) -> Session:
        session = begin(*args)
        for layer in [part for part in session.model.modules() if isinstance(part, nn.Conv2d)][1:]:
            if back:
                layer.register_full_backward_hook(slow)
            else:
                layer.register_forward_hook(slow)
        return session

    monkeypatch.setattr(loop.Session, "begin", begun)
    layers = sum(isinstance(part, nn.Conv2d) for part in checkpoint.load(tmp_path / "one")[0].modules()) - 1
    assert 40 // layers == 1, "the stop comes in the second step"
    result = train(replace(config, iterations=9), sets, tmp_path / "stopped", Around(stop=lambda: asked[0]))
    assert (result.ended, result.steps, passed[0]) == ("stopped", 1, 41)
    assert result.preview is not None and result.preview.is_file()
    ours, theirs = weights(tmp_path / "stopped"), weights(tmp_path / "one")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_stop_before_the_first_step_saves(sets: Sets, tmp_path: Path) -> None:
    result = train(CONFIG, sets, tmp_path, Around(stop=lambda: True))
    assert (result.ended, result.steps, iterations(tmp_path)) == ("stopped", 0, 0)


def test_time_ends_it(sets: Sets, tmp_path: Path) -> None:
    shares: list[float | None] = []
    around = Around(lambda progress: shares.append(progress.share))
    result = train(replace(CONFIG, iterations=10**6, minutes=0.01), sets, tmp_path, around)
    assert result.ended == "minutes" and 0 < result.steps < 10**6 and shares[-1] == 1
    assert result.seconds >= 0.6


def test_so_many_steps_in_all_end_it(sets: Sets, tmp_path: Path) -> None:
    for wanted, taken in ((2, 2), (3, 1), (3, 0)):
        result = train(replace(CONFIG, iterations=wanted), sets, tmp_path)
        assert (result.ended, result.steps, result.description.iterations) == ("iterations", taken, wanted)
    assert result.description.session == 3
    sessions = told(tmp_path, "session")
    assert [(each["number"], each["iteration"]) for each in sessions] == [(1, 0), (2, 2), (3, 3)]
    assert [(each["reason"], each["iteration"]) for each in told(tmp_path, "end")] == [
        ("iterations", reached) for reached in (2, 3, 3)
    ]


class Judged:
    """A judge with an opinion of its own."""

    def __init__(self, patch: pytest.MonkeyPatch, *values: float) -> None:
        self._values = list(values)
        outer = self

        class Opinion:
            def __init__(self, *args: Any, **settings: Any) -> None:
                pass

            def __call__(self, model: nn.Module, stop: Callable[[], bool]) -> dict[str, float]:
                return {"ssim": outer._values.pop(0)}

        patch.setattr(loop, "Judge", Opinion)


def test_the_best_is_kept_and_patience_ends_it(many: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Judged(monkeypatch, 0.5, 0.7, 0.6, 0.7, 0.9)
    events: list[str] = []
    config = replace(CONFIG, iterations=100, judge=Judge(every=2, best="ssim", patience=2))
    result = train(config, many, tmp_path, Around(on_event=events.append))
    assert (result.ended, result.steps, result.metrics) == ("patience", 8, {"ssim": 0.7})
    assert events == ["best: ssim 0.5", "best: ssim 0.7"]
    (best,) = (entry for entry in kept.entries(tmp_path) if entry.kind == "best")
    assert best.iteration == 4 and not kept.check(tmp_path, best)
    assert [(each["iteration"], each["metrics"]["ssim"]) for each in told(tmp_path, "judgement")] == [
        (2, 0.5),
        (4, 0.7),
        (6, 0.6),
        (8, 0.7),
    ]
    assert train(config, many, tmp_path).steps == 0, "still no better"
    Judged(monkeypatch, 0.8)
    more = train(replace(config, judge=replace(config.judge, patience=3), iterations=10), many, tmp_path)
    assert more.ended == "iterations"
    (best,) = (entry for entry in kept.entries(tmp_path) if entry.kind == "best")
    assert best.iteration == 10


def test_it_is_judged_by_faces_it_never_saw(many: Sets, tmp_path: Path) -> None:
    result = train(replace(CONFIG, judge=Judge(every=4, faces=4)), many, tmp_path)
    assert {"ssim", "psnr", "ssim/a", "sharpness/a>b"} <= result.metrics.keys()
    assert told(tmp_path, "judgement")[0]["metrics"].keys() == result.metrics.keys()
    assert result.notes == ()


@pytest.mark.parametrize("held_out", [0.1, 0.0])
def test_too_few_to_judge_by_are_told(held_out: float, sets: Sets, tmp_path: Path) -> None:
    config = replace(CONFIG, judge=Judge(every=1, patience=1), data=Data(held_out=held_out))
    result = train(config, sets, tmp_path)
    assert result.ended == "iterations" and not told(tmp_path, "judgement")
    assert result.notes == ("the model is not judged: a and b has too few faces to hold some out, or held_out is 0",)


def test_a_stop_does_not_wait_for_a_judgement(many: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [False]
    landmarks_of: list[int] = []

    def landmarks(crops: Any) -> list[None]:
        asked[0] = True
        landmarks_of.append(len(crops))
        return [None] * len(crops)

    config = replace(CONFIG, judge=Judge(every=2, faces=4))
    result = train(config, many, tmp_path, Around(stop=lambda: asked[0], landmarks=landmarks))
    assert (result.ended, result.steps, result.metrics) == ("stopped", 2, {})
    assert len(landmarks_of) == 1


# What is kept and shown on the way


def test_it_saves_every_so_many_steps(sets: Sets, tmp_path: Path) -> None:
    saved: list[int] = []
    around = Around(lambda progress: saved.append(progress.iteration) if progress.saved else None)
    train(replace(CONFIG, safety=Safety(save_iterations=3), iterations=7), sets, tmp_path, around)
    assert saved == [0, 3, 6, 7]
    assert [event["iteration"] for event in told(tmp_path) if event["what"] == "saved"] == saved


class Saves:
    """The step of each save, as it is tried."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        save = checkpoint.save

        def counted(folder: Path, model: nn.Module, description: Any, *more: Any) -> Any:
            self.steps.append(description.iterations)
            return save(folder, model, description, *more)

        patch.setattr(checkpoint, "save", counted)


def test_what_was_just_saved_is_not_saved_again(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = Saves(monkeypatch)
    config = replace(CONFIG, safety=Safety(save_iterations=2), monitor=Monitor(report=False))
    result = train(config, sets, tmp_path)
    assert saves.steps == [0, 2, 4]
    assert result.description == read_description(tmp_path) and result.preview == tmp_path / "preview.png"
    train(config, sets, tmp_path)
    assert saves.steps == [0, 2, 4, 4], "another session, with nothing saved yet"


def test_a_judgement_after_the_last_save_is_saved(many: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a training that was ended by patience would begin again."""
    Judged(monkeypatch, 0.5, 0.4)
    saves = Saves(monkeypatch)
    config = replace(CONFIG, iterations=100, judge=Judge(every=2, patience=1), safety=Safety(save_iterations=2))
    assert train(config, many, tmp_path).ended == "patience"
    assert saves.steps == [0, 2, 2, 4, 4]
    assert train(config, many, tmp_path).steps == 0


def test_what_was_taken_back_is_saved_in_the_end(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the weights are those of the last save: other draws come next."""
    Spoiled(monkeypatch, lambda tried: tried == 2, BREAKDOWNS["NaN"][0])
    saves = Saves(monkeypatch)
    events: list[str] = []
    config = replace(CONFIG, safety=Safety(save_iterations=2))
    train(config, sets, tmp_path, Around(on_event=events.append, stop=lambda: bool(events)))
    assert saves.steps == [0, 2, 2]
    facts = checkpoint.load_state(tmp_path, read_description(tmp_path))[1]
    assert json.loads(facts["record"])["attempt"] == 1


def test_a_last_save_that_failed_is_made_in_the_end(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    Disk(monkeypatch, lambda: bool(happened(tmp_path)) and not events)
    saves = Saves(monkeypatch)
    train(replace(CONFIG, safety=Safety(save_iterations=4)), sets, tmp_path, Around(on_event=events.append))
    assert len(events) == 1 and saves.steps == [0, 4, 4] and iterations(tmp_path) == 4


def test_it_saves_every_so_many_minutes(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    learn = Session.learn

    def a_minute(session: Session, *args: Any) -> None:
        learn(session, *args)
        now[0] += 60

    monkeypatch.setattr(loop.Session, "learn", a_minute)
    train(replace(CONFIG, safety=Safety(save_minutes=3), iterations=8), sets, tmp_path)
    assert [event["iteration"] for event in told(tmp_path) if event["what"] == "saved"] == [0, 3, 6, 8]


def test_snapshots_are_of_the_very_step(sets: Sets, tmp_path: Path) -> None:
    config = replace(CONFIG, safety=Safety(snapshot_iterations=2, backups=1), iterations=5)
    train(config, sets, tmp_path)
    train(replace(config, iterations=6), sets, tmp_path)
    kinds = {kind: [e.iteration for e in kept.entries(tmp_path) if e.kind == kind] for kind in ("snapshot", "backup")}
    assert kinds["snapshot"] == [6, 4, 2] and len(kinds["backup"]) == 1
    assert all(not kept.check(tmp_path, entry) for entry in kept.entries(tmp_path))


SHOWN = {
    "preview": (Monitor(report=False), {"preview.png", "previews"}),
    "report": (Monitor(preview=False), {"report.html", "curves.png"}),
    "timelapse": (Monitor(preview=False, report=False, timelapse=True), {"timelapse", "timelapse.mp4"}),
    "tensorboard": (Monitor(preview=False, report=False, tensorboard=True), {"tensorboard"}),
    "nothing": (CONFIG.monitor, set()),
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_is_shown_can_be_chosen(what: str, sets: Sets, tmp_path: Path) -> None:
    monitor, files = SHOWN[what]
    result = train(replace(CONFIG, monitor=monitor, safety=Safety(backups=0)), sets, tmp_path)
    made = {entry.name for entry in tmp_path.iterdir()}
    assert {name for name in made if not name.startswith(("model.", "state."))} == {JOURNAL, *files}
    assert (result.preview == tmp_path / "preview.png") if what == "preview" else (result.preview is None)


def test_the_journal_says_where_it_is(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_REPORT_S", 0.0)
    config = replace(CONFIG, monitor=replace(CONFIG.monitor, report_s=0.1), losses=Losses(gan=0.1), iterations=12)
    seen: list[Progress] = []
    train(config, sets, tmp_path, Around(seen.append))
    (opening,) = told(tmp_path, "session")
    assert (opening["batch"], opening["faces_per_step"], opening["precision"], opening["world"]) == (4, 8, "fp32", 1)
    points = told(tmp_path, "point")
    assert points and all(point["terms"]["b"].keys() == {"ssim", "mae", "gan"} for point in points)
    assert all(point["lr"] == 1e-3 and point["faces_per_s"] > 0 and 0 <= point["waiting"] <= 1 for point in points)
    steps = [progress.iteration for progress in seen if not progress.saved]
    assert steps == list(range(1, 13))
    assert all(progress.share == pytest.approx(progress.steps / 12) for progress in seen)


def test_a_second_session_counts_its_own_share(sets: Sets, tmp_path: Path) -> None:
    train(replace(CONFIG, iterations=2), sets, tmp_path)
    seen: list[Progress] = []
    train(replace(CONFIG, safety=Safety(save_iterations=1)), sets, tmp_path, Around(seen.append))
    assert [progress.share for progress in seen if progress.saved] == [0.5, 1.0]


def test_what_could_not_be_used_is_told(sets: Sets, tmp_path: Path) -> None:
    broken = {**sets, "a": replace(sets["a"], junk=("faces.jsonl line 3: is not a face",))}
    assert train(replace(CONFIG, iterations=1), broken, tmp_path).notes == ("a: faces.jsonl line 3: is not a face",)


# Whom, and from what


def test_any_of_three_becomes_any_other(three: Sets, tmp_path: Path) -> None:
    train(replace(CONFIG, iterations=60, batch=8, optimiser=Optimiser(lr=5e-3)), three, tmp_path)
    model = checkpoint.load(tmp_path)[0]
    assert model.people == ("a", "b", "c")
    crop = torch.from_numpy(three["a"].load(three["a"].faces[0])[0][11:53, 11:53]).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        x = nn.functional.interpolate(crop, 32)
        middle = {p: model.swap(x, p).picture[0, :, 12:20, 12:20].mean((1, 2)) for p in model.people}
    assert {person: int(colour.argmax()) for person, colour in middle.items()} == {"a": 0, "b": 2, "c": 1}


def test_a_drawn_few_of_many_learn(three: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, ...]] = []
    learn = Learner.learn

    def watched(learner: Learner, batches: Any, *args: Any) -> Any:
        drawn.append(tuple(batches))
        return learn(learner, batches, *args)

    monkeypatch.setattr(Learner, "learn", watched)
    result = train(replace(CONFIG, people_per_step=2, iterations=12), three, tmp_path)
    assert {len(people) for people in drawn} == {2} and {person for people in drawn for person in people} == set("abc")
    assert result.description.faces == 12 * 2 * 4
    assert result.description.loss.keys() == set("abc")


def test_a_mask_is_learned(sets: Sets, tmp_path: Path) -> None:
    config = replace(CONFIG, layers=LayerOptions(mask=True), iterations=60, batch=8, optimiser=Optimiser(lr=5e-3))
    train(config, sets, tmp_path)
    model = checkpoint.load(tmp_path)[0]
    crop = torch.from_numpy(sets["a"].load(sets["a"].faces[0])[0][11:53, 11:53]).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        mask = model.swap(nn.functional.interpolate(crop, 32), "b").mask
    assert mask is not None
    assert mask[0, 0, 12:20, 12:20].mean() > mask[0, 0, :4, :4].mean() + 0.2


def test_pretrained_on_many_tuned_for_two(three: Sets, sets: Sets, tmp_path: Path) -> None:
    train(CONFIG, three, tmp_path / "many")
    transfer = Transfer(tmp_path / "many", people={"b": "c"}, freeze=("encoder",))
    result = train(replace(CONFIG, transfer=transfer), sets, tmp_path / "two")
    assert result.notes and result.description.people == ("a", "b")
    old, new = weights(tmp_path / "many"), weights(tmp_path / "two")
    for name, value in new.items():
        assert torch.equal(value, old[name.replace("decoders.b", "decoders.c")]) == name.startswith("encoder"), name


# Before anything is written


def test_nothing_is_made_where_nothing_can_be_trained(sets: Sets, tmp_path: Path) -> None:
    narrow = {**sets, "b": replace(sets["b"], coverage=0.9)}
    with pytest.raises(InputError, match=r"covers 0\.9 of a face"):
        train(CONFIG, narrow, tmp_path / "model")
    with pytest.raises(ConfigError):
        train(replace(CONFIG, preset="vast"), sets, tmp_path / "model")
    with pytest.raises(ConfigError, match="freeze"):
        train(replace(CONFIG, transfer=Transfer(freeze=("tail",))), sets, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_is_trained_by_one_at_a_time(sets: Sets, tmp_path: Path) -> None:
    train(CONFIG, sets, tmp_path)
    with kept.claimed(tmp_path), pytest.raises(WeightsError, match="is being changed by another process"):
        train(CONFIG, sets, tmp_path)
    train(CONFIG, sets, tmp_path)


class Disk:
    """Full until it is emptied."""

    def __init__(self, patch: pytest.MonkeyPatch, full: Callable[[], bool]) -> None:
        write = checkpoint.tensor_file.write

        def until_full(*args: Any) -> Any:
            if full():
                raise OSError(28, "No space left on device")
            return write(*args)

        patch.setattr(checkpoint.tensor_file, "write", until_full)


def test_a_full_disk_in_the_end_is_an_error(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(CONFIG, sets, tmp_path)
    before = weights(tmp_path)
    Disk(monkeypatch, lambda: True)
    with pytest.raises(WeightsError, match=r"cannot be written: .*No space left on device"):
        train(replace(CONFIG, iterations=6), sets, tmp_path)
    with pytest.raises(WeightsError, match=r"cannot be written"):
        train(CONFIG, sets, tmp_path / "new")
    assert iterations(tmp_path) == 4
    assert [name for name, value in weights(tmp_path).items() if not torch.equal(value, before[name])] == []


def test_a_disk_that_is_full_on_the_way_ends_nothing(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    Disk(monkeypatch, lambda: bool(happened(tmp_path)) and not events)
    config = replace(CONFIG, safety=Safety(save_iterations=2), iterations=7)
    train(config, sets, tmp_path, Around(on_event=events.append))
    (sentence,) = events
    assert "No space left on device" in sentence and sentence.endswith("; training goes on")
    saved = [event["iteration"] for event in told(tmp_path) if event["what"] == "saved"]
    assert saved == [0, 4, 6, 7]
    assert [entry.iteration for entry in kept.entries(tmp_path)], "the loss that was not saved is no bar"


# Step sizes


def test_trying_step_sizes_changes_nothing(sets: Sets, tmp_path: Path) -> None:
    train(CONFIG, sets, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    finding = try_rates(CONFIG, sets, tmp_path)
    assert finding.rates[0] == pytest.approx(1e-7) and len(finding.losses) > 20
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_trying_step_sizes_can_be_stopped(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between steps: on a GPU, nobody asks within them."""
    stop, within = AfterSteps(monkeypatch, 3), [False]
    learn = Session.learn

    def learning(session: Session, *args: Any) -> None:
        within[0] = True
        learn(session, *args)
        within[0] = False

    monkeypatch.setattr(loop.Session, "learn", learning)
    with pytest.raises(Stopped):
        try_rates(CONFIG, sets, tmp_path, Around(stop=lambda: stop() and not within[0]))


# Several processes


def of_two(rank: int, port: int, sets: Sets, folder: Path, config: Config, stops: int) -> None:
    """One of two trainers; writes down the weights that it has in the end, and how it ended."""
    torch.set_num_threads(1)
    Spoiled(pytest.MonkeyPatch(), lambda tried: rank == 1 and tried == 3, BREAKDOWNS["NaN"][0])
    begun: list[Session] = []
    begin, learn = Session.begin, Session.learn

    def beginning(*args: Any) -> Session:
        begun.append(begin(*args))
        return begun[0]

    taken = [0]

    def counting(session: Session, *args: Any) -> None:
        learn(session, *args)
        taken[0] += 1

    loop.Session.begin = beginning  # type: ignore[method-assign, assignment]
    loop.Session.learn = counting  # type: ignore[method-assign]
    world = World(rank, 2, rank, f"127.0.0.1:{port}")
    with world:
        around = Around(stop=lambda: rank == 1 and taken[0] >= stops, world=world)
        result = train(config, sets, folder, around)
    (session,) = begun
    state, _ = session.learner.state()
    learned = {**session.model.state_dict(), **state, "steps": torch.tensor(result.steps)}
    save_file({name: value.contiguous() for name, value in learned.items()}, folder / f"{rank}-{result.ended}")


def test_two_processes_stay_equal_and_end_together(sets: Sets, tmp_path: Path) -> None:
    """Of one of them the fourth step breaks down, and later it is told to stop."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = replace(
        CONFIG,
        iterations=100,
        safety=Safety(save_iterations=2),
        losses=Losses(gan=0.1),
        memory=Memory(one_person=True),
    )
    context = torch.multiprocessing.get_context("spawn")
    args = (port, dict(sets), tmp_path, config, 6)
    both = [context.Process(target=of_two, args=(rank, *args), daemon=True) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(200)
    codes = [process.exitcode for process in both]
    for process in both:
        process.kill()
        process.join()
        process.close()
    assert codes == [0, 0]
    first, second = (load_file(tmp_path / f"{rank}-stopped") for rank in range(2))
    assert int(first["steps"]) == 5, "three steps, back by one, three more"
    assert happened(tmp_path).count("rolled back") == 1
    assert_equal_tensors(first, second)
    assert_equal_tensors(weights(tmp_path), {name: first[name] for name in weights(tmp_path)})
    assert [event["iteration"] for event in told(tmp_path) if event["what"] == "saved"] == [0, 2, 4, 5]
    assert told(tmp_path, "session")[0]["world"] == 2
    assert read_description(tmp_path).faces == 5 * 2 * 4, "of both processes together"


def assert_equal_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_pictures_that_cannot_be_made_end_no_training(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise WeightsError("no room for the preview")

    monkeypatch.setattr("models.reports.preview.sheet", full)
    told: list[str] = []
    monitor = replace(CONFIG.monitor, preview=True)
    result = train(replace(CONFIG, iterations=2, monitor=monitor), sets, tmp_path, Around(on_event=told.append))
    assert result.description.iterations == 2 and result.preview is None
    assert told and all("the model is saved, but not shown: no room for the preview" in line for line in told)
