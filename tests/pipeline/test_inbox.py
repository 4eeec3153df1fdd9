"""A clip is offered once, when it is whole and still, whatever people and programs do to the folder."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import config as loader
from pipeline import inbox as module
from pipeline.errors import ConfigError, PublishError
from pipeline.inbox import Arrival, Inbox, WatchConfig, mark_of, prepare_folders
from pipeline.jobs import Mark
from tests.clips import make_clip

_SETTLE_S = 2.0


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A watched folder, an inbox for it, and time that passes when it is told to."""

    def __init__(self, root: Path, excluded: tuple[Path, ...] = (), **settings: Any) -> None:
        self.root = root / "in"
        self.root.mkdir(exist_ok=True)
        self.clock = Clock()
        self.config = WatchConfig(self.root, root / "out", **{"settle_s": _SETTLE_S, **settings})
        self.inbox = Inbox(self.config, excluded, self.clock)

    def passes(self, seconds: float, step: float = 0.5) -> list[Arrival]:
        """What is taken while so much time passes; nothing is looked for."""
        found = self.inbox.take()
        for _ in range(round(seconds / step)):
            self.clock.now += step
            found += self.inbox.take()
        return found

    def new(self, seconds: float = 5) -> list[str]:
        """Names of what a full look and a while bring."""
        self.inbox.look()
        return [str(arrival.source.relative_to(self.root)) for arrival in self.passes(seconds)]

    def drop(self, name: str, content: bytes = b"x") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    codecs = {"a.mp4": "libx264", "a.mkv": "libx264", "a.avi": "mpeg4"}
    return {name: make_clip(folder / name, codec=codec).read_bytes() for name, codec in codecs.items()}


# --- when a file is ready ---------------------------------------------------------------------------------------------


def test_a_file_is_taken_when_it_has_been_still(scene: Scene) -> None:
    clip = scene.drop("a.mkv", b"1")
    scene.inbox.look()
    assert scene.inbox.take() == [] and scene.inbox.settling
    assert [arriving.source for arriving in scene.inbox.arriving] == [str(clip)]
    scene.clock.now += 1.9
    clip.write_bytes(b"12")
    assert scene.inbox.take() == []
    scene.clock.now += 1.9
    assert scene.inbox.take() == []
    assert scene.inbox.arriving[0].size == 2 and scene.inbox.arriving[0].reason == "it has changed a moment ago"
    scene.clock.now += 0.1
    before = time.time()
    (arrival,) = scene.inbox.take()
    assert arrival == Arrival(clip, Mark(2, clip.stat().st_mtime_ns, clip.stat().st_ino), arrival.seen)
    assert before - 60 < arrival.seen <= time.time()
    assert not scene.inbox.arriving and scene.inbox.due_s is None
    assert scene.new(10) == []


def test_a_copy_counts_as_still_from_when_it_was_heard_to_be_done(scene: Scene) -> None:
    clip = scene.drop("a.mkv", b"1")
    scene.inbox.look()
    scene.inbox.look({clip})
    scene.clock.now += 0.3
    clip.write_bytes(b"12")
    scene.inbox.look({clip})  # its writer has closed it
    assert scene.passes(1.8, step=0.1) == []
    assert [arrival.source for arrival in scene.passes(0.3, step=0.1)] == [clip]


def test_it_says_when_there_is_something_to_do(scene: Scene) -> None:
    assert scene.inbox.due_s is None
    scene.drop("a.mp4")
    scene.inbox.look()
    assert scene.inbox.due_s == 1.0
    scene.clock.now += 3
    assert scene.inbox.due_s == 0.0


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_an_upload_that_stalls_waits_however_long(name: str, scene: Scene, clips: dict[str, bytes]) -> None:
    content = clips[name]
    part = int(len(content) * 0.6)
    clip = scene.drop(name, content[:part])
    assert scene.new(3 * _SETTLE_S) == []
    assert scene.passes(600) == [] and not scene.inbox.settling
    assert "header announces" in scene.inbox.arriving[0].reason or "index" in scene.inbox.arriving[0].reason
    with clip.open("ab") as file:
        file.write(content[part:])
    scene.inbox.look({clip})  # it was heard that it was closed
    (arrival,) = scene.passes(15)
    assert arrival.fault == "" and arrival.mark.size == len(content)


