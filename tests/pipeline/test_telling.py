"""What the daemon says of itself, and when."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline import live, overview, telling
from pipeline.dispatch import Lanes
from pipeline.lanes import Event, Lane, Now
from pipeline.pixels import PIXEL_FORMATS
from pipeline.specs import StageStats
from pipeline.telling import Teller
from pipeline.types import Clip
from tests.pipeline.fake_engine import Workshop

FOLDER = live.Folder("/in", "/out", "events")


class Scene:
    """A teller and lanes, of which one may be at work."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.lanes = Lanes(1, (), self.events.put)
        self.teller = Teller(state, state / "work")

    def tell(self, reason: str = "", trouble: str = "", draining: bool = False) -> live.Live:
        folder = live.Folder("/in", "/out", "events", trouble)
        self.teller.tell(reason, (folder,), self.lanes, draining, "http://here/")
        told = live.read(self.state)
        assert told is not None
        return told

    def lane(self) -> Lane:
        self.lanes.pick(Workshop().station())
        (lane,) = self.lanes.all
        return lane


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.lanes.stop(0.0)
    for lane in scene.lanes.all:
        lane.join()


def test_all_is_well(scene: Scene) -> None:
    told = scene.tell()
    assert (told.pid, told.state, told.ready, told.web, told.reason) == (
        os.getpid(),
        "running",
        True,
        "http://here/",
        "",
    )
    assert told.folders == (FOLDER,) and told.watched == str(scene.state / "work")
    seen = overview.look(scene.state, time.time())
    assert seen.up and seen.state == "running"
    scene.teller.end()
    assert not overview.look(scene.state, time.time()).up
    scene.teller.end()


def test_what_is_wrong(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told = scene.tell("no room")
    assert (told.state, told.ready, told.reason) == ("paused", False, "no room")
    assert scene.tell("no room") == told
    told = scene.tell(trouble="/in cannot be read")
    assert (told.state, told.ready, told.reason) == ("running", False, "/in cannot be read")
    assert scene.tell(draining=True).state == "draining"
    assert [record.message for record in caplog.records] == ["paused: no room", "going on"]


def test_a_figure_that_changes_is_not_logged_each_time(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    now = [100.0]
    monkeypatch.setattr("pipeline.telling.time.monotonic", lambda: now[0])
    for second in range(130):
        assert scene.tell(f"{second} bytes left").reason == f"{second} bytes left"
        now[0] += 1.0
    scene.tell("")
    scene.tell("0 bytes left")
    told = ["paused: 0 bytes left", "paused: 60 bytes left", "paused: 120 bytes left", "going on"]
    assert [record.message for record in caplog.records] == [*told, "paused: 0 bytes left"]


def test_it_is_renewed_seldom_while_nothing_happens(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.telling.time.monotonic", lambda: now[0])
    written = []
    monkeypatch.setattr(live, "write", lambda state, told: written.append(now[0]))
    for _ in range(200):
        scene.teller.tell("", (FOLDER,), scene.lanes, False, "")
        now[0] += 0.1
    assert len(written) == 4
    assert all(later - before < overview.SILENT_S / 2 for before, later in pairwise(written))


def test_clocks_that_are_put_back_change_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would look dead for as long as the clock was put back."""
    monkeypatch.setattr(telling, "_RESTING_S", 0.05)
    scene.tell()
    monkeypatch.setattr("pipeline.telling.time.time", lambda: 1000.0)
    time.sleep(0.06)
    assert scene.tell().time == 1000.0


def test_a_clip_at_work(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.telling.time.monotonic", lambda: now[0])
    clip = Clip(
        7, "/in/a.mp4", "/out/a.mp4", "", 64, 48, PIXEL_FORMATS["yuv420p"], Fraction(1, 25),
        frames=100, work="/work/7", first=10, kept=20,
    )  # fmt: skip
    lane = scene.lane()
    scene.lanes.all[0].stop(0.0)
    assert lane.join(60)

    def running(**now_: object) -> live.Running:
        lane.now = Now(clips={7: clip}, **now_)  # type: ignore[arg-type]
        (shown,) = scene.tell().running
        return shown

    shown = running()
    assert (shown.job, shown.step, shown.frame, shown.frames, shown.eta_s) == (7, "decode", 20, 100, None)
    assert shown.preview == "/work/7/preview.jpg"
    now[0] += 1
    stats = (StageStats("decode", 0, 1, clip=7, frame=14), StageStats("encode", 1, 1))
    assert running(stats=stats).frame == 20, "it is on its way to what is finished already"
    now[0] += 1
    stats = (StageStats("decode", 0, 1, clip=7, frame=59), StageStats("encode", 1, 1, clip=7, frame=39))
    shown = running(stats=stats)  # frames are the file's: what is furthest behind has done forty
    assert (shown.step, shown.frame, shown.fps, shown.eta_s) == ("encode", 40, 10.0, 6.0)
    now[0] += 2
    shown = running(finishing={7: (0, None)})
    assert (shown.step, shown.frame, shown.frames, shown.eta_s) == ("publish", 0, None, None)
    now[0] += 1
    shown = running(finishing={7: (50, 100)})
    assert (shown.fps, shown.eta_s, shown.seconds) == (50.0, 1.0, 5.0)


def test_a_file_that_cannot_be_written_is_no_trouble(tmp_path: Path) -> None:
    teller = Teller(tmp_path / "nowhere", tmp_path)
    teller.tell("", (), Lanes(1, (), print), False, "")
    teller.end()
