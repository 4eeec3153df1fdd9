"""Nobody's face is used without their consent: by convert, by a training, by the daemon, or up to the last moment; the
one command that an error names mends it; and what was written down of it cannot be changed unnoticed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from models import checkpoint, description
from pipeline.consent.identity import Identity, parse, signed, to_bytes
from pipeline.consent.registry import Registry
from pipeline.errors import ConsentError
from tests.consent import identity_of, synthetic
from tests.end_to_end.footage import film, random_model
from tests.end_to_end.house import House, Said
from tests.faces import plain_folder

PAST = datetime(2026, 2, 1, tzinfo=UTC)

TINY = ("--preset", "sketch", "--set=train.options.size=32", "--set=train.options.dense=16", "--batch", "2")
QUIET = ("--set=train.threads=1", "--set=train.device=cpu", "--set=train.monitor={preview: false, report: false}")
TRAIN = ("train", "a=faces/a", "b=faces/b", *TINY, *QUIET, "--iterations", "1", "-o", "trained")


#: The model with nothing wrong.
WHOLE = "whole"

#: As few processes as can be: they start sooner.
SETTINGS: dict[str, Any] = {
    "encode": {"preset": "ultrafast"},
    "engine": {
        "processes": [{"stages": ["decode", "detect", "align", "mask"]}, {"stages": ["swap", "blend", "encode"]}]
    },
}


def command(sentence: str) -> list[str]:
    """The one command that a sentence names, its placeholders filled in, without the program's name."""
    named = re.findall(r"understudy ([^;]+)", sentence)
    assert len(named) == 1, sentence
    words = {"FACESET": "faces/b", "b=FACESET": "b=faces/b", "DATE": "2099-12-31"}
    return [words.get(word, word) for word in shlex.split(named[0])]


def changed_signature(file: Path) -> None:
    """Forges: the file says that it is signed, and is not by that key."""
    identity = parse(file.read_bytes(), str(file))
    assert identity.signature is not None
    value = bytes.fromhex(identity.signature.value)
    other = replace(identity.signature, value=bytes([value[0] ^ 1, *value[1:]]).hex())
    file.write_bytes(to_bytes(replace(identity, signature=other)))


def model(house: House, name: str) -> Path:
    """A model with nothing wrong."""
    return Path(shutil.copytree(house.folder / "models" / WHOLE, house.folder / "models" / name))


def carrying(house: House, name: str, identity: Identity) -> Path:
    """A model whose b has this identity."""
    folder = model(house, name)
    checkpoint.attach(folder, {identity.digest: to_bytes(identity)}, {"b": identity.digest})
    return folder


def copy_of(model: Path, person: str = "b") -> Path:
    """Where a model has a person's identity file."""
    return model / "identities" / f"{description.read(model).identities[person]}.yaml"


def without(house: House, name: str) -> Path:
    """A model of which nobody knows whose face b is."""
    folder = house.folder / "models" / name
    network, about = checkpoint.load(folder.with_name(WHOLE))
    checkpoint.save(folder, network, replace(about, identities={}))
    a = identity_of("a")
    checkpoint.attach(folder, {a.digest: to_bytes(a)}, {"a": a.digest})
    return folder


def expired(house: House, name: str) -> Path:
    made = replace(identity_of("expired"), valid_until=PAST)
    return carrying(house, name, signed(made, Registry(house.home).own_key()))


def revoked(house: House, name: str) -> Path:
    made = identity_of(name)
    Registry(house.home).add(made)
    assert house.run("identity", "revoke", made.id, "--because", "asked to").code == 0
    return carrying(house, name, made)


def forged(house: House, name: str) -> Path:
    made = signed(identity_of("forged"), Registry(house.home).own_key())
    folder = carrying(house, name, made)
    changed_signature(copy_of(folder))
    return folder


def altered(house: House, name: str) -> Path:
    """The copy in the model says more than what was agreed to when it was trained."""
    folder = model(house, name)
    copy = copy_of(folder)
    copy.write_bytes(to_bytes(replace(identity_of("b"), valid_until=datetime(2099, 1, 1, tzinfo=UTC))))
    return folder


