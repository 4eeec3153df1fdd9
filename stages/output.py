"""The finished file: a container's header, the video's packets, everything else the source had, and its end.

Timestamps, rotation, aspect ratio and colour tags are the source's; sound, subtitles and the rest are copied packet by
packet (`streams.py`). Tags that say what was made of it come to the source's metadata (`tags.py`). Where
the video's packets come from, an encoder or segments, is its caller's business.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import av

from pipeline.types import Clip, Report
from stages import tags
from stages.containers import muxer_options, unwritten, writing
from stages.encoder import Config, Encoder, Encoding
from stages.streams import Company

#: How much FFmpeg gathers before it writes; a packet's end is written at once (`flush_packets`). Python's own buffer is
#: only there because it, unlike a raw file, writes all it is given or raises.
_WRITE_NBYTES, _PYTHON_NBYTES = 1 << 18, 16


def _no_link(path: str, flags: int) -> int:
    """Opens a file, but not through a link that somebody may have put there."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class Output:
    """One clip's file at `clip.partial`, its header written: a file that was not finished is its owner's to remove.

    Attributes:
        encoder: the one that the header speaks of, open; packets that it did not make must be like its own.
    """

    def __init__(self, clip: Clip, config: Config) -> None:
        """Raises ConfigError, InputError, PublishError: refused by container or encoder; no source; no place."""
        self._clip = clip
        self._encoding = Encoding(clip, config)
        self._company = Company(clip)
        own = tags.tags(clip, config.tags) if config.tags is not None else {}
        self._metadata = tags.marked(self._company.metadata, own)
        try:
            # A file object, not a path: FFmpeg would leave its own descriptor open when a header is refused.
            self._file = open(clip.partial, "wb", _PYTHON_NBYTES, opener=_no_link)  # noqa: SIM115  see `close`
        except OSError as error:
            self._company.close()
            raise unwritten(clip.target, error) from error
        try:
            self._out = self._open(config)
            self._stream = self._company.join(self._out, lambda: self._encoding.add_to(self._out))
            self._out.metadata.update(self._metadata)
            self._start()
        except BaseException:
            self.close()
            raise
        self.encoder = Encoder(self._encoding, self._stream.codec_context)

    def _open(self, config: Config) -> av.container.OutputContainer:
        muxer = self._encoding.muxer
        options = muxer_options(muxer, self._company.time_bases, self._metadata)
        given = dict(config.container_options)
        if "movflags" in options and "movflags" in given:  # flags add up: without ours, our tags would not be written
            given["movflags"] += options["movflags"]
        options = {**options, "flush_packets": "1", **given}
        return av.open(self._file, "w", format=muxer, container_options=options, buffer_size=_WRITE_NBYTES)

    def _start(self) -> None:
        try:
            self._out.start_encoding()
        except OSError as error:
            raise unwritten(self._clip.target, error) from error
        except (av.error.FFmpegError, ValueError) as error:
            raise self._encoding.refusal(error) from error

    def mux(self, packet: av.Packet) -> None:
        """Writes one packet of the video, and before it those of the other streams that are due. Raises PublishError.

        Its decoding time must be set and later than the last one's, its time base too.
        """
        assert packet.dts is not None
        packet.stream = self._stream
        with writing(self._clip.target):
            self._company.advance(self._out, packet.dts * packet.time_base)
            self._out.mux(packet)

    def finish(self) -> Report:
        """Writes the rest of the other streams and the container's end; says what was written. Raises PublishError."""
        with writing(self._clip.target):
            self._company.advance(self._out, None)
            self._out.close()
            self._file.close()
            nbytes = Path(self._clip.partial).stat().st_size
        found = tags.read(self._company.metadata).report()
        return self._encoding.report() | self._company.report() | found | {"bytes": nbytes}

    def close(self) -> None:
        """Closes what is open; safe to call twice."""
        self._company.close()
        # Closed first: PyAV then leaves out the trailer, which nobody will read. What a full disk did not take either.
        with suppress(OSError):
            self._file.close()
