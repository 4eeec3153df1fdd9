"""What align remembers: a clip that was broken off and is gone on with has the crops of an unbroken one, to the bit."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import checkpoints
from pipeline.errors import InputError, PublishError, ResumeError
from pipeline.types import Clip, Face, Frame, Picture, Pulled, Report
from stages.align import Align, Config
from tests.stages.test_align import HEIGHT, RGB, WIDTH, clip, face, slope

SEGMENT = 4
CONFIG = Config(size=16, hold_misses=3, max_wait_ms=math.inf, memory=5)

#: A frame of a story: who is seen ("l", "r" or both), "-" nobody, "x" nobody and a cut.
Story = Sequence[str]


def told(story: Story, first: int = 0) -> Iterator[Frame]:
    """The story's frames from `first` on, counted from 0; a frame's memory is another's once it has been handed on."""
    picture, shot = slope(), 0
    for number, seen in enumerate(story):
        shot += seen == "x"
        if number < first:
            continue
        shown = picture if shot % 2 == 0 else np.ascontiguousarray(255 - picture[::-1, ::-1] // 2)
        rng = np.random.default_rng(number)
        faces = [
            face(x + 0.7 * number + rng.normal(), 80 + rng.normal(), 60 + rng.normal(), 0.4 + 0.6 * rng.random())
            for who, x in (("l", 50), ("r", 130))
            if who in seen
        ]
        planes = (shown ^ np.uint8(number % 3),)
        yield Frame(1, number - first, 10 * number, Picture(RGB, WIDTH, HEIGHT, planes), tuple(faces))


Known = tuple[int, int | None, bytes, bytes, bytes]


def aligned(facts: Clip, story: Story, killed_at: int | None = None) -> tuple[list[list[Known]], Report]:
    """What align makes of the frames from `facts.first` on, to the bit, and what it reports, if it lives to the end."""
    out: list[list[Known]] = []
    made = Align(CONFIG)(facts, Pulled(told(story, facts.first), lambda timeout_s: timeout_s == math.inf))
    while facts.first + len(out) - 1 != killed_at:
        try:
            frame = next(made)
        except StopIteration as end:
            return out, end.value
        assert frame.pts == 10 * (facts.first + frame.index)
        out.append([known(frame, seen) for seen in frame.faces])
        for seen in frame.faces:
            seen.landmarks[:] = -1e6
        frame.picture.planes[0][:] = 0
    made.close()
    return out, {}


def known(frame: Frame, seen: Face) -> Known:
    assert seen.aligned is not None and seen.frame_to_crop is not None
    arrays = (seen.landmarks, seen.frame_to_crop, seen.aligned)
    return (frame.pts, seen.track, *(array.tobytes() for array in arrays))  # type: ignore[return-value]


def resumed(facts: Clip, kept: int) -> Clip:
    return replace(facts, first=checkpoints.load_state(facts.work, "align", kept)[0], kept=kept)


def assert_goes_on_alike(story: Story, work: Path) -> list[int]:
    """Breaks the story off at every boundary, and goes on; returns where each began."""
    whole = clip(work=str(work), segment=SEGMENT)
    want, report = aligned(whole, story)
    boundaries = range(SEGMENT, len(story), SEGMENT)
    assert sorted(work.iterdir()) == [work / f"state.align.{at:09d}.npz" for at in boundaries]
    firsts = []
    for kept in boundaries:
        # those that come after this boundary are saved by the run that goes on there
        states = {path: path.read_bytes() for path in work.iterdir() if int(path.name.split(".")[2]) > kept}
        for path in states:
            path.unlink()
        again = resumed(whole, kept)
        got, said = aligned(again, story)
        assert got[kept - again.first :] == want[kept:], f"broken at {kept}, from {again.first}"
        assert said == report
        assert {path: path.read_bytes() for path in states} == states, "what the next run needs is the same, too"
        firsts.append(again.first)
    return firsts


def test_a_face_missing_over_a_boundary_and_a_cut(tmp_path: Path) -> None:
    story = ["lr", "lr", "l", "l", "lr", "lr", "r", "-", "-", "lr", "lr", "l", "x", "lr", "lr", "lr", "r", "lr", "lr"]
    assert assert_goes_on_alike(story, tmp_path) == [2, 6, 11, 16]


def test_gaps_that_overlap_reach_far_back(tmp_path: Path) -> None:
    """Somebody is always missing: no frame is free of the others for a while."""
    story = ["lr", "lr", "l", "r", "l", "r", "l", "r", "l", "lr", "lr", "lr", "lr"]
    assert assert_goes_on_alike(story, tmp_path) == [2, 2, 12]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=st.lists(st.sampled_from(["lr", "lr", "l", "r", "-", "x", "xlr"]), max_size=22))