def edited(house: House, name: str) -> Path:
    """model.json says that b is a."""
    folder = model(house, name)
    file = folder / "model.json"
    content = json.loads(file.read_text())
    content["identities"]["b"] = content["identities"]["a"]
    file.write_text(json.dumps(content))
    return folder


def swapped(house: House, name: str) -> Path:
    """The weights are those of another model, of other people."""
    folder = model(house, name)
    other = carrying(house, "other", identity_of("somebody else"))
    shutil.copy(other / description.read(other).weights, folder / description.read(folder).weights)
    shutil.rmtree(other)
    return folder


#: What is wrong with a model, how it comes about, and what is said of it.
WRONGS: dict[str, tuple[Callable[[House, str], Path], str]] = {
    "missing": (without, "b has no identity file: run understudy identity attach"),
    "expired": (expired, "expired, 2026-02-01T00:00:00Z; run understudy identity renew"),
    "revoked": (revoked, "was revoked on "),
    "forged": (forged, "has a signature that is forged, or the file was changed after it was signed"),
    "altered": (altered, "is not the identity of b that the model was trained with"),
    "edited": (edited, "model.json was edited after training: its identities are not those in its weights"),
    "swapped": (swapped, "model.json was edited after training: its identities are not those in its weights"),
}

#: Those that the command which is named mends.
MENDED = ("missing", "expired", "forged", "altered")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """One with all of these models, a clip, and face sets of a and b."""
    house = House(tmp_path_factory.mktemp("house"))
    house.configure(**SETTINGS)
    assert house.run("provenance", "init").code == 0
    film(house.folder / "clip.mp4", 192, 144, frames=8)
    for person in ("a", "b"):
        synthetic(plain_folder(house.folder / "faces" / person, person), person)
    random_model(house.folder / "models" / WHOLE)
    for name, (make, _) in WRONGS.items():
        make(house, name)
    return house


def copied(house: House, folder: Path) -> House:
    """The same once more, to be changed."""
    shutil.copytree(house.folder, folder)
    return House(folder)


# By convert


def convert(house: House, name: str) -> Said:
    return house.run("convert", "clip.mp4", "-o", "result.mp4", "--model", f"models/{name}")


@pytest.mark.parametrize("name", WRONGS)
def test_convert_makes_nothing_and_says_why(name: str, house: House) -> None:
    said = convert(house, name)
    assert (said.code, said.out) == (ConsentError.exit_code, "")
    assert WRONGS[name][1] in said.refusal and "\n" not in said.refusal
    assert not list(house.folder.glob("*result*")) and not house.rows("published")


@pytest.mark.parametrize("name", WRONGS)
def test_pipe_hands_on_not_a_frame(name: str, house: House) -> None:
    said = house.run("pipe", "--model", f"models/{name}")
    assert (said.code, said.out) == (ConsentError.exit_code, "") and WRONGS[name][1] in said.refusal


@pytest.mark.parametrize("name", MENDED)
def test_the_command_that_is_named_mends_it(name: str, house: House, tmp_path: Path) -> None:
    mine = copied(house, tmp_path / "house")
    said = mine.run(*command(convert(mine, name).refusal))
    assert said.code == 0, said.err
    checked = mine.run("identity", "check", f"models/{name}")
    assert checked.code == 0, checked.err
    assert mine.run("audit", "verify").code == 0


def test_what_was_revoked_is_not_had_back_by_a_command(house: House, tmp_path: Path) -> None:
    mine = copied(house, tmp_path / "house")
    sentence = convert(mine, "revoked").refusal
    assert mine.run(*command(sentence)).code == 0
    for words in (
        ("identity", "sign", copy_of(mine.folder / "models" / "revoked")),
        ("identity", "renew", identity_of("revoked").id, "--until", "2099-12-31"),
    ):
        mine.run(*words)
        assert convert(mine, "revoked").code == ConsentError.exit_code


