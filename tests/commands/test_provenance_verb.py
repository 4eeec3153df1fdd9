"""`provenance`: what all the marks of a file come to, together and one by one; who signs; the watermark alone."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pipeline import result
from pipeline.originals import digest
from pipeline.pixels import PIXEL_FORMATS
from pipeline.provenance import authority, credentials, manifest, settings
from pipeline.provenance.audit import Audit
from pipeline.provenance.home import Home
from pipeline.provenance.signatory import signatory
from pipeline.types import Clip
from stages import tags, watermark, watermark_finder
from stages.watermark_finder import Found
from tests.clips import make_clip, picture
from tests.program import Program, as_json, the_error

PAYLOAD = 0x0123456789AB
WORD = f"{PAYLOAD:012x}"

ANNA = "id-00000000000000aa"

FORMAT = PIXEL_FORMATS["yuv420p"]


@dataclass(frozen=True, slots=True)
class House:
    """A home with all that signs, and two results with all their marks: one signed inside, one beside."""

    home: Home
    mp4: Path
    mkv: Path


def make(home: Home, path: Path, source: Path, marked: bool = True) -> None:
    """A result as the door lets it out: tags, watermark, credentials, the audit's row, the report."""
    clip = Clip(
        1, str(source), str(path), str(path), 320, 240, FORMAT, Fraction(1, 30), duration_s=0.8, payload=PAYLOAD
    )
    mark = watermark.Watermark(home.watermark_key.read_bytes(), clip)
    pictures = [picture(FORMAT, 320, 240, index) for index in range(24)]
    for each in pictures if marked else ():
        mark.apply(each)
    treatment = manifest.Treatment.SWAP
    said = tags.tags(clip, tags.Config(treatment.source_type)) if marked else {}
    make_clip(path, pictures=pictures, metadata=said, options={"preset": "ultrafast", "crf": "18"})
    who = signatory(settings.Config(), home)
    facts = manifest.Facts(
        job="7",
        payload=WORD,
        treatment=treatment,
        version="1",
        made=datetime.now(UTC),
        model_digest="d" * 64,
        identities=((ANNA, "e" * 64),),
        marks={"watermark": int(marked), "label": 0, "label_off_because": "a film's own credits say so"},
    )
    definition = manifest.compose(facts)
    if credentials.mime_for(path) is None:
        store, _ = credentials.sign_detached(path, source, definition, who)
        credentials.detached_path(str(path)).write_bytes(store)
    else:
        signed = path.with_suffix(".signed")
        credentials.sign(path, source, definition, who, signed)
        signed.replace(path)
    row = Audit(home).append(
        "published",
        {"job": 7, "payload": WORD, "output_sha256": digest(path), "identities": [[ANNA, "e" * 64]]},
    )
    report = {
        "version": 1,
        "job": 7,
        "output": {"sha256": digest(path)},
        "provenance": {"audit": {"number": row.number, "digest": row.digest}},
    }
    result.write(str(result.path_for(str(path))), report)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("house")
    home = Home(folder / "home")
    authority.init(home)
    source = make_clip(folder / "source.mp4", width=320, height=240, frames=3)
    house = House(home, folder / "-b\n\udcff.mp4", folder / "c.mkv")
    make(home, house.mp4, source)
    make(home, house.mkv, source)
    return house


@pytest.fixture
def house(made: House, tmp_path: Path) -> House:
    """One of its own for each test."""
    folder = tmp_path / "house"
    shutil.copytree(made.home.folder.parent, folder)
    return House(Home(folder / "home"), folder / made.mp4.name, folder / made.mkv.name)


Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(program: Program, house: House) -> Told:
    """`provenance` with that home."""

    def run(*argv: str | Path) -> tuple[int, str, str]:
        return program("provenance", *argv[:1], "--set", f"provenance.folder={house.home.folder}", *argv[1:])

    return run


def seen(payload: int, *others: int) -> Found:
    """What the finder says of marks that it is sure of."""
    sure = {"confidence": 1.0, "chance": 0.0, "agreement": 1.0, "strength": 9.0, "synchronisation": 9.0}
    return Found(payload, **sure, others=others)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for a mark that is not there takes long."""
    monkeypatch.setattr(watermark_finder, "detect", lambda *_: None)


@pytest.fixture
def sighted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark is found without looking."""
    monkeypatch.setattr(watermark_finder, "detect", lambda *_: seen(PAYLOAD))