def test_any_story(story: Story, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert_goes_on_alike(story, tmp_path_factory.mktemp("work"))


def test_a_clip_may_break_off_again_and_again(tmp_path: Path) -> None:
    story: Story = ["l", "lr", "lr", "r", "r", "lr", "lr", "l", "-", "lr", "lr", "lr", "l", "lr"]
    whole = clip(work=str(tmp_path), segment=SEGMENT)
    want, report = aligned(whole, story)
    got, facts = [], whole
    for kept in range(SEGMENT, len(story), SEGMENT):
        some, _ = aligned(facts, story, killed_at=kept)
        got += some[facts.kept - facts.first : kept - facts.first]
        facts = resumed(whole, kept)
    some, said = aligned(facts, story)
    assert got + some[facts.kept - facts.first :] == want
    assert said == report


def test_a_clip_that_only_has_to_be_joined_has_no_frames_and_needs_nothing(tmp_path: Path) -> None:
    facts = clip(work=str(tmp_path), segment=SEGMENT, first=10, kept=10)
    assert aligned(facts, ["l"] * 10)[0] == []


def test_without_a_work_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "save_state", lambda *_: pytest.fail("saved"))
    aligned(clip(), ["lr"] * 9)


def test_a_full_disk_is_told_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_state", full)
    with pytest.raises(PublishError, match=r"frame 4 could not be saved in .*: no space left on device") as caught:
        aligned(clip(work=str(tmp_path), segment=SEGMENT), ["l"] * 6)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


@pytest.mark.parametrize("damage", ["gone", "cut short", "of another version", "of another shape", "for another frame"])
def test_what_cannot_be_gone_on_with_begins_anew(damage: str, tmp_path: Path) -> None:
    whole = clip(work=str(tmp_path), segment=SEGMENT)
    aligned(whole, ["l"] * 6)
    facts = resumed(whole, 4)
    (path,) = tmp_path.iterdir()
    if damage == "gone":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "of another version":
        checkpoints.save_state(str(tmp_path), "align", 4, 4, {"tracks": np.zeros(3)})
    elif damage == "of another shape":
        first, known = checkpoints.load_state(str(tmp_path), "align", 4)
        checkpoints.save_state(str(tmp_path), "align", 4, first, known | {"tracks": np.zeros(3)})
    else:
        facts = replace(facts, first=3)
    with pytest.raises(ResumeError, match=r"cannot be gone on with at frame 4: .*; it has to begin anew"):
        aligned(facts, ["l"] * 6)
    assert issubclass(ResumeError, InputError)


def test_an_unreadable_disk_is_no_reason_to_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoints, "load_state", broken)
    with pytest.raises(PublishError, match="could not be read: input/output error"):
        aligned(clip(work=str(tmp_path), segment=SEGMENT, first=4, kept=4), ["l"] * 6)


def test_a_snapshot_costs_next_to_nothing() -> None:
    """Ten microseconds, of the milliseconds that a frame takes; more on a busy machine."""
    memory = Align(CONFIG)._memory()
    for frame in told(["lr"] * 8):
        numbers = memory.tracker.update(frame.faces)
        faces = tuple(seen.with_(track=number) for seen, number in zip(frame.faces, numbers, strict=True))
        memory.gaps.push(frame.with_(faces=faces), {})
        memory.cut_finder.is_cut(frame.picture)
        for seen in faces:
            memory.steady(seen.track or 0, frame.index, np.eye(2, 3), 16)
    took = []
    for _ in range(200):
        begun = time.perf_counter()
        known = memory.snapshot(8)
        took.append(time.perf_counter() - begun)
    assert known["landmarks"].shape == (2, 478, 2)
    assert sorted(took)[len(took) // 2] < 200e-6
