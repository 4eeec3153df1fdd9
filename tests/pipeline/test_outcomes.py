"""Outcomes: one sentence, one exit code, one JSON object each."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.errors import InputError, PublishError
from pipeline.outcomes import as_json, exit_code, failed, sentence, stages_as_json
from pipeline.specs import Failure, Outcome, StageStats
from pipeline.types import Job

JOB = Job(1, "/in/a.mp4", "/out/a.mp4")
GOOD = Outcome(JOB, 50, seconds=2.0, reports={"decode": {"packets": 50}})


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (Failure("decode", None, "/in/a.mp4 is empty", "InputError"), 3, "/in/a.mp4 is empty"),
        (Failure("publish", None, "/in/a.mp4 has changed", "ChangedError"), 3, "/in/a.mp4 has changed"),
        (Failure("decode", 7, "too long", "InputError"), 3, "/in/a.mp4: decode failed at frame 7: too long"),
        (Failure("swap", 3, "KeyError: 1", "KeyError"), 4, "/in/a.mp4: swap failed at frame 3: KeyError: 1"),
        (Failure("swap", 3, "was killed by SIGKILL"), 4, "/in/a.mp4: swap failed at frame 3: was killed by SIGKILL"),
        (Failure("publish", 9, "disk full", "PublishError"), 6, "/in/a.mp4: publish failed at frame 9: disk full"),
        (Failure("", None, "stopped", "Cancelled"), 4, "/in/a.mp4: failed: stopped"),
    ],
)
def test_failures(failure: Failure, code: int, said: str) -> None:
    outcome = Outcome(JOB, failure=failure)
    assert exit_code([GOOD, outcome]) == code
    assert sentence(outcome) == said
    assert json.loads(json.dumps(as_json(outcome)))["failure"]["sentence"] == said


def test_machines_are_told_the_systems_numbers() -> None:
    outcome = Outcome(JOB, failure=Failure("encode", 3, "disk full", "PublishError", errno=28, signal=9))
    told = as_json(outcome)["failure"]
    assert (told["errno"], told["signal"], told["frame"]) == (28, 9, 3)


def test_success() -> None:
    assert exit_code([GOOD, GOOD]) == 0 and exit_code([]) == 0
    assert sentence(GOOD) == "/out/a.mp4: 50 frames, in 2.0 s (25.0 a second)"
    resumed = replace(GOOD, reports={"publish": {"frames": 80}})
    assert sentence(resumed) == "/out/a.mp4: 80 frames, 50 of them now, in 2.0 s (25.0 a second)"
    told = as_json(GOOD)
    assert told["ok"] is True and told["failure"] is None and told["fps"] == 25.0


def test_damage_is_told() -> None:
    damaged = Outcome(JOB, 50, seconds=2.0, reports={"decode": {"damaged_packets": 2, "read_errors": 1}})
    assert sentence(damaged).endswith("; 3 damaged parts of the source could not be read")


def test_refused_before_any_stage() -> None:
    assert exit_code([failed(JOB, PublishError("no"))]) == 6
    assert sentence(failed(JOB, InputError("/in/a.mp4 is a directory"))) == "/in/a.mp4 is a directory"


def test_the_table_is_json() -> None:
    told = stages_as_json((StageStats("decode", 0, 1), StageStats("swap", 1, 1, 10, busy=4.0)), 5.0)
    assert json.loads(json.dumps(told, allow_nan=False))["bottleneck"] == "swap"
    assert told["stages"][1]["busy"] == 0.8 and told["stages"][0]["capacity_fps"] is None
