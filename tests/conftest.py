"""What every test gets: a place for real clips, logging as it was, and a check that it leaves nothing running, open or
lying about. Several workers may run tests at the same time: each answers for what is its own.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

import hypothesis
import psutil
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes says what else the machine does.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("patient")

#: Descriptors that libraries open once and keep.
_KEPT = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/nvidia", "/proc/", "/sys/", "anon_inode:")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Puts logging back after each test: the program, run in this process, has the root logger write to a stream that
    is closed when the test is over, and write more or less than others expect.
    """
    root = logging.getLogger()
    handlers = list(root.handlers)
    known = (each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))
    levels = {logger: logger.level for logger in (root, *known)}
    try:
        return (yield)
    finally:
        root.handlers[:] = handlers
        for logger, level in levels.items():
            logger.setLevel(level)


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real clips; tests that ask for it skip where there is none."""
    named = os.environ.get("UNDERSTUDY_MEDIA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "media"
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}; set UNDERSTUDY_MEDIA to a folder that has them")
    return folder


@pytest.fixture(scope="session", autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where programs keep a user's data: keys, identities and the audit of a test run are not the user's."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder))
        yield folder


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
    """Blocks in /dev/shm, but for those that programs outside this test run, or other workers of it, have open or
    mapped or have given their own number.
    """
    folder = Path("/dev/shm")
    names: dict[tuple[int, int], str] = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # it has gone meanwhile
            if entry.is_file():
                names[_file(entry.stat())] = entry.name
    if not names:
        return set()
    me = psutil.Process()
    others = set(psutil.pids()) - {me.pid, *(child.pid for child in me.children(recursive=True))}
    for file, name in list(names.items()):
        if others & {int(number) for number in re.findall(r"(?<=[_-])\d+(?=[_-])", name)}:
            del names[file]
    for pid in others if names else ():
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                _, _, _, device, inode, *_ = line.split(maxsplit=5)
                major, minor = device.split(":")
                names.pop((os.makedev(int(major, 16), int(minor, 16)), int(inode)), None)
            for opened in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    names.pop(_file(opened.stat()), None)
    return set(names.values())


def _file(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


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
