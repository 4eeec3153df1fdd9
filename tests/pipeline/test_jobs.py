"""The table of jobs: each row in one state, each change whole and kept, whoever writes and whatever ends."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline import database
from pipeline.errors import TableError
from pipeline.jobs import CANCELLED, GONE, REPLACED, Damaged, Entry, Mark, Refused, State, Table, set_aside
from pipeline.rows import ENDED

MARK = Mark(1000, 1_790_000_000_000_000_000, 7)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs.sqlite"


@pytest.fixture
def table(path: Path) -> Iterator[Table]:
    with Table.open(path, clock=lambda: 50.0) as table:
        yield table


def add(table: Table, name: str = "a.mp4", mark: Mark = MARK, priority: int = 0) -> Entry:
    return table.accept("/in", f"/in/{name}", f"/out/{name}", mark, priority, seen=40.0)


def bring(table: Table, state: State, name: str = "a.mp4") -> Entry:
    """A job in that state."""
    job = add(table, name)
    ways: dict[State, Callable[[], Entry]] = {
        State.WAITING: lambda: job,
        State.RUNNING: lambda: table.claim(job.id, 60.0),
        State.DONE: lambda: table.finish(table.claim(job.id, 60.0).id, 25, 1.5, "abc", 70.0),
        State.FAILED: lambda: table.fail(table.claim(job.id, 60.0).id, "broken", {"stage": "decode"}, 70.0),
        State.BLOCKED: lambda: table.block(job.id, "no model", 70.0),
        State.CANCELLED: lambda: table.cancel(job.id, CANCELLED, 70.0),
    }
    return ways[state]()


# What a job goes through


def test_a_job_from_its_arrival_to_its_end(table: Table) -> None:
    job = add(table)
    assert job == Entry(
        *(1, "/in", "/in/a.mp4", "/out/a.mp4", State.WAITING, MARK), priority=0, seen=40.0, accepted=50.0
    )
    assert table.entry(1) == table.current("/in/a.mp4") == job
    running = table.claim(1, 60.0)
    assert running == replace(job, state=State.RUNNING, attempts=1, claimed=60.0)
    waiting = table.release(1, "the disk was full", due=90.0, crashed=True)
    assert waiting == replace(running, state=State.WAITING, crashes=1, due=90.0, reason="the disk was full")
    table.claim(1, 100.0)
    assert table.release(1, "shut down", due=0.0, counted=False).attempts == 1
    table.claim(1, 110.0)
    done = table.finish(1, 25, 1.5, "abc", 120.0)
    assert done == table.entry(1)
    assert (done.state, done.attempts, done.crashes) == (State.DONE, 2, 1)
    assert (done.frames, done.seconds, done.digest, done.ended, done.reason) == (25, 1.5, "abc", 120.0, "")


def test_why_it_failed_is_kept_until_it_is_tried_again(table: Table) -> None:
    bring(table, State.RUNNING)
    failed = table.fail(1, "a \udcff\ud800\n reason", {"frame": None, "reason": "\udcff"}, 70.0)
    assert table.entry(1) == failed
    assert (failed.reason, failed.failure) == ("a \udcff\ud800\n reason", {"frame": None, "reason": "\udcff"})
    again = table.retry(1)
    assert again == replace(add_of(failed), claimed=60.0)
    assert table.entry(1) == again


def add_of(job: Entry) -> Entry:
    """The job as it was when it was accepted."""
    return Entry(
        *(job.id, job.folder, job.source, job.target, State.WAITING, job.mark), seen=job.seen, accepted=job.accepted
    )


MOVES: dict[str, tuple[Callable[[Table], Entry], set[State]]] = {
    "claim": (lambda table: table.claim(1, 1.0), {State.WAITING}),
    "release": (lambda table: table.release(1, "", 0.0), {State.RUNNING}),
    "finish": (lambda table: table.finish(1, 1, 1.0, "", 1.0), {State.RUNNING}),
    "fail": (lambda table: table.fail(1, "", None, 1.0), {State.WAITING, State.RUNNING}),
    "block": (lambda table: table.block(1, "", 1.0), {State.WAITING, State.RUNNING}),
    "cancel": (lambda table: table.cancel(1, "", 1.0), {State.WAITING, State.RUNNING, State.BLOCKED}),
    "withdraw": (lambda table: table.withdraw(1, 1.0), {State.WAITING, State.RUNNING, State.BLOCKED}),
    "retry": (lambda table: table.retry(1), set(ENDED)),
    "wish": (lambda table: table.wish(1, "cancel"), {State.RUNNING}),
    "prioritise": (lambda table: table.prioritise(1, 5), {State.WAITING, State.RUNNING, State.BLOCKED}),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", State)
def test_what_may_be_done_to_a_job_in_which_state(table: Table, move: str, state: State) -> None:
    before = bring(table, state)
    act, allowed = MOVES[move]
    if state in allowed:
        assert act(table) == table.entry(1)
        return
    with pytest.raises(Refused, match=f"job 1 cannot be .*: it is {state}") as refused:
        act(table)
    assert isinstance(refused.value, TableError) and refused.value.exit_code == 2
    assert table.entry(1) == before


@pytest.mark.parametrize("move", MOVES)
def test_nothing_is_done_to_a_job_that_is_not_there(table: Table, move: str) -> None:
    with pytest.raises(Refused, match="there is no job 1"):
        MOVES[move][0](table)
    assert table.entry(1) is None and table.entry(0) is None and table.entry(2**70) is None


def test_a_path_with_another_clip_is_another_job(table: Table) -> None:
    first = add(table)
    second = add(table, mark=Mark(1, 2, 3))
    assert second.id == 2 and table.current("/in/a.mp4") == second
    old = table.entry(1)
    assert old == replace(first, state=State.CANCELLED, reason=REPLACED, ended=50.0, current=False)
    table.claim(2, 60.0)
    with pytest.raises(Refused, match=r"job 2 is running on /in/a\.mp4"):
        add(table)
    table.finish(2, 1, 1.0, "", 60.0)
    add(table)
    second_now = table.entry(2)
    assert second_now is not None and (second_now.state, second_now.current) == (State.DONE, False)
    for number in (1, 2):
        with pytest.raises(Refused, match="its clip is gone or was replaced"):
            table.retry(number)


def test_clips_that_are_gone(table: Table) -> None:
    jobs = {state: bring(table, state, f"{state}.mp4") for state in State}
    table.vanish([*(job.id for job in jobs.values()), 99])
    for state, job in jobs.items():
        now = table.entry(job.id)
        assert now is not None
        if state in (State.WAITING, State.BLOCKED):
            assert now == replace(job, state=State.CANCELLED, reason=GONE, ended=50.0, current=False)
        else:
            assert now == replace(job, current=state is State.RUNNING)
    assert len(table.known("/in")) == 1


def test_a_wish_outlives_the_run_it_was_meant_for(table: Table) -> None:
    for name in "abc":
        bring(table, State.RUNNING, name)
    assert table.withdraw(1, 60.0).wish == "cancel"
    table.wish(2, "cancel")
    assert [job.id for job in table.wishes()] == [1, 2]
    released = table.release(1, "a process died", due=0.0)
    assert (released.state, released.reason, released.wish) == (State.CANCELLED, CANCELLED, "")
    assert [(job.id, job.state, job.attempts) for job in table.recover(80.0)] == [(3, State.WAITING, 0)]
    second = table.entry(2)
    assert second is not None and second.state is State.CANCELLED
    assert table.wishes() == []


def test_that_the_daemon_ended_is_no_attempt(path: Path) -> None:
    with Table.open(path) as table:
        add(table)
        table.claim(1, 50.0)
        table.release(1, "a process died", 0.0, crashed=True)
    for _ in range(3):
        with Table.open(path) as table:
            table.claim(1, 60.0)
        with Table.open(path) as table:
            (job,) = table.recover(70.0)
            assert (job.attempts, job.crashes, job.due) == (1, 1, 70.0)


def test_whose_turn_it_is(table: Table) -> None:
    for name, priority in (("a", 0), ("b", 5), ("c", 5), ("d", -1)):
        add(table, name, priority=priority)
    assert [job.source for job in table.waiting(0.0, 10)] == ["/in/b", "/in/c", "/in/a", "/in/d"]
    table.prioritise(4, 9)
    table.claim(2, 10.0)
    table.release(2, "later", due=100.0)
    assert [job.id for job in table.waiting(99.0, 2)] == [4, 3]
    assert (table.next_due(50.0), table.next_due(100.0)) == (100.0, None)
    assert [job.id for job in table.waiting(100.0, 2)] == [4, 2]
    with pytest.raises(Refused, match="a priority is from"):
        table.prioritise(4, 10**30)


def test_who_a_result_belongs_to(table: Table) -> None:
    first = table.accept("/in", "/in/a.mkv", "/out/a.mp4", MARK, 0, 0.0)
    rival = table.accept("/in", "/in/a.mp4", "/out/a.mp4", MARK, 0, 0.0)
    assert table.owner("/out/a.mp4") == first and table.owner("/out/b.mp4") is None
    table.fail(first.id, "broken", None, 0.0)
    assert table.owner("/out/a.mp4") == rival
    done = bring_done(table, rival)
    table.retry(first.id)
    assert table.owner("/out/a.mp4") == done  # what is there already comes first


def bring_done(table: Table, job: Entry) -> Entry:
    return table.finish(table.claim(job.id, 1.0).id, 1, 1.0, "", 2.0)


def test_lists(table: Table) -> None:
    for number in range(1, 8):
        add(table, f"Day {number % 2}/clip.mp4" if number < 3 else f"{number}.mp4")
    table.claim(3, 1.0)
    table.block(5, "", 1.0)
    assert [job.id for job in table.listing()] == [7, 6, 5, 4, 3, 2, 1]
    assert [job.id for job in table.listing(limit=2, before_id=6)] == [5, 4]
    assert [job.id for job in table.listing({State.RUNNING, State.BLOCKED})] == [5, 3]
    assert [job.id for job in table.listing(search="dAY 1/")] == [1]
    assert table.listing(search="%") == table.listing(search="\0") == table.listing(search="\ud800") == []
    assert [job.id for job in table.span(3, 5)] == [3, 4, 5] and table.span(3, 2**80)[-1].id == 7
    assert table.counts() == {state: {State.WAITING: 5}.get(state, state in ("running", "blocked")) for state in State}


def test_rows_of_paths_that_hold_something_else_are_kept_up_to_a_limit(path: Path) -> None:
    with Table.open(path, keep=3) as table:
        for _ in range(10):
            add(table)
            bring(table, State.DONE, "b")
        kept = table.listing()
        assert [job.current for job in kept] == [True, True, False, False, False]
        assert kept[0].id == 20  # numbers are never given twice


def test_all_or_nothing(table: Table) -> None:
    with pytest.raises(Refused), table.together():
        add(table)
        table.claim(1, 1.0)
        table.claim(1, 1.0)
    assert table.listing() == []
    with table.together():
        add(table)
        table.claim(1, 1.0)
    assert [job.state for job in table.listing()] == [State.RUNNING]


def test_what_was_done_before_the_table_was_lost(table: Table) -> None:
    done = Entry(12, "/in", "/in/a", "/out/a", State.DONE, MARK, frames=3, digest="d", current=True)
    assert table.put(done) == done == table.entry(12)
    other = replace(done, source="/in/b")
    assert table.put(other).id == 13  # the number is taken
    assert table.put(replace(other, id=2**62, source="/in/c")).id == 14
    for refused in (done, replace(done, source="/in/d", state=State.WAITING)):
        with pytest.raises(Refused, match="cannot be entered"):
            table.put(refused)
    assert add(table, "e").id == 15


# Names and numbers


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=255), min_size=3, max_size=3))
def test_any_name(table: Table, names: list[bytes]) -> None:
    folder, source, target = (os.fsdecode(name.replace(b"\0", b"x")) for name in names)
    job = table.accept(folder, source, target, MARK, 0, 0.0)
    assert table.entry(job.id) == table.current(source) == job
    known = table.known(folder)[os.fsencode(source)]
    assert known == (MARK, State.WAITING, job.id, target)
    assert table.listing(search=source)[0] == job and table.owner(target) is not None
    table.vanish([job.id])


def test_numbers_of_strange_file_systems(table: Table) -> None:
    mark = Mark(2**63, 32_503_680_000 * 10**9, 2**64 - 1)  # the year 3000; NFS has such inodes
    add(table, mark=mark)
    assert table.known("/in")[b"/in/a.mp4"].mark == mark
    assert table.replace_mark(1, Mark(0, -5, 0)) == table.entry(1)


# Against a model


class Machine(RuleBasedStateMachine):
    """The table beside a dict of what should be in it."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"understudy-jobs-{os.getpid()}-{time.monotonic_ns()}"
        self.now = 0.0
        self.table = self.opened()
        self.model: dict[int, Entry] = {}

    def opened(self) -> Table:
        return Table.open(self.folder / "jobs.sqlite", clock=lambda: self.now)

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.table.close()
            shutil.rmtree(self.folder)

    def holds(self, path: str) -> Entry | None:
        return next((job for job in self.model.values() if job.source == path and job.current), None)

    @rule(path=st.sampled_from("abcd"), size=st.integers(0, 3), priority=st.integers(-1, 1))
    def accept(self, path: str, size: int, priority: int) -> None:
        self.now += 1
        before, mark = self.holds(path), Mark(size, 0, 0)
        if before is not None and before.state is State.RUNNING:
            with pytest.raises(Refused):
                self.table.accept("/in", path, path, mark, priority, 0.0)
            return
        if before is not None:
            waited = before.state in (State.WAITING, State.BLOCKED)
            end = replace(before, state=State.CANCELLED, reason=REPLACED, ended=self.now) if waited else before
            self.model[before.id] = replace(end, current=False)
        job = self.table.accept("/in", path, path, mark, priority, 0.0)
        assert job.id not in self.model
        self.model[job.id] = Entry(job.id, "/in", path, path, State.WAITING, mark, priority, accepted=self.now)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), move=st.sampled_from(sorted(MOVES)))
    def move(self, data: st.DataObject, move: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        job = self.model[number]
        allowed = job.state in MOVES[move][1] and (job.current or move != "retry")
        self.now += 1
        if not allowed:
            with pytest.raises(Refused):
                self.do(move, job)
            return
        self.model[number] = self.do(move, job)
        assert self.model[number].state is self.after(move, job)

    def do(self, move: str, job: Entry) -> Entry:
        table, now = self.table, self.now
        match move:
            case "claim":
                return table.claim(job.id, now)
            case "release":
                return table.release(job.id, "again", now + 2)
            case "finish":
                return table.finish(job.id, 1, 1.0, "d", now)
            case "fail":
                return table.fail(job.id, "broken", {}, now)
            case "block":
                return table.block(job.id, "blocked", now)
            case "cancel":
                return table.cancel(job.id, CANCELLED, now)
            case "withdraw":
                return table.withdraw(job.id, now)
            case "retry":
                return table.retry(job.id)
            case "wish":
                return table.wish(job.id, "cancel")
        return table.prioritise(job.id, 7)

    @staticmethod
    def after(move: str, job: Entry) -> State:
        fixed = {"claim": State.RUNNING, "finish": State.DONE, "fail": State.FAILED, "block": State.BLOCKED}
        fixed |= {"cancel": State.CANCELLED, "retry": State.WAITING}
        if move == "release":
            return State.CANCELLED if job.wish else State.WAITING
        if move == "withdraw":
            return State.RUNNING if job.state is State.RUNNING else State.CANCELLED
        return fixed.get(move, job.state)

    @rule(path=st.sampled_from("abcd"))
    def vanish(self, path: str) -> None:
        job = self.holds(path)
        if job is None:
            return
        self.table.vanish([job.id])
        if job.state in (State.WAITING, State.BLOCKED):
            job = replace(job, state=State.CANCELLED, reason=GONE, ended=self.now)
        self.model[job.id] = replace(job, current=job.state is State.RUNNING)

    @rule()
    def restart(self) -> None:
        self.table.close()
        self.table = self.opened()
        running = [job for job in self.model.values() if job.state is State.RUNNING]
        found = {job.id: job for job in self.table.recover(self.now)}
        assert set(found) == {job.id for job in running if not job.wish}
        for job in running:
            now = self.table.entry(job.id)
            assert now is not None and (now.attempts, now.crashes) == (max(0, job.attempts - 1), job.crashes)
            assert now.state is (State.CANCELLED if job.wish else State.WAITING)
            self.model[job.id] = now

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "table"):
            return
        table, jobs = self.table, sorted(self.model.values(), key=lambda job: -job.id)
        assert table.listing(limit=1000) == jobs
        current = [job for job in jobs if job.current]
        assert len({job.source for job in current}) == len(current)
        assert {os.fsdecode(name): known.id for name, known in table.known("/in").items()} == {
            job.source: job.id for job in current
        }
        waiting = sorted((job for job in jobs if job.state is State.WAITING), key=lambda job: (-job.priority, job.id))
        assert all(job.current for job in waiting)
        assert table.waiting(self.now, 100) == [job for job in waiting if job.due <= self.now]
        assert table.counts() == {state: sum(job.state is state for job in jobs) for state in State}
        assert [job.id for job in table.wishes()] == sorted(job.id for job in jobs if job.wish)


