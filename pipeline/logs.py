"""Standard logging to stderr, as plain lines for people or as one JSON object a line for machines.

A record's `fields` (given as `extra={"fields": {...}}`) are the machine's part of it: JSON lines carry them, plain
lines leave them out. File names may hold anything, so nothing is written before `printable` has seen it.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_TRACEBACK = "Traceback (most recent call last):"


def printable(text: str) -> str:
    """`text` on one line and safe to print: control characters and bytes that are no UTF-8 become escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class PlainLines(logging.Formatter):
    """`2026-01-31 12:00:00 warning message`; a traceback, where there is one, follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        when = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        message = record.getMessage()
        # A traceback from a stage's process comes as text, and keeps its lines.
        parts = message.splitlines() if message.startswith(_TRACEBACK) else [message]
        line = f"{when} {record.levelname.lower()} " + "\n".join(map(printable, parts))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line of ASCII."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def set_up(level: int, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Sends records of `level` and above to `stream` (stderr); replaces what an earlier call set up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
