"""Which lanes there are, and who gets them; what lies in the work folder."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import dispatch
from pipeline.dispatch import Dispatch, Lanes, Turn
from pipeline.errors import ConfigError, PublishError, UnderstudyError, WeightsError
from pipeline.jobs import Entry, Mark, State, Table
from pipeline.lanes import Event, Lane, Left
from pipeline.specs import Failure
from tests.pipeline.fake_engine import Make, Workshop


class Yard:
    """A table, lanes, and what these tell."""

    def __init__(self, place: Path, table: Table) -> None:
        self.place = place
        self.table = table
        self.shop = Workshop()
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.lanes = Lanes(1, (), self.events.put)
        self.all: list[Lane] = []

    def limit(self, limit: int, *devices: str, patient: bool = True) -> None:
        self.lanes = Lanes(limit, devices, self.events.put, patient)

    @property
    def dispatch(self) -> Dispatch:
        (self.place / "work").mkdir(exist_ok=True)
        return Dispatch(self.table, self.lanes, self.place / "work", 10.0)

    def entry(self, name: str, mark: Mark | None = None) -> Entry:
        """A job that waits, at whose clip whoever begins it stays."""
        self.shop.script(name, Make(threading.Event()))
        source = str(self.place / name)
        target = str(self.place / "out/deep" / name)
        return self.table.accept(str(self.place), source, target, mark or Mark(1, 2, 3), 0, 0.0)

    def begin(self, name: str, key: str = "a") -> Turn:
        return self.dispatch.begin(self.entry(name), self.shop.station(key))

    def heed(self) -> None:
        """What the daemon does about the next lane that has left."""
        event = self.events.get(timeout=60)
        assert isinstance(event, Left)
        self.lanes.left(event.lane, event.error)

    def places(self) -> list[tuple[str, str]]:
        return [(lane.station.key, lane.device) for lane in self.lanes.all]


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with Table.open(tmp_path / "jobs.sqlite") as table:
        yard = Yard(tmp_path, table)
        yield yard
        yard.lanes.stop(0.0)
        for lane in yard.lanes.all:
            assert lane.join(60)


def test_one_lane_takes_so_many(yard: Yard) -> None:
    assert [yard.begin(f"{n}.mp4") for n in range(4)] == [Turn.BEGUN] * 3 + [Turn.FULL]
    assert len(yard.lanes.all) == 1
    states = [entry.state for entry in yard.table.listing()][::-1]
    assert states == [State.RUNNING] * 3 + [State.WAITING]


def test_stations_of_other_terms_share_a_work_folder_and_no_lane(yard: Yard) -> None:
    yard.limit(2)
    entry, station = yard.entry("1.mp4"), yard.shop.station()
    assert yard.dispatch.begin(entry, station) is Turn.BEGUN
    (work,) = (yard.place / "work").iterdir()
    assert yard.dispatch.begin(yard.entry("2.mp4"), replace(station, terms="other")) is Turn.BEGUN
    assert len(yard.lanes.all) == 2 and [len(lane.jobs) for lane in yard.lanes.all] == [1, 1]
    yard.table.release(entry.id, "stopped", 0.0)
    again = yard.table.entry(entry.id)
    assert again is not None and yard.dispatch.begin(again, replace(station, terms="other")) is Turn.BEGUN
    assert work.is_dir(), "what was made of it is gone on with"


def test_a_lane_that_rests_makes_room(yard: Yard) -> None:
    assert yard.begin("1.mp4", "a") is Turn.BEGUN
    assert yard.begin("2.mp4", "b") is Turn.NEXT, "nobody else comes before it"
    (lane,) = yard.lanes.all
    lane.jobs.clear()
    assert yard.begin("3.mp4", "b") is Turn.NEXT and lane.room == 0
    yard.heed()
    assert yard.begin("4.mp4", "b") is Turn.BEGUN
    assert [lane.station.key for lane in yard.lanes.all] == ["b"]


def test_the_one_that_has_rested_longest_makes_room(yard: Yard) -> None:
    yard.limit(3)
    for key in "abc":
        yard.begin(f"{key}.mp4", key)
        time.sleep(0.01)
    for lane in yard.lanes.all:
        lane.jobs.clear()
    yard.begin("a2.mp4", "a")
    yard.lanes.all[0].jobs.clear()
    assert yard.begin("d.mp4", "d") is Turn.NEXT
    yard.heed()
    assert [key for key, _ in yard.places()] == ["a", "c"]


def test_devices(yard: Yard) -> None:
    yard.limit(0, "x", "y")
    assert [yard.begin(f"{n}.mp4") for n in range(7)] == [Turn.BEGUN] * 6 + [Turn.FULL]
    assert yard.places() == [("a", "x"), ("a", "y")]
    assert [len(lane.jobs) for lane in yard.lanes.all] == [3, 3]
    assert yard.begin("b.mp4", "b") is Turn.NEXT


def test_the_device_with_the_least_to_do(yard: Yard) -> None:
    yard.limit(4, "x", "y")
    for key in "abcd":
        assert yard.begin(f"{key}.mp4", key) is Turn.BEGUN
    assert [device for _, device in yard.places()] == ["x", "y", "x", "y"]


def test_an_engine_that_keeps_dying_rests(yard: Yard) -> None:
    for number in range(4):
        yard.shop.starts["a"].append(UnderstudyError("no"))
        assert yard.begin(f"{number}.mp4") is Turn.BEGUN
        yard.heed()
    assert yard.begin("5.mp4") is Turn.FULL and not yard.lanes.all, "others may begin"
    (down,) = yard.lanes.shown
    assert (down.state, down.reason) == ("down", "no")
    assert yard.begin("6.mp4", "b") is Turn.BEGUN
    yard.lanes.forgive()
    yard.lanes.all[0].jobs.clear()
    assert yard.begin("7.mp4") is Turn.NEXT
    yard.heed()
    assert yard.begin("8.mp4") is Turn.BEGUN
    assert [lane.state == "down" for lane in yard.lanes.shown] == [False]


def test_an_engine_that_cannot_start_is_not_tried_again_unless_there_is_hope(yard: Yard) -> None:
    yard.shop.starts["a"].append(ConfigError("the ring is too small"))
    assert yard.begin("1.mp4") is Turn.BEGUN
    yard.heed()
    with pytest.raises(WeightsError, match="the ring is too small"):
        yard.begin("2.mp4")
    assert len(yard.shop.engines) == 1
    yard.lanes.hope()
    assert yard.begin("3.mp4") is Turn.BEGUN


def test_who_has_no_patience_starts_nothing_that_would_have_to_rest(yard: Yard) -> None:
    yard.limit(1, patient=False)
    for number in range(4):
        yard.shop.starts["a"].append(UnderstudyError("no"))
        yard.begin(f"{number}.mp4")
        yard.heed()
    with pytest.raises(WeightsError, match="no"):
        yard.begin("5.mp4")


@pytest.mark.parametrize(
    ("failure", "killed", "is_memory"),
    [
        (Failure("swap", 1, "", "MemoryError", errno=12), 0, True),
        (Failure("decode", 1, "", "InputError", errno=12), 0, False),
        (Failure("swap", 1, "", signal=9), 0, False),
        (Failure("swap", 1, "", signal=9), 1, True),
        (Failure("swap", 1, "", signal=11), 1, False),
    ],
)
def test_memory(yard: Yard, monkeypatch: pytest.MonkeyPatch, failure: Failure, killed: int, is_memory: bool) -> None:
    monkeypatch.setattr(dispatch, "_killed_for_memory", lambda: 5)
    yard.limit(1)
    monkeypatch.setattr(dispatch, "_killed_for_memory", lambda: 5 + killed)
    assert yard.lanes.memory_ran_out(failure) is is_memory
    assert yard.lanes.memory_ran_out(failure) is (is_memory and not killed), "each killed process is counted once"


def test_halving_has_an_end(yard: Yard) -> None:
    for number in range(5):
        assert yard.begin(f"{number}.mp4") is Turn.BEGUN
        yard.lanes.halve(yard.lanes.all[0])
        yard.heed()
    assert [halvings for _, _, halvings in yard.shop.engines] == [0, 1, 2, 3, 3]


# --- work folders -----------------------------------------------------------------------------------------------------


def works(yard: Yard) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in (yard.place / "work").iterdir())


def test_what_was_made_of_another_file_or_with_other_settings_goes(yard: Yard) -> None:
    entry = yard.entry("a.mp4")
    folders = []
    for key, mark in (("a", Mark(1, 2, 3)), ("a", Mark(1, 2, 3)), ("b", Mark(1, 2, 3)), ("b", Mark(1, 2, 4))):
        yard.table.replace_mark(entry.id, mark)
        waiting = yard.table.entry(entry.id)
        assert waiting is not None
        yard.limit(9)
        assert yard.dispatch.begin(waiting, yard.shop.station(key)) is Turn.BEGUN
        (folder,) = (yard.place / "work").iterdir()
        folders.append(folder.name)
        yard.table.release(entry.id, "", 0.0)
        yard.lanes.stop(0.0)
        for lane in yard.lanes.all:
            assert lane.join(60)
    assert folders[0] == folders[1] and len(set(folders)) == 3


def test_sweeping(yard: Yard) -> None:
    names = ("waits", "runs", "done", "failed", "blocked", "cancelled")
    entries = [yard.table.accept("/in", f"/in/{name}", f"/out/{name}", Mark(1, 1, 1), 0, 0.0) for name in names]
    yard.table.claim(2, 0.0)
    yard.table.claim(3, 0.0)
    yard.table.finish(3, 1, 1.0, "", 0.0)
    yard.table.fail(4, "", None, 0.0)
    yard.table.block(5, "", 0.0)
    yard.table.cancel(6, "", 0.0)
    (yard.place / "work").mkdir()
    for number in (*(entry.id for entry in entries), 99, 10**30):
        (yard.place / f"work/{number}-0123456789abcdef").mkdir()
    foreign = ("7-zip", "2024-holidays", "12", "-1", "1-0123456789ABCDEF", "watched", "99-0123456789abcdef0")
    for name in foreign:
        (yard.place / "work" / name).mkdir()
    (yard.place / "work/98-0123456789abcdef").symlink_to(yard.place)
    yard.dispatch.sweep()
    assert sorted(path.name for path in (yard.place / "work").iterdir()) == sorted(
        [*foreign, "1-0123456789abcdef", "2-0123456789abcdef", "5-0123456789abcdef", "98-0123456789abcdef"]
    )
    assert (yard.place / "jobs.sqlite").exists()
    yard.dispatch.forget(1)
    yard.dispatch.forget(7)
    assert works(yard).count("1") == 1 and "7" in works(yard)


def test_a_work_folder_that_is_away(yard: Yard) -> None:
    lost = Dispatch(yard.table, yard.lanes, yard.place / "nowhere", 1.0)
    lost.sweep()
    lost.forget(1)


def test_what_cannot_be_begun_is_not_claimed(yard: Yard) -> None:
    (yard.place / "out").write_bytes(b"a file")
    with pytest.raises(PublishError, match="cannot be made"):
        yard.begin("a.mp4")
    assert [entry.state for entry in yard.table.listing()] == [State.WAITING]
    assert not yard.lanes.all[0].jobs
