"""Stages that do nothing but behave, or misbehave as they are told: for the engine's tests.

A toy job's source is "WIDTHxHEIGHTxFRAMES[:trouble]", its target "" (nothing is published) or a path. Where a test
needs a source that is a file, that is called the same: it holds nothing that a toy would read.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.errors import ConsentError, InputError, PublishError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.publish import DETACHED, partial_path, path_beside
from pipeline.specs import StageSpec
from pipeline.types import Clip, Face, Frame, Frames, Job, Picture, Pulse, Report, Sealed


def picture_of(clip_id: int, index: int, width: int, height: int) -> Picture:
    """A yuv420p picture that no other frame has."""
    form = PIXEL_FORMATS["yuv420p"]
    rng = np.random.default_rng((clip_id, index))
    planes = tuple(rng.integers(0, 256, shape, np.uint8) for shape in form.shapes(width, height))
    return Picture(form, width, height, planes)


@dataclass(frozen=True)
class Config:
    """What a toy does: `trouble` is one of those in `Toy.trouble`, keep or late-raise, at frame `at` of clip `clip`.

    `first` is the frame with which the source's clips begin, where their jobs have work folders.
    """

    trouble: str = ""
    clip: int = 1
    at: int = 5
    delay_s: float = 0.0
    faces: int = 1
    batch: int = 1
    wait_s: float = 5.0
    folder: str = ""
    first: int = 0


class Toy:
    """Passes frames on."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = True

    def __init__(self, config: Config | None) -> None:
        self.config = config or Config()

    def trouble(self, clip: Clip, index: int, frames: Frames) -> None:
        if (clip.id, index) != (self.config.clip, self.config.at):
            return
        match self.config.trouble:
            case "raise":
                raise ArithmeticError("as told")
            case "input":
                raise InputError("not to my taste")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "full":
                with Path("/dev/full").open("wb", buffering=0) as file:
                    file.write(b"no room for this")
            case "memory":
                raise MemoryError
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "chatter":
                os.write(1, b"here\n")
                for number in range(5 * 1024):
                    sys.stderr.write(f"{number} " + "x" * 1000 + "\n")
                os.write(2, b"and now I die\nhalf a li")
                os.kill(os.getpid(), signal.SIGKILL)
            case "wade":
                while True:
                    time.sleep(0.02)
                    frames.ready(0)
            case "long" | "long-alive":
                for _ in range(30):
                    time.sleep(0.1)
                    if self.config.trouble == "long-alive":
                        frames.ready(0)

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        count = 0
        for frame in frames:
            self.trouble(clip, frame.index, frames)
            if self.config.delay_s:
                time.sleep(self.config.delay_s)
            count += 1
            if self.config.trouble == "keep" and (clip.id, frame.index) == (self.config.clip, self.config.at):
                continue
            yield self.treat(frame)
        if self.config.trouble == "late-raise" and clip.id == self.config.clip:
            raise ArithmeticError("at the very end")
        return {"frames": count, "pid": str(os.getpid())}

    def treat(self, frame: Frame) -> Frame:
        return frame


class Make(Toy):
    """A source whose pictures `picture_of` knows."""

    stateless: ClassVar[bool] = False

    def open(self, job: Job) -> Clip:
        size, _, trouble = Path(job.source).name.partition(":")
        if trouble == "refuse":
            raise InputError(f"{job.source}: refused")
        width, height, frames = (int(n) for n in size.split("x"))
        partial = f"{job.target}.{job.id}.part" if job.target else ""
        return Clip(
            job.id,
            job.source,
            job.target,
            partial,
            width,
            height,
            PIXEL_FORMATS["yuv420p"],
            Fraction(1, 25),
            frames=frames,
            work=job.work,
            first=self.config.first if job.work else 0,
        )

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        for index in range(clip.frames or 0):
            self.trouble(clip, index, frames)
            yield Frame(clip.id, index, index * 3, picture_of(clip.id, index, clip.width, clip.height), duration=3)
        return {"made": clip.frames or 0}


class Find(Toy):
    """Hangs faces on frames, some allocated in the slot and some not."""

    gives: ClassVar[frozenset[str]] = frozenset({"landmarks", "aligned"})

    def treat(self, frame: Frame) -> Frame:
        faces = []
        for i in range(self.config.faces):
            landmarks = frame.allocate((478, 2), np.float32)
            landmarks[:] = frame.index + i
            aligned = np.full((64, 64, 3), (frame.index + i) % 256, np.uint8)  # made elsewhere: copied in
            matrix = np.arange(6, dtype=np.float64).reshape(2, 3) + frame.index
            faces.append(Face((0, 1, 2, 3), 0.5, landmarks, i, matrix, aligned))
        return frame.with_(faces=tuple(faces))


class Gather(Toy):
    """Holds frames until it has a batch of them, or nothing more comes for a while."""

    stateless: ClassVar[bool] = False

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        held: list[Frame] = []
        batches = 0
        for frame in frames:
            held.append(frame)
            if len(held) < self.config.batch and frames.ready(self.config.wait_s):
                continue
            batches += 1
            yield from held
            held = []
        yield from held
        return {"batches": batches}


