"""pipeline.status.training: the page of plain data, hostile names and all, and nothing but what it is meant to show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pytest

from pipeline.errors import WeightsError
from pipeline.status import training
from pipeline.status.server import Server
from tests.pipeline.status.serving import ask, ask_in, serving

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
PNG = b"\x89PNG\r\n\x1a\nnot much of a picture"

EMPTY: dict[str, Any] = {
    "name": "model",
    "state": "empty",
    "iteration": 0,
    "seconds": 0.0,
    **dict.fromkeys(("reason", "heard"), ""),
    **dict.fromkeys(("share", "left_s", "faces_per_s", "lr", "waiting")),
    **{name: {} for name in ("loss", "facts", "metrics", "whose", "files")},
    **dict.fromkeys(("sessions", "verdicts", "events", "kept"), ()),
}
TIME = "2026-01-31T22:00:00+00:00"
FULL: dict[str, Any] = EMPTY | {
    "state": "running",
    "iteration": 12345,
    "loss": {"anna": 0.04567, "bert": 0.05},
    "heard": TIME,
    "seconds": 3725.2,
    "share": 0.25,
    "left_s": 600.0,
    "faces_per_s": 93.21,
    "lr": 5e-5,
    "waiting": 0.031,
    "facts": {"model": "original", "on": "cuda bf16"},
    "sessions": (
        {"number": 2, "first": 0, "last": 12345, "steps": 12345, "batch": 16, "seconds": 3725.2, "reason": "running"}
        | {"start": TIME, "faces_per_s": 90.0, "loss": {"anna": 0.04567}},
    ),
    "metrics": {"ssim": True, "expression": False},
    "verdicts": ({"iteration": 12000, "metrics": {"ssim": 0.9123, "expression": 0.101}, "best": ("ssim",)},),
    "whose": {"anna>bert": {"expression": 0.0987}},
    "events": ({"iteration": 12000, "when": TIME, "what": "rolled back", "text": "the loss of anna is nan"},),
    "kept": (
        {"name": "backup.000012000", "kind": "backup", "iteration": 12000, "loss": {"anna": 0.05}, "when": TIME}
        | {"size": 45_600_000, "damaged": False},
    ),
    "files": {"preview.png": "1-2", "curves.png": "3-4", "report.html": "5-6"},
}


class Memory:
    """A source that is changed from outside."""

    def __init__(self) -> None:
        self.now: Mapping[str, Any] | WeightsError = FULL
        self.files: dict[str, bytes] = {"preview.png": PNG, "report.html": b"<script>alert(3)</script>"}
        self.asked: list[str] = []

    def state(self) -> Mapping[str, Any]:
        if isinstance(self.now, WeightsError):
            raise self.now
        return self.now

    def content(self, name: str) -> bytes | None:
        self.asked.append(name)
        return self.files.get(name)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def server(memory: Memory) -> Iterator[Server]:
    with serving(training.app(memory)) as server:
        yield server


class Read(HTMLParser):
    """Tags with their attributes, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_the_page_tells_it_all(server: Server) -> None:
    answer = ask_in(server)
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Read(answer.text)
    told = " ".join(page.text.split())
    for text in (
        "model: 12 345 steps",
        "training",
        "loss of anna 0.0457",
        "93.2",
        "1:02:05",
        "0:10:00",
        "5e-05",
        "3 %",
    ):
        assert text in told
    for text in (
        "0.912",
        "0.101",
        "anna → bert",
        "0.099",
        "rolled back",
        "the loss of anna is nan",
        "backup.000012000",
        "45.6",
    ):
        assert text in told
    assert ("progress", {"max": "1", "value": "0.2500"}) in page.tags
    best = [attributes for tag, attributes in page.tags if tag == "td" and "best" in (attributes.get("class") or "")]
    assert len(best) == 1


def test_nothing_from_elsewhere_and_nothing_inline(server: Server) -> None:
    page = Read(ask_in(server).text)
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on")} and "style" not in attributes
        for name in ("src", "href"):
            assert not (attributes.get(name) or "").startswith(("http", "//", "data:", "javascript:"))
        assert tag not in ("style", "iframe", "form", "object", "embed", "base")
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{"src": "training.js", "defer": None}]
    assert ("meta", {"http-equiv": "refresh", "content": "10"}) in page.tags
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources == ["preview.png?v=1-2", "curves.png?v=3-4"]


