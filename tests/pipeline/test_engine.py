"""The engine over toy stages: order, bounds, failure, death and recovery."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.engine import Engine, Interrupted
from pipeline.errors import ConfigError, UnderstudyError
from pipeline.specs import EngineConfig, Outcome, ProcessSpec, StageSpec
from pipeline.types import Job
from tests.pipeline.toys import Config, finisher, specs

NAMES = ("make", "find", "gather", "edit", "check")
TABLE = tuple(ProcessSpec((name,)) for name in NAMES)
PARALLEL = tuple(ProcessSpec((name,), {"find": 2, "edit": 3}.get(name, 1)) for name in NAMES)
GROUPED = (ProcessSpec(("make", "find")), ProcessSpec(("gather", "edit", "check")))
SMALL = EngineConfig(processes=TABLE, ring_mb=8, scratch_kb=64)
PAIR = EngineConfig(processes=GROUPED, ring_mb=8, scratch_kb=64)


def jobs(count: int, source: str = "160x120x40", folder: Path | None = None) -> list[Job]:
    return [Job(n, source, str(folder / f"{n}.out") if folder else "") for n in range(1, count + 1)]


def run(stages: tuple[StageSpec, ...], config: EngineConfig, work: list[Job]) -> dict[int, Outcome]:
    with Engine(stages, config, finisher()) as engine:
        outcomes = {outcome.job.id: outcome for outcome in engine.run(work)}
    return dict(sorted(outcomes.items()))


@pytest.mark.parametrize("table", [TABLE, PARALLEL, GROUPED], ids=["one each", "parallel", "grouped"])
def test_every_byte_of_every_frame_in_order(table: tuple[ProcessSpec, ...]) -> None:
    # `check` compares pixels, faces, matrices and times with what the source made, and fails the clip if one differs
    work = [Job(1, "160x120x90", ""), Job(2, "322x182x33", ""), Job(3, "16x16x0", ""), Job(4, "64x48x50", "")]
    config = EngineConfig(processes=table, ring_mb=2, scratch_kb=64)
    outcomes = run(specs(gather=Config(batch=4), find=Config(faces=2)), config, work)
    assert [o.failure for o in outcomes.values()] == [None] * 4
    assert {i: o.frames for i, o in outcomes.items()} == {1: 90, 2: 33, 3: 0, 4: 50}
    assert outcomes[1].reports["find"]["frames"] == 90, "workers' counts add up once"
    assert outcomes[1].reports["make"]["made"] == 90, "what came before several workers is not counted twice"


def test_processes_stay_from_clip_to_clip() -> None:
    outcomes = run(specs(), SMALL, jobs(3))
    assert len({o.reports["edit"]["pid"] for o in outcomes.values()}) == 1


@pytest.mark.parametrize("stage", ["make", "find", "edit", "check"])
@pytest.mark.parametrize("table", [TABLE, PARALLEL, GROUPED], ids=["one each", "parallel", "grouped"])
def test_a_failing_stage_ends_its_clip_and_no_other(stage: str, table: tuple[ProcessSpec, ...], tmp_path: Path) -> None:
    config = EngineConfig(processes=table, ring_mb=2, scratch_kb=64)
    outcomes = run(specs(**{stage: Config("raise", clip=2, at=7)}), config, jobs(4, folder=tmp_path))
    failure = outcomes[2].failure
    assert failure is not None
    assert (failure.stage, failure.frame, failure.error) == (stage, 7, "ArithmeticError")
    assert "as told" in failure.reason
    assert "Traceback" in failure.detail
    assert [o.ok for o in outcomes.values()] == [True, False, True, True]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.out", "3.out", "4.out"], "no half file, none lost"


def test_an_endless_clip_stops_early_when_it_has_failed() -> None:
    began = time.monotonic()
    outcomes = run(specs(edit=Config("raise", at=3)), SMALL, jobs(1, "160x120x1000000"))
    assert not outcomes[1].ok
    assert outcomes[1].frames < 1000
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("trouble", "words"), [("keep", "kept|handed on"), ("late-raise", "at the very end"), ("input", "not to my taste")]
)
def test_other_ways_to_fail(trouble: str, words: str, tmp_path: Path) -> None:
    outcomes = run(specs(edit=Config(trouble)), SMALL, jobs(2, folder=tmp_path))
    failure = outcomes[1].failure
    assert failure is not None
    assert any(word in failure.reason for word in words.split("|")), failure
    assert failure.error == {"keep": "StageError", "late-raise": "ArithmeticError", "input": "InputError"}[trouble]
    assert outcomes[2].ok
    assert [p.name for p in tmp_path.iterdir()] == ["2.out"]


def test_faces_that_do_not_fit_into_their_slot_fail_the_clip_by_name() -> None:
    config = EngineConfig(processes=TABLE, ring_mb=8, scratch_kb=8)
    outcomes = run(specs(find=Config(faces=1)), config, jobs(1))
    failure = outcomes[1].failure
    assert failure is not None
    assert (failure.stage, failure.frame) == ("find", 0)
    assert "lower detect.max_faces or raise engine.scratch_kb" in failure.reason


def test_a_clip_that_will_not_open_is_refused_by_name() -> None:
    outcomes = run(specs(), SMALL, [Job(1, "8x8x8:refuse", ""), Job(2, "8x8x8", ""), Job(3, "9000x9000x1", "")])
    assert outcomes[1].failure is not None and outcomes[1].failure.error == "InputError"
    assert outcomes[2].ok
    assert outcomes[3].failure is not None and "engine.ring_mb to" in outcomes[3].failure.reason


@pytest.mark.parametrize("stage", ["make", "find", "edit", "check"])
def test_a_killed_process_costs_one_clip(stage: str, tmp_path: Path) -> None:
    outcomes = run(specs(**{stage: Config("die", clip=3, at=9)}), SMALL, jobs(6, folder=tmp_path))
    failure = outcomes[3].failure
    assert failure is not None
    assert (failure.stage, failure.frame) == (stage, 9)
    assert "SIGKILL" in failure.reason
    assert [i for i, o in outcomes.items() if not o.ok] == [3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.out", "2.out", "4.out", "5.out", "6.out"]


def test_a_hanging_stage_is_replaced() -> None:
    config = EngineConfig(processes=PARALLEL, ring_mb=2, scratch_kb=64, deadline_s=3.0)
    outcomes = run(specs(edit=Config("hang", clip=2, at=4)), config, jobs(3))
    failure = outcomes[2].failure
    assert failure is not None
    assert (failure.stage, failure.frame) == ("edit", 4)
    assert "no progress for 3 s" in failure.reason
    assert outcomes[1].ok and outcomes[3].ok


def test_stages_that_will_not_stay_up_are_given_up() -> None:
    with Engine(specs(), SMALL) as engine, pytest.raises(UnderstudyError, match="do not stay up: edit's process was"):
        for _ in range(6):
            os.kill(engine.processes()["edit"][0], signal.SIGKILL)
            engine.poll(1.0)


def test_a_slow_last_stage_holds_the_others_back_and_memory_stays() -> None:
    with Engine(specs(check=Config(delay_s=0.005)), SMALL) as engine:
        engine.submit(Job(1, "320x240x400", ""))
        peak = 0
        while not (outcomes := engine.poll(0.02)):
            stats = {s.name: s for s in engine.stats()}
            peak = max(peak, stats["make"].frames - stats["check"].frames)
        assert outcomes[0].ok
        assert 8 <= peak <= SMALL.max_frames + 1, "decode runs ahead by the ring and no further"
        stats = {s.name: s for s in engine.stats()}
        assert stats["make"].wait_out > stats["make"].busy, "the first stage spent its time waiting for the last"
        assert stats["check"].busy > 1.9


def test_a_full_batch_never_starves_the_ring() -> None:
    # the batch is larger than the ring: without the starvation rule each batch would wait its 60 s
    config = EngineConfig(processes=TABLE, ring_mb=8, scratch_kb=64, max_frames=8)
    began = time.monotonic()
    outcomes = run(specs(gather=Config(batch=64, wait_s=60.0)), config, jobs(1, "64x48x100"))
    assert outcomes[1].ok
    assert time.monotonic() - began < 30


def test_batches_fill_while_upstream_can_still_send() -> None:
    outcomes = run(specs(gather=Config(batch=8, wait_s=5.0), make=Config()), SMALL, jobs(1, "160x120x80"))
    assert outcomes[1].reports["gather"]["batches"] == 10  # not one cut short


def test_batches_fill_while_the_last_stage_holds_the_room() -> None:
    # the ring is full of frames that wait for the slow last stage: it will give room back, so nothing is cut short
    config = EngineConfig(processes=TABLE, ring_mb=8, scratch_kb=64, max_frames=12)
    outcomes = run(specs(gather=Config(batch=8, wait_s=5.0), check=Config(delay_s=0.02)), config, jobs(1, "64x48x160"))
    assert outcomes[1].reports["gather"]["batches"] in range(
        25
    )  # 20 full ones, and a few cut short at an unlucky moment


def test_cancel_running_and_waiting() -> None:
    with Engine(specs(check=Config(delay_s=0.005)), SMALL) as engine:
        for job in jobs(8, "64x48x120"):
            engine.submit(job)
        while engine.clip(1) is None:
            engine.poll(0.02)
        for job_id in (1, 3, 8):
            engine.cancel(job_id)
        outcomes: dict[int, Outcome] = {}
        while engine.busy:
            outcomes |= {o.job.id: o for o in engine.poll(0.5)}
    assert [i for i, o in sorted(outcomes.items()) if o.failure and o.failure.error == "Cancelled"] == [1, 3, 8]
    assert sum(o.ok for o in outcomes.values()) == 5


def test_a_source_that_is_long_on_its_way_to_a_frame_hears_of_a_stop() -> None:
    with Engine(specs(make=Config("wade")), SMALL) as engine:
        engine.submit(Job(1, "64x48x10", ""))
        deadline = time.monotonic() + 60
        while engine.clip(1) is None:
            engine.poll(0.02)
        engine.cancel(1)
        outcomes: list[Outcome] = []
        while not outcomes and time.monotonic() < deadline:
            outcomes = engine.poll(0.1)
        assert [outcome.failure and outcome.failure.error for outcome in outcomes] == ["Cancelled"]
        assert engine.restarts == 0


def test_a_job_that_failed_or_was_cancelled_may_come_again() -> None:
    """Under its own number, at once: nothing that was said of the first time holds."""
    with Engine(specs(check=Config("raise", clip=1, at=5, delay_s=0.002)), SMALL) as engine:
        for again in range(3):
            engine.submit(Job(1, "64x48x100", ""))
            (failed,) = until_done(engine)
            assert failed.failure is not None and failed.failure.frame == 5, again
            engine.submit(Job(1, "64x48x4", ""))
            (whole,) = until_done(engine)
            assert (whole.ok, whole.frames) == (True, 4), again
        for again in range(3):
            engine.submit(Job(2, "64x48x100", ""))
            while engine.clip(2) is None:
                engine.poll(0.02)
            engine.cancel(2)
            (stopped,) = until_done(engine)
            assert stopped.failure is not None and stopped.failure.error == "Cancelled", again
            engine.submit(Job(2, "64x48x4", ""))
            (whole,) = until_done(engine)
            assert (whole.ok, whole.frames) == (True, 4), again


def until_done(engine: Engine) -> list[Outcome]:
    found: list[Outcome] = []
    while engine.busy:
        found += engine.poll(0.5)
    return found


def test_closing_before_anybody_has_heard_of_a_clip_leaves_nothing(tmp_path: Path) -> None:
    engine = Engine(specs(check=Config("hang")), SMALL, finisher())
    with engine:
        engine.submit(jobs(1, folder=tmp_path)[0])
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"half"]
        engine.close(0.0)
    assert not list(tmp_path.iterdir())


def test_close_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    engine = Engine(specs(check=Config(delay_s=0.01)), SMALL, finisher())
    with engine:
        engine.submit(jobs(1, "64x48x10000", tmp_path)[0])
        while not any(tmp_path.iterdir()):
            engine.poll(0.01)
    engine.close()
    assert not list(tmp_path.iterdir())


def test_a_stage_that_cannot_load_is_named() -> None:
    stages = [spec for spec in specs() if spec.name != "edit"]
    stages.insert(3, StageSpec("edit", "tests.pipeline.test_engine:Unloadable"))
    with pytest.raises(UnderstudyError, match="edit did not start: OSError: no weights here"):
        run(tuple(stages), SMALL, [])


class Unloadable:
    """Fails in its own process."""

    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()
    stateless = True

    def __init__(self, config: object) -> None:
        raise OSError("no weights here")


def test_chains_and_tables_are_checked_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="order"):
        Engine(specs(), EngineConfig(processes=TABLE[::-1]))
    with pytest.raises(ConfigError, match="gather keeps state"):
        Engine(specs(), EngineConfig(processes=(*TABLE[:2], ProcessSpec(("gather",), 2), *TABLE[3:])))
    with pytest.raises(ConfigError, match="at least two processes"):
        Engine(specs(), EngineConfig(processes=(ProcessSpec(NAMES),)))
    with pytest.raises(ConfigError, match="mask needs aligned and landmarks; nothing before it gives it"):
        Engine((specs()[0], StageSpec("mask", "tests.pipeline.test_engine:Needy"), specs()[4]), EngineConfig())


class Needy(Unloadable):
    needs = frozenset({"aligned", "landmarks"})


PARENT = """
import sys
from pathlib import Path
from pipeline.engine import Engine
from pipeline.specs import EngineConfig, ProcessSpec
from pipeline.types import Job
from tests.pipeline.toys import Config, finisher, specs

