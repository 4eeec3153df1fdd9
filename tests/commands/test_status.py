"""`status`: one screen that tells the truth about a daemon, whether or not there is one."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import live
from pipeline.app import load_settings
from pipeline.commands._looking import state_folder
from pipeline.jobs import FILE, Mark, Table
from pipeline.live import Arriving, Folder, Lane, Live, Running, StageNow
from pipeline.wording import cells
from tests.program import Program, as_json, the_error

HOSTILE = ["-rf.mp4", "a\n<b>\x1b[2J\udcff.mp4", "日本語のとても長い名前" * 7 + ".mkv", "x" * 251 + ".mp4", "c.mp4"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Of a daemon with jobs of all kinds; nothing of it runs."""
    folder = tmp_path / "state"
    folder.mkdir()
    with Table.open(folder / FILE) as table:
        for number, name in enumerate([*HOSTILE, "failed again.mp4", "blocked.mp4", "done.mp4", "waiting.mp4"]):
            source, target = f"/in/{name}", f"/out/{name}"
            entry = table.accept("/in", source, target, Mark(9, 9, number), 0, time.time())
            if name == "waiting.mp4":
                continue
            table.claim(entry.id, time.time())
            if name == "done.mp4":
                table.finish(entry.id, 100, 4.0, "abc", time.time())
            elif name == "blocked.mp4":
                table.block(entry.id, "the model /m does not exist; train it", time.time() - 4000)
            else:
                reason = f"{source}: swap failed at frame 3: " + "it went wrong " * 30
                table.fail(entry.id, reason, {"stage": "swap", "frame": 3}, time.time() - 60)
    return folder


def alive(folder: Path, **changed: Any) -> Live:
    """Has a daemon that is this process say something."""
    now = time.time()
    said = Live(
        pid=os.getpid(),
        version="0.1.0",
        started=now - 7512,
        time=now,
        state="running",
        ready=True,
        web="http://127.0.0.1:8385/",
        folders=(
            Folder("/in", "/out", "events", "", tuple(Arriving(f"/in/{n}", 2**40, "it still grows") for n in HOSTILE)),
            Folder("/mnt/" + "long/" * 30, "/mnt/" + "far/" * 50, "polling", "it cannot be read: Stale file handle"),
        ),
        lanes=(
            Lane("/m/anna-bert", "b", "cuda:0", "ready", 2, "works with half the memory", stages()),
            Lane("/m/" + "x" * 300, "y" * 300, "cpu", "down", 0, "the model is damaged\n"),
        ),
        running=(
            *(
                Running(3 * n, f"/in/{name}", "/out/x", "swap", 120, 266, 12.34, 72.0, 9.7, "")
                for n, name in enumerate(HOSTILE, 400)
            ),
            Running(7, "/in/b.mp4", "/out/b.mp4", "publish", 3, None, 0.0, None, 0.2, ""),
        ),
    )
    live.write(folder, replace(said, **changed))
    return said


def stages() -> tuple[StageNow, ...]:
    names = ("decode", "detect", "align", "mask", "swap", "blend", "disclose", "encode")
    return tuple(StageNow(name, 2 if name == "detect" else 1, 0.5, 0.2, 0.3) for name in names)


def test_a_daemon_at_work(program: Program, state: Path) -> None:
    alive(state)
    code, out, err = program("status", "--state", state)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"understudy 0.1.0: running, process {os.getpid()}, since ")
    for expected in (
        "watching /in -> /out  events, 5 arriving",
        "  it cannot be read: Stale file handle",
        "  and 2 more",
        "   7  b.mp4",
        "engine anna-bert, b on cuda:0: ready, 2 restarts: works with half the memory",
        "  busy, in %: decode 50, detect 50 (2 workers), align 50, mask 50, swap 50,",
        "jobs: 1 waiting, 0 running, 1 done, 6 failed, 1 blocked",
        "7 blocked.mp4 blocked 1 h 6 min ago",
        "  the model /m does not exist; train it",
        f"  -> understudy jobs retry --state {state} 7",
        "6 failed again.mp4 failed 1 min 0 s ago",
        "  swap failed at frame 3: it went wrong it went wrong it went wrong it went",
        "and more: understudy jobs list",
    ):
        assert any(line.startswith(expected) for line in lines), expected
    assert "45 %  120 of 266  12.3/s  1 min 12 s left" in out and "token=" not in out


