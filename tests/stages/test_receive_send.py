"""Receive and Send: pictures through pipes, whole, at once, and in the words that other programs understand."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import select
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, InputError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Clip, Colour, Frame, Job, Picture, Pulled, Report
from stages import receive, send, y4m
from stages.pipes import Descriptor, Sink, Source
from stages.receive import Receive
from stages.send import Send
from tests.clips import MATRICES, decoded, make_clip, owned, picture

JOB = Job(1, "standard input", "")


def clip_of(name: str, width: int = 64, height: int = 48, **facts: Any) -> Clip:
    base: dict[str, Any] = {"time_base": Fraction(1, 25), "rate": Fraction(25)}
    return Clip(1, "x", "", "", width, height, PIXEL_FORMATS[name], **(base | facts))


def frames_for(clip: Clip, count: int = 3) -> list[Frame]:
    shown = [picture(clip.pixel_format, clip.width, clip.height, i) for i in range(count)]
    return [Frame(1, i, i, one, duration=1) for i, one in enumerate(shown)]


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = list(os.pipe())
    try:
        yield ends[0], ends[1]
    finally:
        for fd in ends:
            try:
                os.close(fd)
            except OSError as error:
                assert error.errno == errno.EBADF


def sent(clip: Clip, frames: list[Frame], format_: str) -> bytes:
    """What Send writes, read by a thread as a program at the other end would."""
    found = bytearray()
    with pipe() as (read, write):

        def reader() -> None:
            while data := os.read(read, 1 << 16):
                found.extend(data)

        other = threading.Thread(target=reader)
        other.start()
        try:
            for _ in Send(send.Config(Descriptor(write), format_))(clip, Pulled(frames)):
                pass
        finally:
            os.close(write)
            other.join()
    return bytes(found)


def received(data: bytes, **config: Any) -> tuple[Clip, list[Frame], Report]:
    """What Receive makes of bytes that a program at the other end writes."""
    with pipe() as (read, write):

        def writer() -> None:
            left = memoryview(data)
            try:
                while left:
                    left = left[os.write(write, left) :]
            except BrokenPipeError:
                pass
            os.close(write)

        other = threading.Thread(target=writer)
        other.start()
        try:
            stage = Receive(receive.Config(Descriptor(read), **config))
            clip = stage.open(JOB)
            made = stage(clip, Pulled([]))
            frames = []
            while True:
                try:
                    frames.append(owned(next(made)))
                except StopIteration as stop:
                    return clip, frames, stop.value
        finally:
            os.close(read)
            other.join()


def same(got: list[Frame], expected: list[Frame]) -> None:
    assert [f.index for f in got] == list(range(len(expected)))
    for a, b in zip(got, expected, strict=True):
        assert a.picture.format == b.picture.format
        for one, other in zip(a.picture.planes, b.picture.planes, strict=True):
            np.testing.assert_array_equal(one, other)


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(y4m.FORMATS)))
@pytest.mark.parametrize("size", [(64, 48), (33, 17)])
def test_y4m_there_and_back(name: str, size: tuple[int, int]) -> None:
    clip = clip_of(name, *size, rate=Fraction(30000, 1001), time_base=Fraction(1001, 30000))
    frames = frames_for(clip)
    back, got, report = received(sent(clip, frames, "y4m"))
    same(got, frames)
    assert (back.rate, back.time_base) == (Fraction(30000, 1001), Fraction(1001, 30000))
    assert [f.pts for f in got] == [0, 1, 2]
    assert report == {"format": "y4m", "pictures": 3}


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    rate=st.one_of(st.none(), st.fractions(Fraction(1, 100), 1000, max_denominator=1001)),
    aspect=st.fractions(Fraction(1, 10), 10, max_denominator=99),
    name=st.sampled_from(y4m.FORMATS),
    levels=st.sampled_from([0, 1, 2]),
    siting=st.sampled_from([1, 2, 3]),
    order=st.sampled_from([0, 1, 2, 3]),
)
def test_y4m_headers_say_everything(width, height, rate, aspect, name, levels, siting, order) -> None:
    clip = clip_of(
        name,
        width,
        height,
        rate=rate,
        sample_aspect_ratio=aspect,
        colour=Colour(range=levels, chroma_location=siting if name == "yuv420p" else 0),
        field_order=order,
    )
    back = y4m.parse(y4m.header(clip, name, clip.colour), JOB)
    assert replace(back, time_base=clip.time_base, source="x") == clip


@pytest.mark.parametrize("name", ["yuv420p", "nv12", "p010le", "rgb24", "bgra", "yuv422p10le", "gray", "gbrp"])
def test_raw_there_and_back(name: str) -> None:
    clip = clip_of(name, 66, 50)
    frames = frames_for(clip)
    data = sent(clip, frames, "raw")
    assert len(data) == 3 * clip.picture_nbytes
    back, got, _ = received(data, format="raw", width=66, height=50, pixel_format=name, rate=Fraction(25))
    same(got, frames)
    assert back.rate == 25


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv444p", "gray", "bgra", "yuva420p"])
@pytest.mark.parametrize("format_", ["nut", "matroska"])
def test_containers_there_and_back(name: str, format_: str) -> None:
    clip = clip_of(name, rate=Fraction(25), time_base=Fraction(1, 1000))
    frames = [f.with_(pts=t, duration=40) for f, t in zip(frames_for(clip), (0, 40, 1000), strict=True)]
    back, got, report = received(sent(clip, frames, format_))
    same(got, frames)
    assert [f.pts * back.time_base for f in got] == [Fraction(t, 1000) for t in (0, 40, 1000)]
    assert report["format"] == format_


@pytest.mark.parametrize(
    ("name", "format_", "arrives"),
    [
        ("nv12", "y4m", "yuv420p"),
        ("p010le", "y4m", "yuv420p10le"),
        ("p010le", "nut", "yuv420p10le"),
        ("nv16", "nut", "yuv422p"),
    ],
)
def test_layouts_without_a_name_are_rearranged_without_loss(name: str, format_: str, arrives: str) -> None:
    clip = clip_of(name)
    frames = frames_for(clip)
    back, got, _ = received(sent(clip, frames, format_))
    assert back.pixel_format.name == arrives
    for a, b in zip(got, frames, strict=True):
        luma, chroma = b.picture.planes
        shift = clip.pixel_format.shift
        np.testing.assert_array_equal(a.picture.planes[0], luma >> shift)
        np.testing.assert_array_equal(a.picture.planes[1], chroma[..., 0] >> shift)
        np.testing.assert_array_equal(a.picture.planes[2], chroma[..., 1] >> shift)


def test_rgb_into_y4m_is_converted() -> None:
    clip = clip_of("rgb24")
    back, got, _ = received(sent(clip, frames_for(clip), "y4m"))
    assert back.pixel_format.name == "yuv420p" and len(got) == 3


def test_matroska_keeps_rotation_and_colour_tags() -> None:
    clip = clip_of("yuv420p10le", display_matrix=MATRICES["90"], colour=Colour(9, 16, 9, 1))
    back, _, _ = received(sent(clip, frames_for(clip), "matroska"))
    assert back.display_matrix == MATRICES["90"] and back.colour == Colour(9, 16, 9, 1)


def test_strided_planes_are_written_without_their_gaps() -> None:
    clip = clip_of("gray", 10, 4)
    wide = np.arange(80, dtype=np.uint8).reshape(4, 20)
    frame = Frame(1, 0, 0, Picture(clip.pixel_format, 10, 4, (wide[:, :10],)))
    assert sent(clip, [frame], "raw") == wide[:, :10].tobytes()


def test_a_coded_stream_in_matroska_is_decoded(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", frames=20, display_matrix=MATRICES["180"])
    clip, frames, _ = received(path.read_bytes())
    assert [f.pts for f in frames] == [pts for pts, _ in decoded(path)]
    assert clip.display_matrix == MATRICES["180"]


def test_no_picture_at_all_is_still_a_stream() -> None:
    assert received(sent(clip_of("yuv420p"), [], "y4m"))[1] == []


def test_a_slot_may_be_overwritten_as_soon_as_its_frame_comes_out() -> None:
    for format_ in ("y4m", "raw", "nut", "matroska"):
        clip = clip_of("yuv420p")
        frames = frames_for(clip, 6)
        slot = owned(frames[0])

        def reused(slot: Frame = slot, frames: list[Frame] = frames) -> Iterator[Frame]:
            for frame in frames:
                for plane, samples in zip(slot.picture.planes, frame.picture.planes, strict=True):
                    plane[:] = samples
                yield frame.with_(picture=slot.picture)
                for plane in slot.picture.planes:
                    plane[:] = 99

        data = sent(clip, reused(), format_)  # type: ignore[arg-type]
        config = {"format": "raw", "width": 64, "height": 48} if format_ == "raw" else {}
        same(received(data, **config)[1], frames)


# --- promptness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format_", "behind"), [("y4m", 0), ("raw", 0), ("nut", 0), ("matroska", 1)])
def test_a_picture_written_in_comes_out_before_the_next_is_there(format_: str, behind: int) -> None:
    """FFmpeg's Matroska writer keeps one picture back: its cluster ends where the next one begins."""
    clip = clip_of("yuv420p")
    frames = frames_for(clip, 6)
    config = {"format": "raw", "width": 64, "height": 48} if format_ == "raw" else {}
    with pipe() as (read, write):
        feed: list[Frame] = []
        sending = Send(send.Config(Descriptor(write), format_))(clip, Pulled(_until_empty(feed)))
        stage = Receive(receive.Config(Descriptor(read), **config))
        receiving = None
        for index, frame in enumerate(frames):
            feed.append(frame)
            next(sending)
            if index < behind:
                continue
            if receiving is None:
                receiving = stage(stage.open(JOB), Pulled([]))
            got = next(receiving)
            np.testing.assert_array_equal(got.picture.planes[0], frames[index - behind].picture.planes[0])
        assert receiving is not None
        receiving.close()
        sending.close()


