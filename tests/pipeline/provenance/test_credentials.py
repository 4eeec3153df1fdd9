"""Content credentials: every result verifies, every changed bit is named, nothing of anybody is in them."""

from __future__ import annotations

import errno
import hashlib
import http.server
import itertools
import os
import re
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError, PublishError, RequirementError
from pipeline.provenance import authority, boxes, credentials, library, manifest, verdict
from pipeline.provenance.credentials import State
from pipeline.provenance.home import Home
from pipeline.provenance.manifest import Facts, Treatment
from pipeline.provenance.settings import Config
from pipeline.provenance.signatory import Signatory, signatory
from tests.clips import make_clip
from tests.pipeline.provenance.certificates import Holder, bought, issue, key_for, write_key

EMBEDDED = {"mp4": "libx264", "mov": "libx264", "avi": "mpeg4"}
BESIDE = {"mkv": "libx264", "webm": "libvpx-vp9", "ts": "libx264", "nut": "ffv1"}
FACTS = Facts(
    job="4711",
    payload="00a1b2c3d4e5",
    treatment=Treatment.SWAP,
    version="9.9",
    made=datetime(2026, 8, 2, 12, tzinfo=UTC),
    model_digest="ab" * 32,
    source_sha256="cd" * 32,
    identities=(("id-0123456789abcdef", "ef" * 32),),
    marks={"watermark": 1, "label": 0, "label_off_because": "it is told of beside the picture"},
)


