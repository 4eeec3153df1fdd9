"""Who may see the pages: whoever has the token, by an address that is this server's own.

Nothing can be changed by a page, unless its application says so (`Terms`): then by a small POST of somebody who has the
token, and from no page but its own.

A page on the loopback is within reach of every other user of the machine, and of every web page that its user has
open. The token keeps the first out. Against the second, which may send requests and would like to read the answers,
there are the cookie that is never sent from another site, the check of Host (a name that an attacker has pointed at
this machine is not ours) and that of Origin, and headers that forbid everything that no page here needs.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOKING = ("GET", "HEAD")
_LONGEST = 2000  # characters of an address, and of a token
_LARGEST = 4096  # bytes of what is posted
_PATIENCE_S = 10.0  # for these to come
_POSTED = ("application/x-www-form-urlencoded", "application/json")

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


@dataclass(frozen=True, slots=True)
class Terms:
    """What an application allows beside being looked at by whoever has the token.

    Attributes:
        acts: whether it takes POST requests, of forms and of programs.
        open: paths that anybody may look at. `request.state.known` tells the application whether it is somebody who
            has the token, too.
    """

    acts: bool = False
    open: frozenset[str] = frozenset()

    @property
    def methods(self) -> tuple[str, ...]:
        """The ones that are let through."""
        return (*_LOOKING, "POST") if self.acts else _LOOKING

    @property
    def headers(self) -> Mapping[str, str]:
        """Of every answer."""
        if not self.acts:
            return _HEADERS
        # With "no-referrer" a browser does not even tell ourselves that a form is our own: it posts "Origin: null".
        return {
            **_HEADERS,
            "Content-Security-Policy": POLICY.replace("form-action 'none'", "form-action 'self'"),
            "Referrer-Policy": "same-origin",
        }


class Guard:
    """Stands before an application: what it lets through is a request of somebody who may ask."""

    def __init__(self, app: ASGIApp, access: Access, terms: Terms = Terms()) -> None:
        self._app = app
        self._access = access
        self._terms = terms
        self._headers = terms.headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        known = self._knows(Request(scope))

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if not known:
                    headers["Connection"] = "close"  # who is not let in shall not hold one
            await send(message)

        answer = self._refusal(Request(scope)) or self._welcome(Request(scope), known)
        if answer is None and scope["method"] == "POST":
            read = await _read(receive)
            answer, receive = (read, receive) if isinstance(read, Response) else (None, _again(read, receive))
        if answer is None:
            scope.setdefault("state", {})["known"] = known
            await self._app(scope, receive, guarded)
        else:
            await answer(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in self._terms.methods:
            sentence = "that cannot be done here" if self._terms.acts else "these pages can only be looked at"
            return _refused(405, sentence, {"Allow": ", ".join(self._terms.methods)})
        if len(request.scope["path"]) + len(request.scope["query_string"]) > _LONGEST:
            return _refused(414, "that is too long an address")
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._access.is_ours(hosts[0]):
            return _refused(400, "this server has another name; use the address that it printed")
        for origin in request.headers.getlist("origin"):
            if origin != f"{request.url.scheme}://{hosts[0]}":
                return _refused(403, "another site may not look at these pages")
        return _refusal_of_post(request) if request.method == "POST" else _refusal_of_look(request)

    def _knows(self, request: Request) -> bool:
        bearer = _bearer(request)
        shown = request.cookies.get(self._access.cookie, "") if bearer is None else bearer
        return self._access.knows(shown[:_LONGEST])

    def _welcome(self, request: Request, known: bool) -> Response | None:
        """None for whom we know; whoever comes with the token gets the cookie, and an address without it."""
        if "token" in request.query_params and request.method in _LOOKING:
            if not self._access.knows(request.query_params["token"]):
                return _refused(403, "that token is not this server's; use the address that it printed")
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._access.cookie, self._access.token, httponly=True, samesite="strict", path="/")
            return answer
        if known or (request.scope["path"] in self._terms.open and request.method in _LOOKING):
            return None
        return _refused(403, "these pages are for whoever has the token; use the address that the server printed")


def _bearer(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _refusal_of_look(request: Request) -> Response | None:
    if request.headers.get("sec-fetch-site") == "cross-site" and request.headers.get("sec-fetch-mode") != "navigate":
        return _refused(403, "another site may not look at these pages")
    return None


def _refusal_of_post(request: Request) -> Response | None:
    """What a browser sends has to come from our own page, and to say so: cookies go with another port's requests, too.

    Whoever has the token in a header is a program: no page of another site can send one.
    """
    site = request.headers.get("sec-fetch-site")
    told = site == "same-origin" or (site is None and "origin" in request.headers)  # which has been looked at
    if not told and (site is not None or _bearer(request) is None):
        return _refused(403, "only the page itself may do that")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _POSTED:
        return _refused(415, f"that has to be {' or '.join(_POSTED)}")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or len(length) > 9 or int(length) > _LARGEST:
        return _refused(413, f"that is more than {_LARGEST} bytes")
    return None


async def _read(receive: Receive) -> bytes | Response:
    """What is posted, in full, or why not."""
    found = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                message = await receive()
                found += message.get("body", b"")
                if len(found) > _LARGEST:
                    return _refused(413, f"that is more than {_LARGEST} bytes")
                if message["type"] != "http.request" or not message.get("more_body"):
                    return bytes(found) if message["type"] == "http.request" else _refused(400, "that broke off")
    except TimeoutError:
        return _refused(408, "that took too long to come")


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives what has been read already."""
    left = [body]

    async def given() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return given


def _refused(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Also ends the connection: who is not let in shall not hold one."""
    return PlainTextResponse(f"{sentence}\n", status, {**(headers or {}), "Connection": "close"})
