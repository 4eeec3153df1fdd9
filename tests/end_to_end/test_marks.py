"""Marks on everything that comes out, by convert, by the daemon, through pipes: what verifies, and what is told once
something has been changed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.originals import digest
from pipeline.pixels import PIXEL_FORMATS
from pipeline.provenance import verdict
from pipeline.types import Array, Picture
from stages import watermark
from tests.clips import decoded, make_clip
from tests.end_to_end.footage import film, random_model
from tests.end_to_end.house import House, Said
from tests.pipeline.provenance.certificates import bought

WIDTH, HEIGHT, FRAMES, RATE = 320, 240, 30, 10

#: Of the clips' 3 seconds the label is on for these.
LABEL_S = 2

#: Where the label lies, in the lower left corner: rows and columns of the first plane.
LABEL = slice(HEIGHT - 32, HEIGHT - 8), slice(8, 200)

FAST = ("--set", "encode.preset=ultrafast")
REASON = "a film's own credits say so"
CONTAINERS = ("mp4", "mov", "mkv")

#: A table of processes that does not name the stage that marks.
NO_MARKS = "engine.processes=[{stages: [decode, detect, align, mask]}, {stages: [swap, blend, encode]}]"


@dataclass(frozen=True, slots=True)
class Made:
    """What convert made of a clip in several containers, and said of it."""

    house: House
    said: Said

    def result(self, container: str) -> Path:
        return self.house.folder / "out" / f"clip.{container}"

    def report(self, container: str) -> dict[str, Any]:
        """What the stages said of one of them."""
        (found,) = (each for each in self.said.json["clips"] if each["target"] == str(self.result(container)))
        assert isinstance(found["reports"], dict)
        return found["reports"]

    def payload(self, container: str) -> str:
        return str(self.report(container)["disclose"]["payload"])


def converted(house: House, *argv: str | Path) -> Said:
    said = house.run("convert", "--json", *FAST, *argv)
    assert said.code == 0, said.err
    return said


def verified(house: House, path: Path, *argv: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code, and what `provenance verify` says of a file."""
    said = house.run("provenance", "verify", "--json", path, *argv)
    (found,) = said.json["files"]
    assert isinstance(found, dict)
    return said.code, found


def detected(house: House, path: Path) -> list[str]:
    """The payloads that `provenance detect` finds, the surest first."""
    said = house.run("provenance", "detect", "--json", path)
    found = [each["payload"] for each in said.json["marks"]]
    assert said.code == (0 if found else 1)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    house = House(tmp_path_factory.mktemp("house"))
    house.configure(model="model", disclose={"label": {"seconds": LABEL_S}}, encode={"preset": "ultrafast"})
    random_model(house.folder / "model")
    clips = [house.folder / f"clip.{container}" for container in CONTAINERS]
    film(clips[0], WIDTH, HEIGHT, FRAMES, rate=RATE, audio="aac")
    film(clips[2], WIDTH, HEIGHT, FRAMES, rate=RATE, codec="ffv1")
    shutil.copy(clips[0], clips[1])
    return Made(house, converted(house, *clips, "-o", "out"))


# What verifies


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_result_verifies_by_our_authority(container: str, made: Made) -> None:
    path = made.result(container)
    code, found = verified(made.house, path)
    assert (code, found["state"]) == (0, "proves"), found
    signed, written = found["layers"]["credentials"], found["layers"]["audit"]
    assert (signed["validation"], signed["own"], signed["problems"]) == ("trusted", True, [])
    assert signed["detached"] == (container == "mkv") == path.with_name(f"{path.name}.c2pa").exists()
    done = {each["action"]: each["source_type"].rpartition("/")[2] for each in signed["claim"]["actions"]}
    assert done["c2pa.edited"] == "compositeWithTrainedAlgorithmicMedia" and "c2pa.opened" in done
    told = signed["claim"]["facts"]
    ids = {each["id"] for each in told["identities"]}
    assert len(ids) == 2 and ids == {id for id, _ in written["facts"]["identities"]}
    assert told["payload"] == written["facts"]["payload"] == made.payload(container)
    assert found["layers"]["watermark"]["payloads"] == [made.payload(container)]
    assert written["facts"]["output_sha256"] == digest(path)
    assert made.payload(container) in found["layers"]["tags"]["aigc"]