class Workshop:
    """Our authority, and a clip in each container, signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.who = signatory(Config(), self.home)
        self.anchors = authority.anchors(self.home)
        for ending, codec in (EMBEDDED | BESIDE).items():
            make_clip(folder / f"plain.{ending}", codec=codec)
            self.signed(ending)

    def plain(self, ending: str) -> Path:
        return self.folder / f"plain.{ending}"

    def signed(self, ending: str) -> tuple[Path, Path | None]:
        """A signed file, and what lies beside it."""
        out = self.folder / f"signed.{ending}"
        if not out.exists():
            self.sign(self.plain(ending), self.plain(ending), out)
        beside = credentials.detached_path(str(out))
        return out, beside if beside.exists() else None

    def sign(
        self, partial: Path, source: Path | None, out: Path, facts: Facts = FACTS, who: Signatory | None = None
    ) -> credentials.Parent | None:
        definition = manifest.compose(facts)
        if credentials.mime_for(partial) is not None:
            return credentials.sign(partial, source, definition, who or self.who, out)
        store, parent = credentials.sign_detached(partial, source, definition, who or self.who)
        shutil.copy(partial, out)
        credentials.detached_path(str(out)).write_bytes(store)
        return parent

    def read(self, path: Path, anchors: Sequence[bytes] | None = None) -> credentials.Credentials:
        beside = credentials.detached_path(str(path))
        return credentials.read(path, beside, self.anchors if anchors is None else anchors)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def decoded(path: Path) -> list[str]:
    """A digest of each frame, with its time."""
    with av.open(str(path)) as container:
        return [
            f"{frame.pts} {hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest()}"
            for frame in container.decode(video=0)
        ]


@pytest.mark.parametrize("ending", [*EMBEDDED, *BESIDE])
def test_every_container_verifies(workshop: Workshop, ending: str) -> None:
    path, beside = workshop.signed(ending)
    assert (beside is not None) == (ending in BESIDE)
    found = workshop.read(path)
    assert (found.state, found.problems, found.detached) == (State.TRUSTED, (), ending in BESIDE)
    assert workshop.read(path, []).state is State.VALID
    assert decoded(path) == decoded(workshop.plain(ending))
    assert workshop.read(workshop.plain(ending)) == credentials.Credentials(State.NONE)


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov", "frag_keyframe+separate_moof"])
def test_mp4_of_every_layout_plays_as_before(workshop: Workshop, tmp_path: Path, flags: str) -> None:
    made, out = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    make_clip(tmp_path / "clip0.mp4", frames=40, audio="aac", options={"preset": "ultrafast", "g": "10"})
    with av.open(str(tmp_path / "clip0.mp4")) as source, av.open(str(made), "w", options={"movflags": flags}) as sink:
        streams = {each: sink.add_stream_from_template(each) for each in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                sink.mux(packet)
    workshop.sign(made, made, out)
    assert workshop.read(out).state is State.TRUSTED
    assert decoded(out) == decoded(made)


def test_what_was_said_is_read(workshop: Workshop) -> None:
    found = workshop.read(workshop.signed("mp4")[0])
    assert found.signer == "Understudy (Understudy user)"
    assert found.claim is not None and found.claim.issuer.startswith("Understudy private authority ")
    assert [each.action for each in found.actions] == ["c2pa.opened", "c2pa.edited", "c2pa.watermarked.unbound"]
    assert found.actions[1].source_type == FACTS.treatment.source_type
    assert found.actions[1].software == "Understudy"
    said = dict(found.facts)
    assert said.pop("ftyp")
    made = [each["data"] for each in manifest.compose(FACTS)["assertions"] if each["label"] == manifest.MAKING]
    assert [said] == made
    assert (found.signed_at, found.timestamped) == (FACTS.made, False)
    assert found.expires == workshop.who.expires
    assert any("no time stamp" in note for note in found.notes)
    assert [(each.depth, each.relationship, each.title, each.claim) for each in found.ingredients] == [
        (1, "parentOf", "source", None)
    ]


def test_nothing_of_anybody_is_in_a_manifest(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    for ending in ("mp4", "mkv"):
        named = shutil.copy(workshop.plain(ending), folder / f"jane_at_home.{ending}")
        out = folder / f"jane_swapped.{ending}"
        workshop.sign(Path(named), Path(named), out)
        beside = credentials.detached_path(str(out))
        store = beside.read_bytes() if ending == "mkv" else boxes.embedded(out).content  # type: ignore[union-attr]
        local = [name for name in (os.environ.get("USER", ""), os.uname().nodename) if len(name) > 4]  # else by chance
        for word in ("jane", "doe", str(tmp_path), *local):
            assert word.lower().encode() not in store.lower()
        assert b"4711" in store


# -- a changed bit


def flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


def changed(workshop: Workshop, ending: str, which: str, at: int, bit: int, scratch: Path) -> credentials.Credentials:
    """What is said of a copy with one bit changed, in the file or in what lies beside it."""
    path, beside = workshop.signed(ending)
    copy = scratch / path.name
    put = {copy: path.read_bytes()} | ({credentials.detached_path(str(copy)): beside.read_bytes()} if beside else {})
    target = copy if which == "file" else credentials.detached_path(str(copy))
    put[target] = flipped(put[target], at % len(put[target]), bit)
    for file, content in put.items():
        file.write_bytes(content)
    return workshop.read(copy)


PARTS = [*((ending, "file") for ending in (*EMBEDDED, "mkv", "webm")), ("mkv", "beside"), ("webm", "beside")]


def length(workshop: Workshop, ending: str, which: str) -> int:
    file, beside = workshop.signed(ending)
    return (beside if which == "beside" and beside else file).stat().st_size


@pytest.mark.parametrize(("ending", "which"), PARTS)
def test_a_bit_that_changed_is_named_wherever_it_is(
    workshop: Workshop, tmp_path: Path, ending: str, which: str
) -> None:
    for number, at in enumerate(range(0, length(workshop, ending, which), 149)):
        found = changed(workshop, ending, which, at, number % 8, tmp_path)
        assert found.state is State.INVALID and found.problems, at
        assert all(problem and problem.isprintable() for problem in found.problems)


def test_bits_that_mean_nothing_are_covered_as_well(workshop: Workshop, tmp_path: Path) -> None:
    """Those of the byte that says what a box's description has, where each assertion begins."""
    _, beside = workshop.signed("mkv")
    assert beside is not None
    store = beside.read_bytes()
    description = rb"jumd.{4}\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"
    places = [found.end() for found in re.finditer(description, store)]
    assert len(places) > 6
    for at, bit in itertools.product(places, range(8)):
        assert changed(workshop, "mkv", "beside", at, bit, tmp_path).state is State.INVALID, (at, bit)


