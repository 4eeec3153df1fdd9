"""The other streams of a clip: sound, subtitles, data, cover art, attachments, copied packet by packet.

The source is opened a second time. Packets go out between the video's, by decoding time, their bytes untouched. What
the target's container cannot hold is found out by asking the muxer itself, and named.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction

import av

from pipeline.errors import InputError
from pipeline.types import Clip
from stages.containers import open_input

_ATTACHED = av.stream.Disposition.attached_pic

#: Metadata that describes the source's own container or encoder and would be wrong, or doubled, in a new file.
_CONTAINER_TAGS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration"})


class Company:
    """The streams that travel with a clip's video into `out`, and the packets that wait for their turn.

    Attributes:
        copied: what was taken along ("audio aac", "subtitle mov_text", "chapters 2").
        left_out: what the container cannot hold, in the same words.
    """

    def __init__(self, clip: Clip, out: av.container.OutputContainer) -> None:
        self.copied: list[str] = []
        self.left_out: list[str] = []
        self._out = out
        self._source = open_input(clip.source)
        self._pairs: dict[int, av.stream.Stream] = {}
        self._covers: dict[int, av.stream.Stream] = {}
        self._waiting: av.Packet | None = None
        self._packets: Iterator[av.Packet] = iter(())
        self.damaged_packets = 0

    def join(self, clip: Clip) -> None:
        """Adds the streams, chapters and metadata to the output; before its header is written."""
        video = self._source.streams[clip.video_stream]
        for key, value in self._source.metadata.items():
            if key.lower() not in _CONTAINER_TAGS:
                self._out.metadata[key] = value
        if chapters := self._source.chapters():
            self._out.set_chapters(chapters)
            self.copied.append(f"chapters {len(chapters)}")
        for stream in self._source.streams:
            if stream.index != video.index and not _is_chapter_text(stream, bool(chapters)):
                self._add(stream)
        self._packets = self._demux(list(self._pairs))

    def _add(self, stream: av.stream.Stream) -> None:
        name = _name(stream)
        if stream.type == "video" and stream.disposition & _ATTACHED and self._out.format.name == "matroska":
            self._attach_cover(stream, name)
        elif stream.type == "attachment":
            self._attach(stream, name)
        elif _accepts(self._out.format.name, stream):
            self._pairs[stream.index] = add_copy(self._out, stream)
            self.copied.append(name)
        else:
            self.left_out.append(name)

    def _attach(self, stream: av.stream.Stream, name: str) -> None:
        if self._out.format.name != "matroska" or not isinstance(stream, av.stream.AttachmentStream):
            self.left_out.append(name)
            return
        self._out.add_attachment(
            stream.name or "attachment", stream.mimetype or "application/octet-stream", stream.data
        )
        self.copied.append(name)

    def _attach_cover(self, stream: av.stream.Stream, name: str) -> None:
        """Matroska keeps cover art as an attachment, not as a stream."""
        with open_input(self._source.name) as again:
            packet = next((p for p in again.demux(again.streams[stream.index]) if p.size), None)
        kind = "png" if stream.codec_context is not None and stream.codec_context.name == "png" else "jpeg"
        if packet is None:
            self.left_out.append(name)
            return
        self._out.add_attachment(stream.metadata.get("filename", f"cover.{kind}"), f"image/{kind}", bytes(packet))
        self.copied.append(name)

    def _demux(self, indices: list[int]) -> Iterator[av.Packet]:
        streams = [self._source.streams[index] for index in indices]
        if not streams:
            return
        try:
            for packet in self._source.demux(streams):
                if packet.size and packet.dts is not None:
                    yield packet
        except av.error.FFmpegError:
            # The video's reader has met the same damage and goes on behind it; here the rest is lost and counted.
            self.damaged_packets += 1

    def advance(self, until: Fraction | None) -> None:
        """Muxes the packets due before `until` (seconds; None: all that are left)."""
        while True:
            packet = self._waiting or next(self._packets, None)
            self._waiting = None
            if packet is None:
                return
            if until is not None and packet.dts * packet.time_base > until:
                self._waiting = packet
                return
            packet.stream = self._pairs[packet.stream_index]
            self._out.mux(packet)

    def close(self) -> None:
        """Closes the source."""
        self._waiting = None
        self._packets = iter(())
        self._source.close()


def add_copy(out: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    """An output stream for packets of `stream` as they are: parameters, time base, tags and disposition."""
    copy = out.add_stream_from_template(stream, opaque=True)
    copy.time_base = stream.time_base
    copy.disposition = stream.disposition
    copy.metadata.update({k: v for k, v in stream.metadata.items() if k.lower() not in _CONTAINER_TAGS})
    return copy


def _accepts(muxer: str, stream: av.stream.Stream) -> bool:
    """Whether the muxer takes such a stream: it is asked to write a header with this stream alone."""
    with av.open(io.BytesIO(), "w", format=muxer) as trial:
        try:
            add_copy(trial, stream)
            trial.start_encoding()
        except (av.error.FFmpegError, ValueError):
            return False
    return True


def _is_chapter_text(stream: av.stream.Stream, has_chapters: bool) -> bool:
    """MP4 keeps chapter titles in a text track of their own, which the muxer writes anew from the chapters."""
    return has_chapters and stream.type == "data" and stream.name == "bin_data"


def _name(stream: av.stream.Stream) -> str:
    codec = stream.codec_context.name if stream.codec_context is not None else stream.name
    return f"{stream.type} {codec or 'of an unknown kind'}"


def has_source(clip: Clip) -> bool:
    """Whether the clip's source is a file that can be opened again (a pipe cannot)."""
    try:
        open_input(clip.source).close()
    except InputError:
        return False
    return True
