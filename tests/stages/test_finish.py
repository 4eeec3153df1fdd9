"""Finish: what is published has been looked at; what is not what it should be is not published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline import checkpoints
from pipeline.checkpoints import Checkpoint
from pipeline.errors import ConfigError, InputError, PublishError, ResumeError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.runner import chain
from pipeline.types import Clip, Job, Report
from stages.decode import Decode
from stages.encode import Config as EncodeConfig
from stages.encode import Encode
from stages.finish import Config, Finish
from stages.packets import PacketReader
from tests.clips import MATRICES, decoded, make_clip, picture

FAST = EncodeConfig(preset="veryfast", options={"bf": "3"})
Made = tuple[Clip, dict[str, Report]]


def made(source: Path, work: bool = False, suffix: str = "mp4", config: EncodeConfig = FAST) -> Made:
    """The clip as it comes to the door."""
    target = source.with_name(f"b.{suffix}")
    folder = source.with_name("work")
    decode = Decode()
    clip = decode.open(Job(3, str(source), str(target), str(folder) if work else "", 0.4))
    reports: dict[str, Report] = {}
    for _ in chain([decode, Encode(config)], clip, reports):
        pass
    return replace(clip, partial=clip.partial or str(target.with_name(".partial"))), reports


def finished(one: Made, config: Config | None = None, pulse: Callable[[int, int | None], None] | None = None) -> Report:
    clip, reports = one
    finisher, heard = Finish(config or Config(FAST)), pulse or (lambda *_: None)
    return finisher.make(clip, reports, heard) | finisher.check(clip, heard)


# --- what it says -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["decode", "packets"])
@pytest.mark.parametrize("work", [False, True])
def test_it_says_what_is_in_the_file(work: bool, verify: str, tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4", frames=30, audio="aac"), work)
    report = finished((clip, reports), Config(FAST, verify=verify))
    assert report == {
        "codec": "libx264",
        "pixel_format": "yuv420p",
        "copied": "audio aac",
        "frames": 30,
        "bytes": Path(clip.partial).stat().st_size,
        "duration_s": pytest.approx(29 / 30, abs=1e-5),
    }


def test_what_the_container_has_no_place_for_is_said(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", sar=Fraction(4, 3), frames=3, width=64, height=64)
    config = EncodeConfig("av1", preset="12")
    report = finished(made(source, suffix="mkv", config=config), Config(config))
    assert report["lost_aspect_ratio"] == "4/3"


@pytest.mark.parametrize("verify", ["decode", "packets"])
@pytest.mark.parametrize("work", [False, True])
def test_it_tells_how_far_it_is(work: bool, verify: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.finish._PULSE_S", 0.0)
    told: list[tuple[int, int | None]] = []
    config = Config(FAST, verify=verify)
    finished(made(make_clip(tmp_path / "a.mp4", frames=30), work), config, lambda *said: told.append(said))
    done = [step for step, _ in told]
    assert done == sorted(done) and {total for _, total in told} == {60 if work else 30}
    assert len(told) >= (59 if work else 30)


def test_a_clip_that_another_run_made_is_joined_without_its_reports(tmp_path: Path) -> None:
    clip, _ = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    assert finished((clip, {}))["frames"] == 30


@pytest.mark.parametrize("settings", [{"verify": "hope"}, {"threads": -1}])
def test_settings_out_of_range(settings: dict) -> None:
    with pytest.raises(ConfigError):
        Config(**settings)


# --- what it refuses --------------------------------------------------------------------------------------------------


def refusal(one: Made, kind: type[Exception] = PublishError, config: Config | None = None) -> str:
    clip, _ = one
    with pytest.raises(kind) as caught:
        finished(one, config)
    assert not Path(clip.partial).exists()
    message = str(caught.value)
    assert clip.target in message and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=60, width=160, height=120), suffix=suffix)
    partial = Path(one[0].partial)
    partial.write_bytes(partial.read_bytes()[: int(share * partial.stat().st_size)])
    assert "after writing" in refusal(one)


@pytest.mark.parametrize(
    ("codec", "suffix", "says"),
    [
        ("h264", "mp4", "could not be read back after writing"),
        ("prores", "mov", "picture 5 is damaged after writing"),
        ("ffv1", "mkv", "after writing"),
    ],
)
def test_a_picture_that_cannot_be_decoded_is_refused(codec: str, suffix: str, says: str, tmp_path: Path) -> None:
    config = EncodeConfig(codec)
    one = made(make_clip(tmp_path / "a.mp4", frames=12, width=160, height=128), suffix=suffix, config=config)
    partial = Path(one[0].partial)
    with av.open(str(partial)) as container:
        at, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][5]
    assert at is not None
    data = partial.read_bytes()
    other = bytes(size // 3) if codec == "h264" else bytes(byte ^ 0xFF for byte in data[at + size // 3 :][: size // 3])
    harmed = data[: at + size // 3] + other + data[at + size // 3 + len(other) :]
    partial.write_bytes(harmed)
    assert says in refusal(one)
    partial.write_bytes(harmed)
    assert finished(one, Config(config, verify="packets"))["frames"] == 12, "that is not its business"


def test_missing_pictures_are_noticed(tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4"))
    reports["encode"]["frames"] = 13
    assert "holds 12 pictures after writing, but 13 went in" in refusal((clip, reports))


def test_another_length_is_noticed(tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4"))
    reports["encode"]["span_s"] = 0.5
    assert "lasts 0.367 s after writing, but 0.500 s went in" in refusal((clip, reports))


def test_a_picture_at_another_time_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    real = PacketReader.__iter__

    def moved(self: PacketReader):
        for stored in real(self):
            yield replace(stored, pts=stored.pts + 3 * (stored.pts == 7 * 512))

    from stages import joining

    join = joining.join

    def and_then(*given: object) -> tuple[Report, list[int]]:
        facts, times = join(*given)  # type: ignore[arg-type]
        return facts, [time - 3 * (time == 7 * 512 + 3) for time in times]

    monkeypatch.setattr(PacketReader, "__iter__", moved)
    monkeypatch.setattr("stages.finish.join", and_then)
    assert "picture 7 is shown 0.000 s late after writing" in refusal(one)


def test_no_file_at_all(tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4"))
    Path(clip.partial).unlink()
    assert "could not be read back after writing" in refusal((clip, reports))


# --- segments that are not what they should be ------------------------------------------------------------------------


def test_a_clip_that_is_not_whole_is_not_joined(tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    whole = checkpoints.read(clip.work)
    assert whole is not None
    checkpoints.write(clip.work, Checkpoint(24, 24, whole.segments[:2]))
    assert "does not hold the whole clip" in refusal((clip, reports), ResumeError)
    (Path(clip.work) / "checkpoint.json").unlink()
    assert "does not hold the whole clip" in refusal((clip, reports), ResumeError)


def test_segments_with_other_settings_are_not_joined(tmp_path: Path) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    other = Config(EncodeConfig(preset="ultrafast"))
    assert "was encoded with other settings or on another machine" in refusal(one, ResumeError, other)


@pytest.mark.parametrize("number", [0, 12, 24])
def test_a_segment_whose_bytes_have_changed_is_not_joined(number: int, tmp_path: Path) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    path = Path(one[0].work) / checkpoints.segment_name(number)
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x10
    path.write_bytes(bytes(data))
    assert path.name in refusal(one, ResumeError)


def test_a_segment_with_fewer_pictures_than_it_should_have_is_not_joined(tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    whole, path = checkpoints.read(clip.work), Path(clip.work) / checkpoints.segment_name(24)
    assert whole is not None
    with closing(PacketReader(path)) as reader:
        last = list(reader)[-1]
    data = path.read_bytes()[: -len(last.data) - 25]
    path.write_bytes(data)
    segments = (*whole.segments[:2], replace(whole.segments[2], nbytes=len(data)))
    checkpoints.write(clip.work, replace(whole, segments=segments))
    assert "holds 5 pictures, not 6" in refusal((clip, reports), ResumeError)


def test_a_segment_in_the_place_of_another_is_not_joined(tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    work, whole = Path(clip.work), checkpoints.read(clip.work)
    assert whole is not None
    data = (work / checkpoints.segment_name(0)).read_bytes()
    (work / checkpoints.segment_name(12)).write_bytes(data)
    segments = (whole.segments[0], replace(whole.segments[1], nbytes=len(data)), whole.segments[2])
    checkpoints.write(clip.work, replace(whole, segments=segments))
    assert "packet 12 is out of time" in refusal((clip, reports), ResumeError)


def test_a_depth_that_is_too_small_is_noticed(tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    whole = checkpoints.read(clip.work)
    assert whole is not None and max(segment.depth for segment in whole.segments) >= 1
    segments = tuple(replace(segment, depth=0) for segment in whole.segments)
    checkpoints.write(clip.work, replace(whole, segments=segments))
    assert "is out of time" in refusal((clip, reports), ResumeError)


def test_a_source_that_is_gone(tmp_path: Path) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=30), work=True)
    Path(one[0].source).unlink()
    with pytest.raises(InputError, match=r"a\.mp4 does not exist"):
        finished(one)


def test_a_full_disk_while_joining(tmp_path: Path) -> None:
    clip, reports = made(make_clip(tmp_path / "a.mp4", frames=30, width=640, height=480), work=True)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PublishError, match="no space left") as caught:
        patch.setattr("stages.finish.discard", lambda _: None)
        finished((replace(clip, partial="/dev/full"), reports))
    assert caught.value.errno == 28


# --- contact sheets ---------------------------------------------------------------------------------------------------


def sheet(path: Path) -> np.ndarray:
    read = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert read is not None
    return read[..., ::-1]


@pytest.mark.parametrize("work", [False, True])
def test_a_sheet_shows_before_and_after(work: bool, tmp_path: Path) -> None:
    shown = [picture(PIXEL_FORMATS["yuv420p"], 160, 120, 0) for _ in range(30)]
    for index, one in enumerate(shown):
        one.planes[0][:] = 20 + 7 * index
        for plane in one.planes[1:]:
            plane[:] = 128
    source = make_clip(tmp_path / "a.mp4", pictures=shown, display_matrix=MATRICES["90"], options={"qp": "4"})
    one = made(source, work)
    (tmp_path / "sheets").mkdir()
    report = finished(one, Config(FAST, sheets=str(tmp_path / "sheets")))
    assert "sheet_failed" not in report
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["3.jpg"]
    looked = sheet(tmp_path / "sheets" / "3.jpg")
    wide = round(90 * 120 / 160)  # it stands upright
    assert looked.shape == (2 * 94 + 4, 6 * (wide + 4) + 4, 3)
    for column, index in enumerate(np.linspace(0, 29, 6).round().astype(int)):
        x = 4 + column * (wide + 4) + wide // 2
        level = ((20 + 7 * index) - 16) * 255 / 219
        for y in (49, 143):
            assert looked[y, x].mean() == pytest.approx(min(level, 255), abs=6)


def test_a_sheet_of_a_clip_whose_source_cannot_be_sought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=30))
    monkeypatch.setattr("stages.moments._FAR", -1)
    finished(one, Config(FAST, sheets=str(tmp_path)))
    looked = sheet(tmp_path / "3.jpg")
    assert looked[10:80, 140:230].min() > 240 and looked[110:180, 140:230].mean() < 200


def test_a_sheet_that_cannot_be_written_fails_no_clip(tmp_path: Path) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=30))
    report = finished(one, Config(FAST, sheets=str(tmp_path / "none")))
    assert report["frames"] == 30 and "3.jpg could not be written" in str(report["sheet_failed"])
    assert Path(one[0].partial).exists()


def test_a_clip_of_one_frame_has_a_sheet_of_one(tmp_path: Path) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=1))
    finished(one, Config(FAST, sheets=str(tmp_path)))
    assert sheet(tmp_path / "3.jpg").shape == (192, 128, 3)


def test_pictures_stay_what_the_segments_hold(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", frames=30)
    clip, reports = made(source, work=True, suffix="mkv", config=EncodeConfig("ffv1"))
    finished((clip, reports), Config(EncodeConfig("ffv1"), threads=0))
    for (_, got), (_, expected) in zip(decoded(Path(clip.partial)), decoded(source), strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    with av.open(clip.partial) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"


def test_so_many_of_the_newest_sheets_are_kept(tmp_path: Path) -> None:
    one = made(make_clip(tmp_path / "a.mp4", frames=4))
    sheets = tmp_path / "sheets"
    sheets.mkdir()
    for name in ("1.jpg", "2.jpg", "10.jpg", "note.txt", "mine.jpg"):
        (sheets / name).write_bytes(b"")
    finished(one, Config(FAST, sheets=str(sheets), sheets_kept=2))
    assert sorted(path.name for path in sheets.iterdir()) == ["10.jpg", "3.jpg", "mine.jpg", "note.txt"]
