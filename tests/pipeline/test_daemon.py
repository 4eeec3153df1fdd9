"""The daemon from end to end, with engines that do as they are told: whatever happens, a clip is made once."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import live, overview, space
from pipeline.database import Database
from pipeline.errors import ConfigError, TableError, UnderstudyError, WeightsError
from pipeline.jobs import FILE, Refused, Table
from pipeline.retries import RetryConfig
from pipeline.rows import State
from pipeline.set_aside import read_reason
from pipeline.shift import Shift
from tests.pipeline.fake_engine import NO_SPACE, Act, Die, FakeEngine, House, Make, crash, fail, made_of


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr("pipeline.shift._TICK_S", 0.1)  # what is due is looked for so often
    return House(tmp_path)


def gate(house: House, name: str, **how: bool) -> threading.Event:
    """Has a clip be at work until the gate is opened."""
    opened = threading.Event()
    house.shop.script(name, Make(opened, **how))
    return opened


def logged(house: House, words: str) -> list[str]:
    lines = map(json.loads, (house.config.state / "log.jsonl").read_text().splitlines())
    return [line["message"] for line in lines if words in line["message"]]


# --- all goes well ----------------------------------------------------------------------------------------------------


def test_what_lies_there_is_made(house: House) -> None:
    for number in range(5):
        house.drop(f"sub {number % 2}/{number}.mp4")
    house.once()
    assert house.failed == 0 and len(house.told) == 5
    assert set(house.states().values()) == {"done"}
    house.check(outputs=5)
    assert sorted(path.name for path in (house.place / "in-out/sub 0").iterdir()) == sorted(
        f"{number}.mp4{suffix}" for number in (0, 2, 4) for suffix in ("", ".json")
    )


def test_what_is_dropped_is_made(house: House) -> None:
    with house.running():
        for number in range(5):
            house.drop(f"{number}.mp4")
            house.wait_for(f"{number}.mp4", "done")
    house.check(outputs=5)


def test_hostile_names(house: House) -> None:
    names = [
        "-rf.mp4",
        "a\nb.mp4",
        os.fsdecode(b"\xff\xfe.mp4"),
        "x" * 251 + ".mp4",
        "x" * 252 + ".ts",
        "<b>.mp4",
        "%s'\".mp4",
    ]
    for name in names:
        house.drop(name)
    house.once()
    house.check(outputs=len(names))
    assert house.failed == 0


def test_nothing_is_made_again_after_a_restart(house: House) -> None:
    house.drop("a.mp4")
    house.shop.script("b.mp4", fail("InputError"))
    house.drop("b.mp4")
    house.once()
    begun = list(house.shop.begun)
    house.once()
    assert house.shop.begun == begun and house.states() == {"a.mp4": "done", "b.mp4": "failed"}


def test_the_order(house: House) -> None:
    house.watch("first", priority=5)
    opened = gate(house, "z.mp4")
    with house.running():
        house.drop("z.mp4")
        house.wait_for("z.mp4", "running")
        for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"):
            house.drop(name)
            house.wait_for(name, "waiting" if name > "b.mp4" else "running")  # two are given to the lane ahead
        house.drop("f.mp4", folder="first")
        house.wait(lambda: house.entry("f.mp4", "first"))
        with house.table() as table:
            table.prioritise(house.entry("e.mp4").id, 7)
        opened.set()
        house.wait_for("d.mp4", "done")
    assert house.shop.begun == [f"{name}.mp4" for name in "zabefcd"]
    house.check(outputs=7)


# --- lanes ------------------------------------------------------------------------------------------------------------


def test_one_engine_for_two_models(house: House) -> None:
    house.watch("other", key="b")
    for number in range(6):
        house.drop(f"a{number}.mp4")
        house.drop(f"b{number}.mp4", folder="other")
    house.once()
    house.check(outputs=12)
    assert house.shop.most_open == 1
    assert house.out("b0.mp4", "other").read_bytes().startswith(b"made by b")


def test_none_starves(house: House) -> None:
    """While one model's clips keep coming, those of the other get their turn by their age."""
    house.watch("other", key="b")
    house.shop.takes_s = 0.01
    for number in range(10):
        house.drop(f"a{number}.mp4")
    with house.running():
        house.wait_for("a0.mp4", "done")
        house.drop("b.mp4", folder="other")
        house.wait(lambda: house.entry("b.mp4", "other"))
        for number in range(10, 60):
            house.drop(f"a{number}.mp4")
        house.wait_for("b.mp4", "done", "other")
        assert len(house.shop.begun) < 40
        house.wait(lambda: list(house.states().values()).count("done") == 61)
    house.check(outputs=61)


