"""Identities to try things with, and how hypothesis draws them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from pipeline.consent.identity import AGREED, EVIDENCE, KINDS, ROLES, Evidence, Identity, Scope

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
EVIDENCES = (Evidence("release", "ab" * 32),)


def made(**changes: Any) -> Identity:
    """Somebody who has agreed for a year, unsigned, a month ago."""
    facts: dict[str, Any] = {
        "id": "id-0123456789abcdef",
        "kind": "consented",
        "scope": Scope(),
        "issued": NOW - timedelta(days=30),
        "valid_from": NOW - timedelta(days=30),
        "valid_until": NOW + timedelta(days=335),
        "evidence": EVIDENCES,
        "contact": "consent@example.org",
    }
    return Identity(**{**facts, **changes})


def _lines(longest: int) -> st.SearchStrategy[str]:
    text = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=longest)
    return text.map(str.strip).filter(lambda line: bool(line) and line.isprintable())


def _words() -> st.SearchStrategy[tuple[str, ...]]:
    telling = st.sampled_from(
        ["NO", "null", "1", "1e3", "~", "- a", "a: b", "#x", "'", '"', "2027-01-01", "=", "&a", "*a"]
    )
    return st.lists(telling | _lines(64), max_size=4, unique=True).map(tuple)


def _moments() -> st.SearchStrategy[datetime]:
    return st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    """Any identity that there can be, unsigned."""
    kind = draw(st.sampled_from(KINDS))
    begin, end = sorted((draw(_moments()), draw(_moments())))
    hexadecimal = st.text("0123456789abcdef", min_size=64, max_size=64)
    evidence = st.builds(Evidence, st.sampled_from(EVIDENCE), hexadecimal)
    return Identity(
        id=f"id-{draw(st.text('0123456789abcdef', min_size=16, max_size=16))}",
        kind=kind,
        scope=Scope(
            tuple(draw(st.lists(st.sampled_from(ROLES), unique=True))),
            *(draw(_words()), draw(_words()), draw(_words()), draw(_words())),
        ),
        issued=draw(_moments()),
        valid_from=begin,
        valid_until=draw(st.none() | st.just(end)),
        evidence=tuple(draw(st.lists(evidence, min_size=1 if kind in AGREED else 0, max_size=3, unique=True))),
        contact=draw(_lines(200) if kind in AGREED else st.just("") | _lines(200)),
    )
