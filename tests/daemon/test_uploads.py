"""However clips come into a watched folder, each is made exactly once, and from all of it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pytest

from pipeline.jobs import State
from tests.daemon.uploads import SETTLE_S, Uploads, clip_of, counted, files

FRAMES = 12

#: Those that say how long they are, and one that does not.
KINDS = ("mp4", "mkv", "avi")
ENDLESS = "ts"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A clip by its extension; "large" is an mp4 of several hundred kilobytes."""
    folder = tmp_path_factory.mktemp("clips")
    made = {kind: clip_of(folder / f"a.{kind}", FRAMES) for kind in (*KINDS, ENDLESS)}
    return {**made, "large": clip_of(folder / "large.mp4", FRAMES, noise=True, width=256, height=192)}


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Uploads]:
    with Uploads(tmp_path) as made:
        yield made


class Stalled:
    """Clips of which 60 % have come: some are held open, some are not."""

    def __init__(self, folder: Path, clips: dict[str, bytes], when: str, stack: ExitStack) -> None:
        self.whole = {f"{when} {how}.{kind}": clips[kind] for kind in (*KINDS, ENDLESS) for how in ("held", "closed")}
        self._folder = folder
        self._held: dict[str, BinaryIO] = {}
        for name, data in self.whole.items():
            file = stack.enter_context((folder / name).open("wb", buffering=0))
            file.write(self._part(data))
            if "held" in name:
                self._held[name] = file
            else:
                file.close()

    @staticmethod
    def _part(data: bytes) -> bytes:
        return data[: len(data) * 6 // 10]

    def go_on(self) -> None:
        """The rest comes."""
        for name, data in self.whole.items():
            file = self._held.get(name) or (self._folder / name).open("ab", buffering=0)
            file.write(data[len(self._part(data)) :])
            file.close()


def test_uploads_that_stall(uploads: Uploads, clips: dict[str, bytes]) -> None:
    """At 60 %, for three times as long as a file must be still; the daemon starts while some are half-way."""
    with ExitStack() as stack:
        early = Stalled(uploads.at("in"), clips, "early", stack)
        uploads.start()
        uploads.wait(lambda: uploads.live() is not None)
        late = Stalled(uploads.at("in"), clips, "late", stack)
        # One that is closed and does not say how long it is, is what it seems: whole. It is made again when it grows.
        endless = {name for name in {**early.whole, **late.whole} if name.endswith(f"closed.{ENDLESS}")}
        end = time.monotonic() + 3 * SETTLE_S + 1.0
        uploads.wait(lambda: time.monotonic() > end)
        assert {Path(entry.source).name for entry in uploads.jobs()} <= endless
        half = (early.whole.keys() | late.whole.keys()) - endless
        uploads.wait(lambda: {name for name, why in uploads.arriving().items() if why} >= half)
        uploads.wait(lambda: uploads.done(len(endless)))
        early.go_on()
        late.go_on()
    whole = {**early.whole, **late.whole}
    uploads.wait(lambda: uploads.done(len(whole) + len(endless)))
    uploads.stop()
    uploads.check(whole, FRAMES, replaced=endless)
    assert uploads.published() == [entry.id for entry in uploads.jobs()]


@pytest.mark.parametrize("pause_s", [0.05, pytest.param(1.5 * SETTLE_S, marks=pytest.mark.slow)])
def test_a_writer_that_dribbles(pause_s: float, uploads: Uploads, clips: dict[str, bytes]) -> None:
    """64 kB at a time: one program opens the file anew each time, one keeps it open, and one makes room first."""
    data = clips["large"]
    parts = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    assert len(parts) >= 8
    folder = uploads.at("in")
    uploads.start()
    uploads.wait(lambda: uploads.live() is not None)
    with (folder / "kept open.mp4").open("wb", buffering=0) as kept, (folder / "room.mp4").open("wb") as room:
        os.posix_fallocate(room.fileno(), 0, len(data))
        for part in parts:
            kept.write(part)
            room.write(part)
            room.flush()
            with (folder / "anew.mp4").open("ab") as anew:
                anew.write(part)
            assert uploads.jobs() == [] or part is parts[-1]
            time.sleep(pause_s)
    uploads.wait(lambda: uploads.done(3))
    uploads.stop()
    uploads.check(dict.fromkeys(("anew.mp4", "kept open.mp4", "room.mp4"), data), FRAMES)
    assert len(uploads.published()) == 3


TEMPORARY = (
    ".a{}.part",
    "a{}.part",
    "a{}.mp4.part",
    "a{}.mp4.crdownload",
    "a{}.mp4.filepart",
    ".a{}.mp4.X3fT9q",
    "~a{}.tmp",
)


def test_what_gets_its_name_when_it_is_whole(uploads: Uploads, clips: dict[str, bytes], tmp_path: Path) -> None:
    """Renamed or linked in, by ones and by the folder; the daemon stops meanwhile, and starts when all is done."""
    folder, elsewhere = uploads.at("in"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    uploads.start()
    uploads.wait(lambda: uploads.live() is not None)
    whole: dict[str, bytes] = {}
    for number, name in enumerate(TEMPORARY):
        (folder / name.format(number)).write_bytes(clips["mp4"])
    (folder / ".linked").write_bytes(clips["mkv"])
    for at in range(50):
        place = elsewhere / "tree" / f"day {at % 7}" / ("deep" * (at % 2))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{at}.mp4").write_bytes(clips["mp4"])
        whole[str((Path("tree") / place.relative_to(elsewhere / "tree")) / f"{at}.mp4")] = clips["mp4"]
    end = time.monotonic() + 2 * SETTLE_S
    uploads.wait(lambda: time.monotonic() > end)
    assert uploads.jobs() == []
    for number, name in enumerate(TEMPORARY):
        (folder / name.format(number)).rename(folder / f"renamed {number}.mp4")
        whole[f"renamed {number}.mp4"] = clips["mp4"]
    os.link(folder / ".linked", folder / "one name.mkv")
    os.link(folder / ".linked", folder / "another name.mkv")
    (folder / ".linked").unlink()
    whole |= {"one name.mkv": clips["mkv"], "another name.mkv": clips["mkv"]}
    (elsewhere / "tree").rename(folder / "tree")
    uploads.wait(lambda: uploads.counts()[State.DONE] >= 10)
    uploads.stop()
    uploads.start()
    uploads.wait(lambda: uploads.done(len(whole)))
    uploads.check(whole, FRAMES)
    uploads.stop()
    uploads.start()
    uploads.wait(lambda: uploads.live() is not None)
    end = time.monotonic() + 2 * SETTLE_S + 0.5
    uploads.wait(lambda: time.monotonic() > end)
    uploads.stop()
    uploads.check(whole, FRAMES)
    assert uploads.published() == list(range(1, len(whole) + 1))


#: What lies about in such folders and is no clip.
ABOUT = ("{}.txt", "{}.jpg", ".{}.mp4", "{}.mp4.part", "{}.nfo", "._{}.mp4", "{}.srt", "{}.mp4.aria2", "{}.json")


@pytest.mark.parametrize(
    ("names", "clips_among"), [(2000, 15), pytest.param(20_000, 300, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_names_that_came_while_nobody_looked(
    names: int, clips_among: int, uploads: Uploads, clips: dict[str, bytes]
) -> None:
    """Mostly what is no clip; and the daemon dies while it is at them."""
    folder = uploads.at("in")
    uploads.start()
    uploads.wait(lambda: uploads.live() is not None)
    uploads.stop()
    places = [folder / f"{number}" for number in range(20)]
    for place in places:
        place.mkdir()
    whole = {}
    for number in range(names):
        place = places[number % 20]
        if number * clips_among % names < clips_among:
            (place / f"{number}.mp4").write_bytes(clips["mp4"])
            whole[f"{place.name}/{number}.mp4"] = clips["mp4"]
        else:
            (place / ABOUT[number % len(ABOUT)].format(number)).write_bytes(b"")
    uploads.start()
    uploads.wait(lambda: uploads.counts()[State.DONE] >= clips_among // 3)
    uploads.kill()
    uploads.start()
    uploads.wait(lambda: uploads.done(clips_among), 240)
    uploads.stop()
    uploads.check(whole, FRAMES)
    published = uploads.published()
    assert len(published) == len(set(published)), "one may have been published in the moment before it was said"
    assert clips_among - 1 <= len(published)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_thousand_clips(uploads: Uploads, tmp_path: Path) -> None:
    """Names of one picture, all of them clips that came while nobody looked: each is taken once, over a death.

    To make all of them would take a quarter of an hour and show no more: some hundred are.
    """
    many, held = 20_000, clip_of(tmp_path / "one.mp4", frames=1)
    folder = uploads.at("in")
    for number in range(many):
        place = folder / f"{number % 100}"
        place.mkdir(exist_ok=True)
        os.link(tmp_path / "one.mp4", place / f"{number}.mp4")
    uploads.start()
    uploads.wait(lambda: uploads.counts().total() >= many // 3, 300)
    uploads.kill()
    uploads.start()
    uploads.wait(lambda: uploads.counts().total() >= many and uploads.counts()[State.DONE] >= 200, 600, every_s=0.5)
    uploads.stop()
    rows = uploads.jobs()
    assert Counter(entry.source for entry in rows) == Counter(str(path) for path in files(folder))
    assert {entry.state for entry in rows} == {State.WAITING, State.DONE}
    done = [entry.target for entry in rows if entry.state is State.DONE]
    assert sorted(map(str, files(uploads.at("out")))) == sorted([*done, *(f"{target}.json" for target in done)])
    assert {counted(Path(target)) for target in done} == {1}
    assert all(path.read_bytes() == held for path in files(folder))
