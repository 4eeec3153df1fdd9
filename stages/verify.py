"""Whether a finished file is what it should be: read back, decoded once, and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from pipeline.errors import InputError, PublishError
from pipeline.types import Clip, Report
from stages.containers import open_input, reason
from stages.decode import video_stream

#: A file's clock may round: times may differ by so many of its ticks, and lengths by so many seconds.
_TICKS, _SECONDS = 2, 0.002


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file has to hold.

    Attributes:
        frames: how many it has; the last of them is shown `span_s` seconds after the first.
        times: the frames' in ticks of the clip's time base, where they are known.
    """

    frames: int
    span_s: float
    times: Sequence[int] | None = None


#: Called with each picture that was decoded: its number, the picture and its stream.
Seen = Callable[[int, av.VideoFrame, av.VideoStream], None]


def weigh(clip: Clip, expected: int) -> None:
    """Sees that the partial file has as many bytes as were written: of the last few FFmpeg may not notice that they are
    missing, a title perhaps. Raises PublishError."""
    try:
        nbytes = Path(clip.partial).stat().st_size
    except OSError as error:
        raise PublishError(f"{clip.target} could not be read back after writing: {reason(error)}") from error
    if nbytes != expected:
        raise PublishError(f"{clip.target} has {nbytes} bytes after writing, but {expected} were written")


class Verifier:
    """Reads one clip's partial file back."""

    def __init__(self, clip: Clip, expected: Expected, threads: int = 1) -> None:
        self._clip = clip
        self._expected = expected
        self._threads = threads

    def __call__(self, read: Callable[[int], None], seen: Seen | None) -> Report:
        """Reads all packets, telling `read` after each how many; with `seen`, which gets the pictures, decodes them.

        Raises:
            PublishError: it cannot be opened or decoded, pictures are missing, or are shown at other times.
        """
        clip = self._clip
        try:
            with open_input(clip.partial) as container:
                stream = video_stream(container, clip.target)
                base = stream.time_base or Fraction(1)
                aspect = stream.sample_aspect_ratio or Fraction(1)
                stored, shown = self._read(container, stream, read, seen)
        except PublishError:
            raise
        except (av.error.FFmpegError, OSError, InputError) as error:
            raise PublishError(f"{clip.target} could not be read back after writing: {reason(error)}") from error
        self._compare(sorted(stored), base, "holds")
        if seen is not None:
            self._compare(shown, base, "shows")
        found: Report = {"frames": len(stored), "bytes": Path(clip.partial).stat().st_size}
        found["duration_s"] = round(float((max(stored) - min(stored)) * base), 6) if stored else 0.0
        if aspect != clip.sample_aspect_ratio:
            # AV1 and ProRes have no place for it, and PyAV cannot set Matroska's.
            found["lost_aspect_ratio"] = str(clip.sample_aspect_ratio)
        return found

    def _read(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        read: Callable[[int], None],
        seen: Seen | None,
    ) -> tuple[list[int], list[int]]:
        """Times of the packets and of the pictures that came out of them, in ticks of the stream."""
        stored: list[int] = []
        shown: list[int] = []
        context = stream.codec_context
        context.thread_type, context.thread_count = "NONE" if self._threads == 1 else "AUTO", self._threads
        # Decoders make something of most damage, and few say so, unless they are told to look and to give up.
        context.options = {**context.options, "err_detect": "crccheck+bitstream+buffer+explode"}
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                stored.append(packet.pts)
                read(len(stored))
            if seen is None:
                continue
            for picture in context.decode(packet):
                if picture.is_corrupt or picture.pts is None:
                    raise PublishError(f"{self._clip.target}: picture {len(shown)} is damaged after writing")
                seen(len(shown), picture, stream)
                shown.append(picture.pts)
        return stored, shown

    def _compare(self, times: list[int], base: Fraction, does: str) -> None:
        clip, expected = self._clip, self._expected
        if len(times) != expected.frames:
            raise PublishError(
                f"{clip.target} {does} {len(times)} pictures after writing, but {expected.frames} went in"
            )
        span_s = float((times[-1] - times[0]) * base) if times else 0.0
        if abs(span_s - expected.span_s) > max(_SECONDS, _TICKS * float(base)):
            raise PublishError(f"{clip.target} lasts {span_s:.3f} s after writing, but {expected.span_s:.3f} s went in")
        if expected.times is None:
            return
        for number, (time, wanted) in enumerate(zip(times, expected.times, strict=True)):
            late = (time - times[0]) * base - (wanted - expected.times[0]) * clip.time_base
            if abs(late) > _TICKS * base:
                raise PublishError(f"{clip.target}: picture {number} is shown {float(late):.3f} s late after writing")
