"""Segments: a clip that was broken off and gone on with is the very clip that was not."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import checkpoints
from pipeline.checkpoints import Checkpoint
from pipeline.errors import ConfigError, PublishError, ResumeError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.runner import chain, inline
from pipeline.types import Clip, Frame, Frames, Job, Picture, Pulled, Report
from stages import finish
from stages.decode import Decode
from stages.encode import Config, Encode
from stages.finish import Finish
from stages.packets import PacketReader
from stages.segments import depth
from tests.clips import decoded, make_clip, owned, packets

FAST = Config(preset="veryfast", options={"bf": "3"})

#: Seconds in a segment: 12 frames of a clip with 30 a second.
SEGMENT_S = 0.4


@dataclass(frozen=True)
class Place:
    """A source, the work folder of a job that converts it, and its target."""

    source: Path
    work: Path
    target: Path

    @property
    def job(self) -> Job:
        return Job(7, str(self.source), str(self.target), str(self.work), SEGMENT_S)


def place(source: Path, name: str, suffix: str = "mp4") -> Place:
    folder = source.parent / name
    folder.mkdir(exist_ok=True)
    return Place(source, folder / "work", folder / f"b.{suffix}")


def go(at: Place, config: Config = FAST, stop: int | None = None) -> tuple[Clip, dict[str, Report], list[int]]:
    """Decodes and encodes into segments, as far as frame `stop` of the run; the clip, reports, frames that came."""
    decode = Decode()
    clip = decode.open(at.job)
    reports: dict[str, Report] = {}
    numbers: list[int] = []
    stages = [decode, Encode(config)]
    frames = chain(stages, clip, reports)
    for frame in frames:
        numbers.append(clip.first + frame.index)
        if len(numbers) == stop:
            break
    del frames  # as when a stage fails: the generators are closed
    return clip, reports, numbers


def close(at: Place, config: Config = FAST, **settings: str) -> Report:
    """What the door does, but for syncing."""
    clip, reports, _ = go(at, config)
    partial = at.target.with_name(".partial")
    report = finished(replace(clip, partial=str(partial)), reports, finish.Config(config, **settings))
    partial.replace(at.target)
    return report


def finished(clip: Clip, reports: dict[str, Report], config: finish.Config) -> Report:
    finisher = Finish(config)
    return finisher.make(clip, reports, lambda *_: None) | finisher.check(clip, lambda *_: None)


def direct(source: Path, target: Path, config: Config = FAST) -> Path:
    outcome = inline([Decode(), Encode(config)], Job(1, str(source), str(target)))
    assert outcome.failure is None, outcome.failure
    return target


def same_pictures(one: Path, other: Path) -> None:
    a, b = decoded(one), decoded(other)
    assert [pts for pts, _ in a] == [pts for pts, _ in b]
    for (_, planes), (_, others) in zip(a, b, strict=True):
        for plane, another in zip(planes, others, strict=True):
            np.testing.assert_array_equal(plane, another)


def times(path: Path) -> list[Fraction]:
    return [pts for pts, _ in sorted(packets(path, "video"))]


def decoding_times(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path)) as container:
        return [(p.dts, p.pts) for p in container.demux(video=0) if p.size]


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


UNEVEN = [0, 512, 1024, 1100, 1101, 3000, 3512, 4024, 4100, 9000, 9512, 10024, 10536, 11000, 11111, 12000]

CODED = [
    ("h264", "mp4", FAST),
    ("h264", "mov", FAST),
    ("h264", "mkv", FAST),
    ("hevc", "mp4", Config("hevc", preset="ultrafast", options={"x265-params": "log-level=error:bframes=4"})),
    ("hevc", "mkv", Config("hevc", preset="fast")),
    ("av1", "mp4", Config("av1", preset="12")),
    ("av1", "mkv", Config("av1", preset="12")),
    ("prores", "mov", Config("prores")),
    ("prores", "mkv", Config("prores")),
    ("ffv1", "mkv", Config("ffv1")),
]


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize(("codec", "suffix", "config"), CODED)
def test_a_clip_that_was_broken_off_is_the_one_that_was_not(
    codec: str, suffix: str, config: Config, uneven: bool, tmp_path: Path
) -> None:
    spaced = {"pts": UNEVEN, "time_base": Fraction(1, 15360)} if uneven else {"frames": 32}
    source = make_clip(tmp_path / "a.mp4", audio="aac", rate=30, **spaced)  # type: ignore[arg-type]
    unbroken, broken = place(source, "unbroken", suffix), place(source, "broken", suffix)
    close(unbroken, config)
    chance = random.Random(f"{codec} {suffix} {uneven}")
    begun = [go(broken, config, stop)[0] for stop in (chance.randrange(13, 16), chance.randrange(1, 4))]
    assert begun[0].kept == 0 and begun[1].kept >= begun[0].segment > 1
    report = close(broken, config)
    same_pictures(broken.target, unbroken.target)
    assert [data for _, data in packets(broken.target, "video")] == [d for _, d in packets(unbroken.target, "video")]
    assert packets(broken.target, "audio") == packets(unbroken.target, "audio")
    assert [d for _, d in packets(broken.target, "audio")] == [d for _, d in packets(source, "audio")]
    plain = direct(source, tmp_path / f"direct.{suffix}", config)
    assert times(broken.target) == times(plain)
    assert packets(broken.target, "audio") == packets(plain, "audio")
    if suffix != "mkv":  # it stores none
        stamps = decoding_times(broken.target)
        assert all(dts <= pts for dts, pts in stamps)
        assert all(b > a for (a, _), (b, _) in pairwise(stamps))
    assert report["frames"] == len(times(plain)) and report["copied"] == "audio aac"
    assert left(broken.work) == [] and left(broken.target.parent) == []


def close_kept(at: Place) -> int:
    found = checkpoints.read(str(at.work))
    return found.kept if found else 0


_ENCODE = """
import hashlib, sys
from pathlib import Path
from tests.stages.test_segments import STEADY, go, place
for config, suffix in STEADY:
    at = place(Path(sys.argv[1]), f"{config.codec} {sys.argv[2]}", suffix)
    go(at, config)
    print(*(hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(at.work.glob("segment.*"))))
