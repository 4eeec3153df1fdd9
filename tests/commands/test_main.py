"""The program as such: help, exit codes, one line for what went wrong."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import commands
from pipeline.commands import doctor
from pipeline.errors import InputError, WeightsError
from tests.program import Program, the_error


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def raising(error: BaseException) -> object:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_help_names_every_verb(program: Program) -> None:
    code, out, _ = program("--help")
    assert code == 0
    for name in commands.names():
        assert f"\n    {name} " in out or f"\n    {name}\n" in out


def test_version(program: Program) -> None:
    assert program("--version")[:2] == (0, "understudy 0.1.0\n")


@pytest.mark.parametrize("argv", [[], ["no-such-verb"], ["convert"], ["doctor", "--jsn"], ["completion", "fish"]])
def test_a_wrong_command_line_is_2(program: Program, argv: list[str]) -> None:
    code, out, err = program(*argv)
    assert code == 2 and out == "" and "usage: understudy" in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a.mp4 is empty"), 3, "a.mp4 is empty"),
        (WeightsError("no\nmodel"), 5, "no\\nmodel"),
        (KeyError("x"), 1, "a defect: KeyError: 'x'; run it again with -v to see where, and report it"),
    ],
)
def test_exit_codes(program: Program, failing: pytest.MonkeyPatch, error: BaseException, code: int, said: str) -> None:
    failing.setattr(doctor, "run", raising(error))
    found, out, err = program("doctor")
    assert (found, out) == (code, "")
    assert the_error(err) == said


def test_a_defect_shows_its_traceback_when_asked(program: Program, failing: pytest.MonkeyPatch) -> None:
    failing.setattr(doctor, "run", raising(KeyError("x")))
    _, _, err = program("doctor", "-v")
    assert "Traceback (most recent call last)" in err and err.endswith("understudy: error: a defect: KeyError: 'x'\n")


def test_sigterm_is_143(program: Program, failing: pytest.MonkeyPatch) -> None:
    left = []

    def run(args: argparse.Namespace) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            left.append("properly")
        return 0

    failing.setattr(doctor, "run", run)
    code, _, err = program("doctor")
    assert (code, err, left) == (143, "understudy: stopped by SIGTERM\n", ["properly"])


def test_sigint_is_130(program: Program, failing: pytest.MonkeyPatch) -> None:
    failing.setattr(doctor, "run", lambda args: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job of a shell script
    try:
        code, _, err = program("doctor")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, err) == (130, "understudy: stopped by SIGINT\n")


def test_a_reader_that_left_is_141() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pipeline", "completion", "bash"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_logs_are_json_lines_when_asked(program: Program, failing: pytest.MonkeyPatch) -> None:
    def run(args: argparse.Namespace) -> int:
        logging.getLogger("pipeline.x").warning("a\nb %s", "\udcff", extra={"fields": {"frames": 3}})
        return 0

    failing.setattr(doctor, "run", run)
    _, _, err = program("doctor", "--json")
    assert '"message": "a\\nb \\udcff", "frames": 3' in err
    _, _, err = program("doctor")
    assert err.endswith("warning a\\nb \\udcff\n") and len(err.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(program: Program, shell: str) -> None:
    code, out, _ = program("completion", shell)
    assert code == 0 and "convert" in out and (shell == "tcsh" or "--model" in out)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("encode.codek=x", "unknown key encode.codek; did you mean encode.codec?"),
        ("a", "--set a: write it as key=value"),
    ],
)
def test_wrong_settings_are_2(program: Program, override: str, said: str) -> None:
    code, _, err = program("convert", "a.mp4", "-o", "b.mp4", "--set", override)
    assert code == 2 and said in the_error(err)


def test_a_broken_configuration_file(program: Program) -> None:
    Path("config.yaml").write_text("encode: [")
    code, _, err = program("convert", "a.mp4", "-o", "b.mp4")
    assert code == 2 and the_error(err).startswith("config.yaml, line 1, column 10: ")
