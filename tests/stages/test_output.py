"""Output: a header, packets from wherever, everything that travels along; nothing open afterwards."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, PublishError
from pipeline.runner import chain
from pipeline.types import Clip, Job
from stages.codecs import CODECS
from stages.decode import Decode
from stages.encoder import Config, Encoding
from stages.output import Output
from tests.clips import make_clip, owned, packets


def clip_of(source: Path, suffix: str = "mp4") -> Clip:
    decode = Decode()
    clip = decode.open(Job(1, str(source), str(source.with_name(f"b.{suffix}"))))
    decode.close()
    return replace(clip, partial=str(source.with_name(".b.part")))


@pytest.mark.parametrize(("codec", "suffix"), [("h264", "mp4"), ("hevc", "mkv"), ("prores", "mov"), ("ffv1", "mkv")])
def test_packets_of_an_encoder_elsewhere_fit_the_header(codec: str, suffix: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", audio="aac", frames=8)
    clip, config = clip_of(source, suffix), Config(codec)
    decode = Decode()
    decode.open(Job(1, str(source), clip.target))
    alone = Encoding(clip, config).alone()
    with closing(Output(clip, config)) as output:
        assert alone.parameters == output.encoder.parameters
        made = [packet for frame in chain([decode], clip) for packet in alone.encode(owned(frame))]
        made += list(alone.flush())
        payload = [bytes(packet) for packet in made]
        for packet in made:
            output.mux(packet)
        report = output.finish()
    assert report["codec"] == CODECS[codec].encoder and report["copied"] == "audio aac"
    assert [data for _, data in packets(Path(clip.partial), "audio")] == [d for _, d in packets(source, "audio")]
    stored = [data for _, data in packets(Path(clip.partial), "video")]
    if codec in ("prores", "ffv1"):
        assert stored == payload
    assert len(stored) == 8


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    clip = clip_of(make_clip(tmp_path / "a.mp4"))
    with pytest.raises(PublishError, match=r"b\.mp4 could not be written: no such file") as caught:
        Output(replace(clip, partial=str(tmp_path / "none" / "b")), Config())
    assert caught.value.errno == 2


def test_what_the_encoder_refuses_leaves_nothing_open(tmp_path: Path) -> None:
    clip = clip_of(make_clip(tmp_path / "a.mp4", audio="aac"))
    with pytest.raises(ConfigError, match="libx264 refuses 64x48 yuv420p with these options"):
        Output(clip, Config(preset="at-leisure"))


def test_what_is_not_finished_can_be_closed(tmp_path: Path) -> None:
    clip = clip_of(make_clip(tmp_path / "a.mp4", audio="aac"))
    output = Output(clip, Config())
    output.close()
    output.close()


def test_lists_of_an_encoders_parameters_add_up() -> None:
    found = CODECS["hevc"].options("", None)
    assert found["x265-params"] == "log-level=error"


@pytest.mark.parametrize("given", [{}, {"x265-params": "bframes=0"}])
def test_our_parameters_stay_with_the_users(given: dict[str, str], tmp_path: Path) -> None:
    clip = clip_of(make_clip(tmp_path / "a.mp4"))
    said = Encoding(clip, Config("hevc", options=given)).alone().parameters
    assert (b"bframes=0" in said) == bool(given)
