"""The table of what models cost: every model is in it, limits end a step, and what went wrong is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import bench_models, one_model
from benchmarks.bench_models import Line
from benchmarks.one_model import Bounds
from benchmarks.rounds import Machine
from models import autoencoders

_GIB = 2**30


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_small_model_is_measured() -> None:
    told = one_model.measured("original", "sketch", 2, Bounds(64 * _GIB))
    assert set(told) == {"precision", "bytes", "steps_per_s"}
    # Its weights, their gradients and Adam's two moments.
    assert isinstance(told["bytes"], int) and told["bytes"] > 4 * 4 * 3_234_470
    assert isinstance(told["steps_per_s"], float) and 0 < told["steps_per_s"] < 1000


@pytest.mark.parametrize(
    ("bounds", "remark"), [((1.0, 60.0), "over 0 GiB"), ((float(64 * _GIB), 0.0), "over 0 s a step")]
)
def test_what_takes_too_much_is_given_up(bounds: tuple[float, float], remark: str) -> None:
    assert one_model.measured("original", "sketch", 2, Bounds(*bounds))["remark"] == remark


def test_every_architecture_has_its_lines() -> None:
    quick, whole = (list(bench_models._models(quickly)) for quickly in (True, False))
    assert [line.architecture for line in quick] == list(autoencoders.names())
    assert {line.architecture for line in whole} == set(autoencoders.names())
    original = next(line for line in whole if (line.architecture, line.preset) == ("original", "original"))
    assert original == Line("original", "original", 64, 64, 82_062_470)


def test_large_models_are_left_to_gpus_and_failures_told(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [Line("unbalanced", "512px", 512, 512, 10), Line("original", "nobody's", 64, 64, 10)]
    monkeypatch.setattr(bench_models, "_models", lambda quick: iter(shown))
    monkeypatch.setattr("models.tensors.choose_device", lambda name: torch.device("cpu"))
    said: list[str] = []
    large, wrong = bench_models.table(False, Machine(0.0), said.append)
    assert (large.remark, large.bytes) == ("for GPUs", None)
    assert wrong.remark.startswith("failed: ") and "nobody's" in wrong.remark
    assert said[1] == "| unbalanced | 512px | 512 px | 512 px | 0.00 M | - | for GPUs |"


def test_rows_tell_what_was_disturbed() -> None:
    line = Line("original", "original", 64, 64, 82_062_470, "bf16", 3 * _GIB // 2, 0.844)
    assert bench_models.as_row(line).endswith("| 82.06 M | 1.50 GiB | 0.84 |")
    busy = Line("original", "original", 64, 64, 82_062_470, "bf16", _GIB, 14.4, others=1.2)
    assert bench_models.as_row(busy).endswith("| 1.00 GiB | 14 * |")
    assert bench_models.caption(False, [line, busy]) == (
        "Two people, 16 faces of each in a step, bf16. * while others used the machine: up to 1.2 cores."
    )
    assert "*" not in bench_models.caption(False, [line])
