"""The report beside a finished file."""

from __future__ import annotations

import hashlib
import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import result
from pipeline.pixels import PIXEL_FORMATS
from pipeline.specs import Outcome
from pipeline.types import Clip, Job, Report

CLIP = Clip(7, "/in/a.mp4", "/out/a.mp4", "", 64, 48, PIXEL_FORMATS["yuv420p"], Fraction(1, 25))
REPORTS: dict[str, Report] = {
    "decode": {"packets": 90, "damaged_packets": 2, "read_errors": 1},
    "detect": {"faces": 30, "frames_without_faces": 4},
    "align": {"faces": 80, "frames_without_faces": 10},
    "publish": {"frames": 90},
}
ABOUT = {"job": 12, "model": {"digest": "d"}, "settings": {"swap": {}}, "times": {"seen": 1.0}, "attempts": 2}


def test_what_a_report_says() -> None:
    outcome = Outcome(Job(7, "/in/a.mp4", "/out/a.mp4"), 90, reports=REPORTS, seconds=3.0)
    files = {"source": {"path": "/in/a.mp4", "sha256": "s"}, "output": {"path": "/out/a.mp4", "sha256": "o"}}
    told = result.compose(CLIP, outcome, ABOUT, files, 5.0)
    assert told["version"] == 1 and told["job"] == 12 and told["understudy"]
    assert (told["source"], told["output"]) == (files["source"], files["output"])
    assert (told["model"], told["settings"], told["attempts"]) == ({"digest": "d"}, {"swap": {}}, 2)
    assert (told["frames"], told["faces"], told["misses"]) == (90, 80, 10)
    assert told["damage"] == {"damaged_packets": 2, "read_errors": 1}
    assert (told["fps"], told["seconds"], told["resumed_at"]) == (30.0, 3.0, 0)
    assert told["times"] == {"seen": 1.0, "ended": 5.0}
    assert told["reports"] == REPORTS


def test_a_clip_that_was_gone_on_with_counts_all_its_frames() -> None:
    from dataclasses import replace

    outcome = Outcome(Job(7, "", ""), 40, seconds=4.0)
    told = result.compose(replace(CLIP, first=50, kept=60), outcome, {}, {}, 0.0)
    assert (told["frames"], told["fps"], told["resumed_at"], told["job"]) == (90, 10.0, 60, 7)


NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))


@given(NAMES, NAMES)
def test_every_name_has_a_report_of_its_own_that_a_disk_takes(one: bytes, other: bytes) -> None:
    folder = b"/some/where/"
    paths = [result.path_for(os.fsdecode(folder + name)) for name in (one, other)]
    assert all(len(os.fsencode(path.name)) <= 255 and path.name.endswith(".json") for path in paths)
    assert (paths[0] == paths[1]) == (one == other)
    if len(one) <= 250:
        assert os.fsencode(paths[0]) == folder + one + b".json"


def test_written_and_read(tmp_path: Path) -> None:
    told = {"version": 1, "source": {"path": "/in/\udcff\n.mp4"}}
    result.write(str(tmp_path / "a.json"), told)
    assert result.read(tmp_path / "a.json") == told
    assert json.loads((tmp_path / "a.json").read_bytes()) == told


def test_it_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"as it was")
    (tmp_path / "a.json").symlink_to(tmp_path / "precious")
    result.write(str(tmp_path / "a.json"), {"version": 1})
    assert (tmp_path / "precious").read_bytes() == b"as it was" and result.read(tmp_path / "a.json") == {"version": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"version": 2}',
        b'{"version": 1, "x": ' + b"[" * 25 + b"]" * 25 + b"}",
        b"{",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_other_files_are_no_reports(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert result.read(tmp_path / "a.json") is None


def test_what_is_no_file_is_no_report(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    assert result.read(tmp_path / "a.json") is None
    assert result.read(tmp_path) is None
    assert result.read(tmp_path / "none") is None


def test_facts_and_digest(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 3_000_000)
    beats = []
    digest = result.sha256(str(file), lambda: beats.append(1))
    assert digest == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert len(beats) >= 3, "a large file says that it is alive meanwhile"
    found = file.stat()
    assert result.facts(str(file), digest, "/shown") == {
        "path": "/shown",
        "size": 3_000_000,
        "mtime_ns": found.st_mtime_ns,
        "inode": found.st_ino,
        "sha256": digest,
    }
