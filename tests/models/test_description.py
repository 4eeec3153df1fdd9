"""models.description: model.json read strictly, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.description import LONGEST, ModelDescription, parse, read
from models.layer_options import LayerOptions
from pipeline.errors import WeightsError

GOOD = ModelDescription(
    "original", {"size": 64}, 64, 64, weights="model.0123456789ab.safetensors", digest="0" * 64, loss={"a": 0.1}
)


def changed(**changes: object) -> str:
    return json.dumps(json.loads(GOOD.to_json()) | changes)


@given(
    st.floats(0.5, 4),
    st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True), min_size=2, max_size=4, unique=True),
    st.integers(0, 2**40),
    st.floats(0, 1e9),
)
def test_what_is_written_is_read(coverage: float, people: list[str], iterations: int, seconds: float) -> None:
    made = ModelDescription(
        "original",
        {"size": 64},
        64,
        128,
        coverage=coverage,
        people=tuple(people),
        weights="model.0123456789ab.safetensors",
        digest="f" * 64,
        iterations=iterations,
        seconds=seconds,
    )
    assert parse(made.to_json(), "here") == made


def test_identities_are_of_people_or_of_where_the_model_comes_from() -> None:
    identities = {"b": "1" * 64, "origin:carl": "2" * 64, "origin:b-2": "1" * 64}
    assert parse(changed(identities=identities), "here").identities == identities


def test_a_model_from_before_there_were_identities_is_one_of_people_without() -> None:
    content = json.loads(changed(version=2))
    del content["identities"]
    assert parse(json.dumps(content), "here") == GOOD


def test_layers_are_given_as_options_with_what_is_usual_for_the_rest() -> None:
    given = parse(changed(layers={"mask": True, "upscaler": "fast"}), "here")
    assert given.layer_options == LayerOptions(mask=True, upscaler="fast")
    assert given.layers == asdict(given.layer_options)
    assert GOOD.layer_options == LayerOptions()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "here is not JSON"),
        ("[" * 100000, "here is not JSON"),
        ("[]", "must hold one JSON object"),
        (changed(version=1), "has version 1, this program reads 3"),
        (changed(speed=3), "has a key 'speed' that models do not have"),
        (json.dumps({"version": 3}), "lacks the key 'architecture'"),
        (changed(version=2), "has version 2, this program reads 3"),
        (changed(identities=[]), "identities must be"),
        (changed(identities={"a": "x"}), "identities must be"),
        (changed(identities={"a": None}), "identities must be"),
        (changed(identities={"a\n": "0" * 64}), "identities must be"),
        (changed(identities={"origin:": "0" * 64}), "identities must be"),
        (changed(identities={"parent:a": "0" * 64}), "identities must be"),
        (changed(identities={f"origin:{i}": "0" * 64 for i in range(9000)}), "identities must be"),
        (changed(identities={"carl": "0" * 64}), "identities names carl, who is none of its people"),
        (changed(architecture="origami"), "'origami'; this program has: .*original"),
        (changed(architecture=3), "architecture must be a name"),
        (changed(input_size=True), "input_size must be"),
        (changed(input_size=0), "input_size must be"),
        (changed(output_size="64"), "output_size must be"),
        (changed(coverage=float("nan")), "coverage must be"),
        (changed(coverage=0), "coverage must be"),
        (changed(people=["a"]), "people must be"),
        (changed(architecture="x" * 10**6), "names the architecture 'xxx"),
        (changed(**{"y" * 10**6: 1}), "has a key 'yyy"),
        (changed(people=["a", "a"]), "people must be"),
        (changed(people=["a", "b/.."]), "people must be"),
        (changed(weights="../../etc/passwd"), "weights must be"),
        (changed(weights=""), "weights must be"),
        (changed(digest="x"), "digest must be"),
        (changed(state="model.safetensors"), "state must be"),
        (changed(iterations=-1), "iterations must be"),
        (changed(loss={"a": "low"}), "loss must be"),
        (changed(options=[]), "options must be"),
        (changed(options={"size": 2**30}), "options must be"),
        (changed(options={"size": float("inf")}), "options must be"),
        (changed(options={"encoder": [8] * 2000}), "options must be"),
        (changed(options={"encoder": [[8]]}), "options must be"),
        (changed(layers=[]), "layers must be an object"),
        (changed(layers={"wings": 2}), "layers has no option 'wings'; it has: mask, upscaler, "),
        (changed(layers={"mask": 1}), "layers.mask must be true or false, not 1"),
        (changed(layers={"upscaler": "magic"}), "layers.upscaler must be one of subpixel, resize, .*, not 'magic'"),
        (changed(layers={"padding": ["zeros"]}), "layers.padding must be one of zeros, reflect, not"),
        (changed(crop="foot"), 'crop must be "face" or "head", not \'foot\''),
        (changed(crop=["face"]), "crop must be"),
        (changed(session=-1), "session must be"),
        (changed(session=1.5), "session must be"),
        (changed(iterations=10**400), "iterations must be"),
        (changed(seconds=10**400), "seconds must be"),
        (changed(saved="yesterday"), "saved must be"),
        (changed(state="model.0123456789ab.safetensors", state_digest="0" * 64), "state must be"),
        (changed(weights="state.0123456789ab.safetensors"), "weights must be"),
        (changed(state="state.0123456789ab.safetensors"), "name either both of state and state_digest or neither"),
        (changed(people=[f"p{i}" for i in range(5000)]), "people must be"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        parse(text, "here")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400, "it does not quote at length"


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere does not exist; give the folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds no model\.json"):
        read(tmp_path)
    (tmp_path / "model.json").write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(WeightsError, match="is not a folder"):
        read(tmp_path / "model.json")
    (tmp_path / "model.json").write_text(GOOD.to_json())
    assert read(tmp_path) == GOOD


def test_descriptions_that_would_be_read_for_ever(tmp_path: Path) -> None:
    with (tmp_path / "model.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(WeightsError, match="longer than 1024 KiB"):
        read(tmp_path)
    (tmp_path / "model.json").write_text(GOOD.to_json() + " " * (LONGEST - len(GOOD.to_json())))
    assert read(tmp_path) == GOOD
    (tmp_path / "model.json").unlink()
    os.mkfifo(tmp_path / "model.json")
    with pytest.raises(WeightsError, match="no regular file"):
        read(tmp_path)


def test_reading_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, models.description; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
