"""Room is asked for before it is needed; on a small file system of its own where one can be mounted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.space import FULL, Space, free_bytes, free_files

MB = 1_000_000


class Disk:
    """A file system whose room is what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = {"/work": 100 * MB, "/out": 100 * MB}
        self.files = 10_000
        self.counted = 100_000
        self.now = 0.0
        self.fault: OSError | None = None
        self.flags = 0
        monkeypatch.setattr(os, "statvfs", self.statvfs)

    def statvfs(self, path: Path) -> SimpleNamespace:
        if self.fault:
            raise self.fault
        return SimpleNamespace(
            f_bavail=self.free[str(path)] // 1000,
            f_frsize=1000,
            f_favail=self.files,
            f_files=self.counted,
            f_flag=self.flags,
        )

    def space(self, least: int) -> Space:
        places = {"the work folder": Path("/work"), "the out folder": Path("/out")}
        return Space(places, least, lambda: self.now)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_the_place_and_both_figures_are_named(disk: Disk) -> None:
    space = disk.space(10 * MB)
    assert space.short() == ""
    disk.free["/out"] = 9_999_000
    assert (
        space.short() == "the out folder /out has 9.999 MB left and needs 10 MB; make room, and work goes on by itself"
    )
    disk.free["/work"] = 1_230_000
    assert space.short().startswith("the work folder /work has 1.23 MB left and needs 10 MB;")


def test_after_too_little_enough_is_a_quarter_more(disk: Disk) -> None:
    space = disk.space(10 * MB)
    disk.free["/out"] = 10 * MB
    assert not space.short()
    disk.free["/out"] = 9 * MB
    assert space.short()
    disk.free["/out"] = 12_490_000
    assert "has 12.49 MB left and needs 12.5 MB" in space.short()
    disk.free["/out"] = 12_500_000
    assert not space.short()
    disk.free["/out"] = 10 * MB
    assert not space.short()


def test_each_place_has_its_own_edge(disk: Disk) -> None:
    space = disk.space(10 * MB)
    disk.free["/work"] = 9 * MB
    assert space.short()
    disk.free |= {"/work": 13 * MB, "/out": 11 * MB}
    assert not space.short()


def test_files_may_run_out_before_bytes(disk: Disk) -> None:
    space = disk.space(10 * MB)
    disk.files = 255
    assert "the work folder /work has room for 255 files and needs it for 256" in space.short()
    disk.files = 319
    assert "needs it for 320" in space.short()
    disk.files = 320
    assert not space.short()
    disk.files = disk.counted = 0  # a file system that does not count them
    assert not space.short()


def test_nothing_is_needed_where_nothing_is_asked_for(disk: Disk) -> None:
    disk.free = dict.fromkeys(disk.free, 0)
    disk.files = 0
    assert not disk.space(0).short()


def test_a_refused_write_counts_for_a_minute(disk: Disk) -> None:
    space = disk.space(10 * MB)
    space.refused("the quota at /out is used up")
    assert space.short() == "the quota at /out is used up; that is tried again every 60 s"
    disk.now = 59.9
    assert space.short()
    disk.now = 60.0
    assert not space.short()
    assert {errno.ENOSPC, errno.EDQUOT} == FULL


def test_a_refused_write_counts_no_more_when_room_has_been_made(disk: Disk) -> None:
    space = disk.space(10 * MB)
    disk.free["/out"] = 20 * MB
    space.refused("the disk of /out is full")
    disk.free["/work"] = 1 * MB  # another is used
    assert space.short()
    disk.free |= {"/work": 100 * MB, "/out": 29 * MB}
    assert space.short().startswith("the disk of /out is full")
    disk.free["/out"] = 30 * MB
    assert not space.short()
    disk.free["/out"] = 20 * MB
    assert not space.short(), "that is over"


def test_a_place_that_does_not_answer_has_no_room(disk: Disk) -> None:
    disk.fault = OSError(errno.ESTALE, "Stale file handle")
    assert disk.space(1).short() == "the work folder /work cannot be reached: stale file handle"


def test_a_disk_that_is_read_only_has_no_room(disk: Disk) -> None:
    space = disk.space(10 * MB)
    disk.flags = os.ST_RDONLY | os.ST_NOSUID
    assert space.short().startswith("the work folder /work lies on a disk that is read-only; once it can be written")
    disk.flags = os.ST_NOSUID
    assert not space.short()


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (1000, "1 kB"),
        (999_999_000, "1000 MB"),
        (1536 * MB, "1.536 GB"),
        (123_456_000 * MB, "123456 GB"),
    ],
)
def test_sizes_are_said_as_people_do(disk: Disk, count: int, said: str) -> None:
    disk.free = dict.fromkeys(disk.free, 0)
    space = disk.space(count + 1)
    disk.free = dict.fromkeys(disk.free, count)
    assert f"has {said} left" in space.short()


def test_what_is_not_there_yet_is_where_it_will_be(tmp_path: Path) -> None:
    deep = tmp_path / "not" / "yet"
    assert free_bytes(deep) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    (tmp_path / "file").write_text("")
    assert free_bytes(tmp_path / "file" / "below") > 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB and 300 files."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=300", "none", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_disk_fills_up_and_is_cleared(small: Path) -> None:
    space = Space({"the out folder": small}, 2 << 20)
    assert not space.short()
    ballast = small / "ballast"
    ballast.write_bytes(bytes(3 << 20))
    assert "has 1.049 MB left and needs 2.097 MB" in space.short()
    with pytest.raises(OSError) as refused, (small / "more").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    assert refused.value.errno in FULL
    (small / "more").unlink()
    ballast.unlink()
    assert not space.short()
    for number in range(60):
        (small / str(number)).touch()
    assert (free_files(small) or 0) < 256
    assert "has room for" in space.short()


def test_a_place_that_is_unmounted_is_not_written_underneath(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: disk.statvfs(Path("/out")))
    mounted = {"device": 7}
    real = os.stat

    def stat(path: Path, **more: bool) -> object:
        return SimpleNamespace(st_dev=mounted["device"]) if path == tmp_path else real(path, **more)

    monkeypatch.setattr(os, "stat", stat)
    space = Space({"the out folder": tmp_path}, MB, lambda: disk.now)
    assert space.short() == ""
    mounted["device"] = 1  # what lies below the place where it was mounted
    assert space.short().startswith(f"the out folder {tmp_path} is not on the disk that it was on; mount that again")
    mounted["device"] = 7
    assert space.short() == ""