if __name__ == "__main__":
    table = tuple(ProcessSpec((name,)) for name in ("make", "find", "gather", "edit", "check"))
    config = EngineConfig(processes=table, ring_mb=8, scratch_kb=64)
    with Engine(specs(check=Config(delay_s=0.01)), config, finisher()) as engine:
        engine.submit(Job(1, "64x48x100000", sys.argv[1] + "/1.out"))
        while engine.busy:
            engine.poll(0.1)
            print(*[pid for pids in engine.processes().values() for pid in pids], flush=True)
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_when_the_parent_dies_everything_goes(by: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    out = tmp_path / "out"
    out.mkdir()
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 6
    deadline = time.monotonic() + 60
    while not any(out.iterdir()) and time.monotonic() < deadline:
        parent.stdout.readline()
    assert [p.name for p in out.iterdir()] == ["1.out.1.part"]
    parent.send_signal(by)
    parent.wait()
    parent.stdout.close()
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not list(out.iterdir()), "the last process took its half-written file away"


def test_what_a_dying_process_printed_is_kept_and_none_of_it_reaches_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcomes = run(specs(edit=Config("chatter", clip=1)), PAIR, jobs(2, folder=tmp_path))
    failure = outcomes[1].failure
    assert failure is not None and outcomes[2].ok
    assert (failure.stage, failure.frame, failure.signal) == ("edit", 5, signal.SIGKILL)
    assert failure.detail.endswith("and now I die\nhalf a li")
    assert len(failure.detail.splitlines()) == 41
    assert capfd.readouterr() == ("", "")


def test_a_failure_carries_the_systems_number() -> None:
    troubled = {"make": Config("input"), "find": Config("full", clip=2), "edit": Config("memory", clip=3)}
    outcomes = run(specs(**troubled), PAIR, jobs(3))
    failures = [outcome.failure for outcome in outcomes.values()]
    assert [failure and failure.errno for failure in failures] == [0, errno.ENOSPC, errno.ENOMEM]
    assert failures[2] is not None and failures[2].reason == "MemoryError"


@pytest.mark.parametrize("trouble", ["raise", "segfault"])
@pytest.mark.parametrize("stage", ["make", "edit"])
def test_frames_of_failures_count_from_the_start_of_the_file(stage: str, trouble: str, tmp_path: Path) -> None:
    stages = specs(**{"make": Config(first=100), stage: Config(trouble, at=5, first=100)})
    failure = run(stages, PAIR, [Job(1, "64x48x10", "", str(tmp_path))])[1].failure
    assert failure is not None
    assert (failure.stage, failure.frame) == (stage, 105)
    assert failure.signal == (signal.SIGSEGV if trouble == "segfault" else 0)


def test_each_stage_has_its_deadline_and_may_say_that_it_is_alive() -> None:
    config = replace(PAIR, deadline_s=60.0, deadlines_s={"edit": 1.5})
    patient = specs(find=Config("long"), edit=Config("long-alive"))
    assert run(patient, config, jobs(1))[1].ok, "one has a longer deadline, the other says that it is alive"
    failure = run(specs(edit=Config("long")), config, jobs(1))[1].failure
    assert failure is not None and failure.reason == "its process made no progress for 1.5 s"
    with pytest.raises(ConfigError, match=r"engine\.deadlines_s\.edit must be above 0, not 0"):
        replace(PAIR, deadlines_s={"edit": 0.0})


def test_engines_in_several_threads(tmp_path: Path) -> None:
    ended: dict[str, dict[int, Outcome]] = {}

    def work(name: str, stages: tuple[StageSpec, ...]) -> None:
        (tmp_path / name).mkdir()
        ended[name] = run(stages, PAIR, jobs(3, folder=tmp_path / name))

    troubled = specs(edit=Config("die", clip=2))
    threads = [threading.Thread(target=work, args=a) for a in (("one", specs()), ("other", troubled))]
    before = dict(os.environ)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.ok for outcome in ended["one"].values()] == [True, True, True]
    assert [outcome.ok for outcome in ended["other"].values()] == [True, False, True]
    assert dict(os.environ) == before


