"""Encode: what went in is in the file, with everything that travelled along; or there is no file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, PublishError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.publish import publish
from pipeline.runner import inline
from pipeline.types import Clip, Colour, Frame, Job, Picture, Pulled, Report
from stages import finish
from stages.codecs import CODECS
from stages.decode import Decode
from stages.encode import Config, Encode
from stages.finish import Finish
from tests.clips import MATRICES, decoded, make_clip, owned, packets, picture

LOSSLESS = Config(codec="ffv1")
FAST = Config(preset="ultrafast")


def convert(source: Path, target: Path, config: Config = FAST) -> Report:
    """Decode and encode, nothing between, and a look at what came of it; the report on the finished file."""
    outcome = inline([Decode(), Encode(config)], Job(1, str(source), str(target)))
    assert outcome.failure is None, outcome.failure
    assert [p.name for p in target.parent.iterdir() if p.name.endswith(".part")] == []
    clip = replace(facts(source), target=str(target), partial=str(target))
    finisher = Finish(finish.Config(config))
    return finisher.make(clip, outcome.reports, lambda *_: None) | finisher.check(clip, lambda *_: None)


def seconds(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [f.pts * f.time_base for f in container.decode(video=0)]


def facts(path: Path) -> Clip:
    decode = Decode()
    try:
        return decode.open(Job(1, str(path), "/x/y.mp4"))
    finally:
        decode.close()


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv444p", "yuv420p10le", "gray", "yuva420p", "bgra"])
@pytest.mark.parametrize("size", [(64, 48), (66, 50), (67, 51)])
def test_lossless_round_trip_is_bit_identical(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    layout = PIXEL_FORMATS[name]
    shown = [picture(layout, *size, i) for i in range(3)]
    source = make_clip(tmp_path / "a.nut", codec="rawvideo", pixel_format=name, pictures=shown, frames=3)
    report = convert(source, tmp_path / "b.mkv", LOSSLESS)
    assert report["pixel_format"] == name
    for (_, got), (_, expected) in zip(decoded(tmp_path / "b.mkv"), decoded(source), strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [(1918, 1078), (640, 482)])
@pytest.mark.parametrize(("codec", "suffix"), [("h264", "mp4"), ("ffv1", "mkv")])
def test_sizes_not_divisible_by_four_stay(size: tuple[int, int], codec: str, suffix: str, tmp_path: Path) -> None:
    shown = [picture(PIXEL_FORMATS["yuv420p"], *size, i) for i in range(2)]
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", pictures=shown, frames=2)
    target = tmp_path / f"b.{suffix}"
    convert(source, target, Config(codec=codec, preset="ultrafast" if codec == "h264" else "", quality=1))
    for (_, got), one in zip(decoded(target), shown, strict=True):
        for a, b in zip(got, one.planes, strict=True):
            assert a.shape == b.shape
            assert np.abs(a.astype(int) - b).max() <= (0 if codec == "ffv1" else 12)


CODED = [("h264", "mp4"), ("hevc", "mp4"), ("av1", "mp4"), ("prores", "mov"), ("ffv1", "mkv")]


@pytest.mark.parametrize(("codec", "suffix"), CODED)
def test_ten_bits_stay_ten_bits(codec: str, suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", pixel_format="yuv420p10le", frames=2)
    report = convert(source, tmp_path / f"b.{suffix}", Config(codec=codec))
    assert PIXEL_FORMATS[str(report["pixel_format"])].depth == 10
    assert facts(tmp_path / f"b.{suffix}").pixel_format.depth == 10


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("codec", "suffix"), CODED)
def test_the_shortest_clips(codec: str, suffix: str, count: int, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", frames=count, width=64, height=64)
    for _ in range(3):  # x265 leaves some of its memory as it finds it
        convert(source, tmp_path / f"b.{suffix}", Config(codec=codec))
        assert seconds(tmp_path / f"b.{suffix}") == seconds(source)


@pytest.mark.parametrize(("codec", "suffix"), CODED[:3])
def test_odd_sizes_gain_an_edge_and_lose_nothing(codec: str, suffix: str, tmp_path: Path) -> None:
    shown = [picture(PIXEL_FORMATS["yuv420p"], 129, 97)] * 2
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", pictures=shown, frames=2)
    report = convert(source, tmp_path / f"b.{suffix}", Config(codec=codec, quality=4))
    assert report["padded_to"] == "130x98"
    luma = decoded(tmp_path / f"b.{suffix}")[0][1][0]
    assert luma.shape == (98, 130)
    assert np.abs(luma[:97, :129].astype(int) - shown[0].planes[0]).mean() < 4


def test_full_range_stays_full_range(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", pixel_format="yuvj420p", frames=2, options={"qp": "0"})
    assert facts(source).pixel_format.name == "yuvj420p"
    convert(source, tmp_path / "b.mp4", Config(quality=0))
    assert facts(tmp_path / "b.mp4").colour.range == 2
    for (_, got), (_, expected) in zip(decoded(tmp_path / "b.mp4"), decoded(source), strict=True):
        np.testing.assert_array_equal(got[0], expected[0])


def test_conversion_within_a_family_moves_no_colour(tmp_path: Path) -> None:
    shown = [picture(PIXEL_FORMATS["yuv411p"], 64, 48)] * 2
    source = make_clip(
        tmp_path / "a.mkv", codec="ffv1", pixel_format="yuv411p", pictures=shown, frames=2, colour=Colour(1, 1, 1, 1)
    )
    report = convert(source, tmp_path / "b.mkv", Config(quality=0))
    assert (report["pixel_format"], report["converted_from"]) == ("yuv422p", "yuv411p")
    assert facts(tmp_path / "b.mkv").colour == Colour(1, 1, 1, 1)
    _, planes = decoded(tmp_path / "b.mkv")[0]
    np.testing.assert_array_equal(planes[0], shown[0].planes[0])
    assert np.abs(planes[1].astype(int)[:, ::2] - shown[0].planes[1]).mean() < 6


def test_prores_cannot_say_full_range_and_gets_the_limited_one(tmp_path: Path) -> None:
    shown = picture(PIXEL_FORMATS["yuvj422p"], 64, 48)
    shown.planes[0][:, :32], shown.planes[0][:, 32:] = 0, 255
    for plane in shown.planes[1:]:
        plane[:] = 128
    source = make_clip(tmp_path / "a.mp4", pixel_format="yuvj422p", pictures=[shown] * 2, options={"qp": "0"})
    convert(source, tmp_path / "b.mov", Config(codec="prores"))
    luma = decoded(tmp_path / "b.mov")[0][1][0].view(np.uint16)
    assert luma[:, :16].mean() == pytest.approx(64, abs=4)
    assert luma[:, 48:].mean() == pytest.approx(940, abs=4)


def test_rgb_becomes_tagged_bt709_that_players_show(tmp_path: Path) -> None:
    shown = picture(PIXEL_FORMATS["bgra"], 64, 48)
    shown.planes[0][:] = (40, 90, 200, 255)
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", pixel_format="bgra", pictures=[shown] * 2, frames=2)
    report = convert(source, tmp_path / "b.mp4", Config(quality=1))
    assert (report["pixel_format"], report["converted_from"]) == ("yuv420p", "bgra")
    assert facts(tmp_path / "b.mp4").colour == Colour(2, 2, 1, 1)
    r, g, b = 200, 90, 40
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    expected = (
        16 + luma * 219 / 255,
        128 + (b - luma) / 1.8556 * 224 / 255,
        128 + (r - luma) / 1.5748 * 224 / 255,
    )
    for plane, value in zip(decoded(tmp_path / "b.mp4")[0][1], expected, strict=True):
        assert plane.mean() == pytest.approx(value, abs=1.5)


@pytest.mark.parametrize(("codec", "suffix"), CODED)
def test_a_slot_may_be_overwritten_as_soon_as_its_frame_comes_out(codec: str, suffix: str, tmp_path: Path) -> None:
    layout = PIXEL_FORMATS["yuv422p10le" if codec == "prores" else "yuv420p"]
    shown = [picture(layout, 128, 96, i) for i in range(24)]
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", pixel_format=layout.name, pictures=shown, frames=24)
    config = Config(codec=codec, options={"bf": "3"} if codec == "h264" else {}, threads=4)
    payloads = []
    for reuse in (False, True):
        clip = replace(facts(source), target=f"/x.{suffix}", partial=str(tmp_path / f"{reuse}.{suffix}"))
        for _ in Encode(config)(clip, Pulled(_in_one_slot(clip, shown, reuse))):
            pass
        payloads.append([data for _, data in packets(Path(clip.partial), "video")])
    assert len(payloads[0]) == 24
    assert payloads[0] == payloads[1]


def _in_one_slot(clip: Clip, shown: list[Any], reuse: bool) -> Iterator[Frame]:
    rng = np.random.default_rng(7)
    slot = owned(Frame(1, 0, 0, shown[0]))
    for index, one in enumerate(shown):
        frame = Frame(1, index, index * 33, one, duration=33)
        if not reuse:
            yield owned(frame)
            continue
        for plane, samples in zip(slot.picture.planes, one.planes, strict=True):
            plane[:] = samples
        yield frame.with_(picture=slot.picture)
        for plane in slot.picture.planes:
            plane[:] = rng.integers(0, 255)


# --- time -------------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.integers(1, 4000), min_size=2, max_size=12),
    start=st.integers(0, 40000),
    names=st.sampled_from([("a.mp4", "b.mp4"), ("a.mov", "b.mp4"), ("a.mp4", "b.mov")]),
)
def test_variable_rate_keeps_every_tick(gaps: list[int], start: int, names: tuple[str, str], tmp_path: Path) -> None:
    pts = [start + int(x) for x in np.cumsum([0, *gaps])]
    source = make_clip(tmp_path / names[0], pts=pts, time_base=Fraction(1, 15360), width=32, height=32)
    convert(source, tmp_path / names[1], Config(preset="veryfast", options={"bf": "3"}))
    assert seconds(tmp_path / names[1]) == [Fraction(p, 15360) for p in pts]


@pytest.mark.parametrize(("codec", "suffix"), CODED)
def test_every_codec_keeps_uneven_times_and_the_length(codec: str, suffix: str, tmp_path: Path) -> None:
    pts = [0, 40, 80, 200, 233, 266, 300, 1000, 1040, 1500]
    source = make_clip(
        tmp_path / "a.mkv", codec="ffv1", pts=pts, time_base=Fraction(1, 1000), rate=25, width=64, height=64
    )
    convert(source, tmp_path / f"b.{suffix}", Config(codec=codec))
    assert seconds(tmp_path / f"b.{suffix}") == [Fraction(p, 1000) for p in pts]


@pytest.mark.parametrize("rate", [60, Fraction(60000, 1001), Fraction(24000, 1001), 25, 120])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_rate_stays(rate: Fraction, suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / f"a.{suffix}", rate=rate, frames=30)
    convert(source, tmp_path / f"b.{suffix}")
    assert seconds(tmp_path / f"b.{suffix}") == seconds(source)
    assert float(facts(tmp_path / f"b.{suffix}").rate) == pytest.approx(float(rate), rel=1e-3)
    assert facts(tmp_path / f"b.{suffix}").duration_s == pytest.approx(facts(source).duration_s, abs=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_last_picture_stays_as_long_as_it_did(suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=2)
    clip = replace(facts(source), target=f"/x.{suffix}", partial=str(tmp_path / f"b.{suffix}"))
    shown = [picture(clip.pixel_format, 64, 48, i) for i in range(3)]
    frames = [Frame(1, i, 40 * i, one, duration=(40, 40, 700)[i]) for i, one in enumerate(shown)]
    for _ in Encode(FAST)(clip, Pulled(frames)):
        pass
    assert facts(Path(clip.partial)).duration_s == pytest.approx(0.78, abs=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_sound_lies_between_the_pictures_it_belongs_to(suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / f"a.{suffix}", frames=100, rate=5, audio="aac", width=16, height=16)
    convert(source, tmp_path / f"b.{suffix}")
    with av.open(str(tmp_path / f"b.{suffix}")) as container:
        stored = sorted((p.pos, p.dts * p.time_base) for p in container.demux() if p.pos is not None and p.size)
    late = [before - after for (_, before), (_, after) in pairwise(stored)]
    assert max(late) < 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_stream_with_little_to_say_does_not_hold_the_pictures_back(suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / f"a.{suffix}", frames=2, subtitles="mov_text" if suffix == "mp4" else "srt")
    clip = replace(
        facts(source), target=f"/x.{suffix}", partial=str(tmp_path / f"b.{suffix}"), time_base=Fraction(1, 30)
    )
    clip = replace(clip, width=320, height=240)
    rng = np.random.default_rng(1)

    def noise(index: int) -> Frame:
        shapes = clip.pixel_format.shapes(320, 240)
        planes = tuple(rng.integers(0, 256, shape, np.uint8) for shape in shapes)
        return Frame(1, index, index, Picture(clip.pixel_format, 320, 240, planes), duration=1)

    written = {}
    for frame in Encode(Config(preset="ultrafast", quality=0, threads=1))(clip, Pulled(map(noise, range(90)))):
        written[frame.index] = Path(clip.partial).stat().st_size
    assert written[89] > Path(clip.partial).stat().st_size / 2


def test_mp4_to_matroska_keeps_times_to_its_millisecond(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", rate=30, frames=20, audio="aac")
    convert(source, tmp_path / "b.mkv")
    for a, b in zip(seconds(tmp_path / "b.mkv"), seconds(source), strict=True):
        assert abs(a - b) <= Fraction(1, 2000)


# --- tags -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_rotation_and_mirroring_stay_tags(name: str, suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / f"a.{suffix}", display_matrix=MATRICES[name], frames=2)
    convert(source, tmp_path / f"b.{suffix}")
    clip = facts(tmp_path / f"b.{suffix}")
    assert clip.display_matrix == MATRICES[name]
    assert (clip.width, clip.height) == (64, 48)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("colour", [Colour(1, 1, 1, 1), Colour(9, 16, 9, 1), Colour(6, 6, 6, 1), Colour(5, 6, 5, 2)])
def test_colour_tags_and_aspect_ratio_stay(colour: Colour, suffix: str, tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / f"a.{suffix}", pixel_format="yuv420p10le", colour=colour, sar=Fraction(4, 3), frames=2
    )
    convert(source, tmp_path / f"b.{suffix}")
    clip = facts(tmp_path / f"b.{suffix}")
    assert clip.colour == facts(source).colour == colour
    assert clip.sample_aspect_ratio == Fraction(4, 3)


CHAPTERS = [
    {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}},
    {"id": 2, "start": 200, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "two"}},
]


def spoken(path: Path) -> list[tuple[Fraction, bytes]]:
    """Subtitle packets without MP4's empty ones, which only say that a line ends."""
    return [(at, data) for at, data in packets(path, "subtitle") if data != bytes(2)]


