"""`watch`: the whole daemon once over, what it refuses to start with, and the signals that it obeys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import pytest

from models import checkpoint
from pipeline import checkpoints, live, lock
from pipeline.jobs import FILE, Entry, Table
from pipeline.result import path_for, read
from pipeline.set_aside import read_reason
from tests.consent import consented
from tests.program import Program, as_json, the_error

ROOT = Path(__file__).parents[2]


def configure(model: Path, watch: str, **daemon: object) -> None:
    """Writes config.yaml here, without a page."""
    own = {"page": {"enabled": False}, "least_free_mb": 0, **daemon}
    Path("config.yaml").write_text(f"model: {model}\nwatch: {watch}\ndaemon: {json.dumps(own)}\n")


def entries() -> list[Entry]:
    with Table.looking(Path(".understudy") / FILE) as table:
        return table.listing()[::-1]


def states() -> dict[str, str]:
    return {Path(entry.source).name: str(entry.state) for entry in entries() if entry.current}


def frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@contextmanager
def service() -> Iterator[subprocess.Popen[bytes]]:
    """The program as a service manager runs it; what it says goes to the file `said`."""
    with Path("said").open("ab") as said:
        process = subprocess.Popen([sys.executable, "-m", "pipeline", "watch"], stdout=said, stderr=said,
                                   env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, Path("said").read_text()
        time.sleep(0.02)


def up() -> bool:
    told = live.read(Path(".understudy"))
    return told is not None and told.state == "running"


def test_once_drains_and_says_what_failed(program: Program, model: Path, face_clip: Path) -> None:
    Path("in").mkdir()
    strange = os.fsdecode(b"-a\nb\xff.mp4")
    clip = face_clip.read_bytes()
    Path("in", strange).write_bytes(clip)
    Path("in/text.mp4").write_text("this is no video")
    Path("in/half.mp4").write_bytes(clip[: len(clip) * 6 // 10])
    Path("in/strange.mp4").write_bytes(clip)
    Path("out").mkdir()
    Path("out/strange.mp4").write_bytes(b"not ours")
    configure(model, "[{in: in, out: out, settle_s: 0}]")
    code, out, err = program("watch", "--once", "--json")
    assert code == 4
    lines = {os.path.basename(line["source"]): line for line in map(as_json, out.splitlines())}  # noqa: PTH119
    assert {name: (line["ok"], line["frames"]) for name, line in lines.items()} == {
        strange: (True, 8), "text.mp4": (False, 0), "strange.mp4": (False, 0),
    }  # fmt: skip
    assert [row["name"] for row in lines[strange]["stages"]][:2] == ["decode", "detect"]
    assert "exists already" in lines["strange.mp4"]["failure"]["reason"] and lines["strange.mp4"]["stages"] == []
    messages = [as_json(line)["message"] for line in err.splitlines()]
    assert any("half.mp4 is left: " in message for message in messages)
    assert sorted(os.listdir("out")) == sorted([strange, f"{strange}.json", "failed", "strange.mp4"])  # noqa: PTH208
    assert Path("out/strange.mp4").read_bytes() == b"not ours"
    report = read(path_for(str(Path("out", strange))))
    assert report is not None and (report["frames"], report["faces"] > 0) == (8, True)
    assert frames(Path("out", strange)) == 8
    reason = read_reason(Path("out/failed/text.mp4.json"))
    assert reason is not None and reason["what"].endswith("invalid data found when processing input")
    assert states() == {strange: "done", "text.mp4": "failed", "strange.mp4": "blocked"}
    assert not [*Path(".understudy/work").iterdir()] and not Path(".understudy", live.FILE).exists()
    code, out, _ = program("watch", "--once", "--json")
    assert code == 4 and [as_json(line)["failure"]["error"] for line in out.splitlines()] == ["PublishError"]


@pytest.mark.parametrize(
    ("watch", "code", "said"),
    [
        ("[]", 2, "no folder is watched"),
        ("[{in: nowhere, out: out}]", 2, "nowhere does not exist; make it first"),
        ("[{in: no, out: out}]", 2, "watch.0.in must be a path, not false; put quotes around it"),
        ("[{in: ., out: .}]", 2, "would be taken for new clips"),
        ("[{in: ., out: out}, {in: ., out: out}]", 2, "is watched.0 already; name it once"),
        ("[{in: ., out: out, settle_s: -1}]", 2, "watch.0.settle_s must be from 0 to 3600, not -1"),
        ("[{in: ., out: out, on_done: move}]", 2, "done names the folder for on_done: move"),
        ("[{in: ., out: out, to: nobody}]", 2, "knows a and b, not 'nobody'"),
        ("[{in: ., out: out, settings: {encode: {crff: 3}}}]", 2, "did you mean"),
        ("[{in: ., out: out, model: nowhere}]", 5, "nowhere does not exist"),
        ("[{in: ., out: config.yaml/out}]", 6, "cannot be made: Not a directory"),
        ("[{inn: ., out: out}]", 2, "unknown key watch.0.inn; did you mean watch.0.in?"),
    ],
)
def test_what_it_does_not_start_with(program: Program, model: Path, watch: str, code: int, said: str) -> None:
    Path("config.yaml").write_text(f"model: {model}\nwatch: {watch}\n")
    found, out, err = program("watch", "--once")
    assert (found, out) == (code, "") and said in the_error(err)


def test_a_folder_whose_model_nobody_has_agreed_to(program: Program, model: Path, face_clip: Path) -> None:
    """The daemon starts all the same and says so; that folder's clips wait, those of others are made."""
    unknown = Path("unknown")
    unknown.mkdir()
    network, said = checkpoint.load(model)
    checkpoint.save(unknown, network, replace(said, identities={}))
    for folder in ("in", "other"):
        Path(folder).mkdir()
        Path(folder, f"{folder}.mp4").write_bytes(face_clip.read_bytes())
    configure(model, "[{in: in, out: out, model: unknown, settle_s: 0}, {in: other, out: other-out, settle_s: 0}]")
    code, out, err = program("watch", "--once", "--json")
    assert code == 4
    lines = {Path(line["source"]).name: line for line in map(as_json, out.splitlines())}
    assert {name: line["ok"] for name, line in lines.items()} == {"in.mp4": False, "other.mp4": True}
    wanted = f"has no identity file: run understudy identity attach {unknown.absolute()} "
    assert lines["in.mp4"]["failure"]["error"] == "ConsentError" and wanted in lines["in.mp4"]["failure"]["reason"]
    logged = [as_json(line) for line in err.splitlines()]
    assert [line["level"] for line in logged if wanted in line["message"]][:1] == ["warning"], (
        "before anything is taken"
    )
    assert states() == {"in.mp4": "blocked", "other.mp4": "done"} and not list(Path("out").glob("*.mp4*"))
    consented(unknown)
    code, out, _ = program("watch", "--once", "--json")
    assert code == 0 and [Path(as_json(line)["source"]).name for line in out.splitlines()] == ["in.mp4"]
    assert states() == {"in.mp4": "done", "other.mp4": "done"}


