"""Kill -9 of anything at any moment of ten-clip runs: nothing is lost, doubled or half, and no frame is another."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.jobs import FILE, State
from tests.daemon.conftest import CHAIN, RATE, Unbroken
from tests.daemon.storm import (
    FULL,
    Place,
    Service,
    Shown,
    all_done,
    appeared,
    check_files,
    check_gone,
    names,
    parent_of,
    pick,
    serving,
    time_of,
)
from tests.end_to_end.footage import film, random_model

#: Of a clip's time undisturbed: the machine has more to do than us.
GENEROUS, MORE_S = 5.0, 5.0

#: Who writes a file that is not whole.
_WRITER = re.compile(r"\.(\d+)(-\d+)?\.part$")

#: Everything that is synced takes so long: the moments in between are long enough to be hit.
SLOW_DISK = CHAIN | {"slow": {"sync_s": 0.06}}


def place_for(folder: Path, clips: Sequence[Path], chain: dict[str, Any] = CHAIN, **settings: Any) -> Place:
    place = Place(folder, chain, settings)
    for clip in clips:
        place.drop(clip)
    return place


def check_after(place: Place, service: Service, unbroken: Unbroken, clips: Sequence[Path]) -> None:
    """The daemon that has been through all that is as good as new."""
    seconds = time_of(service, clips[0], "one more.mp4")
    assert seconds < GENEROUS * unbroken.seconds + MORE_S, f"{seconds:.1f} s instead of {unbroken.seconds:.1f}"
    deadline = time.monotonic() + 60
    while service.descriptors() > unbroken.descriptors and time.monotonic() < deadline:
        time.sleep(0.1)
    held = [os.readlink(entry) for entry in Path(f"/proc/{service.process.pid}/fd").iterdir()]  # noqa: PTH115
    assert len(held) <= unbroken.descriptors, held


def kill_workers(service: Service, rng: random.Random, kills: int) -> int:
    """Kills children of the supervisor at random moments until that is enough, or all is done; how many it killed.

    Most have come to work again since the last was killed: who is killed while it starts, again and again, has to rest.
    """
    place, killed = service.place, 0
    while killed < kills and not all_done(place):
        if rng.random() < 0.8:
            appeared(lambda: at_work(service) or all_done(place), service)
        time.sleep(rng.uniform(0, 0.7))
        victim = pick(rng, service)
        if victim is not None:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
                killed += 1
    return killed


def at_work(service: Service) -> bool:
    """Whether a process of this very daemon is writing something: what an earlier one has left may still be at work."""
    place = service.place
    folders = [place.out, *(place.work / name for name in names(place.work))]
    writers = {int(found[1]) for folder in folders for name in names(folder) if (found := _WRITER.search(name))}
    return any(parent_of(pid) == service.process.pid for pid in writers)


def storm_of_workers(folder: Path, clips: Sequence[Path], unbroken: Unbroken, seed: int, kills: int) -> int:
    """Ten clips under fire; how many were killed."""
    place = place_for(folder, clips, daemon={"page": {"enabled": seed % 2 == 1, "port": 0}})
    with serving(place) as service:
        killed = kill_workers(service, random.Random(seed), kills)
        service.until(lambda: all_done(place), "ten clips were done")
        check_after(place, service, unbroken, clips) if seed % 2 == 0 else None
    check_gone(place)
    check_files(place, unbroken.shown)
    return killed


def test_workers_that_are_killed(tmp_path: Path, clips: list[Path], unbroken: Unbroken) -> None:
    assert storm_of_workers(tmp_path / "place", clips, unbroken, 2, 12) >= 6


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_180_workers_that_are_killed(tmp_path: Path, clips: list[Path], unbroken: Unbroken) -> None:
    killed, runs = 0, 0
    while killed < 180:
        runs += 1
        killed += storm_of_workers(tmp_path / f"run {runs}", clips, unbroken, 100 + runs, min(12, 180 - killed))
        print(f"{killed} workers killed in {runs} runs", flush=True)


def storm_of_supervisors(folder: Path, clips: Sequence[Path], unbroken: Unbroken, seed: int, kills: int) -> int:
    """Ten clips, and a supervisor that is killed and started again at once; how often before all was done."""
    rng = random.Random(seed)
    place = place_for(folder, clips, daemon={"retry": {"backoff_s": 0}})  # it is no fault of any clip's
    killed = 0
    while killed < kills and not all_done(place):
        service = Service(place)
        try:
            if rng.random() < 0.8:  # most have come to work since
                appeared(lambda: at_work(service) or all_done(place), service)  # noqa: B023
            time.sleep(rng.uniform(0, 0.8))
            assert service.alive, f"it ended with {service.process.returncode}\n{place.log()}"
        finally:
            service.kill()
        killed += 1
    with serving(place) as service:
        service.until(lambda: all_done(place), "ten clips were done")
        check_after(place, service, unbroken, clips)
    check_gone(place)
    check_files(place, unbroken.shown)
    return killed


def test_supervisors_that_are_killed(tmp_path: Path, clips: list[Path], unbroken: Unbroken) -> None:
    assert storm_of_supervisors(tmp_path / "place", clips, unbroken, 3, 8) >= 4


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_100_supervisors_that_are_killed(tmp_path: Path, clips: list[Path], unbroken: Unbroken) -> None:
    killed, runs = 0, 0
    while killed < 100:
        runs += 1
        killed += storm_of_supervisors(tmp_path / f"run {runs}", clips, unbroken, 200 + runs, min(12, 100 - killed))
        print(f"{killed} supervisors killed in {runs} runs", flush=True)


def test_what_becomes_of_the_daemon_is_no_fault_of_the_clip(
    tmp_path: Path, clips: list[Path], unbroken: Unbroken
) -> None:
    """Machines fail and are started again: that takes nothing of the patience that a clip deserves."""
    slowly = {"trail": {"delay_s": 0.04}}
    place = place_for(tmp_path / "place", clips[:1], slowly, daemon={"retry": {"backoff_s": 0, "attempts": 2}})
    service = Service(place)
    try:
        for _ in range(2):
            assert appeared(lambda: at_work(service), service)  # noqa: B023
            service.kill()
            service = Service(place)
        assert appeared(lambda: at_work(service), service)
        service.stages()["us-trail"].kill()
        service.until(lambda: all_done(place) or place.count(State.FAILED) > 0, "the clip had ended")
        assert service.stop() == 0
    finally:
        service.kill()
    check_gone(place)
    check_files(place, unbroken.shown)


# --- with faces -------------------------------------------------------------------------------------------------------


def faces_for(folder: Path, model: Path, clips: Sequence[Path]) -> Place:
    """A place whose daemon is the program as it is, with all of its stages."""
    settings = {"model": str(model), "swap": {"device": "cpu", "batch": 4}, "engine": {"ring_mb": 64}}
    place = Place(folder, {}, settings, FULL)
    for clip in clips:
        place.drop(clip)
    return place


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_swapped_faces_are_the_same_whoever_was_killed(tmp_path: Path) -> None:
    """The whole chain with the smallest model: what it remembers of faces is gone on with to the bit."""
    model = random_model(tmp_path / "model")
    clips = [film(tmp_path / f"{frames}.mp4", 256, 192, frames, audio="aac", rate=RATE) for frames in (40, 46, 52)]
    calm = faces_for(tmp_path / "calm", model, clips)
    with serving(calm) as service:
        service.until(lambda: all_done(calm), "three clips were done")
    wanted = {clip.name: Shown.of(calm.out / clip.name) for clip in clips}
    check_files(calm, wanted)
    place, rng = faces_for(tmp_path / "place", model, clips), random.Random(5)
    service = Service(place)
    try:
        for who in ("supervisor", "worker", "worker"):
            appeared(lambda: at_work(service) or all_done(place), service, 120.0)  # noqa: B023
            time.sleep(rng.uniform(0, 0.5))
            if who == "supervisor":
                service.kill()
                service = Service(place)
            elif (victim := pick(rng, service)) is not None:
                victim.kill()
        service.until(lambda: all_done(place), "three clips were done")
        assert service.stop() == 0
    finally:
        service.kill()
    check_gone(place)
    check_files(place, wanted)
    assert "gone on with" in place.log(10_000), "something was broken off"


# --- moments that are aimed at ----------------------------------------------------------------------------------------

Moment = Callable[[Place], bool]


def closing(place: Place) -> bool:
    """A segment is whole, and no checkpoint speaks of it yet."""
    for folder in place.work.glob("*-*"):
        found = set(names(folder))
        segments = sum(name.startswith("segment.") for name in found)
        if segments and (segments == 1) == ("checkpoint.json" not in found):
            return True
    return False


def joining(place: Place) -> bool:
    """The door has begun to write the file."""
    return any(name.endswith(".part") and ".json." not in name for name in names(place.out))


def describing(place: Place) -> bool:
    """The file has been verified, and its report is being written."""
    return any(name.endswith(".part") and ".json." in name for name in names(place.out))


def half_published(place: Place) -> bool:
    """The report has its name, and the file has not."""
    found = set(names(place.out))
    return any(name.endswith(".json") and name.removesuffix(".json") not in found for name in found)


def published(place: Place) -> bool:
    """The file has its name, and the table does not know."""
    return len(place.published()) > place.count(State.DONE)


MOMENTS: dict[str, tuple[Moment, str]] = {
    "closing a segment": (closing, "us-encode"),
    "joining": (joining, "us-publish"),
    "describing": (describing, "us-publish"),
    "half published": (half_published, "us-publish"),
    "published": (published, "us-publish"),
}

#: Those that are tried in every test run.
AT_ONCE = {("worker", "half published"), ("supervisor", "half published"), ("supervisor", "closing a segment")}


@pytest.mark.parametrize(
    ("who", "moment"),
    [
        pytest.param(who, moment, marks=() if (who, moment) in AT_ONCE else pytest.mark.slow)
        for who in ("worker", "supervisor")
        for moment in MOMENTS
    ],
)
def test_killed_at_that_very_moment(
    who: str, moment: str, tmp_path: Path, clips: list[Path], unbroken: Unbroken
) -> None:
    """Three clips; whoever does it is killed three times when it does it."""
    look, victim = MOMENTS[moment]
    place = place_for(tmp_path / "place", clips[:3], SLOW_DISK)
    hits = 0
    service = Service(place)
    try:
        for _ in range(3):
            if not appeared(lambda: look(place), service):
                break
            if who == "supervisor":
                service.kill()
                hits += look(place)
                service = Service(place)
            elif victim in (stages := service.stages()):
                stages[victim].kill()
                hits += look(place)
                time.sleep(0.3)
        service.until(lambda: all_done(place), "three clips were done")
        assert service.stop() == 0
    finally:
        service.kill()
    assert hits, "the moment was never there when the victim was dead"
    check_gone(place)
    check_files(place, unbroken.shown)


@pytest.mark.parametrize("damage", ["lost", pytest.param("damaged", marks=pytest.mark.slow)])
def test_killed_while_the_table_is_rebuilt(damage: str, tmp_path: Path, clips: list[Path], unbroken: Unbroken) -> None:
    """What had been published is not made again, however often the rebuilding is broken off."""
    place = place_for(tmp_path / "place", clips[:3])
    with serving(place) as service:
        service.until(lambda: all_done(place), "three clips were done")
    before = {name: (place.out / name).stat().st_ino for name in place.published()}
    for number in range(3000):  # among much else, so that it takes a moment
        (place.inbox / f"{number}.txt").touch()
    place.drop(clips[3])
    if damage == "lost":
        for file in place.state.glob(f"{FILE}*"):
            file.unlink()
    else:
        (place.state / FILE).write_bytes(b"no table at all" * 1000)
    rng = random.Random(damage)
    began, ended = place.log(10_000).count("rebuilding the table"), place.log(10_000).count("rebuilt:")
    for _ in range(4):
        seen = place.log(10_000).count("rebuilding the table")
        service = Service(place)
        try:
            appeared(lambda: place.log(10_000).count("rebuilding the table") > seen, service, 10.0)  # noqa: B023
            time.sleep(rng.uniform(0, 0.05))
        finally:
            service.kill()
    assert place.log(10_000).count("rebuilding the table") - began > place.log(10_000).count("rebuilt:") - ended
    with serving(place) as service:
        service.until(lambda: all_done(place), "four clips were done")
    check_gone(place)
    check_files(place, unbroken.shown)
    assert {name: (place.out / name).stat().st_ino for name in before} == before, "none of them was made again"
    kept = [file for file in place.state.iterdir() if file.name.startswith(FILE) and file.stat().st_size == 15_000]
    assert len(kept) == (damage == "damaged"), "the damaged table is kept"


def test_shown_tells_clips_apart(clips: list[Path]) -> None:
    assert Shown.of(clips[0]) == Shown.of(clips[0])
    assert Shown.of(clips[0]) != Shown.of(clips[1])
