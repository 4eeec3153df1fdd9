"""What becomes of a job that has ended: the table's row, the reason beside it, and where the original goes.

Every step may be taken twice: the row changes last where something must be true before it (the result is published),
and first where something only follows from it (the original is put away), so whatever interrupts it is made up for at
the next start.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline import outcomes, result
from pipeline.inbox import WatchConfig
from pipeline.jobs import Entry, Known, State, Table
from pipeline.logs import for_job
from pipeline.originals import digest, mark_of, put_away
from pipeline.publish import discard
from pipeline.retries import Kind, RetryConfig, Verdict, judge
from pipeline.set_aside import add_digest, reason_path, write_reason
from pipeline.specs import Outcome

_log = logging.getLogger(__name__)

_MANY = 100_000


class Clerk:
    """Settles jobs. Its methods raise TableError where the table cannot be written; they may then be called again."""

    def __init__(self, table: Table, retry: RetryConfig, lines: Callable[[int], Sequence[str]]) -> None:
        """`lines` gives the last lines of the log about a job."""
        self._table = table
        self._retry = retry
        self._lines = lines
        self._mover = ThreadPoolExecutor(1, "put away")
        self._moving: list[Future[None]] = []
        self._stopping = False

    def close(self) -> None:
        """Waits for the file that is being moved; the others are moved after the next start."""
        self._stopping = True
        self._mover.shutdown(cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Whether originals are still to be put away."""
        self._moving = [move for move in self._moving if not move.done()]
        return bool(self._moving)

    def settle(self, outcome: Outcome, config: WatchConfig | None) -> Verdict | None:
        """Writes down how a job ended; what the policy made of a failure, None where it is done or was stopped.

        `config` is that of its folder; None where that is not watched any more.
        """
        entry = self._table.entry(outcome.job.id)
        if entry is None or entry.state is not State.RUNNING:
            return None
        if outcome.ok:
            self._done(entry, outcome, config)
            return None
        assert outcome.failure is not None
        if outcome.failure.error == "Cancelled":
            self._stopped(entry)
            return None
        verdict = judge(outcome.failure, entry, self._retry)
        self._failed(entry, outcome, verdict, config)
        return verdict

    def _done(self, entry: Entry, outcome: Outcome, config: WatchConfig | None) -> None:
        report = result.read(result.path_for(entry.target)) or {}
        self._table.finish(entry.id, *_facts(report), time.time())
        for_job(_log, entry.id, entry.source).info("published: %s", outcomes.sentence(outcome))
        if config is not None:
            with suppress(OSError):
                discard(str(reason_path(config, Path(entry.source))))
            self.put_away(entry, config)

    def _stopped(self, entry: Entry) -> None:
        if entry.wish == "cancel":
            self._table.cancel(entry.id, "cancelled while it was made", time.time())
            for_job(_log, entry.id, entry.source).info("cancelled")
        else:
            self._table.release(entry.id, "stopped; it will be gone on with", 0.0, counted=False)

    def _failed(self, entry: Entry, outcome: Outcome, verdict: Verdict, config: WatchConfig | None) -> None:
        said = outcomes.sentence(outcome)
        log = for_job(_log, entry.id, entry.source)
        now = time.time()
        match verdict.kind:
            case Kind.AGAIN | Kind.SPACE:
                due = now + verdict.wait_s
                self._table.release(entry.id, said, due, crashed=verdict.crashed, counted=verdict.counted)
                log.warning("%s; it is tried again%s", said, f" in {verdict.wait_s:.0f} s" if verdict.wait_s else "")
            case Kind.BLOCKED:
                self._table.block(entry.id, said, now)
                log.error("blocked: %s", said)
            case Kind.FAILED | Kind.SET_ASIDE:
                self._give_up(entry, said, outcome, config)
                log.error("failed: %s", said, extra={"fields": {"failure": outcomes.as_json(outcome)["failure"]}})

    def refuse(self, entry: Entry, config: WatchConfig) -> None:
        """Does what is to be done about a job that failed before it was begun."""
        for_job(_log, entry.id, entry.source).error("failed: %s", entry.reason)
        self._note(entry, entry.reason, None, config)
        self._put_aside(entry, config)

    def _give_up(self, entry: Entry, reason: str, outcome: Outcome, config: WatchConfig | None) -> None:
        if config is not None:
            self._note(entry, reason, outcome, config)
        self._table.fail(entry.id, reason, outcomes.as_json(outcome)["failure"], time.time())
        if config is not None:
            self._put_aside(entry, config)

    def _note(self, entry: Entry, reason: str, outcome: Outcome | None, config: WatchConfig) -> None:
        """Leaves the reason in the folder of what failed."""
        try:
            write_reason(reason_path(config, Path(entry.source)), entry, reason, outcome, self._lines(entry.id))
        except OSError as error:
            for_job(_log, entry.id, entry.source).error("the reason could not be written: %s", error)

    def _put_aside(self, entry: Entry, config: WatchConfig) -> None:
        """Adds to the reason, in the background, what takes time; moves the clip there where the settings say so."""
        self._later(self._digested, entry, reason_path(config, Path(entry.source)))
        if config.on_failed == "move":
            self._later(self._moved, entry, config.inbox, config.failed_folder)

    def put_away(self, entry: Entry, config: WatchConfig) -> None:
        """Does with the original of a finished clip what the folder's settings say, in the background."""
        if config.on_done == "move" and config.done is not None:
            self._later(self._moved, entry, config.inbox, config.done)
        elif config.on_done == "delete":
            self._later(self._deleted, entry)

    def catch_up(self, config: WatchConfig, known: Mapping[bytes, Known]) -> None:
        """Puts away what an earlier run had not come to."""
        if config.on_done != "leave":
            for entry in self._left(known, State.DONE):
                if Path(entry.target).exists():  # else the original may be all that there is
                    self.put_away(entry, config)
        if config.on_failed == "move":
            for entry in self._left(known, State.FAILED):
                self._put_aside(entry, config)

    def _left(self, known: Mapping[bytes, Known], state: State) -> Iterator[Entry]:
        """The jobs in that state whose clips still lie where they were."""
        for source, (mark, found, number, _) in known.items():
            there = found is state and mark_of(Path(os.fsdecode(source))) == mark
            if there and (entry := self._table.entry(number)) is not None:
                yield entry

    def recover(self, configs: Mapping[str, WatchConfig]) -> None:
        """At the start: what was being made waits again, but for what had been published."""
        for entry in self._table.listing([State.RUNNING], limit=_MANY):
            self.was_published(entry, configs.get(entry.folder))
        for entry in self._table.recover(time.time()):
            for_job(_log, entry.id, entry.source).info("gone on with")

    def was_published(self, entry: Entry, config: WatchConfig | None) -> bool:
        """Whether the result of a running job is in its place though nobody has heard of that; then it is done.

        Reads all of a result that is there.
        """
        report = result.read(result.path_for(entry.target))
        if report is None or not _tells_of(report, entry):
            return False
        self._table.finish(entry.id, *_facts(report), time.time())
        for_job(_log, entry.id, entry.source).info("had been published before it was broken off")
        if config is not None:
            self.put_away(entry, config)
        return True

    def _later(self, do: Callable[..., None], *what: object) -> None:
        self._moving.append(self._mover.submit(self._seen_to, do, *what))

    def _seen_to(self, do: Callable[..., None], *what: object) -> None:
        try:
            if not self._stopping:
                do(*what)
        except InterruptedError:
            pass  # we are stopping: it is made up for after the next start
        except Exception as defect:  # noqa: BLE001  nobody else would hear of it
            _log.error("a defect in putting clips away", exc_info=defect)

    def _moved(self, entry: Entry, base: Path, into: Path) -> None:
        try:
            if mark_of(Path(entry.source)) == entry.mark:
                put_away(Path(entry.source), base.absolute(), into.absolute(), entry.mark, lambda: self._stopping)
        except InterruptedError:
            raise
        except OSError as error:
            for_job(_log, entry.id, entry.source).error("it could not be moved to %s: %s", into, error)

    def _deleted(self, entry: Entry) -> None:
        source = Path(entry.source)
        try:
            if mark_of(source) == entry.mark:
                source.unlink()
        except OSError as error:
            for_job(_log, entry.id, entry.source).error("it is done but cannot be deleted: %s", error)

    def _digested(self, entry: Entry, reason: Path) -> None:
        try:
            add_digest(reason, Path(entry.source), lambda: self._stopping)
        except InterruptedError:
            raise
        except OSError as error:
            for_job(_log, entry.id, entry.source).info("its digest is not in the reason: %s", error)


def _tells_of(report: Mapping[str, Any], entry: Entry) -> bool:
    """Whether a report speaks of what is in its place, and of just this attempt at it, not of an earlier one.

    The report comes first, so the file's digest counts.
    """
    made, times = report.get("output"), report.get("times")
    if not isinstance(made, dict) or not isinstance(times, dict):
        return False
    if (report.get("job"), times.get("claimed")) != (entry.id, entry.claimed):
        return False
    try:
        return digest(Path(entry.target)) == made.get("sha256")
    except OSError:
        return False


def _facts(report: Mapping[str, Any]) -> tuple[int, float, str]:
    """Frames, seconds and the digest of the source, as far as the report says them; somebody may have changed it."""
    source = report.get("source")
    frames, seconds = report.get("frames"), report.get("seconds")
    digested = source.get("sha256") if isinstance(source, dict) else None
    return (
        frames if isinstance(frames, int) and 0 <= frames < 1 << 63 else 0,
        float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e12 else 0.0,
        digested if isinstance(digested, str) and digested.isascii() else "",
    )