def test_each_result_has_its_own_row_and_each_clip_its_own_payload(made: Made) -> None:
    rows = made.house.rows("published")
    payloads = {made.payload(container) for container in CONTAINERS}
    assert made.payload("mp4") == made.payload("mov"), "the same bytes, by the same model"
    assert len(payloads) == 2 and {row.facts["payload"] for row in rows} >= payloads
    assert made.house.run("audit", "verify").code == 0
    said = made.house.run("audit", "list", "--file", made.result("mov"), "--json").json["rows"]
    assert [row["facts"]["target"] for row in said] == [str(made.result("mov"))]


def test_nobody_is_named(made: Made) -> None:
    for name in ("clip.mp4", "clip.mkv.c2pa"):
        content = (made.house.folder / "out" / name).read_bytes()
        assert str(made.house.folder).encode() not in content and b'"a"' not in content


def test_the_label_is_there_from_the_first_frame_on_and_goes(made: Made) -> None:
    for container in ("mp4", "mkv"):
        before = decoded(made.house.folder / f"clip.{container}")
        after = decoded(made.result(container))
        off = [np.abs(a[1][0][LABEL].astype(int) - b[1][0][LABEL]) for a, b in zip(before, after, strict=True)]
        there = [bool(np.percentile(each, 99) > 60) for each in off]
        assert there == [index <= LABEL_S * RATE for index in range(FRAMES)], container
        assert max(each.mean() for each in off[LABEL_S * RATE + 1 :]) < 5


# What was changed is named


def flipped(path: Path, mark: bytes, offset: int, into: Path) -> Path:
    """A copy with one bit turned over: of the byte so far behind the first place of `mark`."""
    content = bytearray(path.read_bytes())
    at = content.find(mark)
    assert at >= 0
    content[at + offset] ^= 1
    into.write_bytes(content)
    return into


CHANGED = [
    ("mp4", "picture", b"mdat", 50_000, verdict.CHANGED_FILE),
    ("mp4", "first picture", b"mdat", 40, verdict.CHANGED_FILE),
    ("mp4", "tag", b'"Label":"1"', 9, verdict.CHANGED_FILE),
    ("mp4", "manifest", b"compositeWithTrained", 3, verdict.CHANGED_MANIFEST),
    ("mov", "picture", b"mdat", 50_000, verdict.CHANGED_FILE),
    ("mov", "manifest", b"c2pa.opened", 5, verdict.CHANGED_MANIFEST),
    ("mkv", "picture", b'"Label":"1"', 50_000, verdict.CHANGED_FILE),
    ("mkv", "tag", b'"Label":"1"', 9, verdict.CHANGED_FILE),
]


@pytest.mark.parametrize(
    ("container", "what", "mark", "offset", "said"), CHANGED, ids=[f"{each[0]}, {each[1]}" for each in CHANGED]
)
def test_one_flipped_bit_is_named(
    container: str, what: str, mark: bytes, offset: int, said: str, made: Made, tmp_path: Path
) -> None:
    original = made.result(container)
    path = flipped(original, mark, offset, tmp_path / original.name)
    if container == "mkv":
        shutil.copy(f"{original}.c2pa", tmp_path)
    code, found = verified(made.house, path)
    assert (code, found["state"]) == (3, "contradicts")
    assert said in found["layers"]["credentials"]["problems"] and said in found["verdict"]


def test_one_flipped_bit_in_what_lies_beside_is_named(made: Made, tmp_path: Path) -> None:
    path = Path(shutil.copy(made.result("mkv"), tmp_path))
    flipped(Path(f"{made.result('mkv')}.c2pa"), b"compositeWithTrained", 3, Path(f"{path}.c2pa"))
    code, found = verified(made.house, path)
    assert code == 3 and found["verdict"] == f"not what it was: {verdict.CHANGED_MANIFEST}"
    code, out = made.house.run("provenance", "verify", path).code, made.house.run("provenance", "verify", path).out
    assert code == 3 and verdict.CHANGED_MANIFEST in out


