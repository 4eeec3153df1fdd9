"""Watches folders: drop a clip in, find the swapped clip in the out folder. The models stay loaded between clips.

A clip is taken once it has been still for a while (watch.N.settle_s), so it may be copied in slowly. Hidden files and
the temporary names of browsers and copy programs are passed over. A clip that fails leaves NAME.failed.json in the out
folder, with the reason, and is not tried again until the clip changes or that file is deleted; the others go on."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.app import Settings
    from pipeline.engine import Engine
    from pipeline.inbox import WatchConfig
    from pipeline.specs import Outcome

SUMMARY = "watch folders and swap what is dropped into them"

EXAMPLES = """\
  understudy watch -c config.yaml
  understudy watch --model model --set 'watch=[{in: in, out: out}]'
  understudy watch -c config.yaml --once        (drain what is there, then exit: 4 if a clip failed)
  understudy watch -c config.yaml --json        (one JSON object a clip on standard output)
"""

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--once", action="store_true", help="deals with what is there, then exits")
    parser.add_argument("--model", metavar="FOLDER", help="the model for folders that name none of their own")
    parser.add_argument("--to", metavar="NAME", help="whose face to put there, by its name in the model (b)")


def run(args: argparse.Namespace) -> int:
    """Runs until it is stopped, or until all is done with --once."""
    from pipeline import app
    from pipeline.errors import StageError
    from pipeline.inbox import Inbox, prepare_folders
    from pipeline.progress import stage_table
    from pipeline.watch import Watcher

    settings = app.load_settings(args.config, args.set, args.model, args.to)
    prepare_folders(settings.watch)
    with ExitStack() as stack:
        engines: dict[tuple[Any, ...], Engine] = {}
        inboxes = {}
        for folder in settings.watch:
            own = _own_settings(settings, folder)
            key = (own.model, own.swap.to)
            if key not in engines:
                engines[key] = stack.enter_context(app.engine(own, app.stage_specs(own)))
            inboxes[Inbox(folder, lambda source: app.result_suffix(settings, source))] = engines[key]
            _log.info("watching %s; results go to %s", folder.inbox, folder.out)
        watcher = Watcher(inboxes, lambda outcome, stages: _tell(outcome, stages, args.json))
        begun = time.monotonic()
        watcher.run(args.once)
        if not args.json and not args.quiet:
            for engine in engines.values():
                print(stage_table(engine.stats(), time.monotonic() - begun))
    return StageError.exit_code if watcher.failed else 0


def _own_settings(settings: Settings, folder: WatchConfig) -> Settings:
    """The settings with what one watched folder says for itself."""
    swap = replace(settings.swap, to=folder.to) if folder.to else settings.swap
    return replace(settings, model=folder.model or settings.model, swap=swap)


def _tell(outcome: Outcome, stages: dict[str, Any], as_json: bool) -> None:
    from pipeline import outcomes

    if as_json:
        print(json.dumps({**outcomes.as_json(outcome), **stages}), file=sys.stdout, flush=True)
    level = logging.INFO if outcome.ok else logging.ERROR
    said = "published: " if outcome.ok else "failed: "
    _log.log(level, "%s", said + outcomes.sentence(outcome), extra={"fields": {"stages": stages}})
