"""The program, as its command line runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import Program, in_this_process


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    return in_this_process(capfd)
