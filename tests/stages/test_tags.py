"""Tags: what a result says of itself comes back from every container, and an input's own marks stay."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config
from pipeline.app import FIXED, Settings
from pipeline.errors import ConfigError
from pipeline.runner import chain
from pipeline.types import Clip, Job, Report
from stages import encode, finish, tags
from stages.decode import Decode
from stages.encode import Encode
from stages.finish import Finish
from stages.output import Output
from stages.tags import AIGC, COMMENT, SOURCE_TYPE, Config, Found
from tests.clips import make_clip

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SWAP = Config(IPTC + "compositeWithTrainedAlgorithmicMedia", 'Ärzte "ohne" Grenzen')
PAYLOAD = 0x00A1B2C3D4E5


def clip_of(source: Path, suffix: str = "mp4", work: str = "") -> Clip:
    decode = Decode()
    clip = decode.open(Job(1, str(source), str(source.with_name(f"b.{suffix}")), work, 0.2))
    decode.close()
    return replace(clip, partial=str(source.with_name(f".b.part.{suffix}")), payload=PAYLOAD)


def convert(source: Path, how: encode.Config, suffix: str = "mp4", work: str = "") -> tuple[dict[str, str], Report]:
    """What the finished file's container says, and the report."""
    decode = Decode()
    opened = decode.open(Job(1, str(source), str(source.with_name(f"b.{suffix}")), work, 0.2))
    clip = replace(opened, partial=str(source.with_name(f".b.part.{suffix}")), payload=PAYLOAD)
    reports: dict[str, Report] = {}
    for _ in chain([decode, Encode(how)], clip, reports):
        pass
    report = Finish(finish.Config(how)).make(clip, reports, lambda done, total: None)
    with av.open(clip.partial) as container:
        return dict(container.metadata), report


CONTAINERS = [("mp4", "h264"), ("m4v", "h264"), ("mov", "h264"), ("mkv", "ffv1"), ("webm", "av1"), ("nut", "ffv1")]


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_every_container_gives_them_back(suffix: str, codec: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=3, metadata={"title": "Tea"})
    said, report = convert(source, encode.Config(codec, tags=SWAP), suffix)
    found = tags.read(said)
    assert found.source_type == SWAP.source_type
    assert found.fields == dict.fromkeys(tags.FIELDS, "") | {
        "Label": "1",
        "ContentProducer": SWAP.producer,
        "ProduceID": "00a1b2c3d4e5",
    }
    folded = {key.casefold(): value for key, value in said.items()}
    assert "artificial intelligence" in folded[COMMENT] and folded["title"] == "Tea"
    assert "input_aigc" not in report


def test_ffprobe_shows_them_in_mp4(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=3)
    said, _ = convert(source, encode.Config(tags=SWAP))
    assert json.loads(said["AIGC"])["Label"] == "1" and said["digital_source_type"] == SWAP.source_type


def test_segments_that_are_joined_have_them_too(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=12, metadata={"AIGC": '{"Label":"2"}'})
    plain, first = convert(source, encode.Config(tags=SWAP))
    (tmp_path / "work").mkdir()
    joined, second = convert(source, encode.Config(tags=SWAP), work=str(tmp_path / "work"))
    assert joined == plain and joined["AIGC_input"] == '{"Label":"2"}'
    assert first["input_aigc"] == second["input_aigc"] == '{"Label":"2"}'


@pytest.mark.parametrize(("before", "after"), [("mkv", "mp4"), ("mp4", "mkv"), ("mkv", "nut"), ("nut", "mov")])
def test_marks_of_an_input_are_kept_and_reported(before: str, after: str, tmp_path: Path) -> None:
    theirs = {"aigc": '{"Label":"1","ContentProducer":"x"}', SOURCE_TYPE: IPTC + "digitalCapture", "comment": "mine"}
    source = make_clip(tmp_path / f"a.{before}", frames=3, metadata=theirs)
    if before == "mp4":  # which takes only what it knows, unless it is asked
        source = _remuxed(source, theirs)
    said, report = convert(source, encode.Config("h264", tags=SWAP), after)
    folded = {key.casefold(): value for key, value in said.items()}
    assert tags.read(said).fields["ProduceID"] == "00a1b2c3d4e5"
    assert folded["aigc_input"] == theirs["aigc"] and folded["digital_source_type_input"] == theirs[SOURCE_TYPE]
    assert folded["comment"] == "mine"
    assert (report["input_aigc"], report["input_source_type"]) == (theirs["aigc"], theirs[SOURCE_TYPE])


