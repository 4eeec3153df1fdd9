"""The real program with a chain that shows what it makes: `python -m tests.daemon.page_harness watch -c config.yaml`.

Decode, one light stage that writes the preview as blend does, encode in segments, the door, the page and all of the
daemon are the real ones. With it come clients of the page: polite ones, and crowds that are not.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import live
from pipeline.jobs import FILE, Entry, State, Table
from tests.daemon.storm import Place, Service

if TYPE_CHECKING:
    from pipeline.app import Settings
    from pipeline.engine import Engine
    from pipeline.inbox import WatchConfig
    from pipeline.lanes import Station
    from pipeline.types import Clip, Frame, Frames, Report

COMMAND = [sys.executable, "-m", "tests.daemon.page_harness"]
STAGES = ("decode", "show", "encode")
FORM = "application/x-www-form-urlencoded"

#: As long as a file of that name lies in the daemon's folder, no frame goes on.
HOLD = "hold"

#: The preview is made as long as somebody has looked within so many seconds; ten in earnest.
LOOKS_S = 2.0


@dataclass(frozen=True)
class Showing:
    """Each frame takes `delay_s`."""

    delay_s: float = 0.01


class Show:
    """Makes pictures darker, and shows them before and after."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Showing) -> None:
        from stages import live_preview

        self._delay_s = config.delay_s
        live_preview._LOOKS_S = LOOKS_S

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        from stages.live_preview import LivePreview

        preview = LivePreview(clip.work, every_s=0.1)
        for frame in frames:
            before = preview.before(clip, frame.picture)
            time.sleep(self._delay_s)
            while Path(HOLD).exists():
                time.sleep(0.01)
            frame.picture.planes[0][:] //= 2
            if before is not None:
                preview.after(clip, frame.picture, before)
            yield frame
        return {}


def shown_engine(settings: Settings) -> Engine:
    """An engine of these stages, each in a process, and the door."""
    from pipeline.engine import Engine
    from pipeline.specs import ProcessSpec, StageSpec
    from stages import finish

    specs = [
        StageSpec("decode", "stages.decode:Decode", settings.decode),
        StageSpec("show", "tests.daemon.page_harness:Show", Showing()),
        StageSpec("encode", "stages.encode:Encode", settings.encode),
    ]
    config = replace(settings.engine, processes=tuple(ProcessSpec((name,)) for name in STAGES), scratch_kb=16)
    return Engine(specs, config, StageSpec("publish", "stages.finish:Finish", finish.Config(settings.encode)))


def shown_station(settings: Settings, folder: WatchConfig) -> Station:
    """As `app.station`, for this chain."""
    from pipeline import app
    from pipeline.lanes import Station

    own = app.folder_settings(settings, folder)
    key = hashlib.sha256(repr(own.encode).encode()).hexdigest()
    return Station(key, "light", "b", "cpu", "restart", {}, lambda device, halvings: shown_engine(own))


def settings(**daemon: Any) -> dict[str, Any]:
    """Settings of a place whose daemon has a page, at any port that is free."""
    retry = {"attempts": 3, "backoff_s": 60}
    return {"daemon": {"page": {"port": 0}, "retry": retry, **daemon}}