class Edit(Toy):
    """Inverts the first row of luma in place."""

    def treat(self, frame: Frame) -> Frame:
        frame.picture.planes[0][0] ^= 255
        return frame


class Check(Toy):
    """The last stage: compares every byte with what the source made and writes the target's partial file."""

    stateless: ClassVar[bool] = False

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        partial = Path(clip.work) / "segment" if clip.work else Path(clip.partial) if clip.target else None
        done = False
        try:
            if partial:
                partial.write_bytes(b"half")
            for frame in frames:
                self.trouble(clip, frame.index, frames)
                if self.config.delay_s:
                    time.sleep(self.config.delay_s)
                self.compare(clip, frame)
                yield frame
            if partial:
                partial.write_bytes(b"whole")
            done = True
        finally:
            if partial and not done:
                partial.unlink(missing_ok=True)
        return {"compared": clip.frames or 0}

    def compare(self, clip: Clip, frame: Frame) -> None:
        made = picture_of(clip.id, frame.index, clip.width, clip.height)
        made.planes[0][0] ^= 255
        assert all(np.array_equal(a, b) for a, b in zip(frame.picture.planes, made.planes, strict=True)), frame.index
        assert (frame.pts, frame.duration) == (frame.index * 3, 3)
        for i, face in enumerate(frame.faces):
            assert face.track == i
            assert face.frame_to_crop is not None and face.aligned is not None
            assert np.all(face.landmarks == frame.index + i)
            assert np.all(face.aligned == (frame.index + i) % 256)
            assert face.frame_to_crop[0, 0] == frame.index


class Finish:
    """A finisher: what `Check` wrote stays, or what is in the work folder is taken; misbehaves as it is told."""

    def __init__(self, config: Config | None) -> None:
        self.config = config or Config()
        if self.config.trouble == "unloadable":
            raise OSError("nothing to finish with")

    def make(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> Report:
        if clip.work:
            Path(clip.partial).write_bytes((Path(clip.work) / "segment").read_bytes())
        assert Path(clip.partial).read_bytes() == b"whole"
        begun = time.monotonic()
        if self.config.trouble and clip.id == self.config.clip:
            self.trouble(clip)
        while time.monotonic() - begun < self.config.delay_s:
            pulse(1, 2)
            time.sleep(0.02)
        Path(clip.partial).write_bytes(b"finished")
        return {"pid": str(os.getpid()), "seen": ",".join(sorted(reports))}

    def check(self, clip: Clip, pulse: Pulse) -> Report:
        assert Path(clip.partial).read_bytes().startswith(b"finished")
        return {"frames": clip.first + (clip.frames or 0)}

    def trouble(self, clip: Clip) -> None:
        match self.config.trouble:
            case "refuse":
                raise PublishError("not as it should be")
            case "die":
                print("the last of a door", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            case "late-die":
                Path(clip.partial).replace(clip.target)
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "touch":
                os.utime(clip.source)
            case "remove":
                Path(clip.source).unlink()
            case "full":
                with Path("/dev/full").open("wb", buffering=0) as file:
                    file.write(b"no room for this")


def finisher(config: Config | None = None) -> StageSpec:
    """The toy finisher."""
    return StageSpec("publish", "tests.pipeline.toys:Finish", config)


def specs(**configs: Config) -> tuple[StageSpec, ...]:
    """make, find, gather, edit, check; give any of them a Config by name."""
    kinds = {"make": "Make", "find": "Find", "gather": "Gather", "edit": "Edit", "check": "Check"}
    return tuple(StageSpec(n, f"tests.pipeline.toys:{kind}", configs.get(n, Config())) for n, kind in kinds.items())


class Seal:
    """A sealer: puts a seal on the file and one beside it, and remembers; misbehaves as it is told."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.recorded: list[tuple[str, dict[str, Any]]] = []

    def seal(
        self, clip: Clip, reports: Mapping[str, Report], facts: Mapping[str, Any], alive: Callable[[], None]
    ) -> Sealed:
        assert set(facts) == {"job", "source_sha256"}
        if self.config.trouble == "unagreed":
            raise ConsentError("nobody has agreed to this")
        file = Path(clip.partial)
        file.write_bytes(file.read_bytes() + b", sealed")
        beside = str(path_beside(clip.target, DETACHED))
        partial = partial_path(beside, clip.id)
        Path(partial).write_bytes(b"a seal")
        alive()
        return Sealed({"sealed": 1}, (partial, beside))

    def record(self, clip: Clip, reports: Mapping[str, Report], facts: Mapping[str, Any]) -> dict[str, Any]:
        assert not Path(clip.target).exists()
        if self.config.trouble == "revoked":
            raise ConsentError("somebody has changed their mind")
        self.recorded.append((clip.target, dict(facts)))
        return {"provenance": {"row": len(self.recorded)}}