def _until_empty(feed: list[Frame]) -> Iterator[Frame]:
    while feed:
        yield feed.pop(0)


# --- the other end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["y4m", "raw", "nut", "matroska"])
def test_a_reader_that_leaves_is_a_broken_pipe(format_: str) -> None:
    clip = clip_of("yuv420p", 640, 480)
    with pipe() as (read, write):
        os.close(read)
        with pytest.raises(BrokenPipeError):
            for _ in Send(send.Config(Descriptor(write), format_))(clip, Pulled(frames_for(clip, 5))):
                pass


def test_a_reader_that_is_slow_is_waited_for_even_where_writing_would_not_block() -> None:
    clip = clip_of("yuv420p", 640, 480)
    frames = frames_for(clip, 4)
    expected = sent(clip, frames, "y4m")
    found = bytearray()
    with pipe() as (read, write):
        os.set_blocking(write, False)
        sender = Send(send.Config(Descriptor(write), "y4m"))

        def work() -> None:
            for _ in sender(clip, Pulled(frames)):
                pass
            os.close(write)

        other = threading.Thread(target=work)
        other.start()
        while select.select([], [write], [], 0)[1]:
            pass  # until the pipe is full: only then is anything written in part
        while data := os.read(read, 5000):
            found.extend(data)
        other.join()
    assert bytes(found) == expected