def test_two_engines_work_beside_each_other(house: House) -> None:
    """A queue of one model's clips does not keep the other engine from its own, however long it is."""
    house.set(engines=2)
    house.watch("other", key="b")
    opened = gate(house, "a00.mp4")
    with house.running():
        for number in range(80):
            house.drop(f"a{number:02d}.mp4")
        house.wait(lambda: len(house.states()) == 80)
        house.wait(lambda: house.shop.begun)
        house.drop("b.mp4", folder="other")
        house.wait_for("b.mp4", "done", "other")
        assert house.shop.begun == ["a00.mp4", "b.mp4"]
        opened.set()
        house.wait(lambda: list(house.states().values()).count("done") == 81)
    house.check(outputs=81)


def test_a_lane_on_each_device(house: House) -> None:
    house.set(devices=("cuda:0", "cuda:1"))
    house.shop.takes_s = 0.02
    for number in range(12):
        house.drop(f"{number}.mp4")
    house.once()
    house.check(outputs=12)
    assert {(device, halvings) for _, device, halvings in house.shop.engines} == {("cuda:0", 0), ("cuda:1", 0)}
    assert len(house.shop.engines) == 2 and house.shop.most_open == 2


def test_an_engine_that_cannot_start_blocks_its_own_clips_alone(house: House) -> None:
    house.watch("other", key="b")
    house.shop.starts["a"].extend([WeightsError("the model is damaged")] * 2)
    for number in range(4):
        house.drop(f"a{number}.mp4")
        house.drop(f"b{number}.mp4", folder="other")
    house.once()
    assert {name: state for name, state in house.states().items() if name < "b"} == {
        f"a{number}.mp4": "blocked" for number in range(4)
    }
    assert [entry.state for entry in house.entries()].count(State.DONE) == 4
    assert house.failed == 4 and len(house.shop.engines) == 2, "it is tried once, and all are told"
    assert len(logged(house, "blocked: the model is damaged")) == 4
    house.shop.starts["a"].clear()
    house.once()
    house.check(outputs=8)


def test_reloading_tries_again_what_was_blocked(house: House) -> None:
    house.shop.starts["a"].append(WeightsError("the model is damaged"))
    house.drop("a.mp4")
    with house.running():
        house.wait_for("a.mp4", "blocked")
        assert house.daemon is not None
        house.daemon.reload()
        house.wait_for("a.mp4", "done")
    house.check(outputs=1)


def test_retrying_tries_the_engine_again(house: House) -> None:
    house.shop.starts["a"].append(WeightsError("the driver is missing"))
    house.drop("a.mp4")
    with house.running():
        number = house.wait_for("a.mp4", "blocked").id
        with house.table() as table:
            table.retry(number)
        house.wait_for("a.mp4", "done")
    house.check(outputs=1)


def test_an_engine_that_keeps_dying_rests_and_others_go_on(house: House) -> None:
    house.watch("other", key="b")
    for number in range(40):
        house.drop(f"a{number:02d}.mp4")
    house.shop.starts["a"].extend([UnderstudyError("it does not stay up")] * 4)
    with house.running():
        house.wait(lambda: not house.shop.starts["a"])
        house.drop("b.mp4", folder="other")
        house.wait_for("b.mp4", "done", "other")
        said = house.wait_for("a00.mp4", "waiting")
        assert (said.attempts, said.reason) == (0, "it does not stay up")
        time.sleep(0.3)
        assert len(house.shop.engines) == 5
        told = live.read(house.config.state)
        assert told is not None
        assert ("down", "it does not stay up") in [(lane.state, lane.reason) for lane in told.lanes]
    house.check(outputs=1)


def test_once_ends_where_no_engine_stays_up(house: House) -> None:
    house.shop.starts["a"].extend([UnderstudyError("it does not stay up")] * 9)
    house.drop("a.mp4")
    house.once()
    assert house.states() == {"a.mp4": "blocked"} and house.failed == 1


def test_a_device_that_fails(house: House) -> None:
    house.watch("in", station=house.shop.station("a", "cuda", on_device_fault="cpu"))
    house.shop.script("a.mp4", fail("DeviceError"), fail("DeviceError"))
    house.drop("a.mp4")
    house.drop("b.mp4")
    house.once()
    house.check(outputs=2)
    assert [device for _, device, _ in house.shop.engines] == ["cuda", "cuda", "cpu"]


def test_a_device_that_fails_and_is_to_be_looked_after(house: House) -> None:
    house.watch("in", station=house.shop.station("a", "cuda", on_device_fault="stop"))
    house.shop.script("a.mp4", fail("DeviceError"))
    house.drop("a.mp4")
    house.once()
    assert house.states() == {"a.mp4": "blocked"}
    house.once()
    house.check(outputs=1)