def test_what_lay_beside_was_lost(made: Made, tmp_path: Path) -> None:
    """Then the credentials prove nothing; the audit of this machine still does."""
    path = Path(shutil.copy(made.result("mkv"), tmp_path))
    code, found = verified(made.house, path)
    layers = found["layers"]
    assert (layers["credentials"]["state"], layers["audit"]["state"], code) == ("absent", "proves", 0)
    assert "published here by job" in found["verdict"]


def test_a_copy_without_its_manifest_is_recognised(made: Made, tmp_path: Path) -> None:
    """A remux drops the manifest; the watermark leads to the row, and that says that these are other bytes."""
    path = tmp_path / "again.mkv"
    with av.open(str(made.result("mp4"))) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    code, found = verified(made.house, path)
    layers = found["layers"]
    assert code == 3 and layers["credentials"]["state"] == "absent"
    assert layers["watermark"]["payloads"] == [made.payload("mp4")]
    assert "these are not the bytes that were published" in layers["audit"]["says"][0]


def test_elsewhere_a_result_is_whole_but_not_trusted(made: Made, tmp_path: Path) -> None:
    elsewhere = House(tmp_path)
    elsewhere.configure()
    assert elsewhere.run("provenance", "init").code == 0
    code, found = verified(elsewhere, made.result("mp4"))
    assert (code, found["layers"]["credentials"]["validation"]) == (1, "valid")
    assert found["verdict"].startswith("not proven") and found["layers"]["watermark"]["state"] == "absent"
    assert made.house.run("provenance", "init", "--export", tmp_path / "theirs.pem").code == 0
    code, found = verified(elsewhere, made.result("mkv"), "--anchors", tmp_path / "theirs.pem")
    assert (code, found["layers"]["credentials"]["own"]) == (0, False)


# What was made from what was made


@pytest.fixture(scope="module")
def again(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Made, Path, tuple[str, ...]]]:
    """A result that was converted once more, by a process table without marks, and signed by a bought certificate."""
    shop = bought(tmp_path_factory.mktemp("shop"))
    (shop.chain.parent / "root.pem").write_bytes(shop.root)
    own = ("--set", f"provenance.certificate={shop.chain}", "--set", f"provenance.key={shop.key}")
    said = converted(made.house, made.result("mp4"), "-o", "again.mp4", "--set", NO_MARKS, *own)
    (clip,) = said.json["clips"]
    yield Made(made.house, said), Path(clip["target"]), (*own, "--anchors", str(shop.chain.parent / "root.pem"))


def test_a_bought_certificate_signs(again: tuple[Made, Path, tuple[str, ...]]) -> None:
    made, path, shop = again
    code, found = verified(made.house, path, *shop)
    signed = found["layers"]["credentials"]
    assert (code, signed["validation"], signed["claim"]["signer"]) == (0, "trusted", "leaf (Bought)"), found
    code, found = verified(made.house, path)  # our authority does not vouch for that; the audit knows the file
    assert (code, found["layers"]["credentials"]["validation"]) == (0, "valid")
    assert found["layers"]["audit"]["state"] == "proves"


def test_the_chain_of_what_it_was_made_from_is_kept(again: tuple[Made, Path, tuple[str, ...]], made: Made) -> None:
    _, path, shop = again
    _, found = verified(made.house, path, *shop)
    signed = found["layers"]["credentials"]
    before, first = signed["ingredients"]
    assert (before["depth"], before["problems"], first["depth"], first["claim"]) == (1, [], 2, None)
    assert before["claim"]["facts"]["payload"] == made.payload("mp4")
    assert before["claim"]["signer"] != signed["claim"]["signer"]
    said = again[0].said.json["clips"][0]["reports"]
    assert said["publish"]["input_payload"] == made.payload("mp4") == said["disclose"]["found_payload"]
    assert said["publish"]["input_credentials"] in ("trusted", "valid")


