"""Shows and checks the audit: what was trained, published, refused, revoked and deleted on this machine.

Each row carries the digest of the one before, and the last is signed with the home's own key, so `verify` finds every
row that was changed, moved, put in or taken out, and names it. It cannot find that table and head were together put
back to what they once were: for that, the reports beside the results name their rows (`understudy provenance verify`),
and `export` makes a copy to keep elsewhere.

Exit codes: 2 there is no such row; 3 (list --file) the file cannot be read;
8 (verify) something is wrong with it, or it cannot be used."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.commands._acts import acts, done, settings_of, whole

if TYPE_CHECKING:
    from pipeline.provenance.audit import Audit, Row

SUMMARY = "show and check what was trained, published, refused and revoked here"

EXAMPLES = """\
  understudy audit list                              (what happened last comes first)
  understudy audit list --event published --identity id-0123456789abcdef
  understudy audit list --file swapped.mp4           (what is known of a file, whatever it is called by now)
  understudy audit list --payload 0123456789ab       (what a watermark leads to; see understudy provenance detect)
  understudy audit show 12
  understudy audit verify                            (is it what was written? exits with 8 if not)
  understudy audit export > audit.jsonl
"""

_EVENTS = ("published", "trained", "refused", "identity-added", "identity-revoked", "deleted", "broken")

_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    add = acts(parser)
    listed = add("list", "list what happened, what was last first", _list)
    listed.add_argument("--event", metavar="EVENT", choices=_EVENTS, help=f"only these: {', '.join(_EVENTS)}")
    listed.add_argument("--identity", metavar="ID", help="only what tells of this identity")
    listed.add_argument("--payload", metavar="HEX", type=_payload, help="only what made this watermark")
    listed.add_argument("--file", metavar="PATH", help="only what tells of a file with this one's content")
    listed.add_argument("-n", "--lines", metavar="N", type=whole, default=20, help="at most so many")
    listed.add_argument("--all", action="store_true", help="however many there are")
    add("show", "tell all about one row", _show).add_argument("number", metavar="N", type=whole, help="its number")
    add("verify", "read all of it and tell whether it is what was written", _verify)
    add("export", "print all rows, the first one first, as lines of JSON", _export)
    more = "What it is called then is printed; the next row that is written tells that those before it are missing."
    add("set-aside", "rename an audit that cannot be read any more, so that another one begins", _set_aside, more)


def run(args: argparse.Namespace) -> int:
    """Does what was asked for."""
    return done(args)


def _audit(args: argparse.Namespace) -> Audit:
    from pipeline import app
    from pipeline.provenance.audit import Audit

    return Audit(app.home(settings_of(args)))


def _list(args: argparse.Namespace) -> int:
    audit = _audit(args)
    digest = _digest(args.file) if args.file is not None else ""
    found = audit.rows(args.event or "", args.identity or "", digest, args.payload or "")
    rows = list(found if args.all else islice(found, args.lines + 1))
    left = not args.all and len(rows) > args.lines
    shown = rows[: args.lines] if left else rows
    if args.json:
        print(json.dumps({"rows": [as_json(row) for row in shown], "more": left}, indent=2))
        return 0
    print("\n".join(_screen(shown)))
    if left and not args.quiet:
        print("and more: see --all, -n, --event and --identity")
    return 0


def _digest(path: str) -> str:
    from pathlib import Path

    from pipeline.errors import InputError
    from pipeline.originals import digest

    try:
        return digest(Path(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _screen(rows: list[Row]) -> list[str]:
    """A line for each row below a line of titles; what does not fit is shortened."""
    from pipeline.logs import printable
    from pipeline.wording import table

    if not rows:
        return ["no rows"]
    cells = [("row", "when (UTC)", "event", "what", "whose")]
    cells += [
        (str(row.number), row.at[:19].replace("T", " "), row.event, what(row), ", ".join(whose(row))) for row in rows
    ]
    width = max(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns) if sys.stdout.isatty() else 1 << 20
    return table([tuple(map(printable, line)) for line in cells], width, 3, frozenset({0}))


def what(row: Row) -> str:
    """What a row is about, in a few words: a file, a model, a reason."""
    for name in ("target", "model", "path", "kind", "reason", "faults"):
        value = row.facts.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return "; ".join(map(str, value))
    return ""


def whose(row: Row) -> list[str]:
    """The identities that it tells of, in alphabetical order."""
    from pipeline.provenance.audit_row import mentions

    return sorted(value for kind, value in mentions(row.facts) if kind == "identity")


def as_json(row: Row) -> dict[str, Any]:
    """A row as --json and `export` print it; `facts_text` is what its digest was made of, byte for byte."""
    return {
        "number": row.number,
        "at": row.at,
        "event": row.event,
        "facts": dict(row.facts),
        "facts_text": row.written,
        "previous": row.previous,
        "digest": row.digest,
    }


def _show(args: argparse.Namespace) -> int:
    from pipeline.errors import ConfigError
    from pipeline.logs import printable

    row = _audit(args).row(args.number)
    if row is None:
        raise ConfigError(f"there is no row {args.number}; `understudy audit list` tells which there are")
    if args.json:
        print(json.dumps(as_json(row), indent=2))
        return 0
    intact = "" if row.computed == row.digest else "; its content is not what was written"
    facts = [("row", f"{row.number}, {row.event}{intact}"), ("when", row.at), *_flat(row.facts)]
    facts += [("digest", row.digest), ("the row before", row.previous)]
    width = max(len(printable(name)) for name, _ in facts) + 2
    for name, value in facts:
        print(f"{printable(name) + ':':<{width}}{printable(value)}")
    return 0


def _flat(facts: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and depth < 3:
            yield "  " * depth + name.replace("_", " "), ""
            yield from _flat(value, depth + 1)
        else:
            yield "  " * depth + name.replace("_", " "), value if isinstance(value, str) else json.dumps(value)


def _verify(args: argparse.Namespace) -> int:
    from pipeline.errors import TableError
    from pipeline.logs import printable

    audit = _audit(args)
    verdict = audit.verify()
    if args.json:
        facts = {"rows": verdict.rows, "head": verdict.head, "faults": list(verdict.faults)}
        print(json.dumps({"audit": str(audit.home.audit), **facts}, indent=2))
        return TableError.exit_code if verdict.faults else 0
    for fault in verdict.faults:
        print(printable(fault))
    rows = f"{verdict.rows} row{'' if verdict.rows == 1 else 's'}"
    if verdict.faults:
        faults = f"{len(verdict.faults)} fault{'' if len(verdict.faults) == 1 else 's'}"
        print(f"the audit is not what was written: {faults} in {rows}")
        return TableError.exit_code
    if not args.quiet:
        print(
            f"the audit is what was written: {rows}" + (f", the last one's digest {verdict.head}" * bool(verdict.rows))
        )
    return 0


def _export(args: argparse.Namespace) -> int:
    for row in _audit(args).rows(newest_first=False):
        print(json.dumps(as_json(row)))
    return 0


def _set_aside(args: argparse.Namespace) -> int:
    from pipeline.logs import printable

    kept = _audit(args).set_aside()
    print(json.dumps({"kept": str(kept)}) if args.json else f"the audit is kept as {printable(str(kept))}")
    return 0


def _payload(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{12}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 12 hexadecimal digits")
    return text.lower()
