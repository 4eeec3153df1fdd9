"""What tests may rely on, whichever ran before them."""

from __future__ import annotations

import logging

import pytest

from pipeline import logs


@pytest.mark.parametrize("turn", ["once", "and again"])
def test_logging_is_as_python_has_it(turn: str, capfd: pytest.CaptureFixture[str]) -> None:
    """However a test leaves it: the first of these leaves a handler whose stream will be closed."""
    root = logging.getLogger()
    assert root.level == logging.WARNING
    assert not [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    logs.set_up(logging.DEBUG)
    logging.getLogger("somebody").info("said")
    assert capfd.readouterr().err.endswith(" info said\n")
