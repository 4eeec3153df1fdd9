"""A daemon's turns: what is heard is settled once, what may begin begins in its turn, what fails holds up no more."""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.clerk import Clerk
from pipeline.dispatch import Dispatch
from pipeline.errors import ConfigError, ConsentError, PublishError, TableError, UnderstudyError, WeightsError
from pipeline.jobs import Mark, Table
from pipeline.lanes import Event, Station
from pipeline.shift import Shift
from tests.pipeline.fake_engine import Fail, House, Make, fail


class Scene:
    """A shift in this thread."""

    def __init__(self, house: House, table: Table) -> None:
        self.house = house
        self.table = table
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.clerk = Clerk(table, house.config.retry, lambda job: [])
        self.told: list[Any] = []
        self.shift = Shift(house.read(), table, self.clerk, self.events, lambda *told: self.told.append(told))

    def turn_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.house.story()
            self.shift.turn()

    def states(self) -> dict[str, str]:
        return {Path(entry.source).name: str(entry.state) for entry in self.table.listing(limit=1000) if entry.current}

    def all_are(self, state: str) -> bool:
        return bool(self.states()) and set(self.states().values()) == {state}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("pipeline.shift._TICK_S", 0.1)
    house = House(tmp_path)
    for folder in (house.config.state, house.config.work_folder):
        folder.mkdir(parents=True)
    with Table.open(house.config.state / "jobs.sqlite") as table:
        scene = Scene(house, table)
        yield scene
        scene.shift.close()
        scene.clerk.close()


def full_disk(number: int = errno.ENOSPC) -> TableError:
    error = TableError("the disk is full")
    error.errno = number
    return error


def failing(times: int, error: Exception, then: Callable[..., Any]) -> Callable[..., Any]:
    """What raises so often, and then does what it should."""
    left = [error] * times

    def call(*args: Any, **kwargs: Any) -> Any:
        if left:
            raise left.pop()
        return then(*args, **kwargs)

    return call


def test_more_than_are_looked_at_in_one_go(scene: Scene) -> None:
    """A folder whose lane is full, and one whose model is missing, hold up no third one behind them."""
    house = scene.house
    opened = threading.Event()
    house.shop.script("a00.mp4", Make(opened))
    house.set(engines=2)
    house.watch("broken")
    house.folders["broken"] = replace(house.folders["broken"], station=failing(99, WeightsError("no model"), print))
    house.watch("other", key="b")
    for number in range(70):
        house.drop(f"a{number:02d}.mp4")
        house.drop(f"b{number:02d}.mp4", folder="broken")
    scene.shift.close()
    scene.shift = Shift(house.read(), scene.table, scene.clerk, scene.events, lambda *told: scene.told.append(told))
    scene.shift.begin()
    scene.turn_until(lambda: len(scene.states()) == 140)
    house.drop("c.mp4", folder="other")
    scene.turn_until(lambda: scene.states().get("c.mp4") == "done")
    scene.turn_until(lambda: list(scene.states().values()).count("blocked") == 70)
    assert len(scene.told) == 71 and scene.shift.failed == 70
    opened.set()
    scene.turn_until(lambda: list(scene.states().values()).count("done") == 71)


def test_a_job_that_somebody_changes_in_between(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    house = scene.house
    for name in "abc":
        house.drop(f"{name}.mp4")
    begin = Dispatch.begin

    def cancelled(self: Dispatch, entry: Any, station: Any) -> Any:
        if entry.source.endswith("b.mp4"):
            with Table.open(scene.table.path) as other:
                other.withdraw(entry.id, 0.0)
        return begin(self, entry, station)

    monkeypatch.setattr(Dispatch, "begin", cancelled)
    scene.shift.begin()
    scene.turn_until(lambda: list(scene.states().values()).count("done") == 2)
    assert scene.states()["b.mp4"] == "cancelled" and not list(house.config.work_folder.glob("2-*"))


def test_what_cannot_be_blocked_any_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.house.drop("a.mp4")

    def cancelled(*_: Any) -> Any:
        with Table.open(scene.table.path) as other:
            other.withdraw(1, 0.0)
        raise PublishError("it may not be written")

    monkeypatch.setattr(Dispatch, "begin", cancelled)
    scene.shift.begin()
    scene.turn_until(lambda: scene.all_are("cancelled"))
    scene.shift.turn()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EAGAIN])
