"""Originals are moved whole, over nothing, and never lost; to another file system too."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import originals
from pipeline.errors import PublishError
from pipeline.originals import digest, mark_of, put_away

CONTENT = os.urandom(3 << 20) + b"end"

NAMES = (
    st.binary(min_size=1, max_size=255)
    .filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b".."))
    .map(os.fsdecode)
)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "day 1").mkdir(parents=True)
    (folder / "day 1" / "a.mp4").write_bytes(CONTENT)
    return folder


@pytest.fixture(params=["same", "other", "plain", "other, plain"])
def done(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where to: in the same file system or another, which can rename without replacing or cannot."""
    if "plain" in request.param:
        monkeypatch.setattr(originals, "_renamed", lambda file, where: errno.EINVAL)
    if "other" not in request.param:
        yield tmp_path / "done"
        return
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system")
    with TemporaryDirectory(prefix=f"done-{os.getpid()}-", dir=shm) as folder:
        yield Path(folder) / "done"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_it_keeps_its_place_its_content_and_its_date(inbox: Path, done: Path) -> None:
    source = inbox / "day 1" / "a.mp4"
    source.chmod(0o640)
    os.utime(source, ns=(1, 1_600_000_000_123_456_789))
    where = put_away(source, inbox, done, mark_of(source))
    assert where == done / "day 1" / "a.mp4"
    assert where.read_bytes() == CONTENT
    assert where.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert where.stat().st_mode & 0o777 == 0o640
    assert files(inbox) == [] and files(done) == ["day 1/a.mp4"]


def test_nothing_is_written_over(inbox: Path, done: Path) -> None:
    for number in range(4):
        source = inbox / "day 1" / "a.mp4"
        source.write_text(str(number))
        put_away(source, inbox, done)
    assert files(done) == ["day 1/a (2).mp4", "day 1/a (3).mp4", "day 1/a (4).mp4", "day 1/a.mp4"]
    assert (done / "day 1" / "a.mp4").read_text() == "0"
    assert (done / "day 1" / "a (4).mp4").read_text() == "3"


def test_a_dangling_link_is_a_file_too(inbox: Path, done: Path) -> None:
    (done / "day 1").mkdir(parents=True)
    (done / "day 1" / "a.mp4").symlink_to("nowhere")
    where = put_away(inbox / "day 1" / "a.mp4", inbox, done)
    assert where.name == "a (2).mp4"
    assert (done / "day 1" / "a.mp4").is_symlink()


def test_a_link_still_leads_to_the_same_file(inbox: Path, done: Path) -> None:
    link = inbox / "day 1" / "b.mp4"
    link.symlink_to("a.mp4")
    where = put_away(link, inbox, done)
    assert where.is_symlink() and where.read_bytes() == CONTENT
    assert files(inbox) == ["day 1/a.mp4"]


def test_what_was_replaced_stays(inbox: Path, done: Path) -> None:
    source = inbox / "day 1" / "a.mp4"
    mark = mark_of(source)
    source.unlink()
    source.write_bytes(b"another")
    with pytest.raises(PublishError, match=r"a\.mp4 cannot be moved to .*: it was replaced or written to"):
        put_away(source, inbox, done, mark)
    assert source.read_bytes() == b"another"
    assert files(inbox) == ["day 1/a.mp4"] and files(done) == []


def test_stopping_leaves_all_as_it_was(inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals, "_renamed", lambda file, where: errno.EXDEV)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(InterruptedError):
        put_away(inbox / "day 1" / "a.mp4", inbox, tmp_path / "done", stop=stop)
    assert files(inbox) == ["day 1/a.mp4"] and files(tmp_path / "done") == []


class Elsewhere:
    """The other file system, played: renames into `done` fail but for what is there already. Calls `on` before each."""

    def __init__(self, done: Path, on: Callable[[Path, Path], None]) -> None:
        self.done = done
        self.on = on

    def __call__(self, file: bytes, where: bytes) -> int:
        a, b = Path(os.fsdecode(file)), Path(os.fsdecode(where))
        self.on(a, b)
        if (self.done in a.parents) != (self.done in b.parents):
            return errno.EXDEV
        if os.path.lexists(b):
            return errno.EEXIST
        a.rename(b)
        return 0


