"""The two ends of a stage process: where its frames come from and where they go.

The first process takes jobs from the parent and makes frames; the last gives the frames' memory back and tells the
parent how clips end; those between talk to their neighbours. `worker.py` treats all alike.
"""

from __future__ import annotations

import select
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Protocol, cast

from pipeline import checkpoints
from pipeline.board import Board, Doing, Meter, Row
from pipeline.channel import Inlet, Messages, Outlet, ReceiverGone
from pipeline.errors import InputError, UnderstudyError
from pipeline.failures import cancelled, failure_of
from pipeline.messages import VOID, Abort, Begin, Cancel, End, Ended, FrameRecord, Opened, pack, unpack
from pipeline.pool import Ring, Slots
from pipeline.publish import discard
from pipeline.specs import Outcome
from pipeline.types import Clip, Frame, Frames, Job, Source

_CREDIT = struct.Struct("<Q")


class Voided(Exception):  # noqa: N818  (an event: the clip has failed elsewhere)
    """Comes out of `next(frames)` when the clip has failed in another stage: clean up, nothing more will come."""


class ClipFrames(Frames, Protocol):
    """One clip's frames as they come in. `taken` holds those that the stages have not given back yet."""

    taken: deque[FrameRecord]

    def rest(self) -> Iterator[FrameRecord]:
        """What still comes of a clip that has failed, up to its terminator. Raises SenderGone."""
        ...

    @property
    def end(self) -> End | Abort:
        """The clip's terminator, once there are no more frames."""
        ...


class Input(Protocol):
    """Where a process's clips come from."""

    def next_clip(self) -> Clip | None:
        """Waits for a clip; None when there will be no more. Raises SenderGone."""
        ...

    def frames(self, clip: Clip, slots: Slots) -> ClipFrames:
        """The clip's frames."""
        ...


class Output(Protocol):
    """Where a process's frames go. Every method raises ReceiverGone."""

    def begin(self, clip: Clip) -> None: ...

    def frame(self, record: FrameRecord) -> None: ...

    def finish(self, clip: Clip, end: End | Abort) -> None: ...


# --- between two processes ----------------------------------------------------------------------------------------


class FromNeighbour:
    """Frames from the group of processes before."""

    def __init__(self, inlet: Inlet, meter: Meter, board: Board) -> None:
        self._inlet = inlet
        self._meter = meter
        self._board = board
        self.received = 0  # frames in all, to compare with what the first process placed

    def next_clip(self) -> Clip | None:
        begin = self._inlet.begin()
        return None if begin is None else begin.clip

    def frames(self, clip: Clip, slots: Slots) -> ReceivedFrames:
        return ReceivedFrames(self, slots)

    def receive(self) -> FrameRecord | End | Abort:
        """The next message of this clip, its waiting counted."""
        before = self._meter.switch(Doing.WAIT_IN)
        try:
            message = self._inlet.receive()
        finally:
            self._meter.switch(*before)
        self.received += isinstance(message, FrameRecord)
        return message

    def ready(self, timeout_s: float, held: int) -> bool:
        """As `Frames.ready`, for a process that holds so many frames: a starved decoder is noticed at once."""
        before = self._meter.switch(Doing.WAIT_IN)
        try:
            while not self._inlet.poll(min(0.004, max(0.0, timeout_s))):
                timeout_s -= 0.004
                if timeout_s <= 0:
                    return False
                if self._board.starved(self.received, held):
                    return self._inlet.poll(0)
            return True
        finally:
            self._meter.switch(*before)


class ReceivedFrames:
    """One clip's frames out of a channel."""

    def __init__(self, source: FromNeighbour, slots: Slots) -> None:
        self._source = source
        self._slots = slots
        self._end: End | Abort | None = None
        self.taken: deque[FrameRecord] = deque()

    def ready(self, timeout_s: float) -> bool:
        """As `Frames.ready`."""
        return self._source.ready(timeout_s, len(self.taken))

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._end is not None:
            raise StopIteration
        message = self._source.receive()
        if isinstance(message, FrameRecord):
            self.taken.append(message)
            if message.flags & VOID:
                raise Voided
            return self._slots.frame(message)
        self._end = message
        if isinstance(message, Abort):
            raise Voided
        raise StopIteration

    def rest(self) -> Iterator[FrameRecord]:
        while self._end is None:
            message = self._source.receive()
            if isinstance(message, FrameRecord):
                yield message
            else:
                self._end = message

    @property
    def end(self) -> End | Abort:
        assert self._end is not None, "the clip has not ended"
        return self._end