def layers(told: Told, *argv: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code, and what the first file's layers are."""
    code, out, _ = told("verify", "--json", "--", *argv)
    return code, as_json(out)["files"][0]["layers"]


def states(found: dict[str, Any]) -> dict[str, str]:
    return {name: layer["state"] for name, layer in found.items()}


# The whole file


def test_all_layers_of_a_result(told: Told, house: House) -> None:
    """With the real watermark."""
    code, out, err = told("verify", "--", house.mp4)
    name, *lines = out.splitlines()
    assert (code, err) == (0, "") and name.endswith("-b\\n\\udcff.mp4")
    shown = {line[2:15].strip(): line[15:] for line in lines if line[2:15].strip()}
    assert shown["credentials"].startswith("signed by Understudy (Understudy user) on ")
    assert shown["credentials"].endswith(", and not a bit has changed since")
    assert "done by Understudy: opened, edited (compositeWithTrainedAlgorithmicMedia), watermarked.unbound" in out
    assert f"job 7; model {'d' * 20}; identities {ANNA}" in out
    assert (
        "without a label: a film's own credits say so" in out
        and "made from source, which had no credentials that could be kept" in out
    )
    assert "no time stamp" in out
    assert shown["report"] == "the report beside it tells of these very bytes"
    assert shown["audit"].startswith("published here by job 7 at ")
    assert shown["watermark"] == f"{WORD}, confidence 0.999999"
    assert lines[-1].startswith("  whole: signed by Understudy")
    assert told("verify", "-q", "--", house.mp4)[1].count("\n") == 1


@pytest.mark.usefixtures("sighted")
def test_the_manifest_beside_a_file(told: Told, house: House) -> None:
    code, found = layers(told, house.mkv)
    assert code == 0 and set(states(found).values()) == {"proves", "tells"}
    assert found["tags"]["says"] == [
        f"AIGC label by understudy, product {WORD}, digital source type compositeWithTrainedAlgorithmicMedia"
    ]
    assert found["credentials"]["detached"] and found["credentials"]["claim"]["facts"]["payload"] == WORD
    credentials.detached_path(str(house.mkv)).unlink()
    code, found = layers(told, house.mkv)
    assert code == 0 and states(found)["credentials"] == "absent" and states(found)["audit"] == "proves"


@pytest.mark.usefixtures("blind")
def test_nothing_says_where_a_file_comes_from(told: Told, house: House, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "plain.mp4", frames=3)
    code, out, _ = told("verify", clip)
    assert code == 1 and out.splitlines()[-1] == "  not proven: it has no marks; where it comes from cannot be told"
    assert set(states(layers(told, clip)[1]).values()) == {"absent"}
    house.home.watermark_key.unlink()
    assert "there is no key here to look with" in told("verify", clip)[1]


@pytest.mark.usefixtures("sighted")
def test_a_changed_bit(told: Told, house: House) -> None:
    for file, other in ((house.mp4, b"mdat"), (house.mkv, None), (credentials.detached_path(str(house.mkv)), b"swap")):
        content = bytearray(file.read_bytes())
        at = content.rindex(other) + 200 if other == b"mdat" else content.rindex(other) if other else len(content) // 2
        file.write_bytes(bytes(content[:at]) + bytes([content[at] ^ 1]) + bytes(content[at + 1 :]))
        of = house.mkv if file.suffix == ".c2pa" else file
        code, out, _ = told("verify", "--", of)
        assert code == 3 and "  not what it was: " in out, out
        found = layers(told, of)[1]
        assert states(found)["credentials"] == "contradicts" and found["credentials"]["problems"]
        if file == of:
            assert states(found)["report"] == states(found)["audit"] == "contradicts"
        file.write_bytes(content)
        assert told("verify", "--", of)[0] == 0


@pytest.mark.usefixtures("sighted")
def test_what_a_remux_leaves(told: Told, house: House, tmp_path: Path) -> None:
    """The picture leads to the job that made it, whose bytes were others."""
    clip = make_clip(tmp_path / "remade.mp4", frames=3)
    code, found = layers(told, clip)
    assert code == 3 and states(found)["audit"] == "contradicts" and found["audit"]["number"] == 2
    assert "made here by job 7 at " in found["audit"]["says"][0]
    Audit(house.home).set_aside()
    code, out, _ = told("verify", clip)
    assert code == 1 and "it has marks (watermark), but none that is trusted here" in out


@pytest.mark.usefixtures("sighted")
def test_who_is_trusted(told: Told, house: House, tmp_path: Path) -> None:
    """Somewhere else, the same file is signed by a stranger, until his authority is named."""
    others = House(Home(tmp_path / "others"), house.mp4, house.mkv)
    authority.init(others.home)
    pem = tmp_path / "pem"
    assert told("init", "--export", pem)[0] == 0
    elsewhere = ("--set", f"provenance.folder={others.home.folder}", "--json")
    code, out, _ = told("verify", *elsewhere, "--", house.mp4)
    found = as_json(out)["files"][0]["layers"]
    assert code == 1 and states(found)["credentials"] == "tells" and states(found)["audit"] == "absent"
    assert "nobody whom we trust vouches for that name" in found["credentials"]["says"][0]
    code, out, _ = told("verify", *elsewhere, "--anchors", pem, "--", house.mp4)
    found = as_json(out)["files"][0]["layers"]
    assert code == 0 and states(found)["credentials"] == "proves" and not found["credentials"]["own"]
    assert told("verify", *elsewhere, "--set", f"provenance.anchors={pem}", "--", house.mp4)[0] == 0
    assert told("init", "--force", "-q")[0] == 0
    assert told("verify", "--", house.mp4)[0] == 0, "what was signed before stays good"


@pytest.mark.usefixtures("sighted")
def test_a_row_that_the_audit_has_lost(told: Told, house: House) -> None:
    """Table and head put back to what they were before: their results know better."""
    home = house.home
    home.audit.unlink()
    home.audit.with_suffix(".head").unlink()
    assert Audit(home).verify().faults == ()
    code, out, _ = told("verify", "--", house.mp4)
    assert code == 3 and "the audit lacks row 1, which the report beside it names: rows were lost or changed" in out
    Audit(home).append("trained", {})
    assert told("verify", "--", house.mp4)[0] == 3


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize(
    ("report", "state"),
    [
        ({"version": 1, "output": {"sha256": "0" * 64}}, "contradicts"),
        ({"version": 1, "output": "x"}, "tells"),
        ({"version": 1, "output": {"sha256": 5}, "audit": [], "provenance": 7}, "tells"),
        ({"version": 1, "output": {}, "audit": {"number": True, "digest": "x"}}, "tells"),
        ({"version": 1, "output": {}, "provenance": {"audit": {"number": 1 << 70, "digest": "0" * 64}}}, "tells"),
        ({"version": 2}, "absent"),
        ("nothing of ours", "absent"),
    ],
)
def test_a_report_that_says_anything(told: Told, tmp_path: Path, report: object, state: str) -> None:
    clip = make_clip(tmp_path / "plain.mp4", frames=3)
    result.path_for(str(clip)).write_text(json.dumps(report))
    code, found = layers(told, clip)
    assert states(found)["report"] == state and code == (3 if state == "contradicts" else 1)


@pytest.mark.usefixtures("blind")
def test_a_report_alone_proves_nothing(told: Told, tmp_path: Path) -> None:
    """Anybody can write one."""
    clip = make_clip(tmp_path / "plain.mp4", frames=3)
    result.path_for(str(clip)).write_text(json.dumps({"version": 1, "output": {"sha256": digest(clip)}}))
    assert told("verify", clip)[0] == 1


def test_a_picture_that_says_another_job(told: Told, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermark_finder, "detect", lambda *_: seen(1, 2))
    code, out, _ = told("verify", "--", house.mp4)
    assert code == 3 and f"the picture says 000000000001, the credentials say {WORD}" in out
    monkeypatch.setattr(watermark_finder, "detect", lambda *_: seen(1, 2, PAYLOAD))
    assert told("verify", "--", house.mp4)[0] == 0


@pytest.mark.usefixtures("blind")
def test_several_files_and_some_that_are_none(told: Told, house: House, tmp_path: Path) -> None:
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"<html>" * 100)
    code, out, err = told("verify", "-q", "--", house.mp4, tmp_path / "none\n", junk, "/dev/zero", tmp_path)
    lines = [line.partition(": ")[2] for line in out.splitlines()]
    assert code == 3 and [line.split(":")[0] for line in lines] == ["whole", "not proven"]
    assert next(line.rpartition("/")[2] for line in err.splitlines()) == "none\\n does not exist"
    assert len(err.splitlines()) == 3 and "Traceback" not in err
    assert "it cannot be read as a video" in told("verify", junk)[1] and told("verify", junk)[0] == 1
    found = as_json(told("verify", "--json", "--", tmp_path / "none", house.mp4)[1])["files"]
    assert [each["state"] for each in found] == ["unreadable", "proves"]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read: no such file"), (b"\xff\n", "holds no certificates in PEM")]
)
def test_anchors_that_are_none(told: Told, house: House, tmp_path: Path, content: bytes | None, said: str) -> None:
    pem = tmp_path / "pem"
    if content is not None:
        pem.write_bytes(content)
    code, _, err = told("verify", "--anchors", pem, "--", house.mp4)
    assert code == 2 and said in the_error(err)


