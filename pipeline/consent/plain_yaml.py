"""YAML that strangers wrote, read as text in lists and mappings, and as nothing else.

Numbers, dates and words such as NO stay the text they are. What makes YAML dangerous or says the same in two ways is
refused: anchors and aliases (with which a few lines grow to gigabytes), tags, doubled keys, several documents, depth.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

#: Text, or lists and mappings of these.
Value = str | list["Value"] | dict[str, "Value"]

#: Things within things; what is ours has four.
_DEEPEST = 6


def load(data: bytes) -> Value:
    """The one document that `data` holds.

    The caller bounds its length. Raises ValueError: what is wrong and where, in half a sentence.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    try:
        return _document(yaml.parse(text, yaml.BaseLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{place}{getattr(error, 'problem', None) or 'it is no YAML'}") from error


def _document(events: Iterator[yaml.Event]) -> Value:
    next(events)  # the stream's begin
    if isinstance(next(events), yaml.StreamEndEvent):
        raise ValueError("it is empty")
    found = _value(events, next(events), 1)
    next(events)  # the document's end
    if not isinstance(next(events), yaml.StreamEndEvent):
        raise ValueError("it holds several documents")
    return found


def _value(events: Iterator[yaml.Event], event: yaml.Event, depth: int) -> Value:
    """What begins with `event`, taken from the events as far as it reaches."""
    where = _where(event)
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise ValueError(f"{where}: anchors and aliases are not taken")
    if getattr(event, "tag", None) is not None:
        raise ValueError(f"{where}: tags are not taken")
    if depth > _DEEPEST:
        raise ValueError(f"{where}: it goes too deep")
    if isinstance(event, yaml.ScalarEvent):
        return str(event.value)
    if isinstance(event, yaml.SequenceStartEvent):
        return [_value(events, each, depth + 1) for each in _until(events, yaml.SequenceEndEvent)]
    return _mapping(events, depth)


def _mapping(events: Iterator[yaml.Event], depth: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for event in _until(events, yaml.MappingEndEvent):
        where = _where(event)
        key = _value(events, event, depth + 1)
        if not isinstance(key, str):
            raise ValueError(f"{where}: a key must be a word")
        if key in found:
            raise ValueError(f"{where}: the key {key[:40]!r} stands twice")
        found[key] = _value(events, next(events), depth + 1)
    return found


def _until(events: Iterator[yaml.Event], end: type[yaml.Event]) -> Iterator[yaml.Event]:
    while not isinstance(event := next(events), end):
        yield event


def _where(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"