"""
STEADY = [(Config(threads=4), "mp4"), (Config("hevc", preset="ultrafast"), "mp4"), (Config("ffv1"), "mkv")]


def test_the_same_pictures_give_the_same_bytes_whatever_lay_in_memory(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=14, width=336, height=240)
    said = []
    for filled in ("0", "85", "13"):
        env = {**os.environ, "MALLOC_PERTURB_": filled}
        command = [sys.executable, "-c", _ENCODE, str(source), filled]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        said.append(done.stdout)
    assert said[0].count("\n") == 3 and said[1] == said[0] == said[2]


def test_one_segment_is_what_a_file_in_one_go_holds(tmp_path: Path) -> None:
    for codec, suffix, config in (CODED[0], CODED[4], CODED[7]):
        source = make_clip(tmp_path / f"{codec}.mp4", audio="aac", rate=30, frames=12)
        at = place(source, codec, suffix)
        close(at, config)
        plain = direct(source, tmp_path / f"{codec}.{suffix}.{suffix}", config)
        assert packets(at.target, "video") == packets(plain, "video")
        with av.open(str(at.target)) as one, av.open(str(plain)) as other:
            assert len(one.streams) == len(other.streams)
            for a, b in zip(one.streams, other.streams, strict=True):
                assert (a.time_base, a.duration, a.codec_context.extradata, a.metadata) == (
                    b.time_base,
                    b.duration,
                    b.codec_context.extradata,
                    b.metadata,
                )
            assert one.duration == other.duration


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.integers(1, 3000), min_size=1, max_size=24),
    start=st.integers(0, 50_000),
    segment=st.integers(1, 9),
    stops=st.lists(st.integers(1, 26), max_size=4),
    codec=st.sampled_from(["h264", "ffv1"]),
)
def test_wherever_it_breaks_off(
    gaps: list[int], start: int, segment: int, stops: list[int], codec: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    pts = [start + int(x) for x in np.cumsum([0, *gaps])]
    source = make_clip(folder / "a.mp4", pts=pts, time_base=Fraction(1, 15360), width=32, height=32)
    suffix = "mp4" if codec == "h264" else "mkv"
    config = Config(codec, options={"bf": "3"} if codec == "h264" else {}, preset="veryfast" * (codec == "h264"))
    unbroken, broken = place(source, "unbroken", suffix), place(source, "broken", suffix)
    shown = [planes for _, planes in decoded(source)]
    for at, breaks in ((unbroken, []), (broken, stops)):
        for stop in [*breaks, None]:
            decode = Decode()
            clip = replace(decode.open(at.job), segment=segment)
            reports: dict[str, Report] = {}
            frames = chain([decode, Encode(config)], clip, reports)
            for count, frame in enumerate(frames, 1):
                np.testing.assert_array_equal(frame.picture.planes[0], shown[clip.first + frame.index][0])
                if count == stop:
                    break
            del frames
        whole = checkpoints.read(str(at.work))
        assert whole is not None and whole.whole and whole.kept == len(pts)
        assert [one.first for one in whole.segments] == list(range(0, len(pts), segment))
        finished(replace(clip, partial=str(at.target)), reports, finish.Config(config))
    same_pictures(broken.target, unbroken.target)
    base = Fraction(1, 15360 if codec == "h264" else 1000)
    for time, ticks in zip(times(broken.target), pts, strict=True):
        assert abs(time - Fraction(ticks, 15360)) <= (base if codec == "ffv1" else 0)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_stands_behind_each_segment(tmp_path: Path) -> None:
    at = place(make_clip(tmp_path / "a.mp4", frames=30), "b")
    decode = Decode()
    clip = decode.open(at.job)
    assert (clip.segment, clip.first, clip.kept, clip.partial, clip.work) == (12, 0, 0, "", str(at.work))
    kept = []
    for _ in chain([decode, Encode(FAST)], clip):
        kept.append(close_kept(at))
    assert kept == [0] * 12 + [12] * 12 + [24] * 6
    whole = checkpoints.read(str(at.work))
    assert whole is not None and (whole.whole, whole.kept, whole.first) == (True, 30, 30)
    assert [(s.first, s.frames) for s in whole.segments] == [(0, 12), (12, 12), (24, 6)]


def test_a_clip_that_only_has_to_be_joined_is_not_decoded_again(tmp_path: Path) -> None:
    at = place(make_clip(tmp_path / "a.mp4", frames=30), "b")
    go(at)
    clip, reports, numbers = go(at)
    assert numbers == [] and (clip.first, clip.kept) == (30, 30)
    assert reports["decode"] == {} and reports["encode"]["frames"] == 30
    assert close(at)["frames"] == 30


class Remembering:
    """A stage that needs the two frames before a segment to come to its first one."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __call__(self, clip: Clip, frames: Frames) -> Iterator[Frame]:
        self.seen: list[int] = []
        for frame in frames:
            number = clip.first + frame.index
            self.seen.append(number)
            if number % clip.segment == 0 and number:
                checkpoints.save_state(clip.work, "remembering", number, number - 2, {"x": np.arange(3)})
            yield frame
        return {}


