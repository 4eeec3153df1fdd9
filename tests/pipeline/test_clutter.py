"""Which names are nobody's clips."""

from __future__ import annotations

import pytest

from pipeline.clutter import companions, is_clutter, is_clutter_folder


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.mp4", "._a.mp4", ".a.mp4.Xy12Zq", ".syncthing.a.mp4.tmp", "~syncthing~a.mp4.tmp", "~$a.mp4"),
        *("a.mp4.part", "a.part.mp4", "a.temp.MP4", "a.mp4.crdownload", "a.mp4.filepart", "a.mp4.!ut", "a.MP4.TMP"),
        *("a.mp4.opdownload", "a.mp4.download", "a.mp4.incomplete", "a.partial.mp4", "a.mp4.aria2", "~a.mp4"),
    ],
)
def test_files_that_are_passed_over(name: str) -> None:
    assert is_clutter(name)


@pytest.mark.parametrize("name", ["a.mp4", "-rf.mp4", "part.mp4", "a part.mp4", "template.mov", "a.b.c.mkv", "mp4"])
def test_files_that_are_not(name: str) -> None:
    assert not is_clutter(name)


@pytest.mark.parametrize(
    "name", [".Trash-1000", ".stversions", "@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", "~syncthing~x"]
)
def test_folders(name: str) -> None:
    assert is_clutter_folder(name)
    assert not is_clutter_folder(name.strip(".@#~$") + " of mine")


def test_companions() -> None:
    assert companions("x/a.mp4") == ("x/a.mp4.aria2", "x/a.mp4.part")
