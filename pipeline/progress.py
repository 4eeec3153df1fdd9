"""How far the work is: a bar on a terminal, now and then a plain line elsewhere; and the table of stages at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from tqdm import tqdm

from pipeline.logs import printable
from pipeline.specs import Outcome, StageStats
from pipeline.types import Job

if TYPE_CHECKING:
    from pipeline.engine import Engine


class Progress(Protocol):
    """Told about one task after the other."""

    def show(self, task: str, done: int, total: int | None, note: str = "") -> None:
        """`done` of `total` (None: not known) steps of `task` are behind us; cheap enough to call at will."""
        ...

    def say(self, line: str) -> None:
        """A line to keep, such as how a task ended; the bar of the task goes."""
        ...

    def close(self) -> None:
        """Takes the bar away."""
        ...


class Silent:
    """Says nothing but what is to keep, and that only where a stream is given."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def show(self, task: str, done: int, total: int | None, note: str = "") -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Writes the line."""
        if self._stream is not None:
            print(printable(line), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing."""


class Lines(Silent):
    """Plain lines, at most one every few seconds: for log files and pipes."""

    def __init__(
        self, stream: TextIO, unit: str = "frames", every_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream)
        self._unit = unit
        self._every_s = every_s
        self._clock = clock
        self._task = ""
        self._begun = self._said = 0.0
        self._first = 0

    def show(self, task: str, done: int, total: int | None, note: str = "") -> None:
        """Writes a line if the last one is long enough ago."""
        now = self._clock()
        if task != self._task:
            self._task, self._begun, self._first, self._said = task, now, done, now
        if now - self._said < self._every_s:
            return
        self._said = now
        of = f" of {total} ({100 * done // total} %)" if total else ""
        rate = (done - self._first) / (now - self._begun)
        unit = f" {self._unit}" if self._unit else ""
        self.say(f"{task}: {done}{of}{unit}, {rate:.1f} a second{', ' + note if note else ''}")


class _Tqdm(tqdm):
    monitor_interval = 0  # else it leaves a thread behind that wakes slow bars


class Bar:
    """A bar on a terminal."""

    def __init__(self, stream: TextIO, unit: str = "frames") -> None:
        self._stream = stream
        self._unit = unit
        self._task = ""
        self._bar: Any = None

    def show(self, task: str, done: int, total: int | None, note: str = "") -> None:
        """Moves the bar; a new task gets a new one."""
        if self._bar is None or task != self._task:
            self.close()
            self._task = task
            self._bar = _Tqdm(
                desc=printable(task), initial=done, total=total or None, file=self._stream, unit=f" {self._unit}",
                dynamic_ncols=True, leave=False,
            )  # fmt: skip
        self._bar.total = max(total, done) if total else None
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Puts the line where the bar was."""
        self.close()
        print(printable(line), file=self._stream, flush=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def progress(stream: TextIO, quiet: bool = False, unit: str = "frames") -> Iterator[Progress]:
    """The kind that fits `stream`: a bar on a terminal, plain lines elsewhere, nothing at all if `quiet`."""
    kind: Progress = Silent() if quiet else Bar(stream, unit) if stream.isatty() else Lines(stream, unit)
    try:
        yield kind
    finally:
        kind.close()


@dataclass(frozen=True, slots=True)
class StageShare:
    """One row of the table: how a stage spent the `seconds` of a run, as shares 0..1 of its workers' time.

    Attributes:
        fps: frames a second that went through, over the whole run.
        capacity_fps: frames a second that it could do if nobody made it wait; inf where it did nothing.
    """

    name: str
    workers: int
    frames: int
    fps: float
    capacity_fps: float
    busy: float
    wait_in: float
    wait_out: float


def shares(stats: Sequence[StageStats], seconds: float) -> tuple[StageShare, ...]:
    """What each stage did in a run of `seconds`, in the order of the chain."""
    wall = max(seconds, 1e-9)
    return tuple(
        StageShare(
            name=s.name,
            workers=s.workers,
            frames=s.frames,
            fps=s.frames / wall,
            capacity_fps=s.frames * s.workers / s.busy if s.busy else float("inf"),
            busy=s.busy / wall / s.workers,
            wait_in=s.wait_in / wall / s.workers,
            wait_out=s.wait_out / wall / s.workers,
        )
        for s in stats
    )


def bottleneck(stats: Sequence[StageStats]) -> str:
    """The stage that held the others up: the one whose workers were busy longest. Empty where nothing was done."""
    busiest = max(stats, key=lambda s: s.busy / s.workers, default=None)
    return busiest.name if busiest is not None and busiest.busy > 0 else ""


def since(now: Sequence[StageStats], before: Sequence[StageStats]) -> tuple[StageStats, ...]:
    """What the stages have done between two looks at the same engine."""
    return tuple(
        replace(
            n,
            frames=n.frames - b.frames,
            busy=n.busy - b.busy,
            wait_in=n.wait_in - b.wait_in,
            wait_out=n.wait_out - b.wait_out,
        )
        for n, b in zip(now, before, strict=True)
    )


def stage_table(stats: Sequence[StageStats], seconds: float) -> str:
    """The table that ends a run; its last line names the bottleneck."""
    rows: list[tuple[str, ...]] = [("stage", "workers", "frames", "busy", "wait in", "wait out", "could do")]
    for share in shares(stats, seconds):
        could = f"{share.capacity_fps:.1f}/s" if share.capacity_fps != float("inf") else "-"
        percents = (f"{100 * part:.0f} %" for part in (share.busy, share.wait_in, share.wait_out))
        rows.append((share.name, str(share.workers), str(share.frames), *percents, could))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        name, *figures = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([name.strip().ljust(widths[0]), *figures]))
    slowest = bottleneck(stats)
    return "\n".join([*lines, f"bottleneck: {slowest}" if slowest else "bottleneck: none, no frame went through"])


def follow(engine: Engine, jobs: Sequence[Job], shown: Progress, every_s: float = 0.2) -> Iterator[Outcome]:
    """Runs `jobs` and shows how far each is; yields their outcomes as they end."""
    left = {job.id: job for job in jobs}
    before = engine.stats()
    begun = time.monotonic()
    for job in jobs:
        engine.submit(job)
    while left:
        for outcome in engine.poll(every_s):
            del left[outcome.job.id]
            yield outcome
        stats = since(engine.stats(), before)
        last = stats[-1]
        if last.clip in left and last.frame >= 0:
            clip = engine.clip(last.clip)
            name = Path(left[last.clip].source).name
            slowest = bottleneck(stats)
            busy = {s.name: s.busy / s.workers for s in stats}.get(slowest, 0.0) / (time.monotonic() - begun)
            note = f"{slowest} is {100 * busy:.0f} % busy" if slowest else ""
            shown.show(name, last.frame + 1, clip.frames if clip else None, note)