class ToNeighbour:
    """Frames to the group of processes behind."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def begin(self, clip: Clip) -> None:
        self._outlet.send(Begin(clip))

    def frame(self, record: FrameRecord) -> None:
        self._outlet.send_frame(record)

    def finish(self, clip: Clip, end: End | Abort) -> None:
        self._outlet.send(end)


# --- the first process ----------------------------------------------------------------------------------------------


class FromJobs:
    """Clips out of jobs: opened by the source stage, each frame copied once into the ring."""

    def __init__(
        self, source: Source, name: str, jobs: Connection, credits_: Connection, events: Connection, ring: Ring,
        meter: Meter, row: Row,
    ) -> None:  # fmt: skip
        self._source = source
        self._name = name
        self._jobs = jobs
        self._orders = Messages(jobs)
        self._returns = Messages(credits_)
        self._events = events
        self.ring = ring
        self.meter = meter
        self.row = row
        self.returned = 0  # frames whose room has come back
        self._queue: deque[Job] = deque()
        self._closed = False
        self._unwanted = 0  # the clip that has failed further down: it ends short, and they know why
        self._cancelled = 0  # the clip that the parent wants stopped
        self._poll = select.poll()
        self._poll.register(jobs.fileno(), select.POLLIN | select.POLLHUP)
        self._poll.register(credits_.fileno(), select.POLLIN | select.POLLHUP)

    def next_clip(self) -> Clip | None:
        while True:
            while not self._queue:
                if self._closed:
                    return None
                self.hear(wait=True)
            job = self._queue.popleft()
            self._unwanted = self._cancelled = 0  # said of a job of that number that has ended: it comes again
            before = self.meter.switch(Doing.BUSY)
            self.row.at(job.id, -1)
            try:
                clip = self._source.open(job)
            except Exception as error:  # noqa: BLE001  the one place that owns what becomes of a job that won't open
                self._refuse(job, error)
            else:
                self._tell(Opened(clip))
                return clip
            finally:
                self.meter.switch(*before)

    def frames(self, clip: Clip, slots: Slots) -> PlacedFrames:
        if slots.piece_nbytes * MIN_FRAMES > self.ring.nbytes:
            need_mb = -(-slots.piece_nbytes * MIN_FRAMES // 2**20)
            raise InputError(
                f"{clip.source}: {MIN_FRAMES} frames of {clip.width}x{clip.height} {clip.pixel_format.name} do not fit "
                f"into {self.ring.nbytes >> 20} MiB; set engine.ring_mb to {need_mb} or more"
            )
        return PlacedFrames(self, clip, slots)

    def stopped(self, clip_id: int) -> bool:
        """Whether somebody wants this clip stopped, or the parent has gone."""
        return self._closed or self._cancelled == clip_id

    def unwanted(self, clip_id: int) -> bool:
        """Whether the clip has failed further down."""
        return self._unwanted == clip_id

    def hear(self, wait: bool = False) -> None:
        """Takes in credits, jobs and cancellations; with `wait`, blocks until there is one. Raises ReceiverGone."""
        for fd, _ in self._poll.poll(None if wait else 0):
            is_job = fd == self._jobs.fileno()
            try:
                arrived = (self._orders if is_job else self._returns).arrived()
            except (EOFError, OSError) as error:
                if not is_job:
                    raise ReceiverGone from error
                self._closed = True
                self._queue.clear()
                self._poll.unregister(fd)
                continue
            for data in arrived:
                if is_job:
                    self._obey(unpack(data))
                elif len(data) == _CREDIT.size:
                    self.ring.release(_CREDIT.unpack(data)[0])
                    self.returned += 1
                else:
                    self._unwanted = cast(Cancel, unpack(data)).clip_id

    def _obey(self, message: object) -> None:
        if isinstance(message, Job):
            self._queue.append(message)
        elif isinstance(message, Cancel):
            queued = [job for job in self._queue if job.id == message.clip_id]
            for job in queued:
                self._queue.remove(job)
                self._tell(Ended(Outcome(job, failure=cancelled())))
            if not queued:
                self._cancelled = message.clip_id

    def _refuse(self, job: Job, error: Exception) -> None:
        self._tell(Ended(Outcome(job, failure=failure_of(self._name, None, error))))

    def _tell(self, message: Opened | Ended) -> None:
        try:
            self._events.send_bytes(pack(message))
        except OSError:  # the parent has gone; the jobs' end of file says the same and is acted upon
            self._closed = True


#: The ring must hold this many frames of a clip, or batches and look-ahead would starve each other.
MIN_FRAMES = 8


class PlacedFrames:
    """One clip's frames out of the source stage, adopted by the ring; makes its own terminator."""

    def __init__(self, jobs: FromJobs, clip: Clip, slots: Slots) -> None:
        self._jobs = jobs
        self._clip = clip
        self._slots = slots
        self._made: Iterator[Frame] = iter(())
        self._count = 0
        self._stopped = False
        self.taken: deque[FrameRecord] = deque()

    def source(self, made: Iterator[Frame]) -> PlacedFrames:
        """Says which generator the frames come from: the source stage's."""
        self._made = made
        return self

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        jobs = self._jobs
        self._look()
        frame = next(self._made)
        if frame.index != self._count:
            raise UnderstudyError(f"the source made frame {frame.index} where frame {self._count} was due")
        while (piece := jobs.ring.reserve(self._slots.piece_nbytes)) is None:
            self._wait_for_room()
        adopted = self._slots.adopt(frame, piece)
        self._count += 1
        jobs.row.placed()
        self.taken.append(self._slots.describe(adopted))
        return adopted

    def _look(self) -> None:
        """Raises Voided where nobody wants the rest of the clip."""
        self._jobs.hear()
        self._stopped = self._jobs.stopped(self._clip.id)
        if self._stopped or self._jobs.unwanted(self._clip.id):
            raise Voided

    def _wait_for_room(self) -> None:
        before = self._jobs.meter.switch(Doing.WAIT_OUT)
        self._jobs.row.starve(self._jobs.returned)
        try:
            self._jobs.hear(wait=True)
        finally:
            self._jobs.row.fed()
            self._jobs.meter.switch(*before)

    def ready(self, timeout_s: float) -> bool:
        return True

    def asked(self, timeout_s: float) -> bool:
        """As `ready`, for the source itself, which may be long at work before its next frame. Raises Voided."""
        self._look()
        return True

    def rest(self) -> Iterator[FrameRecord]:
        return iter(())

    @property
    def end(self) -> End | Abort:
        if self._stopped:
            return Abort(self._clip.id, self._count, cancelled())
        return End(self._clip.id, self._count)


