"""Changes are heard of; where they cannot be, or were missed, everything is looked at."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify_c import InotifyFD

from pipeline import listening
from pipeline.inbox import WatchConfig
from pipeline.listening import Listener

_OVERFLOW = 0x4000


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A watched folder, its listener, and a clock."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.inbox = root / "in"
        self.inbox.mkdir(exist_ok=True)
        self.wake = threading.Event()
        self.clock = Clock()
        self.config = WatchConfig(self.inbox, root / "out", **settings)
        self.listener = Listener([self.config], self.wake, self.clock)

    def heard(self) -> set[Path] | None:
        """What was heard of the folder; an empty set where nothing was."""
        return self.listener.heard().get(self.inbox, set())

    def wait_for(self, *paths: Path) -> set[Path]:
        """Waits until all these were heard of."""
        found: set[Path] = set()
        deadline = time.monotonic() + 60
        while not set(paths) <= found and time.monotonic() < deadline:
            self.wake.wait(0.1)
            self.wake.clear()
            found |= self.heard() or set()
        assert set(paths) <= found
        return found

    def wait_for_all(self) -> None:
        """Waits until the answer is: everything."""
        deadline = time.monotonic() + 60
        while self.heard() is not None:
            assert time.monotonic() < deadline
            self.wake.wait(0.1)
            self.wake.clear()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    made: list[Scene] = []

    def make(**settings: Any) -> Scene:
        made.append(Scene(tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.listener.close()


def test_first_everything_then_what_happens(scene: Callable[..., Scene], tmp_path: Path) -> None:
    here = scene()
    assert here.listener.mode(here.inbox) == "events"
    assert here.listener.heard() == {here.inbox: None}
    assert here.listener.heard() == {}
    (here.inbox / "a.mp4").write_bytes(b"1")
    assert here.wait_for(here.inbox / "a.mp4") == {here.inbox / "a.mp4"}
    (tmp_path / "b.mp4").write_bytes(b"1")
    (tmp_path / "b.mp4").rename(here.inbox / "b.mp4")
    os.link(here.inbox / "b.mp4", here.inbox / "c.mp4")
    here.wait_for(here.inbox / "b.mp4", here.inbox / "c.mp4")
    (here.inbox / "b.mp4").rename(here.inbox / "d.mp4")
    here.wait_for(here.inbox / "d.mp4")
    strange = here.inbox / os.fsdecode(b"-a\nb\xff.mp4")
    strange.write_bytes(b"1")
    here.wait_for(strange)


def test_folders_that_come_are_listened_to(scene: Callable[..., Scene], tmp_path: Path) -> None:
    here = scene()
    here.heard()
    (here.inbox / "x/y").mkdir(parents=True)
    here.wait_for(here.inbox / "x")
    (here.inbox / "x/y/a.mp4").write_bytes(b"1")
    here.wait_for(here.inbox / "x/y/a.mp4")
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree").rename(here.inbox / "tree")
    here.wait_for(here.inbox / "tree")
    (here.inbox / "tree/deep/b.mp4").write_bytes(b"1")
    here.wait_for(here.inbox / "tree/deep/b.mp4")


def test_what_is_hidden_or_only_read_wakes_nobody(scene: Callable[..., Scene], tmp_path: Path) -> None:
    (tmp_path / "in/.sync").mkdir(parents=True)
    (tmp_path / "in/a.mp4").write_bytes(b"1")
    here = scene()
    here.heard()
    (here.inbox / ".a.mp4.X7a9").write_bytes(b"1")
    (here.inbox / ".sync/b.mp4").write_bytes(b"1")
    (here.inbox / "a.mp4").read_bytes()
    (here.inbox / "a.mp4").chmod(0o600)
    (here.inbox / "z.mp4").write_bytes(b"1")
    assert here.wait_for(here.inbox / "z.mp4") == {here.inbox / "z.mp4"}


def test_a_folder_that_is_not_recursive(scene: Callable[..., Scene]) -> None:
    here = scene(recursive=False)
    (here.inbox / "x").mkdir()
    here.heard()
    (here.inbox / "x/a.mp4").write_bytes(b"1")
    (here.inbox / "b.mp4").write_bytes(b"1")
    assert here.wait_for(here.inbox / "b.mp4") <= {here.inbox / "b.mp4", here.inbox / "x"}


def test_everything_is_looked_at_now_and_then(scene: Callable[..., Scene]) -> None:
    here = scene(rescan_s=300)
    here.heard()
    times = []
    for _ in range(20):
        begun = here.clock.now
        while here.heard() != None:  # noqa: E711  # None is everything, an empty set is nothing
            here.clock.now += 1
        times.append(here.clock.now - begun)
    assert 300 <= min(times) < max(times) <= 331


def test_so_many_that_it_is_everything(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.heard()
    for number in range(1100):
        (here.inbox / f"{number}.mp4").touch()
    (here.inbox / "last.mp4").touch()
    deadline = time.monotonic() + 60
    while here.listener._posts[here.inbox].ear._paths is not None:  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert here.heard() is None


def test_too_much_for_the_kernel_is_noticed(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that reads is held up until the kernel has dropped events, for real."""
    queued = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if queued > 20000:
        pytest.skip("the queue of this machine is too long to fill it quickly")
    held, go = threading.Event(), threading.Event()
    read = InotifyFD.read_events

    def slow(self: InotifyFD, **more: Any) -> Any:
        if held.is_set():
            go.wait(60)
        return read(self, **more)

    monkeypatch.setattr(InotifyFD, "read_events", slow)
    here = scene()
    here.heard()
    held.set()
    (here.inbox / "first.mp4").touch()  # what it is waiting in the kernel for
    time.sleep(0.05)
    for number in range(queued // 2 + 100):  # each is made and closed: two events
        os.close(os.open(here.inbox / f"{number}.mp4", os.O_CREAT | os.O_WRONLY))
    listening_before = here.listener._posts[here.inbox].ear
    ailments: list[str] = []
    monkeypatch.setattr(listening._log, "warning", lambda text, *args: ailments.append(text % args))
    held.clear()
    go.set()
    deadline = time.monotonic() + 60
    while not ailments and time.monotonic() < deadline:
        answer = here.heard()
        time.sleep(0.01)
    assert ailments == [f"{here.inbox}: more happened at once than could be heard; all of it is looked at again"]
    assert answer is None
    assert here.listener._posts[here.inbox].ear is not listening_before
    (here.inbox / "after.mp4").write_bytes(b"1")
    here.wait_for(here.inbox / "after.mp4")


def test_the_kernels_word_for_lost_events(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    real = InotifyFD._read_event_buffer
    said: list[bytes] = []

    def read(self: InotifyFD, size: int) -> bytes:
        found = real(self, size)
        return said.pop() if said else found

    monkeypatch.setattr(InotifyFD, "_read_event_buffer", read)
    here = scene()
    here.heard()
    said.append(struct.pack("iIII", -1, _OVERFLOW, 0, 0))
    (here.inbox / "lost.mp4").touch()
    here.wait_for_all()


def test_a_thread_that_dies_is_replaced(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.heard()
    ear = here.listener._posts[here.inbox].ear
    assert ear is not None
    ear._observer._inotify.stop()
    ear._observer._inotify.join()
    assert here.heard() == set()
    here.clock.now += 5
    assert here.heard() is None and here.listener.mode(here.inbox) == "events"
    (here.inbox / "a.mp4").write_bytes(b"1")
    here.wait_for(here.inbox / "a.mp4")


@pytest.mark.parametrize("how", ["renamed", "removed", "replaced"])
def test_a_folder_that_goes_away_and_comes_back(how: str, scene: Callable[..., Scene], tmp_path: Path) -> None:
    here = scene()
    here.heard()
    if how == "removed":
        here.inbox.rmdir()
    else:
        here.inbox.rename(tmp_path / "away")
    if how != "replaced":
        here.clock.now += 5
        here.heard()
        assert here.listener.mode(here.inbox) == "polling"
    if how == "renamed":
        (tmp_path / "away").rename(here.inbox)
    else:
        here.inbox.mkdir()
    here.clock.now += 5
    here.wait_for_all()
    assert here.listener.mode(here.inbox) == "events"
    (here.inbox / "a.mp4").write_bytes(b"1")
    here.wait_for(here.inbox / "a.mp4")


def test_shares_are_polled(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "remote_kind", lambda folder, table: "cifs")
    threads = threading.active_count()
    here = scene(poll_s=7)
    assert here.listener.mode(here.inbox) == "polling"
    assert here.heard() is None and here.heard() == set()
    assert here.listener.due_s() <= 7
    here.clock.now += 6.9
    assert here.heard() == set()
    here.clock.now += 0.1
    assert here.listener.due_s() == 0
    assert here.heard() == {here.inbox} and here.heard() == set()
    assert threading.active_count() == threads


def test_polling_is_the_users_choice(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert scene(polling="always").listener.mode(tmp_path / "in") == "polling"
    monkeypatch.setattr(listening, "remote_kind", lambda folder, table: "nfs4")
    assert scene(polling="never").listener.mode(tmp_path / "in") == "events"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_where_the_system_allows_no_more_it_is_polled(
    number: int, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> int:
        raise OSError(number, "limit reached")

    with monkeypatch.context() as patch:
        patch.setattr(InotifyFD, "_create_inotify_fd", staticmethod(refuse))
        here = scene(rescan_s=60)
        assert here.listener.mode(here.inbox) == "polling"
        for _ in range(30):
            here.clock.now += 10
            here.heard()
    assert caplog.text.count("is looked through every 5 s: this") == 1 and "raise fs.inotify" in caplog.text
    for _ in range(7):
        here.clock.now += 10
        here.heard()
    assert here.listener.mode(here.inbox) == "events"


def test_a_tree_of_which_only_a_part_can_be_listened_to_is_polled(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """watchdog passes over folders below the root that the kernel has no watch left for."""
    real = InotifyFD.add_callback

    def add(self: InotifyFD, path: bytes, *more: Any) -> Any:
        if path.endswith(b"/deep"):
            raise OSError(errno.ENOSPC, "inotify watch limit reached")
        return real(self, path, *more)

    monkeypatch.setattr(InotifyFD, "add_callback", add)
    here = scene(rescan_s=60)
    assert here.listener.mode(here.inbox) == "events"
    here.heard()
    (here.inbox / "deep").mkdir()
    here.wait_for_all()
    assert here.listener.mode(here.inbox) == "polling"
    for _ in range(20):
        here.clock.now += 10
        here.heard()
    assert here.listener.mode(here.inbox) == "polling"
    assert caplog.text.count("raise fs.inotify.max_user_watches") == 1


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    clock = Clock()
    config = WatchConfig(tmp_path / "late", tmp_path / "out")
    with Listener([config], threading.Event(), clock) as listener:
        assert listener.mode(config.inbox) == "polling"
        config.inbox.mkdir()
        clock.now += 5
        assert listener.heard() == {config.inbox: None}
        assert listener.mode(config.inbox) == "events"


def test_no_thread_is_left_however_often_it_begins(tmp_path: Path) -> None:
    before = threading.active_count()
    configs = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        configs.append(WatchConfig(tmp_path / str(number), tmp_path / "out"))
    for _ in range(5):
        with Listener(configs, threading.Event()):
            assert threading.active_count() > before
        assert threading.active_count() == before
