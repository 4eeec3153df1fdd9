"""What the daemon says of itself: whole whenever it is read, and said on a full disk, too."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import live
from pipeline.live import Arriving, Folder, Lane, Live, Running, StageNow

SAID = Live(
    pid=7,
    version="0.1.0",
    started=1.0,
    time=2.0,
    state="running",
    ready=True,
    folders=(Folder("/in", "/out", "events", "", (Arriving("/in/a.mp4", 5, "it is empty"),)),),
    lanes=(Lane("/model", "b", "cpu", "ready", stages=(StageNow("swap", 1, 0.5, 0.25, 0.25),)),),
    running=(Running(3, "/in/b.mp4", "/out/b.mp4", "swap", 4, None, 1.5, None, 3.0, ""),),
)
PAUSED = replace(SAID, time=3.0, state="paused", reason="the state folder /state has 0 bytes left")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert live.read(tmp_path) is None
    for told in (SAID, PAUSED):
        live.write(tmp_path, told)
        assert live.read(tmp_path) == told
    assert [path.name for path in tmp_path.iterdir()] == [live.FILE]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """New files get nothing written into them any more."""

    def refuse(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)


def test_on_a_full_disk_it_is_written_over(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    live.write(tmp_path, SAID)
    size = (tmp_path / live.FILE).stat().st_size
    request.getfixturevalue("full")
    live.write(tmp_path, PAUSED)
    assert live.read(tmp_path) == PAUSED
    many = replace(PAUSED, running=PAUSED.running * 1000)
    live.write(tmp_path, many)
    assert live.read(tmp_path) == replace(many, folders=(Folder("/in", "/out", "events"),), lanes=(), running=()), (
        "what does not fit is left out"
    )
    assert (tmp_path / live.FILE).stat().st_size == size
    assert [path.name for path in tmp_path.iterdir()] == [live.FILE]


def test_what_cannot_be_said_at_all_leaves_what_was(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    live.write(tmp_path, SAID)
    request.getfixturevalue("full")
    live.write(tmp_path, replace(PAUSED, reason="x" * 10_000))
    assert live.read(tmp_path) == SAID
    (tmp_path / live.FILE).unlink()
    with pytest.raises(FileNotFoundError):
        live.write(tmp_path, PAUSED)
