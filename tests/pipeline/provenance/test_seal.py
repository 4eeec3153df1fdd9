"""The seal: nothing gets through that is not marked, agreed to, signed, read back and written down."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from models import carried
from pipeline.consent import settings as consent
from pipeline.consent.identity import Identity, to_bytes
from pipeline.consent.registry import Registry
from pipeline.door import Door
from pipeline.errors import ConfigError, ConsentError, PublishError, RequirementError, TableError
from pipeline.failures import errno_of
from pipeline.messages import Finish
from pipeline.pixels import PIXEL_FORMATS
from pipeline.provenance import credentials, settings
from pipeline.provenance.audit import Audit
from pipeline.provenance.credentials import State
from pipeline.provenance.home import Home
from pipeline.provenance.seal import Config, Sealer
from pipeline.provenance.signatory import signatory
from pipeline.provenance.verdict import Credentials
from pipeline.publish import SEALING, partial_path, path_beside
from pipeline.result import sha256
from pipeline.specs import Outcome
from pipeline.types import Clip, Job, Pulse, Report, Sealed
from tests.clips import make_clip
from tests.consent import identity_of
from tests.pipeline.consent.samples import made
from tests.pipeline.provenance.certificates import bought

#: Names that nobody else shall come to read.
WHO = ("anna-lena", "bert")
ROLES = {"anna-lena": ("replace",), "bert": ("appear",)}
MARKS: Report = {"payload": "00a1b2c3d4e5", "watermark": 1, "label": 1, "label_text": "AI-generated"}
FACTS = {"job": 7, "source_sha256": "cd" * 32}
MODEL = "ab" * 32


class Workshop:
    """A home, a model that two people are in, and a clip that wants to be published."""

    def __init__(self, place: Path, ending: str = "mp4", **people: Identity | None) -> None:
        self.home = Home(place / "home")
        known = dict(zip(WHO, (identity_of("a"), identity_of("b")), strict=True))
        self.people: dict[str, Identity | None] = {**known, **people}
        self.model = place / "model"
        self.model.mkdir()
        carried.put(self.model, {each.digest: to_bytes(each) for each in self.people.values() if each is not None})
        self.source = make_clip(place / f"source.{ending}")
        self.out = place / "out"
        self.out.mkdir()
        self.target = self.out / f"a.{ending}"
        self.partial = partial_path(str(self.target), 7)
        Path(self.partial).write_bytes(self.source.read_bytes())
        paths = (str(self.source), str(self.target), self.partial)
        self.clip = Clip(7, *paths, 64, 48, PIXEL_FORMATS["yuv420p"], Fraction(1, 30), payload=0xA1B2C3D4E5)

    def config(self, **changes: Any) -> Config:
        people = {person: identity.digest if identity else "" for person, identity in self.people.items()}
        own = Config(self.home, settings.Config(), consent.Config(), str(self.model), MODEL, people, ROLES)
        return replace(own, **changes)

    def sealer(self, **changes: Any) -> Sealer:
        return Sealer(self.config(**changes))

    def seal(self, marks: Report = MARKS, **changes: Any) -> Sealed:
        return self.sealer(**changes).seal(self.clip, {"disclose": marks}, FACTS, lambda: None)

    def record(self, marks: Report = MARKS, **changes: Any) -> dict[str, Any]:
        more = {**FACTS, "output_sha256": "ef" * 32}
        return self.sealer(**changes).record(self.clip, {"disclose": marks}, more)

    def read(self, sealed: Sealed) -> Credentials:
        beside = None if sealed.beside is None else Path(sealed.beside[0])
        return credentials.read(Path(self.partial), beside, [self.home.authority.read_bytes()])

    def rows(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(row.event, row.facts) for row in Audit(self.home).rows()]

    def revoke(self, person: str = "bert") -> None:
        identity = self.people[person]
        assert identity is not None
        Registry(self.home).revoke(identity.id, f"{person} has changed their mind", datetime.now(UTC))

    def left(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir())


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


# --- what is sealed ---------------------------------------------------------------------------------------------------


def test_what_is_signed_says_what_was_done(workshop: Workshop) -> None:
    sealed = workshop.seal()
    found = workshop.read(sealed)
    assert (found.state, found.problems, sealed.beside) == (State.TRUSTED, (), None)
    assert found.claim is not None
    people = [{"id": each.id, "digest": each.digest} for each in workshop.people.values() if each is not None]
    wanted = {"job": "7", "treatment": "swap", "source_sha256": "cd" * 32, "payload": "00a1b2c3d4e5", "model": MODEL}
    assert {name: found.claim.facts[name] for name in wanted} == wanted
    assert found.claim.facts["identities"] == people
    assert found.claim.facts["marks"] == {"watermark": 1, "label": 1, "label_text": "AI-generated"}
    assert found.claim.actions[1].source_type.endswith("/compositeWithTrainedAlgorithmicMedia")
    content = Path(workshop.partial).read_bytes()
    assert not [name for name in (*WHO, workshop.source.name, workshop.target.name) if name.encode() in content]
    assert workshop.left() == [Path(workshop.partial).name]
    assert workshop.rows() == [], "it has no name yet"


def test_the_report_says_how(workshop: Workshop) -> None:
    sealed = workshop.seal({**MARKS, "found_payload": "0123456789ab", "found_confidence": 0.75})
    assert datetime.fromisoformat(str(sealed.report["signed_until"])) > datetime.now(UTC) + timedelta(days=300)
    assert {name: value for name, value in sealed.report.items() if name != "signed_until"} == {
        "credentials": "embedded",
        "signer": "Understudy (Understudy user)",
        "input_payload": "0123456789ab",
        "input_confidence": 0.75,
    }


def test_what_cannot_hold_it_gets_it_beside(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, "mkv")
    before = Path(workshop.partial).read_bytes()
    sealed = workshop.seal()
    assert Path(workshop.partial).read_bytes() == before
    assert sealed.report["credentials"] == "beside" and sealed.beside is not None
    assert sealed.beside == (partial_path(f"{workshop.target}.c2pa", 7), f"{workshop.target}.c2pa")
    assert workshop.read(sealed).state is State.TRUSTED
    Path(workshop.partial).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert workshop.read(sealed).state is State.INVALID


def test_what_the_source_said_of_itself_stays(workshop: Workshop, tmp_path: Path) -> None:
    workshop.seal()
    workshop.source.write_bytes(Path(workshop.partial).read_bytes())
    (tmp_path / "again").mkdir()
    again = Workshop(tmp_path / "again")
    again.clip = replace(again.clip, source=str(workshop.source))
    sealed = again.seal(home=workshop.home)
    assert sealed.report["input_credentials"] == "trusted"
    found = credentials.read(Path(again.partial), None, [workshop.home.authority.read_bytes()])
    assert found.state is State.TRUSTED and [each.depth for each in found.ingredients] == [1, 2]


def test_the_reasons_of_what_was_left_out_are_signed_and_written_down(workshop: Workshop) -> None:
    why: Report = {
        "watermark": 0,
        "watermark_off_because": "a study without",
        "label": 0,
        "label_off_because": "as said",
    }
    found = workshop.read(workshop.seal(why))
    assert found.claim is not None and found.claim.facts["marks"] == why
    assert found.claim.facts["payload"] == "00a1b2c3d4e5", "the clip's own, where no mark says it"
    workshop.record(why)
    assert workshop.rows()[0][1]["marks"] == why


# --- what is not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["watermark", "label"])
@pytest.mark.parametrize("act", ["seal", "record"])
def test_unmarked_frames_are_not_published(workshop: Workshop, act: str, mark: str) -> None:
    before = Path(workshop.partial).read_bytes()
    for marks in ({**MARKS, mark: 0}, {name: value for name, value in MARKS.items() if name != mark}):
        with pytest.raises(PublishError) as caught:
            getattr(workshop, act)(marks)
        said = f"{workshop.target} is not published: its frames carry no {mark}, and nobody says why"
        assert str(caught.value) == said
    assert Path(workshop.partial).read_bytes() == before and workshop.rows() == []


def test_a_chain_without_the_stage_that_marks(workshop: Workshop) -> None:
    with pytest.raises(PublishError, match="its frames carry no watermark"):
        workshop.sealer().seal(workshop.clip, {"decode": {}}, FACTS, lambda: None)


@pytest.mark.parametrize("act", ["seal", "record"])
def test_consent_is_asked_for_each_time(workshop: Workshop, act: str) -> None:
    """Not only when the sealer is made: people change their minds while a clip is at work."""
    sealer = workshop.sealer()
    reports = {"disclose": MARKS}
    sealer.seal(workshop.clip, reports, FACTS, lambda: None)
    before = Path(workshop.partial).read_bytes()
    workshop.revoke()
    with pytest.raises(ConsentError, match=r"the identity of bert .* was revoked"):
        if act == "seal":
            sealer.seal(workshop.clip, reports, FACTS, lambda: None)
        else:
            sealer.record(workshop.clip, reports, {**FACTS, "output_sha256": "ef" * 32})
    assert Path(workshop.partial).read_bytes() == before
    assert [event for event, _ in workshop.rows()] == ["refused"]


@pytest.mark.parametrize(
    ("bert", "why"),
    [
        (None, "bert has no identity file: run understudy identity attach .*model bert=FACESET"),
        (made(valid_until=datetime(2026, 8, 31, tzinfo=UTC)), "expired"),
        (made(valid_from=datetime(2226, 1, 1, tzinfo=UTC), valid_until=None), "is not valid before"),
    ],
)
def test_whoever_is_not_covered_is_named_to_the_user_and_not_in_the_audit(
    tmp_path: Path, bert: Identity | None, why: str
) -> None:
    workshop = Workshop(tmp_path, bert=bert)
    with pytest.raises(ConsentError, match=why):
        workshop.seal()
    ((event, facts),) = workshop.rows()
    shown = [each for each in workshop.people.values() if each is not None]
    assert event == "refused" and set(facts) == {"job", "target", "model", "identities"}
    assert facts["identities"] == [[each.id, each.digest] for each in shown]
    assert not [name for name in WHO if name in json.dumps(facts)]


def test_a_model_whose_copy_of_an_identity_is_another(workshop: Workshop) -> None:
    """It is not even started with."""
    anna, bert = (workshop.people[name] for name in WHO)
    assert anna is not None and bert is not None
    copy = workshop.model / "identities" / f"{bert.digest}.yaml"
    copy.write_bytes(to_bytes(anna))
    with pytest.raises(ConsentError, match="is not the identity of bert that the model was trained with"):
        workshop.sealer()
    copy.unlink()
    with pytest.raises(ConsentError, match="is missing"):
        workshop.sealer()


def test_who_is_taken_to_be_the_user_is_counted(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, bert=None)
    asked = consent.Config("off-for-self")
    found = workshop.read(workshop.seal(consent=asked))
    workshop.record(consent=asked)
    ((_, facts),) = workshop.rows()
    assert facts["consent"] == {"policy": "off-for-self", "taken_to_be_the_user": 1}
    assert found.claim is not None and len(found.claim.facts["identities"]) == len(facts["identities"]) == 1


# --- what goes wrong --------------------------------------------------------------------------------------------------


def refuse(number: int) -> Callable[..., Any]:
    def act(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return act


@pytest.mark.parametrize(
    ("ending", "what"),
    [
        ("mp4", "pipeline.provenance.credentials.library.sign"),
        ("mp4", "pipeline.provenance.seal.Path.replace"),
        ("mkv", "pipeline.provenance.credentials.library.sign"),
        ("mkv", "pipeline.provenance.seal.write"),
    ],
)
def test_a_full_disk_is_told_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, what: str
) -> None:
    workshop = Workshop(tmp_path, ending)
    sealer = workshop.sealer()
    signatory(settings.Config(), workshop.home)  # which is made by replacing, too
    monkeypatch.setattr(what, refuse(errno.ENOSPC))
    with pytest.raises(PublishError, match="could not be signed: no space left on device") as caught:
        sealer.seal(workshop.clip, {"disclose": MARKS}, FACTS, lambda: None)
    assert errno_of(caught.value) == errno.ENOSPC


class Made:
    """A finisher with nothing left to do."""

    def make(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> Report:
        return {}

    def check(self, clip: Clip, pulse: Pulse) -> Report:
        return {}


def through_the_door(workshop: Workshop, sealer: Sealer) -> Outcome:
    Path(workshop.partial).rename(workshop.out / "taken")
    job = Job(7, workshop.clip.source, workshop.clip.target)
    clip = replace(workshop.clip, partial=str(workshop.out / "taken"))
    order = Finish(clip, Outcome(job, 12, reports={"disclose": MARKS}, seconds=1.0), {"report": True, "job": 7})
    return Door(Made(), lambda _: None, sealer)(order)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_whole_file_comes_through_the_door_with_all_that_belongs_to_it(tmp_path: Path, ending: str) -> None:
    workshop = Workshop(tmp_path, ending)
    outcome = through_the_door(workshop, workshop.sealer())
    assert outcome.failure is None
    beside = [f"{workshop.target.name}.c2pa"] if ending == "mkv" else []
    assert workshop.left() == sorted([workshop.target.name, f"{workshop.target.name}.json", *beside])
    ((event, facts),) = workshop.rows()
    assert event == "published"
    identities = [[each.id, each.digest] for each in workshop.people.values() if each is not None]
    assert facts == {
        "job": 7,
        "target": str(workshop.target),
        "payload": "00a1b2c3d4e5",
        "model": MODEL,
        "source_sha256": sha256(str(workshop.source), lambda: None),
        "output_sha256": sha256(str(workshop.target), lambda: None),
        "identities": identities,
        "marks": {"watermark": 1, "label": 1, "label_text": "AI-generated"},
        "consent": {"policy": "present", "taken_to_be_the_user": 0},
    }
    (row,) = Audit(workshop.home).rows()
    told = json.loads((workshop.out / f"{workshop.target.name}.json").read_text())["provenance"]
    written = {"number": row.number, "digest": row.digest}
    assert told == {"payload": "00a1b2c3d4e5", "identities": identities, "audit": written}


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("what", "error", "kind"),
    [
        ("pipeline.provenance.credentials.library.sign", PublishError("no time stamp could be had"), "PublishError"),
        (
            "pipeline.provenance.seal.signatory",
            RequirementError("the program that signs is missing"),
            "RequirementError",
        ),
        ("pipeline.provenance.seal.Audit.append", TableError("the audit is damaged"), "TableError"),
        ("pipeline.provenance.seal.reading.read", Credentials(State.INVALID, ("it has been changed",)), "PublishError"),
        ("pipeline.provenance.seal.reading.read", Credentials(State.VALID), "PublishError"),
        ("pipeline.provenance.seal.reading.read", Credentials(State.NONE), "PublishError"),
    ],
)
def test_what_could_not_be_sealed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, what: str, error: Any, kind: str
) -> None:
    workshop = Workshop(tmp_path, ending)

    def act(*_: Any, **__: Any) -> Any:
        if isinstance(error, Credentials):
            return error
        raise error

    sealer = workshop.sealer()
    monkeypatch.setattr(what, act)
    outcome = through_the_door(workshop, sealer)
    assert outcome.failure is not None and outcome.failure.error == kind
    assert workshop.left() == []
    if isinstance(error, Credentials):
        said = "; ".join(error.problems) or f"its credentials are {error.state.value}"
        assert outcome.failure.reason == f"{workshop.target} could not be signed so that it can be verified: {said}"


def test_whoever_takes_it_back_at_the_last_moment_keeps_it_from_having_a_name(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealer = workshop.sealer()
    monkeypatch.setattr("pipeline.door.check_unchanged", lambda *_: workshop.revoke())
    outcome = through_the_door(workshop, sealer)
    assert outcome.failure is not None and outcome.failure.error == "ConsentError"
    assert workshop.left() == [] and [event for event, _ in workshop.rows()] == ["refused"]


def test_what_is_left_of_a_killed_signing_is_in_nobodys_way(workshop: Workshop) -> None:
    into = Path(partial_path(str(path_beside(str(workshop.target), SEALING)), 7))
    into.write_bytes(b"half")
    assert workshop.read(workshop.seal()).state is State.TRUSTED and not into.exists()


def test_a_home_that_is_read_only(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when its disk has failed, which passes: nothing is made, and the number says that it is worth another try."""
    workshop.seal()
    sealer, before, opened = workshop.sealer(), Path(workshop.partial).read_bytes(), os.open

    def refusing(path: Any, flags: int, *more: Any, **other: Any) -> int:
        if str(path).startswith(str(workshop.home.folder)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *more, **other)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(ConfigError, match=r"provenance\.folder: .* cannot be used: read-only file system") as caught:
        sealer.seal(workshop.clip, {"disclose": MARKS}, FACTS, lambda: None)
    assert errno_of(caught.value) == errno.EROFS and Path(workshop.partial).read_bytes() == before
    with pytest.raises(TableError, match="Read-only") as failed:
        sealer.record(workshop.clip, {"disclose": MARKS}, {**FACTS, "output_sha256": "ef" * 32})
    assert errno_of(failed.value) == errno.EROFS


def test_whoever_signs_is_the_one_that_the_settings_name(workshop: Workshop, tmp_path: Path) -> None:
    shop = bought(tmp_path)
    sealed = workshop.seal(provenance=settings.Config(certificate=shop.chain, key=shop.key))
    assert sealed.report["signer"] == "leaf (Bought)"
    found = credentials.read(Path(workshop.partial), None, [shop.root])
    assert found.state is State.TRUSTED and found.claim is not None and found.claim.issuer.startswith("middle")
