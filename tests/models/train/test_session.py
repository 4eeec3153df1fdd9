"""models.train.session: how a training is taken up, kept, and taken back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models import carried, checkpoint, kept, tensor_file
from models.layer_options import LayerOptions
from models.train.batch import Batch
from models.train.recipe import Config, Judge, Losses, Optimiser, Safety, Transfer
from models.train.session import Session, fresh
from models.train.step import Costs, Diverged, Learner
from models.train.world import World
from pipeline.errors import ConfigError, ConsentError, WeightsError
from tests.models.train.trainings import CONFIG, TINY, batches, content

PEOPLE = ("a", "b")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begun(folder: Path, config: Config = CONFIG, people: tuple[str, ...] = PEOPLE) -> Session:
    return Session.begin(config, folder, people, World.alone())


def taught(session: Session, steps: int = 1) -> Session:
    for _ in range(steps):
        session.learn(batches(people=session.people, seed=session.iteration), 1e-3)
    return session


class Told:
    """In place of real steps: each costs what it is told, the same for everybody."""

    def __init__(self, patch: pytest.MonkeyPatch, *losses: float | dict[str, float]) -> None:
        self.losses = list(losses)
        patch.setattr(Learner, "learn", lambda _, given, *__: self._next(given))

    def _next(self, given: dict[str, Batch]) -> Costs:
        loss = self.losses.pop(0)
        return Costs(loss if isinstance(loss, dict) else dict.fromkeys(given, loss), {})


# Beginning


def test_a_new_model_is_as_the_seed_says(tmp_path: Path) -> None:
    one, other, third = (begun(tmp_path, replace(CONFIG, seed=seed)) for seed in (1, 1, 2))
    assert (one.iteration, one.people, one.sizes, one.description.session) == (0, PEOPLE, (32, 32), 1)
    weights = [session.model.state_dict()["encoder.0.0.weight"] for session in (one, other, third)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not one.description.digest and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("people", "said"), [((), "faces of nobody alone"), (("a",), "faces of a alone; a swap takes two people or more")]
)
def test_one_is_no_company(tmp_path: Path, people: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        begun(tmp_path, people=people)


def test_options_reach_the_model(tmp_path: Path) -> None:
    config = replace(CONFIG, layers=LayerOptions(mask=True), coverage=1.2, crop="head")
    session = begun(tmp_path, config)
    assert session.model.decoders["b"].mask is not None  # type: ignore[index, union-attr]
    assert (session.description.coverage, session.description.crop) == (1.2, "head")
    assert session.description.layer_options.mask


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    first = taught(begun(tmp_path), 3)
    first.record.waited = 2
    first.save(7.5)
    second = begun(tmp_path)
    assert (second.iteration, second.loss, second.record) == (3, first.loss, first.record)
    assert (second.description.session, second.description.seconds, second.description.faces) == (2, 7.5, 3 * 8)
    taught(second).save(2.5)
    assert second.saved.seconds == 10.0 and second.saved.faces == 4 * 8
    taught(first)
    assert first.costs is not None and second.costs is not None and first.costs.loss == second.costs.loss


def test_the_model_stays_what_it_is_where_nothing_is_said(tmp_path: Path) -> None:
    taught(begun(tmp_path, replace(CONFIG, coverage=1.2))).save(0)
    later = begun(tmp_path, replace(CONFIG, architecture="", preset="", options={}))
    assert later.sizes == (32, 32) and later.description.coverage == 1.2
    begun(tmp_path, replace(CONFIG, architecture="original", coverage=1.2))


@pytest.mark.parametrize(
    "change",
    [
        {"options": {**TINY, "dense": 17}},
        {"preset": "sketch", "options": {}},
        {"coverage": 1.2},
        {"crop": "head"},
        {"layers": LayerOptions(mask=True)},
    ],
    ids=str,
)
def test_another_model_than_the_settings_say_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    begun(tmp_path).save(0)
    with pytest.raises(ConfigError, match=r"is another one than train.architecture.*\(original at coverage 1\)"):
        begun(tmp_path, replace(replace(CONFIG, architecture="original"), **change))


def test_other_people_are_refused(tmp_path: Path) -> None:
    begun(tmp_path).save(0)
    with pytest.raises(ConfigError, match="knows a and b, not a and c; say who is who"):
        begun(tmp_path, people=("a", "c"))
    assert begun(tmp_path, people=("b", "a")).people == PEOPLE, "in whatever order"


@pytest.mark.parametrize("what", ["preset", "architecture", "options"])
def test_unknown_names_are_refused(what: str, tmp_path: Path) -> None:
    value: Any = {"wide": 3} if what == "options" else "vast"
    with pytest.raises(ConfigError, match=rf"train\.{what}"):
        begun(tmp_path, replace(CONFIG, **{what: value}))


def test_a_model_without_its_state_is_not_trained_on(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, *fresh(CONFIG, PEOPLE))
    with pytest.raises(WeightsError, match="without its training state"):
        begun(tmp_path)


def test_a_damaged_state_offers_what_is_sound(tmp_path: Path) -> None:
    session = taught(begun(tmp_path))
    session.save(0)
    taught(session).save(0)
    (tmp_path / session.saved.state).write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"understudy restore .* backup.000000001"):
        begun(tmp_path)


HOSTILE = [
    *('{"attempt": -1}', '{"attempt": 1.5}', '{"attempt": true}', '{"lowest": NaN}', '{"best": "much"}'),
    *('{"waited": null}', '{"evil": 1}', "[1]", "3", "not json", "[" * 100_000),
]


@pytest.mark.parametrize("record", HOSTILE, ids=[text[:20] for text in HOSTILE])
def test_a_record_that_is_none_is_refused(record: str, tmp_path: Path) -> None:
    session = taught(begun(tmp_path))
    session.save(0)
    weights, state, facts, _ = content(tmp_path)
    assert weights and facts["optimiser"] == "adam"
    checkpoint.save(tmp_path, session.model, session.saved, state, facts | {"record": record})
    with pytest.raises(WeightsError, match=r"state\..*holds no record of a training .*; restore an earlier model"):
        begun(tmp_path)


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    small, large = begun(tmp_path / "small"), begun(tmp_path / "large", replace(CONFIG, options={**TINY, "dense": 32}))
    for session in (small, large):
        taught(session).save(0)
    state, facts = checkpoint.load_state(tmp_path / "large", large.saved)
    checkpoint.save(tmp_path / "small", small.model, small.saved, state, facts)
    with pytest.raises(WeightsError, match=r"state\.[0-9a-f]{12}\.safetensors: .*belongs to another model"):
        begun(tmp_path / "small")


def test_figures_of_other_settings_are_forgotten(tmp_path: Path) -> None:
    session = taught(begun(tmp_path))
    session.record.best, session.record.waited = 0.9, 3
    session.save(0)
    lowest = session.record.lowest
    assert lowest is not None
    kept_both = begun(tmp_path, replace(CONFIG, optimiser=Optimiser(lr=1e-5))).record
    assert (kept_both.lowest, kept_both.best, kept_both.waited) == (lowest, 0.9, 3)
    dearer = begun(tmp_path, replace(CONFIG, losses=Losses(eyes=9.0))).record
    assert (dearer.lowest, dearer.best) == (None, 0.9), "a loss of other terms is no lower and no higher"
    judged = begun(tmp_path, replace(CONFIG, judge=Judge(best="pose"))).record
    assert (judged.lowest, judged.best, judged.waited) == (lowest, None, 0)


def test_transfer_and_freezing_begin_with_the_model(tmp_path: Path) -> None:
    taught(begun(tmp_path / "old", people=("p", "q", "r"))).save(0)
    transfer = Transfer(tmp_path / "old", people={"a": "r"}, freeze=("encoder", "decoders.b"))
    session = begun(tmp_path / "new", replace(CONFIG, transfer=transfer))
    assert session.notes and session.iteration == 0
    old, new = checkpoint.load(tmp_path / "old")[0].state_dict(), session.model.state_dict()
    sources = {"encoder.": "encoder.", "decoders.a.": "decoders.r.", "decoders.b.": "decoders.p."}
    for name, value in new.items():
        ours, theirs = next((ours, theirs) for ours, theirs in sources.items() if name.startswith(ours))
        assert torch.equal(value, old[theirs + name.removeprefix(ours)]), name
    before = {name: value.clone() for name, value in new.items()}
    taught(session).save(0)
    moved = {name for name, value in session.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("decoders.a.") for name in moved)
    again = begun(tmp_path / "new", replace(CONFIG, transfer=transfer)).model.state_dict()
    trained = session.model.state_dict()
    assert [name for name in trained if not torch.equal(trained[name], again[name])] == [], "only once"


# Whose faces


def given_of(**names: str) -> carried.Identities:
    files = {hashlib.sha256(content.encode()).hexdigest(): content.encode() for content in names.values()}
    return carried.Identities(dict(zip(names, files, strict=True)), files)


def trained(folder: Path, given: carried.Identities, config: Config = CONFIG) -> dict[str, bytes]:
    """Trains a step and saves; the identity files that the model then carries, by the names it has for them."""
    session = Session.begin(config, folder, PEOPLE, World.alone(), identities=given)
    taught(session).save(0)
    model = checkpoint.load(folder)[1]
    files = carried.copies(folder, model.identities.values())
    return {name: files[digest] for name, digest in model.identities.items()}


def test_whose_faces_are_learnt_goes_with_the_model(tmp_path: Path) -> None:
    assert trained(tmp_path, given_of(a="anna", b="bert")) == {"a": b"anna", "b": b"bert"}
    assert trained(tmp_path, carried.NOBODY) == {"a": b"anna", "b": b"bert"}, "nobody is lost"
    assert trained(tmp_path, given_of(a="anna, renewed")) == {"a": b"anna, renewed", "b": b"bert"}


def test_whose_faces_another_model_learnt_are_in_what_starts_from_it(tmp_path: Path) -> None:
    trained(tmp_path / "old", given_of(a="anna", b="bert"))
    config = replace(CONFIG, transfer=Transfer(tmp_path / "old"))
    found = trained(tmp_path / "new", given_of(a="anna", b="carl"), config)
    assert found == {"a": b"anna", "b": b"carl", "origin:b": b"bert"}
    assert trained(tmp_path / "new", carried.NOBODY, config) == found


def test_a_model_that_was_edited_is_not_trained_on(tmp_path: Path) -> None:
    trained(tmp_path / "old", given_of(a="anna"))
    file = tmp_path / "old" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"identities": {}}))
    for folder, config in (("old", CONFIG), ("new", replace(CONFIG, transfer=Transfer(tmp_path / "old")))):
        with pytest.raises(ConsentError, match="edited"):
            begun(tmp_path / folder, config)


# The step size


def test_the_step_size_follows_the_whole_training(tmp_path: Path) -> None:
    config = replace(CONFIG, optimiser=Optimiser(lr=1e-3, warmup=3, lr_end=0.0))
    session = begun(tmp_path, config)
    assert session.rate(0.0) == pytest.approx(1e-3 / 4)
    taught(session, 2).save(0)
    later = begun(tmp_path, config)
    assert later.rate(0.5) == session.rate(0.5) == pytest.approx(1e-3 * 3 / 4 / 2)
    later.record.attempt = 2
    assert later.rate(0.5) == session.rate(0.5) / 4


# Keeping


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in kept.entries(folder))


def test_a_backup_is_made_when_the_smoothed_loss_has_fallen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun(tmp_path, replace(CONFIG, safety=Safety(backups=9)))
    assert session.save(0) == [("saved", "model.json")], "of no loss yet"
    Told(monkeypatch, 1.0, 2.0, 0.5, 0.5, 0.5)
    done = []
    for _ in range(5):
        session.learn(batches(), 1e-3)
        done.append([name for what, name in session.save(0) if what == "backup"])
    # smoothed: 1, 1.01, 1.0049, 0.9999, ...
    assert [bool(names) for names in done] == [True, False, False, True, True]
    assert names(tmp_path) == ["backup.000000001", "backup.000000004", "backup.000000005"]
    assert session.loss["a"] == pytest.approx(0.99 * (0.99 * (0.99 * 1.01 + 0.005) + 0.005) + 0.005)


def test_a_save_that_failed_was_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun(tmp_path)
    Told(monkeypatch, 1.0, 0.5)
    taught(session).save(0)
    taught(session)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise WeightsError("the disk is full")

        patch.setattr(checkpoint, "save", full)
        with pytest.raises(WeightsError):
            session.save(0)
    assert [what for what, _ in session.save(0)] == ["saved", "backup"]


def test_only_the_newest_backups_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun(tmp_path, replace(CONFIG, safety=Safety(backups=2)))
    Told(monkeypatch, 1.0, 0.9, 0.8, 0.7)
    for _ in range(4):
        session.learn(batches(), 1e-3)
        with torch.no_grad():
            next(session.model.parameters()).add_(1)
        session.save(0)
    assert names(tmp_path) == ["backup.000000003", "backup.000000004"]
    assert len(list(tmp_path.glob("model.*.safetensors"))) == 2


def test_no_backups_are_no_backups(tmp_path: Path) -> None:
    taught(begun(tmp_path, replace(CONFIG, safety=Safety(backups=0)))).save(0)
    assert names(tmp_path) == []


def test_people_who_come_in_later_do_not_raise_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun(tmp_path, replace(CONFIG, safety=Safety(backups=9)), ("a", "b", "c"))
    Told(monkeypatch, {"a": 1.0, "b": 1.0}, {"b": 0.9, "c": 0.9})
    for _ in range(2):
        session.learn(batches(), 1e-3)
        session.save(0)
    assert names(tmp_path) == ["backup.000000001", "backup.000000002"]


def test_snapshots_are_for_good(tmp_path: Path) -> None:
    session = begun(tmp_path, replace(CONFIG, safety=Safety(backups=0, snapshot_iterations=3)))
    for _ in range(7):
        taught(session).save(0)
    assert names(tmp_path) == ["snapshot.000000003", "snapshot.000000006"]


def test_the_best_is_by_the_metric(tmp_path: Path) -> None:
    more, less = (begun(tmp_path, replace(CONFIG, judge=Judge(best=best))) for best in ("ssim", "pose"))
    assert [more.judged(value) for value in (0.5, 0.4, 0.5, 0.6, None)] == [True, False, False, True, False]
    assert (more.record.best, more.record.waited) == (0.6, 0)
    assert [less.judged(value) for value in (0.5, 0.4, 0.5, 0.4)] == [True, True, False, False]
    assert (less.record.best, less.record.waited) == (0.4, 2)


def test_what_is_no_number_is_not_saved(tmp_path: Path) -> None:
    session = taught(begun(tmp_path))
    session.save(0)
    with torch.no_grad():
        next(session.model.parameters()).fill_(float("inf"))
    with pytest.raises(WeightsError, match=r"is not saved: .* holds infinities"):
        session.save(0)
    assert checkpoint.load(tmp_path)[1].iterations == 1


def test_the_recipe_is_kept(tmp_path: Path) -> None:
    session = taught(begun(tmp_path, replace(CONFIG, transfer=Transfer(freeze=("encoder",)))))
    session.save(0)
    _, facts = tensor_file.read(tmp_path / session.saved.state, session.saved.state_digest)
    assert json.loads(facts["recipe"])["transfer"]["freeze"] == ["encoder"]


# Going back


def test_a_breakdown_is_taken_back(tmp_path: Path) -> None:
    session = taught(begun(tmp_path, replace(CONFIG, losses=Losses(gan=0.1))), 2)
    session.save(0)
    _, state, _, loss = content(tmp_path)
    sound = {name: value.clone() for name, value in session.model.state_dict().items()}
    seed, rate = session.seed, session.rate(0.0)
    taught(session, 2)
    with torch.no_grad():
        for weight in session.model.parameters():
            weight.fill_(float("nan"))
    said = session.take_back(Diverged("the loss of a is nan"))
    assert said == "training broke down at step 5: the loss of a is nan; back to step 2, with steps half as long"
    assert (session.iteration, session.loss, session.rollbacks, session.record.attempt) == (2, loss, 1, 1)
    assert session.seed != seed and session.rate(0.0) == rate / 2
    assert [name for name, value in session.model.state_dict().items() if not torch.equal(value, sound[name])] == []
    now, _ = session.learner.state()
    assert [name for name, value in now.items() if not torch.equal(value, state[name])] == []
    taught(session).save(0)
    assert begun(tmp_path, replace(CONFIG, losses=Losses(gan=0.1))).seed == session.seed, "the draws stay others"


def test_it_gives_up(tmp_path: Path) -> None:
    session = taught(begun(tmp_path, replace(CONFIG, safety=Safety(rollbacks=2))), 2)
    session.save(0)
    for _ in range(2):
        taught(session)
        session.take_back(Diverged("so it is"))
    with pytest.raises(WeightsError) as error:
        session.take_back(Diverged("so it is"))
    assert str(error.value) == (
        f"training broke down at step 3: so it is; the model of step 2 in {tmp_path} is kept; "
        "train with a lower train.optimiser.lr"
    )


def test_another_step_size_is_taken_at_its_word(tmp_path: Path) -> None:
    session = taught(begun(tmp_path))
    session.save(0)
    session.take_back(Diverged("on purpose"))
    session.save(0)
    lr = CONFIG.optimiser.lr
    assert begun(tmp_path).rate(0) == lr / 2
    assert begun(tmp_path, replace(CONFIG, optimiser=Optimiser(lr=lr / 10))).rate(0) == lr / 10


def test_a_collapse_is_a_breakdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun(tmp_path)
    Told(monkeypatch, *[1.0] * 25, *[7.9] * 1, *[1.0] * 25, {"a": 1.0, "b": 30.0})
    for _ in range(51):
        session.learn(batches(), 1e-3)
    with pytest.raises(Diverged, match=r"the loss of b is 30, \d+ times what it was"):
        session.learn(batches(), 1e-3)


@pytest.mark.parametrize(("collapse", "steps"), [(0.0, 60), (8.0, 20)], ids=["switched off", "too early to tell"])
def test_a_high_loss_alone_is_none(
    collapse: float, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = begun(tmp_path, replace(CONFIG, safety=Safety(collapse=collapse)))
    Told(monkeypatch, *[1.0] * steps, 1000.0)
    for _ in range(steps + 1):
        session.learn(batches(), 1e-3)


def test_other_losses_in_the_next_session_are_no_collapse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = begun(tmp_path)
    Told(monkeypatch, *[1.0] * 60, *[20.0] * 60)
    for _ in range(60):
        session.learn(batches(), 1e-3)
    session.save(0)
    later = begun(tmp_path)
    for _ in range(60):
        later.learn(batches(), 1e-3)
