"""A daemon with a light chain, as a process of its own on real folders; and what must be true of these in the end."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline import live, result
from pipeline.errors import TableError
from pipeline.jobs import FILE, Entry, State, Table
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Picture
from tests.clips import make_clip

ROOT = Path(__file__).parents[2]

#: How long a file must have been still in these tests, seconds.
SETTLE_S = 0.4

_DAEMON = {"checkpoint_s": 0.5, "least_free_mb": 1, "drain_s": 10, "page": {"enabled": False}}
_FOLDER = {"settle_s": SETTLE_S, "suffixes": [".mp4", ".mkv", ".avi", ".ts"]}
_ENCODE = {"codec": "h264", "preset": "ultrafast", "threads": 1}


class Uploads:
    """A watched folder IN with its OUT, and the daemon of that folder, which may be started again and again.

    Attributes:
        base: what the daemon calls the folder that all is in.
        within: words before those of a command that have it run where the daemon runs.
    """

    within: Sequence[str] = ()

    def __init__(
        self,
        base: Path,
        daemon: Mapping[str, Any] | None = None,
        folder: Mapping[str, Any] | None = None,
        chain: Mapping[str, Any] | None = None,
    ) -> None:
        """What differs in the settings of the daemon and the folder; `chain` is the program's."""
        self.base = base
        for name in ("in", "out", "state", "work"):
            self.at(name).mkdir(exist_ok=True)
        config = {
            "daemon": {**_DAEMON, "state": "state", "work": "work", **(daemon or {})},
            "watch": [{**_FOLDER, "in": "in", "out": "out", **(folder or {})}],
            "encode": _ENCODE,
            "engine": {"ring_mb": 16, "scratch_kb": 16},
        }
        self.at("config.yaml").write_text(json.dumps(config))  # which is YAML
        self.at("chain.json").write_text(json.dumps(chain or {}))
        self._process: subprocess.Popen[bytes] | None = None

    def at(self, name: str) -> Path:
        """A file below `base`, as it is called from here."""
        return self.base / name

    # --- the daemon -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    def start(self) -> None:
        """Starts it; it is under way when this returns."""
        with self.at("said.txt").open("ab") as said:
            chain, config = str(self.base / "chain.json"), str(self.base / "config.yaml")
            self._process = subprocess.Popen(
                [*self.within, sys.executable, "-m", "tests.daemon.program", chain, "watch", "-c", config],
                cwd=ROOT,
                stdout=said,
                stderr=said,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends it in good order."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self.said()
        self._process = None

    def ended(self) -> int:
        """Waits until it ends by itself; its exit code."""
        assert self._process is not None
        code = self._process.wait(60)
        self._process = None
        return code

    def kill(self) -> None:
        """Ends it in none. What it had started goes by itself."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def said(self) -> str:
        """What it has printed: the log among others."""
        return self.at("said.txt").read_text(errors="replace")

    def live(self) -> live.Live | None:
        """What it says of itself."""
        told = live.read(self.at("state"))
        return told if told is not None and told.pid == self.pid else None

    def arriving(self) -> dict[str, str]:
        """What it says of files that it has not taken: why, by their names."""
        told = self.live()
        return {Path(one.source).name: one.reason for one in told.folders[0].arriving} if told is not None else {}

    def jobs(self) -> list[Entry]:
        """All rows, the oldest first; none where there is no table yet."""
        with self._table() as table:
            return table.listing(limit=1 << 20)[::-1] if table is not None else []

    def counts(self) -> Counter[State]:
        """How many rows there are in each state."""
        with self._table() as table:
            return Counter(table.counts() if table is not None else {})

    @contextmanager
    def _table(self) -> Iterator[Table | None]:
        """None where it is not there, or being made."""
        try:
            table = Table.looking(self.at("state") / FILE)
        except TableError as error:
            assert error.errno == errno.ENOENT, error
            yield None
            return
        with table:
            yield table

    def wait(self, until: Callable[[], bool], patience_s: float = 60.0, every_s: float = 0.1) -> None:
        """Waits, as long as the daemon runs."""
        deadline = time.monotonic() + patience_s
        while not until():
            assert self.running, self.said()
            assert time.monotonic() < deadline, f"{self.said()}\n{self.live()}"
            time.sleep(every_s)

    def done(self, count: int) -> bool:
        """Whether so many clips have been made, and none is under way."""
        states = self.counts()
        assert not states[State.FAILED] + states[State.BLOCKED], self.said()
        return states[State.DONE] >= count and not states[State.WAITING] + states[State.RUNNING]

    # --- what must be true ----------------------------------------------------------------------------------------

    def check(self, inputs: Mapping[str, bytes], frames: int, replaced: Collection[str] = ()) -> None:
        """Each input has been made exactly once, to one whole file of so many frames; nothing else is there.

        `inputs` are the clips by their names in IN, with what they hold; those in `replaced` may have been taken before
        they held that.
        """
        rows = [entry for entry in self.jobs() if entry.current]
        names = {os.path.relpath(entry.source, self.base / "in"): entry for entry in rows}
        assert names.keys() == inputs.keys()
        assert {entry.state for entry in rows} == {State.DONE}
        assert not {entry.source for entry in self.jobs() if not entry.current} - {
            str(self.base / "in" / name) for name in replaced
        }
        targets = {entry.target for entry in rows}
        assert len(targets) == len(rows)
        out = {str(self.base / "out" / path.relative_to(self.at("out"))) for path in files(self.at("out"))}
        assert out == targets | {str(result.path_for(target)) for target in targets}
        for name, entry in names.items():
            self._check(entry, inputs[name], frames)
        assert not list(self.at("work").iterdir())

    def _check(self, entry: Entry, held: bytes, frames: int) -> None:
        source, target = (self.at(os.path.relpath(path, self.base)) for path in (entry.source, entry.target))
        report = result.read(result.path_for(str(target)))
        assert report is not None
        assert report["job"] == entry.id
        assert report["source"]["sha256"] == entry.digest == hashlib.sha256(held).hexdigest()
        assert source.read_bytes() == held, "what was put in is what it was"
        assert report["output"]["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
        assert report["frames"] == entry.frames == counted(target) == frames

    def published(self) -> list[int]:
        """The jobs that the log says were published, one for each time."""
        lines = map(json.loads, self.at("state/log.jsonl").read_text().splitlines())
        return sorted(line["job"] for line in lines if line["message"].startswith(("published", "had been published")))


def files(folder: Path) -> list[Path]:
    """All of them, hidden ones too."""
    return [Path(here) / name for here, _, names in os.walk(folder) for name in names]


def counted(path: Path) -> int:
    """How many pictures come out of a file, by PyAV alone."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def clip_of(path: Path, frames: int = 12, noise: bool = False, width: int = 64, height: int = 48) -> bytes:
    """What a clip holds that is written to `path`; with `noise` it is as large as its pictures."""
    if noise:
        chance = np.random.default_rng(1)
        form = PIXEL_FORMATS["yuv420p"]
        planes = [
            tuple(chance.integers(0, 256, shape, np.uint8) for shape in form.shapes(width, height))
            for _ in range(frames)
        ]
        shown = [Picture(form, width, height, plane) for plane in planes]
        make_clip(path, pictures=shown, options={"preset": "ultrafast", "qp": "1"}, rate=Fraction(30))
    else:
        make_clip(path, frames=frames, width=width, height=height)
    return path.read_bytes()