# The watermark alone


def test_the_watermark_of_a_result(told: Told, house: House) -> None:
    code, out, _ = told("detect", "--", house.mkv)
    assert code == 0 and out.startswith(f"watermark {WORD}, confidence 0.999999: job 7 at ")
    found = as_json(told("detect", "--json", "--", house.mkv)[1])
    assert found["marks"] == [{"payload": WORD, "job": 7, "row": 2}] and found["confidence"] > 0.999
    key = house.home.folder / "kept"
    house.home.watermark_key.rename(key)
    code, _, err = told("detect", "--", house.mkv)
    assert code == 2 and "there is no watermark key here" in the_error(err)
    assert told("detect", "--key", key, "--", house.mkv)[:2] == (0, out)
    key.write_bytes(b"short")
    code, _, err = told("detect", "--key", key, "--", house.mkv)
    assert code == 2 and "must have 32 bytes" in the_error(err)


@pytest.mark.usefixtures("blind")
def test_no_watermark(told: Told, house: House, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "plain.mp4", frames=3)
    assert told("detect", clip) == (1, "no watermark of this key is found\n", "")
    code, out, _ = told("detect", "--json", clip)
    assert code == 1 and as_json(out) == {"file": str(clip), "found": False, "confidence": None, "marks": []}
    assert told("detect", tmp_path / "none")[0] == 3