def test_a_later_run_begins_where_the_stages_need_it(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=40, audio="aac")
    at, unbroken = place(source, "b"), place(source, "unbroken")
    stage = Remembering()
    for stop, first, kept in ((30, 0, 0), (16, 22, 24), (None, 34, 36)):
        decode = Decode()
        clip = decode.open(at.job)
        assert (clip.first, clip.kept) == (first, kept)
        for count, frame in enumerate(chain([decode, stage, Encode(FAST)], clip), 1):  # type: ignore[list-item]
            assert frame.index == count - 1
            if count == stop:
                break
        assert stage.seen[0] == first
    assert not list(at.work.glob("state.*")), "no checkpoint needs them any more"
    close(at)
    close(unbroken)
    same_pictures(at.target, unbroken.target)


def test_a_checkpoint_that_is_damaged_or_not_true_means_to_begin_anew(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=30)
    unbroken, at = place(source, "unbroken"), place(source, "b")
    close(unbroken)

    def tear(name: str, size: int) -> None:
        path = at.work / name
        path.write_bytes(path.read_bytes()[:size])

    segment = checkpoints.segment_name(12)
    for harm in (
        lambda: tear("checkpoint.json", 40),
        lambda: (at.work / "checkpoint.json").write_bytes(b"\xff\x00"),
        lambda: (at.work / segment).unlink(),
        lambda: tear(segment, 100),
        lambda: tear(checkpoints.segment_name(0), 0),
    ):
        go(at)
        assert close_kept(at) == 30
        harm()
        clip, _, numbers = go(at)
        assert (clip.first, clip.kept, numbers) == (0, 0, list(range(30)))
    close(at)
    same_pictures(at.target, unbroken.target)


def test_what_a_killed_run_left_half_written_goes(tmp_path: Path) -> None:
    at = place(make_clip(tmp_path / "a.mp4", frames=30), "b")
    at.work.mkdir()
    (at.work / ".segment.000000012.packets.4711.part").write_bytes(b"half")
    (at.work / "segment.000000012.packets").write_bytes(b"nobody names it")
    close(at)
    assert left(at.work) == []


