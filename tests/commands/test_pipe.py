"""`pipe`: frames and nothing but frames; a clean end when the reader goes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models import description
from pipeline.provenance.audit import Audit
from pipeline.provenance.home import Home
from stages.watermark_finder import Finder
from tests.program import Program, the_error
from tests.unmarked import OPTIONS, REASON

SIZE = 256 * 256 * 3 // 2


@pytest.fixture
def y4m(face_clip: Path) -> bytes:
    """The clip as YUV4MPEG2."""
    buffer = io.BytesIO()
    with av.open(str(face_clip)) as clip, av.open(buffer, "w", format="yuv4mpegpipe") as out:
        stream = out.add_stream("wrapped_avframe", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for frame in clip.decode(video=0):
            frame.pict_type = av.video.frame.PictureType.NONE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Keys and an audit of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Home(tmp_path / "data/understudy")


def rows(home: Home) -> list[tuple[str, Mapping[str, Any]]]:
    return [(row.event, row.facts) for row in Audit(home).rows()]


def pipe(model: Path, *options: str) -> list[str | Path]:
    return [sys.executable, "-m", "pipeline", "pipe", "--model", model, *options]


def run(command: Sequence[str | Path], data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=120)


def test_nothing_but_frames_comes_out(model: Path, y4m: bytes, home: Home) -> None:
    done = run(pipe(model, "-v", *OPTIONS), y4m)
    assert done.returncode == 0
    header, _, rest = done.stdout.partition(b"\n")
    assert header.startswith(b"YUV4MPEG2 W256 H256 F25:1")
    frames = rest.split(b"FRAME\n")
    assert [len(frame) for frame in frames] == [0] + 8 * [SIZE]
    came = y4m.split(b"FRAME\n")[1:]
    for before, after in zip(came, frames[1:], strict=True):
        assert before != after
        assert before[: 256 * 8] == after[: 256 * 8]  # above the face not a bit has changed
    assert b"bottleneck: " in done.stderr
    off = {"watermark": 0, "watermark_off_because": REASON, "label": 0, "label_off_because": REASON}
    assert [facts["marks"] for _, facts in rows(home)] == [off]


def test_what_goes_out_is_marked_and_written_down(model: Path, y4m: bytes, home: Home) -> None:
    header, _, rest = y4m.partition(b"\n")
    done = run(pipe(model, "--set", "disclose.label.off_because=it stands on the stage"), header + b"\n" + 6 * rest)
    assert done.returncode == 0
    finder = Finder(home.watermark_key.read_bytes())
    for frame in done.stdout.split(b"FRAME\n")[1:]:
        finder.look(np.frombuffer(frame, np.uint8, 256 * 256).reshape(256, 256))
    found = finder.found()
    ((event, facts),) = rows(home)
    assert event == "published" and found is not None and facts["payload"] == f"{found.payload:012x}"
    identities, said = facts["identities"], description.read(model)
    assert sorted(digest for _, digest in identities) == sorted(said.identities.values())
    assert {name: facts[name] for name in ("job", "target", "model", "frames")} == {
        "job": "pipe",
        "target": "standard output",
        "model": said.digest,
        "frames": 48,
    }
    assert facts["marks"] == {"watermark": 1, "label": 0, "label_off_because": "it stands on the stage"}


def test_the_reader_leaves(model: Path, y4m: bytes, tmp_path: Path, home: Home) -> None:
    header, _, rest = y4m.partition(b"\n")
    read, write = os.pipe()
    with (tmp_path / "stderr").open("w+") as said:
        program = subprocess.Popen(pipe(model), stdin=subprocess.PIPE, stdout=write, stderr=said)
        os.close(write)
        assert program.stdin is not None
        program.stdin.write(header + b"\n" + rest)
        program.stdin.flush()
        assert os.read(read, 1) == b"Y"
        os.close(read)
        with suppress(BrokenPipeError):  # it may go before it had all that we have
            for _ in range(50):
                program.stdin.write(rest)
        program.wait(60)
        with suppress(BrokenPipeError):
            program.stdin.close()
        said.seek(0)
        text = said.read()
    assert program.returncode == 141
    assert "Traceback" not in text and "the reader has gone after" in text
    ((event, facts),) = rows(home)
    assert event == "published" and facts["frames"] > 0 and int(facts["payload"], 16) and facts["marks"] == {}


def test_a_stream_that_is_stopped_is_written_down_too(model: Path, y4m: bytes, tmp_path: Path, home: Home) -> None:
    """As a rule it is a signal that ends a live one."""
    with (tmp_path / "frames").open("wb") as out:
        program = subprocess.Popen(pipe(model), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.DEVNULL)
    assert program.stdin is not None
    program.stdin.write(y4m)
    program.stdin.flush()
    deadline = time.monotonic() + 60
    while (tmp_path / "frames").stat().st_size < SIZE:
        assert time.monotonic() < deadline and program.poll() is None
        time.sleep(0.05)
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) == 143
    program.stdin.close()
    ((event, facts),) = rows(home)
    assert event == "published" and 0 < facts["frames"] <= 8 and int(facts["payload"], 16)


def test_rubbish_comes_in(model: Path, home: Home) -> None:
    done = run(pipe(model), b"this is no video")
    assert (done.returncode, done.stdout) == (3, b"")
    assert the_error(done.stderr.decode()).startswith("standard input is neither YUV4MPEG2 nor Matroska nor NUT")
    assert rows(home) == [], "nothing went out"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "1280"], "--size must be WxH such as 1280x720, not '1280'"),
        (["--from", "raw"], "raw video needs its width and height declared"),
        (["--rate", "1/0"], "--rate must be a number such as 25 or 30000/1001, not '1/0'"),
        (["--from", "raw", "--size", "8x8", "--pixel-format", "yuv9"], "'yuv9' is not a pixel format"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(model: Path, options: list[str], said: str) -> None:
    done = run(pipe(model, *options), b"")
    assert done.returncode == 2 and said in the_error(done.stderr.decode())


def test_no_model(program: Program) -> None:
    code, out, err = program("pipe")
    assert (code, out) == (2, "") and the_error(err).startswith("no model is set")
