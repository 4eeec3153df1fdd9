"""models.reports.present: the newest figures of a journal, in JSON's types."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from models.reports import present
from models.train.journal import FILE, Journal
from pipeline.errors import WeightsError
from tests.models.reports import journals


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return journals.night(tmp_path_factory.mktemp("models") / "night")


def test_a_night(night: Path) -> None:
    found = present.read(night)
    assert (found.name, found.state, found.reason, found.iteration) == ("night", "ended", "stopped", 6000)
    assert set(found.loss) == {"a", "b"} and found.seconds == 500.5
    assert found.heard == "2026-02-01T07:08:20+00:00"
    assert found.faces_per_s == 90 + 6000 % 7 and found.lr == pytest.approx(1e-4) and found.waiting == 0.02
    assert found.facts == {"model": "original sketch", "people": "a, b", "on": "cpu fp32", "threads": "2", "batch": "4"}
    assert [session["number"] for session in found.sessions] == [3, 2, 1]
    assert [session["reason"] for session in found.sessions] == ["stopped", "killed", "minutes"]
    assert (found.share, found.left_s) == (None, None)
    json.dumps(asdict(found))


def test_judgements_and_the_best_of_them(night: Path) -> None:
    found = present.read(night)
    assert [verdict.iteration for verdict in found.verdicts][:2] == [6000, 5500]
    assert found.metrics == {
        "ssim": True,
        "psnr": True,
        "identity": True,
        "expression": False,
        "pose": False,
        "sharpness": True,
    }
    assert set(found.verdicts[0].best) == set(found.metrics) and not found.verdicts[1].best
    assert set(found.whose) == {"a", "b", "a>b", "b>a"}
    assert set(found.whose["a"]) == {"ssim", "psnr"} and set(found.whose["a>b"]) == {"identity", "expression"}


def test_events_but_not_each_save(night: Path) -> None:
    told = [event["what"] for event in present.read(night).events]
    assert told == ["saved", "out of memory", "rolled back", "backup"]


def test_nothing_yet(tmp_path: Path) -> None:
    assert present.read(tmp_path) == present.Present(tmp_path.name)
    (tmp_path / FILE).write_text(
        "this is no journal\n" * 3 + '{"kind": "point"}\n{"kind": "session", "iteration": -1}\n'
    )
    assert present.read(tmp_path) == present.Present(tmp_path.name)
    with pytest.raises(WeightsError, match="does not exist"):
        present.read(tmp_path / "nowhere")


def test_where_it_is_while_it_runs(tmp_path: Path) -> None:
    journal = Journal(tmp_path, now=lambda: journals.START)
    opening = journals.opening(1000)
    journal.begin(replace(opening, recipe={"iterations": 3000, "minutes": 60}))
    assert present.read(tmp_path).state == present.RUNNING and present.read(tmp_path).faces_per_s is None
    for iteration in range(1010, 1501, 10):
        journal.point(journals.point(iteration, (iteration - 1000) * 0.5))
    found = present.read(tmp_path)
    assert (found.state, found.iteration) == (present.RUNNING, 1500)
    assert found.share == pytest.approx(0.25), "of the steps; of the minutes it is 0.07"
    assert found.left_s == pytest.approx(1500 * 0.5)
    journal.close()
    killed = present.read(tmp_path)
    assert (killed.state, killed.left_s) == (present.KILLED, None)


@pytest.mark.parametrize(
    "recipe", [{"iterations": True, "minutes": "x"}, {"iterations": float("1e400")}, {"minutes": -3}, []]
)
def test_settings_that_are_none(tmp_path: Path, recipe: object) -> None:
    journal = Journal(tmp_path)
    journal.begin(replace(journals.opening(), recipe=recipe))  # type: ignore[arg-type]  # from a foreign file
    journal.point(journals.point(10, 5))
    assert (present.read(tmp_path).share, present.read(tmp_path).left_s) == (None, None)
    journal.close()


def test_it_loads_no_torch(night: Path) -> None:
    code = (
        f"import sys; from models.reports import present; present.read({str(night)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
