"""Decode: what the file holds comes out as it is; what is wrong with a file is said in one sentence."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, InputError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Clip, Colour, Frame, Job, Pulled, Report
from stages.decode import Config, Decode, frame_rate_of, video_stream
from stages.planes import nearest
from stages.reader import Damage, ToClip, demuxed
from tests.clips import MATRICES, decoded, make_clip, owned, picture


def run(path: Path, config: Config | None = None) -> tuple[Clip, list[Frame], Report]:
    decode = Decode(config)
    clip = decode.open(Job(1, str(path), str(path.with_suffix(".out.mp4"))))
    made = decode(clip, Pulled([]))
    frames = []
    while True:
        try:
            frames.append(owned(next(made)))
        except StopIteration as stop:
            return clip, frames, stop.value


def refusal(path: Path | str, config: Config | None = None) -> str:
    decode = Decode(config)
    with pytest.raises(InputError) as caught:
        decode.open(Job(1, str(path), "/nowhere/out.mp4"))
    decode.close()
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


#: What raw video in NUT has no code for: the wrapping of these is tested in test_planes.py.
NOT_IN_NUT = {"yuv440p10le", "yuv440p12le", "rgb0", "0rgb", "bgr0", "0bgr", "nv16", "nv24"}


@pytest.mark.parametrize(
    "name", sorted(n for n in PIXEL_FORMATS if n not in NOT_IN_NUT and not n.startswith(("p", "yuvj")))
)
def test_every_pixel_format_comes_out_unchanged(name: str, tmp_path: Path) -> None:
    layout = PIXEL_FORMATS[name]
    shown = [picture(layout, 50, 34, i) for i in range(2)]
    path = make_clip(tmp_path / "a.nut", pixel_format=name, codec="rawvideo", pictures=shown, frames=2)
    clip, frames, report = run(path)
    assert clip.pixel_format.name == name
    assert report["packets"] == 2 and "converted_frames" not in report
    for frame, one in zip(frames, shown, strict=True):
        for plane, expected in zip(frame.picture.planes, one.planes, strict=True):
            np.testing.assert_array_equal(plane, expected)


def test_planes_are_read_only_views_of_the_decoders_own_memory(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    decode = Decode()
    clip = decode.open(Job(1, str(path), "/x/b.mp4"))
    made = decode(clip, Pulled([]))
    plane = next(made).picture.planes[0]
    assert not plane.flags.writeable
    assert not plane.flags.owndata
    assert plane.shape == (48, 64) and plane.strides[0] >= 64
    made.close()


def test_agrees_with_plain_pyav_frame_by_frame(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", width=1918 // 7 * 2, height=78, frames=20, options={"bf": "3", "g": "8"})
    _, frames, _ = run(path)
    expected = decoded(path)
    assert [f.pts for f in frames] == [pts for pts, _ in expected]
    assert [f.index for f in frames] == list(range(20))
    for frame, (_, planes) in zip(frames, expected, strict=True):
        for plane, rows in zip(frame.picture.planes, planes, strict=True):
            np.testing.assert_array_equal(plane.view(np.uint8).reshape(rows.shape), rows)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.integers(1, 4000), min_size=2, max_size=12),
    name=st.sampled_from(["a.mp4", "a.mov"]),
    start=st.integers(0, 999),
)
def test_variable_rate_keeps_every_tick(gaps: list[int], name: str, start: int, tmp_path: Path) -> None:
    pts = [start + int(x) for x in np.cumsum([0, *gaps])]
    path = make_clip(tmp_path / name, pts=pts, time_base=Fraction(1, 15360), width=16, height=16)
    clip, frames, report = run(path)
    assert [f.pts * clip.time_base for f in frames] == [Fraction(p, 15360) for p in pts]
    assert "repaired_timestamps" not in report


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_the_display_matrix_comes_from_the_matrix_itself(name: str, suffix: str, tmp_path: Path) -> None:
    path = make_clip(tmp_path / f"a.{suffix}", display_matrix=MATRICES[name], frames=2)
    assert run(path)[0].display_matrix == MATRICES[name]


def test_the_clip_tells_all_that_the_container_does(tmp_path: Path) -> None:
    colour = Colour(9, 16, 9, 1)
    path = make_clip(
        tmp_path / "a.mp4",
        pixel_format="yuv420p10le",
        codec="libx264",
        rate=60,
        frames=30,
        sar=Fraction(4, 3),
        colour=colour,
    )
    clip, frames, _ = run(path)
    assert (clip.width, clip.height, clip.pixel_format.name) == (64, 48, "yuv420p10le")
    assert clip.rate == 60 and clip.frames == 30 and clip.sample_aspect_ratio == Fraction(4, 3)
    assert clip.colour == colour
    assert clip.duration_s == pytest.approx(0.5)
    assert clip.display_matrix is None
    assert {f.duration * clip.time_base for f in frames} == {Fraction(1, 60)}
    assert Path(clip.partial).parent == tmp_path


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    clip, frames, _ = run(make_clip(tmp_path / "a.mp4", cover=True))
    assert (clip.width, len(frames)) == (64, 12)


@pytest.mark.parametrize("stored", ["pal8", "uyvy422", "rgb565le", "yuv420p10be", "monow", "rgb48be"])
def test_formats_that_numpy_cannot_address_are_converted_and_reported(stored: str, tmp_path: Path) -> None:
    raw = tmp_path / "a.nut"
    with av.open(str(raw), "w") as out:
        stream = out.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, stored
        frame = av.VideoFrame(32, 16, stored)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    clip, frames, report = run(raw)
    assert clip.pixel_format == nearest(stored)
    assert clip.pixel_format.depth >= {"yuv420p10be": 10, "rgb48be": 16}.get(stored, 8)
    assert report["converted_frames"] == len(frames) == 1
    assert report["stored_formats"] == stored


def test_a_gif_plays_once_with_its_own_delays(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "a.gif",
        codec="gif",
        pixel_format="rgb8" if "rgb8" in PIXEL_FORMATS else "gray",
        pts=[0, 7, 30, 41],
        time_base=Fraction(1, 100),
        rate=25,
    )
    clip, frames, _ = run(path)
    assert [f.pts * clip.time_base for f in frames] == [Fraction(t, 100) for t in (0, 7, 30, 41)]
    assert clip.pixel_format.name == "bgra"


def test_real_gif(media: Path) -> None:
    clip, frames, report = run(media / "head_pose_female.gif")
    assert (clip.width, clip.height, len(frames), report) == (480, 270, 23, {"packets": 23})


# --- damage -----------------------------------------------------------------------------------------------------------


def test_flipped_bytes_cost_pictures_only_where_they_are(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", width=160, height=120, frames=60, options={"g": "10", "preset": "veryfast"})
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for at in rng.integers(len(data) // 3, 2 * len(data) // 3, 60):
        data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    _, frames, report = run(path)
    assert len(frames) >= 40
    assert [f.index for f in frames] == list(range(len(frames)))
    assert all(b.pts > a.pts for a, b in pairwise(frames))
    hurt = sum(int(report.get(k, 0)) for k in ("damaged_packets", "damaged_frames", "read_errors"))
    assert hurt > 0
    assert sum(f.damaged for f in frames) == report.get("damaged_frames", 0)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_clip_cut_short_gives_what_is_there(suffix: str, tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / f"a.{suffix}", width=160, height=120, frames=60, options={"g": "10", "preset": "ultrafast"}
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    _, frames, report = run(path)
    assert 25 <= len(frames) < 60
    assert report["packets"] >= len(frames)


def test_pictures_that_refer_to_lost_ones_are_given_and_marked(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.ts", width=160, height=120, frames=40, options={"g": "20", "preset": "ultrafast"})
    whole = path.read_bytes()
    first = len(whole) // 188 // 4 * 188
    path.write_bytes(whole[: 188 * 3] + whole[first:])  # tables, then from the middle of the first group on
    _, frames, report = run(path)
    assert any(f.damaged for f in frames)
    assert report["damaged_frames"] == sum(f.damaged for f in frames)


def test_a_packet_that_cannot_be_decoded_costs_one_picture(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mov", codec="png", pixel_format="rgb24", frames=10)
    data = path.read_bytes()
    third = [i for i in range(len(data)) if data.startswith(b"\x89PNG", i)][2]
    path.write_bytes(data[:third] + bytes(40) + data[third + 40 :])
    clip, frames, report = run(path)
    assert len(frames) == 9 and report["damaged_packets"] == 1
    assert [round(f.pts * clip.time_base * 30) for f in frames][:3] == [0, 1, 3]


class Stumbling:
    """A container whose reading fails now and then, and then goes on, as FFmpeg's do behind a broken cluster."""

    def __init__(self, *parts: list[int]) -> None:
        self.parts = list(parts)

    def demux(self, streams: list[object]) -> Iterator[SimpleNamespace]:
        while self.parts:
            for size in self.parts.pop(0):
                yield SimpleNamespace(size=size)
            if self.parts:
                raise av.error.InvalidDataError(1, "broken")