def test_memory_that_runs_out_is_halved(house: House) -> None:
    house.shop.script("a.mp4", fail("MemoryError", 12), fail("MemoryError", 12))
    house.shop.script("b.mp4", fail("InputError", 12), fail("InputError", 12), fail("InputError", 12))
    house.drop("a.mp4")
    house.drop("b.mp4")
    house.once()
    assert house.states() == {"a.mp4": "done", "b.mp4": "failed"}
    assert [halvings for _, _, halvings in house.shop.engines] == [0, 1, 2], "a damaged file halves nothing"


# --- what people do ---------------------------------------------------------------------------------------------------


def test_cancelling(house: House) -> None:
    gate(house, "a.mp4")
    with house.running():
        for name in "abcde":
            house.drop(f"{name}.mp4")
        house.wait_for("a.mp4", "running")
        house.wait_for("e.mp4", "waiting")
        with house.table() as table:
            for name in "abe":  # at work; given to the lane; waiting
                table.withdraw(house.entry(f"{name}.mp4").id, time.time())
        house.wait_for("d.mp4", "done")
        house.wait_for("b.mp4", "cancelled")
    assert house.states() == {name + ".mp4": "done" if name in "cd" else "cancelled" for name in "abcde"}
    assert house.shop.begun == ["a.mp4", "c.mp4", "d.mp4"] or "b.mp4" in house.shop.begun
    house.check(outputs=2)


def test_work_of_what_is_cancelled_while_it_waits_goes(house: House) -> None:
    house.set(retry=RetryConfig(backoff_s=60))
    house.shop.script("a.mp4", fail("StageError", 5))
    house.drop("a.mp4")
    with house.running():
        entry = house.wait_for("a.mp4", "waiting")
        house.wait(lambda: house.entry("a.mp4").attempts == 1 and house.entry("a.mp4").state == "waiting")
        assert len([*house.config.work_folder.iterdir()]) == 1
        with house.table() as table:
            table.withdraw(entry.id, time.time())
        house.wait(lambda: not [*house.config.work_folder.iterdir()])
    house.check(outputs=0)


def test_retrying_what_failed(house: House) -> None:
    house.shop.script("a.mp4", fail("InputError"))
    house.drop("a.mp4")
    with house.running():
        number = house.wait_for("a.mp4", "failed").id
        assert (house.place / "in-out/failed/a.mp4.json").exists()
        with house.table() as table:
            table.retry(number)
        house.wait_for("a.mp4", "done")
    house.check(outputs=1)
    assert not (house.place / "in-out/failed/a.mp4.json").exists()


def test_retrying_what_is_done_makes_it_again(house: House) -> None:
    house.drop("a.mp4")
    house.once()
    with house.table() as table:
        table.retry(house.entry("a.mp4").id)
    gate(house, "a.mp4")
    with house.running():
        house.wait(lambda: len(house.shop.begun) == 2)  # it is broken off: what lies there is of the first time
    house.once()
    assert house.shop.begun == ["a.mp4"] * 3
    house.check(outputs=1, doubled=["a.mp4"])


def test_a_clip_that_is_replaced_while_it_is_made(house: House) -> None:
    opened = gate(house, "a.mp4")
    with house.running():
        house.drop("a.mp4", b"old")
        house.wait_for("a.mp4", "running")
        house.drop("a.mp4", b"newer")
        opened.set()
        house.wait(lambda: house.out("a.mp4").read_bytes() == made_of(b"newer"))
        house.wait_for("a.mp4", "done")
    house.check(outputs=1)
    assert [entry.state for entry in house.entries()] == ["cancelled", "done"]


def test_a_clip_that_is_replaced_while_it_waits(house: House) -> None:
    opened = gate(house, "z.mp4")
    with house.running():
        house.drop("z.mp4")
        house.wait_for("z.mp4", "running")
        for name in "abc":
            house.drop(f"{name}.mp4", b"old")
        house.wait_for("c.mp4", "waiting")
        for name in "abc":
            house.drop(f"{name}.mp4", b"newer")
        opened.set()
        house.wait(lambda: set(house.states().values()) == {"done"})
        for name in "abc":
            assert house.out(f"{name}.mp4").read_bytes() == made_of(b"newer")
    house.check(outputs=4)


def test_a_clip_that_is_replaced_when_it_is_done(house: House) -> None:
    with house.running():
        house.drop("a.mp4", b"old")
        house.wait_for("a.mp4", "done")
        house.drop("a.mp4", b"newer")
        house.wait(lambda: house.out("a.mp4").read_bytes() == made_of(b"newer"))
        house.wait_for("a.mp4", "done")
    house.check(outputs=1)
    assert [(entry.state, entry.current) for entry in house.entries()] == [("done", False), ("done", True)]


