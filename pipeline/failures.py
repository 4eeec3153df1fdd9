"""What went wrong with a clip, as it travels between processes, into the table and to people; and back into errors."""

from __future__ import annotations

import errno
import logging
import traceback

from pipeline import errors
from pipeline.errors import StageError, UnderstudyError
from pipeline.specs import Failure

_log = logging.getLogger(__name__)

#: The system's error numbers; FFmpeg has others of its own, far above.
_ERRNOS = range(1, 134)


def failure_of(stage: str, frame: int | None, error: BaseException) -> Failure:
    """What a person is told of an exception, and for the log its traceback where it was not foreseen.

    `frame` counts from the start of the file.
    """
    kind, number = _kind(type(error)), errno_of(error)
    if isinstance(error, UnderstudyError | BrokenPipeError):  # the latter: the reader of a pipe has gone
        return Failure(stage, frame, str(error), kind, errno=number)
    detail = "".join(traceback.format_exception(error))
    return Failure(stage, frame, f"{kind}: {error}" if str(error) else kind, kind, detail, number)


def _kind(kind: type[BaseException]) -> str:
    """What others know the class as: its name, or of one of ours that is another module's that of the tree's above."""
    return next((each.__name__ for each in kind.__mro__ if getattr(errors, each.__name__, None) is each), kind.__name__)


def errno_of(error: BaseException | None) -> int:
    """The system's number for what lies behind an exception, the nearest that has one; 0 where there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno is not None and error.errno in _ERRNOS:
            return error.errno
        if isinstance(error, MemoryError):
            return errno.ENOMEM
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return 0


def cancelled() -> Failure:
    """The failure of a clip that somebody stopped."""
    return Failure("", None, "stopped before it was finished", "Cancelled")


def error_of(failure: Failure) -> UnderstudyError:
    """The exception that a stage raised while it was made, in its own process, as one of ours."""
    kind = getattr(errors, failure.error, None)
    if isinstance(kind, type) and issubclass(kind, UnderstudyError) and kind is not StageError:
        return kind(failure.reason)
    if failure.detail:
        _log.error("%s", failure.detail)
    return UnderstudyError(f"{failure.stage} did not start: {failure.reason}")
