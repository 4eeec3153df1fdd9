"""`train` asks whose faces it learns, carries it in the model, and writes it down."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from models import carried, checkpoint, description
from models.reports import card
from pipeline.consent.identity import FILE, Identity, Scope, in_face_set, to_bytes
from pipeline.consent.registry import Registry
from pipeline.provenance.audit import Audit
from pipeline.provenance.home import Home
from tests.consent import identity_of, synthetic
from tests.faces import face_set, plain_folder
from tests.program import Program, the_error

TINY = ("--preset", "sketch", "--set=train.options.size=32", "--set=train.options.dense=16", "--batch", "2")
PLAIN = ("--set=train.threads=1", "--set=train.device=cpu", "--set=train.monitor={preview: false, report: false}")
BARE = (*TINY, *PLAIN)

ANNA, BERT = identity_of("anna"), identity_of("bert")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Keys, identities and an audit of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Home(tmp_path / "data" / "understudy")


@pytest.fixture
def sets(program: Program, home: Home) -> tuple[str, str]:
    """Face sets of anna and bert, who were never born."""
    for folder, person in (("a", "anna"), ("b", "bert")):
        synthetic(plain_folder(Path(folder), folder), person)
    return "anna=a", "bert=b"


def identify(folder: str, identity: Identity) -> Identity:
    Path(folder, FILE).write_bytes(to_bytes(identity))
    return identity


def renewed(identity: Identity, **changes: object) -> Identity:
    return replace(identity, issued=datetime(2026, 6, 1, tzinfo=UTC), **changes)  # type: ignore[arg-type]


def trained(program: Program, *argv: str, model: str = "model") -> description.ModelDescription:
    code, _, err = program("train", *argv, "-o", model)
    assert code == 0, err
    found = description.read(model)
    carried.check(model, found)
    return found


def refused(program: Program, *argv: str, model: str = "model") -> str:
    """The sentence with which it is refused, before anything is done."""
    before = Path(model, "model.json").read_bytes() if Path(model).exists() else b""
    code, out, err = program("train", *argv, *BARE, "--iterations", "9", "-o", model)
    assert (code, out) == (10, "")
    assert (Path(model, "model.json").read_bytes() if Path(model).exists() else b"") == before
    return the_error(err)


# Beginning


def test_consent_goes_into_the_model_the_audit_and_the_card(
    program: Program, sets: tuple[str, str], home: Home
) -> None:
    identify("b", replace(BERT, scope=Scope(purposes=("film *x*",), excluded=("<b>advertising</b>",))))
    bert = in_face_set(Path("b"))
    assert bert is not None
    model = trained(program, *sets, *BARE, "--iterations", "1")
    assert model.identities == {"anna": ANNA.digest, "bert": bert.digest}
    assert {file.stem for file in Path("model/identities").iterdir()} == {ANNA.digest, bert.digest}
    last, first = Audit(home).rows()
    ids = [[ANNA.id, ANNA.digest], [bert.id, bert.digest]]
    assert last.facts == {"model": str(Path("model").absolute()), "digest": model.digest, "identities": ids}
    assert first.event == last.event == "trained" and first.facts["digest"] != model.digest
    assert list(Audit(home).rows(identity=bert.id)) == [last, first]
    written = Path("model", card.FILE).read_text()
    assert ANNA.id in written and bert.digest[:12] in written and model.digest in written
    assert card.digest("a")[:16] in written
    assert r"film \*x\*" in written and r"&lt;b&gt;advertising&lt;/b&gt;" in written


@pytest.mark.parametrize("words", [(), ("--find-lr",)], ids=["train", "find-lr"])
def test_who_has_no_identity_is_not_learnt(program: Program, sets: tuple[str, str], words: tuple[str, ...]) -> None:
    Path("b", FILE).unlink()
    assert "bert has no identity file: run understudy identity add b --self" in refused(program, *sets, *words)
    assert not Path("model").exists()


def test_who_has_none_may_be_taken_to_be_the_user(program: Program, sets: tuple[str, str], home: Home) -> None:
    Path("b", FILE).unlink()
    code, _, err = program(
        "train", *sets, *BARE, "--iterations", "1", "-o", "model", "--set=consent.policy=off-for-self"
    )
    assert code == 0 and "note: bert has no identity file and is taken to be the user" in err
    assert description.read("model").identities == {"anna": ANNA.digest}
    assert "nothing is known of an agreement" in Path("model", card.FILE).read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"valid_until": datetime(2026, 1, 2, tzinfo=UTC)}, "expired"),
        ({"scope": Scope(roles=("appear",))}, "does not allow being learnt"),
        ({"scope": Scope(roles=("train", "replace"))}, "does not allow their face being put on others"),
    ],
)
def test_what_was_not_agreed_to(program: Program, sets: tuple[str, str], changes: dict[str, object], said: str) -> None:
    identify("b", replace(BERT, **changes))  # type: ignore[arg-type]
    sentence = refused(program, *sets)
    assert BERT.id in sentence and said in sentence


def test_who_is_in_the_footage_need_not_appear(program: Program, sets: tuple[str, str]) -> None:
    identify("a", replace(ANNA, scope=Scope(roles=("train", "replace"))))
    identify("b", replace(BERT, scope=Scope(roles=("train", "appear"))))
    trained(program, *sets, *BARE, "--iterations", "1")
    trained(program, *reversed(sets), *BARE, "--iterations", "2")  # the model knows who is who
    synthetic(plain_folder(Path("c"), "c"), "carl")
    assert "does not allow" in refused(program, *sets, "carl=c", model="three")


def test_sets_of_two_people_are_not_joined(program: Program, sets: tuple[str, str]) -> None:
    face_set(Path("a2"), "a")
    face_set(Path("b2"), "b")
    synthetic(Path("a2"), "bert")
    sets_of_anna = ("anna=a2", "anna=a2x", "bert=b2")
    shutil.copytree("a2", "a2x")
    Path("a2x", FILE).unlink()
    sentence = refused(program, *sets_of_anna)
    assert f"the face sets of anna have different identities (a2: {BERT.id}, a2x: has none)" in sentence
    newer = identify("a2x", renewed(identity_of("bert")))
    synthetic(Path("b2"), "anna")
    assert trained(program, *sets_of_anna, *BARE, "--iterations", "1").identities["anna"] == newer.digest


# Going on


def test_a_model_learns_nobody_else_under_a_name(program: Program, sets: tuple[str, str]) -> None:
    trained(program, *sets, *BARE, "--iterations", "1")
    synthetic(Path("b"), "carl")
    sentence = refused(program, *sets)
    assert f"has learnt {BERT.id} as bert, and the faces in b are of {identity_of('carl').id}" in sentence
    Path("b", FILE).unlink()
    assert "are of nobody who is known" in refused(program, *sets, "--set=consent.policy=off-for-self")


def test_a_renewed_identity_takes_the_place_of_the_old_one(program: Program, sets: tuple[str, str], home: Home) -> None:
    trained(program, *sets, *BARE, "--iterations", "1")
    newer = identify("b", renewed(BERT))
    model = trained(program, *sets, *BARE, "--iterations", "2")
    assert model.identities == {"anna": ANNA.digest, "bert": newer.digest}
    assert (Path("model/identities") / f"{newer.digest}.yaml").is_file()
    last, *others = Audit(home).rows()
    assert last.facts["identities"] == [[ANNA.id, ANNA.digest], [BERT.id, newer.digest]]
    assert len(others) == 2, "each model once"


def test_an_edited_model_is_not_trained_on(program: Program, sets: tuple[str, str]) -> None:
    trained(program, *sets, *BARE, "--iterations", "1")
    file = Path("model/model.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"identities": {}}))
    assert "was edited after training" in refused(program, *sets)


def test_a_model_from_before_gets_identities_when_it_is_trained_on(program: Program, sets: tuple[str, str]) -> None:
    bare = {**{person: Path(folder, FILE) for person, folder in (("anna", "a"), ("bert", "b"))}}
    kept = {person: file.read_bytes() for person, file in bare.items()}
    for file in bare.values():
        file.unlink()
    off = ("--set=consent.policy=off-for-self",)
    assert trained(program, *sets, *BARE, *off, "--iterations", "1").identities == {}
    for person, file in bare.items():
        file.write_bytes(kept[person])
    assert set(trained(program, *sets, *BARE, "--iterations", "2").identities) == {"anna", "bert"}


# Starting from another


def test_whose_faces_another_model_learnt_must_still_agree(program: Program, sets: tuple[str, str], home: Home) -> None:
    trained(program, *sets, *BARE, "--iterations", "1", model="old")
    synthetic(plain_folder(Path("c"), "c"), "carl")
    start = ("anna=a", "carl=c", "--set=train.transfer.start_from=old")
    newer = identify("a", renewed(ANNA))
    model = trained(program, *start, *BARE, "--iterations", "1")
    carl = identity_of("carl")
    assert model.identities == {"anna": newer.digest, "carl": carl.digest, "origin:bert": BERT.digest}
    assert BERT.id in Path("model", card.FILE).read_text()
    Registry(home).revoke(BERT.id, "has thought better of it", datetime.now(UTC))
    for words in (start, start[:2]):
        sentence = refused(program, *words, model="new" if words is start else "model")
        assert f"({BERT.id}) was revoked" in sentence


def test_a_model_that_says_nothing_of_its_people_is_none_to_start_from(program: Program, sets: tuple[str, str]) -> None:
    network, described = checkpoint.new("original", _tiny(), people=("anna", "bert"))
    checkpoint.save("old", network, described)
    sentence = refused(program, *sets, "--set=train.transfer.start_from=old")
    command = f"understudy identity attach {Path('old').absolute()} anna=FACESET"
    assert f"anna has no identity file: run {command}" in sentence
    files = {each.digest: to_bytes(each) for each in (ANNA, BERT)}
    checkpoint.attach("old", files, {"anna": ANNA.digest, "bert": BERT.digest})
    trained(program, *sets, *BARE, "--set=train.transfer.start_from=old", "--iterations", "1")


def _tiny() -> object:
    from models import autoencoders

    return autoencoders.chosen("original", "sketch", {"size": 32, "dense": 16})


# Writing down


def test_a_card_that_cannot_be_written_ends_no_training(
    program: Program, sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("model").mkdir()
    Path("model", card.FILE).mkdir()
    code, out, err = program("train", *sets, *BARE, "--iterations", "1", "-o", "model")
    assert code == 0 and "1 steps in all" in out
    assert err.count("the model's card is not that of the model: the card model/MODEL.md cannot be written") == 2


def test_a_training_that_cannot_be_written_down_does_not_begin(
    program: Program, sets: tuple[str, str], home: Home
) -> None:
    home.audit.mkdir(parents=True)
    code, out, err = program("train", *sets, *BARE, "--iterations", "1", "-o", "model")
    assert code == 8 and out == "" and "audit" in the_error(err)
    assert description.read("model").iterations == 0
