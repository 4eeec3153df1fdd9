"""Watches folders: drop a clip in, find the swapped clip in the out folder, sound and timing untouched.

A clip is taken once it has been still for a while (watch.N.settle_s), nobody writes to it any more and it is whole, so
it may be copied in slowly; hidden files and the temporary names of browsers and copy programs are passed over. What
has been taken stands in a table (`understudy jobs`), so a restart goes on where the last run ended: inside a clip at
its last checkpoint, and nothing is made twice. A result appears under its name when it is whole and checked, with a
report beside it (NAME.json). A clip that fails leaves its reason in OUT/failed; the others go on.

SIGTERM ends it in good order (exit 0), a second one at once; SIGHUP has it read the configuration again. Look at it
with `understudy status`, `understudy logs -f` and the page whose address it prints. docs/daemon.md has the rest."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    from pipeline.daemon import Daemon
    from pipeline.daemon_config import Setup
    from pipeline.lanes import Lane
    from pipeline.specs import Outcome, StageStats

_log = logging.getLogger(__name__)

SUMMARY = "watch folders and swap what is dropped into them"

EXAMPLES = """\
  understudy watch -c config.yaml
  understudy watch --model model --set 'watch=[{in: in, out: out}]'
  understudy watch -c config.yaml --once        (drain what is there, then exit: 4 if a clip failed)
  understudy watch -c config.yaml --json        (one JSON object a clip on standard output)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--once", action="store_true", help="deals with what is there, then exits")
    parser.add_argument("--model", metavar="FOLDER", help="the model for folders that name none of their own")
    parser.add_argument("--to", metavar="NAME", help="whose face to put there, by its name in the model (b)")


def run(args: argparse.Namespace) -> int:
    """Runs until it is stopped, or until all is done with --once."""
    from pipeline.daemon import Daemon
    from pipeline.errors import StageError

    daemon = Daemon(partial(_setup, args), _Teller(args.json))
    with _obeying(daemon) as ended_by:
        daemon.run(os.environ, args.once)
    if ended_by and ended_by[0] == signal.SIGINT:
        return 128 + signal.SIGINT
    return StageError.exit_code if args.once and daemon.failed else 0


def _setup(args: argparse.Namespace) -> Setup:
    """What the configuration says, each folder's model looked at. Raises ConfigError, WeightsError, PublishError."""
    from pipeline import app
    from pipeline.daemon_config import Setup, Watched
    from pipeline.errors import ConsentError
    from pipeline.inbox import prepare_folders

    settings = app.load_settings(args.config, args.set, args.model, args.to)
    prepare_folders(settings.watch)
    folders = []
    for folder in settings.watch:
        own = app.folder_settings(settings, folder)
        station = partial(app.station, settings, folder)
        try:
            station()  # a model that is not there is said now
        except ConsentError as error:  # its clips wait for that, those of other folders don't
            _log.warning("%s", error)
        folders.append(Watched(folder, station, partial(app.result_suffix, own)))
    return Setup(settings.daemon, tuple(folders))


class _Teller:
    """Prints the outcome of each clip, as a JSON object a line, with what the stages did for it."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._before: dict[Lane, tuple[StageStats, ...]] = {}

    def __call__(self, outcome: Outcome, lane: Lane | None) -> None:
        from pipeline import outcomes
        from pipeline.progress import since

        done: Sequence[StageStats] = ()
        if lane is not None:
            now, before = lane.now.stats, self._before.get(lane, ())
            done = since(now, before) if before else now
            self._before = {old: stats for old, stats in self._before.items() if old.state != "down"} | {lane: now}
        if self._as_json:
            told = {**outcomes.as_json(outcome), **outcomes.stages_as_json(done, outcome.seconds)}
            print(json.dumps(told), file=sys.stdout, flush=True)


@contextmanager
def _obeying(daemon: Daemon) -> Iterator[list[int]]:
    """Signals are obeyed meanwhile; gives those that ended it. The second one to say so does at once."""
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if came:
            os._exit(128 + number)  # stage processes see their pipes close, and go
        came.append(number)
        daemon.stop()

    def reload(number: int, frame: FrameType | None) -> None:
        daemon.reload()

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
