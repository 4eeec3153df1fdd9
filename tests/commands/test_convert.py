"""`convert`: clips go through, and what cannot is refused in one line before any work starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import av
import pytest

from tests.program import Program, as_json, the_error


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that starts any stage."""

    def start(*_: object) -> None:
        raise AssertionError("the engine was started")

    monkeypatch.setattr("pipeline.engine.Engine.start", start)


def test_clips_go_through_and_a_bad_one_does_not_stop_them(
    program: Program, model: Path, face_clip: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad\n.mp4"
    bad.write_text("this is no video")
    code, out, err = program("convert", face_clip, bad, "-o", tmp_path / "out", "--model", model, "--json")
    told = as_json(out)
    assert code == 3
    assert the_error(err) == (
        f"{tmp_path}/bad\\n.mp4 cannot be read as a video: invalid data found when processing input"
    )
    assert [(clip["ok"], clip["frames"]) for clip in told["clips"]] == [(True, 8), (False, 0)]
    stages = ["decode", "detect", "align", "mask", "swap", "blend", "disclose", "encode"]
    assert [row["name"] for row in told["stages"]] == stages
    assert told["bottleneck"] in {row["name"] for row in told["stages"]}
    assert told["clips"][0]["reports"]["swap"]["faces"] == 8
    assert os.listdir(tmp_path / "out") == ["face.mp4"]  # noqa: PTH208
    with av.open(str(tmp_path / "out/face.mp4")) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 8


@pytest.mark.usefixtures("no_engine")
class TestRefusals:
    """Nothing is started for any of these."""

    def test_no_model(self, program: Program, face_clip: Path) -> None:
        code, _, err = program("convert", face_clip, "-o", "b.mp4")
        assert (code, the_error(err)) == (2, "no model is set; give --model FOLDER, or model: in config.yaml")

    def test_a_model_that_is_not_there(self, program: Program, face_clip: Path) -> None:
        code, _, err = program("convert", face_clip, "-o", "b.mp4", "--model", "no")
        assert code == 5 and the_error(err).endswith(
            "/no does not exist; give the folder that `understudy train -o` made"
        )

    def test_a_person_that_the_model_does_not_know(self, program: Program, model: Path, face_clip: Path) -> None:
        code, _, err = program("convert", face_clip, "-o", "b.mp4", "--model", model, "--to", "c")
        assert code == 2 and the_error(err).endswith("knows a and b, not 'c'; choose with --to")

    def test_an_audit_that_nothing_can_be_written_into(
        self, program: Program, model: Path, face_clip: Path, tmp_path: Path
    ) -> None:
        home = tmp_path / "home"
        home.mkdir(0o700)
        (home / "audit.sqlite").write_text("not a database " * 1000)
        own = ("--set", f"provenance.folder={home}")
        code, _, err = program("convert", face_clip, "-o", "b.mp4", "--model", model, *own)
        assert code == 8 and "is damaged" in the_error(err) and "`understudy audit set-aside`" in the_error(err)

    @pytest.mark.parametrize("kind", ["missing", "empty", "a directory", "a named pipe"])
    def test_inputs_that_are_no_files(self, program: Program, model: Path, tmp_path: Path, kind: str) -> None:
        clip = tmp_path / "a.mp4"
        if kind == "empty":
            clip.touch()
        elif kind == "a directory":
            clip.mkdir()
        elif kind == "a named pipe":
            os.mkfifo(clip)
        code, _, err = program("convert", clip, "-o", "b.mp4", "--model", model)
        said = {"missing": "does not exist", "empty": "is empty (0 bytes)"}.get(kind, f"is {kind}, not a video file")
        assert (code, the_error(err)) == (3, f"{clip} {said}")

    def test_a_file_that_may_not_be_read(
        self, program: Program, model: Path, face_clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.access", lambda path, mode: mode != os.R_OK)  # root may read anything
        code, _, err = program("convert", face_clip, "-o", "b.mp4", "--model", model)
        assert code == 3 and the_error(err).endswith("may not be read by this user; change its permissions")

    def test_a_result_that_is_there(self, program: Program, model: Path, face_clip: Path) -> None:
        Path("b.mp4").write_text("precious")
        code, _, err = program("convert", face_clip, "-o", "b.mp4", "--model", model)
        assert (code, the_error(err)) == (6, f"{Path.cwd()}/b.mp4 exists already; --force replaces it")
        assert Path("b.mp4").read_text() == "precious"

    def test_a_result_in_a_folder_that_is_not_there(self, program: Program, model: Path, face_clip: Path) -> None:
        code, _, err = program("convert", face_clip, "-o", "no/b.mp4", "--model", model)
        assert (code, the_error(err)) == (6, "the folder no does not exist; make it first")

    def test_the_clip_itself_as_result(self, program: Program, model: Path, face_clip: Path) -> None:
        code, _, err = program("convert", face_clip, "-o", face_clip, "--model", model, "--force")
        assert code == 2 and "would be overwritten by its own result" in the_error(err)

    def test_two_clips_with_one_result(self, program: Program, model: Path, face_clip: Path) -> None:
        code, _, err = program("convert", face_clip, f"x/{face_clip.name}", "-o", "out", "--model", model)
        assert code == 2 and "would both become out/face.mp4" in the_error(err)

    def test_a_container_that_cannot_hold_the_codec(self, program: Program, model: Path, face_clip: Path) -> None:
        code, _, err = program("convert", face_clip, "-o", "b.mp4", "--model", model, "--set", "encode.codec=ffv1")
        assert code == 2 and "a .mp4 file cannot hold ffv1 video; use one of .mkv" in the_error(err)


def test_a_model_of_another_shape(program: Program, model: Path, face_clip: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    text = (other / "model.json").read_text().replace('"dense": 128', '"dense": 64')
    assert text != (other / "model.json").read_text()
    (other / "model.json").write_text(text)
    code, _, err = program("convert", face_clip, "-o", "b.mp4", "--model", other)
    assert code == 5 and "shape" in the_error(err)
    assert not Path("b.mp4").exists()
