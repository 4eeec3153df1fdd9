"""A lost table is filled from what lies in the folders: what had been published stays so, the rest is new."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import result
from pipeline.errors import ConfigError
from pipeline.jobs import Entry, Mark, State, Table
from pipeline.rebuild import Place, Rebuilt, ended, rebuild
from pipeline.set_aside import add_digest, write_reason
from pipeline.specs import Failure, Outcome
from pipeline.types import Job


@pytest.fixture
def place(tmp_path: Path) -> Place:
    inbox, out = tmp_path / "in", tmp_path / "out"

    def targets(source: Path) -> Sequence[Path]:
        if source.suffix == ".txt":
            raise ConfigError("a .txt becomes nothing")
        beside = out / source.relative_to(inbox).parent
        return beside / f"{source.stem}.mp4", beside / f"{source.name}.mp4"

    for folder in (inbox, out, tmp_path / "failed"):
        folder.mkdir()
    return Place(inbox, out, tmp_path / "failed", targets)


def clip(place: Place, name: str, content: bytes | None = None) -> Path:
    source = place.inbox / name
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(content or os.fsencode(name))
    return source


def mark(path: Path) -> Mark:
    found = path.stat()
    return Mark(found.st_size, found.st_mtime_ns, found.st_ino)


def report_of(source: Path, target: Path, job: int = 7) -> dict[str, Any]:
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    return {
        "version": 1,
        "job": job,
        "source": result.facts(str(source), sha256),
        "output": result.facts(str(target), ""),
        "frames": 25,
        "seconds": 1.5,
    }


def publish(place: Place, source: Path, job: int = 7, second: bool = False, **more: Any) -> Path:
    """As if the clip had been done."""
    target = place.targets_for(source)[int(second)]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"the result of " + os.fsencode(source.name))
    result.path_for(str(target)).write_text(json.dumps(report_of(source, target, job) | more))
    return target


def note(place: Place, source: Path, **more: Any) -> None:
    """As if the clip had failed."""
    path = result.path_for(str(place.failed / source.relative_to(place.inbox)))
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = Entry(9, str(place.inbox), str(source), "", State.RUNNING, mark(source))
    failure = Failure("decode", 3, "broken\udcff")
    write_reason(path, entry, "broken\udcff", Outcome(Job(9, str(source), ""), failure=failure), [])
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def rebuilt(tmp_path: Path, place: Place) -> tuple[Rebuilt, dict[str, Any]]:
    """What is in a new table then, by source."""
    with Table.open(tmp_path / "state" / "jobs.sqlite") as table:
        done = rebuild(table, [place])
        return done, {entry.source: entry for entry in table.listing(limit=10_000)}


def test_what_was_done_what_failed_and_what_is_new(tmp_path: Path, place: Place) -> None:
    hostile = clip(place, os.fsdecode(b"deep\n/-\xff<b>.mkv"))
    done, failed, new = clip(place, "a.mp4"), clip(place, "b.mp4"), clip(place, "c.mp4")
    clip(place, "notes.txt")
    (place.inbox / "pipe.mp4").symlink_to("/dev/zero")
    target = publish(place, done, job=12)
    publish(place, hostile, job=3)
    note(place, failed)
    tally, found = rebuilt(tmp_path, place)
    assert tally == Rebuilt(files=6, done=2, failed=1) and str(new) not in found
    entry = found[str(done)]
    assert (entry.id, entry.state, entry.mark, entry.target) == (12, State.DONE, mark(done), str(target))
    assert (entry.folder, entry.frames, entry.seconds) == (str(place.inbox), 25, 1.5)
    assert entry.digest == hashlib.sha256(b"a.mp4").hexdigest() and entry.current
    assert found[str(hostile)].state is State.DONE
    entry = found[str(failed)]
    assert (entry.id, entry.state, entry.reason) == (9, State.FAILED, "broken\udcff")
    assert entry.failure == {"stage": "decode", "frame": 3, "error": "StageError"}


def test_a_restored_tree_is_known_by_its_content(tmp_path: Path, place: Place) -> None:
    same, other, longer = clip(place, "a.mp4"), clip(place, "b.mp4"), clip(place, "c.mp4")
    for source in (same, other, longer):
        publish(place, source)
        os.utime(source, ns=(0, 0))
    other.write_bytes(b"B.mp4")
    longer.write_bytes(b"longer")
    _, found = rebuilt(tmp_path, place)
    assert set(found) == {str(same)} and found[str(same)].mark == mark(same)


def test_a_tree_that_was_moved(tmp_path: Path, place: Place) -> None:
    source = clip(place, "a.mp4")
    moved = publish(place, source)
    told = json.loads(result.path_for(str(moved)).read_text())
    told["source"]["path"] = "/somewhere/else/a.mp4"
    result.path_for(str(moved)).write_text(json.dumps(told))
    assert set(rebuilt(tmp_path, place)[1]) == {str(source)}


def test_twins(tmp_path: Path, place: Place) -> None:
    """Two clips that differ in nothing but their extension: each keeps its own result."""
    first, second, new = (clip(place, name, b"twins") for name in ("a.mkv", "a.mp4", "a.mov"))
    for source in (first, second, new):
        os.utime(source, ns=(10**18, 10**18))
    targets = {str(first): publish(place, first), str(second): publish(place, second, second=True)}
    _, found = rebuilt(tmp_path, place)
    assert {source: Path(entry.target) for source, entry in found.items()} == targets


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def act(target: Path) -> None:
        path = result.path_for(str(target))
        told = json.loads(path.read_text())
        change(told)
        path.write_text(json.dumps(told))

    return act


NOT_TRUSTED: dict[str, Callable[[Path], object]] = {
    "no media": Path.unlink,
    "media of another size": lambda target: target.write_bytes(b"half"),
    "media that is a folder": lambda target: (target.unlink(), target.mkdir()),
    "no report": lambda target: result.path_for(str(target)).unlink(),
    "no JSON": lambda target: result.path_for(str(target)).write_text("{"),
    "bytes": lambda target: result.path_for(str(target)).write_bytes(b"\xff\xfe\0"),
    "deep": lambda target: result.path_for(str(target)).write_text("[" * 100_000),
    "a list": lambda target: result.path_for(str(target)).write_text("[]"),
    "an endless file": lambda target: (
        result.path_for(str(target)).unlink(),
        result.path_for(str(target)).symlink_to("/dev/zero"),
    ),
    "no source": broken(lambda told: told.pop("source")),
    "a source that is text": broken(lambda told: told.update(source="x")),
    "a source that is a list": broken(lambda told: told.update(source=[1])),
    "a size that is text": broken(lambda told: told["source"].update(size="5")),
    "a size that is true": broken(lambda told: told["output"].update(size=True)),
    "a huge job": broken(lambda told: told.update(job=10**400)),
    "a job below nothing": broken(lambda told: told.update(job=-1)),
    "a digest that is none": broken(lambda told: told["source"].update(sha256="\ud800")),
    "a path that is none": broken(lambda told: told["source"].update(path=None)),
    "seconds without an end": broken(lambda told: told.update(seconds=float("inf"))),
    "seconds that are none": broken(lambda told: told.update(seconds=float("nan"))),
    "seconds that are text": broken(lambda told: told.update(seconds="1")),
    "frames that are many": broken(lambda told: told.update(frames=2**64)),
    "frames that are null": broken(lambda told: told.update(frames=None)),
}


@pytest.mark.parametrize("hostile", NOT_TRUSTED)
def test_what_is_not_trusted(tmp_path: Path, place: Place, hostile: str) -> None:
    bad, good = clip(place, "a.mp4"), clip(place, "b.mp4")
    target = publish(place, bad)
    publish(place, good)
    NOT_TRUSTED[hostile](target)
    assert set(rebuilt(tmp_path, place)[1]) == {str(good)}


def test_a_failure_is_known_by_its_content_too(tmp_path: Path, place: Place) -> None:
    digested, plain = clip(place, "a.mp4"), clip(place, "b.mp4")
    for source in (digested, plain):
        note(place, source)
    add_digest(result.path_for(str(place.failed / "a.mp4")), digested)
    for source in (digested, plain):
        os.utime(source, ns=(0, 0))
    assert set(rebuilt(tmp_path, place)[1]) == {str(digested)}


@pytest.mark.parametrize("size", [1, "1", None, 10**500])
def test_notes_are_not_trusted_either(tmp_path: Path, place: Place, size: object) -> None:
    source = clip(place, "a.mp4")
    note(place, source, mark={"size": size, "mtime_ns": source.stat().st_mtime_ns})
    assert rebuilt(tmp_path, place)[1] == {}


def test_what_a_note_says_is_no_longer_than_what_we_say(tmp_path: Path, place: Place) -> None:
    source = clip(place, "a.mp4")
    note(place, source, stage="s" * 10**6, error=["x"], frame=10**50)
    (entry,) = rebuilt(tmp_path, place)[1].values()
    assert entry.failure == {"stage": "s" * 100}


def test_a_path_with_a_zero_in_it(tmp_path: Path, place: Place) -> None:
    source = clip(place, "a.mp4")
    target = publish(place, source)
    broken(lambda told: told["source"].update(path="a\0b"))(target)
    assert set(rebuilt(tmp_path, place)[1]) == {str(source)}


def test_what_the_table_knows_already_stays(tmp_path: Path, place: Place) -> None:
    first, second = clip(place, "a.mp4"), clip(place, "b.mp4")
    publish(place, first, job=1)
    publish(place, second, job=2)
    with Table.open(tmp_path / "state" / "jobs.sqlite") as table:
        job = table.accept(str(place.inbox), str(first), "/elsewhere", mark(first), 0, 0.0)
        assert rebuild(table, [place]).done == 1
        assert table.current(str(first)) == job
        assert rebuild(table, [place]).done == 0
        assert table.counts()[State.DONE] == 1 and not table.new


def test_stopped_on_the_way_it_is_begun_again(tmp_path: Path, place: Place) -> None:
    for number in range(3):
        publish(place, clip(place, f"{number}.mp4"), job=number + 1)
    with Table.open(tmp_path / "state" / "jobs.sqlite") as table:
        assert rebuild(table, [place], going_on=lambda: False) == Rebuilt(0, 0, 0)
        assert table.new
        assert rebuild(table, [place]).done == 3
        assert not table.new


def test_a_folder_that_is_not_there(tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.inbox.rmdir()
    assert rebuilt(tmp_path, place)[0] == Rebuilt(0, 0, 0)
    assert "is not there; what has been made of its clips is not known" in caplog.text


def test_results_below_the_inbox_are_no_clips(tmp_path: Path, place: Place) -> None:
    inner = place.inbox / "out"
    inner.mkdir()
    nested = place._replace(out=inner, targets_for=lambda source: (inner / source.name,))
    publish(nested, clip(nested, "a.mp4"))
    assert rebuilt(tmp_path, nested)[0] == Rebuilt(1, 1, 0)


def test_one_clip_alone(place: Place) -> None:
    source = clip(place, "a.mp4")
    assert ended(place, source) is None and ended(place, place.inbox / "nothing.mp4") is None
    publish(place, source)
    found = ended(place, source)
    assert found is not None and found.state is State.DONE