def test_the_newer_watermark_is_found_and_was_put_in_by_whatever_table(
    again: tuple[Made, Path, tuple[str, ...]], made: Made
) -> None:
    disclosed = again[0].said.json["clips"][0]["reports"]["disclose"]
    assert (disclosed["watermark"], disclosed["label"]) == (1, 1)
    assert disclosed["payload"] != made.payload("mp4")
    assert disclosed["payload"] in detected(made.house, again[1])


# Marks that are off, for a reason


OFF = ("--set", f"disclose.label.off_because={REASON}", "--set", f"disclose.watermark.off_because={REASON}")


def test_marks_that_are_off_leave_samples_alone_and_say_why(made: Made) -> None:
    house, source = made.house, made.house.folder / "clip.mkv"
    converted(house, source, "-o", "plain.mkv", "--set", "encode.codec=ffv1", *OFF)
    path = house.folder / "plain.mkv"
    for before, after in zip(decoded(source), decoded(path), strict=True):
        assert (before[1][0] != after[1][0]).any(), "the face was swapped"
        for was, now in zip(before[1], after[1], strict=True):
            assert (
                (was[LABEL] == now[LABEL]).all() and (was[:4] == now[:4]).all() and (was[:, -8:] == now[:, -8:]).all()
            )
    code, found = verified(house, path)
    layers = found["layers"]
    assert code == 0 and layers["watermark"]["state"] == "absent"
    for marks in (layers["credentials"]["claim"]["facts"]["marks"], house.rows("published")[0].facts["marks"]):
        assert (marks["label"], marks["watermark"]) == (0, 0)
        assert marks["label_off_because"] == marks["watermark_off_because"] == REASON
    assert f"without a label: {REASON}" in layers["credentials"]["says"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("disclose.label.off_because=because", "disclose.label.off_because must say why"),
        ("disclose.watermark.off_because=yes", "disclose.watermark.off_because"),
        ("disclose.label.seconds=0", "disclose.label.seconds must be"),
        ("disclose.label.height=0.01", "disclose.label.height must be"),
        ("disclose.label.text=' '", "disclose.label.text must be"),
        ("disclose.watermark.key=other.key", "disclose.watermark.key"),
        ("disclose.watermark={key: other.key}", "disclose.watermark.key"),
        ("encode.tags={source_type: x}", "encode.tags"),
        ("disclose=false", "disclose"),
    ],
)
def test_no_setting_takes_marks_away_in_silence(setting: str, said: str, made: Made, tmp_path: Path) -> None:
    found = made.house.run("convert", "clip.mp4", "-o", tmp_path / "none.mp4", "--set", setting)
    assert found.code == 2 and said in found.refusal
    assert not (tmp_path / "none.mp4").exists()


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"disclose": {"label": {"off_because": "because"}}}, "off_because must say why"),
        ({"disclose": {"watermark": {"key": "other.key"}}}, "disclose.watermark.key"),
        ({"disclose": {"label": {"seconds": 1}}}, "disclose.label.seconds must be"),
        ({"encode": {"tags": None}}, "encode.tags"),
    ],
)
def test_nor_does_a_watched_folder(own: dict[str, object], said: str, made: Made, tmp_path: Path) -> None:
    house = House(tmp_path)
    (tmp_path / "in").mkdir()
    watched = [{"in": "in", "out": "out", "settle_s": 0, "settings": own}]
    house.configure(model=made.house.folder / "model", watch=watched)
    found = house.run("watch", "--once")
    assert found.code == 2 and said in found.refusal


# Frames through pipes


def as_y4m(path: Path) -> bytes:
    """A clip's frames as YUV4MPEG2."""
    frames = [b"FRAME\n" + b"".join(plane.tobytes() for plane in planes) for _, planes in decoded(path)]
    return f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{RATE}:1 Ip A1:1 C420jpeg\n".encode() + b"".join(frames)


def from_y4m(content: bytes) -> list[list[Array]]:
    """The planes of each of its frames."""
    shapes = PIXEL_FORMATS["yuv420p"].shapes(WIDTH, HEIGHT)
    found = []
    for frame in content.split(b"FRAME\n")[1:]:
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        parts = np.split(np.frombuffer(frame, np.uint8), ends[:-1])
        found.append([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])
    return found