@pytest.mark.parametrize("flags", ["+faststart", "faststart", "-use_metadata_tags"])
def test_other_flags_for_the_muxer_do_not_keep_them_out(flags: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=3)
    said, _ = convert(source, encode.Config(container_options={"movflags": flags}, tags=SWAP), "mp4")
    assert tags.read(said).fields["Label"] == "1" and tags.read(said).source_type == SWAP.source_type


def _remuxed(source: Path, metadata: dict[str, str]) -> Path:
    target = source.with_name("tagged.mp4")
    with (
        av.open(str(source)) as given_,
        av.open(str(target), "w", container_options={"movflags": "use_metadata_tags"}) as out,
    ):
        stream = given_.streams.video[0]
        out.metadata.update(metadata)
        copy = out.add_stream_from_template(stream)
        for packet in given_.demux(stream):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    return target


def test_our_own_result_made_into_another_keeps_what_it_was(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=3)
    first, _ = convert(source, encode.Config("ffv1", tags=SWAP), "mkv")
    again = (tmp_path / ".b.part.mkv").rename(tmp_path / "again.mkv")
    second, report = convert(again, encode.Config("ffv1", tags=SWAP), "mkv")
    assert second["AIGC_INPUT"] == first["AIGC"] == report["input_aigc"]
    third = tags.marked(second, tags.tags(replace(clip_of(source), payload=5), SWAP))
    assert third["AIGC_INPUT"] == first["AIGC"] and third["AIGC_input_2"] == second["AIGC"]


def test_without_tags_an_input_is_as_it_was_and_still_reported(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", frames=3, metadata={"AIGC": "?" * 2000, "title": "Tea"})
    said, report = convert(source, encode.Config("ffv1"), "mkv")
    assert said["AIGC"] == "?" * 2000 and "COMMENT" not in said
    assert report["input_aigc"] == "?" * 300


def test_blurred_faces_are_no_generated_ones(tmp_path: Path) -> None:
    clip = clip_of(make_clip(tmp_path / "a.mp4", frames=2))
    found = tags.tags(clip, Config(IPTC + "algorithmicallyEnhanced"))
    assert AIGC not in found and "changed by software" in found[COMMENT]
    whole = tags.tags(replace(clip, payload=0), Config(IPTC + "trainedAlgorithmicMedia"))
    assert Found(whole[AIGC]).fields["ProduceID"] == "" and Found(whole[AIGC]).fields["ContentProducer"] == "understudy"
    assert set(tags.tags(clip, Config("urn:of-something-else"))) == {SOURCE_TYPE}


def test_a_header_that_is_refused_leaves_nothing_open(tmp_path: Path) -> None:
    clip = clip_of(make_clip(tmp_path / "a.mp4", frames=2))
    with closing(Output(clip, encode.Config(tags=SWAP))):
        pass


NAMES = st.sampled_from(["AIGC", "aigc", "AIGC_input", "aigc_INPUT", "title", "Comment", "digital_source_type"])


@given(st.dictionaries(NAMES | st.text(min_size=1, max_size=8), st.text(max_size=20), max_size=8))
def test_nothing_of_an_input_is_lost(metadata: dict[str, str]) -> None:
    ours = {AIGC: "{}", SOURCE_TYPE: "x", COMMENT: "made"}
    found = tags.marked(metadata, ours)
    assert found[AIGC] == "{}" and found[SOURCE_TYPE] == "x"
    assert sorted(metadata.values()) == sorted(
        value for key, value in found.items() if key not in ours or (key == COMMENT and value != "made")
    )
    assert list(found)[:2] == [AIGC, SOURCE_TYPE]
    assert tags.marked(metadata, {}) == metadata


@given(st.text(max_size=30) | st.sampled_from(["[" * 5000, '{"Label": 1}', '{"Label":"1","x":"y"}', "[]", "null"]))
def test_reading_what_anybody_may_have_written(text: str) -> None:
    fields = Found(text).fields
    assert set(fields) <= set(tags.FIELDS) and all(isinstance(value, str) for value in fields.values())


@pytest.mark.parametrize("name", ["AIGC", "aigc", "com.example.AIGC", "mdta:AIGC"])
def test_any_spelling_is_read(name: str) -> None:
    assert tags.read({"title": "x", name: "{}"}).aigc == "{}"
    assert tags.read({"Iptc4xmpExt:DigitalSourceType": "u"}).source_type == "u"
    assert tags.read({"AIGC_input": "{}"}) == Found()


def test_they_are_not_the_users_to_set() -> None:
    with pytest.raises(ConfigError, match=r"unknown key encode\.tags"):
        config.apply(Settings(), {"encode": {"tags": {"source_type": "x"}}}, Path.cwd(), FIXED)
