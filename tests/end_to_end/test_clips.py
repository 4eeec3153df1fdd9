"""Whole clips through the engine's six processes: what has to stay as it was, and what has to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline import app
from pipeline.engine import Engine
from pipeline.specs import Outcome
from pipeline.types import Job
from tests.clips import decoded, packets
from tests.end_to_end.footage import FACE, film, random_model, seen
from tests.unmarked import unmarked

Convert = Callable[[Path, Path], Outcome]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model"))


def converter(model: Path, codec: str) -> Iterator[Convert]:
    defaults = app.Settings()
    settings = unmarked(replace(defaults, model=model, encode=replace(defaults.encode, codec=codec)))
    count = 0
    with app.engine(settings, app.stage_specs(settings)) as engine:

        def convert(source: Path, target: Path) -> Outcome:
            nonlocal count
            count += 1
            (outcome,) = engine.run([Job(count, str(source), str(target))])
            assert outcome.ok, outcome.failure
            assert target.exists()
            assert not list(target.parent.glob(".*.part")), "nothing half-written is left"
            return outcome

        yield convert


@pytest.fixture(scope="module")
def lossless(model: Path) -> Iterator[Convert]:
    yield from converter(model, "ffv1")


@pytest.fixture(scope="module")
def ordinary(model: Path) -> Iterator[Convert]:
    yield from converter(model, "h264")


def changed(before: Path, after: Path) -> tuple[np.ndarray, float]:
    """Where the first planes of two clips differ in any frame, and the part of all samples that differ."""
    pairs = list(zip(decoded(before), decoded(after), strict=True))
    where = np.any([a[1][0] != b[1][0] for a, b in pairs], axis=0)
    total = sum(plane.size for _, planes in decoded(before) for plane in planes)
    differ = sum(int(np.sum(x != y)) for a, b in pairs for x, y in zip(a[1], b[1], strict=True))
    return where, differ / total


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "yuv444p", "gbrp10le", "yuv420p10le"])
def test_outside_the_face_every_bit_stays(pixel_format: str, lossless: Convert, tmp_path: Path) -> None:
    source = film(tmp_path / "in.mkv", 322, 242, pixel_format=pixel_format, codec="ffv1", frames=4)
    outcome = lossless(source, tmp_path / "out.mkv")
    assert outcome.reports["detect"]["faces"] == 4
    assert [pts for pts, _ in decoded(tmp_path / "out.mkv")] == [pts for pts, _ in decoded(source)]
    where, part = changed(source, tmp_path / "out.mkv")
    assert 0.01 < part < 0.25, "the face changed, and nothing but the face"
    depth = 2 if pixel_format.endswith("le") else 1
    rows, columns = np.nonzero(where)
    side, left, top = 0.9 * 242, (322 - 0.9 * 242) / 2, 0.05 * 242
    x0, y0, x1, y1 = (FACE[i] * side + (left, top)[i % 2] for i in range(4))
    margin = 0.6 * (x1 - x0)
    assert x0 - margin < columns.min() / depth and columns.max() / depth < x1 + margin
    assert y0 - margin < rows.min() and rows.max() < y1 + margin
    assert where[int((y0 + y1) / 2), int((x0 + x1) / 2) * depth]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "yuv444p", "nv12", "gray"])
def test_a_clip_without_faces_comes_out_as_it_went_in(pixel_format: str, lossless: Convert, tmp_path: Path) -> None:
    codec = "rawvideo" if pixel_format == "nv12" else "ffv1"
    source = film(tmp_path / "in.mkv", 96, 66, pixel_format=pixel_format, codec=codec, face=False)
    outcome = lossless(source, tmp_path / "out.mkv")
    assert outcome.reports["detect"]["faces"] == 0
    if pixel_format != "nv12":  # FFV1 has no NV12; the same samples come out as yuv420p
        assert changed(source, tmp_path / "out.mkv")[1] == 0


@pytest.mark.parametrize("matrix", ["90", "180", "270", "mirrored", "flipped"])
def test_phone_clips_come_out_upright_with_the_swap_in_place(matrix: str, lossless: Convert, tmp_path: Path) -> None:
    exact = {"pixel_format": "yuv444p", "codec": "libx264", "options": {"preset": "ultrafast", "qp": "0"}, "frames": 3}
    plain = film(tmp_path / "plain.mov", 320, 256, **exact)  # type: ignore[arg-type]
    turned = film(tmp_path / "turned.mov", 320, 256, matrix=matrix, **exact)  # type: ignore[arg-type]
    lossless(plain, tmp_path / "plain_out.mkv")
    lossless(turned, tmp_path / "turned_out.mkv")
    want, got = seen(tmp_path / "plain_out.mkv"), seen(tmp_path / "turned_out.mkv", matrix)
    before = seen(plain)
    for a, b, original in zip(want, got, before, strict=True):
        swapped = a != original
        assert swapped.sum() > 1000
        off = np.abs(a.astype(int) - b.astype(int))
        # the same face is found in pictures that are turned, but not to the last digit
        assert off[swapped].mean() < 6, off[swapped].mean()
        assert off[~swapped].mean() < 0.5
    with av.open(str(tmp_path / "turned_out.mkv")) as out, av.open(str(turned)) as source:
        ours, theirs = next(out.decode(video=0)), next(source.decode(video=0))
        assert (ours.width, ours.height) == (theirs.width, theirs.height)
        assert [bytes(d) for d in ours.side_data if d.type.name == "DISPLAYMATRIX"] == [
            bytes(d) for d in theirs.side_data if d.type.name == "DISPLAYMATRIX"
        ]


def test_variable_frame_rate_keeps_each_timestamp(ordinary: Convert, tmp_path: Path) -> None:
    pts = [0, 40, 41, 120, 121, 300, 333, 400, 1000, 1016]
    more = {"pts": pts, "time_base": Fraction(1, 1000), "audio": "aac"}
    source = film(tmp_path / "in.mp4", 128, 96, frames=10, **more)  # type: ignore[arg-type]
    ordinary(source, tmp_path / "out.mp4")
    times = [[float(t) for t, _ in sorted(packets(tmp_path / name, "video"))] for name in ("in.mp4", "out.mp4")]
    assert times[0] == times[1] == [tick / 1000 for tick in pts]


def test_sixty_frames_a_second_stay_sixty(ordinary: Convert, tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", 128, 96, frames=30, rate=60)
    ordinary(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        stream = out.streams.video[0]
        assert (stream.average_rate, stream.frames) == (60, 30)
        assert [f.pts * stream.time_base for f in out.decode(video=0)] == [Fraction(i, 60) for i in range(30)]


@pytest.mark.parametrize(("width", "height"), [(1918, 1078), (640, 482), (66, 50)])
def test_sizes_that_tools_round_stay(width: int, height: int, lossless: Convert, tmp_path: Path) -> None:
    face = width > 100
    source = film(tmp_path / "in.mkv", width, height, codec="ffv1", frames=2, face=face)
    lossless(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as out:
        assert (out.streams.video[0].width, out.streams.video[0].height) == (width, height)
    part = changed(source, tmp_path / "out.mkv")[1]
    assert 0.001 < part < 0.2 if face else part == 0


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_sound_subtitles_chapters_and_names_travel(container: str, ordinary: Convert, tmp_path: Path) -> None:
    source = film(
        tmp_path / f"in.{container}",
        160,
        120,
        frames=25,
        rate=25,
        audio="aac",
        audio_seconds=1.3,
        subtitles={"mp4": "mov_text", "mkv": "srt"}[container],
        chapters=[{"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}],
        metadata={"title": "A title", "artist": "Somebody"},
        sar=Fraction(4, 3),
    )
    target = tmp_path / f"out.{container}"
    ordinary(source, target)
    for kind in ("audio", "subtitle"):
        # MP4 fills the time between two subtitles with empty ones, which the muxer makes anew
        told = [packet for packet in packets(source, kind) if packet[1] != b"\0\0"]
        assert told
        assert [packet for packet in packets(target, kind) if packet[1] != b"\0\0"] == told
    with av.open(str(target)) as out, av.open(str(source)) as was:
        assert [c["metadata"] for c in out.chapters()] == [{"title": "one"}]
        assert out.metadata["title"] == "A title"
        assert out.streams.video[0].codec_context.sample_aspect_ratio == Fraction(4, 3)
        lengths = [sum(p.duration or 0 for p in c.demux(c.streams.audio[0])) for c in (out, was)]
        assert lengths[0] == lengths[1] > 0


@pytest.mark.parametrize("name", ["sign_again.mkv", "stage_cuts_audio.mp4", "head_pose_both.gif"])
@pytest.mark.slow
def test_real_clips_lose_no_frame_and_no_sound(name: str, media: Path, ordinary: Convert, tmp_path: Path) -> None:
    target = tmp_path / f"{name.split('.', maxsplit=1)[0]}.mp4"
    outcome = ordinary(media / name, target)
    assert outcome.frames == len(decoded(media / name))
    assert len(packets(target, "video")) == outcome.frames
    assert [data for _, data in packets(target, "audio")] == [data for _, data in packets(media / name, "audio")]


def test_inline_and_processes_agree(model: Path, lossless: Convert, tmp_path: Path) -> None:
    from pipeline.runner import inline

    source = film(tmp_path / "in.mkv", codec="ffv1", frames=11)
    lossless(source, tmp_path / "processes.mkv")
    defaults = app.Settings()
    settings = unmarked(replace(defaults, model=model, encode=replace(defaults.encode, codec="ffv1")))
    stages = [spec.build() for spec in app.stage_specs(settings)]
    outcome = inline(stages, Job(1, str(source), str(tmp_path / "inline.mkv")))
    assert outcome.ok, outcome.failure
    assert changed(tmp_path / "inline.mkv", tmp_path / "processes.mkv")[1] == 0


def test_more_detecting_and_blending_workers_change_nothing(model: Path, lossless: Convert, tmp_path: Path) -> None:
    from pipeline.specs import ProcessSpec

    source = film(tmp_path / "in.mkv", codec="ffv1", frames=11)
    lossless(source, tmp_path / "one.mkv")
    defaults = app.Settings()
    groups = [(("decode",), 1), (("detect",), 2), (("align",), 1), (("mask",), 1), (("swap",), 1), (("blend",), 3)]
    table = tuple(ProcessSpec(stages, workers) for stages, workers in [*groups, (("encode",), 1)])
    settings = replace(
        unmarked(defaults),
        model=model,
        encode=replace(defaults.encode, codec="ffv1"),
        engine=replace(defaults.engine, processes=table),
    )
    with app.engine(settings, app.stage_specs(settings)) as engine:
        assert isinstance(engine, Engine)
        (outcome,) = engine.run([Job(1, str(source), str(tmp_path / "many.mkv"))])
    assert outcome.ok, outcome.failure
    assert changed(tmp_path / "one.mkv", tmp_path / "many.mkv")[1] == 0