def test_a_copy_put_back_is_not_made_again(house: House) -> None:
    for name in ("a.mp4", "b.mp4"):
        house.drop(name, b"the same")
    house.once()
    for name, content in (
        ("a.mp4", b"the same"),
        ("b.mp4", b"another"),
    ):  # one is not, though it has that size and date
        path = house.place / "in" / name
        status = path.stat()
        copy = path.with_name(".copy")
        copy.write_bytes(content.ljust(8))
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        copy.rename(path)
    house.once()
    assert house.shop.begun == ["a.mp4", "b.mp4", "b.mp4"]
    house.check(outputs=2)


def test_a_clip_that_is_touched_while_it_waits(house: House) -> None:
    opened = gate(house, "z.mp4")
    with house.running():
        house.drop("z.mp4")
        house.wait_for("z.mp4", "running")
        for name in "abcd":
            house.drop(f"{name}.mp4")
        house.wait_for("d.mp4", "waiting")
        os.utime(house.place / "in/d.mp4")  # of which nothing is heard
        opened.set()
        house.wait(lambda: set(house.states().values()) == {"done"})
    house.check(outputs=5)
    assert house.shop.begun.count("d.mp4") == 1


def test_a_clip_that_goes_while_it_waits(house: House) -> None:
    opened = gate(house, "z.mp4")
    with house.running():
        house.drop("z.mp4")
        house.wait_for("z.mp4", "running")
        for name in "abcd":
            house.drop(f"{name}.mp4")
        house.wait_for("d.mp4", "waiting")
        (house.place / "in/d.mp4").unlink()
        opened.set()
        house.wait(lambda: [e.state for e in house.entries() if e.source.endswith("d.mp4")] == ["cancelled"])
        house.drop("d.mp4", b"and comes back")
        house.wait_for("d.mp4", "done")
    house.check(outputs=5)


def test_the_only_clip_goes_while_it_waits(house: House) -> None:
    house.set(retry=RetryConfig(backoff_s=1.0))
    house.shop.script("a.mp4", fail("StageError", 5))
    path = house.drop("a.mp4")
    with house.running(once=True) as thread:
        house.wait(lambda: house.entry("a.mp4").attempts == 1 and house.entry("a.mp4").state == "waiting")
        path.unlink()
        thread.join(60)
        assert not thread.is_alive()
    assert [entry.state for entry in house.entries()] == ["cancelled"]


def test_a_clip_that_goes_while_it_is_made(house: House) -> None:
    opened = gate(house, "a.mp4")
    path = house.drop("a.mp4")
    with house.running():
        house.wait_for("a.mp4", "running")
        path.unlink()
        opened.set()
        house.wait(lambda: [entry.state for entry in house.entries()] == ["cancelled"])
        house.wait(lambda: not [*house.config.work_folder.iterdir()])
    house.check(outputs=0)
    assert not house.out("a.mp4").exists()


def test_a_folder_that_goes_away_and_comes_back(house: House) -> None:
    """What waits is not cancelled because its share is gone, and what was made of it by then is gone on with."""
    house.watch(poll_s=0.5)
    gate(house, "a.mp4")
    with house.running():
        for name in "abcd":
            house.drop(f"{name}.mp4")
        house.wait_for("d.mp4", "waiting")
        house.wait(lambda: house.shop.begun)
    inbox, away = house.place / "in", house.place / "away"
    with house.running():
        house.wait(lambda: house.states().get("a.mp4") == "done")
        house.wait(lambda: set(house.states().values()) == {"done"})
    assert house.shop.resumed == ["a.mp4"]
    house.shop.takes_s = 0.3
    for name in "efghij":
        house.drop(f"{name}.mp4")
    with house.running():
        house.wait_for("e.mp4", "running")
        inbox.rename(away)
        house.wait(lambda: logged(house, "cannot be read"))
        time.sleep(1.5)
        assert overview.look(house.config.state, time.time()).live.ready is False  # type: ignore[union-attr]
        away.rename(inbox)
        house.wait(lambda: set(house.states().values()) == {"done"})
    house.check(outputs=10)
    assert not [entry for entry in house.entries() if entry.state is State.CANCELLED]


def test_two_clips_of_one_name(house: House) -> None:
    house.drop("a.mkv", b"one")
    house.drop("a.mp4", b"two")
    house.drop("a.avi", b"three")
    house.once()
    house.check(outputs=3)
    names = sorted(path.name for path in (house.place / "in-out").iterdir() if path.suffix != ".json")
    assert len(names) == 3 and "a.mp4" in names