def test_under_a_strict_policy_only_what_is_signed_counts(house: House, tmp_path: Path) -> None:
    mine = copied(house, tmp_path / "house")
    mine.configure(consent={"policy": "signed"}, **SETTINGS)
    model(mine, "plain")
    for _ in ("a", "b"):
        sentence = convert(mine, "plain").refusal
        assert "is not signed, as consent.policy asks" in sentence
        assert mine.run(*command(sentence)).code == 0
    assert mine.run("identity", "check", "models/plain").code == 0


# By a training


def no_file(house: House) -> None:
    (house.folder / "faces/b/identity.yaml").unlink()


def over(house: House) -> None:
    made = replace(identity_of("b"), valid_until=PAST)
    (house.folder / "faces/b/identity.yaml").write_bytes(to_bytes(made))


def taken_back(house: House) -> None:
    assert house.run("identity", "sign", "faces/b").code == 0
    assert house.run("identity", "revoke", identity_of("b").id, "--because", "asked to").code == 0


def forgery(house: House) -> None:
    assert house.run("identity", "sign", "faces/b").code == 0
    changed_signature(house.folder / "faces/b/identity.yaml")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (no_file, "b has no identity file"),
        (over, "expired"),
        (taken_back, "was revoked"),
        (forgery, "has a signature that is forged"),
    ],
)
def test_nobody_is_learnt_who_has_not_agreed(
    spoil: Callable[[House], None], what: str, house: House, tmp_path: Path
) -> None:
    mine = copied(house, tmp_path / "house")
    spoil(mine)
    said = mine.run(*TRAIN)
    assert (said.code, said.out) == (ConsentError.exit_code, "") and what in said.refusal
    assert not (mine.folder / "trained").exists()
    mended = mine.run(*command(said.refusal))
    assert mended.code == 0, mended.err
    said = mine.run(*TRAIN)
    assert said.code == 0, said.err
    now = parse((mine.folder / "faces/b/identity.yaml").read_bytes(), "b")
    assert description.read(mine.folder / "trained").identities["b"] == now.digest


@pytest.mark.parametrize("name", ["edited", "swapped"])
def test_nothing_is_learnt_by_a_model_that_says_otherwise_than_its_weights(name: str, house: House) -> None:
    model = house.folder / "models" / name
    before = {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}
    said = house.run("train", "a=faces/a", "b=faces/b", *QUIET, "--iterations", "9", "-o", model)
    assert said.code == ConsentError.exit_code and WRONGS[name][1] in said.refusal
    assert {file: file.read_bytes() for file in model.rglob("*") if file.is_file()} == before


# By the daemon


@dataclass(slots=True)
class Day:
    """What a daemon did: how jobs ended before anything was mended, and after; what lay there then."""

    house: House
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    there: list[Path] = field(default_factory=list)
    after: dict[str, dict[str, Any]] = field(default_factory=dict)
    verified: dict[str, int] = field(default_factory=dict)


def through_a_day(day: Day, names: tuple[str, ...], mend: Callable[[str, str], None]) -> None:
    """Drops a clip for each model, waits, has things mended, and waits for what goes on by itself."""
    house = day.house
    watch = [
        {"in": f"in/{name}", "out": f"out/{name}", "model": f"models/{name}", "settle_s": 0}
        for name in WRONGS
        if name in names
    ]
    house.configure(watch=watch, **SETTINGS)
    for name in names:
        (house.folder / "in" / name).mkdir(parents=True)
        shutil.copy(house.folder / "clip.mp4", house.folder / "in" / name)
    with house.service():
        house.wait(lambda: len(states := house.states()) == len(names) and set(states.values()) == {"blocked"})
        day.before = {name.split("/")[1]: job for name, job in house.jobs().items()}
        day.there = results(house)
        mendable = [name for name in names if name != "revoked"]
        for name in mendable:
            mend(name, day.before[name]["reason"])
        wanted = {f"in/{name}/clip.mp4": "done" if name in mendable else "blocked" for name in names}
        house.wait(lambda: house.states() == wanted, 300)
        day.after = {name.split("/")[1]: job for name, job in house.jobs().items()}
    for file in results(house):
        day.verified[file.parent.name] = house.run("provenance", "verify", "-q", file).code


