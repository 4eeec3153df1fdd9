"""Half a file is told from a whole one by its own format, and no header makes that slow or endless."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import complete
from pipeline.complete import being_written, fault
from tests.clips import make_clip

#: What is made of each format, and the options of its container.
_KINDS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "sound.mov": {"audio": "aac"},
    "phone.3gp": {"codec": "mpeg4"},
    "a.mkv": {"audio": "libopus"},
    "a.webm": {"codec": "libvpx"},
    "a.avi": {"codec": "mpeg4"},
    "a.mxf": {"codec": "mpeg2video", "width": 720, "height": 576, "rate": 25},
    "a.gif": {"codec": "gif", "pixel_format": "gray"},
    "a.apng": {"codec": "apng", "pixel_format": "rgb24"},
    "a.flv": {"codec": "flv"},
    "a.wmv": {"codec": "wmv2"},
    "a.ogv": {"codec": "libvpx", "container": "ogg"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    options = {"pixel_format": "yuv420p"}
    return {name: make_clip(folder / name, **{**options, **how}).read_bytes() for name, how in _KINDS.items()}


def ffmpeg_flags(path: Path, container: str, flags: dict[str, str], packets: int) -> Path:
    """A clip by PyAV with options of the container's, of which only so many packets are written, without an end."""
    import av

    codec = "mpeg4" if container == "avi" else "libx264"
    source = make_clip(path.with_name("source.mkv"), frames=40, codec=codec, options={"g": "5"})
    with path.open("wb") as file, av.open(str(source)) as read:

        class Pipe:
            """What cannot be gone back in: headers stay as they were first written."""

            def write(self, data: bytes) -> int:
                return file.write(data)

        with av.open(Pipe(), "w", format=container, container_options=flags) as out:  # type: ignore[call-overload]
            stream = out.add_stream_from_template(read.streams.video[0])
            for number, packet in enumerate(read.demux(read.streams.video[0])):
                if number < packets and packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    return path


@pytest.mark.parametrize("name", _KINDS)
def test_a_whole_file_is_whole_and_a_part_of_it_is_not(name: str, clips: dict[str, bytes], tmp_path: Path) -> None:
    content, file = clips[name], tmp_path / name
    file.write_bytes(content)
    assert fault(file) == ""
    for share in (0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 0.99):
        file.write_bytes(content[: int(len(content) * share)])
        assert fault(file) != "", f"{share:.0%} of {name}"
    file.write_bytes(content[:-9])  # sloppy writers of AVI are off by eight
    assert fault(file) != ""


