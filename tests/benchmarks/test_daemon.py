"""What times the daemon: clips are what they are said to be, every step of a clip is told. Nothing is judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import psutil
import pytest

from benchmarks import daemon
from benchmarks.rounds import Machine
from benchmarks.watching import Place, Watching, watching
from benchmarks.workshop import RATE, Workshop
from pipeline.inbox import Inbox
from pipeline.jobs import FILE, State, Table
from pipeline.specs import StageSpec

_ENDS = {"decode": "Decode", "encode": "Encode"}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def plain(workshop: Workshop) -> tuple[StageSpec, ...]:
    """A chain that changes nothing, its ends noting the time."""
    return tuple(
        replace(spec, factory=f"benchmarks.stamps:{_ENDS[spec.name]}") if spec.name in _ENDS else spec
        for spec in workshop.empty_chain()
    )


def pictures(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        tick = 1 / RATE / stream.time_base
        return [(round(p.pts / tick), p.to_ndarray().tobytes()) for p in container.decode(stream) if p.pts is not None]


def test_a_long_clip_shows_the_short_one_over_and_over(workshop: Workshop) -> None:
    once = pictures(workshop.clip(160, 90, 1, "ultrafast"))
    often = pictures(workshop.long_clip(160, 90, 1, 3, "ultrafast"))
    assert [number for number, _ in often] == list(range(3 * RATE))
    assert [shown for _, shown in often] == [shown for _, shown in once] * 3


def test_a_clip_has_a_key_frame_every_two_seconds(workshop: Workshop) -> None:
    with av.open(str(workshop.clip(160, 90, 4, "ultrafast"))) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert [place for place, key in enumerate(keys) if key] == [0, 2 * RATE]


@pytest.fixture(scope="module")
def watched(workshop: Workshop) -> Iterator[Watching]:
    place = Place(workshop.folder / "place", plain(workshop), settle_s=0.1)
    with watching(place, workshop.clip(160, 90, 1, "ultrafast")) as found:
        yield found
    assert not found.process.is_alive()


def test_all_steps_of_a_clip_are_told_and_make_up_its_time(watched: Watching, workshop: Workshop) -> None:
    dropped = watched.drop(workshop.clip(160, 90, 1, "ultrafast"), ["one.mp4"])
    (entry,) = watched.ended(["one.mp4"])
    moments = daemon._moments(entry)
    assert list(moments)[1:-1] == [name for name, _ in daemon.STEPS]
    assert all(before <= after for before, after in pairwise([dropped, *moments.values()]))
    assert sum(daemon._steps(entry).values()) == pytest.approx((entry.ended - entry.seen) * 1e3)
    assert moments["settled"] - dropped >= 0.1
    watched.clear([entry])
    assert not list(watched.place.inbox.iterdir())


def test_processes_are_counted_by_name(watched: Watching) -> None:
    spent = watched.cpu_s()
    assert {"daemon", "decode", "disclose/enc", "publish"} <= set(spent)  # a process's name is cut at 15 bytes
    assert all(cpu >= 0 for cpu in spent.values())
    assert all(psutil.pid_exists(pid) for pid in watched.pids())


def test_many_clips_are_timed_per_frame(watched: Watching, workshop: Workshop) -> None:
    sample = daemon._through(watched, workshop.clip(160, 90, 1, "ultrafast"), ["a.mp4", "b.mp4", "c.mp4"])
    assert 0 < sample.value < 1000
    assert sample.facts["cpu_ms"] == pytest.approx(sum(v for k, v in sample.facts.items() if k.startswith("cpu_ms ")))


def test_what_is_finished_already_is_nothing_new(workshop: Workshop) -> None:
    place = Place(workshop.folder / "rest", ())
    daemon.filled(place, 30)
    with Table.looking(place.state / FILE) as jobs:
        known = jobs.known(str(place.inbox))
        assert jobs.counts()[State.DONE] == 30 and not jobs.new
    inbox = Inbox(place.watched)
    for path, one in known.items():
        inbox.remember(Path(path.decode()), one.mark)
    inbox.look()
    assert not inbox.settling and not inbox.arriving


@pytest.mark.slow
def test_what_a_kill_loses_is_measured(tmp_path: Path) -> None:
    result = daemon.restarted(True, Workshop(tmp_path))
    assert result.measured is not None and 0 <= result.measured < 3
    assert result.facts["resumed_at_frame"] in (0, 60, 120)


@pytest.mark.slow
def test_short_clips_cost_little_more_than_a_long_one(tmp_path: Path) -> None:
    result = daemon.throughput(True, Machine(0.0), Workshop(tmp_path))
    assert result.facts["clips"] == 4
    cpu_ratio = result.facts["cpu_ratio"]  # which hangs less on what else the machine does
    assert isinstance(cpu_ratio, float) and 0.8 < cpu_ratio < 1.3
