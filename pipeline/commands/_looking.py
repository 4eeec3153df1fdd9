"""What the verbs that look at a daemon share: where it keeps its state, and to wait without outliving whoever reads."""

from __future__ import annotations

import argparse
import select
import time
from collections.abc import Mapping
from dataclasses import make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.daemon_config import DaemonConfig

# As in pipeline.app, which loads more than there is to wait for here.
_DEFAULT_FILE = "config.yaml"


def add_state(parser: argparse.ArgumentParser) -> None:
    """The option that says where the daemon's state is."""
    parser.add_argument("--state", metavar="DIR", help="the daemon's folder (default: daemon.state of the settings)")


def state_folder(args: argparse.Namespace) -> Path:
    """The daemon's folder, absolute: --state, else what `app.load_settings` would find.

    Of the settings only the daemon's are read, so nobody waits for the stages' modules, and a mistake elsewhere does
    not keep anybody from looking at the daemon that runs. Raises ConfigError.
    """
    return Path(args.state).absolute() if args.state is not None else _settings(args).state.absolute()


def token_file(args: argparse.Namespace) -> Path:
    """Where the token of the daemon's page is: beside its state, unless the settings say where. Raises ConfigError.

    With --state and no settings named, those that lie about here are perhaps another daemon's.
    """
    from pipeline.status.page import TOKEN

    named = _settings(args).page.token_file if args.state is None or args.config is not None else None
    return named.absolute() if named is not None else state_folder(args) / TOKEN


def _settings(args: argparse.Namespace) -> DaemonConfig:
    from pipeline import config
    from pipeline.daemon_config import DaemonConfig

    path = Path(args.config if args.config is not None else _DEFAULT_FILE)
    settings = DaemonConfig()
    if args.config is not None or path.is_file():
        tree = config.read_file(path)
        try:
            settings = _changed(settings, tree, path.absolute().parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return _changed(settings, config.read_overrides(args.set), Path.cwd())


def _changed(settings: DaemonConfig, tree: Mapping[str, Any], folder: Path) -> DaemonConfig:
    """The settings with what `daemon` in a tree of all of them says."""
    from pipeline import config

    section = make_dataclass("Section", [("daemon", type(settings))], frozen=True)
    own = {key: value for key, value in tree.items() if key == "daemon"}
    changed: DaemonConfig = config.apply(section(settings), own, folder, entries=True).daemon
    return changed


def wait(seconds: float, out: TextIO) -> None:
    """Sleeps. Raises BrokenPipeError as soon as nobody reads `out` any more, which is noticed else by writing only."""
    reader = select.poll()
    reader.register(out.fileno(), 0)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if reader.poll(left * 1000):
            raise BrokenPipeError