@pytest.mark.parametrize("how", ["written to", "replaced"])
def test_what_comes_while_a_copy_gets_its_name_is_not_removed(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    source, done = inbox / "day 1" / "a.mp4", tmp_path / "done"

    def late(file: Path, where: Path) -> None:
        if file == source and where.name.startswith("."):  # the last moment: the copy is in its place
            assert (done / "day 1" / "a.mp4").read_bytes() == CONTENT
            if how == "replaced":
                source.unlink()
            source.write_bytes(b"new")

    monkeypatch.setattr(originals, "_renamed", Elsewhere(done, late))
    with pytest.raises(PublishError, match="replaced or written to"):
        put_away(source, inbox, done)
    assert source.read_bytes() == b"new"
    assert files(inbox) == ["day 1/a.mp4"] and files(done) == []


@pytest.mark.parametrize("how", ["link", "folder"])
def test_no_other_file_is_copied(inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Somebody who may write into the inbox, but not read what the daemon may, puts a link in the clip's place."""
    source, done = inbox / "day 1" / "a.mp4", tmp_path / "done"
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.mp4").write_bytes(b"secret!")
    mark = originals._mark_of(source)
    copied: list[bytes] = []
    real = originals.open_regular

    def swapped(path: Path, flags: int = 0) -> BinaryIO:
        """The link is there in just the moment in which the file is opened."""
        if path != source:
            return real(path, flags)
        place = source if how == "link" else source.parent
        place.rename(tmp_path / "kept")
        place.symlink_to(tmp_path / "private" / ("a.mp4" if how == "link" else ""))
        try:
            return real(path, flags)
        finally:
            place.unlink()
            (tmp_path / "kept").rename(place)

    def on(file: Path, where: Path) -> None:
        if done in file.parents:
            copied.append(file.read_bytes())

    monkeypatch.setattr(originals, "_renamed", Elsewhere(done, on))
    monkeypatch.setattr(originals, "open_regular", swapped)
    with pytest.raises(PublishError, match="cannot be moved"):
        put_away(source, inbox, done, mark)
    assert source.read_bytes() == CONTENT and files(done) == [] and not copied


def test_a_copy_that_reads_back_differently_is_none(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    monkeypatch.setattr(originals, "_renamed", Elsewhere(done, lambda file, where: None))
    real = originals.digest

    def rotten(path: Path, stop: Callable[[], bool]) -> str:
        with path.open("r+b") as file:
            file.write(b"\0")
        return real(path, stop)

    monkeypatch.setattr(originals, "digest", rotten)
    with pytest.raises(PublishError, match="what was written is not what is read back"):
        put_away(inbox / "day 1" / "a.mp4", inbox, done)
    assert (inbox / "day 1" / "a.mp4").read_bytes() == CONTENT
    assert files(done) == []


def test_the_copy_is_on_the_disk_before_the_original_goes(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    seen: list[Path] = []
    source, sync, unlink = inbox / "day 1" / "a.mp4", os.fsync, Path.unlink

    def noted(handle: int) -> None:
        seen.append(Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    def removed(path: Path, missing_ok: bool = False) -> None:
        seen.append(path / "removed")
        unlink(path, missing_ok)

    monkeypatch.setattr(originals, "_renamed", Elsewhere(done, lambda file, where: None))
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "unlink", removed)
    put_away(source, inbox, done)
    gone = next(at for at, path in enumerate(seen) if path.parent.parent == source.parent)
    written = next(at for at, path in enumerate(seen) if path.parent == done / "day 1" and path.suffix == ".part")
    assert written < gone and done / "day 1" in seen[written:gone] and done in seen[:gone] and tmp_path in seen[:gone]


@pytest.mark.parametrize("missing", ["source", "folder"])
def test_what_cannot_be_moved_is_said(inbox: Path, done: Path, missing: str) -> None:
    if missing == "source":
        (inbox / "day 1" / "a.mp4").unlink()
    else:
        done.write_text("a file")
    with pytest.raises(PublishError, match=r"a\.mp4 cannot be moved to .*: (no such file|not a directory|file exists)"):
        put_away(inbox / "day 1" / "a.mp4", inbox, done)


def test_it_stays_within_its_folder(inbox: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not in"):
        put_away(inbox / ".." / "in" / "day 1" / "a.mp4", inbox, tmp_path / "done")
    with pytest.raises(ValueError, match="subpath"):
        put_away(tmp_path / "x.mp4", inbox, tmp_path / "done")


@settings(max_examples=50)
@given(NAMES)
def test_any_name_is_moved_twice(name: str) -> None:
    with TemporaryDirectory() as folder:
        inbox, done = Path(folder, "in"), Path(folder, "done")
        inbox.mkdir()
        found = []
        for content in ("first", "second"):
            (inbox / name).write_text(content)
            found.append(put_away(inbox / name, inbox, done))
        assert [path.read_text() for path in found] == ["first", "second"]
        assert found[0].name == name
        second = os.fsencode(found[1].name)
        assert len(second) <= 255 and b" (2)" in second
        if len(os.fsencode(name)) <= 251:
            assert found[1].name.replace(" (2)", "", 1) == name or " (2)" in name


def test_long_names_are_cut_between_characters(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    name = "é" * 125 + ".mp4"
    for _ in range(2):
        (tmp_path / "in" / name).touch()
        where = put_away(tmp_path / "in" / name, tmp_path / "in", tmp_path / "done")
    assert where.name == "é" * 123 + " (2).mp4"


# --- digests ----------------------------------------------------------------------------------------------------------


def test_digests_are_of_the_whole_file(inbox: Path) -> None:
    source = inbox / "day 1" / "a.mp4"
    assert digest(source) == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(InterruptedError):
        digest(source, lambda: True)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OSError, match="no regular file"):
        digest(tmp_path / "pipe.mp4")
    with pytest.raises(OSError, match="No such file"):
        digest(tmp_path / "none.mp4")
