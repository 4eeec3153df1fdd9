"""What lies below a folder is found cheaply, and nobody is led astray on the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline import tree as module
from pipeline.tree import Tree


def tree(root: Path, *excluded: Path, recursive: bool = True) -> Tree:
    return Tree(root, recursive, (".mp4", ".mkv"), excluded)


def names(found: Tree) -> list[str]:
    assert found.reachable()
    return sorted(path[len(found.root) + 1 :] for path, _ in found.everything())


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_clips_by_their_names(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.mp4", "B.MKV", "c.txt", ".d.mp4", "e.part.mp4", "mp4", "x/y/f.mp4")))
    touch(tmp_path / ".thumbs/g.mp4", tmp_path / "@eaDir/h.mp4", tmp_path / "lost+found/i.mp4")
    assert names(tree(tmp_path)) == ["B.MKV", "a.mp4", "x/y/f.mp4"]
    assert names(tree(tmp_path, recursive=False)) == ["B.MKV", "a.mp4"]


def test_links_do_not_lead_astray(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "in/out"
    touch(root / "a.mp4", root / "x/b.mp4", tmp_path / "elsewhere/c.mp4", out / "done.mp4")
    (root / "loop").symlink_to(root)
    (root / "x/up").symlink_to("..")
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (root / "link.mp4").symlink_to(tmp_path / "elsewhere/c.mp4")  # a link to a clip is a clip
    (root / "own.mp4").symlink_to(out / "done.mp4")  # but not one to what we made: it would never end
    found = tree(root, out)
    assert names(found) == ["a.mp4", "link.mp4", "x/b.mp4"]
    assert [path for path, _ in found.near([f"{root}/own.mp4", f"{root}/link.mp4", f"{root}/loop/a.mp4"])] == [
        f"{root}/link.mp4"
    ]


def test_own_folders_wherever_they_lie_and_whatever_they_are_called(tmp_path: Path) -> None:
    root, real = tmp_path / "in", tmp_path / "real"
    touch(root / "a.mp4", root / "results/b.mp4", root / "x/work/c.mp4", root / "resultsandmore/d.mp4")
    real.mkdir()
    (tmp_path / "named").symlink_to(root / "results")
    found = tree(root, tmp_path / "named", root / "x/../x/work", tmp_path / "none", tmp_path)
    assert names(found) == ["a.mp4", "resultsandmore/d.mp4"]
    (root / "results").rename(root / "renamed")  # by its inode, as long as the name still leads there
    (tmp_path / "named").unlink()
    (tmp_path / "named").symlink_to(root / "renamed")
    assert names(found) == ["a.mp4", "resultsandmore/d.mp4"]
    assert list(found.near([f"{root}/renamed/b.mp4", f"{root}/x/work/c.mp4"])) == []


def test_what_was_heard_of_is_looked_at_where_it_is(tmp_path: Path) -> None:
    root = tmp_path / "in"
    touch(root / "a.mp4", root / "x/b.mp4")
    found = tree(root)
    names(found)
    touch(root / "new/deep/c.mp4", root / "new/d.mp4", root / ".hidden/e.mp4", tmp_path / "f.mp4", root / "x/g.mp4")

    def near(*paths: str) -> list[str]:
        return sorted(path[len(str(root)) + 1 :] for path, _ in found.near([f"{root}/{path}" for path in paths]))

    assert near("a.mp4") == ["a.mp4"]
    assert near("new/deep/c.mp4") == ["new/d.mp4", "new/deep/c.mp4"]  # the folder was new
    assert near("new/deep/c.mp4") == ["new/deep/c.mp4"]
    assert near("x", "x/g.mp4") == ["x/b.mp4", "x/g.mp4", "x/g.mp4"]
    assert near(".hidden/e.mp4", "../f.mp4", "notes.txt", "none/at/all.mp4") == []
    assert list(found.near([str(tmp_path / "f.mp4"), "/"])) == []


def test_a_folder_that_cannot_be_read_is_said_once_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "bad/b.mp4", tmp_path / "bad/deep/c.mp4")
    real = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("/bad"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    found = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "scandir", scandir)
        for _ in range(3):
            assert names(found) == ["a.mp4"]
        assert found.passed_over(f"{tmp_path}/bad/deep/c.mp4") and not found.passed_over(f"{tmp_path}/badly.mp4")
    assert caplog.text.count("is passed over, it cannot be read: Permission denied") == 1
    assert len(names(found)) == 3 and not found.passed_over(f"{tmp_path}/bad/b.mp4")


def test_a_root_that_goes_away(tmp_path: Path) -> None:
    root = tmp_path / "in"
    touch(root / "a.mp4")
    found = tree(root)
    assert names(found) == ["a.mp4"]
    root.rename(tmp_path / "away")
    assert not found.reachable()
    assert found.trouble == f"{root} cannot be read: No such file or directory"
    root.mkdir()
    assert not found.reachable() and "another folder than before, and empty" in found.trouble
    root.rmdir()
    (tmp_path / "away").rename(root)
    assert found.reachable() and found.trouble == "" and names(found) == ["a.mp4"]


def test_a_folder_that_was_replaced_by_one_with_something_in_it_is_taken_for_it(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.mp4", tmp_path / "other/b.mp4")
    found = tree(tmp_path / "in")
    assert names(found) == ["a.mp4"]
    (tmp_path / "in").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "in")
    assert names(found) == ["b.mp4"]


class Moved:
    """A file's status, but on another device. Whoever else asks meanwhile (tracebacks do) gets all that there is."""

    def __init__(self, status: os.stat_result, device: int) -> None:
        self._status = status
        self.st_dev, self.st_ino = device, status.st_ino + 1000 * device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._status, name)


