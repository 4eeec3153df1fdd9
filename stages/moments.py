"""Pictures of a file at a few moments, one after the other, for as little decoding as may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import av

#: So many packets at most are decoded in search of one moment: looking back must stay cheap.
_FAR = 300

#: Within so many seconds one decodes on where no key frame is known in between; beyond, one seeks.
_NEAR_S = 2

_NOWHERE = -(1 << 62)


class Moments:
    """Finds pictures of one stream, at moments that rise."""

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, alive: Callable[[], None]
    ) -> None:
        """At its beginning. `alive` is called while a moment is looked for."""
        self._container = container
        self._stream = stream
        self._alive = alive
        self._base = stream.time_base or Fraction(1)
        self._wanted = 0
        self._packets = 0
        self._pictures = self._decoded()
        self._last: av.VideoFrame | None = None
        self._at = stream.start_time or 0  # where it is, in ticks

    def at(self, moment: Fraction) -> av.VideoFrame | None:
        """The first picture that is shown at `moment` (seconds) or later; None where it is too far from a key frame.

        Raises FFmpegError, OSError: the file cannot be read.
        """
        self._wanted = int(moment / self._base) - 1
        self._packets = 0
        if self._is_it(self._last):
            return self._last
        if self._is_far():
            self._container.seek(self._wanted + 1, stream=self._stream)
            self._pictures = self._decoded()
        self._last = next(filter(self._is_it, self._pictures), None)
        self._at = _NOWHERE if self._last is None or self._last.pts is None else self._last.pts
        return self._last

    def _is_it(self, picture: av.VideoFrame | None) -> bool:
        return picture is not None and picture.pts is not None and picture.pts >= self._wanted

    def _is_far(self) -> bool:
        """Whether a key frame is nearer than where it is, or may be."""
        index = self._stream.index_entries
        place = index.search_timestamp(self._wanted)
        has_key_between = place >= 0 and index[place].timestamp > self._at
        return has_key_between or (self._wanted - self._at) * self._base > _NEAR_S

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Pictures from the next key frame on, but not all: those before the moment that no other refers to are left
        out, which spares half the work."""
        context = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            self._alive()
            self._packets += 1
            if self._packets > _FAR:
                return
            is_before = packet.pts is not None and packet.pts < self._wanted
            context.skip_frame = "NONREF" if is_before else "DEFAULT"
            yield from context.decode(packet)
