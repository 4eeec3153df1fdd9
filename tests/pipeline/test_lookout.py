"""Looking at one folder from a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.daemon_config import Watched
from pipeline.inbox import Inbox, WatchConfig, mark_of
from pipeline.jobs import Known, Mark, State
from pipeline.lookout import Lookout, Seen
from tests.pipeline.fake_engine import Workshop


@dataclass
class Scene:
    """A folder, those who look at it, and what they tell."""

    place: Path
    seen: queue.SimpleQueue[Seen] = field(default_factory=queue.SimpleQueue)
    lookouts: list[Lookout] = field(default_factory=list)

    def look(self, known: Mapping[bytes, Known] | None = None, **settings: float) -> Lookout:
        station = Workshop().station()
        config = WatchConfig(self.place / "in", self.place / "out", **{"settle_s": 0.0, **settings})  # type: ignore[arg-type]
        lookout = Lookout(Watched(config, lambda: station, lambda _: ".mp4"), known or {}, (), self.seen.put)
        self.lookouts.append(lookout)
        return lookout

    def clip(self, name: str, content: bytes = b"clip") -> Path:
        path = self.place / "in" / name
        (self.place / ".new").write_bytes(content)
        (self.place / ".new").rename(path)
        return path

    def told(self) -> Seen:
        """The next that is told, but for those that it has settled."""
        while True:
            seen = self.seen.get(timeout=60)
            if seen.arrivals or seen.gone:
                return seen

    def arrived(self) -> list[str]:
        return [arrival.source.name for arrival in self.told().arrivals]

    def known(self, *paths: Path) -> dict[bytes, Known]:
        marks = {path: mark_of(path) or Mark(0, 0, 0) for path in paths}
        return {str(path).encode(): Known(mark, State.DONE, 1, "") for path, mark in marks.items()}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "in").mkdir()
    scene = Scene(tmp_path)
    yield scene
    for lookout in scene.lookouts:
        lookout.close()


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_tells_of_what_is_there_and_what_comes(scene: Scene) -> None:
    old, _ = scene.clip("old.mp4"), scene.clip("a.mp4")
    lookout = scene.look(scene.known(old))
    assert not lookout.settled or not scene.seen.empty()
    assert scene.arrived() == ["a.mp4"]
    wait(lambda: lookout.settled)
    scene.clip("b.mp4")
    assert scene.arrived() == ["b.mp4"]
    assert lookout.shown.mode == "events" and not lookout.shown.trouble


def test_it_tells_of_what_is_gone(scene: Scene) -> None:
    stays, goes = scene.clip("a.mp4"), scene.clip("b.mp4")
    known = scene.known(stays, goes)
    goes.unlink()
    scene.look(known)
    assert scene.told().gone == (goes,)


def test_looking_again(scene: Scene) -> None:
    path = scene.clip("a.mp4")
    lookout = scene.look(scene.known(path))
    wait(lambda: lookout.settled)
    mark = mark_of(path)
    assert mark is not None
    lookout.look(path, mark)
    wait(lambda: lookout.settled)
    lookout.look(path, Mark(1, 2, 3))
    assert scene.arrived() == ["a.mp4"]
    lookout.forget(path)
    assert scene.arrived() == ["a.mp4"]


def test_it_has_not_settled_while_it_has_orders(scene: Scene) -> None:
    """Whoever gives an order and then finds it settled has been told of all that comes of it."""
    path = scene.clip("a.mp4")
    lookout = scene.look(scene.known(path))
    for _ in range(100):
        while not scene.seen.empty():
            scene.seen.get()
        lookout.look(path, Mark(1, 2, 3))
        assert not lookout.settled or not scene.seen.empty()
        wait(lambda: lookout.settled and lookout.has_obeyed)
        assert scene.arrived() == ["a.mp4"]


def test_whoever_waits_for_it_to_settle_is_told(scene: Scene) -> None:
    lookout = scene.look()
    seen = scene.seen.get(timeout=60)
    assert lookout.settled and not seen.arrivals


def test_what_is_half_does_not_keep_it_from_settling(scene: Scene) -> None:
    scene.clip("a.mp4", b"\x89PNG\r\n\x1a\n")
    lookout = scene.look()
    wait(lambda: lookout.settled)
    wait(lambda: [file.reason for file in lookout.shown.arriving] == ["its end (IEND) has not been written"])


def test_a_folder_that_is_away_for_a_moment(scene: Scene) -> None:
    lookout = scene.look(poll_s=0.2)
    wait(lambda: lookout.settled)
    (scene.place / "in").rename(scene.place / "away")
    lookout.look(scene.place / "in/a.mp4", Mark(1, 2, 3))
    wait(lambda: "cannot be read" in lookout.shown.trouble)
    (scene.place / "away").rename(scene.place / "in")
    wait(lambda: not lookout.shown.trouble)
    scene.clip("a.mp4")
    assert scene.arrived() == ["a.mp4"]


def test_a_defect_is_said_and_it_looks_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.lookout._AGAIN_S", 0.3)
    look, defects = Inbox.look, iter([ZeroDivisionError("no")])

    def fail(inbox: Inbox, paths: object = None) -> None:
        for defect in defects:
            raise defect
        look(inbox, paths)  # type: ignore[arg-type]

    monkeypatch.setattr(Inbox, "look", fail)
    scene.clip("a.mp4")
    lookout = scene.look()
    wait(lambda: lookout.shown.trouble == "a defect: ZeroDivisionError: no")
    assert lookout.settled, "nobody shall wait for it"
    assert scene.arrived() == ["a.mp4"]
    wait(lambda: not lookout.shown.trouble)
    assert "a defect in looking at" in caplog.text and "Traceback" in caplog.text


def test_a_folder_that_does_not_answer_is_left(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.lookout._PATIENCE_S", 0.1)
    answered = threading.Event()
    monkeypatch.setattr(Inbox, "look", lambda *_: answered.wait(60))
    lookout = scene.look()
    begun = time.monotonic()
    lookout.close()
    assert time.monotonic() - begun < 20
    answered.set()