def test_a_second_one_and_what_else_is_in_its_way(program: Program, model: Path) -> None:
    Path("in").mkdir()
    configure(model, "[{in: in, out: out}]")
    Path(".understudy").mkdir()
    with lock.claimed(Path(".understudy"), []):
        code, _, err = program("watch", "--once")
    assert code == 2 and f"is in use by process {os.getpid()}" in the_error(err)
    Path(".understudy", FILE).mkdir()
    code, _, err = program("watch", "--once")
    assert code == 8 and "jobs.sqlite" in the_error(err)


def test_a_stop_while_it_rests(model: Path, program: Program) -> None:
    Path("in").mkdir()
    configure(model, "[{in: in, out: out}]")
    with service() as process:
        wait(up)
        assert lock.holder(Path(".understudy")) == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, Path("said").read_text()
    assert lock.holder(Path(".understudy")) is None and not Path(".understudy", live.FILE).exists()
    assert "Traceback" not in Path("said").read_text()


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGINT], 130),
        ([signal.SIGHUP, signal.SIGTERM, signal.SIGHUP], 7),
    ],
)
def test_the_second_signal_ends_it_at_once(signals: Sequence[signal.Signals], code: int) -> None:
    """Even a daemon that does not end."""
    script = f"""
import os, time
from pipeline.commands.watch import _obeying
class Daemon:
    def stop(self): print("stop", flush=True)
    def reload(self): print("reload", flush=True)
with _obeying(Daemon()) as ended_by:
    for number in {[int(number) for number in signals]}:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
raise SystemExit(7 if ended_by == [15] else 8)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    names = {signal.SIGHUP: "reload"}
    wanted = [names.get(number, "stop") for number in signals]
    assert done.stdout.split() == (wanted if code == 7 else wanted[:1])


@pytest.mark.slow
def test_a_service_through_its_day(program: Program, model: Path, face_clip: Path) -> None:
    """It makes what comes, reads its configuration again, and goes on after a stop where it was."""
    for folder in ("in", "more"):
        Path(folder).mkdir()
    configure(model, "[{in: in, out: out, settle_s: 0}]", checkpoint_s=0.5)
    long = Path("long.mp4")
    with av.open(str(face_clip)) as source, av.open(str(long), "w") as made:
        pictures = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
        stream = made.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for index in range(200):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(pictures[index % 8], format="rgb24")))
        made.mux(stream.encode(None))
    with service() as process:
        wait(up)
        Path("in/a.mp4").write_bytes(face_clip.read_bytes())
        wait(lambda: states() == {"a.mp4": "done"})
        configure(model, "[{in: in, outt: out}]")
        process.send_signal(signal.SIGHUP)
        wait(lambda: "the configuration is left as it was" in Path("said").read_text())
        watch = "[{in: in, out: out, settle_s: 0}, {in: more, out: more-out, settle_s: 0}]"
        configure(model, watch, checkpoint_s=0.5)
        process.send_signal(signal.SIGHUP)
        wait(lambda: "the configuration has been read again" in Path("said").read_text())
        Path("more/b.mp4").write_bytes(face_clip.read_bytes())
        wait(lambda: states().get("b.mp4") == "done")
        long.rename("in/long.mp4")
        work = Path(".understudy/work").absolute()
        wait(lambda: any((kept := checkpoints.read(str(place))) and kept.kept for place in work.glob("*-*")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, Path("said").read_text()
    (entry,) = [entry for entry in entries() if entry.source.endswith("long.mp4")]
    assert (entry.state, entry.attempts) == ("waiting", 0)
    (place,) = work.glob("*-*")
    kept = checkpoints.read(str(place))
    assert kept is not None and 0 < kept.kept < 200
    code, out, _ = program("watch", "--once", "--json")
    assert code == 0 and [Path(as_json(line)["source"]).name for line in out.splitlines()] == ["long.mp4"]
    report = read(path_for("out/long.mp4"))
    assert report is not None and report["resumed_at"] >= kept.kept and report["frames"] == 200
    assert frames(Path("out/long.mp4")) == 200
    assert not [*work.glob("*-*")] and "Traceback" not in Path("said").read_text()
