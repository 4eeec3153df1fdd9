"""`logs`: what the daemon has written, and goes on to write, for whoever reads."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import logs
from tests.program import Program, the_error

ODD = "/in/-\n\udcff<b>.mp4"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def write(folder: Path, *messages: str, job: int = 0, level: int = logging.INFO, limit: int = 10 << 20) -> None:
    handler = logs.to_file(folder, limit, kept=100)
    for message in messages:
        record = logging.LogRecord("x", level, "", 0, message, (), None)
        if job:
            record.fields = {"job": job, "clip": ODD}
        handler.handle(record)
    handler.close()


def said(out: str) -> list[str]:
    """The lines without their times."""
    return [line[20:] for line in out.splitlines()]


def test_the_last_lines(program: Program, state: Path) -> None:
    write(state, *(f"line {number}" for number in range(300)), limit=5000)
    assert len(list(state.iterdir())) > 3
    code, out, err = program("logs", "--state", state)
    assert (code, err) == (0, "") and said(out) == [f"info line {number}" for number in range(200, 300)]
    assert said(program("logs", "--state", state, "-n", "2")[1]) == ["info line 298", "info line 299"]
    assert program("logs", "--state", state, "-n", "0")[:2] == (0, "")
    assert len(program("logs", "--state", state, "-n", "all")[1].splitlines()) == 300


def test_of_one_job_and_grave_enough(program: Program, state: Path) -> None:
    write(state, "started")
    write(state, "taken", job=12)
    write(state, "odd\x1b[2J", job=12, level=logging.WARNING)
    write(state, "taken", job=13)
    write(state, "failed", job=13, level=logging.ERROR)
    assert said(program("logs", "--state", state, "--job", "12")[1]) == [
        "info [12 -\\n\\udcff<b>.mp4] taken",
        "warning [12 -\\n\\udcff<b>.mp4] odd\\x1b[2J",
    ]
    assert [line.split()[0] for line in said(program("logs", "--state", state, "--level", "warning")[1])] == [
        "warning",
        "error",
    ]
    assert said(program("logs", "--state", state, "--job", "12", "-n", "1")[1]) == [
        "warning [12 -\\n\\udcff<b>.mp4] odd\\x1b[2J"
    ]
    assert program("logs", "--state", state, "--job", "99")[:2] == (0, "")
    out = program("logs", "--state", state, "--job", "13", "--json")[1]
    first, second = map(json.loads, out.splitlines())
    assert (first["clip"], first["job"], first["message"], second["level"]) == (ODD, 13, "taken", "error")


def test_strangers_lines_are_passed_over(program: Program, state: Path) -> None:
    write(state, "before")
    with (state / logs.FILE).open("ab") as file:
        file.write(b"\xff\x1b[2J\n[]\n{}\n" + b"[" * 100_000 + b"\n")
    write(state, "after")
    code, out, err = program("logs", "--state", state)
    assert (code, said(out), err) == (0, ["info before", "info after"], "")


def test_refusals(program: Program, state: Path) -> None:
    code, out, err = program("logs", "--state", state)
    assert (code, out) == (3, "") and "has no log that can be read" in the_error(err)
    assert program("logs", "--state", state / "nowhere")[0] == 3
    for words in (("-n", "x"), ("-n", "-1"), ("--level", "loud"), ("--job", "x")):
        code, out, err = program("logs", "--state", state, *words)
        assert (code, out) == (2, "")


def test_the_folder_is_the_settings_one(program: Program, tmp_path: Path) -> None:
    write_in = tmp_path / "here" / "elsewhere"
    write_in.mkdir()
    write(write_in, "found")
    for words in (("--set", "daemon.state=elsewhere"), ("-c", "../other/c.yaml")):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "c.yaml").write_text("daemon: {state: ../here/elsewhere}\nencode: {codek: 1}\n")
        assert said(program("logs", *words)[1]) == ["info found"]
    Path("config.yaml").write_text("daemon: {state: elsewhere}\n")
    assert said(program("logs")[1]) == ["info found"]
    Path("config.yaml").write_text("daemon: {stat: elsewhere}\n")
    code, _, err = program("logs")
    assert code == 2 and the_error(err) == "config.yaml: unknown key daemon.stat; did you mean daemon.state?"


@contextmanager
def following(state: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pipeline", "logs", "--state", str(state), "-f", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def test_following_through_rotations_until_ctrl_c(state: Path) -> None:
    write(state, *(f"line {number}" for number in range(5)))
    with following(state, "-n", "2", "--level", "info") as running:
        assert running.stdout is not None
        assert said(running.stdout.readline()) == ["info line 3"]
        assert said(running.stdout.readline()) == ["info line 4"]

        def talk() -> None:
            handler = logs.to_file(state, limit_bytes=2000, kept=100)
            for number in range(5, 500):
                handler.handle(logging.LogRecord("x", logging.INFO, "", 0, f"line {number}", (), None))
                handler.handle(logging.LogRecord("x", logging.DEBUG, "", 0, "not this", (), None))
            handler.close()

        writer = threading.Thread(target=talk)
        writer.start()
        found = [said(running.stdout.readline())[0] for _ in range(5, 500)]
        writer.join()
        assert found == [f"info line {number}" for number in range(5, 500)]
        assert (state / f"{logs.FILE}.9").exists()
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=60) == ("", "")
        assert running.returncode == 130


def test_following_what_is_not_there_yet(state: Path) -> None:
    with following(state, "--json") as running:
        assert running.stdout is not None
        write(state, "the first")
        assert json.loads(running.stdout.readline())["message"] == "the first"
        running.terminate()
        assert running.wait(timeout=60) == 143


def test_a_reader_that_leaves_ends_it_though_nothing_is_logged(state: Path) -> None:
    write(state, "line")
    with following(state) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.wait(timeout=60) == 141
        assert running.stderr.read() == ""


def test_a_reader_that_is_not_there(state: Path) -> None:
    write(state, *("a long line " * 100 for _ in range(300)))
    read, write_end = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pipeline", "logs", "--state", str(state), "-n", "all"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")