@settings(max_examples=60)
@given(at=st.integers(0, 1 << 20), bit=st.integers(0, 7), part=st.sampled_from(PARTS))
@example(at=9, bit=0, part=("mp4", "file"))  # the first box, which the standard's hash leaves out
@example(at=40, bit=3, part=("mp4", "file"))  # the type of the store's box
@example(at=8000, bit=7, part=("mp4", "file"))  # zeros that pad the signature
def test_any_bit_that_changed_is_named(
    workshop: Workshop, tmp_path_factory: pytest.TempPathFactory, at: int, bit: int, part: tuple[str, str]
) -> None:
    found = changed(workshop, *part, at, bit, tmp_path_factory.getbasetemp())
    assert found.state is State.INVALID and found.problems


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("ending", "which"), PARTS)
def test_every_single_byte_counts(workshop: Workshop, tmp_path: Path, ending: str, which: str) -> None:
    unnamed = [
        at
        for at in range(length(workshop, ending, which))
        if changed(workshop, ending, which, at, at % 8, tmp_path).state is not State.INVALID
    ]
    assert unnamed == []


def place(content: bytes, mark: bytes) -> int:
    assert content.count(mark) >= 1
    return content.index(mark)


@pytest.mark.parametrize(
    ("mark", "ahead", "problem"),
    [
        (b"mdat", 60, verdict.CHANGED_FILE),
        (b"mvhd", 30, verdict.CHANGED_FILE),
        (b"00a1b2c3d4e5", 3, verdict.CHANGED_MANIFEST),
        (b"Understudy result", 14, "the signature does not go with the manifest: one of them has been changed"),
        (b"cpad", 5000, "what stands around the manifest's own words has been changed since it was signed"),
        (b"ftyp", 5, "the file's first box has been changed since it was signed"),
    ],
)
def test_what_has_changed_is_said(workshop: Workshop, tmp_path: Path, mark: bytes, ahead: int, problem: str) -> None:
    at = place(workshop.signed("mp4")[0].read_bytes(), mark) + ahead
    assert changed(workshop, "mp4", "file", at, 0, tmp_path).problems == (problem,)


@pytest.mark.parametrize("kind", [b"free", b"skip"])
def test_what_lies_in_unused_boxes_counts(workshop: Workshop, tmp_path: Path, kind: bytes) -> None:
    partial, out = tmp_path / "partial.mp4", tmp_path / "out.mp4"
    partial.write_bytes(workshop.plain("mp4").read_bytes() + (8 + 64).to_bytes(4, "big") + kind + b"hidden" + bytes(58))
    workshop.sign(partial, partial, out)
    assert workshop.read(out).state is State.TRUSTED
    out.write_bytes(flipped(out.read_bytes(), place(out.read_bytes(), b"hidden"), 1))
    assert workshop.read(out).problems == (verdict.CHANGED_FILE,)


