"""Watched folders: still files are taken once, results land in the same place, reasons are left behind."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.inbox import Arrival, Inbox, WatchConfig, prepare_folders
from pipeline.specs import Failure, Outcome, StageStats
from pipeline.types import Job
from pipeline.watch import Watcher


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Copier:
    """A worker that copies; a clip that says "bad" fails."""

    def __init__(self, after: Callable[[Job], None] = lambda job: None) -> None:
        self.jobs: list[Job] = []
        self._after = after
        self._done: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self._done.append(job)

    def poll(self, timeout_s: float) -> list[Outcome]:
        ended = []
        for job in self._done:
            content = Path(job.source).read_bytes()
            self._after(job)
            if content == b"bad":
                ended.append(Outcome(job, failure=Failure("swap", 3, "it broke", "StageError")))
            else:
                Path(job.target).write_bytes(content)
                ended.append(Outcome(job, 10, seconds=1.0))
        self._done.clear()
        return ended

    def stats(self) -> tuple[StageStats, ...]:
        return (StageStats("decode", 0, 1, 10 * len(self.jobs)),)


@pytest.fixture
def folders(tmp_path: Path) -> WatchConfig:
    (tmp_path / "in").mkdir()
    return WatchConfig(tmp_path / "in", tmp_path / "out", settle_s=0, rescan_s=0.1)


def mp4(source: str) -> str:
    return ".mp4"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def drain(config: WatchConfig, worker: Copier | None = None) -> tuple[Copier, Watcher, list[Outcome]]:
    worker = worker or Copier()
    told: list[Outcome] = []
    watcher = Watcher({Inbox(config, mp4): worker}, lambda outcome, stages: told.append(outcome))
    watcher.run(once=True)
    return worker, watcher, told


def test_a_file_is_taken_when_it_has_been_still(tmp_path: Path) -> None:
    clock = Clock()
    inbox = Inbox(WatchConfig(tmp_path, tmp_path / "out", settle_s=2), mp4, clock)
    clip = tmp_path / "a.mkv"
    clip.write_bytes(b"1")
    assert inbox.take() == [] and inbox.waiting
    clock.now += 1.9
    clip.write_bytes(b"12")
    assert inbox.take() == []
    clock.now += 1.9
    assert inbox.take() == []
    clock.now += 0.1
    assert inbox.take() == [Arrival(clip, tmp_path / "out/a.mp4")]
    clock.now += 10
    assert inbox.take() == [] and not inbox.waiting


def test_a_file_that_is_replaced_counts_as_new_even_with_an_old_date(tmp_path: Path) -> None:
    clock = Clock()
    inbox = Inbox(WatchConfig(tmp_path, tmp_path / "out", settle_s=0), mp4, clock)
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"1")
    os.utime(clip, ns=(0, 0))
    assert len(inbox.take()) == 1
    other = tmp_path / ".b"
    other.write_bytes(b"2")
    os.utime(other, ns=(0, 0))
    other.rename(clip)
    assert inbox.take(busy={clip}) == []
    assert [arrival.source for arrival in inbox.take()] == [clip]


def test_what_is_no_clip_is_left_alone(folders: WatchConfig) -> None:
    for name in (
        ".hidden.mp4",
        "a.mp4.part",
        "a.mp4~",
        "b.crdownload",
        "notes.txt",
        "a.mp4.tmp",
        "~a.mp4",
        "a.temp.MP4",
        "mp4",
    ):
        (folders.inbox / name).write_bytes(b"x")
    (folders.inbox / ".thumbnails").mkdir()
    (folders.inbox / ".thumbnails/c.mp4").write_bytes(b"x")
    os.mkfifo(folders.inbox / "pipe.mp4")
    (folders.inbox / "folder.mp4").mkdir()
    worker, _, _ = drain(folders)
    assert worker.jobs == []


def test_results_keep_their_relative_path_and_are_not_made_twice(folders: WatchConfig) -> None:
    (folders.inbox / "day 1/x").mkdir(parents=True)
    (folders.inbox / "day 1/x/A.MKV").write_bytes(b"1")
    (folders.inbox / "b.mp4").write_bytes(b"2")
    _, watcher, told = drain(folders)
    assert (folders.out / "day 1/x/A.mp4").read_bytes() == b"1"
    assert (folders.out / "b.mp4").read_bytes() == b"2"
    assert watcher.failed == 0 and len(told) == 2
    assert drain(folders)[0].jobs == []


def test_names_may_hold_anything(folders: WatchConfig) -> None:
    names = [b"-rf.mp4", b"a\nb.mp4", b"\xff\xfe.mp4", b" .mp4", "päron ☂.mp4".encode()]
    for name in names:
        (folders.inbox / os.fsdecode(name)).write_bytes(name)
    drain(folders)
    for name in names:
        assert (folders.out / os.fsdecode(name)).read_bytes() == name


def test_a_failure_leaves_its_reason_and_is_tried_again_only_when_the_clip_changes(folders: WatchConfig) -> None:
    clip = folders.inbox / "a.mp4"
    clip.write_bytes(b"bad")
    (folders.inbox / "b.mp4").write_bytes(b"good")
    _, watcher, _ = drain(folders)
    reason = json.loads((folders.out / "a.mp4.failed.json").read_text())
    assert watcher.failed == 1
    assert reason["failure"]["sentence"] == f"{clip}: swap failed at frame 3: it broke"
    assert names_in(folders.out) == ["a.mp4.failed.json", "b.mp4"]
    assert drain(folders)[0].jobs == []
    clip.write_bytes(b"better")
    drain(folders)
    assert names_in(folders.out) == ["a.mp4", "b.mp4"]


def test_two_clips_that_would_become_one(folders: WatchConfig) -> None:
    (folders.inbox / "a.mkv").write_bytes(b"first")
    (folders.inbox / "a.mp4").write_bytes(b"second")
    _, watcher, told = drain(folders)
    assert watcher.failed == 1
    assert (folders.out / "a.mp4").read_bytes() == b"first"
    failure = next(outcome.failure for outcome in told if outcome.failure)
    assert failure.reason.endswith("becomes " + str(folders.out / "a.mp4") + " too; rename one of them")


def test_a_clip_that_comes_later_does_not_replace_an_earlier_ones_result(folders: WatchConfig) -> None:
    inbox = Inbox(folders, mp4)
    (folders.inbox / "b.mp4").write_bytes(b"first")
    assert [arrival.rival for arrival in inbox.take()] == [None]
    (folders.inbox / "b.gif").write_bytes(b"second")
    (arrival,) = inbox.take()
    assert (arrival.source.name, arrival.rival) == ("b.gif", folders.inbox / "b.mp4")


def test_a_finished_clip_is_put_away(folders: WatchConfig, tmp_path: Path) -> None:
    (folders.inbox / "x").mkdir()
    (folders.inbox / "x/a.mp4").write_bytes(b"1")
    moving = WatchConfig(folders.inbox, folders.out, settle_s=0, on_done="move", done=tmp_path / "done")
    drain(moving)
    assert (tmp_path / "done/x/a.mp4").read_bytes() == b"1"
    assert not (folders.inbox / "x/a.mp4").exists()
    (folders.inbox / "b.mp4").write_bytes(b"1")
    (folders.inbox / "c.mp4").write_bytes(b"bad")
    drain(WatchConfig(folders.inbox, folders.out, settle_s=0, on_done="delete"))
    assert names_in(folders.inbox / "x") == [] and (folders.inbox / "c.mp4").exists()
    assert not (folders.inbox / "b.mp4").exists()


def test_a_clip_replaced_while_it_is_converted_is_not_deleted_but_taken_again(folders: WatchConfig) -> None:
    clip = folders.inbox / "a.mp4"
    clip.write_bytes(b"1")

    def replace_once(job: Job) -> None:
        if len(worker.jobs) == 1:
            clip.write_bytes(b"the new one")

    worker = Copier(replace_once)
    deleting = WatchConfig(folders.inbox, folders.out, settle_s=0, on_done="delete")
    watcher = Watcher({Inbox(deleting, mp4): worker}, lambda outcome, stages: None)
    watcher.run(once=True)
    assert clip.read_bytes() == b"the new one"
    watcher.run(once=True)
    assert (folders.out / "a.mp4").read_bytes() == b"the new one"
    assert not clip.exists()


def test_what_a_killed_run_left_behind_is_removed(folders: WatchConfig) -> None:
    (folders.out / "day").mkdir(parents=True)
    (folders.out / "day/.a.mp4.999999999-1.part").write_bytes(b"half")
    (folders.out / f"day/.b.mp4.{os.getpid()}-1.part").write_bytes(b"still being written")
    prepare_folders([folders])
    assert names_in(folders.out / "day") == [f".b.mp4.{os.getpid()}-1.part"]


def test_an_out_folder_that_cannot_be_made(folders: WatchConfig) -> None:
    folders.out.write_text("a file")
    (folders.inbox / "a.mp4").write_bytes(b"1")
    _, watcher, told = drain(folders)
    assert watcher.failed == 1
    assert told[0].failure is not None and "cannot be made: File exists" in told[0].failure.reason


def test_out_may_lie_in_the_watched_folder(tmp_path: Path) -> None:
    config = WatchConfig(tmp_path, tmp_path / "out", settle_s=0)
    prepare_folders([config])
    (tmp_path / "a.mp4").write_bytes(b"1")
    assert len(drain(config)[0].jobs) == 1
    assert drain(config)[0].jobs == []


@pytest.mark.parametrize(("inbox", "out"), [("in", "in"), ("in/sub", "in")])
def test_folders_that_would_feed_themselves(tmp_path: Path, inbox: str, out: str) -> None:
    (tmp_path / inbox).mkdir(parents=True)
    with pytest.raises(ConfigError, match="would be taken for new clips"):
        prepare_folders([WatchConfig(tmp_path / inbox, tmp_path / out)])


def test_folders_that_would_feed_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigError, match=r"watch\.1\.in: results published in"):
        prepare_folders([WatchConfig(tmp_path / "a", tmp_path / "b"), WatchConfig(tmp_path / "b", tmp_path / "c")])
    with pytest.raises(ConfigError, match="no folder is watched"):
        prepare_folders([])
    with pytest.raises(ConfigError, match=r"watch.0.in: the folder .* does not exist"):
        prepare_folders([WatchConfig(tmp_path / "no", tmp_path / "b")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"settle_s": -1.0}, "settle_s must be from 0 to 3600"),
        ({"rescan_s": 0.0}, "rescan_s must be from"),
        ({"on_done": "move"}, "done names the folder"),
        ({"suffixes": (".mp4", "MKV")}, "suffixes are written like .mp4, not 'MKV'"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WatchConfig(Path("a"), Path("b"), **settings)  # type: ignore[arg-type]


def test_the_daemon_hears_of_a_clip_long_before_it_looks_again(folders: WatchConfig) -> None:
    config = WatchConfig(folders.inbox, folders.out, settle_s=0, rescan_s=3600)

    class Waiting(Copier):
        """Drops a clip once the watcher has gone idle; stops it when that clip is done."""

        def poll(self, timeout_s: float) -> list[Outcome]:
            ended = super().poll(timeout_s)
            if not self.jobs and not (config.inbox / "a.mp4").exists():
                (config.inbox / "a.mp4").write_bytes(b"1")
            if ended:
                raise KeyboardInterrupt  # not the signal: a background job of a shell script is born deaf to it
            idle.wait(0.02)
            return ended

    idle = threading.Event()
    before = threading.active_count()
    watcher = Watcher({Inbox(config, mp4): Waiting()}, lambda outcome, stages: None)
    with pytest.raises(KeyboardInterrupt):
        watcher.run()
    assert (folders.out / "a.mp4").exists()
    assert threading.active_count() == before