Machine.TestCase.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


# Several processes, and the end of them


def child(code: str, *argv: str | Path, **more: Any) -> subprocess.Popen[str]:
    program = f"import os, sys, time\nfrom pathlib import Path\nfrom pipeline.jobs import *\n{code}"
    words = [sys.executable, "-c", program, *map(str, argv)]
    return subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def test_others_may_write_too(table: Table, path: Path) -> None:
    """As the program does that somebody types in while the daemon works."""
    for number in range(50):
        add(table, f"{number}")
    other = child("""
with Table.open(Path(sys.argv[1]), make=False) as table:
    for number in range(1, 51):
        for turn in range(3):
            table.prioritise(number, table.entry(number).priority + 1)
""", path)  # fmt: skip
    own = 0
    while other.poll() is None:
        number = own % 50 + 1
        with table.together():
            job = table.entry(number)
            assert job is not None
            table.replace_mark(number, replace(job.mark, size=job.mark.size + 1))
        own += 1
    assert other.communicate() == ("", "") and other.returncode == 0
    jobs = table.listing()
    assert {job.priority for job in jobs} == {3}
    assert sum(job.mark.size - MARK.size for job in jobs) == own > 0
    assert table.changed() and not table.changed()
    add(table, "own changes are none")
    assert not table.changed()