@dataclass(frozen=True)
class Answer:
    """What the page says."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Caller:
    """Somebody who asks the page of a daemon."""

    def __init__(self, place: Place, service: Service) -> None:
        """Waits until there is a page."""
        service.until(lambda: bool(_web(place)), "it had a page")
        self.place = place
        self.address = _web(place)
        self.port = int(self.address.rstrip("/").rpartition(":")[2])
        self.token = (place.state / "token").read_text().strip()
        self.cookie = f"understudy-{self.port}={self.token}"
        service.until(lambda: self.answers(), "the page answered")

    @property
    def url(self) -> str:
        """The address that lets one in."""
        return f"{self.address}?token={self.token}"

    def ask(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """As anybody; header names have _ for -, and empty ones are left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {"host": f"127.0.0.1:{self.port}"} | {name.replace("_", "-"): text for name, text in headers.items()}
        if method == "POST":
            given = {"content-type": FORM, "content-length": str(len(body))} | given
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                if value:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def ask_in(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """As a program that has the token."""
        return self.ask(path, method, body, authorization=f"Bearer {self.token}", **headers)

    def press(self, path: str, body: bytes = b"", **headers: str) -> Answer:
        """As a browser that has the cookie sends a form of the page itself."""
        given = {"cookie": self.cookie, "origin": self.address.rstrip("/"), "sec_fetch_site": "same-origin"}
        return self.ask(path, "POST", body, **{**given, **headers})

    def answers(self) -> bool:
        """Whether the page is there."""
        try:
            return self.ask("/healthz").status in (200, 503)
        except (OSError, http.client.HTTPException):
            return False

    def figures(self) -> dict[str, float]:
        """/metrics, each sample by its name and labels. Fails on a line that is none."""
        found = {}
        for line in self.ask_in("/metrics").text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                continue
            match = re.fullmatch(r'([a-z_]+(?:\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)*\})?) (-?[0-9.e+-]+)', line)
            assert match, line
            assert match[1] not in found, f"{match[1]} twice"
            found[match[1]] = float(match[2])
        return found


def _web(place: Place) -> str:
    told = live.read(place.state)
    return told.web if told is not None else ""


def job_of(place: Place, name: str) -> Entry:
    """The row of what lies in the inbox under that name."""
    with Table.looking(place.state / FILE) as table:
        entry = table.current(str(place.inbox / name))
    assert entry is not None, name
    return entry


def until_state(service: Service, name: str, state: State) -> None:
    """Waits until the clip of that name is in a state."""
    place = service.place
    service.until(lambda: _state_of(place, name) is state, f"{name!r} was {state}")


def _state_of(place: Place, name: str) -> State | None:
    return next((one.state for one in place.entries() if one.current and Path(one.source).name == name), None)


@contextmanager
def crowd(port: int, many: int, dribbling: bool) -> Iterator[list[int]]:
    """So many connections that ask for nothing, or (`dribbling`) for a page by one byte a second; those that are sent
    away come again at once. Gives a list whose only number says how often that was.

    It is more than any number of sockets that only lie there: these are sent away once, and then are no more.
    """
    again = [0]
    stopping = threading.Event()
    thread = threading.Thread(target=_crowd, args=(port, many, dribbling, stopping, again))
    thread.start()
    try:
        yield again
    finally:
        stopping.set()
        thread.join()


def _crowd(port: int, many: int, dribbling: bool, stopping: threading.Event, again: list[int]) -> None:
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Long: ".encode() + b"a" * 10_000
    with selectors.DefaultSelector() as selector:
        for _ in range(many):
            _join(selector, port)
        at, due = 0, time.monotonic()
        while not stopping.is_set():
            for key, _ in selector.select(0.05):
                if _is_sent_away(key.fileobj):  # type: ignore[arg-type]  # a socket
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                    again[0] += 1
                    _join(selector, port)
            if dribbling and time.monotonic() >= due:
                at, due = at + 1, due + 1.0
                for key in list(selector.get_map().values()):
                    with suppress(OSError):
                        key.fileobj.send(request[at : at + 1])  # type: ignore[union-attr]
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]


def _join(selector: selectors.BaseSelector, port: int) -> None:
    joined = socket.socket()
    joined.setblocking(False)
    joined.connect_ex(("127.0.0.1", port))
    selector.register(joined, selectors.EVENT_READ)


def _is_sent_away(connection: socket.socket) -> bool:
    try:
        return not connection.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def run() -> int:
    """Runs the program."""
    from pipeline import app
    from pipeline.__main__ import main

    app.station = partial(shown_station)
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
