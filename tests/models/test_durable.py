"""models.durable: whole or not at all, and on the disk before anybody relies on it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from models import durable


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with durable.replacing(file) as out:
        out.write(b"new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_what_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(OSError, match="full"), durable.replacing(file) as out:
        out.write(b"ne")
        raise OSError("the disk is full")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_that_lies_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / ".file.part").symlink_to(tmp_path / "theirs")
    with durable.replacing(tmp_path / "file") as out:
        out.write(b"ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "file").read_text() == "ours"


def test_content_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(Path(f"/proc/self/fd/{handle}").readlink().name))

    def replaced(self: Path, target: Path) -> Path:
        done.append(f"-> {target.name}")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    durable.make_folder(tmp_path / "a" / "b")
    assert sorted(done) == sorted([tmp_path.name, "a"])
    done.clear()
    with durable.replacing(tmp_path / "file") as out:
        out.write(b"x")
    assert done == [".file.part", "-> file"]


def test_a_pipe_is_not_waited_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        durable.open_regular(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        durable.sha256(tmp_path)


def test_digests(tmp_path: Path) -> None:
    content = os.urandom(2_500_000)
    (tmp_path / "file").write_bytes(content)
    assert durable.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_what_is_private_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        durable.make_folder(tmp_path / "a" / "b", private=True)
        with durable.replacing(tmp_path / "a" / "b" / "file", private=True) as out:
            out.write(b"x")
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "a").rglob("*")}
    assert modes == {"b": 0o700, "file": 0o600}
