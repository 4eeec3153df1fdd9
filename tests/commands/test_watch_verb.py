"""`watch`: the whole daemon once over, and what it refuses to start with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.program import Program, as_json, the_error


def test_once_drains_and_says_what_failed(program: Program, model: Path, face_clip: Path) -> None:
    Path("in").mkdir()
    strange = os.fsdecode(b"in/-a\nb\xff.mp4")
    Path(strange).write_bytes(face_clip.read_bytes())
    Path("in/text.mp4").write_text("this is no video")
    Path("config.yaml").write_text(f"model: {model}\nwatch: [{{in: in, out: out, settle_s: 0}}]\n")
    code, out, err = program("watch", "--once", "--json")
    assert code == 4
    lines = sorted((as_json(line) for line in out.splitlines()), key=lambda line: str(line["source"]))
    assert [(line["ok"], line["frames"]) for line in lines] == [(True, 8), (False, 0)]
    assert [row["name"] for row in lines[0]["stages"]][:2] == ["decode", "detect"]
    for line in err.splitlines():
        assert "message" in as_json(line)
    assert sorted(os.listdir("out")) == [os.path.basename(strange), "text.mp4.failed.json"]  # noqa: PTH119, PTH208
    reason = json.loads(Path("out/text.mp4.failed.json").read_text())["failure"]
    assert reason["sentence"].endswith("text.mp4 cannot be read as a video: invalid data found when processing input")


@pytest.mark.parametrize(
    ("watch", "code", "said"),
    [
        ("[]", 2, "no folder is watched"),
        ("[{in: nowhere, out: out}]", 2, "nowhere does not exist; make it first"),
        ("[{in: no, out: out}]", 2, "watch.0.in must be a path, not false; put quotes around it"),
        ("[{in: ., out: .}]", 2, "would be taken for new clips"),
        ("[{in: ., out: out, settle_s: -1}]", 2, "watch.0.settle_s must be from 0 to 3600, not -1"),
        ("[{in: ., out: out, to: nobody}]", 2, "knows a and b, not 'nobody'"),
        ("[{in: ., out: out, model: nowhere}]", 5, "nowhere does not exist"),
        ("[{in: ., out: config.yaml/out}]", 6, "cannot be made: Not a directory"),
        ("[{inn: ., out: out}]", 2, "unknown key watch.0.inn; did you mean watch.0.in?"),
    ],
)
def test_what_it_does_not_start_with(program: Program, model: Path, watch: str, code: int, said: str) -> None:
    Path("config.yaml").write_text(f"model: {model}\nwatch: {watch}\n")
    found, out, err = program("watch", "--once")
    assert (found, out) == (code, "") and said in the_error(err)
