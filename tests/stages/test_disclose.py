"""Disclose: both marks in every frame, the same after a break as without one; what an input carries is reported."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config as settings
from pipeline.engine import Engine
from pipeline.errors import ConfigError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.runner import chain
from pipeline.specs import EngineConfig, ProcessSpec, StageSpec
from pipeline.types import Clip, Frame, Job, Picture, Pulled, Report, Stage
from stages import decode, finish, label, watermark
from stages.disclose import Config, Disclose
from stages.encode import Config as EncodeConfig
from stages.watermark import PEAK
from tests.clips import decoded, frames_of, make_clip, owned, picture


@dataclass(frozen=True)
class Settings:
    """What holds the stage's section."""

    disclose: Config = field(default_factory=Config)


OFF = "shown to nobody but us"
PAYLOAD = 0x0123456789AB
YUV = PIXEL_FORMATS["yuv420p"]


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "watermark.key").write_bytes(bytes(range(32)))
    return str(tmp_path / "watermark.key")


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for a mark takes a good part of a second, however short a clip: only those tests do it that ask."""
    if "searching" not in request.fixturenames:
        monkeypatch.setattr("stages.disclose.Finder.found", lambda self, thoroughly: None)


@pytest.fixture
def searching() -> None:
    """Asks `quick` to let the search be what it is."""


def config(key: str = "", *, words: bool = True, **changes: Any) -> Config:
    """Both marks with a key, or only one; `changes` are the label's."""
    reason = "" if words else OFF
    return Config(label.Config(off_because=reason, **changes), watermark.Config("" if key else OFF, key))


def clip_of(format: str = "yuv420p", width: int = 320, height: int = 180, **facts: Any) -> Clip:
    found = PIXEL_FORMATS[format]
    facts = {"rate": Fraction(25), "payload": PAYLOAD, **facts}
    return Clip(1, "", "", "", width, height, found, Fraction(1, 25), **facts)


def run(stage: Disclose, clip: Clip, frames: Iterable[Frame]) -> tuple[list[Picture], Report]:
    """The marked pictures of copies of the frames, and the report."""
    made = stage(clip, Pulled([owned(frame) for frame in frames]))
    found: list[Picture] = []
    while True:
        try:
            found.append(next(made).picture)
        except StopIteration as stop:
            return found, stop.value


def numbered(clip: Clip, count: int, first: int = 0, begins: int = 0) -> list[Frame]:
    """The file's frames from `first` on, as a run that goes on there gets them."""
    pictures = [picture(clip.pixel_format, clip.width, clip.height, n) for n in range(first, count)]
    return frames_of(clip, pictures, [begins + n for n in range(first, count)])


def same(a: Picture, b: Picture) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a.planes, b.planes, strict=True))


def test_it_is_a_stage_that_needs_no_face(key: str) -> None:
    stage = Disclose(config(key))
    assert isinstance(stage, Stage)
    assert stage.needs == stage.gives == frozenset() and not stage.stateless