# --- the last process -----------------------------------------------------------------------------------------------


#: Of how many clips at most it remembers the files: more never wait for the door.
_LEFT = 16


class ToParent:
    """Gives frames' memory back to the first process, tells the parent how clips end."""

    def __init__(self, credits_: Connection, events: Connection) -> None:
        self._credits = credits_
        self._events = events
        self._frames = 0
        self._warned = False
        self._left: deque[str] = deque(maxlen=_LEFT)  # partial files that were whole, and are the door's to take over

    def begin(self, clip: Clip) -> None:
        self._frames = 0
        self._warned = False

    def frame(self, record: FrameRecord) -> None:
        try:
            if record.flags & VOID and not self._warned:
                self._warned = True
                self._credits.send_bytes(pack(Cancel(record.clip_id)))
            self._credits.send_bytes(_CREDIT.pack(record.serial))
        except OSError:
            pass  # the first process has gone: what is on its way is still finished, and needs no more room
        self._frames += 1

    def finish(self, clip: Clip, end: End | Abort) -> None:
        failure = end.failure if isinstance(end, Abort) else None
        if failure is None and clip.partial:
            self._left.append(clip.partial)
        if failure is None and clip.work and self._frames:  # it may wait long for the door, and longer if we stop
            with suppress(OSError):  # a report is not worth failing a clip
                checkpoints.keep_reports(clip.work, end.reports)
        job = Job(clip.id, clip.source, clip.target)
        try:
            self._events.send_bytes(pack(Ended(Outcome(job, self._frames, failure, end.reports))))
        except OSError as error:
            raise ReceiverGone from error

    def forsake(self) -> None:
        """Removes what the door has not taken over: with the parent dead, nobody will."""
        for partial in self._left:
            with suppress(OSError):
                discard(partial)