def test_marks_that_the_audit_does_not_know(told: Told, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermark_finder, "detect", lambda *_: seen(1, PAYLOAD))
    code, out, _ = told("detect", "--", house.mp4)
    first, second = out.splitlines()
    assert code == 0 and first == "watermark 000000000001, confidence 0.999999: the audit here does not know it"
    assert second.startswith(f"watermark {WORD}, a weaker one: job 7 at ")


# Who signs


def test_keys_are_made_once(program: Program, tmp_path: Path) -> None:
    folder, pem = tmp_path / "home", tmp_path / "pem"
    where = ("--set", f"provenance.folder={folder}")
    code, out, _ = program("provenance", "show", *where)
    assert code == 0 and out.startswith("nobody signs yet: ") and not folder.exists()
    assert as_json(program("provenance", "show", "--json", *where)[1]) == {"folder": str(folder), "signer": None}
    code, out, _ = program("provenance", "init", *where)
    made = {"authority.key", "authority.pem", "signing.key", "signing.pem", "identity.key", "watermark.key"}
    assert code == 0 and all(name in out.splitlines()[0] for name in made) and len(out.splitlines()) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    before = {path: path.read_bytes() for path in folder.iterdir()}
    code, out, _ = program("provenance", "init", "-q", "--export", pem, *where)
    assert (code, out) == (0, f"all there already: {folder}\n")
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    assert pem.read_bytes() == (folder / "authority.pem").read_bytes()
    code, _, err = program("provenance", "init", "--export", pem, *where)
    assert code == 2 and "is there already" in the_error(err)
    made = set(as_json(program("provenance", "init", "--force", "--json", *where)[1])["made"])
    assert made == {"authority.key", "authority.pem", "signing.key", "signing.pem"}
    assert program("provenance", "init", "-q", "--export", tmp_path / "both", *where)[0] == 0
    assert (tmp_path / "both").read_bytes().endswith(pem.read_bytes())


def test_who_signs(told: Told, house: House) -> None:
    code, out, _ = told("show")
    said = dict(line.split(":", 1) for line in out.splitlines() if ":" in line)
    ends = signatory(settings.Config(), house.home).expires
    assert code == 0 and said["until"].strip() == f"{ends:%d %B %Y}" and said["time stamps"].strip() == "none"
    assert f"without time stamps, what is signed now is not valid any more after {ends:%d %B %Y}" in out
    assert len(said["its SHA-256"].strip()) == 64
    stamped = ("--set", "provenance.timestamp_url=http://localhost:1/")
    assert "not valid any more" not in told("show", *stamped)[1]
    found = as_json(told("show", "--json", *stamped)[1])
    assert (found["algorithm"], found["timestamp_url"]) == ("es256", "http://localhost:1/")


def test_a_certificate_that_was_bought(told: Told, house: House, tmp_path: Path) -> None:
    """Our own verify trusts what our own settings sign with."""
    home = Home(tmp_path / "bought")
    authority.init(home)
    key = home.signing.with_suffix(".key")
    bought = ("--set", f"provenance.certificate={home.signing}", "--set", f"provenance.key={key}")
    code, out, _ = told("show", *bought)
    assert code == 0 and str(home.signing) in out and "authority:" not in out
    assert f"results are signed with {home.signing}, though" in told("init", *bought)[1]
    clip = tmp_path / "theirs.mp4"
    make(home, clip, house.mp4)
    result.path_for(str(clip)).unlink()
    assert told("verify", clip)[0] == 1
    code, out, _ = told("verify", "--json", *bought, clip)
    assert code == 0 and as_json(out)["files"][0]["layers"]["credentials"]["own"]
    assert "made from source, signed by Understudy" in told("verify", *bought, clip)[1]