def test_it_fits_a_terminal_whatever_clips_are_called(program: Program, state: Path) -> None:
    alive(state)
    out = program("status", "--state", state)[1]
    assert all(line.isprintable() for line in out.splitlines())
    wide = [line for line in out.splitlines() if cells(line) > 80 and "-> understudy" not in line]
    assert not wide
    assert "\\x1b[2J" in out and "日本" in out


@pytest.mark.parametrize("state_name", ["starting", "paused", "draining"])
def test_a_daemon_that_waits_runs(program: Program, state: Path, state_name: str) -> None:
    alive(state, state=state_name, ready=False, reason="the disk of /out is full")
    code, out, _ = program("status", "--state", state)
    assert code == 0 and f": {state_name}, process" in out and "  the disk of /out is full" in out.splitlines()
    assert as_json(program("status", "--state", state, "--json")[1])["state"] == state_name


def test_a_daemon_that_is_down(program: Program, state: Path, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    cases: list[tuple[dict[str, Any], str]] = [
        ({"pid": ended.pid}, f"not running: process {ended.pid} has ended, last heard 0 s ago"),
        ({"time": time.time() - 40}, f"not running, or stuck: process {os.getpid()} is there, but has said nothing"),
        ({"time": time.time() + 400}, "not running, or stuck: "),  # the clock was set back
        ({"pid": 0}, "not running: process 0 has ended"),
        ({"pid": -1}, "not running: process -1 has ended"),
        ({"pid": 2**70}, "not running: "),
    ]
    for changed, expected in cases:
        alive(state, **changed)
        code, out, err = program("status", "--state", state)
        assert (code, err) == (3, "") and out.startswith(expected), out
        assert "jobs: 1 waiting" in out and "watching" not in out
        facts = as_json(program("status", "--state", state, "--json")[1])
        assert (facts["up"], facts["state"], facts["counts"]["failed"]) == (False, "down", 6)
    (state / live.FILE).write_text("{")
    code, out, _ = program("status", "--state", state)
    assert code == 3 and out.startswith("not running: no daemon is at work in")
    code, out, err = program("status", "--state", tmp_path / "nowhere")
    assert (code, err) == (3, "") and out.startswith("not running: there is nothing of a daemon in")
    assert len(out.splitlines()) <= 3 and "jobs" not in out


def test_a_daemon_of_another_user_counts(program: Program, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_ours(pid: int, number: int) -> None:
        raise PermissionError

    alive(state)
    monkeypatch.setattr(os, "kill", not_ours)
    assert program("status", "--state", state)[0] == 0


def test_quiet_is_for_scripts(program: Program, state: Path) -> None:
    assert program("status", "--state", state, "-q") == (3, "", "")
    alive(state)
    assert program("status", "--state", state, "-q") == (0, "", "")


def test_as_json(program: Program, state: Path) -> None:
    said = alive(state)
    facts = as_json(program("status", "--state", state, "--json")[1])
    assert set(facts) == {"up", "state", "folder", "live", "counts", "failures", "trouble"}
    assert facts["counts"] == {"waiting": 1, "running": 0, "done": 1, "failed": 6, "blocked": 1, "cancelled": 0}
    assert facts["live"]["running"][1]["source"] == said.running[1].source == f"/in/{HOSTILE[1]}"
    assert [failure["job"] for failure in facts["failures"]] == [7, 6, 5, 4, 3]
    assert facts["failures"][1]["failure"] == {"stage": "swap", "frame": 3}
    assert facts["failures"][1]["retry"] == ["understudy", "jobs", "retry", "--state", str(state), "6"]
    assert facts["up"] is True and facts["trouble"] == ""


def test_what_mends_a_job_is_told_with_the_settings_in_use(program: Program, state: Path) -> None:
    Path("my config.yaml").write_text(f"daemon: {{state: {state}}}\n")
    out = program("status", "-c", "my config.yaml", "--set", "daemon.engines=2")[1]
    assert "  -> understudy jobs retry -c 'my config.yaml' --set daemon.engines=2 7" in out.splitlines()
    Path("my config.yaml").rename("config.yaml")
    assert "  -> understudy jobs retry 7" in program("status")[1].splitlines()


def test_jobs_whose_clip_is_another_by_now_are_nobodys_trouble(program: Program, state: Path) -> None:
    with Table.open(state / FILE) as table:
        table.accept("/in", "/in/failed again.mp4", "/out/failed again.mp4", Mark(10, 10, 6), 0, time.time())
    out = program("status", "--state", state)[1]
    assert "7 blocked.mp4" in out and "failed again" not in out


def test_a_failed_clip_that_was_moved_away_is_still_told(program: Program, state: Path) -> None:
    with Table.open(state / FILE) as table:
        table.vanish([6])
    lines = program("status", "--state", state)[1].splitlines()
    at = lines.index("6 failed again.mp4 failed 1 min 0 s ago")
    assert "  -> it is gone from /in; put it back to have it tried again" in lines[at : at + 6]
    failures = as_json(program("status", "--state", state, "--json")[1])["failures"]
    assert [failure["retry"] is None for failure in failures] == [False, True, False, False, False]


def test_a_damaged_table_is_said(program: Program, state: Path) -> None:
    (state / FILE).write_bytes(b"no table at all" * 1000)
    alive(state)
    code, out, _ = program("status", "--state", state)
    assert code == 0 and str(FILE) in out.replace("\n", "") and "jobs:" not in out
    facts = as_json(program("status", "--state", state, "--json")[1])
    assert facts["trouble"] and facts["counts"] is None and facts["failures"] == []
    code, _, err = program("jobs", "list", "--state", state)
    assert code == 8 and the_error(err) == facts["trouble"] and "makes another one" in the_error(err)


def test_the_address(program: Program, state: Path) -> None:
    code, out, err = program("status", "--state", state, "--url")
    assert (code, out) == (3, "") and "is not running" in the_error(err)
    alive(state, web="")
    code, out, err = program("status", "--state", state, "--url")
    assert (code, out) == (3, "") and "serves no page" in the_error(err)
    alive(state)
    code, out, err = program("status", "--state", state, "--url")
    assert (code, out) == (3, "") and "token cannot be read" in the_error(err)
    (state / "token").write_text("a-b_c/&\n")
    assert program("status", "--state", state, "--url") == (0, "http://127.0.0.1:8385/?token=a-b_c%2F%26\n", "")
    assert as_json(program("status", "--state", state, "--url", "--json")[1])["url"].endswith("?token=a-b_c%2F%26")
    settings = state.parent / "settings.yaml"
    settings.write_text(f"daemon: {{state: {state.name}, page: {{token_file: elsewhere/token}}}}\n")
    code, _, err = program("status", "-c", settings, "--url")
    assert code == 3 and f"{state.parent / 'elsewhere/token'} cannot be read (no such file" in the_error(err)
    (state.parent / "elsewhere").mkdir()
    (state.parent / "elsewhere/token").write_text("another\n")
    assert program("status", "-c", settings, "--url")[1] == "http://127.0.0.1:8385/?token=another\n"
    assert program("status", "-c", settings, "--state", state, "--url")[1].endswith("another\n")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x"])
def test_wrong_pauses(program: Program, seconds: str) -> None:
    assert program("status", f"--watch={seconds}")[0] == 2


def test_again_and_again_until_ctrl_c(state: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "status", "--state", str(state), "-w", "0.1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["up"] is False
        alive(state, pid=running.pid)
        assert any(json.loads(running.stdout.readline())["up"] for _ in range(20))
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "")


def test_a_reader_that_leaves_ends_it(state: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "status", "--state", str(state), "-w", "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert (running.wait(timeout=60), running.stderr.read()) == (141, "")


def test_nothing_heavy_is_loaded(state: Path) -> None:
    for words in (["status"], ["logs"]):
        program = (
            "import sys; from pipeline.__main__ import main\n"
            f"main({words!r})\n"
            "print(sorted({'torch', 'mediapipe', 'cv2', 'av', 'watchdog', 'uvicorn'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_the_folder_is_that_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    (tmp_path / "c.yaml").write_text("daemon: {state: here, drain_s: 5}\nencode: {codec: ffv1}\n")
    (tmp_path / "empty.yaml").write_text("")
    for config in (None, str(tmp_path / "c.yaml"), "../empty.yaml"):
        for settings in ([], ["daemon.state=there"], ["daemon.engines=1", "encode.codec=ffv1"]):
            args = argparse.Namespace(state=None, config=config, set=settings)
            assert state_folder(args) == load_settings(config, settings).daemon.state.absolute()