def test_reading_waits_where_reading_would_not_block() -> None:
    with pipe() as (read, write):
        os.set_blocking(read, False)
        source = Source(read)
        buffer = bytearray(6)
        other = threading.Thread(
            target=lambda: (os.write(write, b"abc"), select.select([], [write], []), os.write(write, b"def"))
        )
        other.start()
        assert source.into(memoryview(buffer)) == 6 and bytes(buffer) == b"abcdef"
        other.join()


def test_what_was_peeked_at_is_read_again() -> None:
    with pipe() as (read, write):
        os.write(write, b"YUV4MPEG2 W1\nrest")
        os.close(write)
        source = Source(read)
        assert source.peek(4) == b"YUV4"
        assert source.line(100) == b"YUV4MPEG2 W1\n"
        assert source.read(100) == b"rest" and source.read(1) == b""


def test_a_descriptor_travels_to_a_spawned_process_and_nowhere_else() -> None:
    with pipe() as (read, write):
        child = multiprocessing.get_context("spawn").Process(target=_say, args=(Descriptor(write),))
        child.start()
        assert os.read(read, 5) == b"hello"
        child.join()
        with pytest.raises(TypeError, match="being spawned"):
            pickle.dumps(Descriptor(write))


def _say(descriptor: Descriptor) -> None:
    Sink(descriptor.fd).write(b"hello")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg program on this machine")
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv444p", "gray"])
@pytest.mark.parametrize("format_", ["y4m", "nut", "matroska"])
def test_the_ffmpeg_program_understands_us_and_we_it(name: str, format_: str) -> None:
    clip = clip_of(name)
    frames = frames_for(clip)
    data = sent(clip, frames, format_)
    muxer = {"y4m": "yuv4mpegpipe", "nut": "nut", "matroska": "matroska"}[format_]
    codec = (
        ["-c:v", "ffv1"] if format_ == "matroska" else ["-c:v", "rawvideo"] if format_ == "nut" else ["-strict", "-1"]
    )
    command = ["ffmpeg", "-v", "error", "-i", "-", *codec, "-f", muxer, "-"]
    echoed = subprocess.run(command, input=data, capture_output=True, check=True)
    same(received(echoed.stdout)[1], frames)


