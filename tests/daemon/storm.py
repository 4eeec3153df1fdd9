"""A daemon in a process of its own, in a folder of its own: started, killed, and looked at from all sides."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline import live
from pipeline.errors import TableError
from pipeline.jobs import FILE, Entry, State, Table
from tests.clips import decoded, packets

_ROOT = Path(__file__).parents[2]

#: Long enough for whatever has to happen, on a machine that has much else to do.
PATIENCE_S = 240.0

#: Nothing is set aside for having been killed by a test.
RETRY = {"attempts": 1000, "crashes": 1000, "backoff_s": 0}

LIGHT = [sys.executable, "-m", "tests.daemon.program", "chain.json"]
FULL = [sys.executable, "-m", "pipeline"]


@dataclass(frozen=True)
class Shown:
    """What a viewer gets of a file: digests of its pictures with their times, and of its sound."""

    frames: int
    pictures: str
    sound: str

    @classmethod
    def of(cls, path: Path) -> Shown:
        """Raises where the file cannot be decoded to its end."""
        pictures = hashlib.sha256()
        found = decoded(path)
        for pts, planes in found:
            pictures.update(f"{pts} ".encode())
            for plane in planes:
                pictures.update(plane.tobytes())
        sound = hashlib.sha256()
        for when, payload in packets(path, "audio"):
            sound.update(f"{float(when):.6f} ".encode() + payload)
        return cls(len(found), pictures.hexdigest(), sound.hexdigest())


@dataclass(frozen=True)
class Given:
    """What an input was when it was dropped."""

    sha256: str
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Given:
        status = path.stat()
        return cls(hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mtime_ns, status.st_ino)


@dataclass
class Place:
    """A folder in which a daemon works, and what has been dropped there."""

    root: Path
    chain: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=lambda: LIGHT)
    given: dict[str, Given] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = Path(os.path.realpath(self.root))
        self.inbox.mkdir(parents=True)
        daemon = {"state": "state", "checkpoint_s": 0.5, "least_free_mb": 0, "retry": RETRY, "page": {"enabled": False}}
        tree = {
            "daemon": daemon | self.settings.get("daemon", {}),
            "watch": [{"in": "in", "out": "out", "settle_s": 0, "rescan_s": 2}],
            "engine": {"ring_mb": 8} | self.settings.get("engine", {}),
            "encode": {"preset": "ultrafast", "threads": 1} | self.settings.get("encode", {}),
        }
        tree |= {name: value for name, value in self.settings.items() if name not in tree}
        (self.root / "config.yaml").write_text(yaml.safe_dump(tree))
        self.behave(self.chain)

    def behave(self, chain: dict[str, Any]) -> None:
        """From the next start on."""
        (self.root / "chain.json").write_text(json.dumps(chain))

    @property
    def inbox(self) -> Path:
        return self.root / "in"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def work(self) -> Path:
        return self.state / "work"

    def drop(self, clip: Path, name: str = "") -> str:
        """Puts a copy of the clip in, whole at once."""
        name = name or clip.name
        shutil.copy2(clip, self.root / "coming")
        (self.root / "coming").rename(self.inbox / name)
        self.given[name] = Given.of(self.inbox / name)
        return name

    def entries(self) -> list[Entry]:
        """The table's rows; none where it is not there (yet), or is being made."""
        try:
            with Table.looking(self.state / FILE) as table:
                return table.listing(limit=1 << 20)
        except TableError:
            return []

    def count(self, state: State) -> int:
        return sum(entry.state is state for entry in self.entries())

    def published(self) -> list[str]:
        """The names of finished files."""
        if not self.out.is_dir():
            return []
        return sorted(path.name for path in self.out.iterdir() if path.suffix != ".json" and path.is_file())

    def log(self, last: int = 60) -> str:
        """The end of the log, for a test that fails."""
        with suppress(OSError):
            return "\n".join((self.root / "stderr").read_text(errors="replace").splitlines()[-last:])
        return ""


