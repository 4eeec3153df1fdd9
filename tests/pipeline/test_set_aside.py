"""The reason of a failure: whole, complete, readable, and harmless to read."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import set_aside
from pipeline.errors import PublishError
from pipeline.inbox import WatchConfig
from pipeline.jobs import Entry, State
from pipeline.originals import mark_of
from pipeline.publish import partial_path
from pipeline.set_aside import add_digest, read_reason, reason_path, write_reason
from pipeline.specs import Failure, Outcome
from pipeline.types import Job

ROOT = Path(__file__).parents[2]
HOSTILE = "a\n<b>\udcff é\x1b[31m.mp4"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in" / "day").mkdir(parents=True)
    file = tmp_path / "in" / "day" / HOSTILE
    file.write_bytes(b"content")
    return file


@pytest.fixture
def entry(source: Path) -> Entry:
    mark = mark_of(source)
    assert mark is not None
    folder = source.parent.parent
    return Entry(12, str(folder), str(source), "/out/day/a.mp4", State.RUNNING, mark, attempts=3, crashes=2)


@pytest.fixture
def path(source: Path, tmp_path: Path) -> Path:
    return reason_path(WatchConfig(tmp_path / "in", tmp_path / "out"), source)


def outcome(entry: Entry, failure: Failure) -> Outcome:
    return Outcome(Job(entry.id, entry.source, entry.target), failure=failure)


CRASH = Failure("swap", 41, "its process was killed by SIGSEGV", detail="Fatal Python error", signal=11)


def test_all_that_is_known_is_said(path: Path, entry: Entry) -> None:
    write_reason(path, entry, "it killed its process 3 times", outcome(entry, CRASH), [f"line {n}" for n in range(99)])
    reason = read_reason(path)
    assert reason is not None
    assert reason.pop("when").startswith(time.strftime("%Y-%m-%dT", time.gmtime()))
    versions = reason.pop("versions")
    assert set(versions) == {"python", "understudy", "av", "torch", "mediapipe"}
    assert versions["python"] == sys.version.split()[0]
    assert reason == {
        "version": 1,
        "what": "it killed its process 3 times",
        "job": 12,
        "source": entry.source,
        "target": "/out/day/a.mp4",
        "mark": {"size": 7, "mtime_ns": entry.mark.mtime_ns, "inode": entry.mark.inode},
        "sha256": None,
        "stage": "swap",
        "frame": 41,
        "error": "StageError",
        "signal": "SIGSEGV",
        "errno": None,
        "detail": "Fatal Python error",
        "attempts": 3,
        "crashes": 3,
        "log": [f"line {n}" for n in range(49, 99)],
        "retry": "understudy jobs retry 12",
    }


def test_errors_have_names(path: Path, entry: Entry) -> None:
    failed = Failure("decode", None, "x", "InputError", "T" * 50_000, errno=5)
    write_reason(path, replace(entry, digest="abc"), "x", outcome(entry, failed), [])
    reason = read_reason(path)
    assert reason is not None
    assert (reason["errno"], reason["signal"], reason["crashes"], reason["sha256"]) == ("EIO", None, 2, "abc")
    assert len(reason["detail"]) == 20_000
    odd = Failure("decode", None, "x", errno=99_999, signal=77)
    write_reason(path, entry, "x", outcome(entry, odd), [])
    reason = read_reason(path)
    assert reason is not None and (reason["errno"], reason["signal"]) == ("99999", "77")


def test_a_job_that_was_refused_has_a_reason_too(path: Path, entry: Entry) -> None:
    write_reason(path, replace(entry, attempts=0, crashes=0), "it is no clip", None, [])
    reason = read_reason(path)
    assert reason is not None
    assert (reason["what"], reason["stage"], reason["error"], reason["crashes"]) == ("it is no clip", None, None, 0)


def test_it_lies_where_the_settings_say(tmp_path: Path, source: Path) -> None:
    config = WatchConfig(tmp_path / "in", tmp_path / "out", failed=tmp_path / "bad")
    assert reason_path(config, source) == tmp_path / "bad" / "day" / f"{HOSTILE}.json"
    long = source.with_name("é" * 125 + ".mp4")
    name = os.fsencode(reason_path(config, long).name)
    assert len(name) <= 255 and name.endswith(b".json")
    assert reason_path(config, long) != reason_path(config, long.with_name("é" * 124 + "xx.mp4"))


def test_what_was_said_before_is_replaced_and_nothing_half_is_left(
    path: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_reason(path, entry, "first", None, [])
    write_reason(path, entry, "second", None, [])

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PublishError, match="no space left"):
        write_reason(path, entry, "third", None, [])
    reason = read_reason(path)
    assert reason is not None and reason["what"] == "second"
    assert list(path.parent.iterdir()) == [path]


def test_killed_writers_leave_whole_reasons(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from pipeline.jobs import Entry, Mark, State
from pipeline.set_aside import write_reason
entry = Entry(1, "/in", "/in/a", "/out/a", State.RUNNING, Mark(1, 2, 3))
for number in range(10**9):
    write_reason(Path(sys.argv[1]), entry, str(number), None, ["x" * 5000] * 50)
    if not number:
        print("begun", flush=True)
"""
    path = tmp_path / "a.mp4.json"
    for pause_ms in (3, 11, 19):
        command = [sys.executable, "-c", program, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None and writer.stdout.readline()
            time.sleep(pause_ms / 1000)
            writer.send_signal(signal.SIGKILL)
        reason = read_reason(path)
        assert reason is not None and len(reason["log"]) == 50


# --- the digest -------------------------------------------------------------------------------------------------------


def test_the_digest_comes_later(path: Path, entry: Entry, source: Path) -> None:
    write_reason(path, entry, "x", None, ["line"])
    before = read_reason(path)
    add_digest(path, source)
    assert before is not None
    assert read_reason(path) == {**before, "sha256": hashlib.sha256(b"content").hexdigest()}


def test_no_digest_of_another_file(path: Path, entry: Entry, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_reason(path, entry, "x", None, [])
    before = read_reason(path)
    real = set_aside.digest

    def slowly(file: Path, stop: object) -> str:
        found = real(file)
        source.write_bytes(b"another content")
        return found

    monkeypatch.setattr(set_aside, "digest", slowly)
    add_digest(path, source)
    assert read_reason(path) == before
    monkeypatch.undo()
    add_digest(path, source)  # which is not what has failed
    assert read_reason(path) == before
    with pytest.raises(InterruptedError):
        write_reason(path, replace(entry, mark=mark_of(source) or entry.mark), "x", None, [])
        add_digest(path, source, lambda: True)


def test_a_reason_that_has_gone_does_not_come_back(
    path: Path, entry: Entry, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_reason(path, entry, "x", None, [])

    def slowly(file: Path, stop: object) -> str:
        path.unlink()  # the clip was tried again meanwhile, and is done
        return "0"

    monkeypatch.setattr(set_aside, "digest", slowly)
    add_digest(path, source)
    assert not path.exists()


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"version": 2}',
        b'{"version": [1]}',
        b"[" * 200_000,
        b'{"version": ' + b"9" * 100_000 + b"}",
        b"\xff\xfe\x00",
        b" " * (5 << 20) + b'{"version": 1}',
    ],
)
def test_what_is_no_reason_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json").write_bytes(content)
    assert read_reason(tmp_path / "r.json") is None


def test_neither_links_nor_pipes_nor_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text('{"version": 1}')
    assert read_reason(tmp_path / "real.json") == {"version": 1}
    (tmp_path / "link.json").symlink_to("real.json")
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "link.json", tmp_path / "pipe.json", tmp_path, tmp_path / "none.json"):
        assert read_reason(path) is None


@given(st.binary(max_size=300))
def test_anything_can_be_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    assert read_reason(path) is None


def test_nothing_heavy_is_loaded_for_it() -> None:
    code = "import pipeline.set_aside, sys; print({'torch', 'mediapipe', 'av', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_reasons_are_plain_ascii(path: Path, entry: Entry) -> None:
    write_reason(path, entry, "é\udcff", None, [])
    assert json.loads(path.read_bytes().decode("ascii"))["source"] == entry.source


def test_it_is_not_written_through_a_link(path: Path, entry: Entry, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"as it was")
    path.parent.mkdir(parents=True)
    Path(partial_path(str(path), entry.id)).symlink_to(precious)
    write_reason(path, entry, "refused", None, [])
    assert precious.read_bytes() == b"as it was" and read_reason(path) is not None