def test_a_file_that_is_not_ours_is_not_written_over(house: House) -> None:
    out = house.out("a.mp4")
    out.parent.mkdir()
    out.write_bytes(b"holiday")
    house.drop("a.mp4")
    house.once()
    assert house.states() == {"a.mp4": "blocked"} and "move it away" in house.entry("a.mp4").reason
    assert house.failed == 1 and not house.told[0].ok
    house.once()  # a restart tries again what was blocked
    assert out.read_bytes() == b"holiday" and not house.shop.begun
    with house.running():
        for times in (3, 4):  # at the start, and when somebody asks for it
            house.wait(lambda times=times: len(logged(house, "move it away")) == times)  # type: ignore[misc]
            number = house.wait_for("a.mp4", "blocked").id
            assert out.read_bytes() == b"holiday"
            if times == 4:
                out.unlink()
            with house.table() as table:
                table.retry(number)
        house.wait_for("a.mp4", "done")
    house.check(outputs=1)


def test_a_retried_clip_does_not_take_anothers_name(house: House) -> None:
    house.shop.script("a.mkv", fail("InputError"))
    house.drop("a.mkv", b"one")
    house.once()
    house.drop("a.mp4", b"two")
    house.once()
    with house.table() as table:
        table.retry(house.entry("a.mkv").id)
    house.once()
    assert house.states() == {"a.mkv": "blocked", "a.mp4": "done"}
    house.check(outputs=1)


@pytest.mark.parametrize("on_done", ["move", "delete"])
def test_originals_are_put_away(house: House, on_done: str) -> None:
    done: dict[str, Any] = {"done": house.place / "done"} if on_done == "move" else {}
    house.watch(on_done=on_done, **done)
    house.drop("sub/a.mp4", b"one")
    house.once()
    assert house.out("sub/a.mp4").read_bytes() == made_of(b"one")
    assert not (house.place / "in/sub/a.mp4").exists()
    if on_done == "move":
        assert (house.place / "done/sub/a.mp4").read_bytes() == b"one"
    house.drop("sub/a.mp4", b"another of that name")
    house.once()
    made = sorted(path.read_bytes() for path in (house.place / "in-out/sub").iterdir() if path.suffix == ".mp4")
    assert made == sorted([made_of(b"one"), made_of(b"another of that name")]), (
        "the only result there is of a clip stays"
    )


def test_what_failed_is_put_away(house: House) -> None:
    house.watch(on_failed="move")
    house.shop.script("a.mp4", fail("InputError"))
    house.drop("a.mp4", b"one")
    house.once()
    assert (house.place / "in-out/failed/a.mp4").read_bytes() == b"one"
    reason = read_reason(house.place / "in-out/failed/a.mp4.json")
    assert reason is not None and reason["sha256"] and reason["error"] == "InputError"
    house.once()
    assert house.shop.begun == ["a.mp4"]


# --- what fails -------------------------------------------------------------------------------------------------------


def test_what_fails_for_good(house: House) -> None:
    house.shop.script("a.mp4", fail("InputError"))
    house.drop("a.mp4")
    house.drop("b.mp4")
    house.once()
    assert house.states() == {"a.mp4": "failed", "b.mp4": "done"} and house.failed == 1
    reason = read_reason(house.place / "in-out/failed/a.mp4.json")
    assert reason is not None and "as told" in reason["what"] and reason["frame"] == 7
    house.check(outputs=1)


def test_what_passes_is_tried_again(house: House) -> None:
    house.shop.script("a.mp4", *[fail("PublishError", 116)] * 3)
    house.drop("a.mp4")
    house.once()
    assert house.entry("a.mp4").attempts == 4 and house.shop.resumed == ["a.mp4"] * 3
    assert house.failed == 0 and len(house.told) == 1
    house.check(outputs=1)


def test_a_clip_that_kills_its_process_is_set_aside(house: House) -> None:
    house.shop.script("b.mp4", *[crash()] * 3)
    for name in "abc":
        house.drop(f"{name}.mp4")
    house.once()
    assert house.states() == {"a.mp4": "done", "b.mp4": "failed", "c.mp4": "done"}
    reason = read_reason(house.place / "in-out/failed/b.mp4.json")
    assert reason is not None
    assert (reason["crashes"], reason["signal"], reason["stage"], reason["frame"]) == (3, "SIGSEGV", "swap", 3)
    assert reason["log"] and reason["sha256"]
    house.check(outputs=2)