def results(house: House) -> list[Path]:
    """Whatever lies where results come out, but for reasons why there is none."""
    return [file for file in (house.folder / "out").rglob("*") if file.is_file() and file.suffix != ".json"]


@pytest.fixture(scope="module")
def day(house: House, tmp_path_factory: pytest.TempPathFactory) -> Day:
    """One daemon with these models, and the commands that are named run while it goes on."""
    day = Day(copied(house, tmp_path_factory.mktemp("day") / "house"))

    def mend(name: str, reason: str) -> None:
        said = day.house.run(*command(reason))
        assert said.code == 0, said.err

    through_a_day(day, ("missing", "expired", "revoked", "forged"), mend)
    return day


@pytest.mark.parametrize("name", ["missing", "expired", "revoked", "forged"])
def test_the_daemon_parks_a_job_and_says_why(name: str, day: Day) -> None:
    assert day.before[name]["state"] == "blocked" and WRONGS[name][1] in day.before[name]["reason"]
    assert day.before[name]["attempts"] == 0
    assert day.there == []


@pytest.mark.parametrize("name", ["missing", "expired", "forged"])
def test_it_goes_on_by_itself_once_that_is_mended(name: str, day: Day) -> None:
    assert day.after[name]["state"] == "done" and day.verified[name] == 0


def test_what_was_revoked_stays_where_it_is(day: Day) -> None:
    assert day.after["revoked"]["state"] == "blocked" and "revoked" not in day.verified
    ids = {id for row in day.house.rows("published") for id, _ in row.facts["identities"]}
    assert identity_of("revoked").id not in ids and len(day.house.rows("published")) == 3
    assert "Traceback" not in day.house.told()


@pytest.mark.slow
def test_models_that_were_put_back_are_used_again(house: House, tmp_path: Path) -> None:
    """What says otherwise than its weights is mended by no command: the files are put back, and it goes on."""
    day = Day(copied(house, tmp_path / "house"))
    whole = day.house.folder / "models" / WHOLE

    def mend(name: str, reason: str) -> None:
        if name == "altered":
            assert day.house.run(*command(reason)).code == 0
            return
        assert "put back the model.json" in reason or "train the model again" in reason
        for file in whole.glob("model.*"):
            shutil.copy(file, day.house.folder / "models" / name)

    through_a_day(day, ("altered", "edited", "swapped"), mend)
    assert day.there == [] and set(day.verified.values()) == {0} and len(day.verified) == 3
    assert all(WRONGS[name][1] in job["reason"] for name, job in day.before.items())


