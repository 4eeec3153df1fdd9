"""pipeline.status.server: where it listens, what it bears, and that it ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pipeline.errors import ConfigError
from pipeline.status import server as module
from pipeline.status.listening import Listener
from pipeline.status.server import Server
from tests.pipeline.status.serving import ask, ask_in, serving

APP = PlainTextResponse("well")


def test_the_address_it_gives_lets_one_in() -> None:
    with serving(APP) as server:
        assert server.is_local
        assert server.url == f"http://127.0.0.1:{server.port}/?token={server.access.token}"
        assert ask(server, server.url.partition(str(server.port))[2]).status == 303


def test_tokens_are_long_and_new() -> None:
    tokens = set()
    for _ in range(5):
        with Server(APP, Listener.at("127.0.0.1", 0)) as server:
            tokens.add(server.access.token)
    assert len(tokens) == 5 and min(map(len, tokens)) >= 43


def test_a_port_that_is_taken() -> None:
    with (
        Server(APP, Listener.at("127.0.0.1", 0)) as first,
        pytest.raises(ConfigError, match=rf"port {first.port} \(Address already in use\); choose another --port"),
    ):
        Listener.at("127.0.0.1", first.port)


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70000), ("192.0.2.1", 0), ("a" * 99, 0)]
)
def test_where_it_cannot_listen(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=r"the page cannot be served at |a port is a number from 0"):
        Listener.at(host, port)


def test_for_the_network() -> None:
    with serving(APP, "0.0.0.0") as server:
        assert not server.is_local
        assert server.url.startswith(f"http://{socket.gethostname()}:{server.port}/")
        assert ask_in(server, "/", host="10.1.2.3").status == 200
        assert ask_in(server, "/", host="evil.example").status == 400


def test_it_ends_while_somebody_waits() -> None:
    begun = time.monotonic()
    with serving(APP) as server:
        raw = socket.create_connection(("127.0.0.1", server.port))
        raw.sendall(b"GET / HTTP/1.1\r\nHost: local")
        time.sleep(0.1)
    raw.close()
    assert time.monotonic() - begun < module._PATIENCE_S
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_who_asks_for_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.3)
    with serving(APP) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(3)]
        idle[0].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        assert [connection.recv(10) for connection in idle] == [b""] * 3
        for connection in idle:
            connection.close()
        assert ask_in(server).text == "well"


def test_who_asks_for_nothing_more_is_sent_away_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.3)
    with serving(APP) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
        bearer = f"Authorization: Bearer {server.access.token}"
        raw.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n".encode())
        assert b"200 OK" in raw.recv(10_000)
        raw.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        begun = time.monotonic()
        while raw.recv(10_000):
            pass
        assert time.monotonic() - begun < 3


@contextmanager
def idle(server: Server, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that ask for nothing, or never come to the end of it."""
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            with suppress(ConnectionError):
                connections[-1].sendall(sent)
        yield connections
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: local", b"GET / HTTP/1.1\r\nX: " + b"x" * 15_000])
def test_idle_ones_hold_nobody_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 60.0)
    with serving(APP) as server, idle(server, 500, sent):
        begun = time.monotonic()
        assert [ask_in(server).text for _ in range(5)] == ["well"] * 5
        assert time.monotonic() - begun < 30, "who waited for them would have waited for a minute"
        assert len(server._server.server_state.connections) <= module._IDLE


def test_those_that_keep_coming_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 60.0)
    with serving(APP) as server:
        end = threading.Event()

        def flood() -> None:
            while not end.is_set():
                with suppress(OSError), idle(server, 100):
                    pass

        threads = [threading.Thread(target=flood) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            with idle(server, 300):
                begun = time.monotonic()
                assert [ask_in(server).text for _ in range(5)] == ["well"] * 5
                assert time.monotonic() - begun < 30
        finally:
            end.set()
            for thread in threads:
                thread.join()


def test_who_has_asked_is_not_sent_away() -> None:
    gate, here = threading.Event(), threading.Semaphore(0)

    def slow(request: Request) -> PlainTextResponse:
        here.release()
        assert gate.wait(60)
        return PlainTextResponse("well")

    with serving(Starlette(routes=[Route("/", slow)])) as server:
        answers: list[str] = []
        asking = [threading.Thread(target=lambda: answers.append(ask_in(server).text)) for _ in range(5)]
        for thread in asking:
            thread.start()
        for _ in asking:
            assert here.acquire(timeout=60)
        with idle(server, 400):
            gate.set()
            for thread in asking:
                thread.join()
        assert answers == ["well"] * 5


def test_too_many_that_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 10)
    monkeypatch.setattr(module, "_BUSY", 4)
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    gate = threading.Event()

    def slow(request: Request) -> PlainTextResponse:
        assert gate.wait(60)
        return PlainTextResponse("well")

    with serving(Starlette(routes=[Route("/", slow)])) as server:
        statuses: list[int] = []
        asking = [threading.Thread(target=lambda: statuses.append(ask_in(server).status)) for _ in range(30)]
        for thread in asking:
            thread.start()
        deadline = time.monotonic() + 60
        while statuses.count(503) < 16 and time.monotonic() < deadline:
            time.sleep(0.01)  # all but 14 are sent away while those are at work
        gate.set()
        for thread in asking:
            thread.join()
        assert set(statuses) == {200, 503} and 4 <= statuses.count(200) <= 14
        assert ask_in(server).status == 200


def test_nonsense_is_no_trouble(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(APP) as server:
        for sent in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET\r\n\r\n",
            b"\r\n" * 20000,
            b"GET / HTTP/1.1\r\nHost:\x00\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
                raw.sendall(sent)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(1000):
                    pass
        assert ask_in(server).text == "well"
    assert capfd.readouterr().err == ""


def test_many_at_once() -> None:
    with serving(APP) as server:
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(ask_in(server).status)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 20
