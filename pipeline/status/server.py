"""The server of the pages: it listens where it was told to, takes little of the machine, and ends with a signal."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
from types import TracebackType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.errors import ConfigError
from pipeline.status.access import Access, Guard

HOST, PORT = "127.0.0.1", 8385

_PATIENCE_S = 10.0  # in which a connection has to have asked for something
_KEPT_S = 10  # for which it may wait before it asks for more
_CONNECTIONS = 64
_LONGEST_HEAD = 16 * 1024  # bytes of a request's line and headers
_END_S = 2  # for what is on its way when the end comes


class Server:
    """Serves an application to whoever has its token. It listens as soon as it is there; use it in a `with`.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(self, app: ASGIApp, host: str = HOST, port: int = PORT, token: str = "") -> None:
        """Port 0 is any that is free. Without a `token` there is a new one, of 256 bits."""
        self._socket = _listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._token = token or secrets.token_urlsafe(32)
        everywhere = self._address.is_unspecified
        self._host = socket.gethostname() if everywhere else host
        self.access = Access(self._token, f"understudy-{self.port}", self._host, everywhere)
        settings = uvicorn.Config(
            Guard(app, self.access),
            http=_Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEPT_S,
            timeout_graceful_shutdown=_END_S,
            h11_max_incomplete_event_size=_LONGEST_HEAD,
        )
        self._server = uvicorn.Server(settings)

    @property
    def url(self) -> str:
        """The address that lets one in."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/?token={self._token}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self._address.is_loopback

    @property
    def _address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self._socket.getsockname()[0])

    def run(self) -> None:
        """Serves until `stop`. SIGINT and SIGTERM end it, too, and then do what they did before."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Lets `run` return soon; any thread may call it."""
        self._server.should_exit = True

    def close(self) -> None:
        """No longer listens."""
        self._socket.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Impatient(H11Protocol):
    """Closes connections that ask for nothing: there are only so many, and nobody shall hold them all."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._timer = self.loop.call_later(_PATIENCE_S, self._lose_patience)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _lose_patience(self) -> None:
        if self.cycle is None:  # no request has been read to its end
            self.transport.close()


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:  # which some resolvers take modulo 65536
        raise ConfigError(f"a port is a number from 0 (any that is free) to 65535, not {port}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_CONNECTIONS)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"the page cannot be served at {host}: that is no name or address of this machine") from error
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # create_server's own words are longer
        raise ConfigError(
            f"the page cannot be served at {host} port {port} ({reason}); choose another --port (0: any that is free) "
            "or --host"
        ) from error