def devices(monkeypatch: pytest.MonkeyPatch, numbers: dict[str, int]) -> None:
    """Has paths lie on other devices than they do."""

    def as_said(real: Any) -> Any:
        def stat(path: Any, **more: Any) -> Any:
            status = real(path, **more)
            number = numbers.get(os.path.normpath(path), status.st_dev)
            return Moved(status, number)

        return stat

    monkeypatch.setattr(module.os, "stat", as_said(os.stat))
    monkeypatch.setattr(module.os, "lstat", as_said(os.lstat))


def test_a_share_that_is_unmounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder beneath a mount is no inbox, even if something lies in it."""
    root = tmp_path / "in"
    touch(root / "a.mp4", root / "nested/b.mp4")
    numbers = {str(root): 77, str(root / "nested"): 78}
    devices(monkeypatch, numbers)
    found = tree(root)
    assert names(found) == ["a.mp4", "nested/b.mp4"]
    del numbers[str(root / "nested")]
    numbers[str(root)] = 77
    monkeypatch.setitem(numbers, str(root / "nested"), 77)
    assert names(found) == ["a.mp4"] and found.passed_over(f"{root}/nested/b.mp4")
    numbers[str(root / "nested")] = 78
    assert names(found) == ["a.mp4", "nested/b.mp4"]
    del numbers[str(root)]
    assert not found.reachable() and found.trouble == f"what was mounted at {root} is not there; mount it again"
    numbers[str(root)] = 99  # a share has another number each time
    assert found.reachable()


def test_the_same_folder_mounted_within_itself_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a/b.mp4", tmp_path / "c/b.mp4")
    real = os.lstat
    same = {str(tmp_path / "c"): str(tmp_path / "a")}
    monkeypatch.setattr(module.os, "lstat", lambda path: real(same.get(path, path)))
    assert len(names(tree(tmp_path))) == 1


def test_depth(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(300):
        deep = deep / "x"
        deep.mkdir()
    touch(deep / "a.mp4")
    assert len(names(tree(tmp_path))) == 1
