"""The program's verbs, one file each: arguments, one call, printing; no maths.

A module here has `SUMMARY` (one line), `EXAMPLES` (what its --help ends with), `add_arguments(parser)` and
`run(args) -> exit code`. Its name is the verb. Importing one loads nothing heavy: what `run` needs it imports itself.
"""

from __future__ import annotations

from pathlib import Path


def names() -> tuple[str, ...]:
    """The verbs there are, in alphabetical order."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py")))
