"""models.option_checks: what is refused, and in which words."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from models import option_checks
from pipeline.errors import ConfigError


def given(value: Any) -> Any:
    return SimpleNamespace(x=value)


@pytest.mark.parametrize(("value", "good"), [(16, True), (32, True), (15, False), (24, False), (48, False), (0, False)])
def test_whole_numbers_in_steps(value: int, good: bool) -> None:
    if good:
        option_checks.whole("f", given(value), x=range(16, 33, 16))
        return
    with pytest.raises(ConfigError) as caught:
        option_checks.whole("f", given(value), x=range(16, 33, 16))
    assert str(caught.value) == f"f.x must be a whole number from 16 to 32 in steps of 16, not {value}"


@pytest.mark.parametrize("value", [1.0, True, "1", None, [1], (1,), float("nan")])
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^f\.x must be a whole number from 1 to 9, not "):
        option_checks.whole("f", given(value), x=range(1, 10))


@pytest.mark.parametrize("value", [(), (1,), (8193,), (2.0,), (True,), [2], 2, "22", None, (2,) * 13])
def test_what_are_no_widths(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^f\.x must be a list of 1 to 12 whole numbers from 2 to 8192, not "):
        option_checks.widths("f", given(value), "x")


def test_widths() -> None:
    option_checks.widths("f", SimpleNamespace(x=(2, 8192), y=(7,) * 12), "x", "y")


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "0.5", True, None])
def test_what_is_no_number_in_between(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^f\.x must be a number from 0 to 1, not "):
        option_checks.numbers("f", given(value), x=(0, 1))


def test_numbers() -> None:
    for value in (0, 1, 0.5):
        option_checks.numbers("f", given(value), x=(0, 1))


@pytest.mark.parametrize("value", [3, "1", 1.0, True, None, [1], {}])
def test_what_is_none_of_a_few(value: object) -> None:
    option_checks.one_of("f", given(2), x=(1, 2))
    with pytest.raises(ConfigError, match=r"^f\.x must be one of 1, 2, not "):
        option_checks.one_of("f", given(value), x=(1, 2))


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_what_is_no_switch(value: object) -> None:
    option_checks.switches("f", given(True), "x")
    with pytest.raises(ConfigError, match=r"^f\.x must be true or false, not "):
        option_checks.switches("f", given(value), "x")


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, models.option_checks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
