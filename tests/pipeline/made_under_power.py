"""What a daemon does to its disk for some clips, in one thread of one process: so it can be followed call by call.

Table, clerk, door, checkpoints and files of packets are the real ones; frames and their joining are not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline import checkpoints, clerk, door
from pipeline.checkpoints import Checkpoint, Segment
from pipeline.clerk import Clerk
from pipeline.door import Door
from pipeline.inbox import WatchConfig, mark_of
from pipeline.jobs import Entry, Table
from pipeline.messages import Finish
from pipeline.pixels import PIXEL_FORMATS
from pipeline.plan import make_folder
from pipeline.publish import partial_path
from pipeline.retries import RetryConfig
from pipeline.specs import Outcome
from pipeline.types import Clip, Job, Pulse, Report
from stages.packets import PacketReader, PacketWriter

SEGMENTS, LENGTH = 4, 5

#: So many paths hold one clip after another.
PATHS = 24


def configs(root: Path) -> list[WatchConfig]:
    """Three watched folders, each with another end for originals."""
    kept, moved, deleted = (root / name for name in ("kept", "moved", "deleted"))
    return [
        WatchConfig(kept / "in", kept / "out"),
        WatchConfig(moved / "in", moved / "out", on_done="move", done=moved / "done"),
        WatchConfig(deleted / "in", deleted / "out", on_done="delete"),
    ]


def content(job: int) -> bytes:
    """What the clip of a job holds."""
    return f"clip of job {job} ".encode() * (30 + job)


def packet(job: int, segment: int) -> bytes:
    """What each packet of a segment holds."""
    return f"job {job} segment {segment} ".encode() * (40 + job + segment)


def result_of(job: int) -> bytes:
    """What becomes of a clip."""
    return b"".join(packet(job, segment) * 2 for segment in range(SEGMENTS))


class AtOnce:
    """An executor that starts no thread."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, do: Callable[..., Any], *what: object) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(do(*what))
        except OSError as error:
            done.set_exception(error)
        return done

    def shutdown(self, **_: object) -> None:
        pass


class Join:
    """A finisher: the packets one after another, in a file that nobody has synced."""

    def make(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> Report:
        if clip.work:
            found = checkpoints.read(clip.work)
            assert found is not None and found.whole
            with Path(clip.partial).open("wb") as file:
                for segment in found.segments:
                    reader = PacketReader(Path(clip.work) / segment.file)
                    for stored in reader:
                        file.write(stored.data)
                    reader.close()
        return {}

    def check(self, clip: Clip, pulse: Pulse) -> Report:
        return {"frames": SEGMENTS * LENGTH}


class Daemon:
    """Takes, makes and settles clip after clip."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders = configs(root)
        self._open()
        self._door = Door(Join(), lambda _: None)

    def _open(self) -> None:
        self._table = Table.open(self._root / "state" / "jobs.sqlite")
        self._table.filled()
        self._table._held.read("PRAGMA wal_autocheckpoint=20")
        self._clerk = Clerk(self._table, RetryConfig(), lambda _: [])

    def reopen(self) -> None:
        """Stops and starts."""
        self._clerk.close()
        self._table.close()
        self._open()

    def take(self, number: int) -> Entry:
        """Somebody puts a clip in; some come to a path that had another one before."""
        config = self._folders[number % 3]
        source = config.inbox / f"day {number % 2}" / f"{number % PATHS}.mp4"
        _put(source, content(number))
        mark = mark_of(source)
        assert mark is not None
        target = config.out / source.parent.name / source.name
        entry = self._table.accept(str(config.inbox), str(source), str(target), mark, 0, time.time())
        assert entry.id == number
        say("taken", number)
        return entry

    def make(self, entry: Entry) -> None:
        """Every seventh is broken off after its second segment, and gone on with; every fifth is made in one go."""
        clip = self._begun(self._table.claim(entry.id, time.time()))
        if clip.work:
            done: list[Segment] = []
            for number in range(SEGMENTS):
                if entry.id % 7 == 0 and number == 2:
                    self._table.release(entry.id, "stopped", 0.0, counted=False)
                    self._table.claim(entry.id, time.time())
                _segment(clip, number, done)
        else:
            Path(clip.partial).write_bytes(result_of(entry.id))
        about = {"report": True, "job": entry.id, "attempts": 1, "mark": _facts(entry)}
        job = Job(entry.id, entry.source, entry.target, clip.work, 1.0, about)
        outcome = self._door(Finish(clip, Outcome(job, SEGMENTS * LENGTH, seconds=1.0), about))
        assert outcome.ok, outcome.failure
        self._clerk.settle(replace(outcome, job=job), self._folders[entry.id % 3])
        say("done", entry.id)

    def _begun(self, entry: Entry) -> Clip:
        make_folder(Path(entry.target).parent)
        clip = Clip(entry.id, entry.source, entry.target, "", 8, 8, PIXEL_FORMATS["yuv420p"], Fraction(1, 25))
        if entry.id % 5 == 0:
            return replace(clip, partial=partial_path(entry.target, entry.id, 1))
        work = self._root / "work" / f"{entry.id}-key"
        make_folder(work)
        checkpoints.sweep(str(work))
        return replace(clip, work=str(work), segment=LENGTH)


def _facts(entry: Entry) -> dict[str, int]:
    return {"size": entry.mark.size, "mtime_ns": entry.mark.mtime_ns, "inode": entry.mark.inode}


def _put(path: Path, data: bytes) -> None:
    """As a careful program does, so that the clip stays, whatever becomes of the daemon."""
    if not path.parent.exists():
        path.parent.mkdir()
        _sync(path.parents[1])
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(data)
    _sync(beside)
    beside.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _segment(clip: Clip, number: int, done: list[Segment]) -> None:
    """As encode and align do."""
    path = Path(clip.work) / checkpoints.segment_name(number * LENGTH)
    writer = PacketWriter(path, b"parameters")
    for _ in range(2):
        made = av.Packet(packet(clip.id, number))
        made.pts = number
        writer.write(made)
    end = (number + 1) * LENGTH
    if number + 1 < SEGMENTS:
        checkpoints.save_state(clip.work, "align", end, end - 1, {"tracks": np.full(99, clip.id)})
    done.append(Segment(number * LENGTH, LENGTH, path.name, writer.finish()))
    first = checkpoints.settle(clip.work, end)
    checkpoints.write(clip.work, Checkpoint(first, end, tuple(done), number + 1 == SEGMENTS))
    checkpoints.forget(clip.work, end)


def say(what: str, job: int) -> None:
    """To whoever follows."""
    os.write(1, f"{what} {job}\n".encode())


def main(root: Path, jobs: int) -> None:
    """Makes all of them; the next is taken before one is made."""
    for module in (clerk, door):
        vars(module)["ThreadPoolExecutor"] = AtOnce
    daemon = Daemon(root)
    for config in configs(root):
        for folder in config.own_folders.values():
            make_folder(folder)
    waiting = [daemon.take(1)]
    for number in range(1, jobs + 1):
        if number < jobs:
            waiting.append(daemon.take(number + 1))
        daemon.make(waiting.pop(0))
        if number == jobs // 2:
            daemon.reopen()
