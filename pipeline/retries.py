"""What is done about a clip that failed: the policy, and nothing but the policy.

    it was stopped, or the cause passes    again, after a while that doubles each time
    there is no room                       again when there is; that attempt does not count
    its process died of it                 again; after so many times the clip is set aside
    somebody must do something             blocked: a consent, a model, the audit, a permission, a file in the way
    it will fail again just so             failed; what nobody has foreseen is tried a few times before

Pure functions of what they are given: clocks are the caller's.
"""

from __future__ import annotations

import errno
import random
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from pipeline import errors
from pipeline.errors import (
    ChangedError,
    ConfigError,
    ConsentError,
    DeviceError,
    InputError,
    PublishError,
    RequirementError,
    ResumeError,
    StageError,
    TableError,
    UnderstudyError,
    WeightsError,
)
from pipeline.jobs import Entry
from pipeline.space import FULL
from pipeline.specs import Failure

#: Causes that pass by themselves, and that no damaged file brings about: shares that went away, disks that became
#: read-only (which `space` waits for), memory and handles.
_OUTAGES = frozenset(
    {errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ECONNRESET}
    | {errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.EBUSY, errno.EROFS}
)

#: Those that decoders also report of a file that is damaged.
_DOUBTFUL = frozenset({errno.EIO, errno.EAGAIN, errno.ENOMEM})