@pytest.mark.parametrize("ending", ["mp4", "avi"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_file_that_was_cut_is_not_valid(workshop: Workshop, tmp_path: Path, ending: str, kept: float) -> None:
    content = workshop.signed(ending)[0].read_bytes()
    cut = tmp_path / f"cut.{ending}"
    cut.write_bytes(content[: int(len(content) * kept)])
    found = workshop.read(cut)
    assert found.state is (State.INVALID if ending == "mp4" or kept > 0.5 else State.NONE)


def test_a_manifest_beside_another_file_is_not_valid(workshop: Workshop, tmp_path: Path) -> None:
    _, beside = workshop.signed("mkv")
    assert beside is not None
    found = credentials.read(workshop.plain("webm"), beside, workshop.anchors)
    assert (found.state, found.problems) == (State.INVALID, (verdict.CHANGED_FILE,))


# -- what a file was made from


def test_a_result_made_twice_has_both_manifests(workshop: Workshop, tmp_path: Path) -> None:
    once, _ = workshop.signed("mp4")
    twice = tmp_path / "twice.mp4"
    parent = workshop.sign(workshop.plain("mp4"), once, twice, replace(FACTS, job="4712"))
    assert parent is not None and parent.is_kept and parent.credentials.state is State.TRUSTED
    found = workshop.read(twice)
    assert found.state is State.TRUSTED
    assert found.facts["job"] == "4712"
    chain = [(each.depth, each.claim.facts["job"] if each.claim else None) for each in found.ingredients]
    assert chain == [(1, "4711"), (2, None)]
    assert found.ingredients[0].problems == ()
    inner = place(twice.read_bytes(), b"4711")
    twice.write_bytes(flipped(twice.read_bytes(), inner, 0))
    assert workshop.read(twice).state is State.INVALID


def test_a_chain_goes_through_files_that_have_it_beside_them(workshop: Workshop, tmp_path: Path) -> None:
    first, _ = workshop.signed("mkv")
    second, third = tmp_path / "second.mp4", tmp_path / "third.webm"
    for source, partial, out, job in (
        (first, workshop.plain("mp4"), second, "4712"),
        (second, workshop.plain("webm"), third, "4713"),
    ):
        parent = workshop.sign(partial, source, out, replace(FACTS, job=job))
        assert parent is not None and parent.is_kept
    found = workshop.read(third)
    assert (found.state, found.detached) == (State.TRUSTED, True)
    assert [each.claim.facts["job"] for each in found.ingredients if each.claim] == ["4712", "4711"]


def test_a_source_that_was_changed_is_kept_and_said_so(workshop: Workshop, tmp_path: Path) -> None:
    source, out = tmp_path / "source.mp4", tmp_path / "out.mp4"
    content = workshop.signed("mp4")[0].read_bytes()
    source.write_bytes(flipped(content, place(content, b"mdat") + 60, 0))
    parent = workshop.sign(workshop.plain("mp4"), source, out)
    assert parent is not None and parent.is_kept and parent.credentials.state is State.INVALID
    found = workshop.read(out)
    assert found.state is State.TRUSTED
    assert found.ingredients[0].problems == (verdict.CHANGED_FILE,)


def test_no_credentials_of_a_source_stop_its_result(workshop: Workshop, tmp_path: Path) -> None:
    once, _ = workshop.signed("mp4")
    twice, source, out = (tmp_path / name for name in ("twice.mp4", "source.mp4", "out.mp4"))
    workshop.sign(workshop.plain("mp4"), once, twice)
    content = twice.read_bytes()
    kept = 0
    for number, at in enumerate(range(40, len(content), 397)):
        source.write_bytes(flipped(content, at, number % 8))
        parent = workshop.sign(workshop.plain("mp4"), source, out)
        assert parent is not None
        kept += parent.is_kept
        found = workshop.read(out)
        assert (found.state, found.problems) == (State.TRUSTED, ()), at
        assert len(found.ingredients) == (3 if parent.is_kept else 1)
    assert kept > 5


@pytest.mark.parametrize("content", [b"", b"no clip at all", b"\0\0\0\x10ftypisom" + bytes(99), None])
def test_a_source_of_any_kind_is_an_ingredient(workshop: Workshop, tmp_path: Path, content: bytes | None) -> None:
    source, out = tmp_path / "source", tmp_path / "out.mp4"
    if content is not None:
        source.write_bytes(content)
    parent = workshop.sign(workshop.plain("mp4"), source, out)
    assert parent is not None and not parent.is_kept and parent.credentials.state is State.NONE
    found = workshop.read(out)
    assert found.state is State.TRUSTED and len(found.ingredients) == 1


@pytest.mark.parametrize(("source", "relationships"), [(None, []), ("mp4", ["inputTo"])])
def test_what_is_wholly_generated_was_not_opened(
    workshop: Workshop, tmp_path: Path, source: str | None, relationships: list[str]
) -> None:
    out = tmp_path / "out.mp4"
    facts = replace(FACTS, treatment=Treatment.GENERATION)
    workshop.sign(workshop.plain("mp4"), workshop.signed(source)[0] if source else None, out, facts)
    found = workshop.read(out)
    assert found.state is State.TRUSTED
    assert [each.action for each in found.actions] == ["c2pa.created", "c2pa.watermarked.unbound"]
    assert [each.relationship for each in found.ingredients if each.depth == 1] == relationships


# -- other signers


@pytest.mark.parametrize("algorithm", ["es256", "es384", "es512", "ps256", "ed25519"])
def test_a_bought_chain_is_trusted_by_its_root(workshop: Workshop, tmp_path: Path, algorithm: str) -> None:
    shop = bought(tmp_path, algorithm)
    who = signatory(Config(certificate=shop.chain, key=shop.key, algorithm=algorithm), workshop.home)
    out = tmp_path / "out.mp4"
    workshop.sign(workshop.plain("mp4"), workshop.plain("mp4"), out, who=who)
    assert workshop.read(out, [shop.root]).state is State.TRUSTED
    found = workshop.read(out)
    assert (found.state, found.signer) == (State.VALID, "leaf (Bought)")
    assert any("not among those that are trusted" in note for note in found.notes)


def test_the_anchors_of_several_are_trusted_at_once(workshop: Workshop, tmp_path: Path) -> None:
    shop = bought(tmp_path)
    found = workshop.read(workshop.signed("mp4")[0], [shop.root, *workshop.anchors])
    assert found.state is State.TRUSTED
    with pytest.raises(ValueError, match="PEM"):
        workshop.read(workshop.signed("mp4")[0], [b"-----BEGIN CERTIFICATE-----\nAAAA"])


def test_without_a_time_stamp_a_file_ends_with_its_certificate(workshop: Workshop, tmp_path: Path) -> None:
    shop = bought(tmp_path, lasts=timedelta(minutes=1, seconds=3))  # it began a minute ago
    who = signatory(Config(certificate=shop.chain, key=shop.key), workshop.home)
    out = tmp_path / "out.mkv"
    workshop.sign(workshop.plain("mkv"), workshop.plain("mkv"), out, who=who)
    assert workshop.read(out, [shop.root]).state is State.TRUSTED
    while datetime.now(UTC) <= who.expires + timedelta(seconds=1):
        time.sleep(0.1)
    found = workshop.read(out, [shop.root])
    assert found.state is State.INVALID
    assert found.problems == ("it was not signed while its certificate was good, or nothing proves that it was",)
    assert found.expires == who.expires
    with pytest.raises(PublishError, match="the certificate was not valid at time of signing"):
        workshop.sign(workshop.plain("mkv"), workshop.plain("mkv"), out, who=who)


def test_a_signer_that_fails_is_heard(workshop: Workshop, tmp_path: Path) -> None:
    def sign(data: bytes) -> bytes:
        raise RequirementError("the card is not in")

    who, out = replace(workshop.who, sign=sign), tmp_path / "out.mp4"
    with pytest.raises(RequirementError, match="the card is not in"):
        workshop.sign(workshop.plain("mp4"), workshop.plain("mp4"), out, who=who)
    assert not out.exists()
    with pytest.raises(RequirementError, match="the card is not in"):
        credentials.sign_detached(workshop.plain("mkv"), workshop.plain("mkv"), manifest.compose(FACTS), who)


def sign_by_hand(source: Path, out: Path, generator: str, who: Signatory, url: str = "") -> None:
    """As another program would."""
    definition = {
        "claim_generator_info": [{"name": generator, "version": "1"}],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": "http://c2pa.org/x"}]},
            },
            {"label": manifest.MAKING, "data": {"job": "1"}},
        ],
    }
    signer = c2pa.Signer.from_callback(who.sign, c2pa.C2paSigningAlg.ES256, who.chain_pem.decode(), None)
    settings = {"builder": {"thumbnail": {"enabled": False}}}
    with c2pa.Context.from_dict(settings) as context, c2pa.Builder(definition, context=context) as builder, signer:
        if url:
            builder.set_no_embed()
            builder.set_remote_url(url)
        with source.open("rb") as file, out.open("w+b") as target:
            builder.sign(signer, "video/mp4", file, target)


