"""pipeline.status.server: where it listens, what it bears, and that it ends."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from starlette.responses import PlainTextResponse

from pipeline.errors import ConfigError
from pipeline.status import server as module
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
        with Server(APP, port=0) as server:
            tokens.add(server.access.token)
    assert len(tokens) == 5 and min(map(len, tokens)) >= 43


def test_a_port_that_is_taken() -> None:
    with (
        Server(APP, port=0) as first,
        pytest.raises(ConfigError, match=rf"port {first.port} \(Address already in use\)"),
    ):
        Server(APP, port=first.port)


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70000), ("192.0.2.1", 0), ("a" * 99, 0)]
)
def test_where_it_cannot_listen(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=r"the page cannot be served at |a port is a number from 0"):
        Server(APP, host, port)


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
    assert time.monotonic() - begun < 8
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


def test_a_few_hold_no_others_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    with serving(APP) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(module._CONNECTIONS)]
        time.sleep(0.1)
        assert ask_in(server).status == 503
        deadline = time.monotonic() + 5
        while (status := ask_in(server).status) == 503 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert status == 200
        for connection in idle:
            connection.close()


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
