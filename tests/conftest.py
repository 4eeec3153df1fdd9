"""What every test gets: a place for real clips, and a check that it leaves nothing running, open or lying about."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

#: Descriptors that libraries open once and keep.
_KEPT = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/nvidia", "/proc/", "/sys/", "anon_inode:")


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real clips; tests that ask for it skip where there is none."""
    named = os.environ.get("UNDERSTUDY_MEDIA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "media"
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}; set UNDERSTUDY_MEDIA to a folder that has them")
    return folder


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails a test that leaves a thread, a child process, a shared-memory block or an open descriptor behind."""
    looks: dict[str, Callable[[], set[str]]] = {
        "threads": _threads,
        "child processes": _children,
        "shared memory": _shared_memory,
        "open descriptors": _descriptors,
    }
    resource_tracker.ensure_running()  # Python's own; it starts with the first spawn and stays, and so does its pipe
    before = {what: look() for what, look in looks.items()}
    yield
    left = {what: _left(look, before[what]) for what, look in looks.items()}
    found = {what: sorted(names) for what, names in left.items() if names}
    assert not found, f"left behind: {found}"


def _left(look: Callable[[], set[str]], before: set[str], patience_s: float = 3.0) -> set[str]:
    """What is there now and was not before; what is on its way out gets a moment."""
    left = look() - before
    if not left:
        return left
    gc.collect()
    deadline = time.monotonic() + patience_s
    while (left := look() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def _threads() -> set[str]:
    return {f"{thread.name} ({thread.ident})" for thread in threading.enumerate()}


def _children() -> set[str]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            line = "a zombie"
        # Python's own tracker of shared resources lives as long as the interpreter.
        if "resource_tracker" not in line:
            found.add(f"{child.pid} {line[:100]}")
    return found


def _shared_memory() -> set[str]:
    """Names in /dev/shm, but for those that programs outside this test run have mapped (compared by inode)."""
    folder = Path("/dev/shm")
    names = {entry.stat().st_ino: entry.name for entry in folder.iterdir()} if folder.is_dir() else {}
    if not names:
        return set()
    me = psutil.Process()
    ours = {me.pid, *(child.pid for child in me.children(recursive=True))}
    for pid in set(psutil.pids()) - ours:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                names.pop(int(line.split(maxsplit=5)[4]), None)
    return set(names.values())


def _descriptors() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        # Libraries stay open, and so do the fonts that matplotlib has drawn with.
        if not target.startswith(_KEPT) and ".so" not in target and not target.endswith(".ttf"):
            found.add(f"{entry.name} -> {target}")
    return found