class Dawdling(Unloadable):
    """Takes for ever to load."""

    def __init__(self, config: object) -> None:
        time.sleep(3600)


def test_an_engine_that_starts_can_be_stopped_from_another_thread() -> None:
    stages = [spec for spec in specs() if spec.name != "edit"]
    stages.insert(3, StageSpec("edit", "tests.pipeline.test_engine:Dawdling"))
    engine = Engine(tuple(stages), PAIR, finisher())
    told = [0.0]

    def tell() -> None:
        told[0] = time.monotonic()
        engine.stop_soon()

    timer = threading.Timer(1.0, tell)
    timer.start()
    with pytest.raises(Interrupted):
        engine.start()
    took_s = time.monotonic() - told[0]
    timer.join()
    assert took_s < 4.0
    assert engine.processes() == {}


def test_an_engine_at_work_can_be_stopped_from_another_thread(tmp_path: Path) -> None:
    with Engine(specs(check=Config(delay_s=0.01)), PAIR, finisher()) as engine:
        engine.submit(jobs(1, "64x48x10000", tmp_path)[0])
        engine.poll(0.0)
        engine.stop_soon()
        with pytest.raises(Interrupted):
            engine.poll(5.0)
    assert not list(tmp_path.iterdir())


def test_restarts_are_counted() -> None:
    with Engine(specs(edit=Config("die", clip=2)), PAIR) as engine:
        assert sum(outcome.ok for outcome in engine.run(jobs(3))) == 2
        assert engine.restarts == 1
