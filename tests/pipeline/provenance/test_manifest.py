"""What a manifest says, as data."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pipeline.provenance import manifest
from pipeline.provenance.manifest import Facts, Treatment, compose

FACTS = Facts(
    job="17",
    payload="00a1b2c3d4e5",
    treatment=Treatment.SWAP,
    version="1.2",
    made=datetime(2026, 8, 2, 12, 30, 15, 999, timezone(timedelta(hours=2))),
    model_digest="ab" * 32,
    source_sha256="cd" * 32,
    identities=(("id-0123456789abcdef", "ef" * 32),),
    marks={"watermark": 1, "label": 0, "label_off_because": "shown beside it"},
)
IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def assertion(definition: dict[str, Any], label: str) -> dict[str, Any]:
    found = [each["data"] for each in definition["assertions"] if each["label"] == label]
    assert len(found) == 1
    return dict(found[0])


def actions(facts: Facts) -> list[dict[str, Any]]:
    return list(assertion(compose(facts), "c2pa.actions.v2")["actions"])


@pytest.mark.parametrize(
    ("treatment", "last", "names"),
    [
        (Treatment.SWAP, "compositeWithTrainedAlgorithmicMedia", ["c2pa.opened", "c2pa.edited"]),
        (Treatment.STAND_IN, "compositeWithTrainedAlgorithmicMedia", ["c2pa.opened", "c2pa.edited"]),
        (Treatment.REDACTION, "algorithmicallyEnhanced", ["c2pa.opened", "c2pa.edited"]),
        (Treatment.GENERATION, "trainedAlgorithmicMedia", ["c2pa.created"]),
    ],
)
def test_what_was_done_has_its_source_type(treatment: Treatment, last: str, names: list[str]) -> None:
    assert treatment.source_type == IPTC + last
    done = actions(replace(FACTS, treatment=treatment, marks={}))
    assert [each["action"] for each in done] == names
    assert done[-1]["digitalSourceType"] == IPTC + last


def test_the_edit_says_by_what_and_for_whom() -> None:
    opened, edited, marked = actions(FACTS)
    assert opened["parameters"] == {"ingredientIds": [manifest.SOURCE]}
    assert edited["softwareAgent"] == {"name": "Understudy", "version": "1.2"}
    assert edited["when"] == "2026-08-02T10:30:15Z"
    said = edited["parameters"]
    assert said["org.understudy.model"] == "ab" * 32
    assert said["org.understudy.identities"] == [{"id": "id-0123456789abcdef", "digest": "ef" * 32}]
    assert said["org.understudy.payload"] == "00a1b2c3d4e5"
    assert said["org.understudy.marks"]["label_off_because"] == "shown beside it"
    assert marked["action"] == "c2pa.watermarked.unbound"


def test_everything_is_in_our_own_assertion() -> None:
    assert assertion(compose(FACTS), manifest.MAKING) == {
        "version": 1,
        "job": "17",
        "treatment": "swap",
        "source_sha256": "cd" * 32,
        "made": "2026-08-02T10:30:15Z",
        "payload": "00a1b2c3d4e5",
        "model": "ab" * 32,
        "identities": [{"id": "id-0123456789abcdef", "digest": "ef" * 32}],
        "marks": dict(FACTS.marks),
    }


def test_a_watermark_that_is_off_is_no_action() -> None:
    bare = Facts("1", "0" * 12, Treatment.SWAP, "1", datetime.now(UTC), marks={"watermark": 0})
    assert [each["action"] for each in actions(bare)] == ["c2pa.opened", "c2pa.edited"]


def test_the_title_is_no_files_name_and_all_of_it_is_json() -> None:
    definition = compose(FACTS)
    assert definition["title"] == "Understudy result 00a1b2c3d4e5"
    assert json.loads(json.dumps(definition)) == definition