WRITER = """
table = Table.open(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    with table.together():
        names = [f"/in/{n}-{time.monotonic_ns()}" for n in range(3)]
        jobs = [table.accept("/in", name, "/out", Mark(1, 2, 3), 0, 0.0) for name in names]
        for job in jobs[1:]:
            table.claim(job.id, 1.0)
    table.finish(jobs[1].id, 1, 1.0, "", 1.0)
    table.release(jobs[2].id, "", 0.0)
    os.write(1, b"%d\\n" % jobs[2].id)
"""


def test_killed_while_writing(path: Path) -> None:
    """Fifty times: it opens, what was said to be kept is there, and nothing is there by halves."""
    told = 0
    for turn in range(50):
        writer = child(WRITER, path)
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        time.sleep(0.0005 * turn)
        writer.kill()
        out, _ = writer.communicate()
        told = max([told, *map(int, re.findall(r"^\d+(?=\n)", out, re.MULTILINE))])
        with Table.looking(path) as looking:
            counts = looking.counts()
        with Table.open(path) as table:
            assert table.counts() == counts
            assert sum(counts.values()) % 3 == 0 and counts[State.RUNNING] <= 2 * (turn + 1)
            for number in range(max(1, told - 30), told + 1):
                job = table.entry(number)
                assert job is not None and job.state is (State.WAITING, State.WAITING, State.DONE)[number % 3]
            for job in table.recover(2.0):
                table.claim(job.id, 2.0)
                if job.id % 3 == 2:
                    table.finish(job.id, 1, 1.0, "", 2.0)
                else:
                    table.release(job.id, "", 0.0)
    assert told > 50


