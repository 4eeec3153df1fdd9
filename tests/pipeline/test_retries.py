"""The policy for clips that fail: what is tried again, how often and when; what is not."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import errors
from pipeline.database import Damaged
from pipeline.engine import Engine
from pipeline.errors import UnderstudyError
from pipeline.failures import failure_of
from pipeline.jobs import Entry, Mark, State
from pipeline.retries import CrashBudget, Kind, RetryConfig, Verdict, backoff_s, died, judge
from pipeline.specs import EngineConfig, Failure, ProcessSpec
from pipeline.types import Job
from tests.pipeline.toys import Config, specs

CONFIG = RetryConfig(attempts=8, backoff_s=5, longest_s=600, crashes=3)
ENTRY = Entry(7, "/in", "/in/a.mp4", "/out/a.mp4", State.RUNNING, Mark(1, 2, 3), attempts=1)

KILLED = Failure("swap", 12, "its process was killed by SIGSEGV", signal=11)
GONE = Failure("swap", 12, "its process exited with code 3")
LATE = Failure("swap", 12, "its process made no progress for 120 s")

CLASSES = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, UnderstudyError)]

FAILURES = st.builds(
    Failure,
    stage=st.sampled_from(["", "decode", "swap", "publish"]),
    frame=st.none() | st.integers(0, 10**6),
    reason=st.sampled_from(["it broke", KILLED.reason, GONE.reason, LATE.reason]),
    error=st.sampled_from([*CLASSES, "RuntimeError", "Cancelled", "OSError", "NoSuchClass", "annotations", ""]),
    errno=st.sampled_from([0, *errno.errorcode]),
    signal=st.sampled_from([0, 0, 0, 6, 9, 11]),
)
CONFIGS = st.builds(
    RetryConfig,
    attempts=st.integers(1, 30),
    backoff_s=st.floats(0, 60),
    longest_s=st.floats(60, 86400),
    crashes=st.integers(1, 10),
)


def failure(error: str, number: int = 0) -> Failure:
    return Failure("swap", 3, "it broke", error, errno=number)


# --- one failure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EROFS, errno.ETIMEDOUT])
@pytest.mark.parametrize("error", ["OSError", "PublishError", "StageError", "InputError"])
def test_what_passes_is_tried_again(error: str, number: int) -> None:
    verdict = judge(failure(error, number), ENTRY, CONFIG)
    assert verdict == Verdict(Kind.AGAIN, backoff_s(1, CONFIG, ENTRY.id))
    assert 3.75 <= verdict.wait_s <= 5


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.EBUSY, errno.EAGAIN])
def test_what_the_machine_lacks_for_a_moment_is_tried_again(number: int) -> None:
    assert judge(failure("OSError", number), ENTRY, CONFIG).kind is Kind.AGAIN


@pytest.mark.parametrize("error", ["OSError", "PublishError", "InputError", "StageError", "WeightsError"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_failure(error: str, number: int) -> None:
    tired = replace(ENTRY, attempts=99)
    assert judge(failure(error, number), tired, CONFIG) == Verdict(Kind.SPACE, 30.0, counted=False)


@pytest.mark.parametrize("error", ["InputError", "ConfigError"])
def test_what_cannot_be_used_is_not_tried_again(error: str) -> None:
    assert judge(failure(error), ENTRY, CONFIG) == Verdict(Kind.FAILED)


@pytest.mark.parametrize(
    "blocked",
    [
        failure("WeightsError"),
        failure("RequirementError"),
        failure("ConsentError"),
        failure("ConsentError", errno.EACCES),
        failure("PublishError", errno.EEXIST),
        failure("PublishError", errno.EACCES),
        failure("InputError", errno.EACCES),
    ],
)
def test_what_somebody_must_mend_waits_for_somebody(blocked: Failure) -> None:
    assert judge(blocked, ENTRY, CONFIG) == Verdict(Kind.BLOCKED)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ESTALE, errno.EIO])
def test_consent_that_could_not_be_looked_at_is_looked_at_again(number: int) -> None:
    assert judge(failure("ConsentError", number), ENTRY, CONFIG).kind is Kind.AGAIN
    assert judge(failure("ConsentError", errno.ENOSPC), ENTRY, CONFIG).kind is Kind.SPACE


def test_a_clip_never_fails_for_the_audits_sake() -> None:
    """It lacks nothing but its row: it is tried again, and in the end somebody must do something."""
    for number in (errno.EAGAIN, errno.EIO, errno.EROFS):
        kinds = [judge(failure("TableError", number), replace(ENTRY, attempts=n), CONFIG).kind for n in (1, 7, 8, 9)]
        assert kinds == [Kind.AGAIN, Kind.AGAIN, Kind.BLOCKED, Kind.BLOCKED]
    damaged = failure_of("publish", None, Damaged("the audit is damaged"))
    for found in (damaged, failure("TableError", errno.EACCES)):
        assert judge(found, ENTRY, CONFIG) == Verdict(Kind.BLOCKED)
    assert judge(failure("TableError", errno.ENOSPC), ENTRY, CONFIG).kind is Kind.SPACE


def test_a_damaged_file_that_looks_like_a_damaged_disk_is_tried_a_few_times() -> None:
    kinds = [judge(failure("InputError", errno.EIO), replace(ENTRY, attempts=n), CONFIG).kind for n in range(1, 5)]
    assert kinds == [Kind.AGAIN, Kind.AGAIN, Kind.FAILED, Kind.FAILED]


@pytest.mark.parametrize("error", ["RuntimeError", "StageError", "UnderstudyError", "PublishError", "ResumeError"])
def test_what_nobody_has_foreseen_is_tried_a_few_times(error: str) -> None:
    verdicts = [judge(failure(error), replace(ENTRY, attempts=n), CONFIG) for n in range(1, 5)]
    assert [verdict.kind for verdict in verdicts] == [Kind.AGAIN, Kind.AGAIN, Kind.FAILED, Kind.FAILED]
    assert verdicts[0].afresh == (error in ("PublishError", "ResumeError"))


def test_a_clip_that_changes_is_tried_again_until_it_is_still() -> None:
    kinds = [judge(failure("ChangedError"), replace(ENTRY, attempts=n), CONFIG).kind for n in range(1, 9)]
    assert kinds == [Kind.AGAIN] * 7 + [Kind.FAILED]


def test_a_device_that_failed_gets_another_engine() -> None:
    verdict = judge(failure("DeviceError"), ENTRY, CONFIG)
    assert verdict.kind is Kind.AGAIN and verdict.replace_engine


def test_what_we_stopped_has_not_failed() -> None:
    tired = replace(ENTRY, attempts=99, crashes=99)
    assert judge(failure("Cancelled"), tired, CONFIG) == Verdict(Kind.AGAIN, counted=False)


@pytest.mark.parametrize("death", [KILLED, GONE, LATE])
def test_the_third_death_sets_a_clip_aside(death: Failure) -> None:
    verdicts = [judge(death, replace(ENTRY, attempts=n, crashes=n - 1), CONFIG) for n in (1, 2, 3)]
    assert [verdict.kind for verdict in verdicts] == [Kind.AGAIN, Kind.AGAIN, Kind.SET_ASIDE]
    assert all(verdict.crashed for verdict in verdicts)


def test_a_stage_that_talks_of_its_process_has_not_died() -> None:
    assert not died(Failure("swap", 1, "its process is unclear", "InputError"))


@pytest.mark.parametrize("trouble", ["die", "hang"])
def test_real_deaths_are_known_as_such(trouble: str) -> None:
    table = tuple(ProcessSpec((name,)) for name in ("make", "find", "gather", "edit", "check"))
    config = EngineConfig(processes=table, ring_mb=2, scratch_kb=64, deadline_s=1.0)
    with Engine(specs(edit=Config(trouble, at=2)), config) as engine:
        (outcome,) = engine.run([Job(1, "64x48x5", "")])
    assert outcome.failure is not None
    assert died(outcome.failure)


# --- all failures -----------------------------------------------------------------------------------------------------


@given(FAILURES, CONFIGS, st.integers(0, 40), st.integers(0, 20))
def test_every_failure_has_an_end(failure: Failure, config: RetryConfig, attempts: int, crashes: int) -> None:
    verdict = judge(failure, replace(ENTRY, attempts=attempts, crashes=crashes), config)
    assert 0 <= verdict.wait_s <= config.longest_s
    assert verdict.crashed == died(failure)
    if verdict.kind is Kind.AGAIN and verdict.counted:
        assert attempts < config.attempts
    if verdict.crashed:
        assert (verdict.kind is Kind.SET_ASIDE) == (crashes + 1 >= config.crashes)
    if verdict.kind is not Kind.AGAIN:
        assert verdict.kind is Kind.SPACE or verdict.wait_s == 0


@settings(max_examples=50)
@given(st.lists(FAILURES, min_size=40, max_size=40), CONFIGS)
def test_no_clip_is_begun_more_often_than_it_may(failures: list[Failure], config: RetryConfig) -> None:
    entry, begun = replace(ENTRY, attempts=0), 0
    for failure in failures:
        entry = replace(entry, attempts=entry.attempts + 1)
        verdict = judge(failure, entry, config)
        begun += verdict.counted
        if verdict.kind not in (Kind.AGAIN, Kind.SPACE):
            break
        entry = replace(entry, attempts=entry.attempts - (not verdict.counted), crashes=entry.crashes + verdict.crashed)
    assert begun <= config.attempts
    assert entry.crashes < config.crashes


@given(CONFIGS, st.integers(0, 2**63))
def test_waits_grow_up_to_the_longest(config: RetryConfig, seed: int) -> None:
    waits = [backoff_s(attempt, config, seed) for attempt in range(1, 200)]
    assert waits == sorted(waits)
    assert 0 <= waits[0] <= config.backoff_s
    assert waits[-1] <= config.longest_s
    if config.backoff_s:
        assert waits[1] == pytest.approx(min(2 * waits[0], waits[-1]))
    assert waits == [backoff_s(attempt, config, seed) for attempt in range(1, 200)]


def test_what_failed_together_is_not_tried_together() -> None:
    assert len({backoff_s(3, CONFIG, seed) for seed in range(100)}) == 100


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attempts": 0}, "attempts must be from 1 to 1000, not 0"),
        ({"crashes": 1001}, "crashes must be"),
        ({"backoff_s": -1}, "backoff_s"),
        ({"backoff_s": 700}, r"backoff_s \(700\) must be from 0 to longest_s \(600\)"),
        ({"longest_s": float("nan")}, "longest_s"),
        ({"longest_s": 1e9}, "longest_s"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RetryConfig(**wrong)  # type: ignore[arg-type]


# --- engines ----------------------------------------------------------------------------------------------------------


def test_an_engine_may_die_so_often_and_then_rests_ever_longer() -> None:
    budget = CrashBudget(limit=3, window_s=300, rest_s=30, longest_s=100)
    assert [budget.died(now) for now in (0, 10, 20)] == [0, 0, 0]
    assert budget.ready(20)
    assert budget.died(30) == 30
    assert not budget.ready(59.9) and budget.ready(60)
    assert budget.died(61) == 60
    assert not budget.ready(120.9) and budget.ready(121)
    assert [budget.died(122), budget.died(300)] == [100, 100]


def test_a_clip_that_comes_out_makes_up_for_all() -> None:
    budget = CrashBudget(limit=1, window_s=300, rest_s=30)
    assert [budget.died(0), budget.died(1)] == [0, 30]
    budget.went_well()
    assert budget.ready(2)
    assert [budget.died(3), budget.died(4)] == [0, 30]


def test_deaths_of_long_ago_do_not_count() -> None:
    budget = CrashBudget(limit=1, window_s=300, rest_s=30)
    assert [budget.died(now) for now in (0, 301, 602)] == [0, 0, 0]
    assert budget.died(603) == 30
    assert budget.died(603 + 30 + 300) == 60, "it came back from its rest and died within the window"
    assert budget.died(10_000) == 0


@given(st.lists(st.floats(0, 1000), max_size=60), st.integers(1, 5))
def test_rests_are_bounded(gaps: list[float], limit: int) -> None:
    budget, now = CrashBudget(limit, window_s=100, rest_s=5, longest_s=80), 0.0
    for gap in gaps:
        now += gap
        rest = budget.died(now)
        assert 0 <= rest <= 80
        assert budget.ready(now + rest)
        assert budget.ready(now) == (rest == 0)
        now += rest
