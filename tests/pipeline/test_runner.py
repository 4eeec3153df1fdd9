"""The same stages in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runner import chain, inline
from pipeline.types import Job, Stage
from tests.pipeline.toys import Check, Config, Edit, Find, Finish, Gather, Make


def stages(**configs: Config) -> list[Stage]:
    kinds = {"make": Make, "find": Find, "gather": Gather, "edit": Edit, "check": Check}
    return [kind(configs.get(name)) for name, kind in kinds.items()]


def test_every_frame_comes_out_and_the_target_is_published(tmp_path: Path) -> None:
    # `check` compares every byte with what the source makes, and fails where `edit` changed the source's own planes
    outcome = inline(stages(gather=Config(batch=4)), Job(1, "64x48x10", str(tmp_path / "out")))
    assert outcome.failure is None
    assert outcome.frames == 10
    assert outcome.reports["make"] == {"made": 10}
    assert outcome.reports["gather"] == {"batches": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"whole"


@pytest.mark.parametrize("stage", ["make", "find", "edit", "check"])
def test_a_failure_names_the_stage_and_the_frame(stage: str, tmp_path: Path) -> None:
    outcome = inline(stages(**{stage: Config("raise", at=5)}), Job(1, "64x48x10", str(tmp_path / "out")))
    assert outcome.failure is not None
    assert (outcome.failure.stage, outcome.failure.frame) == (stage, 5)
    assert "as told" in outcome.failure.reason
    assert not list(tmp_path.iterdir()), "no half file"


def test_a_clip_that_will_not_open_is_refused() -> None:
    outcome = inline(stages(), Job(1, "8x8x8:refuse", ""))
    assert outcome.failure is not None
    assert (outcome.failure.stage, outcome.failure.frame, outcome.failure.error) == ("make", None, "InputError")


def test_what_cannot_be_published_says_so(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    outcome = inline(stages(), Job(1, "64x48x2", str(target)))
    assert outcome.failure is not None
    assert (outcome.failure.stage, outcome.failure.error) == ("publish", "PublishError")


@pytest.mark.parametrize("work", [False, True], ids=["in one go", "in segments"])
def test_a_finisher_makes_the_file_whole(work: bool, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    job = Job(1, "64x48x10", str(tmp_path / "out"), str(tmp_path / "work") if work else "")
    outcome = inline(stages(), job, Finish(None))
    assert outcome.failure is None
    assert outcome.reports["publish"]["seen"] == "check,edit,find,gather,make"
    assert (tmp_path / "out").read_bytes() == b"finished"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "work"]


def test_a_finisher_that_refuses_is_named(tmp_path: Path) -> None:
    outcome = inline(stages(), Job(1, "64x48x10", str(tmp_path / "out")), Finish(Config("refuse")))
    assert outcome.failure is not None
    assert (outcome.failure.stage, outcome.failure.frame, outcome.failure.error) == ("publish", None, "PublishError")
    assert not list(tmp_path.iterdir()), "no half file"


def test_a_chain_can_be_looked_into() -> None:
    made = stages()
    clip = made[0].open(Job(1, "64x48x3", ""))  # type: ignore[attr-defined]
    frames = list(chain(made[:2], clip))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert all(len(frame.faces) == 1 for frame in frames)
    assert all(plane.flags.writeable for frame in frames for plane in frame.picture.planes)