def test_reading_goes_on_behind_an_error() -> None:
    damage = Damage()
    read = demuxed(Stumbling([1, 2], [3], [4, 0]), [], damage)  # type: ignore[arg-type]
    assert [packet.size for packet in read] == [1, 2, 3, 4]
    assert damage.read_errors == 2


def test_errors_that_are_far_apart_never_add_up() -> None:
    damage = Damage()
    read = demuxed(Stumbling(*([1] for _ in range(100))), [], damage)  # type: ignore[arg-type]
    assert len(list(read)) == 100 and damage.read_errors == 99


def test_reading_gives_up_where_nothing_comes_any_more() -> None:
    damage = Damage()
    read = demuxed(Stumbling([1], *([[]] * 500), [2]), [], damage)  # type: ignore[arg-type]
    assert [packet.size for packet in read] == [1]
    assert 2 < damage.read_errors < 100


@pytest.mark.parametrize(
    ("average", "guessed", "named", "expected"),
    [
        (30, 30, 30, 30),
        (60000, 25, 25, 25),  # DV: its clock
        (Fraction(19001, 317), Fraction(19001, 317), Fraction(60000, 1001), Fraction(60000, 1001)),
        (30, 30, 60, 30),
        (None, None, None, None),
        (90000, None, None, None),
    ],
)
def test_the_rate_is_the_likeliest_of_those_that_ffmpeg_tells(
    average: Fraction | None, guessed: Fraction | None, named: Fraction | None, expected: Fraction | None
) -> None:
    stream = SimpleNamespace(average_rate=average, guessed_rate=guessed, codec_context=SimpleNamespace(framerate=named))
    assert frame_rate_of(stream) == expected  # type: ignore[arg-type]


