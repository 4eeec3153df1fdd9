"""A full disk, whichever it is: the daemon waits, says so, and goes on by itself when there is room."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TableError
from pipeline.jobs import Entry, Mark, State
from tests.daemon.uploads import ROOT, Uploads, clip_of, files

FRAMES = 75

#: Each of these is a file system of its own, of so many bytes.
DISKS = ("out", "work", "state")
SIZE = 6 << 20

#: A clip takes a second or so; what has failed is soon tried again, and so is a disk that has refused something.
CHAIN = {"trail": {"delay_s": 0.015}, "full_s": 10.0}
DAEMON = {"retry": {"longest_s": 1, "backoff_s": 1}}


class Apart(Uploads):
    """A daemon that sees small disks where nobody else does: in a mount namespace of its own."""

    def __init__(self, base: Path, **settings: Any) -> None:
        """Skips the test where that is not allowed."""
        own = ["--map-root-user"] if os.geteuid() else []
        words = ["unshare", *own, "--mount", "--kill-child", "sh", "-c", "echo; exec sleep 3600"]
        self._holder = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            pytest.skip(f"no file systems can be mounted here: {self._end().decode().strip()}")
        into = ["--user", "--preserve-credentials"] if own else []
        self.within = ("nsenter", f"--target={self._holder.pid}", "--mount", *into, "--wd")
        for name in DISKS:
            (base / name).mkdir()
            self.mount(base / name)
        super().__init__(base, daemon=DAEMON | settings.pop("daemon", {}), chain=CHAIN, **settings)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._end()

    def _end(self) -> bytes:
        self._holder.kill()
        return self._holder.communicate()[1]

    def at(self, name: str) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{self.base / name}")

    def run(self, *words: str | Path) -> str:
        """Runs a command there; gives what it prints."""
        done = subprocess.run([*self.within, *words], capture_output=True, text=True, check=False)
        if done.returncode and words[0] == "mount":
            pytest.skip(f"no file systems can be mounted here: {done.stderr.strip()}")
        return done.stdout

    def mount(self, place: Path) -> None:
        """Puts an empty disk there."""
        self.run("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", place)

    def understudy(self, *words: str) -> Any:
        """What a verb says with --json."""
        said = self.run(sys.executable, "-m", "pipeline", *words, "--json", "--state", self.base / "state")
        return json.loads(said or "{}")

    def jobs(self) -> list[Entry]:
        found = self.understudy("jobs", "list", "--all").get("jobs", [])
        entries = [Entry(**{**job, "state": State(job["state"]), "mark": Mark(**job["mark"])}) for job in found]
        return sorted(entries, key=lambda entry: entry.id)

    def counts(self) -> Counter[State]:
        return Counter(entry.state for entry in self.jobs())

    def state(self) -> str:
        """Whether it says that it runs, or is paused."""
        told = self.live()
        return told.state if told is not None else ""


def fill(folder: Path) -> Path:
    """Leaves no room on a disk; gives what has to go for there to be some."""
    ballast = folder / ".ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    with Apart(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return clip_of(tmp_path_factory.mktemp("clip") / "a.mp4", FRAMES)


def drop(apart: Apart, names: list[str], clip: bytes) -> dict[str, bytes]:
    for name in names:
        (apart.at("in") / name).write_bytes(clip)
    return dict.fromkeys(names, clip)


SAID = r"the {0} folder .* has .* left and needs|{0}/jobs\.sqlite cannot be written: the disk is full"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_full_disk(rounds: int, apart: Apart, clip: bytes) -> None:
    """Each of them in turn, while clips are made. Nothing fails, and no attempt counts."""
    chance = random.Random(rounds)
    check_start(apart)
    apart.start()
    whole: dict[str, bytes] = {}
    for turn in range(rounds):
        for disk in DISKS:
            names = [f"{disk} {turn}.{number}.mp4" for number in range(3)]
            whole |= drop(apart, names, clip)
            apart.wait(lambda: bool((told := apart.live()) and told.running))
            time.sleep(chance.uniform(0, 2) if turn else 0.0)
            ballast = fill(apart.at(disk))
            apart.wait(lambda: apart.state() == "paused")
            time.sleep(1.5)
            seen = apart.understudy("status")
            assert seen["state"] == "paused"
            assert re.search(SAID.format(disk), seen["live"]["reason"])
            assert re.search(f"paused: .*{SAID.format(disk)}", apart.said())
            ballast.unlink()
            apart.wait(partial(apart.done, len(whole)), 200, every_s=0.5)
            apart.wait(lambda: apart.state() == "running")
    apart.stop()
    apart.check(whole, FRAMES)
    assert {entry.attempts for entry in apart.jobs()} == {1}
    assert apart.published() == list(range(1, len(whole) + 1))


def check_start(apart: Apart) -> None:
    """Where it cannot begin it says so and ends, for a service manager to start it again."""
    ballast = fill(apart.at("state"))
    apart.start()
    assert apart.ended() == TableError.exit_code
    said = [line for line in apart.said().splitlines() if "error" in line]
    assert [line.rpartition("jobs.sqlite ")[2] for line in said] == ["cannot be written: the disk is full"]
    assert "Traceback" not in apart.said()
    ballast.unlink()


@pytest.mark.slow
def test_an_out_folder_that_cannot_be_written_to_or_goes_away(apart: Apart, clip: bytes) -> None:
    """What is read-only is waited for; what is not there is made, and what had gone with it is not made again."""
    apart.start()
    whole = drop(apart, ["a.mp4", "b.mp4"], clip)
    apart.wait(lambda: bool((told := apart.live()) and told.running))
    apart.run("mount", "-o", "remount,ro", apart.base / "out")
    apart.wait(lambda: apart.state() == "paused")
    whole |= drop(apart, ["c.mp4"], clip)
    time.sleep(3.0)
    assert re.search("the out folder .* read-only", apart.understudy("status")["live"]["reason"])
    assert apart.counts() == {State.WAITING: 3}
    apart.run("mount", "-o", "remount,rw", apart.base / "out")
    apart.wait(lambda: apart.done(3))
    before = {path.name for path in files(apart.at("out"))}
    assert before == {f"{name}{more}" for name in whole for more in ("", ".json")}
    drop(apart, ["d.mp4"], clip)
    apart.wait(lambda: bool((told := apart.live()) and told.running))
    apart.run("umount", "--lazy", apart.base / "out")
    apart.run("rmdir", apart.base / "out")
    apart.wait(lambda: apart.done(4))
    apart.stop()
    assert {path.name for path in files(apart.at("out"))} == {"d.mp4", "d.mp4.json"}
    assert apart.published() == [1, 2, 3, 4]
