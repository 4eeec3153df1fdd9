"""Joining: a clip's segments into its finished file, their packets as they are, with times for the clip as a whole."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import av

from pipeline import checkpoints
from pipeline.checkpoints import Checkpoint
from pipeline.errors import PublishError, ResumeError
from pipeline.types import Clip, Report
from stages.containers import reason
from stages.encoder import Config
from stages.output import Output
from stages.packets import PacketReader, Stored


def join(clip: Clip, config: Config, done: Callable[[int], None]) -> tuple[Report, list[int]]:
    """Writes `clip.partial` out of the segments in `clip.work`; what was written, and the frames' times in ticks.

    `done` is called with the number of packets that were copied. The header is what the encoder would give that makes
    a file in one go.

    Raises:
        ConfigError, InputError: as `Output`.
        ResumeError: the segments are damaged, or do not fit that header: the clip has to be made anew.
        PublishError: it could not be written.
    """
    checkpoint = checkpoints.read(clip.work)
    if checkpoint is None or not checkpoint.whole or not checkpoint.segments:
        raise _stale(clip, f"{clip.work} does not hold the whole clip")
    times: list[int] = []
    with closing(Output(clip, config)) as output:
        stored = _stored(Path(clip.work), checkpoint, output.encoder.parameters)
        try:
            for packet in _in_time(clip, stored, max(segment.depth for segment in checkpoint.segments)):
                assert packet.pts is not None
                times.append(packet.pts)
                output.mux(packet)
                done(len(times))
        except ValueError as error:
            raise _stale(clip, str(error)) from error
        return output.finish(), sorted(times)


def _stale(clip: Clip, why: str) -> ResumeError:
    return ResumeError(f"{clip.target} could not be put together and has to be made anew: {why}")


def _stored(work: Path, checkpoint: Checkpoint, parameters: bytes) -> Iterator[Stored]:
    """All packets of all segments. Raises ValueError: one is damaged, or from an encoder with other parameters."""
    for segment in checkpoint.segments:
        path = work / segment.file
        try:
            with closing(PacketReader(path)) as reader:
                if reader.parameters != parameters:
                    raise ValueError(f"{path} was encoded with other settings or on another machine")
                count = 0
                for stored in reader:
                    count += 1
                    yield stored
        except OSError as error:
            failed = PublishError(f"{path} could not be read: {reason(error)}")
            failed.errno = error.errno
            raise failed from error
        if count != segment.frames:
            raise ValueError(f"{path} holds {count} pictures, not {segment.frames}")


def _in_time(clip: Clip, stored: Iterator[Stored], depth: int) -> Iterator[av.Packet]:
    """Packets with decoding times: the k-th has the presentation time of the (k - depth)-th that is shown.

    These rise, and none is later than its packet's presentation time. The first `depth` lie before the clip's start, as
    far from each other as the first pictures that are shown: so does x264 with a clip in one go. Raises ValueError
    where that cannot be.
    """
    head = list(islice(stored, 2 * depth + 1))  # whatever is shown among the first `depth` is stored among these
    shown = sorted(one.pts for one in head)
    if len(shown) <= depth:
        raise ValueError(f"{clip.work}: so few pictures cannot be {depth} out of order")
    waiting: list[int] = []
    last: int | None = None
    for place, one in enumerate(chain(head, stored)):
        heapq.heappush(waiting, one.pts)
        dts = heapq.heappop(waiting) if place >= depth else shown[place] + shown[0] - shown[depth]
        if dts > one.pts or (last is not None and dts <= last):
            raise ValueError(f"{clip.work}: packet {place} is out of time")
        last = dts
        packet = av.Packet(one.data)
        packet.pts, packet.dts, packet.duration = one.pts, dts, one.duration
        packet.time_base = clip.time_base
        packet.is_keyframe = one.key
        yield packet
