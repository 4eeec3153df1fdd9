"""A folder where the program is at home in tests: keys and an audit of its own, a configuration, verbs, a daemon."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.__main__ import main
from pipeline.errors import TableError
from pipeline.provenance.audit import Audit
from pipeline.provenance.audit_row import Row
from pipeline.provenance.home import Home
from tests.program import as_json, the_error

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Said:
    """How a verb ended: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one sentence of an error."""
        return the_error(self.err)

    @property
    def json(self) -> Any:
        """What was printed with --json."""
        return as_json(self.out)


@dataclass(frozen=True, slots=True)
class House:
    """The folder; config.yaml in it names `private` as the place of keys and audit."""

    folder: Path

    def configure(self, **settings: object) -> None:
        """Writes config.yaml, without a page."""
        daemon = {"page": {"enabled": False}, "least_free_mb": 0, "sheets": 0}
        content = {"provenance": {"folder": "private"}, "daemon": daemon, **settings}
        (self.folder / "config.yaml").write_text(json.dumps(content, default=str))

    @property
    def home(self) -> Home:
        """Its keys and its audit."""
        return Home(self.folder / "private")

    def rows(self, event: str = "") -> list[Row]:
        """The audit's, what was last first."""
        return list(Audit(self.home).rows(event))

    def run(self, *argv: str | Path) -> Said:
        """The program, in this process, as if it were started in this folder."""
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
        ):
            try:
                code = main([str(word) for word in argv])
            except SystemExit as end:  # argparse
                code = int(end.code or 0)
        out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
        return Said(code, out, err)

    def start(self, *argv: str | Path, **more: Any) -> subprocess.Popen[bytes]:
        """The same in a process of its own; what it says goes to the file `said`, unless `more` says otherwise."""
        with (self.folder / "said").open("ab") as said:
            streams = {"stdout": said, "stderr": said} | more
            return subprocess.Popen(
                [sys.executable, "-m", "pipeline", *map(str, argv)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                **streams,
            )

    @contextlib.contextmanager
    def service(self) -> Iterator[None]:
        """The daemon, while it is needed."""
        process = self.start("watch")
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, self.told()
        finally:
            process.kill()
            process.wait()

    def told(self) -> str:
        """All that processes of its own have said."""
        return (self.folder / "said").read_text()

    def wait(self, condition: Callable[[], object], seconds: float = 180.0) -> None:
        """Waits patiently; the machine has other things to do."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """What `jobs list --json` says of each clip, by its folder's and its own name, as `in/a.mp4`."""
        if not (self.folder / ".understudy" / "jobs.sqlite").exists():
            return {}
        said = self.run("jobs", "list", "--json")
        if said.code == TableError.exit_code:  # it is being made
            return {}
        listed = said.json["jobs"]
        return {str(Path(each["source"]).relative_to(self.folder)): each for each in listed if each["current"]}

    def states(self) -> dict[str, str]:
        """The same, the states alone."""
        return {name: each["state"] for name, each in self.jobs().items()}
