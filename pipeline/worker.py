"""One stage process: takes frames in, runs its stages' generators, hands frames on. It owns what becomes of a clip.

A clip goes wrong in one of four ways, and each leaves the frames travelling in order to the end, where their memory
is given back: a stage raised (its frames and all behind them turn void, and the clip's terminator becomes an Abort);
a void frame or an Abort came in (the stages are told by an exception out of `next(frames)`, so their `finally` runs);
the sender died (the same, and the process leaves); the receiver died (the process leaves).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import cast

from pipeline.board import Board, Doing, Meter, Row
from pipeline.channel import Inlet, Outlet, ReceiverGone, SenderGone
from pipeline.child import PEER_GONE, Line, begin, orphaned
from pipeline.ends import (
    ClipFrames,
    FromJobs,
    FromNeighbour,
    Input,
    Output,
    PlacedFrames,
    ToNeighbour,
    ToParent,
    Voided,
)
from pipeline.errors import UnderstudyError
from pipeline.failures import failure_of
from pipeline.messages import VOID, Abort, Broken, FrameRecord, Ready, pack
from pipeline.pool import Ring, SharedBlock, Slots
from pipeline.specs import Failure, StageSpec
from pipeline.types import Clip, Frame, Frames, Pulled, Report, Source, Stage


@dataclass(frozen=True, slots=True)
class Post:
    """What a process is given when it is spawned: its stages, its place, its memory and its pipes.

    A pipe end that the process does not have is None (or an empty list).
    """

    name: str
    specs: tuple[StageSpec, ...]
    rows: tuple[int, ...]
    place: int
    places: int
    block: SharedBlock
    board: Board
    scratch_nbytes: int
    max_frames: int
    inlets: list[Connection]
    outlets: list[Connection]
    jobs: Connection | None = None
    credits_in: Connection | None = None
    credits_out: Connection | None = None


class StageFailed(Exception):  # noqa: N818  (carries the failure from the stage to the worker)
    """A stage raised."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Link:
    """One stage at work on one clip: its generator, its clock, its failure, its report.

    Iterated by the stage behind it; is itself what its own stage iterates over the frames of.

    A stage that is busy for longer than its deadline without a frame is taken to hang. One that has long work to do
    before its next frame says now and then that it is alive: every call of `frames.ready`, also `ready(0)`, does.
    """

    def __init__(self, place: int, name: str, stage: Stage, clip: Clip, frames: Frames, meter: Meter, row: Row) -> None:
        self.name = name
        self.report: Report = {}
        self.frame: int | None = None
        self._place = place
        self._clip = clip
        self._frames = frames
        self._meter = meter
        self._row = row
        self._is_source = isinstance(stage, Source)
        self._generator: Generator[Frame, None, Report] = stage(clip, Pulled(self._feed(), self._asked))

    def _feed(self) -> Iterator[Frame]:
        for frame in self._frames:
            self._at(frame.index)
            yield frame

    def _at(self, index: int) -> None:
        """Notes where the stage is, counted from the start of the file."""
        self.frame = self._clip.first + index
        self._row.at(self._clip.id, self.frame)

    def _asked(self, timeout_s: float) -> bool:
        self._meter.alive()
        return self._frames.ready(timeout_s)

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        before = self._meter.switch(Doing.BUSY, self._place)
        try:
            frame = next(self._generator)
        except StopIteration as stop:
            self.report = stop.value or {}
            raise
        except (Voided, SenderGone, ReceiverGone, StageFailed):
            raise
        except Exception as error:
            raise StageFailed(failure_of(self.name, self.frame, error)) from error
        finally:
            self._meter.switch(*before)
        self._row.count()
        if self._is_source:  # the next one is what it is at
            self._at(frame.index + 1)
        return frame

    def ready(self, timeout_s: float) -> bool:
        """Forwards to where the frames come from: a stage's own look-ahead makes no promise."""
        return self._frames.ready(timeout_s)

    def close(self) -> None:
        """Ends the generator wherever it is, so that its `finally` runs."""
        self._generator.close()


