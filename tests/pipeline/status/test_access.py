"""pipeline.status.access: nobody without the token, no other name, no other site, nothing but looking."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from pipeline.status import access as module
from pipeline.status.access import POLICY, Access, Terms
from pipeline.status.server import Server
from tests.pipeline.status.serving import FORM, Answer, ask, ask_in, post, serving

SECRET = "the inner page"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it was given, and whether it is known by whom."""
    request = Request(scope, receive)
    text = f"{request.state.known} {(await request.body()).decode()}"
    await PlainTextResponse(text)(scope, receive, send)


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"X-Frame-Options": "SAMEORIGIN"} if scope["path"] == "/own" else {}
    await PlainTextResponse(SECRET, headers=headers)(scope, receive, send)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(inner) as server:
        yield server


def refused(answer: Answer, status: int) -> bool:
    return answer.status == status and SECRET not in answer.text and answer.headers["connection"] == "close"


def cookie(server: Server, value: str) -> str:
    return f"{server.access.cookie}={value}"


def test_with_the_token(server: Server) -> None:
    for way in ({"authorization": f"Bearer {server.access.token}"}, {"cookie": cookie(server, server.access.token)}):
        answer = ask(server, **way)
        assert (answer.status, answer.text) == (200, SECRET)


def test_without_it(server: Server) -> None:
    token = server.access.token
    for path in ("/", "/state.json", "/nowhere", "/?tokens=1"):
        assert refused(ask(server, path), 403)
    for wrong in ("", "x", token[:-1], token + "x", token.swapcase(), "é", "\x7f"):
        assert refused(ask(server, cookie=cookie(server, wrong)), 403)
        assert refused(ask(server, authorization=f"Bearer {wrong}"), 403)
    assert refused(ask(server, authorization=f"Basic {token}"), 403)
    assert refused(ask(server, cookie=f"understudy-1={token}"), 403)
    assert refused(ask(server, "/?token="), 403)
    assert refused(ask(server, "/?token=%FF%00"), 403)
    assert refused(ask(server, f"/?token={token[:-1]}"), 403)


def test_the_address_becomes_a_cookie(server: Server) -> None:
    answer = ask(server, server.url.partition(str(server.port))[2])
    assert (answer.status, answer.headers["location"]) == (303, "/")
    morsel = SimpleCookie(answer.headers["set-cookie"])[server.access.cookie]
    assert morsel["httponly"] and morsel["samesite"] == "strict" and morsel["path"] == "/" and not morsel["domain"]
    assert ask(server, cookie=cookie(server, morsel.value)).text == SECRET


def test_it_leads_nowhere_else(server: Server) -> None:
    answer = ask(server, f"//evil.example/?token={server.access.token}")
    assert (answer.status, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_looking_only(server: Server, method: str) -> None:
    answer = ask_in(server, "/", method)
    assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD" and SECRET not in answer.text


def test_a_head_has_no_body(server: Server) -> None:
    answer = ask_in(server, "/", "HEAD")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "", "[::", "a b", "localhost@e"],
)
def test_another_name(server: Server, host: str) -> None:
    assert refused(ask_in(server, "/", host=host.format(port=server.port)), 400)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.8.8.8:1", "[::1]:{port}", "[::1]"])
def test_names_of_its_own(server: Server, host: str) -> None:
    assert ask_in(server, "/", host=host.format(port=server.port)).text == SECRET


