"""models.reports.history: the sessions and curves of a journal, whatever has become of it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.reports import history
from models.reports.history import NEWEST, read
from models.reports.samples import POINTS, Sample, Samples
from models.train.journal import FILE, ROLLED_BACK, Journal
from pipeline.errors import WeightsError
from tests.models.reports.journals import START, night, opening, point


def lines(folder: Path, *records: dict[str, Any]) -> Path:
    (folder / FILE).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def at(iteration: int, loss: float = 0.5, **more: object) -> dict[str, Any]:
    return {"kind": "point", "iteration": iteration, "seconds": iteration, "loss": {"a": loss}, **more}


def test_a_night(tmp_path: Path) -> None:
    told = read(night(tmp_path))
    one, two, three = told.sessions
    assert [s.number for s in told.sessions] == [1, 2, 3]
    assert [(s.first, s.last, s.steps) for s in told.sessions] == [
        (0, 2000, 2000),
        (2000, 4260, 2760),
        (4000, 6000, 2000),
    ]
    assert [s.reason for s in told.sessions] == ["minutes", "killed", "stopped"]
    assert [s.overtakes for s in told.sessions] == [None, None, 4260]
    assert [s.faces for s in told.sessions] == [32000, 44160, 16000]
    assert (one.start, one.end) == (START, START + timedelta(seconds=1001))
    assert (two.seconds, two.end) == (1380, START + timedelta(hours=1, seconds=1380))
    assert three.faces_per_s == pytest.approx(16000 / 500.5) and three.batch == 4
    assert one.people == ("a", "b") == told.people and (one.architecture, one.preset, one.device) == (
        "original",
        "sketch",
        "cpu",
    )
    assert three.loss == pytest.approx(dict(point(6000, 0).loss), rel=1e-6)
    assert [p.iteration for p in told.points] == list(range(10, 6001, 10))
    # What was overtaken is gone: these steps belong to the later sessions.
    assert {p.session for p in told.points if p.iteration > 4000} == {3}
    again = next(p for p in told.points if p.iteration == 2600)
    assert again.seconds == 550 and again.terms["b/mae"] == pytest.approx(again.loss["b"] * 0.2, rel=1e-5)
    assert [j.iteration for j in told.judgements] == [500, 1000, 1500, 2000, 4500, 5000, 5500, 6000]
    assert told.judgements[-1].metrics["identity/a>b"] > 0.8
    assert [e.what for e in told.events if e.what != "saved"] == ["backup", ROLLED_BACK, "out of memory"]
    assert told.events[0].when == START and told.recipe["batch"] == 4


def test_a_session_that_runs(tmp_path: Path) -> None:
    kept = Journal(tmp_path)
    kept.begin(opening())
    kept.point(point(5, 2.0))
    assert read(tmp_path).sessions[0].reason == "running"
    kept.close()
    assert read(tmp_path).sessions[0].reason == "killed"


def test_nothing_was_written(tmp_path: Path) -> None:
    assert read(tmp_path) == history.History()
    with pytest.raises(WeightsError, match=r"no does not exist; give the folder"):
        read(tmp_path / "no")
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="is not a folder"):
        read(tmp_path / "file")
    (tmp_path / FILE).mkdir()
    with pytest.raises(WeightsError, match="cannot be read"):
        read(tmp_path)


def test_a_session_ends_what_was_killed_and_overtakes_its_points(tmp_path: Path) -> None:
    judged = [{"kind": "judgement", "iteration": i, "metrics": {"ssim": i / 10}} for i in (2, 4)]
    started = {"kind": "session", "iteration": 3, "time": "2026-01-31T12:00:00Z"}
    told = read(lines(tmp_path, at(2), judged[0], at(4), judged[1], at(6), started, at(4, 0.25), at(4, 0.1)))
    assert [(p.iteration, p.loss["a"]) for p in told.points] == [(2, 0.5), (4, 0.25)]
    assert [j.iteration for j in told.judgements] == [2]
    (session,) = told.sessions
    assert (session.steps, session.start) == (1, datetime(2026, 1, 31, 12, tzinfo=UTC))


def test_taken_back_and_not_heard_of_again(tmp_path: Path) -> None:
    back = {"kind": "event", "iteration": 3, "what": ROLLED_BACK}
    told = read(
        lines(tmp_path, *(at(i) for i in range(1, 7)), {"kind": "judgement", "iteration": 5, "metrics": {}}, back)
    )
    assert [p.iteration for p in told.points] == [1, 2, 3] and not told.judgements


def test_what_is_judged_stays_when_the_same_step_is_told_after_it(tmp_path: Path) -> None:
    told = read(lines(tmp_path, at(1), {"kind": "judgement", "iteration": 2, "metrics": {"ssim": 1}}, at(2), at(3)))
    assert len(told.judgements) == 1 and len(told.points) == 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(["session", "point", "judgement", "event", "end", "else"])
KEYS = st.sampled_from(
    "iteration time seconds loss terms lr metrics what text reason number people batch recipe".split()  # noqa: SIM905
)
RECORDS = st.builds(
    lambda kind, iteration, rest: {"iteration": iteration} | rest | {"kind": kind},
    KINDS,
    st.integers(0, 100),
    st.dictionaries(KEYS, VALUES, max_size=5),
)


@settings(deadline=None, max_examples=200)
@given(found=st.lists(RECORDS, max_size=12))
def test_whatever_a_record_holds(tmp_path_factory: pytest.TempPathFactory, found: list[dict[str, Any]]) -> None:
    told = read(lines(tmp_path_factory.mktemp("any"), *found))
    reached = [p.iteration for p in told.points]
    assert reached == sorted(set(reached))
    assert all(abs(value) < 1e15 for p in told.points for value in p.loss.values())
    assert len(told.sessions) == sum(record["kind"] == "session" and first(record) >= 0 for record in found)


def first(record: dict[str, Any]) -> int:
    value = record["iteration"]
    return value if isinstance(value, int) and not isinstance(value, bool) and value < 2**63 else -1


def sample(iteration: int, loss: float, session: int = 1) -> Sample:
    return Sample(iteration, session, iteration, {"a": loss}, {"a": loss}, {"a": loss}, {}, None, 1.0, None)


def test_long_curves_are_thinned_and_keep_their_ends_and_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.reports.samples._VALUES", 7 * 2 * POINTS)  # room for as many as there may be, no more
    kept = Samples()
    count = 50_000
    for iteration in range(count):
        kept.add(sample(iteration, 9.0 if iteration == 31_234 else iteration / count))
    thinned = kept.thinned()
    assert POINTS / 2 <= len(thinned) <= POINTS
    assert sum(s.count for s in thinned) == count and thinned[-1].iteration == count - 1
    assert max(s.highest["a"] for s in thinned) == 9.0 and min(s.lowest["a"] for s in thinned) == 0
    total = sum(s.loss["a"] * s.count for s in thinned)
    assert total == pytest.approx(sum(i / count for i in range(count)) + 9 - 31_234 / count)


def test_dropping_from_a_thinned_curve() -> None:
    kept = Samples()
    for iteration in range(30_000):
        kept.add(sample(iteration, 0.5))
    kept.drop_beyond(20_000)
    last = kept.thinned()[-1].iteration
    assert 20_000 - 16 <= last <= 20_000
    for iteration in range(20_001, 21_000):
        kept.add(sample(iteration, 0.25))
    thinned = kept.thinned()
    assert thinned[-1].iteration == 20_999 and {round(s.loss["a"], 6) for s in thinned} == {0.5, 0.25}


def test_hundreds_of_people_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.reports.samples._VALUES", 10_000)
    kept = Samples()
    losses = {f"p{i}": 0.5 for i in range(300)}
    for iteration in range(500):
        kept.add(Sample(iteration, 1, 0, losses, losses, losses, {}, None, None, None))
    assert len(kept.thinned()) <= 12 and kept.thinned()[-1].iteration == 499


def test_many_sessions_and_events_are_bounded(tmp_path: Path) -> None:
    many = [{"kind": kind, "iteration": i, "what": "saved"} for i in range(NEWEST + 5) for kind in ("session", "event")]
    told = read(lines(tmp_path, *many))
    assert len(told.sessions) == len(told.events) == NEWEST and told.sessions[-1].first == NEWEST + 4


def test_loads_no_torch() -> None:
    code = "import models.reports.history, sys; print({'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    root = Path(history.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "set()\n"