def test_hostile_names_are_only_text(server: Server, memory: Memory) -> None:
    def spoiled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                spoiled(k) if k in ("anna", "bert", "model", "anna>bert") else k: spoiled(v) for k, v in value.items()
            }
        if isinstance(value, tuple):
            return tuple(map(spoiled, value))
        return HOSTILE if isinstance(value, str) and value not in ("ssim", "running") else value

    plain = Read(ask_in(server).text)
    memory.now = {**spoiled({k: v for k, v in FULL.items() if k != "files"}), "files": FULL["files"]}
    answer = ask_in(server)
    assert answer.status == 200 and answer.text.count("alert(1)") >= 8
    spoilt = Read(answer.text)
    assert [tag for tag, _ in spoilt.tags if tag in ("script", "img")] == ["script", "img", "img"]
    assert {name for _, attributes in spoilt.tags for name in attributes} <= {
        name for _, attributes in plain.tags for name in attributes
    }
    assert json.loads(ask_in(server, "/state.json").text)["name"] == HOSTILE


def test_before_anything_is_there(server: Server, memory: Memory) -> None:
    memory.now = EMPTY
    answer = ask_in(server)
    assert answer.status == 200
    assert "not begun" in answer.text and "Nothing has been recorded yet." in answer.text
    assert (
        answer.text.count("There is none yet") == 2 and "<img" not in answer.text and "report.html" not in answer.text
    )


def test_when_it_cannot_be_read(server: Server, memory: Memory) -> None:
    memory.now = WeightsError(f"the journal {HOSTILE} cannot be read")
    answer = ask_in(server)
    assert answer.status == 200 and "the journal &lt;script&gt;" in answer.text and "<script>alert" not in answer.text
    assert json.loads(ask_in(server, "/state.json").text) == {"trouble": f"the journal {HOSTILE} cannot be read"}


def test_many_people(server: Server, memory: Memory) -> None:
    memory.now = FULL | {"loss": {f"p{number}": 0.1 for number in range(40)}}
    assert "0.1000 (mean of 40)" in ask_in(server).text


def test_the_state_for_programs(server: Server) -> None:
    answer = ask_in(server, "/state.json")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.text) == json.loads(json.dumps(FULL)) | {"trouble": ""}


def test_pictures_and_the_report(server: Server) -> None:
    answer = ask_in(server, "/preview.png?v=1-2")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, PNG, "image/png")
    assert ask_in(server, "/curves.png").status == 404
    report = ask_in(server, "/report.html")
    policy = report.headers["content-security-policy"]
    assert report.status == 200 and policy.startswith("sandbox; default-src 'none'") and "script" not in policy


@pytest.mark.parametrize("path", ["/", "/state.json", "/preview.png", "/training.css", "/training.js"])
def test_what_one_has_is_not_sent_again(server: Server, memory: Memory, path: str) -> None:
    first = ask_in(server, path)
    tag = first.headers["etag"]
    again = ask_in(server, path, if_none_match=tag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert ask_in(server, path, if_none_match='"x", ' + tag).status == 304
    assert ask_in(server, path, if_none_match='"x"').body == first.body
    memory.now, memory.files["preview.png"] = FULL | {"iteration": 12346}, PNG + b"!"
    changed = ask_in(server, path, if_none_match=tag).status
    assert changed == (304 if path.startswith("/training") else 200)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/../model.json",
            "/..%2fmodel.json",
            "/%2e%2e/%2e%2e/etc/passwd",
            "//etc/passwd",
            "/preview.png/",
            "/PREVIEW.PNG",
        ),
        *(
            "/preview.png%00",
            "/model.json",
            "/journal.jsonl",
            "/training.html",
            "/server.py",
            "/static/x",
            "/preview.png/../x",
        ),
        *(
            "/%2e/preview.png",
            "/preview.png%2f..%2fmodel.json",
            "/previews/1.png",
            "/favicon.ico",
            "/?/../x/..",
            "/a\\..\\b",
        ),
    ],
)
def test_nothing_else_is_there(server: Server, memory: Memory, path: str) -> None:
    answer = ask_in(server, path)
    assert answer.status == (200 if path.startswith("/?") else 404)
    assert not set(memory.asked) - set(training.FILES)


def test_all_of_it_takes_the_token(server: Server, memory: Memory) -> None:
    for path in ("/", "/state.json", "/preview.png", "/report.html", "/training.js", "/training.css"):
        assert ask(server, path).status == 403
        assert ask_in(server, path, "POST").status == 405
        assert ask_in(server, path, "HEAD").status == 200
    assert ask(server, "/preview.png").body != PNG