def test_manifests_of_other_programs_are_read(workshop: Workshop, tmp_path: Path) -> None:
    out, ours = tmp_path / "camera.mp4", tmp_path / "ours.mp4"
    sign_by_hand(workshop.plain("mp4"), out, "Camera\n\x1b[31m", workshop.who)
    found = workshop.read(out)
    assert found.state is State.TRUSTED
    assert found.claim is not None and found.claim.generator == "Camera\\n\\x1b[31m"
    assert found.facts == {} and found.signed_at is None
    parent = workshop.sign(workshop.plain("mp4"), out, ours)
    assert parent is not None and parent.is_kept
    assert [each.claim.generator for each in workshop.read(ours).ingredients if each.claim] == ["Camera\\n\\x1b[31m"]


# -- time stamps and the network


class Heard(http.server.ThreadingHTTPServer):
    """A server that counts what it is asked, and answers by a program."""

    def __init__(self, folder: Path) -> None:
        self.asked = 0
        self.folder = folder
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Heard

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_error(404)

    def do_POST(self) -> None:
        self.server.asked += 1
        folder = self.server.folder
        (folder / "query").write_bytes(self.rfile.read(int(self.headers["content-length"])))
        command = ["openssl", "ts", "-reply", "-config", "conf", "-queryfile", "query", "-out", "reply"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=30)
        reply = (folder / "reply").read_bytes()
        self.send_response(200)
        self.send_header("content-type", "application/timestamp-reply")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)


