"""models.carried: whose faces are in a model goes with it, and can't be edited away."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import carried, checkpoint, kept
from models.autoencoders import original
from models.carried import Identities
from models.description import ModelDescription, read
from pipeline.errors import ConfigError, ConsentError, WeightsError

MINI = original.Config(32, (8, 16, 16), 16, 8, 8, (8, 8, 8))
FILES = {hashlib.sha256(content).hexdigest(): content for content in (b"anna", b"bert", b"anna, renewed")}
ANNA, BERT, RENEWED = FILES


def save(folder: Path, identities: dict[str, str], **changes: Any) -> ModelDescription:
    model, described = checkpoint.new("original", MINI, people=("anna", "bert"), seed=1)
    files = {digest: FILES[digest] for digest in identities.values()}
    described = replace(described, identities=identities, **changes)
    return checkpoint.save(folder, model, described, {"step": torch.tensor([3])}, identity_files=files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two people who have identities."""
    save(tmp_path / "model", {"anna": ANNA, "bert": BERT})
    return tmp_path / "model"


def copied(folder: Path) -> set[str]:
    return {file.name for file in (folder / "identities").iterdir()}


def edit(folder: Path, **changes: object) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_model_carries_them_with_copies_for_its_owner_alone(folder: Path) -> None:
    assert read(folder).identities == {"anna": ANNA, "bert": BERT}
    carried.check(folder, read(folder))
    assert checkpoint.load(folder)[1] == read(folder)
    assert copied(folder) == {f"{ANNA}.yaml", f"{BERT}.yaml"}
    assert carried.copies(folder, [ANNA, BERT, RENEWED]) == {ANNA: b"anna", BERT: b"bert"}
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (folder, folder / "identities")]
    assert modes == [0o700, 0o700]
    assert {stat.S_IMODE(file.stat().st_mode) for file in (folder / "identities").iterdir()} == {0o600}


EDITS: dict[str, Callable[[Path], None]] = {
    "nobody": lambda folder: edit(folder, identities={}),
    "one less": lambda folder: edit(folder, identities={"anna": ANNA}),
    "one more": lambda folder: edit(folder, identities={"anna": ANNA, "bert": BERT, "origin:c": RENEWED}),
    "another": lambda folder: edit(folder, identities={"anna": RENEWED, "bert": BERT}),
    "exchanged": lambda folder: edit(folder, identities={"anna": BERT, "bert": ANNA}),
}


@pytest.mark.parametrize("how", EDITS)
def test_an_edited_description_is_found(folder: Path, how: str) -> None:
    EDITS[how](folder)
    for look in (lambda: carried.check(folder, read(folder)), lambda: checkpoint.load(folder)):
        with pytest.raises(ConsentError, match=r"model\.json was edited after training") as caught:
            look()
        assert "\n" not in str(caught.value)


def test_an_older_version_of_the_description_hides_nothing(folder: Path) -> None:
    content = json.loads((folder / "model.json").read_text()) | {"version": 2}
    del content["identities"]
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(ConsentError, match="edited"):
        carried.check(folder, read(folder))


def test_an_edited_header_is_another_file(folder: Path) -> None:
    weights = folder / read(folder).weights
    weights.write_bytes(weights.read_bytes().replace(BERT.encode(), RENEWED.encode()))
    edit(folder, identities={"anna": ANNA, "bert": RENEWED})
    carried.check(folder, read(folder))
    with pytest.raises(WeightsError, match="is damaged"):
        checkpoint.load(folder)


def test_models_from_before_there_were_identities(tmp_path: Path) -> None:
    save(tmp_path, {})
    content = json.loads((tmp_path / "model.json").read_text()) | {"version": 2}
    del content["identities"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    assert read(tmp_path).identities == {}
    carried.check(tmp_path, read(tmp_path))
    assert checkpoint.load(tmp_path)[1].version == 3
    assert not (tmp_path / "identities").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "its header is not JSON"),
        (b"\xff" * 100, "not JSON"),
        ((20).to_bytes(8, "little") + b"{" * 20, "not JSON"),
        ((10).to_bytes(8, "little") + b"[" * 10, "not JSON"),
        ((400_000).to_bytes(8, "little") + b"[" * 400_000, "not JSON"),
    ],
    ids=["empty", "long", "braces", "brackets", "deep"],
)
def test_weights_that_are_none(folder: Path, content: bytes, words: str) -> None:
    (folder / read(folder).weights).write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        carried.check(folder, read(folder))


@pytest.mark.parametrize("header", [b"[]", b"{}", b'{"__metadata__":[]}', b'{"__metadata__":{"identities":{}}}'])
def test_headers_that_carry_nobody(folder: Path, header: bytes) -> None:
    (folder / read(folder).weights).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConsentError, match="edited"):
        carried.check(folder, read(folder))


def test_weights_that_are_missing_or_a_pipe(folder: Path) -> None:
    weights = folder / read(folder).weights
    weights.unlink()
    with pytest.raises(WeightsError, match="is missing"):
        carried.check(folder, read(folder))
    os.mkfifo(weights)
    with pytest.raises(WeightsError, match="no regular file"):
        carried.check(folder, read(folder))


# Attached later


