"""models.reports.card: what a model is and whose faces are in it, in Markdown that does nothing else."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from models.description import ModelDescription
from models.reports import card
from models.reports.card import Agreed, Facts, Learnt
from pipeline.errors import WeightsError
from tests.faces import face_set, plain_folder

DIGESTS = [letter * 64 for letter in "abc"]

MODEL = ModelDescription(
    "original",
    {},
    64,
    128,
    people=("anna", "bert"),
    digest="d" * 64,
    session=2,
    iterations=12300,
    loss={"anna": 0.01234},
    saved="2026-11-21T19:13:53.1+00:00",
    identities={"bert": DIGESTS[0], "origin:carl": DIGESTS[1]},
)
BERT = Agreed(
    "id-" + "1" * 16, DIGESTS[0], "consented", ("train", "appear"), ("film",), (), ("DE",), ("ads",), "2027-07-31"
)
CARL = Agreed("id-" + "2" * 16, DIGESTS[1], "licensed")
FACTS = Facts(
    {"anna": Learnt(1234, 5, 256, 123, DIGESTS[:2])},
    {each.digest: each for each in (BERT, CARL)},
    {"ssim": 0.91234, "ssim/anna": 0.9},
    "e" * 64,
    {"torch": "2.0"},
)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_what_it_says() -> None:
    text = card.render("our model", MODEL, FACTS)
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "understudy" and "face-swap" in front["tags"]
    assert "\n# our model\n" in text
    found = rows(text)
    assert ["anna", "none: nothing is known of an agreement", *[""] * 6] in found
    scope = ["train, appear", "film, DE", "ads", "2027-07-31"]
    assert ["bert", BERT.id, "consented", *scope, "a" * 12] in found
    assert ["origin:carl", CARL.id, "licensed", "", "anything", "", "open", "b" * 12] in found
    assert ["anna", "1 234", "5", "256 px", "123", "aaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbb"] in found
    assert ["loss of anna", "0.0123"] in found and ["ssim", "0.9123"] in found
    assert not any(row[0] == "ssim/anna" for row in found)
    assert ["weights", "SHA-256 " + "d" * 64] in found and ["settings", "SHA-256 " + "e" * 64] in found
    for words in ("intimate imagery", "under age", "deceiving", "identity revoke ID", "## What it is for"):
        assert words in text
    assert "did not judge" in card.render("x", MODEL, replace(FACTS, metrics={}))


@given(st.text(max_size=60), st.text(max_size=60))
def test_what_others_wrote_stays_text(name: str, word: str) -> None:
    facts = replace(FACTS, agreed={BERT.digest: replace(BERT, purposes=(word,))})
    plain, hostile = card.render("x", MODEL, FACTS), card.render(name, MODEL, facts)
    assert len(plain.splitlines()) == len(hostile.splitlines())
    hostile.encode()
    row = next(line for line in hostile.splitlines() if line.startswith("| bert |"))
    assert row.replace("\\|", "").count("|") == 9


def test_markup_is_none() -> None:
    hostile = "<img src=x> [a](http://b) **c** `d` www.e.f | &amp; \udcff\n# g"
    title = next(line for line in card.render(hostile, MODEL, FACTS).splitlines() if line.startswith("# "))
    assert title == (
        r"# &lt;img src=x&gt; \[a\](http\://b) \*\*c\*\* \`d\` www\.e.f \| &amp;amp; "
        "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\\# g"
    )


def test_it_is_its_owners(tmp_path: Path) -> None:
    file = card.write(tmp_path, MODEL, FACTS)
    assert file.name == "MODEL.md" and stat.S_IMODE(file.stat().st_mode) == 0o600
    card.write(tmp_path, MODEL, FACTS)
    file.unlink()
    file.mkdir()
    with pytest.raises(WeightsError, match=r"the card .*MODEL\.md cannot be written"):
        card.write(tmp_path, MODEL, FACTS)
    assert [each.name for each in tmp_path.iterdir()] == ["MODEL.md"]


# Digests of face sets


def test_a_face_sets_digest_is_of_its_lines_and_crops(tmp_path: Path) -> None:
    folder = face_set(tmp_path / "a", "a", 3).folder
    digest = card.digest(folder)
    parts = [folder / "faces.jsonl", *sorted((folder / "crops").iterdir())]
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.name}\n" for file in parts)
    assert digest == hashlib.sha256(lines.encode()).hexdigest()
    (folder / "identity.yaml").unlink()
    (folder / "faceset.json").touch()
    assert card.digest(folder) == digest
    assert face_set(tmp_path / "again", "a", 3) and card.digest(tmp_path / "again") == digest
    for file in parts:
        before = file.read_bytes()
        file.write_bytes(before + b"x")
        assert card.digest(folder) != digest
        file.write_bytes(before)
    parts[-1].rename(folder / "crops" / "000009.png")
    assert card.digest(folder) != digest


def test_plain_pictures(tmp_path: Path) -> None:
    folder = plain_folder(tmp_path / "a", "a")
    digest = card.digest(folder)
    (folder / "identity.yaml").unlink()
    assert card.digest(folder) == digest
    (folder / os.fsdecode(b"\xff.png")).touch()
    assert card.digest(folder) != digest
    os.mkfifo(folder / "pipe")
    card.digest(folder)
    with pytest.raises(OSError, match="nowhere"):
        card.digest(tmp_path / "nowhere")


def test_settings() -> None:
    assert card.settings_digest({"a": 1, "b": Path("x")}) == card.settings_digest({"b": Path("x"), "a": 1})
    assert card.settings_digest({"a": 1}) != card.settings_digest({"a": 2})
