"""A server in a thread of its own, and what it answers."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from starlette.types import ASGIApp

from pipeline.status.access import Terms
from pipeline.status.listening import Listener
from pipeline.status.server import Server

LOOKING = Terms()
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@contextmanager
def serving(app: ASGIApp, host: str = "127.0.0.1", terms: Terms = LOOKING) -> Iterator[Server]:
    # it looks as often whether to end as a test can wait for
    with mock.patch("pipeline.status.server._LOOK_S", 0.01), Server(app, Listener.at(host, 0), terms=terms) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.005)
            yield server
        finally:
            server.stop()
            thread.join(60)
            assert not thread.is_alive()


def ask(server: Server, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
    """Without the token; header names have _ for -. `host` replaces the right one, "" leaves it out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    if body:
        headers = {"content_length": str(len(body)), **headers}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if given.setdefault("host", f"127.0.0.1:{server.port}") == "":
            del given["host"]
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def ask_in(server: Server, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
    """With the token."""
    return ask(server, path, method, body, authorization=f"Bearer {server.access.token}", **headers)


def post(server: Server, path: str, body: bytes = b"", **headers: str) -> Answer:
    """As a program does, with the token, or with what `headers` say instead of it."""
    given = {"authorization": f"Bearer {server.access.token}", "content_type": FORM, "content_length": str(len(body))}
    return ask(server, path, "POST", body, **{name: value for name, value in (given | headers).items() if value != "-"})