def test_attaching_changes_the_header_alone(tmp_path: Path) -> None:
    before = save(tmp_path, {}, iterations=7)
    kept.keep(tmp_path, before, "backup")
    weights = checkpoint.load(tmp_path)[0].state_dict()
    after = checkpoint.attach(tmp_path, {ANNA: FILES[ANNA], BERT: FILES[BERT]}, {"anna": ANNA, "bert": BERT})
    assert (
        after
        == read(tmp_path)
        == replace(before, weights=after.weights, digest=after.digest, identities=read(tmp_path).identities)
    )
    assert after.digest != before.digest and after.identities == {"anna": ANNA, "bert": BERT}
    loaded = checkpoint.load(tmp_path)[0].state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    assert checkpoint.load_state(tmp_path, after)[0]["step"].item() == 3
    assert copied(tmp_path) == {f"{ANNA}.yaml", f"{BERT}.yaml"}
    assert not kept.check(tmp_path, kept.entries(tmp_path)[0])


def test_renewing_keeps_the_others_and_drops_what_nothing_names(folder: Path) -> None:
    checkpoint.attach(folder, {RENEWED: FILES[RENEWED]}, {"anna": RENEWED})
    assert read(folder).identities == {"anna": RENEWED, "bert": BERT}
    carried.check(folder, read(folder))
    assert copied(folder) == {f"{RENEWED}.yaml", f"{BERT}.yaml"}
    assert len(list(folder.glob("model.*.safetensors"))) == 1


def test_what_cannot_be_attached(folder: Path) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match="knows anna, bert, not 'carl'"):
        checkpoint.attach(folder, {}, {"carl": ANNA})
    with kept.claimed(folder), pytest.raises(WeightsError, match="being changed by another process"):
        checkpoint.attach(folder, {}, {"anna": RENEWED})
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    edit(folder, identities={})
    with pytest.raises(ConsentError, match="edited"):
        checkpoint.attach(folder, {}, {"anna": RENEWED})


# Kept and gone back to


def test_copies_stay_as_long_as_anything_kept_names_them(folder: Path) -> None:
    kept.keep(folder, read(folder), "snapshot")
    checkpoint.attach(folder, {RENEWED: FILES[RENEWED]}, {"anna": RENEWED})
    assert copied(folder) == {f"{digest}.yaml" for digest in FILES}
    kept.restore(folder, "snapshot.000000000")
    assert read(folder).identities == {"anna": ANNA, "bert": BERT}
    carried.check(folder, read(folder))
    assert checkpoint.load(folder)[1].identities["anna"] == ANNA
    assert copied(folder) == {f"{digest}.yaml" for digest in FILES}, "what was there before is kept"


def test_strange_files_among_the_copies_stay(folder: Path) -> None:
    for name in ("notes.txt", "anna.yaml", f".{ANNA}.yaml.part"):
        (folder / "identities" / name).write_text("x")
    kept.drop_unnamed(folder)
    assert copied(folder) == {f"{ANNA}.yaml", f"{BERT}.yaml", "notes.txt", "anna.yaml"}


def test_a_copy_that_is_lost_or_too_long_is_put_back(folder: Path) -> None:
    file = folder / "identities" / f"{ANNA}.yaml"
    with file.open("wb") as out:
        out.truncate(2**40)
    assert carried.copies(folder, [ANNA, BERT]) == {BERT: b"bert"}
    carried.put(folder, FILES)
    assert carried.copies(folder, FILES) == FILES
    (folder / "identities" / f"{BERT}.yaml").unlink()
    os.mkfifo(folder / "identities" / f"{BERT}.yaml")
    assert carried.copies(folder, [BERT]) == {}


# Trained on, or started from another

NAMES = st.from_regex(r"[a-c]{1,2}", fullmatch=True)
DIGESTS = st.sampled_from([character * 64 for character in "0123456"])
MAPPINGS = st.dictionaries(NAMES, DIGESTS, max_size=4)


@given(st.dictionaries(st.one_of(NAMES, NAMES.map("origin:".__add__)), DIGESTS, max_size=6), MAPPINGS, st.sets(DIGESTS))
def test_nobody_is_lost(before: dict[str, str], own: dict[str, str], replaced: set[str]) -> None:
    found = carried.inherited(before, Identities(own, replaced=replaced))
    assert {name: found[name] for name in own} == own
    assert set(before.values()) - replaced <= set(found.values()) <= set(before.values()) | set(own.values())
    assert all(name.startswith("origin:") for name in set(found) - set(own))
    described = ModelDescription("original", {}, 64, 64, people=("x", "y", *own), identities=found)
    described = replace(described, weights="model.0123456789ab.safetensors", digest="0" * 64)
    assert carried.facts(described.identities) == carried.facts(dict(reversed(found.items())))


def test_origins_get_names_of_their_own() -> None:
    grandparents = carried.inherited({"anna": ANNA, "bert": BERT}, Identities({"anna": RENEWED}))
    assert grandparents == {"anna": RENEWED, "origin:anna": ANNA, "origin:bert": BERT}
    parents = carried.inherited(grandparents, Identities({"bert": BERT}))
    assert parents == {"bert": BERT, "origin:anna": RENEWED, "origin:anna-2": ANNA}
    assert carried.inherited(grandparents, Identities({"anna": RENEWED}, replaced={ANNA})) == {
        "anna": RENEWED,
        "origin:bert": BERT,
    }


def test_trained_on() -> None:
    before = {"anna": ANNA, "origin:bert": BERT}
    assert carried.renewed(before, Identities()) == before
    assert carried.renewed(before, Identities({"anna": RENEWED})) == {"anna": RENEWED, "origin:bert": BERT}
    assert carried.renewed(before, Identities({"anna": RENEWED}, replaced={BERT})) == {"anna": RENEWED}


def test_checking_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, models.carried; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
