"""From what is told of the watched folders to rows in the table."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import live, result
from pipeline.daemon_config import DaemonConfig, Setup, Watched
from pipeline.errors import TableError
from pipeline.inbox import Arrival, WatchConfig, mark_of
from pipeline.intake import Intake
from pipeline.jobs import Entry, Mark, State, Table
from pipeline.lookout import Seen
from pipeline.originals import digest
from pipeline.set_aside import write_reason
from pipeline.types import Job
from tests.pipeline.fake_engine import Workshop, made_of, write_result


class Lookout:
    """Does not look, but can be told what it has seen."""

    def __init__(self, folder: Watched, known: Mapping[bytes, Any], excluded: object, told: Callable[[Seen], None]):
        self.folder = folder
        self.known = known
        self.tell = told
        self.orders: list[tuple[str, str]] = []
        self.settled = self.has_obeyed = True
        self.shown = live.Folder(folder.name, "", "events")

    def look(self, path: Path, known: Mark) -> None:
        self.orders.append(("look", path.name))

    def forget(self, path: Path) -> None:
        self.orders.append(("forget", path.name))

    def close(self) -> None:
        pass


class Scene:
    """An intake, its table, and a folder."""

    def __init__(self, place: Path, table: Table) -> None:
        self.place = place
        self.table = table
        self.refused: list[Entry] = []
        self.woken = 0
        (place / "in").mkdir()
        (place / "out").mkdir()
        self.watch()

    def watch(self, **settings: Any) -> None:
        station = Workshop().station()
        config = WatchConfig(self.place / "in", self.place / "out", **settings)
        self.folder = Watched(config, lambda: station, lambda _: ".mp4")
        setup = Setup(DaemonConfig(state=self.place / "state"), (self.folder,))
        self.intake = Intake(setup, self.table, self.wake, self.refused.append)
        self.intake.begin()
        (lookout,) = self.intake._lookouts.values()
        self.lookout: Any = lookout

    def wake(self) -> None:
        self.woken += 1

    def clip(self, name: str, content: bytes = b"clip") -> Path:
        path = self.place / "in" / name
        path.with_name(".new").write_bytes(content)
        path.with_name(".new").rename(path)
        return path

    def arrival(self, name: str, content: bytes = b"clip", **facts: Any) -> Arrival:
        path = self.clip(name, content)
        return Arrival(path, self.mark(name), 5.0, **facts)

    def mark(self, name: str) -> Mark:
        mark = mark_of(self.place / "in" / name)
        assert mark is not None
        return mark

    def tell(self, *arrivals: Arrival, gone: tuple[str, ...] = ()) -> None:
        paths = tuple(self.place / "in" / name for name in gone)
        self.lookout.tell(Seen(self.folder, paths, arrivals))

    def take(self, *arrivals: Arrival, gone: tuple[str, ...] = ()) -> None:
        self.tell(*arrivals, gone=gone)
        self.intake.take()

    def entry(self, name: str) -> Entry:
        entry = self.table.current(str(self.place / "in" / name))
        assert entry is not None
        return entry

    def rows(self) -> list[tuple[str, State]]:
        return [(Path(entry.source).name, entry.state) for entry in self.table.listing(limit=1000)][::-1]

    def publish(self, entry: Entry) -> Entry:
        """Has a job done."""
        content = Path(entry.source).read_bytes()
        claimed = self.table.claim(entry.id, time.time())
        job = Job(entry.id, entry.source, entry.target, about={"times": {"claimed": claimed.claimed}})
        write_result(job, content, made_of(content))
        return self.table.finish(entry.id, 8, 1.0, digest(Path(entry.source)), time.time())

    def decided(self) -> None:
        """Waits for the content of what is in doubt."""
        deadline = time.monotonic() + 60
        while self.intake.busy:
            assert time.monotonic() < deadline
            self.intake.take()
            time.sleep(0.005)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("pipeline.intake.Lookout", Lookout)
    with Table.open(tmp_path / "jobs.sqlite") as table:
        scene = Scene(tmp_path, table)
        yield scene
        scene.intake.close()


def test_what_it_becomes(scene: Scene) -> None:
    (scene.place / "in/day").mkdir()
    scene.take(*(scene.arrival(name) for name in ("day/a.mkv", "day/a.mp4", "b.avi")))
    targets = [entry.target.removeprefix(str(scene.place)) for entry in scene.table.listing()][::-1]
    assert targets == ["/out/day/a.mp4", "/out/day/a.mp4.mp4", "/out/b.mp4"]
    assert scene.entry("b.avi").seen == 5.0


def test_the_same_arrival_twice_is_one_job(scene: Scene) -> None:
    arrival = scene.arrival("a.mp4")
    scene.take(arrival, arrival)
    for _ in range(2):
        scene.take(arrival)
    scene.publish(scene.entry("a.mp4"))
    scene.take(arrival)
    scene.table.retry(1)
    scene.table.fail(1, "no", None, 0.0)
    scene.take(arrival, replace(arrival, moved=True))
    assert scene.rows() == [("a.mp4", State.FAILED)]


def test_what_runs_is_left_alone(scene: Scene) -> None:
    scene.take(scene.arrival("a.mp4"))
    scene.table.claim(1, 0.0)
    scene.take(scene.arrival("a.mp4", b"another"), gone=("a.mp4",))
    assert scene.rows() == [("a.mp4", State.RUNNING)]


def test_in_the_order_in_which_it_was_seen(scene: Scene) -> None:
    scene.take(scene.arrival("a.mp4", b"one"))
    scene.take(scene.arrival("a.mp4", b"other"), gone=("a.mp4",))
    assert scene.rows() == [("a.mp4", State.CANCELLED), ("a.mp4", State.WAITING)]
    assert scene.lookout.orders == [("forget", "a.mp4")]
    scene.tell(scene.arrival("b.mp4"))
    scene.tell(gone=("b.mp4",))
    scene.intake.take()
    assert scene.rows()[2:] == [("b.mp4", State.CANCELLED)]


def test_a_crowd_is_taken_bit_by_bit(scene: Scene) -> None:
    scene.clip("a.mp4")
    arrivals = [Arrival(scene.place / "in" / f"{n}.mp4", Mark(n, 1, 1), 0.0) for n in range(250)]
    scene.tell(*arrivals)
    for count, more in ((100, True), (200, True), (250, False)):
        woken = scene.woken
        assert scene.intake.take() and len(scene.rows()) == count
        assert (scene.woken > woken, scene.intake.busy) == (more, more)
    assert not scene.intake.take()


def test_what_the_table_does_not_take_is_offered_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene.take(scene.arrival("a.mp4", b"same"))
    scene.publish(scene.entry("a.mp4"))
    status = (scene.place / "in/a.mp4").stat()
    arrival = scene.arrival("a.mp4", b"same", moved=True)
    os.utime(scene.place / "in/a.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))
    arrival = replace(arrival, mark=scene.mark("a.mp4"))
    full = TableError("full")
    full.errno = errno.ENOSPC
    write = scene.table._held.write

    def refuse(statement: str, values: Any = ()) -> int:
        if statement.startswith("INSERT"):
            raise full
        return write(statement, values)

    monkeypatch.setattr(scene.table._held, "write", refuse)
    scene.tell(arrival, scene.arrival("b.mp4"), scene.arrival("c.mp4", fault="it is half"))
    for _ in range(3):
        with pytest.raises(TableError, match="full"):
            scene.intake.take()
    assert scene.rows() == [("a.mp4", State.DONE)] and scene.intake.busy and not scene.refused
    monkeypatch.setattr(scene.table._held, "write", write)
    scene.intake.take()
    scene.decided()
    assert scene.rows() == [("a.mp4", State.DONE), ("b.mp4", State.WAITING), ("c.mp4", State.FAILED)]
    assert [entry.source[-5:] for entry in scene.refused] == ["c.mp4"]
    said = sorted(record.message for record in caplog.records)
    assert said == ["done already: this is the same clip", "taken", "taken"]
    assert scene.entry("a.mp4").mark == arrival.mark


def doubtful(scene: Scene, content: bytes = b"same") -> Arrival:
    """A clip that is done, in whose place is another file of that size and date."""
    scene.take(scene.arrival("a.mp4", b"same"))
    before = scene.publish(scene.entry("a.mp4")).mark
    scene.clip("a.mp4", content)
    os.utime(scene.place / "in/a.mp4", ns=(0, before.mtime_ns))
    assert scene.mark("a.mp4") != before
    return Arrival(scene.place / "in/a.mp4", scene.mark("a.mp4"), 0.0, moved=True)


def test_a_doubt(scene: Scene) -> None:
    arrival = doubtful(scene)
    scene.take(arrival)
    assert scene.intake.busy
    scene.decided()
    assert scene.rows() == [("a.mp4", State.DONE)] and scene.entry("a.mp4").mark == arrival.mark


def test_a_doubt_that_was_right(scene: Scene) -> None:
    scene.take(doubtful(scene, b"diff"))
    scene.decided()
    assert scene.rows() == [("a.mp4", State.DONE), ("a.mp4", State.WAITING)]


def test_a_doubt_about_what_is_gone(scene: Scene) -> None:
    scene.take(replace(doubtful(scene), source=scene.place / "in/a.mp4"))
    (scene.place / "in/a.mp4").unlink()
    scene.decided()
    assert scene.rows() == [("a.mp4", State.DONE)]
    assert scene.lookout.orders in ([], [("look", "a.mp4")])


def test_a_doubt_about_what_cannot_be_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise OSError(errno.EIO, "no")

    arrival = doubtful(scene)
    monkeypatch.setattr("pipeline.intake.digest", fail)
    scene.take(arrival)
    scene.decided()
    assert scene.lookout.orders == [("look", "a.mp4")], "somebody has to look again"


def test_a_doubt_that_comes_too_late(scene: Scene) -> None:
    scene.take(doubtful(scene, b"diff"))
    scene.table.retry(1)
    scene.table.claim(1, 0.0)
    scene.decided()
    assert scene.rows() == [("a.mp4", State.RUNNING)]


def test_what_was_done_before_the_table_was_lost(scene: Scene) -> None:
    for name in ("a.mp4", "b.mp4"):
        scene.take(scene.arrival(name, b"a clip"))
        scene.publish(scene.entry(name))
    scene.table.vanish([1, 2])
    arrival = Arrival(scene.place / "in/a.mp4", scene.mark("a.mp4"), 0.0)
    scene.take(arrival, scene.arrival("b.mp4", b"another one"))
    scene.decided()
    assert [entry.state for entry in scene.table.listing() if entry.current] == [State.WAITING, State.DONE]
    assert scene.entry("a.mp4").digest


def test_what_failed_and_comes_again_is_tried_again(scene: Scene) -> None:
    scene.take(scene.arrival("a.mp4"))
    entry = scene.entry("a.mp4")
    (scene.place / "out/failed").mkdir()
    write_reason(scene.place / "out/failed/a.mp4.json", entry, "no", None, [])
    result.write(str(result.path_for(entry.target)), {"version": 1})
    scene.table.fail(1, "no", None, 0.0)
    scene.table.vanish([1])
    scene.take(Arrival(scene.place / "in/a.mp4", scene.mark("a.mp4"), 0.0))
    scene.decided()
    assert scene.rows() == [("a.mp4", State.FAILED), ("a.mp4", State.WAITING)]


def test_what_is_half_for_good(scene: Scene) -> None:
    scene.take(scene.arrival("a.mp4", fault="its end is missing"))
    assert [(entry.state, entry.reason) for entry in scene.refused] == [(State.FAILED, "its end is missing")]


@pytest.mark.parametrize("on_done", ["leave", "delete"])
def test_names_that_are_taken(scene: Scene, on_done: str) -> None:
    """Where originals are put away, the result of an earlier clip of the name may be all that there is of that one."""
    scene.intake.close()
    scene.watch(on_done=on_done)
    for number in range(3):
        scene.take(scene.arrival("a.mp4", b"%d" % number))
        scene.decided()
        scene.publish(scene.entry("a.mp4"))
        scene.table.vanish([scene.entry("a.mp4").id])
    names = sorted(path.name for path in (scene.place / "out").glob("*.mp4"))
    assert names == (["a.mp4"] if on_done == "leave" else ["a (2).mp4", "a.mp4", "a.mp4.mp4"])


# --- what shall begin -------------------------------------------------------------------------------------------------


def test_a_clip_that_is_there(scene: Scene) -> None:
    scene.take(scene.arrival("a.mp4"))
    assert scene.intake.is_there(scene.entry("a.mp4"))
    scene.clip("a.mp4", b"another")
    assert not scene.intake.is_there(scene.entry("a.mp4"))
    entry = scene.entry("a.mp4")
    assert entry.state is State.WAITING and entry.due > time.time() and entry.attempts == 0
    assert scene.lookout.orders == [("look", "a.mp4")]


def test_a_clip_that_is_not_there(scene: Scene) -> None:
    scene.take(scene.arrival("a.mp4"))
    (scene.place / "in/a.mp4").unlink()
    scene.lookout.has_obeyed = False
    for _ in range(3):  # nobody has looked yet whether the folder is there
        assert not scene.intake.is_there(scene.entry("a.mp4"))
        assert scene.entry("a.mp4").state is State.WAITING
    scene.lookout.has_obeyed = True
    assert not scene.intake.is_there(scene.entry("a.mp4"))
    assert scene.rows() == [("a.mp4", State.CANCELLED)]


def test_a_clip_that_was_away_for_a_moment(scene: Scene) -> None:
    scene.take(scene.arrival("a.mp4"))
    source = scene.place / "in/a.mp4"
    for _ in range(3):
        source.rename(scene.place / "away")
        assert not scene.intake.is_there(scene.entry("a.mp4"))
        (scene.place / "away").rename(source)
        assert scene.intake.is_there(scene.entry("a.mp4"))


def test_a_clip_that_cannot_be_looked_at(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    scene.take(scene.arrival("a.mp4"))
    monkeypatch.setattr("pipeline.intake.mark_of", fail)
    assert not scene.intake.is_there(scene.entry("a.mp4"))
    assert scene.entry("a.mp4").reason == "it cannot be read: Stale file handle"


def test_folders_in_trouble(scene: Scene) -> None:
    assert not scene.intake.unreadable
    scene.lookout.shown = replace(scene.lookout.shown, trouble="it is away")
    assert scene.intake.unreadable == {scene.folder.name}


def test_what_is_in_the_way(scene: Scene) -> None:
    scene.take(scene.arrival("a.mp4"), scene.arrival("b.mp4"))
    a, b = scene.entry("a.mp4"), scene.entry("b.mp4")
    assert not scene.intake.hindrance(a)
    scene.publish(a)
    assert not scene.intake.hindrance(a), "it is ours"
    result.path_for(a.target).unlink()
    assert "was not made from this clip" in scene.intake.hindrance(a)
    Path(b.target).symlink_to("nowhere")
    assert "exists already" in scene.intake.hindrance(b)
    other = replace(b, target=a.target)
    assert f"{a.target} is the result of {a.source}" in scene.intake.hindrance(other)


def test_it_has_nothing_left_to_do(scene: Scene) -> None:
    assert not scene.intake.busy
    scene.lookout.settled = False
    assert scene.intake.busy
    scene.lookout.settled = True
    scene.tell(scene.arrival("a.mp4"))
    assert scene.intake.busy
    scene.intake.take()
    assert not scene.intake.busy