def test_a_writer_that_dribbles(scene: Scene, clips: dict[str, bytes]) -> None:
    content = clips["a.mp4"]
    clip = scene.drop("a.mp4", b"")
    scene.inbox.look()
    taken = []
    for at in range(0, len(content), max(1, len(content) // 40)):
        with clip.open("ab") as file:
            file.write(content[at : at + max(1, len(content) // 40)])
        taken += scene.passes(1.5)
    assert taken == []
    (arrival,) = scene.passes(15)
    assert arrival.mark.size == len(content)


def test_a_daemon_that_starts_while_a_file_is_half_way(tmp_path: Path, clips: dict[str, bytes]) -> None:
    scene = Scene(tmp_path, settle_s=0.0)
    clip = scene.drop("a.mkv", clips["a.mkv"][:-500])
    assert scene.new(60) == []
    clip.write_bytes(clips["a.mkv"])
    assert len(scene.passes(20)) == 1


def test_whoever_has_it_open_for_writing_is_not_done(scene: Scene) -> None:
    clip = scene.drop("a.ts")
    with clip.open("ab"):
        assert scene.new(60) == []
        assert scene.inbox.arriving[0].reason == "a program has it open for writing"
    assert len(scene.passes(15)) == 1


def test_what_stays_half_is_given_up_once_with_the_reason(tmp_path: Path, clips: dict[str, bytes]) -> None:
    scene = Scene(tmp_path, incomplete_s=120.0)
    clip = scene.drop("a.mkv", clips["a.mkv"][:-500])
    scene.inbox.look()
    assert scene.passes(100) == []
    (arrival,) = scene.passes(40)
    assert arrival.fault.endswith("% of what its header announces is there, and nothing has come for 2 min")
    assert scene.new(300) == []
    clip.write_bytes(clips["a.mkv"])
    assert scene.new() == ["a.mkv"]


def test_a_program_that_keeps_it_open_for_ever_does_not_keep_a_whole_file_for_ever(tmp_path: Path) -> None:
    scene = Scene(tmp_path, incomplete_s=60.0)
    clip = scene.drop("a.ts")
    with clip.open("ab"):
        scene.inbox.look()
        (arrival,) = scene.passes(80)
    assert arrival.fault == ""


def test_a_download_that_keeps_notes_beside_the_file(scene: Scene) -> None:
    scene.drop("a.ts")
    notes = scene.drop("a.ts.aria2")
    assert scene.new(30) == [] and scene.inbox.arriving[0].reason == "it is being downloaded"
    notes.unlink()
    assert scene.new(15) == ["a.ts"]


def test_a_download_under_a_name_of_its_own(scene: Scene, clips: dict[str, bytes]) -> None:
    part = scene.drop("a.mp4.part", clips["a.mp4"])
    scene.drop("a.mp4", b"")  # what Firefox makes first
    assert scene.new(60) == []
    part.rename(scene.root / "a.mp4")
    assert scene.new(15) == ["a.mp4"]


# --- once, and again only when it changes -----------------------------------------------------------------------------


def test_a_file_that_is_replaced_is_new_even_with_its_size_and_date(scene: Scene) -> None:
    clip = scene.drop("a.mp4", b"1")
    os.utime(clip, ns=(0, 0))
    assert scene.new() == ["a.mp4"]
    other = scene.drop(".b", b"2")
    os.utime(other, ns=(0, 0))
    other.rename(clip)
    scene.inbox.look()
    (arrival,) = scene.passes(5)
    assert arrival.moved and arrival.mark == mark_of(clip)
    assert scene.new() == []


def test_a_file_that_is_written_anew_in_place_with_the_same_size(scene: Scene) -> None:
    clip = scene.drop("a.mp4", b"1")
    assert scene.new() == ["a.mp4"]
    clip.write_bytes(b"2")
    os.utime(clip, ns=(0, 12345))
    scene.inbox.look()
    (arrival,) = scene.passes(5)
    assert not arrival.moved and arrival.mark.mtime_ns == 12345


def test_what_changes_nothing_of_a_clip_does_not_make_it_new(scene: Scene) -> None:
    clip = scene.drop("a.mp4", b"1")
    assert scene.new() == ["a.mp4"]
    clip.chmod(0o600)
    os.link(clip, scene.root / ".beside")
    (scene.root / ".beside").unlink()
    scene.inbox.look({clip})
    assert scene.new() == [] and not scene.inbox.arriving


def test_an_upload_that_ends_with_a_hard_link(scene: Scene) -> None:
    temporary = scene.drop("a.mp4.tmp", b"1")
    scene.inbox.look()
    os.link(temporary, scene.root / "a.mp4")
    scene.inbox.look({scene.root / "a.mp4"})
    assert scene.passes(1) == []
    temporary.unlink()  # which changes the link count and the time of change of the other one
    assert len(scene.passes(2)) == 1
    assert scene.new() == []


def test_a_file_that_goes_before_it_was_ready(scene: Scene) -> None:
    clip = scene.drop("a.mp4")
    scene.inbox.look()
    clip.rename(scene.root / "b.mp4")
    scene.inbox.look({scene.root / "b.mp4"})
    assert [arrival.source.name for arrival in scene.passes(10)] == ["b.mp4"]
    assert not scene.inbox.arriving


def test_what_is_remembered_is_not_offered_and_what_is_forgotten_is(scene: Scene) -> None:
    clip = scene.drop("a.mp4")
    mark = mark_of(clip)
    assert mark is not None
    scene.inbox.remember(clip, mark)
    assert scene.new() == []
    scene.inbox.forget(clip)
    scene.inbox.look({clip})
    assert len(scene.passes(5)) == 1
    scene.inbox.remember(clip, replace(mark, inode=mark.inode + 1))
    scene.inbox.look({clip})
    (arrival,) = scene.passes(5)
    assert arrival.moved


def test_a_change_that_is_taken_back_while_it_waits(scene: Scene) -> None:
    clip = scene.drop("a.mp4", b"1")
    date = clip.stat().st_mtime_ns
    assert scene.new() == ["a.mp4"]
    os.utime(clip, ns=(0, 0))
    scene.inbox.look()
    os.utime(clip, ns=(0, date))
    assert scene.passes(5) == [] and not scene.inbox.arriving


def test_a_poll_finds_new_names_without_asking_about_known_ones(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        scene.drop(f"x/{number}.mp4")
    assert len(scene.new()) == 20
    asked: list[str] = []
    monkeypatch.setattr(module, "mark_of", lambda path: (asked.append(str(path)), mark_of(path))[1])
    new = scene.drop("x/new.mp4")
    scene.inbox.look({scene.root})
    assert asked == [str(new)]
    assert len(scene.passes(5)) == 1


# --- crowds and hostile folders ---------------------------------------------------------------------------------------


def test_a_tree_that_is_moved_in(scene: Scene, tmp_path: Path) -> None:
    scene.new()
    for number in range(50):
        place = tmp_path / f"tree/day {number % 5}/{number:02}.mp4"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    (tmp_path / "tree").rename(scene.root / "tree")
    scene.inbox.look({scene.root / "tree"})
    found = [str(arrival.source.relative_to(scene.root)) for arrival in scene.passes(5)]
    assert found == sorted(f"tree/day {number % 5}/{number:02}.mp4" for number in range(50))
    assert scene.new() == []


@pytest.mark.parametrize("crowd", [2000, pytest.param(20000, marks=pytest.mark.slow)])
def test_a_crowd_of_names_made_while_nobody_listened(crowd: int, tmp_path: Path) -> None:
    scene = Scene(tmp_path, settle_s=1.0)
    for number in range(crowd):
        place = os.open(f"{scene.root}/{number}.ts", os.O_CREAT | os.O_WRONLY)
        os.write(place, b"x" if number % 4 else b"")  # every fourth has a name only
        os.close(place)
    scene.inbox.look()
    most, names = 0, list[str]()
    for _ in range(crowd // 100):
        scene.clock.now += 1
        taken = scene.inbox.take()
        most = max(most, len(taken))
        names += [arrival.source.name for arrival in taken]
    assert len(names) == len(set(names)) == crowd * 3 // 4 and most <= 256
    assert len(scene.inbox.arriving) == 100
    assert {arriving.reason for arriving in scene.inbox.arriving} == {"it is empty"}


@pytest.mark.slow
def test_fifty_thousand_known_files_cost_little(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for number in range(50000):
        folder = scene.root / f"{number // 500}"
        if number % 500 == 0:
            folder.mkdir()
        os.close(os.open(f"{folder}/{number}.mp4", os.O_CREAT | os.O_WRONLY))
    for path in scene.root.rglob("*.mp4"):
        mark = mark_of(path)
        assert mark is not None
        scene.inbox.remember(path, mark)
    begun = time.process_time()
    scene.inbox.look()
    full_s = time.process_time() - begun
    begun = time.process_time()
    scene.inbox.look({scene.root})
    poll_s = time.process_time() - begun
    assert not scene.inbox.arriving
    print(f"50,000 known files: a full look costs {full_s:.3f} s, a poll {poll_s:.3f} s")
    assert full_s < 3 and poll_s < 1.5


def test_names_may_hold_anything(scene: Scene) -> None:
    names = [b"-rf.mp4", b"a\nb.mp4", b"\xff\xfe.mp4", b" .mp4", b"<b>&.mp4", b"x" * 251 + b".mp4"]
    names.append("päron ☂.mp4".encode())
    for name in names:
        scene.drop(os.fsdecode(name))
    found = scene.new()
    assert sorted(map(os.fsencode, found)) == sorted(names)


def test_what_is_no_clip_is_left_alone(scene: Scene) -> None:
    for name in (".hidden.mp4", "a.mp4.part", "a.mp4~", "notes.txt", "~a.mp4", "a.temp.MP4", "mp4", ".x/c.mp4"):
        scene.drop(name)
    os.mkfifo(scene.root / "pipe.mp4")
    (scene.root / "folder.mp4").mkdir()
    (scene.root / "dangling.mp4").symlink_to("nowhere")
    assert scene.new() == [] and not scene.inbox.arriving


def test_own_results_are_never_taken_in(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    settings = {"out": root / "out", "on_done": "move", "done": root / "originals", "failed": root / "bad"}
    inbox = Inbox(WatchConfig(root, settle_s=0.0, **settings), (root / "state",))  # type: ignore[arg-type]
    for name in ("out/a.mp4", "out/x/b.mp4", "originals/a.mp4", "bad/c.mp4", "state/work/1/d.mp4", "mine/e.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    inbox.look()
    assert [arrival.source for arrival in inbox.take()] == [root / "mine/e.mp4"]
    inbox.look({root / "out/a.mp4", root / "out", root / "state"})
    assert not inbox.arriving


# --- shares that go away ----------------------------------------------------------------------------------------------


def test_a_share_that_goes_away_loses_nothing(scene: Scene, tmp_path: Path) -> None:
    for number in range(5):
        scene.drop(f"x/{number}.mp4")
    assert len(scene.new()) == 5
    scene.drop("half.mp4")
    scene.inbox.look()
    scene.root.rename(tmp_path / "away")
    assert scene.new() == [] and "cannot be read" in scene.inbox.trouble
    assert scene.inbox.due_s is None
    scene.root.mkdir()  # the bare mount point
    assert scene.new() == [] and "is a share missing?" in scene.inbox.trouble
    assert scene.inbox.gone() == []
    scene.root.rmdir()
    (tmp_path / "away").rename(scene.root)
    assert scene.new() == ["half.mp4"] and scene.inbox.trouble == ""
    assert scene.inbox.gone() == []


def test_what_is_gone_is_told_once(scene: Scene) -> None:
    clips = [scene.drop(f"{number}.mp4") for number in range(3)]
    assert len(scene.new()) == 3
    clips[1].unlink()
    assert scene.inbox.gone() == []
    scene.inbox.look()
    assert scene.inbox.gone() == [clips[1]]
    scene.inbox.look()
    assert scene.inbox.gone() == []
    shutil.copy2(clips[0], clips[1])
    scene.inbox.look()
    clips[1].unlink()
    scene.inbox.look()
    assert scene.inbox.gone() == [clips[1]]


def test_an_empty_folder_at_the_start_does_not_tell_that_all_is_gone(scene: Scene) -> None:
    """A share may not be mounted yet."""
    scene.inbox.remember(scene.root / "a.mp4", Mark(1, 2, 3))
    scene.inbox.look()
    assert scene.inbox.gone() == [] and scene.inbox.trouble == ""
    scene.drop("b.mp4")
    scene.inbox.look({scene.root})
    assert scene.inbox.gone() == [scene.root / "a.mp4"]


def test_a_file_that_the_share_does_not_answer_for_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.drop("a.mp4")
    scene.inbox.look()

    def stale(path: object) -> Mark:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(module, "mark_of", stale)
        assert scene.passes(5) == []
        assert scene.inbox.arriving[0].reason == "it cannot be read: Stale file handle"
    assert len(scene.passes(15)) == 1


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"settle_s": -1.0}, "settle_s must be from 0 to 3600, not -1"),
        ({"incomplete_s": 0.0}, "incomplete_s must be from 1 to 2592000, not 0"),
        ({"rescan_s": 0.0}, "rescan_s must be from 0.1 to 86400"),
        ({"poll_s": 4000.0}, "poll_s must be from 0.1 to 3600"),
        ({"priority": 101}, "priority must be from -100 to 100, not 101"),
        ({"on_done": "move"}, "done names the folder"),
        ({"suffixes": (".mp4", "MKV")}, "suffixes are written like .mp4, not 'MKV'"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WatchConfig(Path("a"), Path("b"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"polling": True}, "polling must be one of auto, always, never, not true"),
        ({"on_failed": "delete"}, "on_failed must be one of leave, move, not 'delete'"),
        ({"failed": False}, "failed must be a path, not false; put quotes around it"),
        ({"priority": 1000}, "priority must be from -100 to 100, not 1000"),
        ({"settings": "ffv1"}, "settings must be keys with values, not 'ffv1'"),
    ],
)
def test_wrong_settings_in_a_file(said: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        loader.apply(WatchConfig(tmp_path, tmp_path), said, tmp_path)


def test_settings_of_its_own(tmp_path: Path) -> None:
    said = {"settings": {"encode": {"codec": "ffv1"}}, "failed": "bad", "on_failed": "move"}
    config = loader.apply(WatchConfig(tmp_path, tmp_path / "out"), said, tmp_path)
    assert config.settings == {"encode": {"codec": "ffv1"}} and config.failed_folder == tmp_path / "bad"
    assert WatchConfig(tmp_path, tmp_path / "out").failed_folder == tmp_path / "out/failed"
    hash(config)


# --- the folders ------------------------------------------------------------------------------------------------------


def test_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    own = {"on_done": "move", "done": tmp_path / "in/done", "failed": tmp_path / "bad"}
    prepare_folders([WatchConfig(tmp_path / "in", tmp_path / "in/out", **own)])  # type: ignore[arg-type]
    assert (tmp_path / "in/out").is_dir() and (tmp_path / "in/done").is_dir() and (tmp_path / "bad").is_dir()
    assert not (tmp_path / "in/out/failed").exists()
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match="there is a file of that name"):
        prepare_folders([WatchConfig(tmp_path / "in", tmp_path / "file")])


def test_what_a_killed_run_left_behind_is_removed(scene: Scene) -> None:
    out = scene.config.out / "day"
    out.mkdir(parents=True)
    (out / ".a.mp4.999999999-1.part").write_bytes(b"half")
    (out / f".b.mp4.{os.getpid()}-1.part").write_bytes(b"still being written")
    prepare_folders([scene.config])
    assert os.listdir(out) == [f".b.mp4.{os.getpid()}-1.part"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "no folder is watched"),
        ([{"inbox": "no", "out": "b"}], r"watch\.0\.in: the folder .*no does not exist"),
        ([{"inbox": "a", "out": "a"}], r"watch\.0\.in: results published in .*/a would be taken for new clips"),
        ([{"inbox": "a/sub", "out": "a"}], "would be taken for new clips"),
        ([{"inbox": "a", "out": "b"}, {"inbox": "b", "out": "c"}], r"watch\.1\.in: results published in"),
        ([{"inbox": "a", "out": "b"}, {"inbox": "a/../a", "out": "c"}], r"watch\.1\.in: .* is watched\.0 already"),
        ([{"inbox": "a/sub", "out": "b", "on_done": "move", "done": "a"}], "files put in .*/a would be taken"),
        ([{"inbox": "a", "out": "b", "failed": "a"}], "files put in .*/a would be taken"),
        ([{"inbox": "a", "out": "b", "on_done": "move", "done": "b"}], r"watch\.0\.out: .*/b is done as well"),
        ([{"inbox": "a", "out": "b", "failed": "b"}], r"watch\.0\.out: .*/b is failed as well"),
    ],
)
def test_folders_that_are_refused(folders: list[dict[str, str]], message: str, tmp_path: Path) -> None:
    for name in ("a/sub", "b"):
        (tmp_path / name).mkdir(parents=True)
    paths = ("inbox", "out", "done", "failed")
    configs = [
        WatchConfig(**{key: tmp_path / value if key in paths else value for key, value in folder.items()})  # type: ignore[arg-type]
        for folder in folders
    ]
    with pytest.raises(ConfigError, match=message):
        prepare_folders(configs)


def test_an_inbox_within_an_inbox(tmp_path: Path) -> None:
    """Each clip is taken by one of them, if the outer one is told of the inner."""
    (tmp_path / "a/inner").mkdir(parents=True)
    configs = [WatchConfig(tmp_path / "a", tmp_path / "b"), WatchConfig(tmp_path / "a/inner", tmp_path / "c")]
    prepare_folders(configs)
    (tmp_path / "a/inner/x.mp4").write_bytes(b"x")
    inboxes = [Inbox(replace(config, settle_s=0.0), [one.inbox for one in configs]) for config in configs]
    for inbox in inboxes:
        inbox.look()
    assert [len(inbox.take()) for inbox in inboxes] == [0, 1]
