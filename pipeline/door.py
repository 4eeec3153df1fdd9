"""The door: the one process through which finished files get their names. A file is whole before, or never there.

For each clip that has gone through all stages it has the finisher make the file whole, the sealer mark and sign it, and
the finisher look at what has become of it. It sees that the source is still what it was and that the result may be
published, has that written down, writes the report beside it, and then syncs and renames: the report first. Where
anything fails the partial files go. When the parent has died nothing is published any more: another may be at the clip.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline import checkpoints, result
from pipeline.child import PEER_GONE, Line, begin, orphaned
from pipeline.errors import ChangedError, PublishError
from pipeline.failures import failure_of
from pipeline.messages import Broken, Ended, Finish, Finishing, Ready, pack, unpack
from pipeline.publish import DETACHED, SEALING, discard, partial_path, path_beside, publish, sync, take_over
from pipeline.specs import Outcome, StageSpec
from pipeline.types import Clip, Finisher, Report, Sealed, Sealer

#: What the door is called, where stages are named.
NAME = "publish"

#: How often at most the parent is told how far a file is.
_PULSE_S = 0.25

#: How slow a disk may be that a file is synced to, bytes a second: one that is slower is taken to hang.
_SLOWEST = 1 << 20


#: How often signing goes through a file, about.
_ROUNDS = 6

T = TypeVar("T")


class ParentGone(BaseException):
    """The parent has died: leave, whatever it is. No `except Exception` on the way shall stop it."""


@dataclass(frozen=True, slots=True)
class Post:
    """What the door is given when it is spawned: what makes finisher and sealer, the pipe that orders come through."""

    finisher: StageSpec
    sealer: StageSpec | None
    orders: Connection


def partials(clip: Clip, pid: int = 0) -> tuple[str, ...]:
    """The files that the door (of that process id; 0: this one) writes while it is at a clip."""
    beside = (str(path_beside(clip.target, suffix)) for suffix in (result.SUFFIX, DETACHED, SEALING))
    return partial_path(clip.target, clip.id, pid), *(partial_path(each, clip.id, pid) for each in beside)


class Door:
    """Publishes one clip after the other."""

    def __init__(self, finisher: Finisher, tell: Callable[[Finishing], None], sealer: Sealer | None = None) -> None:
        """Without a sealer files come out as the finisher makes them, which is for other things than faces.

        `tell` tells the parent that the door is alive and how far it is; it raises ParentGone.
        """
        self._finisher = finisher
        self._sealer = sealer
        self._tell = tell

    def __call__(self, order: Finish) -> Outcome:
        """The clip's outcome; without a failure, the file has its name. Raises ParentGone."""
        pulse = _Pulse(order.clip.id, self._tell)
        pulse.now()
        try:
            return self._publish(order, pulse)
        except Exception as error:  # noqa: BLE001  the one place that owns what becomes of a clip at the door
            return replace(order.outcome, failure=failure_of(NAME, None, error))
        finally:
            with suppress(OSError):  # where nothing can be removed now, a later sweep sees that its writer is gone
                for partial in partials(order.clip):
                    discard(partial)

    def _publish(self, order: Finish, pulse: _Pulse) -> Outcome:
        begun = time.monotonic()
        partial = partials(order.clip)[0]
        clip = replace(order.clip, partial=partial)
        if not clip.work:
            take_over(order.clip.partial, partial, clip.target)
        about = dict(order.about)
        files: dict[str, dict[str, Any]] = {}
        if self._sealer is not None or about.get("report"):
            files["source"] = _facts(clip, clip.source, clip.source, pulse)
        facts = {"job": about.get("job", clip.id)}
        facts |= {f"{name}_sha256": found["sha256"] for name, found in files.items()}
        reports, beside = self._finished(clip, order.outcome, facts, pulse)
        if files:
            files["output"] = _facts(clip, partial, clip.target, pulse)
            reports[NAME] |= {"source_sha256": files["source"]["sha256"], "sha256": files["output"]["sha256"]}
        _sync_slowly(partial, clip.target, pulse)
        check_unchanged(clip.source, about.get("mark"))
        pulse.now()  # nobody is at this clip but us, and all that takes long is behind us
        if self._sealer is not None:
            about |= self._sealer.record(clip, reports, {**facts, "output_sha256": files["output"]["sha256"]})
        outcome = replace(order.outcome, reports=reports)
        if about.get("report"):
            seconds = outcome.seconds + time.monotonic() - begun
            beside = [*beside, _describe(clip, replace(outcome, seconds=seconds), about, files)]
        publish(partial, clip.target, beside)
        if clip.work:
            with suppress(OSError):  # what is left of it is swept later
                shutil.rmtree(clip.work)
        return outcome

    def _finished(
        self, clip: Clip, outcome: Outcome, facts: Mapping[str, Any], pulse: _Pulse
    ) -> tuple[dict[str, Report], list[tuple[str, str]]]:
        """Leaves the file whole, sealed and looked at; all reports, and what belongs beside it."""
        reports = _reports(clip, outcome)
        made = self._finisher.make(clip, reports, pulse)
        sealed = Sealed({})
        if (sealer := self._sealer) is not None:
            # each is read, hashed and written a few times
            nbytes = _ROUNDS * (Path(clip.partial).stat().st_size + Path(clip.source).stat().st_size)
            sealed = _patiently(lambda alive: sealer.seal(clip, reports, facts, alive), nbytes, pulse)
        reports[NAME] = made | sealed.report | self._finisher.check(clip, pulse)
        return reports, [] if sealed.beside is None else [sealed.beside]


