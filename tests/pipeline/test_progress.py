"""Progress: few plain lines, one bar, a table that names the bottleneck."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from pipeline.progress import Bar, Lines, Silent, bottleneck, follow, progress, shares, since, stage_table
from pipeline.specs import Outcome, StageStats
from pipeline.types import Job

STATS = (
    StageStats("decode", 0, 1, 100, busy=1.0, wait_in=0.0, wait_out=9.0),
    StageStats("detect", 1, 2, 100, busy=12.0, wait_in=6.0, wait_out=2.0),
    StageStats("swap", 2, 1, 100, busy=8.0, wait_in=2.0, wait_out=0.0),
    StageStats("encode", 3, 1),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_now_and_then() -> None:
    now = [0.0]
    stream = io.StringIO()
    lines = Lines(stream, every_s=5.0, clock=lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        lines.show("a.mp4", 10 * second, 200, "swap is 80 % busy")
    lines.show("b\n.mp4", 5, None)
    now[0] += 6
    lines.show("b\n.mp4", 17, None)
    assert stream.getvalue().splitlines() == [
        "a.mp4: 50 of 200 (25 %) frames, 10.0 a second, swap is 80 % busy",
        "a.mp4: 100 of 200 (50 %) frames, 10.0 a second, swap is 80 % busy",
        "b\\n.mp4: 17 frames, 2.0 a second",
    ]


def test_the_bar_moves_and_goes() -> None:
    stream = Terminal()
    bar = Bar(stream)
    bar.show("a.mp4", 50, 100)
    bar.show("a.mp4", 120, 100)  # the estimate was too low
    bar.say("done\x1b[2J")
    assert "a.mp4:  50%" in stream.getvalue()
    assert stream.getvalue().endswith("\rdone\\x1b[2J\n")
    bar.close()


@pytest.mark.parametrize(
    ("stream", "quiet", "kind"), [(io.StringIO(), False, Lines), (Terminal(), False, Bar), (Terminal(), True, Silent)]
)
def test_the_kind_fits_the_stream(stream: io.StringIO, quiet: bool, kind: type) -> None:
    with progress(stream, quiet) as made:
        assert type(made) is kind


def test_shares_are_per_worker() -> None:
    detect = shares(STATS, 10.0)[1]
    assert (detect.busy, detect.wait_in, detect.wait_out) == (0.6, 0.3, 0.1)
    assert detect.fps == 10.0
    assert detect.capacity_fps == pytest.approx(100 * 2 / 12)
    assert shares(STATS, 10.0)[3].capacity_fps == float("inf")


def test_the_bottleneck_is_the_busiest_for_its_workers() -> None:
    assert bottleneck(STATS) == "swap"  # detect was busy longer, but had two workers for it
    assert bottleneck(STATS[3:]) == "" and bottleneck(()) == ""


def test_the_table() -> None:
    assert stage_table(STATS, 10.0).splitlines() == [
        "stage   workers  frames  busy  wait in  wait out  could do",
        "decode        1     100  10 %      0 %      90 %   100.0/s",
        "detect        2     100  60 %     30 %      10 %    16.7/s",
        "swap          1     100  80 %     20 %       0 %    12.5/s",
        "encode        1       0   0 %      0 %       0 %         -",
        "bottleneck: swap",
    ]


def test_since_is_the_difference() -> None:
    later = tuple(replace(s, frames=s.frames + 7, busy=s.busy + 2.5) for s in STATS)
    assert [(s.frames, s.busy) for s in since(later, STATS)] == [(7, 2.5)] * 4
    assert since(STATS, STATS)[0].wait_out == 0


class FakeEngine:
    """Ends each job after some looks at it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.looks = 0

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def poll(self, timeout_s: float) -> list[Outcome]:
        self.looks += 1
        return [] if self.looks % 3 else [Outcome(self.jobs.pop(0), 3)]

    def clip(self, job_id: int) -> None:
        return None

    def stats(self) -> tuple[StageStats, ...]:
        at = (self.jobs[0].id, self.looks % 3) if self.jobs else (0, -1)
        return (StageStats("encode", 0, 1, self.looks, busy=self.looks, clip=at[0], frame=at[1]),)


def test_following_jobs_shows_each_and_gives_every_outcome() -> None:
    shown: list[tuple[str, int]] = []

    class Shown(Silent):
        def show(self, task: str, done: int, total: int | None, note: str = "") -> None:
            shown.append((task, done))

    jobs = [Job(1, "/in/a.mp4", "/out/a.mp4"), Job(2, "/in/b.mp4", "/out/b.mp4")]
    ended = list(follow(FakeEngine(), jobs, Shown()))  # type: ignore[arg-type]
    assert [outcome.job for outcome in ended] == jobs
    assert ("a.mp4", 2) in shown and ("b.mp4", 3) in shown
