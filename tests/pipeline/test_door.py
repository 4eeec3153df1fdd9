"""The door: whole files get their names, and nothing else does."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import checkpoints, result
from pipeline.door import Door, ParentGone
from pipeline.engine import Engine
from pipeline.errors import UnderstudyError
from pipeline.messages import Finish, Finishing
from pipeline.pixels import PIXEL_FORMATS
from pipeline.specs import EngineConfig, Outcome, ProcessSpec
from pipeline.types import Clip, Job, Report
from tests.pipeline import toys
from tests.pipeline.toys import Config, finisher, specs

NAMES = ("make", "find", "gather", "edit", "check")
CONFIG = EngineConfig(processes=(ProcessSpec(NAMES[:2]), ProcessSpec(NAMES[2:])), ring_mb=8, scratch_kb=64)
REPORTS: dict[str, Report] = {"make": {"made": 5}, "decode": {"read_errors": 2}}


def clip_in(folder: Path, work: bool = False) -> Clip:
    """A clip that has been through all stages."""
    (folder / "out").mkdir()
    (folder / "in").write_bytes(b"the source")
    clip = Clip(3, str(folder / "in"), str(folder / "out/a"), "", 8, 8, PIXEL_FORMATS["yuv420p"], Fraction(1, 25))
    if work:
        (folder / "work").mkdir()
        (folder / "work/segment").write_bytes(b"whole")
        return replace(clip, work=str(folder / "work"), frames=5)
    (folder / "out/.a.1.part").write_bytes(b"whole")
    return replace(clip, partial=str(folder / "out/.a.1.part"), frames=5)


def order_for(clip: Clip, **about: Any) -> Finish:
    return Finish(clip, Outcome(Job(3, clip.source, clip.target), 5, reports=dict(REPORTS), seconds=2.0), about)


def mark_of(path: str) -> dict[str, int]:
    found = Path(path).stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}


def door(config: Config | None = None, tell: Callable[[Finishing], None] = lambda _: None) -> Door:
    return Door(toys.Finish(config), tell)


# --- the door by itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [False, True], ids=["in one go", "in segments"])
def test_a_finished_clip_and_its_report(work: bool, tmp_path: Path) -> None:
    clip = clip_in(tmp_path, work)
    mark = mark_of(clip.source)
    outcome = door()(order_for(clip, report=True, mark=mark, job=9, attempts=2))
    assert outcome.failure is None
    assert outcome.reports["publish"]["seen"] == "decode,make", "the finisher is told what the stages said"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "a.json"]
    assert (tmp_path / "out/a").read_bytes() == b"finished"
    assert not (tmp_path / "work").exists()
    told = result.read(result.path_for(clip.target))
    assert told is not None
    assert {name: told["source"][name] for name in mark} == mark
    assert told["output"]["path"] == clip.target and told["output"]["inode"] == (tmp_path / "out/a").stat().st_ino
    assert told["output"]["sha256"] == result.sha256(clip.target, lambda: None)
    assert (told["job"], told["attempts"], told["frames"]) == (9, 2, 5)
    assert told["reports"]["make"] == {"made": 5} and told["damage"] == {"read_errors": 2}
    assert outcome.reports["publish"]["source_sha256"] == told["source"]["sha256"]


def test_without_a_report_none_is_written(tmp_path: Path) -> None:
    assert door()(order_for(clip_in(tmp_path))).ok
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]


def test_the_report_comes_first_and_all_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = clip_in(tmp_path, work=True)
    done: list[str] = []
    sync, rename, out = os.fsync, os.replace, tmp_path / "out"

    def synced(descriptor: int) -> None:
        name = Path(os.path.realpath(f"/proc/self/fd/{descriptor}")).name
        done.append("sync report" if ".json." in name else "sync media" if name.endswith(".part") else f"sync {name}")
        sync(descriptor)

    def renamed(source: Any, target: Any, **more: Any) -> None:
        rename(source, target, **more)
        done.append(f"rename {Path(target).name}")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    removed: list[list[str]] = []
    monkeypatch.setattr("shutil.rmtree", lambda _: removed.append(sorted(p.name for p in out.iterdir())))
    assert door()(order_for(clip, report=True)).ok
    assert done[-7:] == [
        *("sync media", "sync report", "rename a.json", "sync out"),
        *("sync media", "rename a", "sync out"),
    ]
    assert removed == [["a", "a.json"]], "what could be gone on with goes last"


def test_a_file_that_takes_long_to_sync_is_no_silence_and_comes_before_the_last_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clip_in(tmp_path, work=True)
    done: list[str] = []

    def slow(path: str) -> None:
        time.sleep(1.0)
        done.append("synced")

    monkeypatch.setattr("pipeline.door.sync", slow)
    monkeypatch.setattr("pipeline.door.check_unchanged", lambda *_: done.append("looked"))
    monkeypatch.setattr("pipeline.door._SLOWEST", 4)  # its eight bytes may take two seconds
    assert door(tell=lambda _: done.append("told"))(order_for(clip)).ok
    before = done[: done.index("synced")]
    assert before.count("told") >= 4
    assert done[len(before) :] == ["synced", "looked", "told"]


def test_a_disk_that_hangs_is_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Finishing] = []
    monkeypatch.setattr("pipeline.door.sync", lambda _: time.sleep(1.0))
    assert door(tell=told.append)(order_for(clip_in(tmp_path))).ok
    assert len(told) <= 3


def test_a_disk_that_fills_up_while_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.door.sync", full)
    outcome = door()(order_for(clip_in(tmp_path)))
    assert outcome.failure is not None
    assert (outcome.failure.error, outcome.failure.errno) == ("PublishError", errno.ENOSPC)
    assert "out/a could not be put on the disk: no space left" in outcome.failure.reason
    assert not list((tmp_path / "out").iterdir())


def test_a_run_that_has_only_to_publish_says_what_the_one_said_that_made_the_frames(tmp_path: Path) -> None:
    clip = clip_in(tmp_path, work=True)
    checkpoints.keep_reports(clip.work, REPORTS)
    again = replace(order_for(clip), outcome=Outcome(Job(3, clip.source, clip.target), 0, reports={"make": {}}))
    outcome = door()(again)
    assert outcome.ok and outcome.reports["make"] == {"made": 5}


@pytest.mark.parametrize("trouble", ["touch", "remove"])
def test_a_source_that_has_changed_is_not_published(trouble: str, tmp_path: Path) -> None:
    clip = clip_in(tmp_path)
    outcome = door(Config(trouble, clip=3))(order_for(clip, mark=mark_of(clip.source)))
    assert outcome.failure is not None
    assert (outcome.failure.stage, outcome.failure.error) == ("publish", "ChangedError")
    assert {"touch": "has changed", "remove": "has gone"}[trouble] in outcome.failure.reason
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("work", [False, True], ids=["in one go", "in segments"])
def test_what_is_not_whole_leaves_nothing_but_what_can_be_gone_on_with(work: bool, tmp_path: Path) -> None:
    outcome = door(Config("refuse", clip=3))(order_for(clip_in(tmp_path, work), report=True))
    assert outcome.failure is not None
    assert (outcome.failure.error, outcome.failure.reason) == ("PublishError", "not as it should be")
    assert outcome.failure.detail == ""
    assert not list((tmp_path / "out").iterdir())
    assert (tmp_path / "work/segment").exists() == work


def test_a_file_is_sealed_before_it_is_looked_at_and_written_down_before_it_has_its_name(tmp_path: Path) -> None:
    clip, sealer = clip_in(tmp_path, work=True), toys.Seal()
    outcome = Door(toys.Finish(None), lambda _: None, sealer)(order_for(clip, report=True, job=9))
    assert outcome.ok and outcome.reports["publish"]["sealed"] == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "a.c2pa", "a.json"]
    assert (tmp_path / "out/a").read_bytes() == b"finished, sealed"
    told = result.read(result.path_for(clip.target))
    assert told is not None and told["provenance"] == {"row": 1}
    digests = {f"{name}_sha256": told[name]["sha256"] for name in ("source", "output")}
    assert sealer.recorded == [(clip.target, {"job": 9, **digests})], "the digest is the sealed file's"


def test_what_is_sealed_is_written_down_without_a_report_too(tmp_path: Path) -> None:
    clip, sealer = clip_in(tmp_path), toys.Seal()
    assert Door(toys.Finish(None), lambda _: None, sealer)(order_for(clip)).ok
    assert sealer.recorded[0][1]["output_sha256"] == result.sha256(clip.target, lambda: None)


@pytest.mark.parametrize("trouble", ["unagreed", "revoked"])
@pytest.mark.parametrize("work", [False, True], ids=["in one go", "in segments"])
def test_what_nobody_has_agreed_to_gets_no_name(work: bool, trouble: str, tmp_path: Path) -> None:
    clip, sealer = clip_in(tmp_path, work), toys.Seal(Config(trouble))
    outcome = Door(toys.Finish(None), lambda _: None, sealer)(order_for(clip, report=True))
    assert outcome.failure is not None and outcome.failure.error == "ConsentError"
    assert not list((tmp_path / "out").iterdir()) and not sealer.recorded
    assert (tmp_path / "work/segment").exists() == work


def test_a_full_disk_is_told_by_its_number(tmp_path: Path) -> None:
    outcome = door(Config("full", clip=3))(order_for(clip_in(tmp_path)))
    assert outcome.failure is not None and outcome.failure.errno == errno.ENOSPC
    assert not list((tmp_path / "out").iterdir())


def test_where_the_file_cannot_follow_its_report_goes_again(tmp_path: Path) -> None:
    clip = clip_in(tmp_path)
    clip = replace(clip, target=str(tmp_path / "out/sub"))
    order = order_for(clip, report=True)
    (tmp_path / "out/sub").symlink_to(tmp_path / "nowhere")

    def tell(_: Finishing) -> None:
        if Path(result.path_for(clip.target)).parent.joinpath("sub").is_symlink():
            (tmp_path / "out/sub").unlink()
            (tmp_path / "out/sub").mkdir()

    outcome = door(tell=tell)(order)
    assert outcome.failure is not None and outcome.failure.errno == errno.EISDIR
    assert "could not be put in its place: is a directory" in outcome.failure.reason
    assert "sub.json" in [p.name for p in (tmp_path / "out").iterdir()], "something of that name is there"
    (tmp_path / "out/sub.json").unlink()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["sub"]


def test_nothing_is_published_once_the_parent_has_gone(tmp_path: Path) -> None:
    clip = clip_in(tmp_path, work=True)
    told: list[Finishing] = []

    def tell(how_far: Finishing) -> None:
        told.append(how_far)
        if len(told) == 2:
            raise ParentGone

    with pytest.raises(ParentGone):
        door(tell=tell)(order_for(clip, report=True))
    assert len(told) == 2, "it looks before it begins, and last before it publishes"
    assert not list((tmp_path / "out").iterdir())
    assert (tmp_path / "work/segment").exists()


def test_it_does_not_talk_too_much(tmp_path: Path) -> None:
    told: list[Finishing] = []
    assert door(Config(delay_s=0.6), told.append)(order_for(clip_in(tmp_path))).ok
    assert 3 <= len(told) <= 5
    assert told[0] == Finishing(3, 0, None) and told[-1] == Finishing(3, 1, 2)


# --- with an engine -----------------------------------------------------------------------------------------------


def job(number: int, folder: Path, source: str = "64x48x10", **more: Any) -> Job:
    return Job(number, source, str(folder / f"{number}.out"), **more)


def test_the_stages_go_on_while_a_clip_is_at_the_door(tmp_path: Path) -> None:
    with Engine(specs(), CONFIG, finisher(Config(delay_s=1.0))) as engine:
        for number in (1, 2):
            engine.submit(job(number, tmp_path))
        both = False
        outcomes: list[Outcome] = []
        while len(outcomes) < 2:
            outcomes += engine.poll(0.02)
            finishing = engine.finishing
            both = both or (sorted(finishing) == [1, 2] and finishing[1] == (1, 2) and finishing[2] == (0, None))
            if 1 in finishing:
                engine.cancel(1)  # too late for one at the door
        assert both, "the second had been through all stages while the first was being finished"
        assert "publish" in engine.processes()
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert outcomes[0].seconds > 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.out", "2.out"]


def test_about_and_work_folders_go_through_the_engine(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    source = tmp_path / "64x48x10"
    source.write_bytes(b"")
    about = {"report": True, "mark": mark_of(str(source)), "job": 77}
    work = job(1, tmp_path, str(source), work=str(tmp_path / "work"), about=about)
    with Engine(specs(make=Config(first=100)), CONFIG, finisher()) as engine:
        (outcome,) = engine.run([work])
    assert outcome.failure is None and outcome.job == work
    told = result.read(tmp_path / "1.out.json")
    assert told is not None and (told["job"], told["frames"], told["reports"]["make"]) == (77, 110, {"made": 10})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.out", "1.out.json", "64x48x10"]


def test_reports_of_clips_that_wait_for_the_door_are_kept(tmp_path: Path) -> None:
    works = [tmp_path / str(number) for number in (1, 2)]
    with Engine(specs(), CONFIG, finisher(Config(delay_s=60.0))) as engine:
        for number, work in enumerate(works, 1):
            work.mkdir()
            engine.submit(job(number, tmp_path, work=str(work)))
        while len(engine.finishing) < 2:
            engine.poll(0.02)
        engine.close(0.1)
    for work in works:
        kept = checkpoints.kept_reports(str(work))
        assert kept is not None and kept["make"] == {"made": 10}


def test_a_door_that_dies_costs_one_clip(tmp_path: Path) -> None:
    with Engine(specs(), CONFIG, finisher(Config("die", clip=2))) as engine:
        outcomes = {outcome.job.id: outcome for outcome in engine.run(job(n, tmp_path) for n in (1, 2, 3))}
        assert engine.restarts == 1
    failure = outcomes[2].failure
    assert failure is not None
    assert (failure.stage, failure.frame, failure.signal) == ("publish", None, signal.SIGKILL)
    assert failure.reason == "its process was killed by SIGKILL"
    assert failure.detail == "the last of a door"
    assert outcomes[1].ok and outcomes[3].ok
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.out", "3.out"]


@pytest.mark.parametrize("there", [False, True])
def test_a_door_that_dies_after_a_file_has_its_name_costs_nothing(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "1.out").write_bytes(b"what was there before")
    with Engine(specs(), CONFIG, finisher(Config("late-die"))) as engine:
        (outcome,) = engine.run([job(1, tmp_path)])
    assert outcome.failure is None
    assert (tmp_path / "1.out").read_bytes() == b"whole"


def test_what_was_there_before_is_not_taken_for_the_result(tmp_path: Path) -> None:
    (tmp_path / "1.out").write_bytes(b"what was there before")
    with Engine(specs(), CONFIG, finisher(Config("die"))) as engine:
        (outcome,) = engine.run([job(1, tmp_path)])
    assert not outcome.ok
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("1.out", b"what was there before")]


def test_a_door_that_hangs_is_replaced(tmp_path: Path) -> None:
    config = replace(CONFIG, deadlines_s={"publish": 0.5})
    slow = Config("hang", clip=1, delay_s=1.2)  # the second clip takes longer than that, and says that it is alive
    with Engine(specs(), config, finisher(slow)) as engine:
        outcomes = {outcome.job.id: outcome for outcome in engine.run(job(n, tmp_path) for n in (1, 2))}
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.reason == "its process made no progress for 0.5 s"
    assert outcomes[2].failure is None
    assert [p.name for p in tmp_path.iterdir()] == ["2.out"]


def test_a_door_that_dies_idle_is_made_anew_but_not_for_ever(tmp_path: Path) -> None:
    with Engine(specs(), CONFIG, finisher()) as engine:
        os.kill(engine.processes()["publish"][0], signal.SIGKILL)
        (outcome,) = engine.run([job(1, tmp_path)])
        assert outcome.ok and engine.restarts == 1
        with pytest.raises(UnderstudyError, match="publish does not stay up: its process was killed by SIGKILL"):
            for _ in range(40):
                for pid in engine.processes()["publish"]:
                    os.kill(pid, signal.SIGKILL)
                engine.poll(0.2)


def test_a_finisher_that_cannot_be_made_is_named() -> None:
    engine = Engine(specs(), CONFIG, finisher(Config("unloadable")))
    with pytest.raises(UnderstudyError, match="publish did not start: OSError: nothing to finish with"), engine:
        pass


def test_without_a_finisher_there_are_no_targets(tmp_path: Path) -> None:
    with Engine(specs(), CONFIG) as engine:
        with pytest.raises(ValueError, match="no finisher"):
            engine.submit(job(1, tmp_path))
        assert not engine.busy
        (outcome,) = engine.run([Job(1, "64x48x10", "")])
        assert outcome.ok and engine.finishing == {}


@pytest.mark.parametrize(("patience_s", "delay_s"), [(60.0, 1.0), (0.2, 60.0)])
def test_a_door_at_work_is_given_time_to_end(patience_s: float, delay_s: float, tmp_path: Path) -> None:
    engine = Engine(specs(), CONFIG, finisher(Config(delay_s=delay_s)))
    with engine:
        engine.submit(job(1, tmp_path))
        while engine.finishing.get(1) != (1, 2):
            engine.poll(0.02)
        begun = time.monotonic()
        engine.close(patience_s)
        took_s = time.monotonic() - begun
        outcomes = engine.poll(0.0)
    if patience_s > delay_s:
        assert [outcome.ok for outcome in outcomes] == [True], "it is told even after the engine has been closed"
        assert [p.name for p in tmp_path.iterdir()] == ["1.out"]
    else:
        assert outcomes == [] and took_s < 4.0
        assert not list(tmp_path.iterdir()), "what is half-written goes"


PARENT = """
import sys
import time
from pipeline.engine import Engine
from tests.pipeline.test_door import CONFIG, Config, Path, finisher, job, specs

if __name__ == "__main__":
    with Engine(specs(), CONFIG, finisher(Config(delay_s=60.0))) as engine:
        for number in (1, 2, 3):
            engine.submit(job(number, Path(sys.argv[1])))
        while engine.busy:
            engine.poll(0.1)
            if len(engine.finishing) > 1 and engine.finishing[1] == (1, 2):
                time.sleep(1)  # the third clip is whole as well, and nobody has heard of it
                print(*engine.processes()["publish"], flush=True)
"""


def test_when_the_parent_dies_the_door_leaves_at_once_and_publishes_nothing(tmp_path: Path) -> None:
    script, out = tmp_path / "parent.py", tmp_path / "out"
    script.write_text(PARENT)
    out.mkdir()
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    parent = subprocess.Popen([sys.executable, str(script), str(out)], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    begun = time.monotonic()
    while psutil.pid_exists(pid) and time.monotonic() < begun + 10:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid), "it does not wait until the clip would have been done"
    assert not list(out.iterdir())
