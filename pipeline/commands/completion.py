"""Prints a completion script for a shell."""

from __future__ import annotations

import argparse
import sys

SUMMARY = "print a shell completion script"

EXAMPLES = """\
  understudy completion bash > ~/.local/share/bash-completion/completions/understudy
  understudy completion zsh > "${fpath[1]}/_understudy"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")


def run(args: argparse.Namespace) -> int:
    """Prints the script on standard output."""
    import shtab

    from pipeline.__main__ import parser

    sys.stdout.write(shtab.complete(parser(), shell=args.shell) + "\n")
    return 0
