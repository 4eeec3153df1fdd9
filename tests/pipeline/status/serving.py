"""A server in a thread of its own, and what it answers."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp

from pipeline.status.server import Server


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@contextmanager
def serving(app: ASGIApp, host: str = "127.0.0.1") -> Iterator[Server]:
    with Server(app, host, 0) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 10
            while not server._server.started and time.monotonic() < deadline:
                time.sleep(0.005)
            yield server
        finally:
            server.stop()
            thread.join(10)
            assert not thread.is_alive()


def ask(server: Server, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """Without the token; header names have _ for -. `host` replaces the right one, "" leaves it out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if given.setdefault("host", f"127.0.0.1:{server.port}") == "":
            del given["host"]
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def ask_in(server: Server, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """With the token."""
    return ask(server, path, method, authorization=f"Bearer {server.access.token}", **headers)
