"""What counts the costs of marks and signing: shares add up, forbidden bytes are seen. Nothing is timed here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import fidelity, runs, signing, stamps
from benchmarks.marks import Costs, stamped
from benchmarks.rounds import Sample
from benchmarks.workshop import SIX, Workshop, table, unmarked
from pipeline.pixels import PIXEL_FORMATS
from pipeline.provenance import authority
from pipeline.provenance.home import Home
from pipeline.runner import chain
from pipeline.specs import Outcome, StageSpec, check_chain
from pipeline.types import Job, Report
from stages import decode, disclose
from stages.watermark import PEAK


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def turn(seconds: float, cpu_ms: float, size: float, **own: float) -> Sample:
    return Sample(1.0, {"seconds": seconds, "cpu_ms": cpu_ms, "bytes": size, **own})


def test_costs_are_shares_of_turns_beside_each_other() -> None:
    on = [turn(10 * n, 50 * n, 110, marking_cpu_s=0.4 * n, sealing_cpu_s=0.1 * n) for n in (1.0, 3.0, 2.0)]
    off = [turn(9 * n, 48 * n, 100) for n in (1.0, 3.0, 2.0)]  # the machine was three times as slow in between
    costs = Costs.of(on, off, 100)
    assert costs.time == pytest.approx(10)
    assert costs.cpu == pytest.approx(4)
    assert costs.own == pytest.approx(10)
    assert (costs.marking_s, costs.sealing_s, costs.bytes_ratio) == pytest.approx((0.8, 0.2, 1.1))


def test_what_marks_and_seal_took_is_taken_from_the_reports() -> None:
    reports: dict[str, Report] = {"disclose": {"marking_cpu_s": 0.5}, "publish": {"sealing_cpu_s": 0.1, "pictures": 3}}
    assert runs._told(Outcome(Job(1, "a", "b"), 1, reports=reports)) == {"marking_cpu_s": 0.5, "sealing_cpu_s": 0.1}
    assert runs._told(Outcome(Job(1, "a", "b"), 1, reports={"publish": {"pictures": 3}})) == {}


def test_a_real_job_marks_and_what_is_held_against_others_does_not(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    specs = workshop.chain(preset="sketch")
    assert not list(tmp_path.iterdir()), "a benchmark has written into the user's home"
    check_chain(specs, table(SIX))
    clip = workshop.clip(160, 90, 1, "ultrafast")
    for plain, marks in ((unmarked(specs), 0), (stamped(specs), 1)):
        said = reports_of(plain, clip)["disclose"]
        assert (said["watermark"], said["label"]) == (marks, marks)
        assert ("marking_cpu_s" in said) == bool(marks)


def reports_of(specs: tuple[StageSpec, ...], clip: Path) -> dict[str, Report]:
    """Of decoding and marking alone."""
    source, marking = specs[0].build(), next(spec for spec in specs if spec.name == "disclose").build()
    assert isinstance(source, decode.Decode)
    reports: dict[str, Report] = {}
    for _ in chain([source, marking], source.open(Job(1, str(clip), "")), reports):
        pass
    return reports


def test_the_stamped_stage_marks_as_the_stage_does(workshop: Workshop) -> None:
    spec = next(spec for spec in workshop.chain(preset="sketch") if spec.name == "disclose")
    assert isinstance(spec.build(), disclose.Disclose)
    shown = []
    for marking in (disclose.Disclose(spec.config), stamps.Disclose(spec.config)):
        stage = decode.Decode()
        clip = stage.open(Job(1, str(workshop.clip(160, 90, 1, "ultrafast")), ""))
        shown.append([[bytes(plane) for plane in one.picture.planes] for one in chain([stage, marking], clip)])
    assert shown[0] == shown[1] and len(shown[0]) == 30


def test_forbidden_changes_are_counted_wherever_they_are() -> None:
    was = np.full((8, 8), 100, np.uint8)
    face, label = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    face[0], label[1] = True, True
    now = was.copy()
    now[:2] = 200  # face and label may change as they like
    now[2, :3] += PEAK
    now[3, :2] -= PEAK + 1
    found = fidelity._Found()
    fidelity._add(found, was, now, face, label, True)
    assert (found.inside, found.labelled, found.luma, found.beyond, found.most) == (8, 8, 5, 2, PEAK + 1)
    assert found.samples == 48 and found.chroma == 0
    fidelity._add(found, was, now, face, label, False)
    assert found.chroma == 5, "chroma must not change at all"


def test_what_the_label_covers_is_found_in_every_plane(workshop: Workshop) -> None:
    clip = decode.Decode().open(Job(1, str(workshop.clip(640, 360, 0.5, "ultrafast")), ""))
    assert clip.pixel_format is PIXEL_FORMATS["yuv420p"]
    luma, *chroma = fidelity._labelled(clip)
    rows, columns = np.nonzero(luma)
    assert luma[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all(), "a box has no holes"
    assert rows.min() > 180 and columns.max() < 600
    under = luma.reshape(180, 2, 320, 2).any(axis=(1, 3))
    for plane in chroma:
        assert plane.any() and (plane <= under).all()


def test_results_are_signed_inside_and_beside_and_taken_away(workshop: Workshop) -> None:
    clip = workshop.clip(160, 90, 1, "ultrafast")
    home = workshop.folder / "signers"
    authority.ensure(Home(home))
    before = sorted(workshop.folder.iterdir())
    for sign in (signing.embedded, signing.beside):
        taken = sign(clip, clip, home)
        assert taken.signing_s > 0 and taken.reading_s > 0 and taken.peak_mib >= 0
    assert sorted(workshop.folder.iterdir()) == before


@pytest.mark.slow
def test_marks_change_luma_by_no_more_than_they_say(workshop: Workshop) -> None:
    result = fidelity.marked(True, workshop)
    assert result.measured == 0 and not result.unmet
    assert fidelity.untouched(True, workshop).measured == 0