def test_a_clip_with_fewer_frames_than_before_has_to_begin_anew(tmp_path: Path) -> None:
    at = place(make_clip(tmp_path / "a.mp4", frames=40), "b")
    go(at, stop=30)
    make_clip(at.source, frames=20)
    with pytest.raises(ResumeError, match=r"a\.mp4 ends before frame 24, where an earlier run broke off"):
        go(at)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_a_full_disk_keeps_what_is_finished(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suffix = "mp4" if codec == "h264" else "mkv"
    at = place(make_clip(tmp_path / "a.mp4", frames=30), "b", suffix)
    config = Config(codec)
    go(at, config, stop=14)
    kept = close_kept(at)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(PublishError, match="no space left on device") as caught:
        patch.setattr("stages.packets.os.fsync", full)
        go(at, config)
    assert caught.value.errno == errno.ENOSPC
    assert kept == close_kept(at) == 12 and left(at.work) == []
    with monkeypatch.context() as patch, pytest.raises(PublishError) as caught:
        patch.setattr("pipeline.checkpoints._replace", lambda *_: full(0))
        go(at, config)
    assert caught.value.errno == errno.ENOSPC and close_kept(at) == 12
    assert close(at, config)["frames"] == 30


def test_a_work_folder_that_cannot_be_made(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4")
    at = Place(source, tmp_path / "none" / "work", tmp_path / "b.mp4")
    with pytest.raises(PublishError, match="work could not be written: no such file") as caught:
        go(at)
    assert caught.value.errno == errno.ENOENT


def test_options_that_the_encoder_refuses(tmp_path: Path) -> None:
    at = place(make_clip(tmp_path / "a.mp4"), "b")
    with pytest.raises(ConfigError, match="libx264 refuses 64x48 yuv420p"):
        go(at, Config(preset="at-leisure"))
    with pytest.raises(ConfigError, match=r"a \.mp4 file cannot hold ffv1"):
        go(at, Config("ffv1"))
    assert [p.name for p in at.work.iterdir()] == []


def test_frames_are_let_go_at_once(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", frames=30)
    contents = []
    for reuse in (False, True):
        at = place(source, f"reuse {reuse}")
        decode = Decode()
        clip = decode.open(at.job)
        for _ in Encode(FAST)(clip, Pulled(_in_one_slot(decode, clip, reuse))):
            pass
        found = checkpoints.read(str(at.work))
        assert found is not None
        contents.append([(at.work / one.file).read_bytes() for one in found.segments])
    assert contents[0] == contents[1]


def _in_one_slot(decode: Decode, clip: Clip, reuse: bool) -> Iterator[Frame]:
    slot: Picture | None = None
    for frame in decode(clip, Pulled([])):
        if not reuse:
            yield owned(frame)
            continue
        slot = slot or owned(frame).picture
        for plane, samples in zip(slot.planes, frame.picture.planes, strict=True):
            plane[:] = samples
        yield frame.with_(picture=slot)
        for plane in slot.planes:
            plane[:] = 77


@pytest.mark.parametrize(
    ("coded", "expected"),
    [([], 0), ([3], 0), ([0, 1, 2], 0), ([0, 2, 1], 1), ([0, 4, 2, 1, 3], 2), ([10, 40, 20, 30], 1)],
)
def test_depth(coded: Sequence[int], expected: int) -> None:
    assert depth(list(coded)) == expected
    shown = sorted(coded)
    assert all(shown[k - expected] <= time for k, time in enumerate(coded) if k >= expected)


def test_packets_come_back_as_they_were(tmp_path: Path) -> None:
    at = place(make_clip(tmp_path / "a.mp4", frames=12), "b")
    go(at)
    path = at.work / checkpoints.segment_name(0)
    reader = PacketReader(path)
    stored = list(reader)
    reader.close()
    assert len(stored) == 12 and stored[0].key and reader.parameters
    assert "bytes)" in repr(stored[0])
    data = path.read_bytes()
    for harm in (data[:-1], data[: len(data) // 2], data[:30], b"", data[:200] + b"\x00\x01" + data[202:]):
        path.write_bytes(harm)
        with pytest.raises(ValueError, match=r"is cut short|is damaged|is no file of packets"):
            _read(path)


def test_a_damaged_length_takes_no_more_memory_than_there_is_file(tmp_path: Path) -> None:
    at = place(make_clip(tmp_path / "a.mp4", frames=12), "b")
    go(at)
    path = at.work / checkpoints.segment_name(0)
    data = path.read_bytes()
    path.write_bytes(data[:21] + b"\xff\xff\xff\x7f" + data[25:])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is cut short"):
            _read(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20


def _read(path: Path) -> None:
    reader = PacketReader(path)
    try:
        for _ in reader:
            pass
    finally:
        reader.close()


def test_the_pixel_format_of_a_segment_is_the_clips(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", pixel_format="yuv420p10le", frames=14)
    at = place(source, "b")
    assert close(at)["pixel_format"] == "yuv420p10le"
    with av.open(str(at.target)) as container:
        assert PIXEL_FORMATS[container.streams.video[0].codec_context.pix_fmt].depth == 10


def test_an_old_checkpoint_is_not_taken_for_another(tmp_path: Path) -> None:
    at = place(make_clip(tmp_path / "a.mp4", frames=30), "b")
    go(at, stop=14)
    decode = Decode()
    clip = decode.open(at.job)
    decode.close()
    checkpoints.write(str(at.work), Checkpoint(0, 0, ()))
    with pytest.raises(ResumeError, match="does not hold any more what it did"):
        next(iter(Encode(FAST)(clip, Pulled([]))))