class Worker:
    """The loop of a stage process."""

    def __init__(self, post: Post, stages: Sequence[Stage], events: Connection) -> None:
        rows = tuple(post.board.row(row) for row in post.rows)
        self._post = post
        self._stages = stages
        self._rows = rows
        self._meter = Meter(rows)
        self._input = self._make_input(post, stages[0], events)
        self._output: Output = ToNeighbour(Outlet(post.outlets))
        if post.credits_out is not None:
            self._output = ToParent(post.credits_out, events)

    def _make_input(self, post: Post, first: Stage, events: Connection) -> Input:
        if post.jobs is None:
            return FromNeighbour(Inlet(post.inlets, post.place, post.places), self._meter, post.board)
        assert post.credits_in is not None, "the first process takes credits"
        ring = Ring(post.block.nbytes, post.max_frames)
        source = cast(Source, first)
        name = post.specs[0].name
        return FromJobs(source, name, post.jobs, post.credits_in, events, ring, self._meter, self._rows[0])

    def run(self) -> None:
        """Clip after clip until there are no more. Raises SenderGone, ReceiverGone."""
        while (clip := self._next_clip()) is not None:
            self._output.begin(clip)
            for row in self._rows:
                row.at(clip.id, -1)
            before = self._meter.switch(Doing.BUSY)
            self._convert(clip)
            self._meter.switch(*before)
            for row in self._rows:
                row.at(0, -1)

    def leave(self) -> None:
        """What is left to do at the end: where the parent has died, nobody else tidies up."""
        if isinstance(self._output, ToParent) and orphaned():
            self._output.forsake()

    def _next_clip(self) -> Clip | None:
        before = self._meter.switch(Doing.IDLE)
        try:
            return self._input.next_clip()
        finally:
            self._meter.switch(*before)

    def _convert(self, clip: Clip) -> None:
        slots = Slots(self._post.block, clip, self._post.scratch_nbytes)
        links: list[Link] = []
        frames: ClipFrames | None = None
        failure: Failure | None = None
        try:
            frames = self._input.frames(clip, slots)
            self._hand_on(self._chain(clip, frames, links), frames, clip, slots)
        except StageFailed as failed:
            failure = failed.failure
        except Voided:
            pass
        except SenderGone:
            self._close(links)
            self._forget(clip)
            raise
        except ReceiverGone:
            raise
        except Exception as error:  # noqa: BLE001  nothing that happens to a clip may end the process
            failure = failure_of(self._post.specs[0].name, None, error)
        failure = self._close(links) or failure
        self._finish(clip, frames, links, failure)

    def _chain(self, clip: Clip, frames: ClipFrames, links: list[Link]) -> Iterator[Frame]:
        """Puts the stages to work on the clip, adding to `links`; iterate the result and frames come out behind."""
        upstream: Frames = frames
        for place, (spec, stage) in enumerate(zip(self._post.specs, self._stages, strict=True)):
            source = frames if place == 0 and isinstance(frames, PlacedFrames) else None
            given = Pulled((), source.asked) if source else upstream
            link = Link(place, spec.name, stage, clip, given, self._meter, self._rows[place])
            links.append(link)
            upstream = source.source(link) if source else link
        return upstream

    def _hand_on(self, made: Iterator[Frame], frames: ClipFrames, clip: Clip, slots: Slots) -> None:
        last = len(self._stages) - 1
        name = self._post.specs[last].name
        for frame in made:
            due = frames.taken[0].index if frames.taken else None
            if frame.index != due:
                at = clip.first + frame.index
                raise StageFailed(Failure(name, at, f"handed on frame {frame.index} where {due} was due"))
            try:
                record = slots.describe(frame)
            except UnderstudyError as error:  # its faces' arrays do not fit into its slot
                raise StageFailed(failure_of(name, clip.first + frame.index, error)) from error
            before = self._meter.switch(Doing.WAIT_OUT, last)
            self._output.frame(record)
            frames.taken.popleft()
            self._meter.switch(*before)
        if frames.taken:
            raise StageFailed(Failure(name, clip.first + frames.taken[0].index, "kept a frame to itself"))

    @staticmethod
    def _close(links: list[Link]) -> Failure | None:
        failure: Failure | None = None
        for link in reversed(links):
            try:
                link.close()
            except Exception as error:  # noqa: BLE001  a stage's clean-up is as much its own as its work
                failure = failure_of(link.name, link.frame, error)
        return failure

    def _finish(self, clip: Clip, frames: ClipFrames | None, links: list[Link], failure: Failure | None) -> None:
        """Passes by what is left of the clip and says how it ended."""
        if frames is None:  # only the first process can fail before it has made a frame
            assert failure is not None
            self._output.finish(clip, Abort(clip.id, 0, failure))
            return
        while frames.taken:
            self._output.frame(_void(frames.taken.popleft()))
        try:
            for record in frames.rest():
                self._output.frame(_void(record))
        except SenderGone:
            self._forget(clip, failure)
            raise
        end = frames.end
        own = {link.name: link.report for link in links if link.report}
        # with several workers, one speaks for the stages before: each was told the same by them
        reports = {**end.reports, **own} if self._post.place == 0 else own
        if isinstance(end, Abort):
            failure = failure or end.failure
        if failure is not None:
            end = Abort(clip.id, end.count, failure, reports)
        else:
            end = replace(end, reports=reports)
        before = self._meter.switch(Doing.BUSY, len(self._stages) - 1)
        self._output.finish(clip, end)
        self._meter.switch(*before)

    def _forget(self, clip: Clip, failure: Failure | None = None) -> None:
        """Tells those behind that the clip broke off because a process before died; the parent knows which."""
        died = Failure("", None, "a process before it died", "SenderGone")
        self._output.finish(clip, Abort(clip.id, -1, failure or died))


def _void(record: FrameRecord) -> FrameRecord:
    return replace(record, flags=record.flags | VOID, faces=())


def main(post: Post, line: Line) -> None:
    """What a spawned process runs: builds its stages, says so, works until its input closes."""
    begin(post.name, line.output)
    code = 0
    try:
        stages = []
        for spec in post.specs:
            try:
                stages.append(spec.build())
            except Exception as error:  # whatever it is, the parent must hear why
                line.events.send_bytes(pack(Broken(failure_of(spec.name, None, error))))
                raise SystemExit(PEER_GONE) from error
        line.events.send_bytes(pack(Ready()))
        worker = Worker(post, stages, line.events)
        try:
            worker.run()
        finally:
            worker.leave()
    except (SenderGone, ReceiverGone, BrokenPipeError):
        code = PEER_GONE
    raise SystemExit(code)
