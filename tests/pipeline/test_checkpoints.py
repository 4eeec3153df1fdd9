"""Checkpoints: what a work folder holds is believed only where it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import checkpoints
from pipeline.checkpoints import Checkpoint, Segment


def folder_of(tmp_path: Path, *frames: int) -> tuple[str, Checkpoint]:
    """A work folder with segments of so many frames, and its checkpoint, not written yet."""
    first, segments = 0, []
    for count in frames:
        name = checkpoints.segment_name(first)
        (tmp_path / name).write_bytes(bytes(count))
        segments.append(Segment(first, count, name, count, depth=2))
        first += count
    return str(tmp_path), Checkpoint(max(0, first - 3), first, tuple(segments))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    work, checkpoint = folder_of(tmp_path, 10, 20)
    assert checkpoints.read(work) is None
    checkpoints.write(work, checkpoint)
    assert checkpoints.read(work) == checkpoint
    later = Checkpoint(30, 30, checkpoint.segments, whole=True)
    checkpoints.write(work, later)
    assert checkpoints.read(work) == later
    assert not list(tmp_path.glob(".*.part"))


Harm = Callable[[dict[str, Any]], object]

HARMS: dict[str, Harm] = {
    "another version": lambda facts: facts.update(version=2),
    "no version": lambda facts: facts.pop("version"),
    "a gap": lambda facts: facts["segments"].pop(0),
    "another order": lambda facts: facts["segments"].reverse(),
    "fewer kept": lambda facts: facts.update(kept=29),
    "more kept": lambda facts: facts.update(kept=31),
    "begins too late": lambda facts: facts.update(first=31),
    "begins before": lambda facts: facts.update(first=-1),
    "words for numbers": lambda facts: facts.update(kept="30"),
    "words in a segment": lambda facts: facts["segments"][1].update(frames="20"),
    "an empty segment": lambda facts: facts["segments"][1].update(frames=0),
    "another file": lambda facts: facts["segments"][1].update(file="../../../etc/passwd"),
    "another size": lambda facts: facts["segments"][1].update(nbytes=21),
    "depth": lambda facts: facts["segments"][1].update(depth=-1),
    "nothing known": lambda facts: facts["segments"].append({}),
    "more than is known": lambda facts: facts.update(colour="blue"),
    "no list": lambda facts: facts.update(segments=7),
}


@pytest.mark.parametrize("name", HARMS)
def test_what_does_not_hold_is_not_believed(name: str, tmp_path: Path) -> None:
    work, checkpoint = folder_of(tmp_path, 10, 20)
    checkpoints.write(work, checkpoint)
    file = tmp_path / "checkpoint.json"
    facts = json.loads(file.read_bytes())
    HARMS[name](facts)
    file.write_text(json.dumps(facts))
    assert checkpoints.read(work) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b'{"version": 1}', b"[" * 100_000]
)
def test_what_is_no_checkpoint_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_bytes(content)
    (tmp_path / "reports.json").write_bytes(content)
    assert checkpoints.read(str(tmp_path)) is None
    assert checkpoints.kept_reports(str(tmp_path)) is None


def test_pipes_with_the_names_of_files_keep_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint.json")
    os.mkfifo(tmp_path / "reports.json")
    assert checkpoints.read(str(tmp_path)) is None
    assert checkpoints.kept_reports(str(tmp_path)) is None


def test_a_state_that_is_one_array_is_damaged(tmp_path: Path) -> None:
    with (tmp_path / "state.align.000000004.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="is damaged"):
        checkpoints.load_state(str(tmp_path), "align", 4)


def test_a_segment_that_is_gone_or_cut_short(tmp_path: Path) -> None:
    work, checkpoint = folder_of(tmp_path, 10, 20)
    checkpoints.write(work, checkpoint)
    last = tmp_path / checkpoints.segment_name(10)
    last.write_bytes(bytes(19))
    assert checkpoints.read(work) is None
    last.unlink()
    assert checkpoints.read(work) is None
    last.mkdir()
    assert checkpoints.read(work) is None


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, checkpoint = folder_of(tmp_path, 10, 20)
    checkpoints.write(work, checkpoint)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("pipeline.checkpoints.os.fsync", full)
        checkpoints.write(work, Checkpoint(30, 30, checkpoint.segments, whole=True))
    assert checkpoints.read(work) == checkpoint
    assert not list(tmp_path.glob(".*.part"))


def test_states_come_back_and_are_settled(tmp_path: Path) -> None:
    work = str(tmp_path)
    known = {"tracks": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "b"])}
    checkpoints.save_state(work, "align", 250, 240, known)
    checkpoints.save_state(work, "other", 250, 245, {})
    checkpoints.save_state(work, "align", 500, 498, known)
    first, back = checkpoints.load_state(work, "align", 250)
    assert first == 240 and back.keys() == known.keys()
    assert all(np.array_equal(back[name], known[name]) for name in known)
    assert checkpoints.settle(work, 250) == 240
    assert checkpoints.settle(work, 500) == 498
    assert checkpoints.settle(work, 750) == 750, "nobody saved anything for it"
    checkpoints.forget(work, 500)
    with pytest.raises(FileNotFoundError):
        checkpoints.load_state(work, "align", 250)
    assert checkpoints.load_state(work, "align", 500)[0] == 498


def test_settling_syncs_states_and_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save_state(str(tmp_path), "align", 250, 240, {})
    synced: list[str] = []
    real = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr("pipeline.checkpoints.os.fsync", seen)
    checkpoints.settle(str(tmp_path), 250)
    assert synced == [str(tmp_path / "state.align.000000250.npz"), str(tmp_path)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 800), flip=st.integers(0, 799), shorten=st.booleans())
@example(cut=0, flip=540, shorten=False)  # of another version of the format
@example(cut=0, flip=542, shorten=False)  # compressed in a way that nobody knows
def test_a_damaged_state_is_a_value_error(cut: int, flip: int, shorten: bool, tmp_path: Path) -> None:
    checkpoints.save_state(str(tmp_path), "align", 4, 2, {"tracks": np.arange(12.0)})
    path = tmp_path / "state.align.000000004.npz"
    data = bytearray(path.read_bytes())
    if shorten:
        data = data[: cut % len(data)]
    else:
        data[flip % len(data)] ^= 0xFF
    path.write_bytes(bytes(data))
    try:
        first, arrays = checkpoints.load_state(str(tmp_path), "align", 4)
    except (ValueError, OSError):
        return
    assert first == 2 and np.array_equal(arrays["tracks"], np.arange(12.0)), "a byte that nobody reads"


def test_reports_are_kept(tmp_path: Path) -> None:
    assert checkpoints.kept_reports(str(tmp_path)) is None
    checkpoints.keep_reports(str(tmp_path), {"decode": {"packets": 7}})
    assert checkpoints.kept_reports(str(tmp_path)) == {"decode": {"packets": 7}}


def test_sweeping_makes_the_folder_and_takes_what_is_half(tmp_path: Path) -> None:
    work = tmp_path / "7-abc"
    checkpoints.sweep(str(work))
    kept, checkpoint = folder_of(work, 10)
    checkpoints.write(kept, checkpoint)
    for name in (".segment.000000010.packets.99.part", ".checkpoint.json.99.part", ".state.align.000000010.npz.1.part"):
        (work / name).write_bytes(b"half")
    checkpoints.sweep(str(work))
    assert sorted(path.name for path in work.iterdir()) == ["checkpoint.json", "segment.000000000.packets"]
    with pytest.raises(FileNotFoundError):
        checkpoints.sweep(str(tmp_path / "none" / "7-abc"))