# Up to the last moment


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that takes a while."""
    return film(tmp_path_factory.mktemp("long") / "long.mp4", 192, 144, frames=150)


def revoke_on_the_way(house: House, name: str) -> None:
    """As soon as something of a result lies there."""
    house.wait(lambda: list((house.folder).glob("out/.*.part")) + list(house.folder.glob(".understudy/work/*/*")))
    assert house.run("identity", "revoke", identity_of(name).id, "--because", "asked to", "--unknown").code == 0


def test_who_takes_it_back_while_a_clip_is_made_is_not_in_it(house: House, long: Path, tmp_path: Path) -> None:
    mine = copied(house, tmp_path / "house")
    (mine.folder / "out").mkdir()
    process = mine.start("convert", long, "-o", "out/long.mp4", "--model", f"models/{WHOLE}")
    revoke_on_the_way(mine, "b")
    assert process.wait(300) == ConsentError.exit_code, mine.told()
    assert f"({identity_of('b').id}) was revoked" in mine.told() and "Traceback" not in mine.told()
    assert list((mine.folder / "out").iterdir()) == [] and not mine.rows("published")
    (row,) = mine.rows("refused")
    assert {id for id, _ in row.facts["identities"]} == {identity_of("a").id, identity_of("b").id}
    assert mine.run("audit", "verify").code == 0


@pytest.mark.slow
def test_nor_in_what_a_daemon_is_making(house: House, long: Path, tmp_path: Path) -> None:
    mine = copied(house, tmp_path / "house")
    (mine.folder / "in").mkdir()
    mine.configure(model=f"models/{WHOLE}", watch=[{"in": "in", "out": "out", "settle_s": 0}], **SETTINGS)
    shutil.copy(long, mine.folder / "in")
    with mine.service():
        revoke_on_the_way(mine, "b")
        mine.wait(lambda: mine.states() == {"in/long.mp4": "blocked"})
    assert f"({identity_of('b').id}) was revoked" in mine.jobs()["in/long.mp4"]["reason"]
    assert results(mine) == [] and not mine.rows("published") and mine.rows("refused")


# What was written down


def update(table: sqlite3.Connection) -> None:
    table.execute("UPDATE audit SET facts = replace(facts, 'out/expired', 'out/another') WHERE event = 'published'")


def delete(table: sqlite3.Connection) -> None:
    table.execute("DELETE FROM audit WHERE number = (SELECT min(number) FROM audit WHERE event = 'published')")


def truncate(table: sqlite3.Connection) -> None:
    table.execute("DELETE FROM audit WHERE number > 3")


def empty(table: sqlite3.Connection) -> None:
    table.execute("DELETE FROM audit")


@pytest.mark.parametrize("tamper", [update, delete, truncate, empty])
def test_an_audit_that_was_tampered_with_is_found(
    tamper: Callable[[sqlite3.Connection], None], day: Day, tmp_path: Path
) -> None:
    mine = House(tmp_path)
    mine.configure()
    shutil.copytree(day.house.home.folder, mine.home.folder)
    assert mine.run("audit", "verify").code == 0
    with closing(sqlite3.connect(mine.home.audit, isolation_level=None)) as table:
        for (name,) in table.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            table.execute(f"DROP TRIGGER {name}")
        before = table.total_changes
        tamper(table)
        assert table.total_changes > before
    said = mine.run("audit", "verify")
    assert said.code == 8 and "the audit is not what was written" in said.out
    assert mine.run("audit", "verify", "--json").json["faults"]


@pytest.mark.parametrize("end", [0, 100, 5000])
def test_an_audit_whose_file_was_cut_off_is_found(end: int, day: Day, tmp_path: Path) -> None:
    mine = House(tmp_path)
    mine.configure()
    shutil.copytree(day.house.home.folder, mine.home.folder)
    mine.home.audit.write_bytes(mine.home.audit.read_bytes()[:end])
    said = mine.run("audit", "verify")
    assert said.code == 8 and "Traceback" not in said.err


# And what was made is found and removed


@pytest.fixture
def published(day: Day) -> Iterator[House]:
    yield day.house


def test_what_carries_somebody_is_removed_with_the_consent(published: House) -> None:
    """The last test with this daemon's results: they go."""
    gone, stays = published.folder / "out" / "missing", published.folder / "out" / "forged" / "clip.mp4"
    model = published.folder / "models" / "missing"
    assert (gone / "clip.mp4").exists() and (gone / "clip.mp4.json").exists() and (model / "model.json").exists()
    said = published.run("identity", "revoke", identity_of("b").id, "--because", "asked to", "--delete", "--yes")
    assert said.code == 0, said.err
    assert "is revoked: nothing is made with this face from now on" in said.out
    assert str(gone / "clip.mp4") in said.out and str(model) in said.out and "are removed" in said.out
    assert not [file for file in gone.rglob("*") if file.is_file()] and not list(model.glob("model*"))
    assert stays.exists()
    told = {row.facts["path"]: row.facts["was"] for row in published.rows("deleted")}
    assert told == {str(gone / "clip.mp4"): "result", str(model): "model"}
    assert published.run("audit", "verify").code == 0
