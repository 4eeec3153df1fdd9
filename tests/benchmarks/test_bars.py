"""The harness counts right: verdicts, medians, ratios, turns. Nothing is timed here."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bars, rounds, suite
from benchmarks.bars import BARS, Result
from benchmarks.rounds import Machine, Sample
from pipeline.errors import ConfigError


class Busy(Machine):
    """A machine on which others are always at work, or never."""

    def __init__(self, patience_s: float, others: float) -> None:
        super().__init__(patience_s)
        self.others = others
        self.waits = 0

    def wait_for_quiet(self) -> None:
        self.waits += 1
        self._patience_s -= 1

    def lose(self, seconds: float) -> None:
        self._patience_s -= 1

    def others_since(self, mark: tuple[float, float, float]) -> float:
        return self.others


def test_the_bars_are_all_there_and_aim_higher_than_must() -> None:
    ids = [f"{kind}{n}" for kind, last in (("P", 15), ("T", 5), ("D", 5), ("M", 4)) for n in range(1, last + 1)]
    assert [bar.id for bar in BARS] == ids
    assert sorted(bar_id for ids, _ in suite.GROUPS for bar_id in ids) == sorted(bar.id for bar in BARS)
    for bar in BARS:
        assert bar.reached(bar.must) and bar.reached(bar.aim) and bar.aimed(bar.aim)
        assert not bar.reached(bar.must + (1e-6 if bar.at_most else -1e-6))


@pytest.mark.parametrize(
    ("bar_id", "measured", "words"),
    [
        ("P8", 6.0, "reached"),
        ("P8", 6.8, "reached, and the aim"),
        ("P8", 4.0, "NOT reached: 20 % short"),
        ("P2", 1.62, "NOT reached: 20 % short"),
        ("P2", 1.1, "reached, and the aim"),
        ("P14", 3.0, "NOT reached: 100 % short"),
        ("P14", 0.0, "reached, and the aim"),
    ],
)
def test_verdicts(bar_id: str, measured: float, words: str) -> None:
    result = Result(bar_id, measured)
    assert bars.verdict(result) == words
    assert bars.failed(result) == words.startswith("NOT")
    assert words in bars.line(result)


def test_a_condition_that_failed_fails_the_bar_however_good_the_figure() -> None:
    result = Result("P10", 30.0, unmet="41 dB in luma, must be 45")
    assert bars.failed(result)
    assert "41 dB" in bars.verdict(result)


def test_what_cannot_be_measured_says_why_and_does_not_fail() -> None:
    result = Result("P6", None, note="not measurable on 2 cores")
    assert not bars.failed(result)
    assert bars.verdict(result) == "not measurable on 2 cores"
    assert json.loads(json.dumps(bars.as_json(result)))["reached"] is None


@given(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=9), st.floats(0.1, 10.0))
def test_a_ratio_is_that_of_the_medians(values: list[float], factor: float) -> None:
    samples = {"a": [Sample(v * factor) for v in values], "b": [Sample(v) for v in reversed(values)]}
    assert rounds.ratio(samples, "a", "b") == pytest.approx(factor)
    ordered = sorted(values)
    assert ordered[(len(values) - 1) // 2] <= rounds.middle(samples["b"]) <= ordered[len(values) // 2]


def test_variants_take_turns() -> None:
    order: list[str] = []

    def turn(name: str) -> Sample:
        order.append(name)
        return Sample(len(order), {"twice": 2.0 * len(order)})

    samples = rounds.interleaved({n: (lambda n=n: turn(n)) for n in "ab"}, 3, Busy(10, others=0.0))
    assert order == ["a", "b"] * 3
    assert rounds.middle(samples["a"]) == 3
    assert rounds.middle_fact(samples["b"], "twice") == 8
    assert rounds.disturbance(samples) == ""


def test_disturbed_turns_are_run_again_while_patience_lasts_and_then_count() -> None:
    turns: list[int] = []

    def turn() -> Sample:
        turns.append(1)
        return Sample(len(turns))

    samples = rounds.interleaved({"a": turn}, 3, Busy(12, others=1.0))
    assert len(turns) == 6
    assert len(samples["a"]) == 3
    assert "1.0 cores" in rounds.disturbance(samples)


def test_own_work_is_not_taken_for_others() -> None:
    machine = Machine(0)
    mark = machine.mark()
    until = rounds.own_cpu_s() + 0.3
    while rounds.own_cpu_s() < until:
        pass
    busy, own = (now - then for now, then in list(zip(machine.mark(), mark, strict=True))[1:])
    assert own >= 0.3
    assert machine.others_since(mark) >= 0.0
    assert busy == 0.0 or busy >= own - 0.1, "the system has counted our own work too"


def test_choosing_bars() -> None:
    assert suite.chosen(["p4,P8", "P1"]) == {"P1", "P4", "P8"}
    assert len(suite.chosen([])) == 29
    with pytest.raises(ConfigError, match=r"'P99'; did you mean P9\?"):
        suite.chosen(["P99"])