@pytest.mark.parametrize("name", _KINDS)
def test_room_made_beforehand_is_no_content(name: str, clips: dict[str, bytes], tmp_path: Path) -> None:
    content, file = clips[name] + b"\1" * 20000, tmp_path / name
    with file.open("wb") as part:
        part.truncate(len(content))
        part.write(content[: len(clips[name]) // 2])
    assert fault(file) == "its end has not been written"
    file.write_bytes(bytes(len(content)))
    assert fault(file) == "its beginning has not been written"


def test_what_it_says(clips: dict[str, bytes], tmp_path: Path) -> None:
    def cut(name: str, share: float) -> str:
        path = tmp_path / name
        path.write_bytes(clips[name][: int(len(clips[name]) * share)])
        return fault(path)

    assert cut("plain.mp4", 0) == "it is empty"
    mdat = clips["plain.mp4"].index(b"moov") - 4
    assert cut("plain.mp4", mdat / len(clips["plain.mp4"])) == "its index (moov) has not been written"
    assert cut("a.mkv", 0.3) == "29 % of what its header announces is there"
    assert cut("a.gif", 0.5) == "its end (the trailer) has not been written"
    assert fault(tmp_path / "none.mp4") == "it cannot be read: No such file or directory"
    os.mkfifo(tmp_path / "pipe.mp4")
    assert fault(tmp_path / "pipe.mp4") == "it is no regular file"


def test_the_index_in_front(tmp_path: Path) -> None:
    import av

    source = make_clip(tmp_path / "source.mp4", frames=60)
    file = tmp_path / "a.mp4"
    with av.open(str(source)) as read, av.open(str(file), "w", options={"movflags": "+faststart"}) as out:
        stream = out.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    content = file.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat") and fault(file) == ""
    file.write_bytes(content[: int(len(content) * 0.6)])
    assert "% of what its header announces" in fault(file)
    file.write_bytes(content[: content.index(b"mdat") - 4])
    assert "(mdat)" in fault(file)


@pytest.mark.parametrize(
    ("container", "flags"),
    [
        ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("matroska", {"live": "1"}),
        ("matroska", {}),
        ("avi", {}),
    ],
)
def test_recordings_of_unknown_length_are_whole_as_far_as_their_last_piece_is(
    container: str, flags: dict[str, str], tmp_path: Path
) -> None:
    content = ffmpeg_flags(tmp_path / "a", container, flags, 40).read_bytes()
    assert fault(tmp_path / "a") == ""
    (tmp_path / "a").write_bytes(content[: int(len(content) * 0.6) | 1])
    assert fault(tmp_path / "a") != ""


def test_a_fragment_whose_data_is_missing(tmp_path: Path) -> None:
    flags = {"movflags": "frag_keyframe+empty_moov"}
    content = ffmpeg_flags(tmp_path / "a", "mp4", flags, 40).read_bytes()
    (tmp_path / "a").write_bytes(content[: content.rindex(b"mdat") - 4])
    assert fault(tmp_path / "a") == "its last fragment is not whole"
    (tmp_path / "a").write_bytes(content[: content.index(b"moof") - 4])
    assert "(mdat)" in fault(tmp_path / "a")


def box(kind: bytes, size: int, body: bytes = b"") -> bytes:
    return size.to_bytes(4) + kind + body


def test_boxes_of_odd_sizes(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    head, moov = box(b"ftyp", 16, b"isom0000"), box(b"moov", 12, b"1234")
    large = box(b"mdat", 1, (24).to_bytes(8) + b"12345678")
    for content, said in (
        (head + moov + large, ""),
        (head + moov + large[:-1], "98 % of what its header announces is there"),
        (head + moov + box(b"mdat", 0, b"to the end"), ""),
        (head + box(b"mdat", 0, b"to the end"), "its index (moov) has not been written"),
        (head + moov + large + box(b"\0\1\2\3", 5000), ""),
        (head + moov + large + box(b"XTRA", 5000, b"of a camera"), ""),
        (head + box(b"mdat", 1, (2**64 - 1).to_bytes(8)), "0 % of what its header announces is there"),
        (head + box(b"mdat", 7), "its index (moov) has not been written"),
    ):
        file.write_bytes(content)
        assert fault(file) == said


@pytest.mark.parametrize("name", ["a.ts", "a.nut", "a.y4m", "a.mpg"])
def test_what_has_no_sign_is_whole(name: str, tmp_path: Path) -> None:
    codec = {"a.y4m": "wrapped_avframe", "a.mpg": "mpeg2video"}.get(name, "libx264")
    if name == "a.y4m":
        (tmp_path / name).write_bytes(b"YUV4MPEG2 W2 H2 F1:1\nFRAME\n123456FRA")
    else:
        make_clip(tmp_path / name, codec=codec)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 6 // 10])
    assert fault(tmp_path / name) == ""


def test_text_is_left_to_the_decoder(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("this is no video")
    assert fault(tmp_path / "a.mp4") == ""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], tuple[int, int]]:
    """Looks at content, and gives how often and how much was read of it."""
    file = tmp_path_factory.mktemp("hostile") / "a"

    def look(content: bytes) -> tuple[int, int]:
        file.write_bytes(content)
        reads: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            pread = os.pread
            patch.setattr(complete.os, "pread", lambda fd, n, at: (reads.append(n), pread(fd, n, at))[1])
            assert isinstance(fault(file), str)
        return len(reads), sum(reads)

    return look


@pytest.mark.parametrize("name", sorted(_KINDS))
def test_a_file_that_is_cut_short_while_one_looks(
    name: str, clips: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pread = tmp_path / "a", os.pread
    for kept in range(4):
        file.write_bytes(clips[name])
        left = [kept]

        def cutting(descriptor: int, length: int, at: int, left: list[int] = left) -> bytes:
            if not left[0]:
                os.truncate(file, 0)
            left[0] -= 1
            return pread(descriptor, length, at)

        monkeypatch.setattr(complete.os, "pread", cutting)
        assert isinstance(fault(file), str)


_MAGIC = [
    *(b"\0\0\0\x08ftyp", b"\x1a\x45\xdf\xa3\x80", b"RIFF\0\0\0\0AVI ", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"FLV\x01"),
    *(
        bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
        b"OggS",
        b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01",
    ),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_MAGIC), st.binary(max_size=600), st.integers(1, 30))
@example(_MAGIC[0], b"\0\0\0\x08free", 60000)
@example(_MAGIC[1], b"\xec\x80", 100000)
@example(_MAGIC[2], b"JUNK\0\0\0\0", 60000)
@example(_MAGIC[0], b"\0\0\0\x01free\xff\xff\xff\xff\xff\xff\xff\xff", 3)
def test_no_bytes_make_it_fail_or_read_much(
    counted: Callable[[bytes], tuple[int, int]], magic: bytes, body: bytes, times: int
) -> None:
    reads, much = counted(magic + body * times)
    assert reads <= 4096 and much <= 256 << 10


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(_KINDS)),
    st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=9)), max_size=6),
    st.floats(0, 1),
)
def test_no_damage_makes_it_fail_or_read_much(
    counted: Callable[[bytes], tuple[int, int]],
    clips: dict[str, bytes],
    name: str,
    damage: list[tuple[float, bytes]],
    share: float,
) -> None:
    content = bytearray(clips[name])
    for number, (where, what) in enumerate(damage):
        at = int(where * (len(content) if number % 2 else min(400, len(content))))  # every other one in the headers
        content[at : at + len(what)] = what
    reads, much = counted(bytes(content[: int(share * len(content))]))
    assert reads <= 4096 and much <= 256 << 10


