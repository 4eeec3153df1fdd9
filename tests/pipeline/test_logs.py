"""Logs: one record, one line, whatever a file is called."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import logs

_log = logging.getLogger("pipeline.test_logs")


@pytest.fixture(autouse=True)
def root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(as_json: bool, level: int = logging.INFO) -> io.StringIO:
    stream = io.StringIO()
    logs.set_up(level, as_json, stream)
    return stream


@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_printable_is_one_line_that_any_terminal_takes(text: str) -> None:
    shown = logs.printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert logs.printable(shown) == shown


def test_plain_lines() -> None:
    stream = written(as_json=False)
    _log.warning("a\n%s", "b\udcff päron")
    _log.debug("not this")
    assert stream.getvalue()[20:] == "warning a\\nb\\udcff päron\n"


def test_a_traceback_from_a_stage_keeps_its_lines() -> None:
    stream = written(as_json=False)
    _log.error("%s", 'Traceback (most recent call last):\n  File "x\x1b.py"\nKeyError')
    assert stream.getvalue()[20:].splitlines() == [
        "error Traceback (most recent call last):",
        '  File "x\\x1b.py"',
        "KeyError",
    ]


def test_json_lines() -> None:
    stream = written(as_json=True)
    try:
        raise KeyError("x")
    except KeyError:
        _log.exception("a\nb", extra={"fields": {"frames": 3}})
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["message"] == "a\nb" and entry["frames"] == 3 and entry["level"] == "error"
    assert entry["traceback"].startswith("Traceback") and entry["time"].endswith("+00:00")


def test_only_the_last_set_up_counts() -> None:
    first, second = written(as_json=False), written(as_json=False, level=logging.ERROR)
    _log.warning("quiet")
    _log.error("loud")
    assert first.getvalue() == "" and second.getvalue().endswith("error loud\n")