def test_the_first_moving_pictures_are_the_video() -> None:
    def stream(kind: int, context: object) -> SimpleNamespace:
        return SimpleNamespace(disposition=av.stream.Disposition(kind), codec_context=context, type="video")

    cover, unknown, moving = stream(1024, "jpeg"), stream(0, None), stream(1, "h264")
    streams = [cover, unknown, moving]
    container = SimpleNamespace(streams=type("Streams", (list,), {"video": streams})(streams))
    assert video_stream(container, "x") is moving  # type: ignore[comparison-overlap, arg-type]
    streams.remove(moving)
    with pytest.raises(InputError, match="no decoder"):
        video_stream(container, "x")  # type: ignore[arg-type]
    streams.remove(unknown)
    with pytest.raises(InputError, match="no stream in it"):
        video_stream(container, "x")  # type: ignore[arg-type]


def test_a_change_of_size_in_mid_stream_is_brought_to_the_first_size(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "a.ts", width=64, height=48, frames=8)
    second = make_clip(tmp_path / "b.ts", width=96, height=64, frames=8, pixel_format="yuv422p")
    both = tmp_path / "c.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    clip, frames, report = run(both)
    assert len(frames) == 16
    assert {(f.picture.width, f.picture.height, f.picture.format.name) for f in frames} == {(64, 48, "yuv420p")}
    assert report["converted_frames"] == 8 and report["stored_formats"] == "yuv422p"
    assert report["repaired_timestamps"] >= 1  # the second part starts again from the first one's beginning
    assert all(b.pts > a.pts for a, b in pairwise(frames))
    assert clip.width == 64