def test_two_names_at_once(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        bearer = f"Authorization: Bearer {server.access.token}"
        raw.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n{bearer}\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")


def test_other_sites(server: Server) -> None:
    here = f"127.0.0.1:{server.port}"
    assert ask_in(server, "/", origin=f"http://{here}").text == SECRET
    assert ask_in(server, "/", sec_fetch_site="same-origin", sec_fetch_mode="cors").text == SECRET
    assert ask_in(server, "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate").text == SECRET
    for origin in ("http://evil.example", "null", f"https://{here}", f"http://{here}.evil.example", ""):
        assert refused(ask_in(server, "/", origin=origin), 403)
    assert refused(ask_in(server, "/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors"), 403)


def test_headers_of_every_answer(server: Server) -> None:
    answers = [ask_in(server), ask(server), ask_in(server, "/", "POST"), ask_in(server, "/", host="evil.example")]
    answers.append(ask(server, f"/?token={server.access.token}"))
    for answer in answers:
        headers = answer.headers
        assert headers["content-security-policy"] == POLICY and "unsafe" not in POLICY and "*" not in POLICY
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer" and headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers and "access-control-allow-origin" not in headers
    assert ask_in(server, "/own").headers["x-frame-options"] == "SAMEORIGIN"


def test_long_ones(server: Server) -> None:
    assert refused(ask_in(server, "/?" + "x" * 5000), 414)
    assert refused(ask_in(server, "/" + "x" * 40_000), 414)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert raw.recv(100).startswith(b"HTTP/1.1 400 "), "headers that have no end"


def test_a_server_for_the_network_knows_addresses_and_its_name() -> None:
    access = Access("t", "c", "studio", any_address=True)
    for host in ("studio", "studio:80", "Studio", "192.168.0.7:80", "[fe80::1]", "localhost"):
        assert access.is_ours(host)
    assert not access.is_ours("evil.example") and not access.is_ours("studio.evil.example") and not access.is_ours("")
    named = Access("t", "c", "studio")
    assert named.is_ours("studio:1") and not named.is_ours("192.168.0.7")


@given(st.text())
def test_no_other_token_is_known(token: str) -> None:
    assert Access("sesame", "c").knows(token) == (token == "sesame")


@pytest.fixture(scope="module")
def acting() -> Iterator[Server]:
    with serving(echo, terms=Terms(acts=True, open=frozenset({"/healthz"}))) as server:
        yield server


def own(server: Server, **headers: str) -> dict[str, str]:
    """What a browser sends with a form of ours."""
    mine = {"authorization": "-", "cookie": cookie(server, server.access.token)}
    return {**mine, "origin": f"http://127.0.0.1:{server.port}", "sec_fetch_site": "same-origin", **headers}


def test_who_may_act(acting: Server) -> None:
    assert post(acting, "/", b"a=1").text == "True a=1"
    assert post(acting, "/", b"{}", content_type="application/json; charset=utf-8").text == "True {}"
    assert post(acting, "/", b"a=1", **own(acting)).text == "True a=1"
    assert post(acting, "/", b"a=1", **own(acting, sec_fetch_site="-")).text == "True a=1"
    assert post(acting, "/", b"a=1", **own(acting, origin="-")).text == "True a=1"
    assert post(acting, "/").text == "True "
    assert ask_in(acting).text == "True "


def test_who_may_not_act(acting: Server) -> None:
    def refused(status: int, **headers: str) -> bool:
        answer = post(acting, "/", b"a=1", **headers)
        return answer.status == status and "a=1" not in answer.text and answer.headers["connection"] == "close"

    for origin in ("http://evil.example", "null", "", f"https://127.0.0.1:{acting.port}", "http://127.0.0.1:1"):
        assert refused(403, origin=origin)
        assert refused(403, **own(acting, origin=origin)), "another port is the same site: the cookie comes along"
        assert refused(403, **own(acting, origin=origin, sec_fetch_site="-"))
    for site in ("cross-site", "same-site", "none", "x"):
        assert refused(403, sec_fetch_site=site, sec_fetch_mode="navigate")
        assert refused(403, **own(acting, sec_fetch_site=site))
        assert refused(403, **own(acting, sec_fetch_site=site, origin="-"))
    assert refused(403, **own(acting, origin="-", sec_fetch_site="-")), "nothing says where it comes from"
    assert refused(403, authorization="-")
    assert refused(403, authorization="Bearer x")
    assert refused(403, **own(acting, cookie=cookie(acting, "x")))
    assert refused(400, host="evil.example")
    rebound = own(acting, host=f"evil.example:{acting.port}", origin=f"http://evil.example:{acting.port}")
    assert refused(400, **rebound), "a name that was made to lead here"
    assert post(acting, f"/?token={acting.access.token}", b"a=1", authorization="-").status == 403
    assert post(acting, "/healthz", b"a=1", authorization="-").status == 403


def test_what_may_be_posted(acting: Server) -> None:
    for kind in ("-", "text/plain", "multipart/form-data; boundary=x", "application/xml", f"x{FORM}"):
        assert post(acting, "/", b"a=1", content_type=kind).status == 415
    assert post(acting, "/", b"a" * 4096).text == "True " + "a" * 4096
    assert post(acting, "/", b"a" * 4097).status == 413
    assert post(acting, "/", content_length="99999999999").status == 413
    assert post(acting, "/", content_length="-5").status in (400, 413)


def raw_post(server: Server, *parts: bytes) -> bytes:
    """The first of the answer to a chunked POST with the token."""
    bearer = f"Authorization: Bearer {server.access.token}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\nContent-Type: {FORM}\r\n"
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for part in parts:
            raw.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        return raw.recv(100)


def test_posts_without_a_length(acting: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert raw_post(acting, b"a=1", b"").startswith(b"HTTP/1.1 200 ")
    assert raw_post(acting, b"a" * 3000, b"b" * 3000).startswith(b"HTTP/1.1 413 ")
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    assert raw_post(acting, b"a=1").startswith(b"HTTP/1.1 408 "), "it never ends"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_acting_is_posting(acting: Server, method: str) -> None:
    answer = ask_in(acting, "/", method)
    assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD, POST"
    assert "access-control-allow-origin" not in answer.headers


def test_what_anybody_may_look_at(acting: Server) -> None:
    stranger = ask(acting, "/healthz")
    assert (stranger.text, stranger.headers["connection"]) == ("False ", "close")
    assert ask_in(acting, "/healthz").text == "True "
    assert ask(acting, "/healthz/").status == 403 and ask(acting, "/HEALTHZ").status == 403
    assert ask(acting, "/healthz", host="evil.example").status == 400
    assert ask(acting, "/healthz", origin="http://evil.example").status == 403


def test_headers_of_what_acts(acting: Server) -> None:
    for answer in (ask_in(acting), ask(acting), post(acting, "/"), ask(acting, "/healthz")):
        policy = answer.headers["content-security-policy"]
        assert policy == POLICY.replace("form-action 'none'", "form-action 'self'") and policy != POLICY
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"
