"""Says what this machine has, what is missing, and what to do about it. Exits with 7 if something needed is missing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from importlib import util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.doctor import Finding

SUMMARY = "say what this machine has and what is missing"

EXAMPLES = """\
  understudy doctor
  understudy doctor --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(args: argparse.Namespace) -> int:
    """Prints each finding as it is made."""
    from pipeline.doctor import examine
    from pipeline.errors import RequirementError

    findings = []
    for finding in examine(_encoders()):
        findings.append(finding)
        if not args.json and not (args.quiet and finding.state == "ok"):
            _show(finding)
    lacking = sum(finding.state == "missing" for finding in findings)
    if args.json:
        print(json.dumps({"ok": not lacking, "findings": [asdict(finding) for finding in findings]}, indent=2))
    elif not args.quiet:
        print(f"{lacking} missing: see above" if lacking else "all that is needed is here")
    return RequirementError.exit_code if lacking else 0


def _show(finding: Finding) -> None:
    print(f"{finding.state:8}{finding.name:10}{finding.what}", flush=True)
    if finding.remedy:
        print(f"{'':18}-> {finding.remedy}")


def _encoders() -> dict[str, str]:
    if util.find_spec("av") is None:
        return {}
    from stages.codecs import CODECS

    return {name: codec.encoder for name, codec in CODECS.items()}
