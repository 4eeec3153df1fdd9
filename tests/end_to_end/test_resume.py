"""A clip that was broken off and is gone on with: the frames, segments and file of one that was not, to the bit.

The real chain in one process: a face drifts, is lost over boundaries of segments, and another shot begins.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from pipeline import app, checkpoints
from pipeline.runner import inline
from pipeline.specs import Outcome
from pipeline.types import Array, Clip, Frame, Frames, Job, Report, Stage
from stages import encode, finish
from tests.clips import decoded, make_clip
from tests.end_to_end.footage import random_model, scene, stored

RATE, SEGMENT, FRAMES = 25, 6, 27
LOSSLESS = encode.Config(codec="ffv1", threads=1)
#: Nobody is seen in these frames; 6, 18 and 24 begin segments.
GONE = {5, 6, 11, 17, 18, 23}
#: Another shot begins with this frame.
CUT = 14


class Witness:
    """Stands behind encode: keeps what every frame came to, and fails at one of them where it shall."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self) -> None:
        self.seen: dict[int, tuple[bytes, ...]] = {}
        self.dies_at: int | None = None

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        for frame in frames:
            number = clip.first + frame.index
            if number == self.dies_at:
                raise RuntimeError("the power fails")
            if number >= clip.kept:
                self.seen[number] = (str(frame.pts).encode(), *(plane.tobytes() for plane in frame.picture.planes))
            yield frame
        return {}


def shot(index: int) -> Array:
    """(240, 320, 3) uint8 RGB: the face in its place; after the cut a smaller one in a bright room."""
    picture = scene(320, 240, index)
    if index in GONE:  # something is held before the face
        cv2.rectangle(picture, (105, 25), (180, 115), (120, 100, 90), cv2.FILLED)
    if index < CUT:
        return picture
    room = np.full_like(picture, 235)
    room[:, 160 + index :] = 90
    room[60:240, 0:240] = cv2.resize(picture, (240, 180), interpolation=cv2.INTER_AREA)[:, ::-1]
    return room


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [stored(shot(index), "yuv420p") for index in range(FRAMES)]
    return make_clip(
        tmp_path_factory.mktemp("clip") / "in.mkv", codec="ffv1", rate=RATE, pictures=pictures, width=320, height=240
    )


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stage]]:
    """The daemon's chain with the smallest model, and a witness."""
    defaults = app.Settings(model=random_model(tmp_path_factory.mktemp("model")))
    settings = replace(
        defaults,
        align=replace(defaults.align, max_wait_ms=float("inf")),
        encode=LOSSLESS,
        swap=replace(defaults.swap, batch=4, threads=1, device="cpu"),
    )
    yield [*(spec.build() for spec in app.stage_specs(settings)), Witness()]


class Run:
    """One source, made in `work`."""

    def __init__(self, stages: Sequence[Stage], source: Path, work: Path) -> None:
        self._stages = stages
        self._job = Job(1, str(source), str(work.with_suffix(".mkv")), str(work), SEGMENT / RATE)
        self._witness = stages[-1]
        self.work = work
        work.mkdir()

    def __call__(self, dies_at: int | None = None) -> Outcome:
        assert isinstance(self._witness, Witness)
        self._witness.dies_at = dies_at
        self._witness.seen = {}
        outcome = inline(self._stages, self._job, finish.Finish(finish.Config(LOSSLESS)))
        assert outcome.ok == (dies_at is None), outcome.failure
        return outcome

    @property
    def seen(self) -> dict[int, tuple[bytes, ...]]:
        """What the last run's frames came to, without those that were finished before."""
        assert isinstance(self._witness, Witness)
        return self._witness.seen

    @property
    def kept(self) -> int:
        """The frames that are finished."""
        checkpoint = checkpoints.read(str(self.work))
        return checkpoint.kept if checkpoint else 0

    def files(self) -> dict[str, object]:
        """What lies on the disk: the segments' bytes, and the published file's pictures and their times."""
        segments = {path.name: path.read_bytes() for path in self.work.glob("segment.*")}
        pictures = decoded(Path(self._job.target))
        return {**segments, "published": [(pts, *(plane.tobytes() for plane in planes)) for pts, planes in pictures]}


Whole = tuple[dict[int, tuple[bytes, ...]], dict[str, object], dict[str, Report]]


@pytest.fixture(scope="module")
def unbroken(stages: list[Stage], source: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What the frames of a run that nothing happens to come to, its files, and its reports."""
    run = Run(stages, source, tmp_path_factory.mktemp("unbroken") / "work")
    outcome = run()
    assert run.kept == FRAMES
    assert sorted(run.seen) == list(range(FRAMES))
    align = outcome.reports["align"]
    assert (align["cuts"], align["tracks"], align["misses_filled"]) == (1, 2, len(GONE)), "the story is as it is told"
    files = run.files()
    assert len(files) == 1 + -(-FRAMES // SEGMENT)
    return run.seen, files, outcome.reports


def goes_on(stages: list[Stage], source: Path, work: Path, unbroken: Whole, breaks: Sequence[int]) -> None:
    """Breaks a run off at each of these frames, goes on each time, and compares."""
    want, files, reports = unbroken
    run = Run(stages, source, work)
    for dies_at in breaks:
        run(dies_at)
        assert run.kept == dies_at // SEGMENT * SEGMENT
        for number, planes in run.seen.items():
            assert planes == want[number], f"frame {number} of a run that died at {dies_at}"
    kept = run.kept
    outcome = run()
    assert sorted(run.seen) == list(range(kept, FRAMES))
    for number, planes in run.seen.items():
        assert planes == want[number], f"frame {number} of a clip that broke off at {breaks}"
    assert run.files() == files
    assert outcome.reports["align"] == reports["align"], "it speaks of the whole clip"


def test_a_clip_that_broke_off_goes_on_to_the_same_frames(
    stages: list[Stage], source: Path, tmp_path: Path, unbroken: Whole
) -> None:
    goes_on(stages, source, tmp_path / "work", unbroken, [7, 19])


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 5, 6, 8, 11, 12, 13, 14, 15, 17, 18, 20, 23, 24, 25, 26])
def test_wherever_it_broke_off(at: int, stages: list[Stage], source: Path, tmp_path: Path, unbroken: Whole) -> None:
    goes_on(stages, source, tmp_path / "work", unbroken, [at])


@pytest.mark.slow
def test_however_often_it_broke_off(stages: list[Stage], source: Path, tmp_path: Path, unbroken: Whole) -> None:
    goes_on(stages, source, tmp_path / "work", unbroken, [3, 6, 9, 12, 13, 18, 21, 24])


def test_what_lies_about_of_another_boundary_does_no_harm(
    stages: list[Stage], source: Path, tmp_path: Path, unbroken: Whole
) -> None:
    """A power cut may lose what was not synced: segments and states that no checkpoint speaks of."""
    run = Run(stages, source, tmp_path / "work")
    run(13)
    shutil.copy(run.work / checkpoints.segment_name(0), run.work / checkpoints.segment_name(18))
    (run.work / "state.align.000000018.npz").write_bytes(b"half")
    outcome = run()
    assert run.files() == unbroken[1]
    assert outcome.reports["align"] == unbroken[2]["align"]
