"""Says where a file comes from: reads all the marks that are in it and beside it, and tells whether a bit has changed.

`verify` looks at the content credentials (C2PA, in the file or beside it as .c2pa), the report beside it, the audit of
this machine, the container's tags and the invisible watermark. A file is proven if what covers every bit of it is
vouched for here: credentials by an authority that is trusted (ours, provenance.anchors, --anchors), or a row of the
audit. `detect` looks for the watermark alone. `init` makes the authority and the certificate that sign, which else
happens when the first result is signed; `show` says who signs.

Nothing of this asks the network. Exit codes of verify: 0 each file is proven and whole; 1 one of them is not proven: it
has no marks, or none that counts here; 3 one of them is not what it was, or cannot be read. Of detect: 0 found,
1 not found. 2 a wrong argument or setting; 8 the audit cannot be used."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from pipeline.commands._acts import acts, done, settings_of

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pipeline.app import Settings
    from pipeline.commands._layers import Looked, Trust
    from pipeline.provenance.home import Home
    from pipeline.provenance.signatory import Signatory

SUMMARY = "say where a file comes from, who signed it and whether a bit has changed"

EXAMPLES = """\
  understudy provenance verify swapped.mp4           (exits with 0 if it is proven and whole)
  understudy provenance verify finished/*.mkv --json
  understudy provenance verify theirs.mp4 --anchors their-authority.pem
  understudy provenance detect from-the-net.mp4      (is our watermark in it, and which job's?)
  understudy provenance init --export authority.pem  (for others, who can check our results with it)
  understudy provenance show
"""

_NOT_PROVEN, _NOT_FOUND = 1, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    add = acts(parser)
    looked = add("verify", "say where files come from, and whether a bit has changed", _verify)
    looked.add_argument("files", metavar="FILE", nargs="+", help="a video; what belongs to it is looked for beside it")
    looked.add_argument("--anchors", metavar="PEM", help="a file of further authorities to trust")
    found = add("detect", "look for the invisible watermark in a file", _detect)
    found.add_argument("file", metavar="FILE", help="a video: a result, or what has become of one")
    found.add_argument("--key", metavar="FILE", help="the 32 bytes to look with (default: this machine's)")
    made = add("init", "make the private authority and the keys, as far as they are missing", _init)
    made.add_argument("--force", action="store_true", help="another authority; results signed before stay valid")
    made.add_argument("--export", metavar="FILE", help="writes the authority's certificate, for others to trust")
    add("show", "say who signs results, until when, and what to know about it", _show)


def run(args: argparse.Namespace) -> int:
    """Does what was asked for."""
    return done(args)


def _verify(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pipeline.commands._layers import State, look
    from pipeline.errors import InputError
    from pipeline.logs import printable

    trust = _trust(args)
    codes, found = [], []
    for name in args.files:
        try:
            looked = look(Path(name), trust)
        except InputError as error:
            codes.append(InputError.exit_code)
            found.append({"file": name, "state": "unreadable", "verdict": str(error), "layers": {}})
            print(f"understudy: error: {printable(str(error))}", file=sys.stderr)
            continue
        code = {State.PROVES: 0, State.CONTRADICTS: InputError.exit_code}.get(looked.state, _NOT_PROVEN)
        codes.append(code)
        found.append(_as_json(looked))
        if not args.json:
            print("\n".join(map(printable, _screen(looked, args.quiet))))
    if args.json:
        print(json.dumps({"files": found}, indent=2))
    return max(codes)


def _trust(args: argparse.Namespace) -> Trust:
    from pathlib import Path

    from pipeline import app
    from pipeline.commands._layers import Trust
    from pipeline.provenance import authority
    from pipeline.provenance.audit import Audit
    from stages import watermark

    settings = settings_of(args)
    home = app.home(settings)
    named = [settings.provenance.anchors, Path(args.anchors) if args.anchors is not None else None]
    others = [_certificates(path) for path in named if path is not None]
    own = authority.anchors(home)
    if settings.provenance.certificate is not None:
        own.append(_certificates(settings.provenance.certificate))
    key = watermark.read_key(str(home.watermark_key)) if home.watermark_key.exists() else None
    return Trust(Audit(home), own, others, key)


def _certificates(path: Path) -> bytes:
    """A file of certificates. Raises ConfigError."""
    from cryptography import x509

    from pipeline.consent import private
    from pipeline.errors import ConfigError

    try:
        pem = private.read(path, 1 << 20)
        x509.load_pem_x509_certificates(pem)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificates in PEM; name what `provenance init --export` wrote") from error
    return pem


def _screen(looked: Looked, quiet: bool) -> list[str]:
    """The file's name, a line or some for each layer, the verdict; with `quiet` the verdict alone."""
    if quiet:
        return [f"{looked.path}: {looked.verdict}"]
    width = max(len(layer.name) for layer in looked.layers) + 2
    lines = [str(looked.path)]
    for layer in looked.layers:
        first, *more = layer.says
        lines += [f"  {layer.name:<{width}}{first}", *(f"  {'':<{width}}{line}" for line in more)]
    return [*lines, f"  {looked.verdict}"]


def _as_json(looked: Looked) -> dict[str, Any]:
    layers = {
        layer.name: {"state": str(layer.state), "says": list(layer.says), **layer.facts} for layer in looked.layers
    }
    found = {"file": str(looked.path), "sha256": looked.sha256, "state": str(looked.state), "verdict": looked.verdict}
    return {**found, "layers": layers}


def _detect(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pipeline import app
    from pipeline.commands._layers import confidence, first_row, told_of
    from pipeline.errors import ConfigError
    from pipeline.logs import printable
    from pipeline.provenance.audit import Audit
    from stages import containers, watermark, watermark_finder

    home = app.home(settings_of(args))
    key = Path(args.key) if args.key is not None else home.watermark_key
    if args.key is None and not key.exists():
        raise ConfigError(f"there is no watermark key here ({key}): nothing has been marked yet; name one with --key")
    secret = watermark.read_key(str(key))
    containers.check_regular(args.file)
    found = watermark_finder.detect(args.file, secret)
    payloads = [] if found is None else [f"{payload:012x}" for payload in (found.payload, *found.others)]
    rows = [first_row(Audit(home), payload=payload) for payload in payloads]
    if args.json:
        marks = [
            {"payload": payload, "job": row and row.facts.get("job"), "row": row and row.number}
            for payload, row in zip(payloads, rows, strict=True)
        ]
        facts = {"file": args.file, "found": bool(marks), "confidence": found and found.confidence}
        print(json.dumps(facts | {"marks": marks}))
        return 0 if marks else _NOT_FOUND
    if found is None:
        print("no watermark of this key is found")
        return _NOT_FOUND
    for payload, row in zip(payloads, rows, strict=True):
        sure = f", confidence {confidence(found)}" if payload == payloads[0] else ", a weaker one"
        print(printable(f"watermark {payload}{sure}: {told_of(row) if row else 'the audit here does not know it'}"))
    return 0


def _init(args: argparse.Namespace) -> int:
    from pipeline import app
    from pipeline.logs import printable
    from pipeline.provenance import authority

    settings = settings_of(args)
    home = app.home(settings)
    made = authority.init(home, args.force)
    if args.export is not None:
        _export(home, args.export)
    if args.json:
        print(json.dumps({"folder": str(home.folder), "made": list(made), "exported": args.export}))
        return 0
    print(printable(f"made in {home.folder}: {', '.join(made)}" if made else f"all there already: {home.folder}"))
    if not args.quiet:
        for line in _advice(settings, home, args.export):
            print(printable(line))
    return 0


def _advice(settings: Settings, home: Home, exported: str | None) -> list[str]:
    """What to know about the keys."""
    lines = ["keep the *.key files to yourself, and a copy: without watermark.key older watermarks are not found"]
    if exported is None:
        lines.append("others check results with authority.pem: understudy provenance init --export FILE")
    else:
        lines.append(f"others check results with it: understudy provenance verify FILE --anchors {exported}")
    if settings.provenance.certificate is not None:
        lines.append(f"results are signed with {settings.provenance.certificate}, though: provenance.certificate")
    return lines


def _export(home: Home, name: str) -> None:
    """Writes the certificates of our authorities, the one that is used now first. Raises ConfigError."""
    from pathlib import Path

    from pipeline.errors import ConfigError
    from pipeline.provenance import authority

    try:
        with Path(name).open("xb") as out:
            out.write(b"".join(authority.anchors(home)))
    except FileExistsError as error:
        raise ConfigError(f"{name} is there already; choose another name for the certificate") from error
    except OSError as error:
        raise ConfigError(f"{name} cannot be written: {(error.strerror or str(error)).lower()}") from error


def _show(args: argparse.Namespace) -> int:
    from pipeline import app
    from pipeline.logs import printable
    from pipeline.provenance.signatory import signatory

    settings = settings_of(args)
    home = app.home(settings)
    if settings.provenance.certificate is None and not home.signing.exists():
        facts = {"folder": str(home.folder), "signer": None}
        text = f"nobody signs yet: {home.folder} is made by understudy provenance init, or with the first result"
        print(json.dumps(facts) if args.json else printable(text))
        return 0
    found = signatory(settings.provenance, home)
    if args.json:
        facts = {"folder": str(home.folder), "signer": found.subject, "algorithm": found.algorithm}
        facts |= {"expires": found.expires.isoformat(), "timestamp_url": found.timestamp_url}
        print(json.dumps(facts | {"certificate": str(settings.provenance.certificate or home.signing)}, indent=2))
        return 0
    lines = _signs(settings, home, found)
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        print(printable(f"{name + ':':<{width}}{value}"))
    if found.timestamp_url is None and not args.quiet:
        print(f"without time stamps, what is signed now is not valid any more after {_day(found.expires)};")
        print("provenance.timestamp_url names an authority that gives them, and is asked over the network")
    return 0


def _signs(settings: Settings, home: Home, found: Signatory) -> list[tuple[str, str]]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    lines = [("signed by", found.subject), ("algorithm", found.algorithm), ("until", _day(found.expires))]
    lines.append(("certificate", str(settings.provenance.certificate or home.signing)))
    if settings.provenance.certificate is None:
        trusted = x509.load_pem_x509_certificates(found.chain_pem)[-1]
        print_of = trusted.fingerprint(hashes.SHA256()).hex()
        lines += [("authority", trusted.subject.rfc4514_string()), ("its SHA-256", print_of)]
    lines.append(("time stamps", found.timestamp_url or "none"))
    return [*lines, ("keys and audit", str(home.folder))]


def _day(moment: datetime) -> str:
    return f"{moment:%d %B %Y}"
