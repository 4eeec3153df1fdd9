"""Plans: which file becomes which, and which plans are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, PublishError, UnderstudyError
from pipeline.plan import plan
from pipeline.types import Job


def mp4(source: str) -> str:
    return ".mp4"


def refusal(inputs: list[Path], out: Path | str, kind: type[UnderstudyError], force: bool = False) -> str:
    with pytest.raises(kind) as caught:
        plan([str(source) for source in inputs], str(out), mp4, force)
    return str(caught.value)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    clip = tmp_path / "a.mkv"
    clip.write_bytes(b"clip")
    return clip


def test_one_clip_to_a_file(clip: Path, tmp_path: Path) -> None:
    assert plan([str(clip)], str(tmp_path / "b.mov"), mp4) == (Job(1, str(clip), str(tmp_path / "b.mov")),)


@pytest.mark.parametrize("out", ["new", "new/", "new.d/"])
def test_one_clip_to_a_folder_that_is_made(clip: Path, tmp_path: Path, out: str) -> None:
    (job,) = plan([str(clip)], f"{tmp_path}/{out}", mp4)
    assert job.target == str(tmp_path / out / "a.mp4")
    assert (tmp_path / out).is_dir()


def test_several_clips_to_a_folder(clip: Path, tmp_path: Path) -> None:
    jobs = plan([str(clip), "/x/b.gif"], str(tmp_path / "out.d"), mp4)
    assert [(job.id, Path(job.target).name) for job in jobs] == [(1, "a.mp4"), (2, "b.mp4")]


def test_relative_paths_become_absolute(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan(["a.mkv"], "b.mp4", mp4) == (Job(1, str(clip), str(tmp_path / "b.mp4")),)


def test_two_clips_that_would_become_one(clip: Path, tmp_path: Path) -> None:
    said = refusal([clip, tmp_path / "x/a.mov"], tmp_path / "out", ConfigError)
    assert f"{clip} and {tmp_path}/x/a.mov would both become {tmp_path}/out/a.mp4" in said
    assert "both become" in refusal([clip, clip], tmp_path / "out", ConfigError)


def test_a_clip_is_never_its_own_result(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mkv").symlink_to(clip)
    (tmp_path / "hard.mkv").hardlink_to(clip)
    for target in (clip, tmp_path / "link.mkv", tmp_path / "hard.mkv"):
        assert "overwritten by its own result" in refusal([clip], target, ConfigError, force=True)


def test_what_is_there_already_stays_unless_forced(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.mp4"
    target.write_bytes(b"precious")
    assert refusal([clip], target, PublishError) == f"{target} exists already; --force replaces it"
    assert len(plan([str(clip)], str(target), mp4, force=True)) == 1
    assert target.read_bytes() == b"precious"


def test_places_that_cannot_be(clip: Path, tmp_path: Path) -> None:
    assert refusal([clip], tmp_path / "no/b.mp4", PublishError).endswith("does not exist; make it first")
    assert refusal([clip], clip / "b.mp4", PublishError).endswith("is not a folder")
    assert "there is a file of that name" in refusal([clip, clip], clip, PublishError)
    (tmp_path / "out/a.mp4").mkdir(parents=True)
    assert "is a folder; name a file in it" in refusal([clip], tmp_path / "out", PublishError)


def test_a_folder_that_may_not_be_written(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    assert "may not be written by this user" in refusal([clip], tmp_path / "b.mp4", PublishError)
