"""The server of the pages: it takes little of the machine, lets nobody hold all of it, and ends with a signal."""

from __future__ import annotations

import asyncio
import secrets
import socket
from types import TracebackType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.status.access import Access, Guard, Terms
from pipeline.status.listening import QUEUE, Listener

_PATIENCE_S = 10.0  # in which a connection has to have asked for something, and then for something else
_IDLE = 256  # connections that wait for somebody to ask, at most
_BUSY = 64  # and that are being answered
_AT_ONCE = 64  # connections that are taken before those that have been are heard; see _Impatient
_LONGEST_HEAD = 16 * 1024  # bytes of a request's line and headers
_LOOK_S = 0.5  # between two looks whether to end
_END_S = 2  # for what is on its way when the end comes


class Server:
    """Serves an application to whoever has its token, where a `Listener` listens; use it in a `with`."""

    def __init__(self, app: ASGIApp, at: Listener, token: str = "", terms: Terms = Terms()) -> None:  # noqa: B008  frozen
        """Takes the listener over. Without a `token` there is a new one, of 256 bits."""
        self._listener = at
        self.port = at.port
        self.is_local = at.is_local
        token = token or secrets.token_urlsafe(32)
        #: The address that lets one in.
        self.url = f"{at.url}?token={token}"
        self.access = Access(token, f"understudy-{self.port}", at.host, at.is_everywhere)
        settings = uvicorn.Config(
            Guard(app, self.access, terms),
            http=_Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_IDLE + _BUSY + 1,
            backlog=_AT_ONCE,
            timeout_keep_alive=int(_PATIENCE_S),
            timeout_graceful_shutdown=_END_S,
            h11_max_incomplete_event_size=_LONGEST_HEAD,
        )
        self._server = _Patient(settings)

    @property
    def started(self) -> bool:
        """Whether it serves by now."""
        return bool(self._server.started)

    def run(self) -> None:
        """Serves until `stop`. In the main thread, SIGINT and SIGTERM end it, too, and then do what they did before."""
        self._server.run(sockets=[self._listener.socket])

    def stop(self) -> None:
        """Lets `run` return soon; any thread may call it."""
        self._server.should_exit = True

    def close(self) -> None:
        """No longer listens."""
        self._listener.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Patient(uvicorn.Server):
    """Lets many wait to be taken, though few are taken at once: uvicorn knows one number for both. Rests when idle."""

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second whether to end: nearly all that a page costs at rest."""
        while not await self.on_tick(0):
            await asyncio.sleep(_LOOK_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(QUEUE)


class _Impatient(H11Protocol):
    """A connection that is closed when it asks for nothing for a while, and at once where there are too many.

    Whoever comes is always let in: where that is one too many, the one goes that has been idle for longest, those first
    that never asked for anything. A request that is here in full is never given up. As few are taken at once, somebody
    who asks as soon as he is connected is heard long before it would be his turn to go, however many come after him.
    """

    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._rest()
        self._make_room()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _rest(self) -> None:
        self._since = self.loop.time()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(_PATIENCE_S, self._lose_patience)

    def _lose_patience(self) -> None:
        if not self._is_busy:
            self.transport.abort()

    def _make_room(self) -> None:
        idle = [each for each in self.connections if isinstance(each, _Impatient) and not each._is_busy]
        if len(idle) > _IDLE:
            longest = min(idle, key=lambda each: (each.cycle is not None, each._since))
            self.connections.discard(longest)  # so that it counts no more, though it is lost only in a moment
            longest.transport.abort()