@pytest.mark.parametrize("begins", [0, 90_000, -90_000])
def test_both_marks_and_what_is_said_of_them(begins: int, key: str) -> None:
    clip = clip_of(begins=begins)
    frames = numbered(clip, 120, begins=begins)
    marked, report = run(Disclose(config(key)), clip, frames)
    assert report == {
        "payload": "0123456789ab",
        "watermark": 1,
        "label": 1,
        "label_text": "AI-generated: face replaced",
    }
    change = [np.abs(m.planes[0].astype(int) - f.picture.planes[0]) for m, f in zip(marked, frames, strict=True)]
    assert all(one[: 180 // 2].max() in range(1, PEAK + 1) for one in change)  # the watermark alone
    labelled = [one[180 // 2 :].max() > 20 for one in change]
    assert labelled == [n / 25 <= 4.0 for n in range(120)]


def test_with_both_off_every_sample_stays(tmp_path: Path) -> None:
    clip = clip_of("yuv422p10le")
    frames = numbered(clip, 3)
    marked, report = run(Disclose(config(words=False)), clip, frames)
    assert all(same(m, f.picture) for m, f in zip(marked, frames, strict=True))
    assert report == {
        "payload": "0123456789ab",
        "watermark": 0,
        "label": 0,
        "watermark_off_because": OFF,
        "label_off_because": OFF,
    }


def test_the_watermark_alone_leaves_chroma(key: str) -> None:
    clip = clip_of("yuv420p10le")
    frames = numbered(clip, 2)
    marked, report = run(Disclose(config(key, words=False)), clip, frames)
    for one, frame in zip(marked, frames, strict=True):
        assert 0 < np.abs(one.planes[0].astype(int) - frame.picture.planes[0]).max() <= PEAK * 4
        assert all(np.array_equal(one.planes[k], frame.picture.planes[k]) for k in (1, 2))
    assert report["label_off_because"] == OFF and report["watermark"] == 1


@pytest.mark.parametrize("format", list(PIXEL_FORMATS))
@pytest.mark.parametrize("size", [(1, 1), (33, 17), (96, 64)])
def test_odd_pictures_fail_nothing(format: str, size: tuple[int, int], key: str) -> None:
    clip = clip_of(format, *size)
    frames = [frame.with_(damaged=True) for frame in numbered(clip, 2)]
    marked, _ = run(Disclose(config(key)), clip, frames)
    assert len(marked) == 2


@hypothesis.settings(max_examples=20)
@given(first=st.integers(0, 15), begins=st.sampled_from([0, -5, 1000, 10**9]), place=st.sampled_from(["top", "bottom"]))
def test_a_clip_that_is_gone_on_with_carries_the_very_same_marks(
    first: int, begins: int, place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("key") / "watermark.key"
    file.write_bytes(bytes(range(32)))
    stage = Disclose(config(str(file), seconds=2.0, place=place))
    clip = replace(clip_of(width=96, height=64, begins=begins), time_base=Fraction(1, 5))
    whole, _ = run(stage, clip, numbered(clip, 16, begins=begins))
    rest, _ = run(stage, replace(clip, first=first), numbered(clip, 16, first, begins))
    assert len(rest) == 16 - first
    assert all(same(a, b) for a, b in zip(whole[first:], rest, strict=True))


def test_a_watermark_in_the_input_is_reported_and_stays_under_ours(key: str, searching: None) -> None:
    clip = clip_of(width=640, height=360)
    first, _ = run(Disclose(config(key, words=False)), clip, numbered(clip, 10))
    again = replace(clip, payload=77)
    frames = frames_of(again, first)
    _, report = run(Disclose(config(key)), again, frames)
    assert report["found_payload"] == "0123456789ab" and float(report["found_confidence"]) > 0.99
    assert report["payload"] == "00000000004d"
    silent = Config(label.Config(off_because=OFF), watermark.Config(OFF, key))
    same_frames, seen = run(Disclose(silent), again, frames)
    assert seen["found_payload"] == "0123456789ab" and same(same_frames[0], first[0])


def test_what_the_search_costs_is_bounded(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr("stages.disclose.Finder.look", lambda self, luma, aspect: looked.append(int(luma[0, 0])))
    clip = clip_of("gray", 8, 8)
    flat = [Picture(clip.pixel_format, 8, 8, (np.full((8, 8), n % 256, np.uint8),)) for n in range(500)]
    run(Disclose(config(key)), clip, frames_of(clip, flat))
    assert looked == [n % 256 for n in range(0, 96, 8)]
    looked.clear()
    run(Disclose(config(key)), replace(clip, first=13), frames_of(clip, flat[13:40]))
    assert looked == [16, 24, 32]


def test_without_a_payload_there_is_nothing_to_say(key: str) -> None:
    clip = clip_of(payload=0)
    marked, report = run(Disclose(config(key, words=False)), clip, numbered(clip, 1))
    assert same(marked[0], numbered(clip, 1)[0].picture)
    assert report["watermark"] == 0 and report["watermark_off_because"] == "the clip has no payload"
    assert "payload" not in report


@pytest.mark.parametrize("content", [None, b"", b"x" * 31, b"x" * 33])
def test_a_key_that_is_none_says_what_mends_it(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "watermark.key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"watermark\.key.*; understudy provenance init makes"):
        Disclose(config(str(file)))
    with pytest.raises(ConfigError, match="understudy provenance init"):
        Disclose(Config())
    with pytest.raises(ConfigError, match="understudy provenance init"):
        Disclose(config(os.fspath(tmp_path)))


def test_a_text_that_cannot_be_written_is_refused_before_any_frame(key: str) -> None:
    with pytest.raises(ConfigError, match=r"set disclose\.label\.font"):
        Disclose(config(key, text="人工智能生成"))


@pytest.mark.parametrize("mark", ["label", "watermark"])
@pytest.mark.parametrize("reason", ["no", "because", "a b", "two\nlines of it", "   ", "x " * 200])
def test_a_reason_has_to_be_one(mark: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^disclose\.{mark}\.off_because must") as caught:
        settings.apply(Settings(), {"disclose": {mark: {"off_because": reason}}}, tmp_path)
    assert "\n" not in str(caught.value)
    stated = settings.apply(Config(), {mark: {"off_because": "credits say it"}}, tmp_path)
    assert getattr(stated, mark).off_because == "credits say it"


@pytest.mark.parametrize("table", [(("decode", "disclose"), ("encode",)), (("decode",), ("disclose",), ("encode",))])
def test_processes_make_what_one_process_makes(table: tuple[tuple[str, ...], ...], key: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", width=96, height=64, frames=12)
    coding = EncodeConfig("ffv1")
    specs = (
        StageSpec("decode", "stages.decode:Decode", decode.Config()),
        StageSpec("disclose", "stages.disclose:Disclose", config(key)),
        StageSpec("encode", "stages.encode:Encode", coding),
    )
    job = Job(1, str(source), str(tmp_path / "b.mkv"))
    processes = tuple(ProcessSpec(names) for names in table)
    finisher = StageSpec("publish", "stages.finish:Finish", finish.Config(coding))
    with Engine(specs, EngineConfig(processes=processes, ring_mb=8, scratch_kb=64), finisher) as engine:
        (outcome,) = engine.run([job])
    assert outcome.failure is None, outcome.failure
    assert outcome.reports["disclose"]["watermark"] == outcome.reports["disclose"]["label"] == 1
    source_stage = decode.Decode()
    clip = source_stage.open(job)
    expected = [owned(frame).picture for frame in chain([source_stage, Disclose(config(key))], clip)]
    for (_, rows), one in zip(decoded(tmp_path / "b.mkv"), expected, strict=True):
        assert all(np.array_equal(row, plane) for row, plane in zip(rows, one.planes, strict=True))
