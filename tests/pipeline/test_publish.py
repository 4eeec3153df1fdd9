"""Publish: the target is the whole file or what it was before."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import result
from pipeline.errors import PublishError
from pipeline.publish import discard, partial_path, publish, sweep, take_over, write

NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=200
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) <= 255)


@given(NAMES, st.integers(0, 2**40))
def test_partial_names_are_hidden_beside_the_target_and_fit(name: str, job: int) -> None:
    partial = Path(partial_path(f"/some/where/{name}", job))
    assert partial.parent == Path("/some/where")
    assert partial.name.startswith(".") and partial.name.endswith(f".{os.getpid()}-{job}.part")
    assert len(os.fsencode(partial.name)) <= 255


def test_names_of_255_bytes_that_end_in_half_a_character(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127 + "x")
    partial = Path(partial_path(str(target), 7))
    partial.write_bytes(b"whole")
    publish(str(partial), str(target))
    assert target.read_bytes() == b"whole"


def test_jobs_do_not_share_partial_files() -> None:
    assert partial_path("/a/b.mp4", 1) != partial_path("/a/b.mp4", 2)


@pytest.mark.parametrize("length", range(225, 256))
def test_a_long_name_and_that_of_its_report_do_not_share_a_partial_file(length: int) -> None:
    target = f"/a/{'b' * (length - 4)}.mp4"
    assert partial_path(target, 7) != partial_path(str(result.path_for(target)), 7)


def test_partial_files_tell_whose_they_are() -> None:
    assert partial_path("/a/b.mp4", 1) == f"/a/.b.mp4.{os.getpid()}-1.part"
    assert partial_path("/a/b.mp4", 1, 77) == "/a/.b.mp4.77-1.part"


def test_a_partial_file_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"new")
    take_over(str(tmp_path / "theirs"), str(tmp_path / "mine"), "/out/a")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(PublishError, match="/out/a could not be put in its place: no such file") as caught:
        take_over(str(tmp_path / "theirs"), str(tmp_path / "mine"), "/out/a")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("replaced", [False, True])
def test_what_stands_beside_is_there_with_it_or_not_at_all(replaced: bool, tmp_path: Path) -> None:
    partial, beside, target, report = (tmp_path / name for name in ("p", "b", "a", "a.json"))
    partial.write_bytes(b"new")
    beside.write_bytes(b"about it")
    publish(str(partial), str(target), [(str(beside), str(report))])
    assert (target.read_bytes(), report.read_bytes()) == (b"new", b"about it")
    if not replaced:
        target.unlink()
    report.unlink()
    beside.write_bytes(b"about another")
    with pytest.raises(PublishError, match="no such file"):
        publish(str(partial), str(target), [(str(beside), str(report))])
    assert not report.exists(), "of a file that is not even whole nothing is said"


def test_what_stands_beside_goes_where_the_file_cannot_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, beside, target, report = (tmp_path / name for name in ("p", "b", "a", "a.json"))
    partial.write_bytes(b"new")
    beside.write_bytes(b"about it")
    rename = Path.replace

    def refused(self: Path, to: str) -> Path:
        if self == partial:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(PublishError, match="input/output error"):
        publish(str(partial), str(target), [(str(beside), str(report))])
    assert not report.exists() and not target.exists()


def test_publish_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")
    partial = Path(partial_path(str(target), 1))
    partial.write_bytes(b"new")
    publish(str(partial), str(target))
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_file_and_folder_are_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, partial = tmp_path / "a", tmp_path / ".a.1-1.part"
    partial.write_bytes(b"new")
    seen: list[tuple[str, bool]] = []
    sync = os.fsync

    def noted(fd: int) -> None:
        seen.append((os.path.realpath(f"/proc/self/fd/{fd}"), target.exists()))
        sync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    publish(str(partial), str(target))
    assert seen == [(str(partial), False), (str(tmp_path), True)]


@pytest.mark.parametrize(
    ("partial", "target", "why"),
    [("none", "a", "no such file"), ("there", "none/a", "no such file"), ("there", "folder", "is a directory")],
)
def test_what_cannot_be_published_says_so_and_touches_nothing(
    partial: str, target: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "there").write_bytes(b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PublishError, match=why) as caught:
        publish(str(tmp_path / partial), str(tmp_path / target))
    assert "\n" not in str(caught.value) and str(tmp_path / target) in str(caught.value)
    assert caught.value.exit_code == 6
    assert caught.value.errno in (errno.ENOENT, errno.EISDIR)
    assert (tmp_path / "there").read_bytes() == b"new"


def test_discard_is_content_with_nothing(tmp_path: Path) -> None:
    discard(str(tmp_path / "none"))
    (tmp_path / "a").touch()
    discard(str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    keep = [
        f".mine.mp4.{os.getpid()}-1.part",
        ".init.mp4.1-1.part",
        f"shown.mp4.{dead.pid}-1.part",
        ".other.part",
        ".a.mp4",
        f".b.mp4.{dead.pid}-1.part.mp4",
    ]
    stale = [f".gone.mp4.{dead.pid}-1.part", f".new\nline.mp4.{dead.pid}-22.part", f"..{dead.pid}-3.part"]
    for name in keep + stale:
        (tmp_path / name).touch()
    (tmp_path / f".folder.{dead.pid}-1.part").mkdir()
    assert sorted(sweep(str(tmp_path))) == sorted(stale)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*keep, f".folder.{dead.pid}-1.part"])


@pytest.mark.parametrize("there", ["link", "hard link", "dangling", "pipe", "nothing"])
def test_a_partial_file_leads_nowhere_else(tmp_path: Path, there: str) -> None:
    """Others may write into the folder, and know what it will be called."""
    precious, partial = tmp_path / "precious", Path(partial_path(str(tmp_path / "a.json"), 7))
    precious.write_bytes(b"as it was")
    match there:
        case "link":
            partial.symlink_to(precious)
        case "hard link":
            partial.hardlink_to(precious)
        case "dangling":
            partial.symlink_to(tmp_path / "new")
        case "pipe":
            os.mkfifo(partial)
    write(str(partial), b"content")
    assert precious.read_bytes() == b"as it was" and not (tmp_path / "new").exists()
    assert partial.read_bytes() == b"content" and not partial.is_symlink()