@pytest.fixture(scope="module")
def piped(made: Made) -> list[list[Array]]:
    """What comes through a pipe of a clip's frames."""
    process = made.house.start("pipe", "-q", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = process.communicate(as_y4m(made.house.folder / "clip.mkv"), timeout=300)
    assert process.returncode == 0, made.house.told()
    frames = from_y4m(out)
    assert len(frames) == FRAMES
    return frames


def test_a_pipe_s_frames_carry_the_label_at_first(piped: list[list[Array]], made: Made) -> None:
    """And nothing but the watermark changes the corner later on, by a level or some."""
    for index, (before, after) in enumerate(zip(decoded(made.house.folder / "clip.mkv"), piped, strict=True)):
        off = np.abs(before[1][0][LABEL].astype(int) - after[0][LABEL])
        assert (np.percentile(off, 99) > 60) == (index <= LABEL_S * RATE), index
        if index > LABEL_S * RATE:
            assert 0 < off.max() <= watermark.PEAK
            assert (before[1][1][-8:] == after[1][-8:]).all(), "no colour is touched"


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_a_pipe_s_frames_carry_the_watermark(codec: str, piped: list[list[Array]], made: Made, tmp_path: Path) -> None:
    row = next(row for row in made.house.rows("published") if row.facts["job"] == "pipe")
    assert row.facts["marks"]["label"] == row.facts["marks"]["watermark"] == 1
    assert len(row.facts["identities"]) == 2
    options = {"crf": "23", "preset": "medium"} if codec == "libx264" else {}
    layout = PIXEL_FORMATS["yuv420p"]
    pictures = [Picture(layout, WIDTH, HEIGHT, tuple(planes)) for planes in piped]
    path = make_clip(tmp_path / "muxed.mkv", codec=codec, rate=RATE, options=options, pictures=pictures)
    assert detected(made.house, path) == [row.facts["payload"]]


# The daemon


@pytest.fixture(scope="module")
def watched(made: Made, tmp_path_factory: pytest.TempPathFactory) -> House:
    """What a daemon has made, in two containers, one in a folder below."""
    house = House(tmp_path_factory.mktemp("daemon"))
    folder = {"in": "in", "out": "out", "settle_s": 0, "settings": {"encode": {"preset": "ultrafast"}}}
    house.configure(model=made.house.folder / "model", watch=[folder])
    (house.folder / "in" / "below").mkdir(parents=True)
    with house.service():
        for name in ("a.mp4", "below/b.mkv"):
            place = house.folder / "in" / name
            shutil.copy(made.house.folder / f"clip{place.suffix}", place.with_suffix(".part"))
            place.with_suffix(".part").rename(place)
        house.wait(lambda: list(house.states().values()) == ["done", "done"])
    return house


@pytest.mark.parametrize("name", ["a.mp4", "below/b.mkv"])
def test_what_a_daemon_makes_verifies(name: str, watched: House) -> None:
    code, found = verified(watched, watched.folder / "out" / name)
    layers = found["layers"]
    assert (code, layers["credentials"]["validation"]) == (0, "trusted"), found
    assert {name: layer["state"] for name, layer in layers.items()} == {
        "credentials": "proves", "report": "tells", "audit": "proves", "tags": "tells", "watermark": "tells",
    }  # fmt: skip
    assert layers["report"]["audit"] == {"number": layers["audit"]["number"], "digest": layers["audit"]["digest"]}
    assert layers["watermark"]["payloads"] == [layers["credentials"]["claim"]["facts"]["payload"]]
    assert watched.run("audit", "verify").code == 0 and len(watched.rows("published")) == 2


def test_a_report_whose_row_is_gone_is_named(watched: House, tmp_path: Path) -> None:
    """Table and head were put away together, which only the reports can tell."""
    house = House(tmp_path / "house")
    shutil.copytree(watched.folder, house.folder)
    for file in house.home.folder.glob("audit.*"):
        file.unlink()
    code, found = verified(house, house.folder / "out" / "a.mp4")
    assert code == 3 and "rows were lost or changed" in found["verdict"]