class Service:
    """The daemon's process."""

    def __init__(self, place: Place) -> None:
        """Starts it."""
        self.place = place
        environ = {**os.environ, "PYTHONPATH": str(_ROOT)}
        with (place.root / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [*place.command, "watch", "-c", "config.yaml"],
                cwd=place.root,
                env=environ,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def children(self) -> list[psutil.Process]:
        """Those that it has spawned: stages, the door, the page, and Python's own."""
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    def stages(self) -> dict[str, psutil.Process]:
        """Stage processes and the door, by their names in `ps`, once they have begun."""
        found = {}
        for child in self.children():
            with suppress(psutil.Error):
                found[child.name()] = child
        return {name: child for name, child in found.items() if name.startswith("us-")}

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()

    @property
    def begun(self) -> bool:
        """Whether it says that it runs."""
        told = live.read(self.place.state)
        return told is not None and told.pid == self.process.pid

    def stop(self, by: signal.Signals = signal.SIGTERM, within_s: float = 60.0) -> int:
        """Ends it in good order, once it obeys; its exit code."""
        self.until(lambda: self.begun, "it had begun")
        self.process.send_signal(by)
        return self.process.wait(within_s)

    def until(self, done: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        """Waits; fails with the log where the daemon ends meanwhile, or it takes too long."""
        deadline = time.monotonic() + within_s
        while not done():
            assert self.alive, f"it ended with {self.process.returncode} before {what}\n{self.place.log()}"
            assert time.monotonic() < deadline, f"{what} took more than {within_s:g} s\n{self.place.log()}"
            time.sleep(0.05)


@contextmanager
def serving(place: Place) -> Iterator[Service]:
    """A daemon, ended in good order (exit 0) where nothing fails, else killed."""
    service = Service(place)
    try:
        yield service
        code = service.stop()
        assert code == 0, f"exit {code}\n{place.log()}"
    finally:
        service.kill()


def all_done(place: Place) -> bool:
    """Whether whatever was dropped is finished, by the table."""
    done = {Path(entry.source).name for entry in place.entries() if entry.state is State.DONE and entry.current}
    return done == set(place.given)


def time_of(service: Service, clip: Path, name: str) -> float:
    """Seconds from the drop of one more clip to its file, on a daemon that has nothing else to do."""
    place = service.place
    begun = time.monotonic()
    place.drop(clip, name)
    service.until(lambda: (place.out / name).exists(), f"{name} was published")
    seconds = time.monotonic() - begun
    service.until(lambda: all_done(place), f"{name} was done")
    return seconds


def processes_in(root: Path) -> list[str]:
    """Processes that work in the folder, wherever their parents have gone."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.name()}")
    return found


def check_files(place: Place, wanted: dict[str, Shown]) -> None:
    """Every input is done, once; every file whole, with its report; inputs as they were; nothing lies about."""
    rows = place.entries()
    assert sorted(Path(row.source).name for row in rows) == sorted(place.given), "one row for each input"
    assert {row.state for row in rows} <= {State.DONE}, [(row.source, row.state, row.reason) for row in rows]
    expected = {*place.given, *(f"{name}.json" for name in place.given)}
    assert set(os.listdir(place.out)) == expected, "each output with its report, and nothing else"  # noqa: PTH208
    for name, before in place.given.items():
        assert Given.of(place.inbox / name) == before, f"{name} was touched"
        report = json.loads((place.out / f"{name}.json").read_bytes())
        assert report["source"]["sha256"] == before.sha256
        assert report["output"]["sha256"] == hashlib.sha256((place.out / name).read_bytes()).hexdigest(), name
        shown = Shown.of(place.out / name)
        assert shown == wanted[name], f"{name} differs from that of an unbroken run: {report}"
        assert report["frames"] == shown.frames
    assert not list(place.work.iterdir()), "work folders"
    assert not list(place.root.rglob("*.part")), "half-written files"


def check_gone(place: Place, within_s: float = 60.0) -> None:
    """No process is left that worked there."""
    deadline = time.monotonic() + within_s
    while (left := processes_in(place.root)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, left


def appeared(look: Callable[[], object], service: Service, within_s: float = 60.0) -> bool:
    """Waits, looking all the time, until `look` finds something; False where it did not in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and service.alive:
        if look():
            return True
        time.sleep(0.0005)
    return False


def names(folder: Path) -> Iterable[str]:
    """What lies there now, hidden files included."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        return []


def pick(rng: random.Random, service: Service) -> psutil.Process | None:
    """Any child of the supervisor."""
    children = service.children()
    return rng.choice(children) if children else None


def parent_of(pid: int) -> int:
    """Whose child a process is; 0 where there is none of that id."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
