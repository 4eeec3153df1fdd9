"""Shows a training in the browser while it runs: where it is, the preview sheet, the curves, how it was judged, its
sessions and what happened.

It only reads the files that the training leaves in MODEL, so it can be started and stopped at any time, before,
during and after, and costs the training nothing. The address that it prints holds a token, without which nothing is
shown to anybody. From another computer: ssh -L 8385:localhost:8385 HOST, then the same address there."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.reports.present import Present

SUMMARY = "show a training in the browser while it runs"

EXAMPLES = """\
  understudy monitor model
  understudy monitor model --port 0                   (any port that is free)
  understudy monitor model --once                     (a few lines in the terminal, and no page)
  understudy monitor model --once --json
  understudy monitor model --host 0.0.0.0             (for the whole network: not encrypted)
"""

_LARGEST = 64 << 20  # bytes of a file that is shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("model", metavar="MODEL", help="the folder that `understudy train -o` makes")
    parser.add_argument("--host", metavar="NAME", default="127.0.0.1", help="the address it can be reached at")
    parser.add_argument("--port", metavar="N", type=int, default=8385, help="its port; 0 for any that is free")
    parser.add_argument("--once", action="store_true", help="only prints where the training is")


def run(args: argparse.Namespace) -> int:
    """Prints the address and serves until a signal comes, or prints where the training is."""
    from models.reports import present

    found = present.read(args.model)  # also refuses what is no folder
    if args.once:
        print(json.dumps(asdict(found), indent=2) if args.json else "\n".join(sentences(found)))
        return 0
    from pipeline.logs import printable
    from pipeline.status import training
    from pipeline.status.listening import Listener
    from pipeline.status.server import Server

    with Server(training.app(Files(Path(args.model))), Listener.at(args.host, args.port)) as server:
        if not server.is_local:
            print("note: others on the network can reach this, and read along: it is not encrypted", file=sys.stderr)
        print(json.dumps({"url": server.url}) if args.json else printable(server.url), flush=True)
        server.run()
    return 0


def sentences(found: Present) -> list[str]:
    """A training for people who have a terminal."""
    from models.reports import wording
    from pipeline.logs import printable

    reason = f": {found.reason}" if found.reason else ""
    lines = [f"{found.name}: {found.state}{reason}, {wording.count(found.iteration)} steps"]
    if found.loss:
        lines.append(f"loss: {wording.losses(found.loss)}")
    if found.heard:
        left = "" if found.left_s is None else f", about {wording.duration(found.left_s)} left"
        speed = "" if found.faces_per_s is None else f", {found.faces_per_s:.1f} faces a second"
        lines.append(f"this session: {wording.duration(found.seconds)}{left}{speed}; heard from at {found.heard}")
    for verdict in found.verdicts[:1]:
        values = ", ".join(f"{name} {value:.3g}" for name, value in verdict.metrics.items())
        lines.append(f"judged at step {wording.count(verdict.iteration)}: {values}")
    lines += [f"step {event['iteration']}: {event['what']} {event['text']}".rstrip() for event in found.events[:3]]
    return [printable(line) for line in lines]


class Files:
    """The page's source: the model's folder. What is long to read is read again only when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._stamp: object = None
        self._state: Mapping[str, Any] = {}

    def state(self) -> Mapping[str, Any]:
        """As `pipeline.status.training.Source.state`."""
        from models.reports import present
        from pipeline.status.training import FILES

        with self._lock:
            stamp = self._stamped()
            if stamp != self._stamp:
                self._state, self._stamp = asdict(present.read(self._folder)), stamp
            versions = {name: self._version(self._folder / name) for name in FILES}
        return {**self._state, "files": {name: version for name, version in versions.items() if version}}

    def content(self, name: str) -> bytes | None:
        """As `pipeline.status.training.Source.content`; `name` is one of FILES, so it leads nowhere else."""
        from models.durable import open_regular

        try:
            with open_regular(self._folder / name) as file:
                content = file.read(_LARGEST + 1)
        except OSError:
            return None
        return content if len(content) <= _LARGEST else None

    def _stamped(self) -> object:
        """What is another where anything that is shown may be."""
        from models import description, kept
        from models.train import journal

        file = self._folder / journal.FILE
        try:
            running = journal.is_written(file)
        except OSError:
            running = False
        return running, [self._version(self._folder / name) for name in (journal.FILE, description.FILE, kept.FOLDER)]

    @staticmethod
    def _version(file: Path) -> str:
        """Empty where it is not there."""
        try:
            found = file.stat()
        except OSError:
            return ""
        return f"{found.st_mtime_ns:x}-{found.st_size:x}"