@pytest.mark.parametrize("move", ["accept", "claim", "finish", "fail", "release"])
def test_a_table_that_takes_nothing_for_a_while(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, move: str, number: int
) -> None:
    house = scene.house
    monkeypatch.setattr("pipeline.shift.time.sleep", lambda seconds: None)
    monkeypatch.setattr(scene.table, move, failing(2, full_disk(number), getattr(scene.table, move)))
    acts: dict[str, list[Fail]] = {"fail": [fail("InputError")], "release": [fail("PublishError", 116)]}
    house.shop.script("b.mp4", *acts.get(move, []))
    for name in "abc":
        house.drop(f"{name}.mp4")
    scene.shift.begin()
    troubles = set()
    wanted = {"a.mp4": "done", "b.mp4": "failed" if move == "fail" else "done", "c.mp4": "done"}

    def settled() -> bool:
        troubles.add(scene.shift.trouble)
        return scene.states() == wanted

    scene.turn_until(settled)
    assert troubles == {"", "the disk is full"} and len(scene.told) == 3
    scene.turn_until(lambda: not scene.clerk.busy)
    house.check(outputs=list(wanted.values()).count("done"))


def test_a_table_that_takes_nothing_while_a_lane_leaves(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shift.time.sleep", lambda seconds: None)
    for name in "abc":
        scene.house.drop(f"{name}.mp4")
    scene.house.shop.script("b.mp4", Make(threading.Event()))
    scene.shift.begin()
    scene.turn_until(lambda: "b.mp4" in scene.house.shop.begun)
    monkeypatch.setattr(scene.table, "release", failing(3, full_disk(), scene.table.release))
    scene.shift.drain()
    while not scene.shift.drained:
        scene.shift.turn()
    assert sorted(scene.states().values()) == ["done", "waiting", "waiting"]


def test_a_drain_has_an_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the table takes nothing any more: what is not settled then runs, says the table, until the next start."""
    monkeypatch.setattr("pipeline.shift._LEAVING_S", 0.1)
    scene.house.set(drain_s=0.2)
    scene.shift.close()
    scene.shift = Shift(scene.house.read(), scene.table, scene.clerk, scene.events, lambda *_: None)
    scene.house.drop("a.mp4")
    scene.house.shop.script("a.mp4", Make(threading.Event()))
    scene.shift.begin()
    scene.turn_until(lambda: scene.house.shop.begun)
    monkeypatch.setattr(scene.table, "release", failing(99, full_disk(), print))
    scene.shift.drain()
    begun = time.monotonic()
    while not scene.shift.drained:
        scene.shift.turn()
    assert time.monotonic() - begun < 3 and scene.all_are("running")


def test_what_is_wrong_with_the_table_for_good(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.house.drop("a.mp4")
    scene.shift.begin()
    monkeypatch.setattr(scene.table, "claim", failing(1, TableError("it is damaged"), scene.table.claim))
    with pytest.raises(TableError, match="it is damaged"):
        scene.turn_until(lambda: scene.all_are("done"))


def test_a_wish_is_said_again_until_it_is_heard(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is mended makes again what it was told to cancel."""
    scene.house.shop.script("a.mp4", Make(threading.Event()))
    scene.house.drop("a.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: scene.house.shop.begun)
    (lane,) = scene.shift.lanes.all
    cancel = lane.cancel
    monkeypatch.setattr(lane, "cancel", lambda job: None)
    with Table.open(scene.table.path) as other:
        other.withdraw(1, 0.0)
    scene.shift.turn()
    monkeypatch.setattr(lane, "cancel", cancel)
    scene.turn_until(lambda: scene.all_are("cancelled"))


def test_what_was_replaced_is_looked_at_when_its_lane_has_left(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the job that ran is wanted no more: what lies there now is another clip."""
    scene.house.shop.script("a.mp4", Make(threading.Event()))
    scene.house.drop("a.mp4", b"old")
    scene.shift.begin()
    scene.turn_until(lambda: scene.house.shop.begun)
    (lane,) = scene.shift.lanes.all
    monkeypatch.setattr(lane, "cancel", lambda job: None)
    scene.house.drop("a.mp4", b"another")
    time.sleep(0.3)
    scene.shift.turn()
    with Table.open(scene.table.path) as other:
        other.withdraw(1, 0.0)
    lane.stop()
    scene.turn_until(lambda: [entry.state for entry in scene.table.listing()] == ["done", "cancelled"])


def test_a_change_that_cannot_be_made_changes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    house = scene.house
    scene.shift.begin()
    house.watch("other")
    other = house.folders["other"]
    broken = replace(other, station=failing(1, WeightsError("no model"), other.station))
    bad = replace(house.read(), folders=(*house.read().folders[:1], broken))
    house.drop("b.mp4", folder="other")
    for name, change in (("a.mp4", bad), ("c.mp4", house.read())):
        if change is not bad:
            monkeypatch.setattr(scene.table, "known", failing(1, full_disk(), scene.table.known))
        with pytest.raises(UnderstudyError):
            scene.shift.change(change)
        house.drop(name)
        scene.turn_until(lambda name=name: scene.states().get(name) == "done")  # type: ignore[misc]
        assert "b.mp4" not in scene.states()
    fixed: dict[str, Any] = {"engines": 5, "work": house.place / "w", "devices": ("x",)}
    for key, value in fixed.items():
        with pytest.raises(ConfigError, match=f"daemon.{key} can only be changed by a restart"):
            scene.shift.change(replace(house.read(), config=replace(house.config, **{key: value})))
    scene.shift.change(house.read())
    scene.turn_until(lambda: scene.states().get("b.mp4") == "done")


def test_what_is_blocked_because_its_folder_is_not_watched_stays_so(scene: Scene) -> None:
    scene.table.accept("/elsewhere", "/elsewhere/a.mp4", "/out/a.mp4", _mark(), 0, 0.0)
    scene.shift.begin()
    scene.turn_until(lambda: scene.all_are("blocked"))
    told = len(scene.told)
    scene.shift.change(scene.house.read())
    for _ in range(2):
        scene.shift.turn()
    assert scene.all_are("blocked") and len(scene.told) == told == 1


def test_the_end_of_once(scene: Scene) -> None:
    """Not idle before the folder has been looked at, nor while anything is on its way."""
    scene.house.shop.script("a.mp4", fail("InputError"))
    scene.house.drop("a.mp4")
    scene.shift.begin()
    assert not scene.shift.idle
    while not scene.shift.idle:
        scene.shift.turn()
    assert scene.all_are("failed") and not scene.clerk.busy


def _mark() -> Mark:
    return Mark(1, 1, 1)


# --- what somebody has to agree to ------------------------------------------------------------------------------------

UNAGREED = ConsentError("b has not agreed")


class Asked:
    """What gives a folder's station as soon as nothing stands in its way; counts how often it is asked.

    With `once` it does so a single time, and then somebody changes their mind.
    """

    def __init__(self, station: Station) -> None:
        self.station = station
        self.hindrance: UnderstudyError | None = UNAGREED
        self.times = 0
        self.once = False

    def __call__(self) -> Station:
        self.times += 1
        if self.hindrance is not None:
            raise self.hindrance
        if self.once:
            self.hindrance, self.once = UNAGREED, False
        return self.station


@pytest.fixture
def asked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The scene's folder, for which nobody has agreed yet; that is looked for often."""
    monkeypatch.setattr("pipeline.shift._TICK_S", 0.02)
    monkeypatch.setattr("pipeline.shift._ASK_S", 0.05)
    found = Asked(scene.house.shop.station())
    scene.house.folders["in"] = replace(scene.house.folders["in"], station=found)
    reopen(scene)
    return found


def reopen(scene: Scene) -> None:
    told = scene.told
    scene.shift.close()
    scene.shift = Shift(scene.house.read(), scene.table, scene.clerk, scene.events, lambda *one: told.append(one))


def turn(scene: Scene, times: int) -> None:
    for _ in range(times):
        scene.shift.turn()


def reason(scene: Scene) -> str:
    (entry,) = scene.table.listing()
    return entry.reason


def test_what_waits_for_consent_goes_on_by_itself(scene: Scene, asked: Asked) -> None:
    for name in "ab":
        scene.house.drop(f"{name}.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: len(scene.states()) == 2 and scene.all_are("blocked"))
    assert {entry.reason for entry in scene.table.listing()} == {"b has not agreed"}
    turn(scene, 20)
    assert scene.all_are("blocked") and not scene.house.shop.engines, "no engine is loaded for what may not be made"
    asked.hindrance = None
    scene.turn_until(lambda: scene.all_are("done"))
    turn(scene, 10)
    assert sorted(scene.house.shop.begun) == ["a.mp4", "b.mp4"]
    assert [outcome.ok for outcome, _ in scene.told] == [False, False, True, True]
    scene.house.check(outputs=2)


def test_what_the_door_has_stopped_goes_on_where_it_was(scene: Scene, asked: Asked) -> None:
    """Whoever has changed their mind while the clip was made, and then once more."""
    asked.hindrance, asked.once = None, True
    scene.house.shop.script("a.mp4", fail("ConsentError"))
    scene.house.drop("a.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: scene.all_are("blocked"))
    turn(scene, 20)
    assert scene.house.shop.begun == ["a.mp4"] and scene.all_are("blocked")
    asked.hindrance = None
    scene.turn_until(lambda: scene.all_are("done"))
    turn(scene, 10)
    assert scene.house.shop.begun == ["a.mp4"] * 2 and scene.house.shop.resumed == ["a.mp4"]
    scene.house.check(outputs=1)


def test_an_engine_that_did_not_start_for_want_of_consent(scene: Scene, asked: Asked) -> None:
    """Between the last question and its start somebody has changed their mind."""
    asked.hindrance = None
    scene.house.shop.starts["a"].append(UNAGREED)
    scene.house.drop("a.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: len(scene.house.shop.engines) == 2)
    scene.turn_until(lambda: scene.all_are("done"))
    assert scene.house.shop.begun == ["a.mp4"]
    scene.house.check(outputs=1)


@pytest.mark.parametrize("error", [WeightsError("the model is damaged"), ConfigError("no such setting")])
def test_what_else_stands_in_its_way_is_said_and_not_asked_for(
    scene: Scene, asked: Asked, error: UnderstudyError
) -> None:
    scene.house.drop("a.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: scene.all_are("blocked"))
    asked.hindrance = error
    scene.turn_until(lambda: reason(scene) == str(error))
    before = asked.times
    time.sleep(0.1)
    turn(scene, 10)
    assert asked.times == before and scene.all_are("blocked")
    asked.hindrance = UNAGREED
    scene.shift.change(scene.house.read())
    scene.turn_until(lambda: reason(scene) == str(UNAGREED))
    asked.hindrance = None
    scene.turn_until(lambda: scene.all_are("done"))


def test_a_folder_that_is_not_watched_any_more(scene: Scene, asked: Asked) -> None:
    scene.house.watch("other", key="b")
    scene.house.drop("a.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: scene.all_are("blocked"))
    del scene.house.folders["in"]
    scene.shift.change(scene.house.read())
    turn(scene, 3)
    before, asked.hindrance = asked.times, None
    time.sleep(0.1)
    turn(scene, 10)
    assert asked.times == before and scene.states() == {"a.mp4": "blocked"} and reason(scene) == str(UNAGREED)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_table_that_refuses_while_they_agree(
    scene: Scene, asked: Asked, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """All that waited goes on all the same, once it takes something again."""
    monkeypatch.setattr("pipeline.shift.time.sleep", lambda seconds: None)
    for name in "abc":
        scene.house.drop(f"{name}.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: len(scene.states()) == 3 and scene.all_are("blocked"))
    retry, calls = scene.table.retry, [0]

    def refusing(job: int) -> Any:
        calls[0] += 1
        if calls[0] in (2, 4):
            raise full_disk(number)
        return retry(job)

    monkeypatch.setattr(scene.table, "retry", refusing)
    asked.hindrance = None
    scene.turn_until(lambda: scene.all_are("done"))
    assert calls[0] > 4 and sorted(scene.house.shop.begun) == ["a.mp4", "b.mp4", "c.mp4"]
    scene.house.check(outputs=3)


def test_nobody_is_asked_all_the_time(scene: Scene, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shift._ASK_S", 3600.0)
    scene.house.drop("a.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: scene.all_are("blocked"))
    turn(scene, 3)
    before = asked.times
    for _ in range(20):
        scene.events.put(None)
        scene.shift.turn()
    assert asked.times == before <= 3


def test_a_change_with_somebody_who_has_not_agreed(scene: Scene, asked: Asked) -> None:
    """Such a folder keeps no other from its change, nor its engine from work; its own engine goes."""
    asked.hindrance = None
    scene.house.watch("other", key="b")
    scene.house.set(engines=2)
    reopen(scene)
    for folder in ("in", "other"):
        scene.house.drop(f"{folder}.mp4", folder=folder)
    scene.shift.begin()
    scene.turn_until(lambda: len(scene.states()) == 2 and scene.all_are("done"))
    asked.hindrance = UNAGREED
    scene.shift.change(scene.house.read())
    scene.turn_until(lambda: [lane.station.key for lane in scene.shift.lanes.all] == ["b"])
    scene.house.drop("more.mp4")
    scene.turn_until(lambda: scene.states().get("more.mp4") == "blocked")
    asked.hindrance = None
    scene.turn_until(lambda: scene.all_are("done"))


def test_an_engine_that_goes_by_other_terms_than_are_asked_now(scene: Scene, asked: Asked) -> None:
    """After a reload nothing is published under the old ones; the clip goes on where it was."""
    asked.hindrance = None
    scene.house.shop.script("a.mp4", Make(threading.Event()))
    scene.house.drop("a.mp4")
    scene.shift.begin()
    scene.turn_until(lambda: scene.house.shop.begun)
    asked.station = replace(asked.station, terms="stricter")
    scene.shift.change(scene.house.read())
    scene.turn_until(lambda: scene.all_are("done"))
    assert len(scene.house.shop.engines) == 2 and scene.house.shop.resumed == ["a.mp4"]
    (lane,) = scene.shift.lanes.all
    assert lane.station.terms == "stricter"
