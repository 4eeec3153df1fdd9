"""models.train.tensorboard: what TensorBoard will read, and that no disk stops a training."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from models.train.journal import ROLLED_BACK, Opening, Point
from models.train.tensorboard import FOLDER, TensorBoard
from pipeline.errors import RequirementError

OPENING = Opening(100, ("a", "b"), "original", "sketch", 8, 16, "cpu", "fp32", 1)


def events(folder: Path) -> list[list[Any]]:
    """The events of each file: a record is its length, a checksum, itself, a checksum."""
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]

    files = []
    for file in sorted((folder / FOLDER).iterdir()):
        content, found = file.read_bytes(), []
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
        files.append(found)
    return files


def scalars(event: Any) -> dict[str, float]:
    return {value.tag: round(value.simple_value, 4) for value in event.summary.value}


def test_what_it_writes(tmp_path: Path) -> None:
    told: list[str] = []
    board = TensorBoard(tmp_path, told.append)
    for _ in range(2):  # at once, in the same second
        board.begin(OPENING)
        board.point(Point(110, 1.0, {"a": 0.5, "b": float("nan")}, {"a": {"ssim": 0.25}}, 0.125, 32.0))
        board.judged(120, {"identity/a>b": 0.75})
        board.event(120, "saved")
        board.event(105, ROLLED_BACK)
        board.end(130, "stopped", 3.0)
    board.close()
    board.close()
    first, second = events(tmp_path)
    assert [e.step for e in first] == [e.step for e in second] == [0, 101, 110, 120, 106]
    assert first[0].file_version == "brain.Event:2"
    assert [e.session_log.status for e in first] == [0, 1, 0, 0, 1]
    assert scalars(first[2]) == {"loss/a": 0.5, "ssim/a": 0.25, "lr": 0.125, "speed/faces_per_s": 32.0}
    assert scalars(first[3]) == {"judgement/identity/a_as_b": 0.75}
    assert not told


def test_a_disk_that_refuses_is_told_once(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    told: list[str] = []
    board = TensorBoard(tmp_path, told.append)
    board.begin(OPENING)
    board.point(Point(1, 1.0, {"a": 0.5}))
    board.close()
    assert len(told) == 1 and "training goes on" in told[0] and (tmp_path / FOLDER).read_text() == "in the way"


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    told: list[str] = []
    board = TensorBoard(tmp_path, told.append)
    board.begin(OPENING)

    def refuse(event: object) -> None:
        raise OSError(28, "No space left on device")

    board._writer.write_event, writer = refuse, board._writer
    for iteration in range(3):
        board.point(Point(iteration, 1.0, {"a": 0.5}))
    writer.close()
    board.close()
    assert len(told) == 1 and "No space left" in told[0]


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(RequirementError, match="tensorboardX"):
        TensorBoard(tmp_path)
