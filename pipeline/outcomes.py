"""What becomes of jobs, said to people, to machines and to the shell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline import errors
from pipeline.errors import ChangedError, InputError, StageError, UnderstudyError
from pipeline.progress import bottleneck, shares
from pipeline.specs import Failure, Outcome, StageStats
from pipeline.types import Job


def failed(job: Job, error: UnderstudyError) -> Outcome:
    """The outcome of a job that was refused before any stage saw it."""
    return Outcome(job, failure=Failure("", None, str(error), type(error).__name__))


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """0 where all went well, else the code of the first failure."""
    for outcome in outcomes:
        if outcome.failure is not None:
            kind = getattr(errors, outcome.failure.error, StageError)
            return int(kind.exit_code) if issubclass(kind, UnderstudyError) else StageError.exit_code
    return 0


def sentence(outcome: Outcome) -> str:
    """How a job ended, in one line."""
    job, failure = outcome.job, outcome.failure
    if failure is None:
        fps = outcome.frames / outcome.seconds if outcome.seconds else 0.0
        damage = sum(int(outcome.reports.get("decode", {}).get(k, 0)) for k in ("damaged_packets", "read_errors"))
        note = f"; {damage} damaged parts of the source could not be read" if damage else ""
        whole = int(outcome.reports.get("publish", {}).get("frames", outcome.frames))
        now = f", {outcome.frames} of them now" if whole != outcome.frames else ""  # the others: an earlier run
        return f"{job.target}: {whole} frames{now}, in {outcome.seconds:.1f} s ({fps:.1f} a second){note}"
    if failure.error in (InputError.__name__, ChangedError.__name__) and failure.frame is None:
        return failure.reason  # it names the file itself
    where = f"{failure.stage} failed" if failure.stage else "failed"
    at = "" if failure.frame is None else f" at frame {failure.frame}"
    return f"{job.source}: {where}{at}: {failure.reason}"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """A job's outcome for machines; `failure` is null where the target has been published."""
    failure = outcome.failure
    return {
        "source": outcome.job.source,
        "target": outcome.job.target,
        "ok": outcome.ok,
        "frames": outcome.frames,
        "seconds": round(outcome.seconds, 3),
        "fps": round(outcome.frames / outcome.seconds, 2) if outcome.seconds else 0.0,
        "failure": failure
        and {
            "error": failure.error,
            "stage": failure.stage,
            "frame": failure.frame,
            "reason": failure.reason,
            "errno": failure.errno,
            "signal": failure.signal,
            "sentence": sentence(outcome),
        },
        "reports": outcome.reports,
    }


def stages_as_json(stats: Sequence[StageStats], seconds: float) -> dict[str, Any]:
    """The table of stages for machines: shares are 0..1 of the run's seconds, per worker."""
    rows = [
        {
            "name": share.name,
            "workers": share.workers,
            "frames": share.frames,
            "fps": round(share.fps, 2),
            "capacity_fps": round(share.capacity_fps, 2) if share.capacity_fps != float("inf") else None,
            "busy": round(share.busy, 4),
            "wait_in": round(share.wait_in, 4),
            "wait_out": round(share.wait_out, 4),
        }
        for share in shares(stats, seconds)
    ]
    return {"seconds": round(seconds, 3), "stages": rows, "bottleneck": bottleneck(stats)}