def test_who_has_it_open_for_writing(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"1")
    assert not being_written(file)
    with file.open("rb"):
        assert not being_written(file)
    with file.open("ab"):
        assert being_written(file)
    assert not being_written(file)
    assert not being_written(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    assert not being_written(tmp_path / "pipe")


def test_a_file_system_whose_server_refuses_leases_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.mp4"
    monkeypatch.setattr(complete, "remote_kind", lambda path, table: "cifs")
    with file.open("wb"):
        assert not being_written(file)


_OPENER = """
import sys
while True:
    with open(sys.argv[1], "r+b"):
        pass
"""


def test_a_writer_who_comes_while_one_asks_kills_nobody(tmp_path: Path) -> None:
    """A lease that is broken sends a signal; with the usual one, SIGIO, this process would be gone."""
    file = tmp_path / "a.mp4"
    file.write_bytes(b"1")
    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL
    opener = subprocess.Popen([sys.executable, "-c", _OPENER, str(file)])
    try:
        answers = {being_written(file) for _ in range(20000)}
    finally:
        opener.kill()
        opener.wait()
    assert answers == {True, False}


def test_a_lease_that_is_broken_while_held_is_said_with_a_signal_that_nobody_minds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"1")
    real = complete.fcntl.fcntl
    threads = []

    def slow(descriptor: int, what: int, argument: int) -> Any:
        if what == complete.fcntl.F_SETLEASE and argument == complete.fcntl.F_UNLCK:
            thread = threading.Thread(target=lambda: file.open("ab").close())  # waits until the lease is given back
            thread.start()
            threads.append(thread)
            thread.join(0.2)
            assert thread.is_alive()
        return real(descriptor, what, argument)

    monkeypatch.setattr(complete.fcntl, "fcntl", slow)
    assert not being_written(file)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