# --- what is refused --------------------------------------------------------------------------------------------------


def test_missing(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.mp4")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert "empty" in refusal(tmp_path / "a.mp4")


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert "a named pipe" in refusal(tmp_path / "a.mp4")


def test_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.mp4")
        assert "a socket" in refusal(tmp_path / "a.mp4")


def test_device() -> None:
    assert "a device" in refusal("/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    path.chmod(0)
    assert "permission" in refusal(path)


def test_text(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("dear diary, " * 400)
    assert "cannot be read as a video" in refusal(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile '{}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
        "[playlist]\nFile1={}\nNumberOfEntries=1\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><Representation>'
        "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n{}\n",
    ],
    ids=["ffconcat", "hls", "pls", "dash", "sdp"],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "m3u8"])
def test_a_playlist_never_opens_another_file(playlist: str, suffix: str, tmp_path: Path) -> None:
    secret = make_clip(tmp_path / "secret.mp4")
    path = tmp_path / f"list.{suffix}"
    path.write_text(playlist.format(secret))
    assert "cannot be read as a video" in refusal(path)


def test_a_name_that_looks_like_a_protocol_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "a.mp4")
    make_clip(tmp_path / "b.mp4")
    assert "does not exist" in refusal("concat:a.mp4|b.mp4")
    odd = make_clip(tmp_path / "a.mp4").rename(tmp_path / "file:a.mp4")
    assert len(run(odd)[1]) == 12


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert "nothing but audio" in refusal(path)


def test_a_film_without_its_index(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=60)
    path.write_bytes(path.read_bytes()[:4000])
    assert "cannot be read as a video" in refusal(path)


def test_a_film_without_a_single_picture(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=10)
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    assert "none of its pictures" in refusal(path)


