"""What becomes of jobs that have ended, each step of which may be taken twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import result
from pipeline.clerk import Clerk
from pipeline.inbox import WatchConfig, mark_of
from pipeline.jobs import Entry, State, Table
from pipeline.retries import Kind, RetryConfig
from pipeline.set_aside import read_reason
from pipeline.specs import Failure, Outcome
from pipeline.types import Job
from tests.pipeline.fake_engine import made_of, write_result


class Office:
    """A clerk, a table, and a watched folder."""

    def __init__(self, place: Path, table: Table) -> None:
        self.place = place
        self.table = table
        (place / "in").mkdir()
        (place / "in-out").mkdir()
        self.config = WatchConfig(place / "in", place / "in-out")
        self.clerk = Clerk(table, RetryConfig(), lambda job: [f"line about {job}"])

    def running(self, name: str = "a.mp4", content: bytes = b"clip") -> Entry:
        source = self.place / "in" / name
        source.write_bytes(content)
        mark = mark_of(source)
        assert mark is not None
        target = str(self.place / "in-out" / name)
        entry = self.table.accept(str(self.place / "in"), str(source), target, mark, 0, 0.0)
        return self.table.claim(entry.id, time.time())

    def job(self, entry: Entry) -> Job:
        return Job(entry.id, entry.source, entry.target, about={"times": {"claimed": entry.claimed}})

    def publish(self, entry: Entry) -> None:
        content = Path(entry.source).read_bytes()
        write_result(self.job(entry), content, made_of(content))

    def settle(self, entry: Entry, failure: Failure | None = None) -> Any:
        return self.clerk.settle(Outcome(self.job(entry), 8, failure, {}, 1.0), self.config)

    def state(self, entry: Entry) -> Entry:
        found = self.table.entry(entry.id)
        assert found is not None
        return found

    def put_away(self) -> None:
        """Waits until nothing is being moved."""
        deadline = time.monotonic() + 60
        while self.clerk.busy:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def again(self, **settings: Any) -> Clerk:
        """The clerk after a restart, with other settings of the folder."""
        self.clerk.close()
        self.config = WatchConfig(self.place / "in", self.place / "in-out", **settings)
        self.clerk = Clerk(self.table, RetryConfig(), lambda job: [])
        return self.clerk

    def catch_up(self, **settings: Any) -> None:
        self.again(**settings).catch_up(self.config, self.table.known(str(self.place / "in")))
        self.put_away()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Table.open(tmp_path / "jobs.sqlite") as table:
        office = Office(tmp_path, table)
        yield office
        office.clerk.close()


def test_done(office: Office) -> None:
    entry = office.running()
    office.publish(entry)
    assert office.settle(entry) is None
    done = office.state(entry)
    assert (done.state, done.frames, done.seconds) == (State.DONE, 8, 0.1) and len(done.digest) == 64
    assert office.settle(entry) is None and office.state(entry) == done, "it may be said twice"


@pytest.mark.parametrize("facts", [{"frames": 2**70}, {"seconds": float("nan")}, {"seconds": -1e400}, {"source": "x"}])
def test_reports_are_anybodys(office: Office, facts: dict[str, Any]) -> None:
    entry = office.running()
    office.publish(entry)
    path = result.path_for(entry.target)
    report = result.read(path)
    assert report is not None
    result.write(str(path), report | facts)
    office.clerk.recover({})
    assert office.state(entry).state is State.DONE


def test_published_before_the_end(office: Office) -> None:
    office.config = WatchConfig(office.place / "in", office.place / "in-out", on_done="delete")
    entry, other = office.running(), office.running("b.mp4")
    office.publish(entry)
    office.clerk.recover({entry.folder: office.config})
    assert (office.state(entry).state, office.state(other).state) == (State.DONE, State.WAITING)
    office.put_away()
    assert not Path(entry.source).exists() and Path(other.source).exists()


@pytest.mark.parametrize("what", ["another attempt", "another job", "another file", "no file", "no report"])
def test_what_was_not_published_by_just_this_attempt(office: Office, what: str) -> None:
    entry = office.running()
    if what == "another job":
        office.publish(office.running("b.mp4"))
        (office.place / "in-out/b.mp4").rename(entry.target)
        result.path_for(str(office.place / "in-out/b.mp4")).rename(result.path_for(entry.target))
    else:
        office.publish(entry)
    if what == "another attempt":
        office.table.finish(entry.id, 1, 1.0, "", 0.0)
        office.table.retry(entry.id)
        office.table.claim(entry.id, time.time())
    if what == "another file":
        Path(entry.target).write_bytes(b"half of")
    if what == "no file":
        Path(entry.target).unlink()
    if what == "no report":
        result.path_for(entry.target).unlink()
    office.clerk.recover({})
    assert office.state(entry).state is State.WAITING


def test_failed(office: Office) -> None:
    entry = office.running()
    verdict = office.settle(entry, Failure("decode", 3, "no video", "InputError"))
    assert verdict.kind is Kind.FAILED
    failed = office.state(entry)
    assert failed.state is State.FAILED and failed.failure is not None and failed.failure["frame"] == 3
    office.put_away()
    reason = read_reason(office.place / "in-out/failed/a.mp4.json")
    assert reason is not None and reason["log"] == ["line about 1"] and reason["sha256"]


def test_a_reason_that_cannot_be_written_is_said_and_no_more(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    (office.place / "in-out/failed").write_bytes(b"in the way")
    entry = office.running()
    office.settle(entry, Failure("decode", 3, "no video", "InputError"))
    assert office.state(entry).state is State.FAILED
    office.put_away()
    assert "the reason could not be written" in caplog.text


def test_refused_before_it_was_begun(office: Office) -> None:
    entry = office.running()
    failed = office.table.fail(entry.id, "it is half", None, 0.0)
    office.clerk.refuse(failed, office.config)
    office.put_away()
    reason = read_reason(office.place / "in-out/failed/a.mp4.json")
    assert reason is not None and reason["what"] == "it is half" and reason["sha256"]


def test_again_and_stopped(office: Office) -> None:
    entry = office.running()
    verdict = office.settle(entry, Failure("publish", None, "gone", "PublishError", errno=116))
    assert verdict.kind is Kind.AGAIN
    again = office.state(entry)
    assert again.state is State.WAITING and again.due > time.time() + 1 and again.attempts == 1
    office.table.claim(entry.id, 0.0)
    assert office.settle(entry, Failure("", None, "stopped", "Cancelled")) is None
    assert (office.state(entry).state, office.state(entry).attempts) == (State.WAITING, 1)
    office.table.claim(entry.id, 0.0)
    office.table.wish(entry.id, "cancel")
    office.settle(entry, Failure("", None, "stopped", "Cancelled"))
    assert office.state(entry).state is State.CANCELLED


def test_catching_up_with_what_is_to_be_put_away(office: Office) -> None:
    entries = [office.running(name) for name in ("a.mp4", "b.mp4", "c.mp4", "d.mp4")]
    for entry in entries:
        office.publish(entry)
        office.settle(entry)
    Path(entries[1].source).write_bytes(b"another by now")
    Path(entries[2].target).unlink()
    office.table.retry(entries[3].id)
    office.catch_up()
    assert len([*(office.place / "in").iterdir()]) == 4
    office.catch_up(on_done="delete")
    left = sorted(path.name for path in (office.place / "in").iterdir())
    assert left == ["b.mp4", "c.mp4", "d.mp4"], "c.mp4 is all that there is of it"


def test_catching_up_with_what_failed(office: Office) -> None:
    entry = office.running()
    office.settle(entry, Failure("decode", 3, "no video", "InputError"))
    office.put_away()
    assert Path(entry.source).exists()
    office.catch_up(on_failed="move")
    assert (office.place / "in-out/failed/a.mp4").read_bytes() == b"clip"


def test_what_was_replaced_is_not_put_away(office: Office) -> None:
    office.config = WatchConfig(office.place / "in", office.place / "in-out", on_done="delete")
    entry = office.running()
    office.publish(entry)
    Path(entry.source).write_bytes(b"another by now")
    office.settle(entry)
    office.put_away()
    assert Path(entry.source).read_bytes() == b"another by now"


def test_a_defect_in_the_background_is_said(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(*_: object) -> None:
        raise ArithmeticError("as told")

    monkeypatch.setattr("pipeline.clerk.mark_of", defect)
    office.config = WatchConfig(office.place / "in", office.place / "in-out", on_done="delete")
    entry = office.running()
    office.publish(entry)
    office.settle(entry)
    office.put_away()
    assert "ArithmeticError: as told" in caplog.text


def test_what_was_begun_when_it_closes_is_not_a_failure(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    entry = office.running()
    office.clerk._stopping = True
    office.settle(entry, Failure("decode", 3, "no video", "InputError"))
    office.put_away()
    reason = read_reason(office.place / "in-out/failed/a.mp4.json")
    assert reason is not None and reason["sha256"] is None and "digest" not in caplog.text
