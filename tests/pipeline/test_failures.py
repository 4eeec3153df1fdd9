"""Exceptions as failures, and back."""

from __future__ import annotations

import errno
import logging

import pytest

from pipeline.database import Damaged
from pipeline.errors import InputError, PublishError, StageError, UnderstudyError, WeightsError
from pipeline.failures import errno_of, error_of, failure_of
from pipeline.specs import Failure


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The exception as it comes out of a `raise ... from`."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_foreseen_and_unforeseen() -> None:
    assert failure_of("decode", 3, raised(InputError("no"))) == Failure("decode", 3, "no", "InputError")
    assert failure_of("publish", None, raised(Damaged("no"))).error == "TableError", (
        "a class that only its module knows"
    )
    odd = failure_of("swap", None, raised(KeyError("x")))
    assert (odd.reason, odd.error) == ("KeyError: 'x'", "KeyError")
    assert odd.detail.startswith("Traceback")


def test_the_number_of_what_lies_behind() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert failure_of("encode", 1, raised(PublishError("no"), full)).errno == errno.ENOSPC
    assert failure_of("encode", 1, raised(full)).errno == errno.ENOSPC
    own = PublishError("no")
    own.errno = errno.EROFS
    assert failure_of("publish", None, raised(own)).errno == errno.EROFS
    assert failure_of("swap", 1, raised(MemoryError())) == Failure(
        "swap", 1, "MemoryError", "MemoryError", failure_of("swap", 1, raised(MemoryError())).detail, errno.ENOMEM
    )


def test_numbers_of_ffmpegs_own_are_none() -> None:
    assert errno_of(OSError(1094995529, "Invalid data")) == 0
    assert errno_of(raised(OSError(1094995529, "Invalid data"), OSError(errno.EIO, "i/o"))) == errno.EIO
    assert errno_of(ValueError()) == 0 == errno_of(None)


def test_what_was_handled_along_the_way_counts_unless_it_was_put_aside() -> None:
    def fail(aside: bool) -> BaseException:
        try:
            try:
                raise OSError(errno.EIO, "i/o")
            except OSError:
                if aside:
                    raise ValueError from None
                raise ValueError  # noqa: B904  what is tested
        except ValueError as error:
            return error

    assert errno_of(fail(aside=False)) == errno.EIO
    assert errno_of(fail(aside=True)) == 0


def test_causes_in_a_circle_end() -> None:
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__ = two, one
    assert errno_of(one) == 0


def test_back_into_errors(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(error_of(Failure("swap", None, "no model", "WeightsError")), WeightsError)
    for name in ("OSError", StageError.__name__, "annotations"):
        with caplog.at_level(logging.ERROR):
            error = error_of(Failure("swap", None, "no", name, "Traceback ..."))
        assert type(error) is UnderstudyError and str(error) == "swap did not start: no"
    assert "Traceback ..." in caplog.text
