"""Completion: what bash offers, asked of bash."""

from __future__ import annotations

import argparse
import shutil
import subprocess

import pytest

from pipeline.__main__ import parser
from tests.program import Program

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")

_ASK = """
words=("$@")
COMP_WORDS=("${words[@]}"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_understudy
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(script: str, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    command = ["bash", "-c", script + _ASK, "bash", "understudy", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def verbs_of(found: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: verb
        for action in found._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, verb in action.choices.items()
    }


def test_bash_offers_verbs_their_own_verbs_and_options(program: Program) -> None:
    script = program("completion", "bash")[1]
    verbs = verbs_of(parser())
    assert offered(script, "") == set(verbs)
    assert offered(script, "stat") == {"status"}
    assert offered(script, "logs", "--level", "") == {"debug", "info", "warning", "error", "critical"}
    assert {"--follow", "--job", "--state", "--json"} <= offered(script, "logs", "--")
    for name, verb in verbs.items():
        for own in verbs_of(verb):  # one without a help line is left out
            assert own in offered(script, name, "")
            assert "--help" in offered(script, name, own, "--")