def test_looking(path: Path) -> None:
    with pytest.raises(TableError, match="does not exist") as missing:
        Table.looking(path)
    assert missing.value.errno == errno.ENOENT and not path.parent.exists()
    with pytest.raises(TableError, match="does not exist"):
        Table.open(path, make=False)
    with Table.open(path) as table, Table.looking(path) as looking:
        assert looking.listing() == [] and not looking.changed()
        job = add(table)
        assert looking.changed() and looking.listing() == [job]
        with pytest.raises(TableError, match="opened for looking only"):
            looking.claim(1, 1.0)
        with table.together():
            table.claim(1, 1.0)
            assert looking.entry(1) == job
    with Table.looking(path) as looking:  # nobody writes any more
        assert [job.state for job in looking.listing()] == [State.RUNNING]


def test_it_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        with Table.open(path) as table:
            add(table)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == dict.fromkeys([path.name + part for part in ("", "-wal", "-shm", ".turn")], 0o600)


def test_whoever_writes_for_ever_is_told_of(table: Table, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    with Table.open(path) as other, other.together():
        add(other)
        with pytest.raises(TableError, match="has been written by another process") as busy:
            add(table)
        assert busy.value.errno == errno.EAGAIN
    assert add(table, "b").id == 2


# Damage


def filled(path: Path) -> None:
    with Table.open(path) as table, table.together():
        for number in range(300):
            add(table, f"a rather long name of a clip {number}")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def overwrite(at: int, what: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(what)

    return write


def replaced(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=2")
    connection.close()


def only_the_log(path: Path) -> None:
    path.unlink()
    Path(f"{path}-wal").write_bytes(b"something")


def emptied_with_a_log(path: Path) -> None:
    os.truncate(path, 0)
    Path(f"{path}-wal").write_bytes(b"something")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "is damaged"),
    "cut in the header": (lambda path: os.truncate(path, 50), "is damaged"),
    "header": (overwrite(0, b"\0" * 100), "is damaged"),
    "first page": (overwrite(100, b"\xff" * 3000), "is damaged"),
    "a page": (overwrite(4096 * 3, os.urandom(4096)), "is damaged"),
    "text": (lambda path: path.write_text("not a database " * 1000), "is damaged"),
    "another's": (replaced, "is another program's"),
    "a later one": (newer, "is of version 2; this program reads version 1"),
    "only the log": (only_the_log, "only its log is left"),
    "emptied": (emptied_with_a_log, "only its log is left"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_kept(path: Path, damage: str) -> None:
    filled(path)
    break_it, said = DAMAGE[damage]
    break_it(path)
    content = {file.name: file.read_bytes() for file in path.parent.glob("jobs.sqlite*") if file.suffix != ".turn"}
    for _ in range(2):
        with pytest.raises(Damaged, match=said):
            Table.open(path)
    aside = set_aside(path)
    assert re.fullmatch(r"jobs\.sqlite\.damaged-\d{8}-\d{6}", aside.name)
    left = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.suffix != ".turn"}
    kept = {name.replace(aside.name, path.name): found for name, found in left.items()}
    assert kept == {name: found for name, found in content.items() if not name.endswith("-shm")} | {
        name: found for name, found in kept.items() if name.endswith("-shm")
    }
    with Table.open(path) as table:
        assert table.new and table.listing() == []


def test_it_is_new_until_it_has_been_filled(path: Path) -> None:
    for _ in range(2):
        with Table.open(path) as table:
            assert table.new
    with Table.open(path) as table:
        table.filled()
        table.filled()
    with Table.open(path) as table:
        assert not table.new


def test_an_earlier_copy_is_never_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260131-120000")
    names = []
    for turn in range(3):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{turn}" * 1000)
        names.append(set_aside(path).name)
    assert names == [f"jobs.sqlite.damaged-20260131-120000{more}" for more in ("", "-1", "-2")]
    assert [(path.parent / name).read_text()[0] for name in names] == ["0", "1", "2"]


def test_a_row_that_is_none_of_ours(table: Table) -> None:
    add(table)
    for column, value in (("mark", "1 2"), ("mark", b"\xff"), ("folder", 5), ("failure", "{"), ("reason", b"\xff")):
        with pytest.raises(Damaged, match="is damaged"), table.together():
            table._held.write(f"UPDATE jobs SET {column} = ?", (value,))
            table.entry(1)
    assert table.entry(1) is not None


# No room, no leave


def test_a_full_disk_and_room_again(table: Table) -> None:
    add(table)
    pages = table._held.read("PRAGMA page_count")[0][0]
    table._held.read(f"PRAGMA max_page_count={pages}")
    with pytest.raises(TableError, match=r"jobs\.sqlite cannot be written: the disk is full") as full:
        for number in range(1000):
            add(table, f"{number}" * 20)
    assert full.value.errno == errno.ENOSPC and not isinstance(full.value, Damaged)
    before = table.listing(limit=2000)
    assert [job.id for job in before] == list(range(len(before), 0, -1))
    with pytest.raises(TableError, match="the disk is full"), table.together():
        for number in range(1000):
            add(table, f"more {number}" * 20)
    assert table.listing(limit=2000) == before
    table._held.read("PRAGMA max_page_count=1000000")
    add(table, "room again")
    assert len(table.listing(limit=2000)) == len(before) + 1


def test_files_that_may_not_grow(path: Path) -> None:
    """As under a quota: what fits is kept, the rest is said not to be, and it goes on when there is room."""
    with Table.open(path) as table:
        add(table)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    code = """
import resource
from pipeline.errors import TableError
table = Table.open(Path(sys.argv[1]))
kept = 1
def more(turns):
    global kept
    for _ in range(turns):
        table.accept("/in", f"/in/{kept}", "/out", Mark(1, 2, 3), 0, 0.0)
        kept += 1
table._held.read("PRAGMA wal_autocheckpoint=0")
try:
    more(10_000)
except TableError as error:
    print(type(error).__name__, error.errno, kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
more(10)
print(sum(table.counts().values()) - kept)
table.close()
"""
    done = child(code, path, preexec_fn=limit)
    out, err = done.communicate()
    assert err == ""
    first, second = out.splitlines()
    assert first.startswith(f"TableError {errno.EIO} ") and second == "0"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_what_may_not_be_written(path: Path) -> None:
    with Table.open(path) as table:
        add(table)
    path.chmod(0o400)
    with pytest.raises(TableError, match="may not be written by this user"):
        Table.open(path)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(TableError, match="cannot be opened: File exists") as wrong:
        Table.open(tmp_path / "state" / "jobs.sqlite")
    assert wrong.value.errno == errno.EEXIST


# Many


@pytest.mark.slow
def test_fifty_thousand_jobs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints what it takes; asserts only that it is right."""
    took: dict[str, float] = {}

    def timed(what: str, act: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        found = act()
        took[what] = time.perf_counter() - begun
        return found

    def fill(table: Table) -> None:
        with table.together():
            for number in range(50_000):
                add(table, f"some day {number // 100}/a clip of it {number}.mp4")

    with Table.open(path) as table:
        timed("accept 50,000 together", lambda: fill(table))
        assert timed("accept one", lambda: add(table)).id == 50_001
        timed("claim", lambda: table.claim(1, 1.0))
        timed("finish", lambda: table.finish(1, 1, 1.0, "", 1.0))
        assert len(timed("known", lambda: table.known("/in"))) == 50_001
        assert len(timed("waiting", lambda: table.waiting(1.0, 10))) == 10
        assert len(timed("listing", lambda: table.listing(limit=50))) == 50
        assert len(timed("search", lambda: table.listing(search="IT 4999"))) == 11
        assert timed("counts", table.counts)[State.WAITING] == 50_000
        assert timed("changed", table.changed) is False
    with timed("open", lambda: Table.open(path)) as table:
        assert timed("owner", lambda: table.owner("/out/a.mp4")) is not None
    with timed("looking", lambda: Table.looking(path)) as looking:
        assert timed("first look", lambda: looking.entry(50_001)) is not None
    with capsys.disabled():
        print()
        for what, seconds in took.items():
            print(f"{what:>24} {1000 * seconds:9.2f} ms")