# --- what is refused --------------------------------------------------------------------------------------------------


def refusal(data: bytes, **config: Any) -> str:
    with pytest.raises(InputError) as caught:
        received(data, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing() -> None:
    assert refusal(b"") == "nothing came from standard input"


def test_something_unknown() -> None:
    assert "neither YUV4MPEG2 nor Matroska nor NUT" in refusal(b"\x00" * 5000)


@pytest.mark.parametrize(
    "line",
    [
        b"YUV4MPEG2 H48 F25:1\n",
        b"YUV4MPEG2 W64 H48 F25\n",
        b"YUV4MPEG2 W64 Hx F25:1\n",
        b"YUV4MPEG2 W64 H48 F1:0\n",
        b"YUV4MPEG2 W0 H48 F25:1\n",
        b"YUV4MPEG2 W64 H-48 F25:1\n",
        b"YUV4MPEG2 W64 H48 F25:1 C999\n",
        b"YUV4MPEG2 W64 H48",
        b"YUV4MPEG3 W64 H48 F25:1\n",
        b"YUV4MPEG2 " + b"X" * 9000,
        b"YUV4MPEG2 W99999 H99999 F25:1\n",
    ],
)
def test_broken_headers(line: bytes) -> None:
    assert "standard input" in refusal(line)


def test_a_stream_that_breaks_off() -> None:
    clip = clip_of("yuv420p")
    data = sent(clip, frames_for(clip), "y4m")
    assert "broke off in the middle of picture 2" in refusal(data[:-10])
    assert "broke off in the middle of picture 0" in refusal(data[:1000])
    raw = sent(clip, frames_for(clip), "raw")
    assert "broke off in the middle of picture 2" in refusal(raw[:-10], format="raw", width=64, height=48)


def test_a_stream_that_loses_its_step() -> None:
    clip = clip_of("yuv420p")
    data = sent(clip, frames_for(clip), "y4m")
    at = data.index(b"FRAME", 1000)
    assert "not YUV4MPEG2 any more at picture 1" in refusal(data[:at] + b"x" + data[at:])


@pytest.mark.parametrize("magic", [b"\x1aE\xdf\xa3", b"nut/multimedia container\0"])
def test_a_container_of_nothing(magic: bytes) -> None:
    assert "standard input" in refusal(magic + bytes(4000))


def test_frame_lines_may_carry_parameters() -> None:
    clip = clip_of("gray", 2, 1)
    data = y4m.header(clip, "gray", clip.colour) + b"FRAME Ip Xwhatever\nab" + b"FRAME\ncd"
    assert [f.picture.planes[0].tobytes() for f in received(data)[1]] == [b"ab", b"cd"]


@pytest.mark.parametrize(
    "config",
    [
        {"format": "mp4"},
        {"format": "raw"},
        {"format": "raw", "width": 2, "height": 2, "pixel_format": "pal8"},
        {"format": "raw", "width": 2, "height": 2, "rate": Fraction(0)},
    ],
)
def test_settings_out_of_range(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        receive.Config(Descriptor(0), **config)
    with pytest.raises(ConfigError):
        send.Config(Descriptor(1), "mp4")


def test_other_programs_files_of_y4m_from_pyav(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.y4m", codec="wrapped_avframe", container="yuv4mpegpipe", frames=3)
    clip, frames, _ = received(path.read_bytes())
    assert (clip.width, clip.sample_aspect_ratio, clip.rate) == (64, 1, 30)
    expected = [picture(PIXEL_FORMATS["yuv420p"], 64, 48, i) for i in range(3)]
    for frame, one in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.picture.planes[0], one.planes[0])
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 3
