"""The other streams of a clip: sound, subtitles, data, cover art, attachments, copied packet by packet.

The source is opened a second time. Packets go out between the video's, by decoding time, their bytes untouched. What
the target's container cannot hold is found out by asking the muxer itself, and named.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from fractions import Fraction

import av

from pipeline.types import Clip, Report
from stages.containers import open_input
from stages.reader import Damage, demuxed

#: MP4's edit lists hide what lies before the start; other containers would play it. A decoder needs a little of it.
_WARM_UP = Fraction(-1, 10)

_ATTACHED = av.stream.Disposition.attached_pic

#: Metadata about the source's own container and encoder, which would be wrong in a new file.
_STALE = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration"})
#: The same of single streams, as Matroska's tools write them.
_STALE_PREFIXES = ("bps", "number_of_", "_statistics_")


class Company:
    """What travels with a clip's video: the source's other streams and chapters. Its metadata is the caller's to write.

    Made first (it opens the source), then `join` adds the streams to an output whose header is still to be written,
    then `advance` writes their packets as the video goes on.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._source = open_input(clip.source)
        self._copied: list[str] = []
        self._left_out: list[str] = []
        self._pairs: dict[int, av.stream.Stream] = {}
        self._packets: Iterator[av.Packet] = iter(())
        self._waiting: av.Packet | None = None
        self._damage = Damage()
        self._plays_all = False
        self._refused = 0

    @property
    def time_bases(self) -> list[Fraction]:
        """Of every stream that has one, the video's first."""
        others = [s.time_base for s in self._source.streams if s.index != self._clip.video_stream and s.time_base]
        return [self._clip.time_base, *others]

    @property
    def metadata(self) -> dict[str, str]:
        """The source's own, without what is only true of its container."""
        return _kept(self._source.metadata)

    def join(self, out: av.container.OutputContainer, add_video: Callable[[], av.VideoStream]) -> av.VideoStream:
        """Adds streams in the source's order, `add_video` making the video's, then chapters."""
        chapters = self._source.chapters()
        self._plays_all = out.format.name not in ("mp4", "mov")
        video: av.VideoStream | None = None
        for stream in self._source.streams:
            if stream.index == self._clip.video_stream:
                video = add_video()
                video.disposition = stream.disposition
                video.metadata.update(_kept(stream.metadata))
            elif not _written_anew(stream, out.format.name, bool(chapters)):
                self._add(out, stream)
        if chapters:
            out.set_chapters(chapters)
        for stream in self._source.streams:
            if stream.index not in self._pairs:
                stream.discard = av.stream.Discard.all  # the video's bytes need not be read a second time
        self._packets = demuxed(self._source, [self._source.streams[i] for i in self._pairs], self._damage)
        assert video is not None, "Decode has found the video stream in this very file"
        return video

    def _add(self, out: av.container.OutputContainer, stream: av.stream.Stream) -> None:
        matroska = out.format.name == "matroska"
        added = False
        if isinstance(stream, av.stream.AttachmentStream):
            if added := matroska and bool(stream.data):
                kind = stream.mimetype or "application/octet-stream"
                out.add_attachment(stream.name or "attachment", kind, stream.data)
        elif matroska and stream.disposition & _ATTACHED:
            added = self._attach_cover(out, stream)
        elif added := _accepts(out.format.name, stream):
            self._pairs[stream.index] = add_copy(out, stream)
        (self._copied if added else self._left_out).append(_name(stream))

    def _attach_cover(self, out: av.container.OutputContainer, stream: av.stream.Stream) -> bool:
        """Matroska keeps cover art as an attachment, not as a stream."""
        with open_input(self._clip.source) as again:
            packet = next((p for p in again.demux(again.streams[stream.index]) if p.size), None)
        if packet is None:
            return False
        png = stream.codec_context is not None and stream.codec_context.name == "png"
        kind = "png" if png else "jpeg"
        out.add_attachment(stream.metadata.get("filename", f"cover.{kind}"), f"image/{kind}", bytes(packet))
        return True

    def advance(self, out: av.container.OutputContainer, until: Fraction | None) -> None:
        """Muxes the packets due before `until` (seconds; None: all that are left)."""
        if not self._pairs:
            return
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = None
            due = packet.dts if packet.dts is not None else packet.pts
            if self._plays_all and packet.is_discard and due is not None and due * packet.time_base < _WARM_UP:
                continue
            if until is not None and due is not None and due * packet.time_base > until:
                self._waiting = packet
                return
            packet.stream = self._pairs[packet.stream_index]
            try:
                out.mux(packet)
            except (av.error.ArgumentError, av.error.InvalidDataError):
                # Its timestamps go backwards, or it is damaged: the muxer will not have it, the others are fine.
                self._refused += 1

    def report(self) -> Report:
        """What was taken along, what could not be, and what was lost to damage; each only where there is some."""
        found: Report = {}
        if chapters := len(self._source.chapters()):
            found["chapters"] = chapters
        if self._copied:
            found["copied"] = ", ".join(self._copied)
        if self._left_out:
            found["left_out"] = ", ".join(self._left_out)
        if lost := self._refused + self._damage.read_errors:
            found["lost_packets"] = lost
        return found

    def close(self) -> None:
        """Closes the source."""
        self._waiting = None
        self._packets = iter(())
        self._source.close()


def add_copy(out: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    """An output stream for packets of `stream` as they are: parameters, time base, tags and disposition."""
    copy = out.add_stream_from_template(stream, opaque=True)
    if stream.time_base is not None:
        copy.time_base = stream.time_base
    copy.disposition = stream.disposition
    copy.metadata.update(_kept(stream.metadata))
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


def _written_anew(stream: av.stream.Stream, muxer: str, has_chapters: bool) -> bool:
    """MP4 keeps chapter titles and time codes in tracks of their own, which the muxer makes out of the metadata."""
    if stream.type != "data":
        return False
    chapter_text = has_chapters and stream.name == "bin_data"
    return chapter_text or (muxer in ("mp4", "mov") and "timecode" in stream.metadata)


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _STALE and not key.lower().startswith(_STALE_PREFIXES)
    }


def _name(stream: av.stream.Stream) -> str:
    # PyAV names a stream that it has no decoder for only where it is one of data.
    codec = stream.codec_context.name if stream.codec_context is not None else getattr(stream, "name", None)
    return f"{stream.type} {codec or 'of an unknown kind'}"
