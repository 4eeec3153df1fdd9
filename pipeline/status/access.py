"""Who may see the pages: whoever has the token, by an address that is this server's own. Nobody may change anything.

A page on the loopback is within reach of every other user of the machine, and of every web page that its user has
open. The token keeps the first out. Against the second, which may send requests and would like to read the answers,
there are the cookie that is never sent from another site, the check of Host (a name that an attacker has pointed at
this machine is not ours) and that of Origin, and headers that forbid everything that no page here needs.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = ("GET", "HEAD")
_LONGEST = 2000  # characters of an address, and of a token

#: What a response may load, and may be loaded by, unless it says itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Access:
    """What a request has to bring.

    Attributes:
        token: as ?token=, as the cookie that this sets, or as "Authorization: Bearer".
        cookie: that one's name: browsers tell hosts apart, not ports.
        host: the name or address that the server was given, a good one beside those of the loopback.
        any_address: whether an address of any kind will do, too: where the server listens on all of them. An attacker
            can make a name of his own lead here, but not a bare address.
    """

    token: str
    cookie: str
    host: str = "127.0.0.1"
    any_address: bool = False

    def knows(self, token: str) -> bool:
        """Whether that is the token; takes as long to say so whatever it is."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def is_ours(self, netloc: str) -> bool:
        """Whether a request for this host and port is meant for this server; its port may be another's, forwarded."""
        try:
            name = urlsplit(f"//{netloc}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self.host.lower()):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self.any_address


class Guard:
    """Stands before an application: what it lets through is a GET or HEAD of somebody who may ask."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(Request(scope)) or self._welcome(Request(scope))
        if answer is None:
            await self._app(scope, receive, guarded)
        else:
            await answer(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in _METHODS:
            return _refused(405, "these pages can only be looked at", {"Allow": ", ".join(_METHODS)})
        if len(request.scope["path"]) + len(request.scope["query_string"]) > _LONGEST:
            return _refused(414, "that is too long an address")
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._access.is_ours(hosts[0]):
            return _refused(400, "this server has another name; use the address that it printed")
        for origin in request.headers.getlist("origin"):
            if origin != f"{request.url.scheme}://{hosts[0]}":
                return _refused(403, "another site may not look at these pages")
        if (
            request.headers.get("sec-fetch-site") == "cross-site"
            and request.headers.get("sec-fetch-mode") != "navigate"
        ):
            return _refused(403, "another site may not look at these pages")
        return None

    def _welcome(self, request: Request) -> Response | None:
        """None for whom we know; whoever comes with the token gets the cookie, and an address without it."""
        if "token" in request.query_params:
            if not self._access.knows(request.query_params["token"]):
                return _refused(403, "that token is not this server's; use the address that it printed")
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._access.cookie, self._access.token, httponly=True, samesite="strict", path="/")
            return answer
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        shown = token.strip() if kind.lower() == "bearer" else request.cookies.get(self._access.cookie, "")
        if self._access.knows(shown[:_LONGEST]):
            return None
        return _refused(403, "these pages are for whoever has the token; use the address that the server printed")


def _refused(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Also ends the connection: who is not let in shall not hold one."""
    return PlainTextResponse(f"{sentence}\n", status, {**(headers or {}), "Connection": "close"})