#: What stands in the way until somebody moves it.
_HURDLES = frozenset(
    {errno.EEXIST, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
)

#: How long a clip waits for room before it looks again, at most.
_ROOM_S = 30.0

#: The part of a wait that chance may take off, so that what failed together is not tried together.
_JITTER = 0.25


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How often a clip is tried again.

    Attributes:
        attempts: how often it is begun at most, where the cause may pass.
        backoff_s: the wait after the first failure; it doubles with each.
        longest_s: the longest wait.
        crashes: how often a clip may kill its process, or fail in a way that nobody has foreseen.
    """

    attempts: int = 8
    backoff_s: float = 5.0
    longest_s: float = 600.0
    crashes: int = 3

    def __post_init__(self) -> None:
        for name in ("attempts", "crashes"):
            if not 1 <= getattr(self, name) <= 1000:
                raise ValueError(f"{name} must be from 1 to 1000, not {getattr(self, name)}")
        if not 0 <= self.backoff_s <= self.longest_s <= 7 * 86400:
            raise ValueError(
                f"backoff_s ({self.backoff_s:g}) must be from 0 to longest_s ({self.longest_s:g}), which is 604800 at "
                "most"
            )


class Kind(Enum):
    """What becomes of a job that has failed."""

    AGAIN = auto()
    SPACE = auto()
    BLOCKED = auto()
    FAILED = auto()
    SET_ASIDE = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about a failure.

    Attributes:
        wait_s: seconds until it is begun again, where it is.
        counted: whether the attempt counts.
        crashed: whether a process died of it.
        replace_engine: its engine cannot be used any more, or not as it was.
        afresh: what has been made of the clip is of no use: it begins at its start.
    """

    kind: Kind
    wait_s: float = 0.0
    counted: bool = True
    crashed: bool = False
    replace_engine: bool = False
    afresh: bool = False


def judge(failure: Failure, entry: Entry, config: RetryConfig) -> Verdict:
    """What to do about a job's failure.

    `entry` is its row as it was while it ran: `attempts` counts the one that failed, `crashes` only those before.
    """
    if died(failure):
        if entry.crashes + 1 >= config.crashes:
            return Verdict(Kind.SET_ASIDE, crashed=True)
        return _again(entry, config, config.attempts, crashed=True)
    if failure.error == "Cancelled":
        return Verdict(Kind.AGAIN, counted=False)
    if failure.errno in FULL:
        return Verdict(Kind.SPACE, min(_ROOM_S, config.longest_s), counted=False)
    return _judged(failure, _class_of(failure), entry, config)


def _judged(failure: Failure, kind: type[UnderstudyError], entry: Entry, config: RetryConfig) -> Verdict:
    few = min(config.attempts, config.crashes)
    if issubclass(kind, DeviceError):
        return _again(entry, config, config.attempts, replace_engine=True)
    if issubclass(kind, TableError):  # the audit: whatever it is, it is not the clip
        passes = failure.errno in _OUTAGES | _DOUBTFUL and entry.attempts < config.attempts
        return _again(entry, config, config.attempts) if passes else Verdict(Kind.BLOCKED)
    if failure.errno in _OUTAGES or issubclass(kind, ChangedError):
        return _again(entry, config, config.attempts)
    if failure.errno in _DOUBTFUL:
        return _again(entry, config, few if issubclass(kind, InputError) else config.attempts)
    if issubclass(kind, ResumeError):
        return _again(entry, config, few, afresh=True)
    if issubclass(kind, WeightsError | RequirementError | ConsentError):
        return Verdict(Kind.BLOCKED)
    if issubclass(kind, PublishError):
        # without a number it was written, but is not what it should be: so may be the parts that it was made of
        blocked = failure.errno in _HURDLES
        return Verdict(Kind.BLOCKED) if blocked else _again(entry, config, few, afresh=not failure.errno)
    if issubclass(kind, InputError | ConfigError):
        return Verdict(Kind.BLOCKED if failure.errno == errno.EACCES else Kind.FAILED)
    return _again(entry, config, few)


def died(failure: Failure) -> bool:
    """Whether a process ended that should not have: it was killed, it left, or it was past its deadline."""
    # That is what the engine says of processes that it has to replace; no stage says so of itself.
    return failure.signal != 0 or (failure.error == StageError.__name__ and failure.reason.startswith("its process "))


def backoff_s(attempt: int, config: RetryConfig, seed: int) -> float:
    """The wait after the `attempt`th failure: never shorter than the one before, and never above `longest_s`.

    Chance takes the same part off all waits of one `seed`.
    """
    share = 1.0 - _JITTER * random.Random(seed).random()
    return share * min(config.longest_s, config.backoff_s * 2.0 ** min(max(attempt, 1) - 1, 64))


def _again(entry: Entry, config: RetryConfig, attempts: int, **facts: bool) -> Verdict:
    """Begun once more, unless it has been so often already."""
    if entry.attempts >= attempts:
        return Verdict(Kind.FAILED, **facts)
    return Verdict(Kind.AGAIN, backoff_s(entry.attempts, config, entry.id), **facts)


def _class_of(failure: Failure) -> type[UnderstudyError]:
    """The class in our tree that the failure's error has the name of; its root where it is none of ours."""
    kind = getattr(errors, failure.error, None)
    return kind if isinstance(kind, type) and issubclass(kind, UnderstudyError) else UnderstudyError


class CrashBudget:
    """How often an engine may die before it has to rest: the longer, the more often it had to.

    All times are seconds of the caller's monotonic clock.
    """

    def __init__(self, limit: int, window_s: float, rest_s: float = 30.0, longest_s: float = 3600.0) -> None:
        """It may die `limit` times within `window_s` without a clip in between; then it rests, from `rest_s` on."""
        self._limit = limit
        self._window_s = window_s
        self._rest_s = rest_s
        self._longest_s = longest_s
        self._deaths: deque[float] = deque()
        self._rests = 0
        self._until = float("-inf")

    def died(self, now: float) -> float:
        """It has died: how long it has to rest before it is started again, 0: not at all."""
        if self._deaths and now - max(self._deaths[-1], self._until) > self._window_s:
            self.went_well()
        self._deaths.append(now)
        while now - self._deaths[0] > self._window_s:
            self._deaths.popleft()
        if not self._rests and len(self._deaths) <= self._limit:
            return 0.0
        rest_s = min(self._longest_s, self._rest_s * 2.0 ** min(self._rests, 64))
        self._rests += 1
        self._until = now + rest_s
        return rest_s

    def ready(self, now: float) -> bool:
        """Whether it has rested enough."""
        return now >= self._until

    def went_well(self) -> None:
        """A clip has come out of it without a death: all is forgotten."""
        self._deaths.clear()
        self._rests = 0
        self._until = float("-inf")