def test_too_many_pixels(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    assert "64x48, more than decode.max_pixels = 3000" in refusal(path, Config(max_pixels=3000))


def test_too_long(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=60)
    assert "2 s long, more than decode.max_duration_s = 1" in refusal(path, Config(max_duration_s=1))


@pytest.mark.parametrize("suffix", ["mkv", "nut", "mp4"])
def test_a_clip_that_begins_late_is_not_a_long_one(suffix: str, tmp_path: Path) -> None:
    pts = [30_000_000 + 40 * index for index in range(25)]
    codec = "ffv1" if suffix == "nut" else "libx264"
    path = make_clip(tmp_path / f"a.{suffix}", codec=codec, pts=pts, time_base=Fraction(1, 1000), rate=25)
    decode = Decode(Config(max_duration_s=2))
    clip = decode.open(Job(1, str(path), ""))
    assert clip.duration_s == pytest.approx(1, abs=0.05) and clip.frames in (24, 25)
    assert sum(1 for _ in decode(clip, Pulled([]))) == 25


def test_too_long_without_saying_so_beforehand(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.h264", frames=100, rate=25)
    with pytest.raises(InputError, match=r"longer than decode\.max_duration_s = 2"):
        run(path, Config(max_duration_s=2))


@pytest.mark.parametrize("bad", [{"threads": -1}, {"max_pixels": 0}, {"max_duration_s": 0}])
def test_settings_out_of_range(bad: dict) -> None:
    with pytest.raises(ConfigError, match=r"decode\."):
        Config(**bad)


def test_threads_change_nothing_but_speed(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=20)
    one, many = run(path)[1], run(path, Config(threads=0))[1]
    for a, b in zip(one, many, strict=True):
        assert a.pts == b.pts
        np.testing.assert_array_equal(a.picture.planes[0], b.picture.planes[0])


def test_a_stage_that_stops_early_closes_the_file(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    decode = Decode()
    clip = decode.open(Job(1, str(path), "/x/b.mp4"))
    made = decode(clip, Pulled([]))
    next(made)
    made.close()
    assert str(path) not in {os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()}
    with pytest.raises(RuntimeError, match="open comes before"):
        next(decode(clip, Pulled([])))


# --- going on ---------------------------------------------------------------------------------------------------------


def resumed(path: Path, first: int, kept: int = 0, asked: list[float] | None = None) -> tuple[list[Frame], Report]:
    decode = Decode()
    clip = replace(decode.open(Job(1, str(path), "/x/b.mp4")), first=first, kept=kept or first)
    made = decode(clip, Pulled([], lambda wait: bool(asked.append(wait)) if asked is not None else True))
    frames = []
    while True:
        try:
            frames.append(owned(next(made)))
        except StopIteration as stop:
            return frames, stop.value


@pytest.mark.parametrize("first", [0, 1, 7, 19, 20, 30])
def test_going_on_gives_the_frames_that_are_left(first: int, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=20, options={"bf": "3", "g": "8"})
    _, whole, said = run(path)
    frames, report = resumed(path, first)
    assert [frame.index for frame in frames] == list(range(max(0, 20 - first)))
    for frame, expected in zip(frames, whole[first:], strict=True):
        assert (frame.pts, frame.duration) == (expected.pts, expected.duration)
        for plane, other in zip(frame.picture.planes, expected.picture.planes, strict=True):
            np.testing.assert_array_equal(plane, other)
    assert report == said


def test_going_on_counts_the_damage_of_the_whole_file(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "a.ts", width=64, height=48, frames=8)
    second = make_clip(tmp_path / "b.ts", width=96, height=64, frames=8, pixel_format="yuv422p")
    both = tmp_path / "c.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    _, whole, said = run(both)
    frames, report = resumed(both, 12)
    assert report == said and report["converted_frames"] == 8
    assert [frame.pts for frame in frames] == [frame.pts for frame in whole[12:]]


def test_frames_that_are_passed_by_are_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_clip(tmp_path / "a.ts", frames=8)
    second = make_clip(tmp_path / "b.ts", width=96, height=64, frames=8)
    both = tmp_path / "c.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    converted = []
    real = ToClip.__call__
    monkeypatch.setattr(ToClip, "__call__", lambda self, frame: converted.append(1) or real(self, frame))
    resumed(both, 12)
    assert len(converted) == 4


def test_a_long_way_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=20)
    asked: list[float] = []
    resumed(path, 15, asked=asked)
    assert asked == [], "it is not that long"
    monkeypatch.setattr("stages.reader._ASK_S", 0.0)
    resumed(path, 15, asked=asked)
    assert asked == [0] * 15


@pytest.mark.parametrize(("seconds", "expected"), [(10.0, 300), (0.5, 15), (0.001, 1)])
def test_a_segment_is_so_many_frames(seconds: float, expected: int, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", rate=30)
    decode = Decode()
    clip = decode.open(Job(1, str(path), "/x/b.mp4", str(tmp_path / "work"), seconds))
    decode.close()
    assert (clip.segment, clip.work, clip.partial) == (expected, str(tmp_path / "work"), "")
    assert (tmp_path / "work").is_dir()
    decode.open(Job(1, str(path), "/x/b.mp4"))
    decode.close()