@pytest.mark.parametrize(("suffix", "text"), [("mp4", "mov_text"), ("mov", "mov_text"), ("mkv", "srt")])
def test_everything_that_travels_along_arrives(suffix: str, text: str, tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / f"a.{suffix}",
        audio="aac",
        subtitles=text,
        chapters=CHAPTERS,
        cover=suffix == "mp4",
        attachment=b"not really a font" if suffix == "mkv" else None,
        metadata={"title": "Tea", "artist": "Ann", "comment": "ünï"},
    )
    target = tmp_path / f"b.{suffix}"
    report = convert(source, target)
    assert "left_out" not in report and report["chapters"] == 2
    assert f"subtitle {text}" in str(report["copied"]) and "audio aac" in str(report["copied"])
    assert packets(target, "audio") == packets(source, "audio") != []
    assert spoken(target) == spoken(source) != []
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert [s.type for s in after.streams] == [s.type for s in before.streams]
        assert [(c["metadata"], c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in after.chapters()] == [
            (c["metadata"], c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in before.chapters()
        ]
        kept = {k.lower(): v for k, v in after.metadata.items()}
        assert (kept["title"], kept["artist"], kept["comment"]) == ("Tea", "Ann", "ünï")
        for a, b in zip(before.streams, after.streams, strict=True):
            assert a.disposition == b.disposition
        assert before.streams.audio[0].duration == after.streams.audio[0].duration
        if suffix == "mkv":
            assert [s.data for s in after.streams if s.type == "attachment"] == [b"not really a font"]


@pytest.mark.parametrize("codec", ["aac", "libopus", "flac", "pcm_s16le", "ac3"])
def test_sound_is_byte_identical_and_as_long(codec: str, tmp_path: Path) -> None:
    suffix = "mkv" if codec == "pcm_s16le" else "mp4"
    source = make_clip(tmp_path / f"a.{suffix}", frames=30, audio=codec, audio_seconds=1.7)
    convert(source, tmp_path / f"b.{suffix}")
    assert packets(tmp_path / f"b.{suffix}", "audio") == packets(source, "audio")


def test_sound_from_mp4_to_matroska_and_back(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=30, audio="aac")
    convert(source, tmp_path / "b.mkv")
    convert(tmp_path / "b.mkv", tmp_path / "c.mp4")
    payload = [data for _, data in packets(source, "audio")]
    for name in ("b.mkv", "c.mp4"):
        assert [data for _, data in packets(tmp_path / name, "audio")] == payload
        for (a, _), (b, _) in zip(packets(tmp_path / name, "audio"), packets(source, "audio"), strict=True):
            assert abs(a - b) <= Fraction(1, 1000)


def test_sound_that_an_edit_list_hides_is_not_played_elsewhere(tmp_path: Path) -> None:
    plain = make_clip(tmp_path / "plain.mp4", frames=30, audio="aac")
    source = tmp_path / "a.mp4"
    with av.open(str(plain)) as before, av.open(str(source), "w") as out:
        copies = {s.index: out.add_stream_from_template(s, opaque=True) for s in before.streams}
        for packet in before.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    packet.pts = packet.dts = packet.pts - 24000
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    heard = [(at, data) for at, data in packets(source, "audio") if at >= 0]
    assert len(heard) < len(packets(source, "audio")) - 20
    convert(source, tmp_path / "b.mp4")
    assert packets(tmp_path / "b.mp4", "audio") == packets(source, "audio")
    convert(source, tmp_path / "b.mkv")
    kept = packets(tmp_path / "b.mkv", "audio")
    assert kept[0][0] >= Fraction(-1, 10)
    assert [data for at, data in kept if at >= 0] == [data for _, data in heard]
    assert seconds(tmp_path / "b.mkv")[0] == 0


def test_metadata_that_only_quicktime_has_a_place_for(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", metadata={"com.apple.quicktime.make": "Acme", "title": "Tea"})
    convert(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        kept = {k.lower(): v for k, v in container.metadata.items()}
    assert (kept["com.apple.quicktime.make"], kept["title"]) == ("Acme", "Tea")


def test_what_the_container_cannot_hold_is_named(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", audio="pcm_s16le", subtitles="srt", attachment=b"x")
    report = convert(source, tmp_path / "b.mp4")
    assert report["left_out"] == "subtitle srt, attachment font.ttf"
    assert report["copied"] == "audio pcm_s16le"


def art(path: Path) -> bytes:
    with av.open(str(path)) as container:
        (cover,) = [s for s in container.streams if s.disposition & av.stream.Disposition.attached_pic]
        return next(bytes(p) for p in container.demux(cover) if p.size)


def test_sound_of_an_unknown_kind_is_named_and_left_out(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", audio="aac")
    source.write_bytes(source.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"free"))
    report = convert(source, tmp_path / "b.mp4")
    assert report["left_out"] == "audio of an unknown kind" and report["frames"] == 12


def test_damaged_sound_costs_its_packets_only(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.ts", frames=30, audio="aac")
    whole = len(packets(source, "audio"))
    data = source.read_bytes()
    header = packets(source, "audio")[20][1][:4]
    at = data.index(header, len(data) // 2)
    source.write_bytes(data[:at] + b"\xff\xf1\xff\xff" + data[at + 4 :])
    report = convert(source, tmp_path / "b.mp4")
    assert report["frames"] == 30
    assert whole // 2 < len(packets(tmp_path / "b.mp4", "audio")) < whole


def test_matroska_gets_cover_art_as_an_attachment(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", cover=True)
    report = convert(source, tmp_path / "b.mkv")
    assert report["copied"] == "video mjpeg"
    with av.open(str(tmp_path / "b.mkv")) as container:
        cover = container.streams.video[1]
        assert cover.disposition & av.stream.Disposition.attached_pic
    back = convert(tmp_path / "b.mkv", tmp_path / "c.mp4")
    assert back["copied"] == "video mjpeg"
    assert art(tmp_path / "c.mp4") == art(source)


def test_a_second_video_stream_is_copied(tmp_path: Path) -> None:
    one = make_clip(tmp_path / "one.mkv", frames=6)
    source = tmp_path / "a.mkv"
    with av.open(str(one)) as first, av.open(str(source), "w") as out:
        pair = [out.add_stream_from_template(first.streams.video[0], opaque=True) for _ in range(2)]
        for packet in first.demux(video=0):
            if packet.dts is not None:
                for stream in pair:
                    packet.stream = stream
                    out.mux(packet)
    report = convert(source, tmp_path / "b.mkv")
    assert report["copied"] == "video h264"
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert len(container.streams.video) == 2


def test_real_clip_with_sound(media: Path, tmp_path: Path) -> None:
    source = media / "stage_cuts_audio.mp4"
    report = convert(source, tmp_path / "b.mp4")
    assert report["frames"] == 275
    assert seconds(tmp_path / "b.mp4") == seconds(source)
    assert packets(tmp_path / "b.mp4", "audio") == packets(source, "audio")


# --- failure ----------------------------------------------------------------------------------------------------------


def failed(source: Path, target: Path, config: Config = FAST) -> str:
    outcome = inline([Decode(), Encode(config)], Job(1, str(source), str(target)))
    assert outcome.failure is not None
    assert not target.exists()
    return f"{outcome.failure.error}: {outcome.failure.reason}"


@pytest.mark.parametrize("config", [{"codec": "vp9"}, {"threads": -1}])
def test_settings_out_of_range(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"encode\."):
        Config(**config)


def test_a_container_that_cannot_hold_the_codec(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    assert "a .mp4 file cannot hold prores video; use one of .mov" in failed(
        source, tmp_path / "b.mp4", Config("prores")
    )
    assert "no container is known by .xyz" in failed(source, tmp_path / "b.xyz")


def test_a_pixel_format_that_the_encoder_lacks(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    assert "libx264 cannot code yuv410p" in failed(source, tmp_path / "b.mp4", Config(pixel_format="yuv410p"))


def test_options_that_the_encoder_refuses(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    message = failed(source, tmp_path / "b.mp4", Config(preset="at-leisure"))
    assert message.startswith("ConfigError: libx264 refuses 64x48 yuv420p")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    assert failed(source, tmp_path / "none" / "b.mp4").startswith("PublishError: ")


def test_a_full_disk(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", width=640, height=480, frames=4)
    clip = replace(facts(source), partial="/dev/full", target="/x/b.mp4")
    decode = Decode()
    decode.open(Job(1, str(source), "/x/b.mp4"))
    made = Encode(Config(quality=0))(clip, Pulled(owned(f) for f in decode(clip, Pulled([]))))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PublishError, match=os.strerror(errno.ENOSPC).lower()):
        patch.setattr("stages.encode.discard", lambda _: None)
        for _ in made:
            pass


@pytest.mark.parametrize("after", [0, 5])
def test_stopping_early_leaves_nothing(after: int, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", audio="aac")
    decode, encode = Decode(), Encode(FAST)
    clip = decode.open(Job(1, str(source), str(tmp_path / "b.mp4")))
    frames = decode(clip, Pulled([]))
    made = encode(clip, Pulled(owned(f) for f in frames))
    for _ in range(after):
        next(made)
    made.close()
    frames.close()
    decode.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_a_failure_before_it_leaves_nothing(tmp_path: Path) -> None:
    def broken(frames: Iterator[Frame]) -> Iterator[Frame]:
        yield next(frames)
        raise RuntimeError("out of paint")

    source = make_clip(tmp_path / "a.mp4")
    decode = Decode()
    clip = decode.open(Job(1, str(source), str(tmp_path / "b.mp4")))
    frames = decode(clip, Pulled([]))
    with pytest.raises(RuntimeError, match="out of paint"):
        for _ in Encode(FAST)(clip, Pulled(broken(owned(f) for f in frames))):
            pass
    frames.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_an_existing_target_is_replaced_only_by_a_whole_file(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    target = tmp_path / "b.mp4"
    target.write_bytes(b"old")
    outcome = inline([Decode(), Encode(Config(preset="at-leisure"))], Job(1, str(source), str(target)))
    assert outcome.failure is not None and target.read_bytes() == b"old"
    convert(source, target)
    assert len(decoded(target)) == 12


def test_names_up_to_255_bytes(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    target = tmp_path / ("ü" * 125 + "x.mp4")
    assert len(os.fsencode(target.name)) == 255
    convert(source, target)
    assert target.exists()


def test_every_codec_has_a_first_choice_of_container() -> None:
    from stages.containers import MUXERS, SUFFIXES, suffix_for

    assert set(SUFFIXES) == set(CODECS)
    for codec, suffixes in SUFFIXES.items():
        assert all(suffix in MUXERS for suffix in suffixes)
        assert suffix_for("a.gif", codec) == suffixes[0]
        assert suffix_for(f"a{suffixes[-1].upper()}", codec) == suffixes[-1]


def test_publish_is_what_inline_does_with_the_partial(tmp_path: Path) -> None:
    partial = tmp_path / ".x.part"
    partial.write_bytes(b"new")
    publish(str(partial), str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"new" and not partial.exists()
