"""Running the program inside a test, and reading what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

from pipeline.__main__ import main


class Program(Protocol):
    """Runs the program in this process: (exit code, standard output, standard error)."""

    def __call__(self, *argv: str | Path) -> tuple[int, str, str]: ...


def in_this_process(capfd: pytest.CaptureFixture[str]) -> Program:
    """The program's entry, called where the test runs."""

    def run(*argv: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in argv])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def the_error(err: str) -> str:
    """The one line that a refusal is; fails where there is more."""
    lines = [line for line in err.splitlines() if "error" in line]
    assert len(lines) == 1 and "Traceback" not in err, err
    return lines[0].removeprefix("understudy: error: ")


def as_json(out: str) -> Any:
    """What a verb printed with --json."""
    return json.loads(out)
