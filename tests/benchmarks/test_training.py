"""What the training bars hold against each other does what it says. Nothing is timed here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bars, bench_training, busy, face_files, textbook
from benchmarks.rounds import Sample
from models import autoencoders, checkpoint
from models.autoencoder import SharedEncoder
from models.faceset import FaceSet


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FaceSet]:
    folder = tmp_path_factory.mktemp("sets")
    return {person: face_files.written(folder / person, 6, seed) for seed, person in enumerate("ab")}


def test_made_faces_are_files_like_real_ones(faces: dict[str, FaceSet]) -> None:
    for made in faces.values():
        assert len(made.faces) == 6 and not made.junk
        crop, mask = made.load(made.faces[0])
        assert crop.shape == (256, 256, 3) and mask is not None and 0.1 < (mask > 127).mean() < 0.6
        assert 30_000 < made.faces[0].crop.stat().st_size < 120_000
        assert made.faces[0].landmarks is not None


def test_the_textbook_loop_learns_from_the_files(faces: dict[str, FaceSet]) -> None:
    model, _ = checkpoint.new("original", autoencoders.preset("original", "sketch"))
    assert isinstance(model, SharedEncoder)
    files = {person: [face.crop for face in each.faces] for person, each in faces.items()}
    loop = textbook.Loop(model, files, 64, 4, torch.device("cpu"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    loop.step()
    still = [name for name, weight in model.state_dict().items() if torch.equal(weight, before[name])]
    assert not still, "the encoder and both decoders have moved"


@pytest.fixture(scope="module")
def ways() -> Iterator[bench_training.Ways]:
    with bench_training.Ways("sketch", faces=6) as made:
        yield made
    assert not made.folder.exists()


@pytest.mark.parametrize("name", ["drawn", "still", "separate", "textbook"])
def test_every_way_takes_steps(ways: bench_training.Ways, name: str) -> None:
    step = ways.made(name)
    assert step is not None
    assert bench_training._turn(step, 0.0)().value > 0


def test_a_way_that_cannot_be_gone_says_why(ways: bench_training.Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ways.missing, "compiled", "no compiler")
    samples = {"still": [Sample(1.0)], "drawn": [Sample(0.5)], "worker": [Sample(0.8)]}
    there = bench_training._result("T2", samples, ways)
    missing = bench_training._result("T4", samples, ways)
    assert there.measured == 0.5 and there.facts["with_one_worker"] == 0.8
    assert there.facts["drawing_ms"] == 1000.0
    assert missing.measured is None and bars.verdict(missing) == "no compiler"


def test_time_that_is_covered_twice_counts_once() -> None:
    assert busy.covered([]) == 0
    assert busy.covered([(4, 6), (0, 2), (1, 3), (1, 2)]) == 5


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_covered_counts_moments(begun_and_long: list[tuple[int, int]]) -> None:
    spans = [(begin, begin + long) for begin, long in begun_and_long]
    moments = set(itertools.chain.from_iterable(range(begin, end) for begin, end in spans))
    assert busy.covered(spans) == len(moments)
