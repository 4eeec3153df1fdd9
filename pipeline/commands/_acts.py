"""What verbs have in common that do several things, as `understudy audit list`: each a word with options of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.app import Settings


class Add(Protocol):
    """Adds one thing that a verb does, and gives the parser for its own arguments."""

    def __call__(
        self, name: str, summary: str, act: Callable[[argparse.Namespace], int], more: str = ""
    ) -> argparse.ArgumentParser:
        """`more` is said by its --help below the summary."""


def acts(parser: argparse.ArgumentParser) -> Add:
    """What adds things to do to a verb; `done` does the one that was asked for."""
    found = parser.add_subparsers(title="what to do", dest="what", metavar="WHAT", required=True)

    def add(
        name: str, summary: str, act: Callable[[argparse.Namespace], int], more: str = ""
    ) -> argparse.ArgumentParser:
        sub = found.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.{more and f' {more}'}",
            parents=[_options()],
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        sub.set_defaults(act=act)
        return sub

    return add


def _options() -> argparse.ArgumentParser:
    """Those of every verb once more, for they may stand after WHAT, too; what is not given there stays as it was."""
    more = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = more.add_argument_group("options of every verb")
    group.add_argument("-c", "--config", metavar="FILE", help="settings to use instead of ./config.yaml")
    group.add_argument("--set", metavar="KEY=VALUE", action="append", dest="set_here", help="overrides a setting")
    group.add_argument("--json", action="store_true", help="prints the result as JSON")
    group.add_argument("-v", "--verbose", action="store_true", help="shows the traceback of a defect")
    group.add_argument("-q", "--quiet", action="store_true", help="says nothing but errors and the result")
    return more


def done(args: argparse.Namespace) -> int:
    """Does what was asked for; the exit code."""
    args.set = [*args.set, *getattr(args, "set_here", [])]
    return int(args.act(args))


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that hold. Raises ConfigError."""
    from pipeline import app

    return app.load_settings(args.config, args.set)


def whole(text: str) -> int:
    """A number of an argument: digits."""
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)