@contextmanager
def serving(folder: Path) -> Iterator[Heard]:
    with Heard(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def time_stamper(folder: Path) -> bytes:
    """Sets up `openssl ts`; the root that it stands on."""
    root = issue("stamps", None, ca=True)
    bare = issue("stamp", root, key_for("es256"))
    builder = (
        x509.CertificateBuilder()
        .subject_name(bare.certificate.subject)
        .issuer_name(root.certificate.subject)
        .public_key(bare.key.public_key())
        .serial_number(7)
        .not_valid_before(bare.certificate.not_valid_before_utc)
        .not_valid_after(bare.certificate.not_valid_after_utc)
    )
    for extension in bare.certificate.extensions:
        if not isinstance(extension.value, x509.ExtendedKeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    stamp = Holder(builder.sign(root.key, hashes.SHA256()), bare.key)
    (folder / "cert.pem").write_bytes(stamp.pem)
    (folder / "ca.pem").write_bytes(root.pem)
    write_key(folder / "key.pem", stamp.key)
    (folder / "serial").write_text("01\n")
    (folder / "conf").write_text(
        "[tsa]\ndefault_tsa = t\n[t]\nserial = serial\nsigner_cert = cert.pem\ncerts = ca.pem\nsigner_key = key.pem\n"
        "signer_digest = sha256\ndefault_policy = 1.2.3.4\ndigests = sha256, sha384, sha512\ness_cert_id_alg = sha256\n"
    )
    return root.pem


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl answers for the time-stamping authority")
def test_a_time_stamp_is_asked_for_and_read(workshop: Workshop, tmp_path: Path) -> None:
    root = time_stamper(tmp_path)
    out = tmp_path / "out.mp4"
    with serving(tmp_path) as server:
        workshop.sign(
            workshop.plain("mp4"), workshop.plain("mp4"), out, who=replace(workshop.who, timestamp_url=server.url)
        )
        asked = server.asked
        found = workshop.read(out, [*workshop.anchors, root])
        assert asked >= 1 and server.asked == asked
    assert found.state is State.TRUSTED and found.timestamped and found.problems == ()
    assert found.signed_at is not None and abs(found.signed_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert not any("time stamp" in note for note in found.notes)


def test_a_time_stamp_that_cannot_be_had_is_one_sentence(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    who = replace(workshop.who, timestamp_url="http://127.0.0.1:9/")
    with pytest.raises(PublishError, match=r"provenance\.timestamp_url \(http://127\.0\.0\.1:9/\)") as failed:
        workshop.sign(workshop.plain("mp4"), workshop.plain("mp4"), out, who=who)
    assert not out.exists()
    assert failed.value.errno == errno.EHOSTUNREACH, "which passes: what was made is kept, and signed later"


def test_nobody_is_asked_for_a_manifest(workshop: Workshop, tmp_path: Path) -> None:
    far, out = tmp_path / "far.mp4", tmp_path / "out.mp4"
    with serving(tmp_path) as server:
        sign_by_hand(workshop.plain("mp4"), far, "Camera", workshop.who, url=server.url)
        assert workshop.read(far).state is State.NONE
        workshop.sign(workshop.plain("mp4"), far, out)
        assert workshop.read(out).state is State.TRUSTED
        assert server.asked == 0


# -- hostile files, and disks that refuse


@settings(max_examples=40)
@given(junk=st.binary(max_size=300), ending=st.sampled_from(["mkv", "mp4"]))
def test_junk_beside_a_file_is_no_fault(
    workshop: Workshop, tmp_path_factory: pytest.TempPathFactory, junk: bytes, ending: str
) -> None:
    beside = tmp_path_factory.getbasetemp() / "junk.c2pa"
    beside.write_bytes(junk)
    assert credentials.read(workshop.plain(ending), beside, workshop.anchors).state is State.INVALID


@settings(max_examples=40)
@given(junk=st.binary(max_size=300), head=st.sampled_from([b"", b"\0\0\0\x10ftypisom", b"RIFF\0\0\0\0AVI "]))
def test_a_file_of_junk_is_no_fault(tmp_path_factory: pytest.TempPathFactory, junk: bytes, head: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "junk"
    file.write_bytes(head + junk)
    assert credentials.read(file).state in (State.NONE, State.INVALID)


def nested(depth: int) -> bytes:
    """A store of boxes within boxes."""
    described = b"jumdc2pa" + bytes.fromhex("00110010800000aa00389b71") + b"\3c2pa\0"
    described = (4 + len(described)).to_bytes(4, "big") + described
    size, heads = 0, []
    for _ in range(depth):
        size += 8 + len(described)
        heads.append(size.to_bytes(4, "big") + b"jumb" + described)
    return b"".join(reversed(heads))


@pytest.mark.parametrize("content", [nested(20_000), b"\x9f" * 100_000, bytes(17 << 20)], ids=["deep", "open", "long"])
def test_bombs_beside_a_file_are_told_of(workshop: Workshop, tmp_path: Path, content: bytes) -> None:
    beside = tmp_path / "bomb.c2pa"
    beside.write_bytes(content)
    found = credentials.read(workshop.plain("mkv"), beside, workshop.anchors)
    assert found.state is State.INVALID and len(found.problems) == 1


def test_files_that_cannot_be_read_are_one_sentence(workshop: Workshop, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, beside in ((tmp_path / "none", None), (pipe, None), (workshop.plain("mkv"), pipe)):
        with pytest.raises(InputError, match="cannot be read"):
            credentials.read(path, beside)


@contextmanager
def at_most(nbytes: int) -> Iterator[None]:
    """No file may grow longer: as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("nbytes", [100, 9000])
def test_a_disk_that_is_full_is_said_by_its_number(workshop: Workshop, tmp_path: Path, nbytes: int) -> None:
    out = tmp_path / "out.mp4"
    with at_most(nbytes), pytest.raises(PublishError, match=r"could not be signed: ") as caught:
        workshop.sign(workshop.plain("mp4"), workshop.plain("mp4"), out)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said_by_its_number(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"out\.mp4 could not be signed: no such file") as caught:
        workshop.sign(workshop.plain("mp4"), workshop.plain("mp4"), tmp_path / "gone" / "out.mp4")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(PublishError) as caught:
        credentials.sign_detached(tmp_path / "none.mkv", workshop.plain("mkv"), manifest.compose(FACTS), workshop.who)
    assert caught.value.errno == errno.ENOENT


def test_what_takes_no_manifest_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="has to lie beside it"):
        credentials.sign(
            workshop.plain("mkv"), workshop.plain("mkv"), manifest.compose(FACTS), workshop.who, tmp_path / "out"
        )


def test_an_avi_that_would_fill_the_memory_gets_its_manifest_beside_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert credentials.mime_for(workshop.plain("avi")) == "video/x-msvideo"
    monkeypatch.setattr(credentials, "LARGEST_AVI", 100)
    assert credentials.mime_for(workshop.plain("avi")) is None
    assert credentials.mime_for(workshop.plain("mp4")) == "video/mp4"


def test_a_name_that_is_too_long_is_shortened_as_a_reports_is() -> None:
    assert credentials.detached_path("/a/clip.mkv") == Path("/a/clip.mkv.c2pa")
    assert len(os.fsencode(credentials.detached_path("/a/" + "ä" * 125 + ".mkv").name)) <= 255


class StopError(Exception):
    pass


def test_whoever_waits_is_told_and_may_stop_it(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_SAID_EVERY_S", -1.0)
    told: list[int] = []
    out, definition = tmp_path / "out.mp4", manifest.compose(FACTS)
    credentials.sign(
        workshop.plain("mp4"), workshop.plain("mp4"), definition, workshop.who, out, lambda: told.append(1)
    )
    assert len(told) > 10
    out.unlink()

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError):
        credentials.sign(workshop.plain("mp4"), workshop.plain("mp4"), definition, workshop.who, out, stop)
    with pytest.raises(StopError):
        credentials.sign_detached(workshop.plain("mkv"), workshop.plain("mkv"), definition, workshop.who, stop)
    with pytest.raises(StopError):
        credentials.read(workshop.signed("mp4")[0], alive=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_library_spools_where_the_result_goes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for before in ("/somewhere", None):
        monkeypatch.setenv("TMPDIR", before) if before else monkeypatch.delenv("TMPDIR")
        with library.spooling_in(tmp_path):
            assert os.environ["TMPDIR"] == str(tmp_path)
        assert os.environ.get("TMPDIR") == before