class _Pulse:
    """Tells the parent how far a clip is, a few times a second."""

    def __init__(self, job: int, tell: Callable[[Finishing], None]) -> None:
        self._tell = tell
        self._last = Finishing(job, 0, None)
        self._told = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        self._last = replace(self._last, done=done, total=total)
        self.alive()

    def alive(self) -> None:
        """Says the same as before, if that is some time ago."""
        if time.monotonic() - self._told >= _PULSE_S:
            self.now()

    def now(self) -> None:
        """Says the same as before. Raises ParentGone."""
        self._told = time.monotonic()
        self._tell(self._last)


def check_unchanged(source: str, mark: Mapping[str, Any] | None) -> None:
    """Sees that a clip is still the one that was taken; without a `mark` (size, mtime_ns, inode) there is nothing to.

    Raises:
        ChangedError: it is another, or has gone.
        PublishError: nobody can tell now.
    """
    if mark is None:
        return
    try:
        found = Path(source).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ChangedError(f"{source} has gone since it was taken; put it back to have it converted") from error
    except OSError as error:
        raise PublishError(f"{source} could not be looked at again: {error.strerror}") from error
    now = {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}
    if any(now[name] != mark[name] for name in now):
        raise ChangedError(f"{source} has changed since it was taken; its result would be of a clip that is no more")


def _sync_slowly(partial: str, target: str, pulse: _Pulse) -> None:
    """Has a file synced. Raises PublishError."""
    try:
        _patiently(lambda _: sync(partial), Path(partial).stat().st_size, pulse)
    except OSError as error:
        failed = PublishError(f"{target} could not be put on the disk: {(error.strerror or str(error)).lower()}")
        failed.errno = error.errno
        raise failed from error


def _patiently(work: Callable[[Callable[[], None]], T], nbytes: int, pulse: _Pulse) -> T:
    """Has something done that may take long in silence, and says meanwhile that it is alive.

    `work` is given what it may call now and then: that raises ParentGone once there is nobody to work for. Of so many
    bytes no disk takes longer than `_SLOWEST` allows; after that it is silence, and the parent's to judge.
    """
    begun = time.monotonic()
    gone = threading.Event()

    def needed() -> None:
        if gone.is_set():
            raise ParentGone

    with ThreadPoolExecutor(1, "patience") as pool:
        doing = pool.submit(work, needed)
        try:
            while not wait([doing], _PULSE_S).done:
                if time.monotonic() - begun < nbytes / _SLOWEST:
                    pulse.alive()
        except BaseException:
            gone.set()
            raise
        return doing.result()


def _reports(clip: Clip, outcome: Outcome) -> dict[str, Report]:
    """What the stages said; of a run that only had to publish, what they said in the one that made the frames."""
    kept = checkpoints.kept_reports(clip.work) if clip.work and outcome.frames == 0 else None
    return dict(outcome.reports) if kept is None else kept


def _facts(clip: Clip, path: str, shown: str, pulse: _Pulse) -> dict[str, Any]:
    """What the report says of a file as lying at `shown`. Raises PublishError."""
    try:
        return result.facts(path, result.sha256(path, pulse.alive), shown)
    except OSError as error:
        raise _untold(clip, error) from error


def _describe(
    clip: Clip, outcome: Outcome, about: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str]:
    """Writes the report's partial file; that, and what it shall become. Raises PublishError."""
    partial = partials(clip)[1]
    try:
        result.write(partial, result.compose(clip, outcome, about, files, time.time()))
    except OSError as error:
        raise _untold(clip, error) from error
    return partial, str(result.path_for(clip.target))


def _untold(clip: Clip, error: OSError) -> PublishError:
    failed = PublishError(f"the report of {clip.target} could not be written: {error.strerror}")
    failed.errno = error.errno
    return failed


def main(post: Post, line: Line) -> None:
    """What the spawned process runs: makes finisher and sealer, says so, publishes until there are no more orders."""
    begin(NAME, line.output)
    try:
        finisher = cast(Finisher, post.finisher.build())
        sealer = None if post.sealer is None else cast(Sealer, post.sealer.build())
    except Exception as error:  # whatever it is, the parent must hear why
        line.events.send_bytes(pack(Broken(failure_of(NAME, None, error))))
        raise SystemExit(PEER_GONE) from error

    def tell(how_far: Finishing) -> None:
        if orphaned():
            raise ParentGone
        try:
            line.events.send_bytes(pack(how_far))
        except OSError as error:
            raise ParentGone from error

    try:
        line.events.send_bytes(pack(Ready()))
        door = Door(finisher, tell, sealer)
        while True:
            order = unpack(post.orders.recv_bytes())
            assert isinstance(order, Finish)
            line.events.send_bytes(pack(Ended(door(order))))
    except EOFError:
        return
    except (ParentGone, BrokenPipeError) as gone:
        raise SystemExit(PEER_GONE) from gone