def test_a_full_disk_is_a_pause(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_WAIT_S", 1.0)
    house.shop.script("a.mp4", NO_SPACE, NO_SPACE)
    house.drop("a.mp4")
    with house.running():
        house.wait(lambda: overview.look(house.config.state, time.time()).state == "paused")
        assert "as told" in str(overview.look(house.config.state, time.time()).live)
        house.drop("b.mp4")
        house.wait_for("b.mp4", "waiting")
        house.wait_for("a.mp4", "done")
        house.wait_for("b.mp4", "done")
        house.wait(lambda: overview.look(house.config.state, time.time()).state == "running")
    assert house.entry("a.mp4").attempts == 1
    house.check(outputs=2)


def test_an_engine_that_dies_at_a_clip(house: House) -> None:
    house.shop.script("a.mp4", Die(UnderstudyError("the stages do not stay up")))
    house.shop.script("b.mp4", Die(UnderstudyError("the stages do not stay up")))
    for name in "abc":
        house.drop(f"{name}.mp4")
    house.once()
    house.check(outputs=3)


def test_half_a_file_is_waited_for_and_told(house: House) -> None:
    house.drop("half.png.mp4", b"\x89PNG\r\n\x1a\n and no more")
    house.drop("a.mp4")
    house.once()
    assert house.states() == {"a.mp4": "done"}
    assert logged(house, "half.png.mp4 is left: its end (IEND) has not been written")


def test_half_a_file_is_given_up(house: House) -> None:
    house.watch(incomplete_s=1.0)
    with house.running():
        house.drop("half.mp4", b"\x89PNG\r\n\x1a\n and no more")
        house.wait_for("half.mp4", "failed")
        house.wait(lambda: read_reason(house.place / "in-out/failed/half.mp4.json"))
        house.wait(lambda: house.told)
    assert house.failed == 1 and "IEND" in str(house.told[0].failure)


# --- stops, and what they leave ---------------------------------------------------------------------------------------


def test_what_was_at_work_is_gone_on_with(house: House) -> None:
    gate(house, "a.mp4")
    house.drop("a.mp4")
    with house.running():
        house.wait_for("a.mp4", "running")
        house.wait(lambda: house.shop.begun)
    said = house.entry("a.mp4")
    assert (said.state, said.attempts) == ("waiting", 0)
    house.once()
    assert house.shop.resumed == ["a.mp4"]
    house.check(outputs=1)


def test_what_is_at_the_door_may_end(house: House) -> None:
    house.shop.takes_s = 60.0
    house.drop("a.mp4")
    with house.running():
        house.wait_for("a.mp4", "running")
        house.wait(lambda: house.shop.begun)
    assert house.states() == {"a.mp4": "done"}, "it was published while the engine closed"
    house.check(outputs=1)


def test_it_says_that_it_drains(house: House) -> None:
    closing = threading.Event()

    class Slow(FakeEngine):
        def close(self, patience_s: float = 5.0) -> None:
            closing.wait(60)
            super().close(patience_s)

    house.watch(station=replace(house.shop.station(), make=lambda device, n: Slow(house.shop, "a", device, n)))
    house.drop("a.mp4")
    with house.running():
        house.wait_for("a.mp4", "done")
        assert house.daemon is not None
        house.daemon.stop()
        house.wait(lambda: overview.look(house.config.state, time.time()).state == "draining")
        closing.set()
    assert not (house.config.state / live.FILE).exists()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_stops_at_any_moment(house: House, seed: int) -> None:
    chance = random.Random(seed)
    house.shop.takes_s = 0.03
    house.watch("other", key="b")
    names = [f"{number}.mp4" for number in range(12)]
    acts: list[Act] = [Make(), crash(), fail("PublishError", 5), Die(UnderstudyError("as told"))]
    for name in names:
        house.shop.script(name, chance.choice(acts))
        house.drop(name, folder=chance.choice(["in", "other"]))
    for _ in range(60):
        with house.running():
            time.sleep(chance.random() ** 2 * 0.5)
        if len(house.states()) == 12 and set(house.states().values()) == {"done"}:
            break
    house.once()
    house.check(outputs=12)


def test_what_was_published_before_the_end_is_not_made_again(house: House) -> None:
    """Killed between the rename and the row: the report says that it was this attempt."""
    gate_told = Make(told=False)
    house.shop.script("a.mp4", gate_told)
    house.drop("a.mp4")
    with house.running():
        house.wait(lambda: house.out("a.mp4").exists())
        house.wait_for("a.mp4", "running")
        shutil.copytree(house.config.state, house.place / "copy", ignore=shutil.ignore_patterns("lock", "*.part"))
    assert house.states() == {"a.mp4": "done"}, "nobody had said so, but it lies there"
    shutil.rmtree(house.config.state)
    (house.place / "copy").rename(house.config.state)
    assert house.states() == {"a.mp4": "running"}
    house.once()
    assert house.shop.begun == ["a.mp4"]
    house.check(outputs=1)


def test_a_lost_table_is_rebuilt(house: House) -> None:
    house.shop.script("b.mp4", fail("InputError"))
    for name in "abc":
        house.drop(f"{name}.mp4")
    house.once()
    before = house.states()
    shutil.rmtree(house.config.state)
    house.once()
    assert house.states() == before and len(house.shop.begun) == 3
    house.check(outputs=2)


def test_a_damaged_table_is_set_aside_and_rebuilt(house: House) -> None:
    for name in "abc":
        house.drop(f"{name}.mp4")
    house.once()
    table = house.config.state / FILE
    table.write_bytes(b"no table" * 1000)
    house.drop("d.mp4")
    house.once()
    assert [path.name for path in house.config.state.glob("*.damaged-*")]
    assert len(house.shop.begun) == 4
    house.check(outputs=4)


def test_it_sweeps_up_after_its_own_jobs_alone(house: House) -> None:
    work = house.place / "scratch"
    house.set(work=work)
    for name in ("2024-holidays", "7", "7-zip", "12-0123456789abcdeg"):
        (work / name).mkdir(parents=True)
        (work / name / "file").write_bytes(b"1")
    (work / ("99-" + "0" * 16)).mkdir()
    for number in range(8):
        house.drop(f"{number}.mp4")
    house.once()
    assert sorted(path.name for path in work.iterdir()) == ["12-0123456789abcdeg", "2024-holidays", "7", "7-zip"]


# --- the configuration ------------------------------------------------------------------------------------------------


def test_a_bad_configuration_keeps_the_old(house: House) -> None:
    with house.running():
        house.drop("a.mp4")
        house.wait_for("a.mp4", "done")
        assert house.daemon is not None
        house.bad = ConfigError("there is no key like that")
        house.daemon.reload()
        house.wait(lambda: logged(house, "there is no key like that"))
        house.bad = None
        house.set(engines=3)
        house.daemon.reload()
        house.wait(lambda: logged(house, "daemon.engines can only be changed by a restart"))
        house.drop("b.mp4")
        house.wait_for("b.mp4", "done")
    house.check(outputs=2)


def test_folders_come_and_go(house: House) -> None:
    opened = gate(house, "a.mp4")
    with house.running():
        assert house.daemon is not None
        for name in "abcde":
            house.drop(f"{name}.mp4")
        house.wait_for("e.mp4", "waiting")
        house.watch("new", key="b")
        first = house.folders.pop("in")
        house.daemon.reload()
        house.wait(lambda: logged(house, "has been read again"))
        house.drop("f.mp4", folder="new")
        house.wait_for("f.mp4", "done", "new")
        house.wait(lambda: list(house.states().values()).count("blocked") == 5)
        house.folders["in"] = first
        opened.set()
        house.daemon.reload()
        house.wait(lambda: set(house.states().values()) == {"done"})
    house.check(outputs=6)


def test_other_settings_begin_anew(house: House) -> None:
    gate(house, "a.mp4")
    with house.running():
        assert house.daemon is not None
        house.drop("a.mp4")
        house.wait_for("a.mp4", "running")
        house.wait(lambda: house.shop.begun)
        house.watch(key="b")
        house.daemon.reload()
        house.wait_for("a.mp4", "done")
    assert house.shop.begun == ["a.mp4"] * 2 and not house.shop.resumed
    assert house.out("a.mp4").read_bytes().startswith(b"made by b")
    house.check(outputs=1)


# --- the table's disk is full -----------------------------------------------------------------------------------------


class Full:
    """Has the table refuse to write, now and then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        self.refusals = 0
        write = Database.write

        def refuse(held: Database, statement: str, values: Sequence[Any] = ()) -> int:
            if self.on and threading.current_thread().name == "the daemon":
                self.refusals += 1
                error = TableError("the disk is full")
                error.errno = errno.ENOSPC
                raise error
            return write(held, statement, values)

        monkeypatch.setattr(Database, "write", refuse)


def test_a_full_disk_under_the_table_while_clips_arrive(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Full(monkeypatch)
    with house.running():
        house.drop("a.mp4")
        house.wait_for("a.mp4", "done")
        full.on = True
        for name in "bcd":
            house.drop(f"{name}.mp4")
        house.wait(lambda: full.refusals > 1)
        house.wait(lambda: overview.look(house.config.state, time.time()).state == "paused")
        full.on = False
        house.wait(lambda: list(house.states().values()).count("done") == 4)
    assert len(logged(house, "taken")) == 4
    house.check(outputs=4)


def test_a_full_disk_under_the_table_while_clips_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Full(monkeypatch)
    opened = gate(house, "a.mp4")
    house.shop.script("b.mp4", fail("InputError"))
    house.shop.script("c.mp4", Die(UnderstudyError("x")))
    with house.running():
        for name in "abc":
            house.drop(f"{name}.mp4")
        house.wait_for("c.mp4", "running")
        full.on = True
        opened.set()
        house.wait(lambda: full.refusals > 1)
        full.on = False
        house.wait(lambda: list(house.states().values()).count("done") == 2)
    assert house.states() == {"a.mp4": "done", "b.mp4": "failed", "c.mp4": "done"}
    assert len(house.told) == 3
    house.check(outputs=2)


def test_a_table_that_cannot_be_written_at_all_ends_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.drop("a.mp4")

    def refuse(*_: object) -> None:
        raise TableError("may not be written")

    monkeypatch.setattr(Table, "claim", refuse)
    with pytest.raises(TableError, match="may not be written"):
        house.once()


# --- idling -----------------------------------------------------------------------------------------------------------


def test_it_rests_when_there_is_nothing_to_do(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shift._TICK_S", 1.0)
    turns: list[float] = []
    turn = Shift.turn

    def counted(self: Shift) -> None:
        turns.append(time.monotonic())
        turn(self)

    monkeypatch.setattr(Shift, "turn", counted)
    for number in range(5):
        house.drop(f"{number}.mp4")
    house.shop.script("4.mp4", fail("InputError"))
    with house.running():
        house.wait(lambda: set(house.states().values()) == {"done", "failed"})
        time.sleep(0.5)
        before, cpu = len(turns), time.process_time()
        time.sleep(3.0)
        assert len(turns) - before <= 4
        assert time.process_time() - cpu < 0.15
    house.check(outputs=4)


# --- everything at once -----------------------------------------------------------------------------------------------


def _mischief(house: House, chance: random.Random, names: list[str]) -> None:
    """Somebody does something to one of the clips, or to its job."""
    folder, name = chance.choice([*house.folders]), chance.choice(names)
    path = house.place / folder / name
    match chance.choice(["drop", "drop", "touch", "delete", "away", "cancel", "retry", "priority", "reload"]):
        case "drop":
            house.drop(name, b"clip %d" % chance.getrandbits(64), folder)
        case "touch" if path.exists():
            os.utime(path)
        case "delete":
            path.unlink(missing_ok=True)
        case "away" if path.exists():  # for a moment
            away = house.place / "away"
            path.rename(away)
            time.sleep(chance.random() * 0.05)
            away.rename(path)
        case "reload" if house.daemon is not None:
            house.daemon.reload()
        case "cancel" | "retry" | "priority" as what if (house.config.state / FILE).exists():
            with house.table() as table, suppress(Refused):
                number = chance.randint(1, 1 + max((entry.id for entry in house.entries()), default=1))
                change = {
                    "cancel": lambda: table.withdraw(number, time.time()),
                    "retry": lambda: table.retry(number),
                    "priority": lambda: table.prioritise(number, chance.randint(-9, 9)),
                }[what]
                change()
        case _:
            pass


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_anything_at_any_moment(house: House, seed: int) -> None:
    """People do what they like to clips and jobs while clips crash and engines die and the daemon comes and goes; when
    all is quiet, each clip is made of what it is by then, or is what somebody wanted it to be."""
    chance = random.Random(seed)
    names = [f"{number}.mp4" for number in range(8)]
    house.watch("other", key="b")
    house.set(engines=chance.choice([1, 2]))
    house.shop.takes_s = 0.01
    acts: list[Act] = [Make(), Make(), crash(), fail("PublishError", 5), Die(UnderstudyError("as told"))]
    for name in names:
        house.shop.script(name, *chance.choices(acts, k=12))
    for _ in range(6):
        with house.running():
            for _ in range(20):
                _mischief(house, chance, names)
                time.sleep(chance.random() * 0.04)
    house.shop.acts.clear()
    house.once()
    with house.table() as table:
        for entry in house.entries():
            if entry.current and entry.state in (State.FAILED, State.CANCELLED, State.BLOCKED):
                table.retry(entry.id)
    house.once()
    there = {str(path) for folder in house.folders for path in (house.place / folder).iterdir()}
    assert {entry.source: str(entry.state) for entry in house.entries() if entry.current} == dict.fromkeys(
        there, "done"
    ), house.story()
    house.shop.published.clear()  # what was retried when it was done was made again
    house.check(outputs=len(there))
