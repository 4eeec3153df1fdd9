"""pipeline.status.daemon and source: what the page tells of a daemon's folder, and what its buttons do."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import checkpoints, result
from pipeline.jobs import State as JobState
from pipeline.live import Running
from pipeline.metrics import ALIVE_S, MEDIA_TYPE
from pipeline.status import daemon
from pipeline.status.server import Server
from pipeline.status.source import Files
from tests.pipeline.status import states
from tests.pipeline.status.serving import Answer, ask, ask_in, post, serving
from tests.pipeline.status.test_training import Read
from tests.pipeline.test_metrics import parse

JSON = "application/json"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[states.State]:
    made = states.State(tmp_path / "state")
    made.say()
    yield made
    made.close()


@pytest.fixture
def server(state: states.State) -> Iterator[Server]:
    with serving(daemon.app(Files(state.folder)), terms=daemon.TERMS) as server:
        yield server


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[states.State]:
    made = states.busy(tmp_path_factory.mktemp("full") / "state")
    made.close()
    return made


@pytest.fixture
def showing(full: states.State) -> Iterator[Server]:
    full.say()
    with serving(daemon.app(Files(full.folder)), terms=daemon.TERMS) as server:
        yield server


def told(answer: Answer) -> str:
    return " ".join(Read(answer.text).text.split())


def test_the_page_tells_it_all(showing: Server, full: states.State) -> None:
    answer = ask_in(showing)
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    page, text = Read(answer.text), told(answer)
    for wanted in (
        *("2 at work, 118 waiting", "running", "4711", "0.1.0", "118 waiting", "12 done", "2 failed", "1 blocked"),
        *("interview.mp4", "300 of 1 000 frames", "24.6 a second", "0:00:28 left", "77 frames"),
        *("the next 100 of 118", "season 1/episode 091.mkv", "12.3 MB"),
        *("broken.mp4", "<b>no</b> memory was left", "later.mov", "put it back", "Try again"),
        *("holiday/clip 4.mp4", "1 234 frames", "0:01:02", "no pictures"),
        *("anna and bert", "cuda:0", "detect/align", "93 %", "it keeps dying and rests for 30 s", "restarted 3 times"),
        *("/mnt/share/in", "the share does not answer", "upload.mov", "it ends before its index", "free"),
    ):
        assert wanted in text, wanted
    assert "episode 093" not in text, "a hundred are shown"
    assert ("progress", {"max": "1", "value": "0.3000"}) in page.tags
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources == [f"/jobs/{n}/preview.jpg" for n in (16, 17)] + [
        f"/jobs/{n}/sheet.jpg" for n in range(12, 0, -1) if n != 3
    ]
    lazy = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("loading") == "lazy"]
    assert len(lazy) == 11
    assert [a for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "refresh"]


@pytest.mark.parametrize(
    "path", ["/", "/history", "/history?state=waiting", "/jobs/14", "/jobs/17", "/jobs/6", "/jobs/9999"]
)
def test_hostile_names_are_only_text(showing: Server, path: str) -> None:
    answer = ask_in(showing, path)
    assert answer.status == (404 if "9999" in path else 200)
    page = Read(answer.text)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{"src": "/daemon.js", "defer": None}]
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on")} and "style" not in attributes
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith("/") and not (attributes.get(name) or "").startswith("//")
        assert tag not in ("style", "iframe", "object", "embed", "base")
    assert not set(answer.text) & {chr(code) for code in range(32)} - {"\n"} and "\u202e" not in answer.text


def test_names_of_all_kinds_are_shown_on_a_line(showing: Server) -> None:
    text = told(ask_in(showing))
    for shown in (states.HTML, r"a\nb.mp4", r"caf\udce9.mp4", "-rf.mp4", r"\x1b[31mred\u202egpj.mp4"):
        assert f"4{shown}" in text and f"5{states.HTML}" in text


def test_names_for_programs_are_as_they_are(showing: Server) -> None:
    found = json.loads(ask_in(showing, "/jobs.json?state=done").text)["jobs"]
    assert {Path(job["source"]).name for job in found} >= set(states.HOSTILE)
    assert json.loads(ask_in(showing, "/jobs/16.json").text)["source"].endswith("/interview.mp4")


def test_before_any_daemon_has_run(tmp_path: Path) -> None:
    with serving(daemon.app(Files(tmp_path / "nothing")), terms=daemon.TERMS) as server:
        assert "no daemon has been heard from yet" in told(ask_in(server))
        assert ask_in(server, "/history").status == 503 and ask_in(server, "/jobs/1").status == 503
        assert post(server, "/jobs/1/retry").status == 503
        assert ask_in(server, "/jobs/1/preview.jpg").status == ask_in(server, "/jobs/1/sheet.jpg").status == 404
        assert json.loads(ask_in(server, "/state.json").text)["live"] is None
        assert "understudy_up 0\n" in ask_in(server, "/metrics").text
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


def test_what_is_wrong_is_said(server: Server, state: states.State) -> None:
    state.say(state="paused", ready=False, reason="the out folder has 3 MB left and needs 512 MB")
    text = told(ask_in(server))
    assert "paused" in text and "the out folder has 3 MB left" in text
    state.say(state="running", reason="")
    state.close()
    (state.folder / "jobs.sqlite").write_bytes(b"no table at all" * 100)
    answer = ask_in(server)
    assert answer.status == 200 and "jobs.sqlite" in told(answer)
    assert json.loads(ask_in(server, "/jobs.json").text)["error"]


def test_health(server: Server, state: states.State) -> None:
    def said(path: str) -> list[tuple[int, str]]:
        return [(answer.status, answer.text) for answer in (ask(server, path), ask_in(server, path))]

    assert said("/healthz") == said("/readyz") == [(200, "ok\n")] * 2
    state.say(state="paused", ready=False, reason="the disk\nis full")
    assert said("/healthz") == [(200, "ok\n")] * 2
    assert said("/readyz") == [(503, "not ok\n"), (503, "the disk\\nis full\n")], "strangers are told no reasons"
    state.say(state="starting", reason="")
    assert said("/readyz")[1] == (503, "the daemon is starting\n")
    state.say(state="running", ready=True, time=time.time() - ALIVE_S - 5)
    for path in ("/healthz", "/readyz"):
        assert said(path) == [(503, "not ok\n"), (503, "the daemon has not been heard from for 35 s\n")]
    assert "not heard from" in told(ask_in(server))
    (state.folder / "live.json").unlink()
    assert [status for status, _ in said("/healthz")] == [503, 503]


def test_figures_for_prometheus(showing: Server) -> None:
    answer = ask_in(showing, "/metrics")
    assert answer.headers["content-type"] == MEDIA_TYPE
    found = {name: value for (name, labels), value in parse(answer.text).items() if not labels}
    assert found["understudy_up"] == 1
    assert parse(answer.text)["understudy_jobs", frozenset({("state", "waiting")})] == 118
    assert "img" not in answer.text, "no names of clips"
    assert ask(showing, "/metrics").status == 403


def test_history_in_pages(server: Server, state: states.State) -> None:
    for number in range(100):
        state.done(f"clip {number}.mp4", sheet=number > 97)
    seen: list[str] = []
    path: str | None = "/history?state=done&search=CLIP"
    while path:
        page = Read(ask_in(server, path).text)
        seen += [str(a["id"]) for tag, a in page.tags if tag == "li"]
        older = [str(a["href"]) for tag, a in page.tags if tag == "a" and "before=" in str(a.get("href"))]
        path = older[0] if older else None
    assert seen == [f"job-{number}" for number in range(100, 0, -1)]
    found = json.loads(ask_in(server, "/jobs.json?search=clip+7.").text)
    assert ([Path(job["source"]).name for job in found["jobs"]], found["before"]) == (["clip 7.mp4"], None)
    first = json.loads(ask_in(server, "/jobs.json").text)
    second = json.loads(ask_in(server, f"/jobs.json?before={first['before']}").text)
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == list(range(100, 4, -1))


@pytest.mark.parametrize(
    "query",
    [
        "state=x",
        "state=DONE",
        "before=x",
        "before=-1",
        "before=01",
        "before=1e3",
        "before=" + "9" * 30,
        "search=" + "x" * 201,
    ],
)
def test_what_cannot_be_asked_for(server: Server, query: str) -> None:
    assert ask_in(server, f"/jobs.json?{query}").status == 400 and ask_in(server, f"/history?{query}").status == 400


def test_one_job(server: Server, state: states.State) -> None:
    entry = state.done(states.HTML)
    result.write(os.fspath(result.path_for(entry.target)), {"version": 1, "understudy": "0.1.0", "faces": 4321})
    found = json.loads(ask_in(server, f"/jobs/{entry.id}.json").text)
    assert found["report"]["faces"] == 4321 and found["mark"]["size"] == 12_345_678 and found["state"] == "done"
    text = told(ask_in(server, f"/jobs/{entry.id}"))
    assert states.HTML in text and '"faces": 4321' in text and "Make it again" in text and "ab" * 32 in text
    failed = state.failed("b.mp4", "swap failed at frame 17")
    text = told(ask_in(server, f"/jobs/{failed.id}"))
    assert '"frame": 17' in text and "swap failed at frame 17" in text and "Try again" in text
    running = state.begin("c.mp4")
    state.say(running=(state.running(running),))
    text = told(ask_in(server, f"/jobs/{running.id}"))
    assert "300 of 1 000 frames" in text and "Cancel" in text
    waiting = state.add("d.mp4", 5)
    assert "priority 5" in told(ask_in(server, f"/jobs/{waiting.id}"))


def test_what_is_told_of_a_failure_by_a_table_that_was_rebuilt(server: Server, state: states.State) -> None:
    entry = state.table.fail(state.begin("b.mp4").id, f"{state.inbox}/b.mp4 is no clip", {"error": "InputError"}, 1e9)
    text = told(ask_in(server, f"/jobs/{entry.id}"))
    assert "InputError" in text and "history is no clip Try again" in text, "the name stands above"


def test_a_report_that_is_large_is_not_shown_to_its_end(server: Server, state: states.State) -> None:
    entry = state.done("a.mp4")
    report = {"version": 1, "first": 1, "many": [0] * 1_000_000, "last": 1}
    result.path_for(entry.target).write_text(json.dumps(report, separators=(",", ":")))
    answer = ask_in(server, f"/jobs/{entry.id}")
    assert answer.status == 200 and len(answer.body) < 200_000
    assert "first" in answer.text and "last&#34;" not in answer.text


def test_clips_that_come_next_are_at_work_too(server: Server, state: states.State) -> None:
    """An engine takes more than one clip, and is at the first."""
    first, second, third = (state.begin(f"{name}{states.HTML}") for name in "abc")
    state.say(running=(state.running(first),))
    text = ask_in(server).text
    assert f'id="clip-{first.id}"' in text
    assert text.index(f'id="next-{second.id}"') < text.index(f'id="next-{third.id}"')
    assert f'id="next-{first.id}"' not in text and f'action="/jobs/{second.id}/cancel"' in text
    assert "It comes next" in told(ask_in(server, f"/jobs/{second.id}"))
    state.table.withdraw(second.id, 1e9)
    assert "being cancelled" in told(ask_in(server))


def test_previews_are_made_while_somebody_looks(server: Server, state: states.State) -> None:
    entry = state.begin("a.mp4")
    clip = state.running(entry)
    watched = state.work / checkpoints.WATCHED
    assert ask_in(server, f"/jobs/{entry.id}/preview.jpg").status == 404 and not watched.exists(), "it does not run"
    state.say(running=(clip,))
    assert ask_in(server, f"/jobs/{entry.id}/preview.jpg").status == 404 and watched.exists()
    os.utime(watched, (1, 1))
    content = states.picture(Path(clip.preview), "before")
    answer = ask_in(server, f"/jobs/{entry.id}/preview.jpg?123")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, content, "image/jpeg")
    assert answer.headers["cache-control"] == "no-store" and watched.stat().st_mtime > 1
    Path(clip.preview).unlink()
    Path(clip.preview).symlink_to("/etc/passwd")
    assert ask_in(server, f"/jobs/{entry.id}/preview.jpg").status == 404
    state.say(running=(replace(clip, preview="/etc/passwd"),))
    assert ask_in(server, f"/jobs/{entry.id}/preview.jpg").status == 404


def test_sheets(server: Server, state: states.State) -> None:
    entry = state.done("a.mp4")
    path = f"/jobs/{entry.id}/sheet.jpg"
    answer = ask_in(server, path)
    assert answer.status == 200 and answer.headers["content-type"] == "image/jpeg"
    assert ask_in(server, path, if_none_match=answer.headers["etag"]).status == 304
    file = state.folder / "sheets" / f"{entry.id}.jpg"
    file.write_bytes(b"GIF89a")
    assert ask_in(server, path).status == 404, "nothing but pictures of ours"
    file.write_bytes(b"\xff\xd8\xff" + bytes(17 << 20))
    assert ask_in(server, path).status == 404, "nothing that large"
    file.unlink()
    os.mkfifo(file)
    assert ask_in(server, path).status == 404, "and nothing that one waits for"


TRAVERSALS = (
    *("../live.json", "..%2flive.json", "%2e%2e/live.json", "%2e%2e%2flive.json", "....//live.json", "..;/live.json"),
    *("..%252flive.json", "%252e%252e/live.json", "..%c0%aflive.json", "..%5clive.json", "..\\live.json", "~/.ssh/id"),
    *("1/../../live.json", "1%2f..%2f..%2flive.json", "1/sheet.jpg/../../2/sheet.jpg", "1/sheet.jpg%00", "1%00.jpg"),
    *("1/sheet.jpg/", "1/SHEET.JPG", "1/sheet.jpg.json", "1/preview.jpg%2f..", "1/../1/sheet.jpg", "./1/sheet.jpg"),
    *(
        "%2e/1/sheet.jpg",
        "/1/sheet.jpg",
        "//etc/passwd",
        "1//sheet.jpg",
        "01/sheet.jpg",
        "+1/sheet.jpg",
        "-1/sheet.jpg",
    ),
    *("1.0/sheet.jpg", "1e0/sheet.jpg", "0x1/sheet.jpg", "%31%20/sheet.jpg", "1_0/sheet.jpg", "٣/sheet.jpg"),
    *("%EF%BC%91/sheet.jpg", "0/sheet.jpg", "9" * 25 + "/sheet.jpg", "1;2/sheet.jpg", "*/sheet.jpg", "None/sheet.jpg"),
    *("1.json/sheet.jpg", "1.html", "token", "../token", "jobs.sqlite", "../jobs.sqlite-wal", "1.json.json", "1.JSON"),
)


@pytest.mark.parametrize("path", TRAVERSALS)
def test_nothing_else_is_there(showing: Server, full: states.State, path: str) -> None:
    (full.folder / "token").write_text("a secret of the daemon")
    answer = ask_in(showing, "/jobs/" + "".join(c if c.isascii() else "%D9%A3" for c in path))
    assert answer.status == 404 and b"secret" not in answer.body and b"4711" not in answer.body
    assert not answer.headers["content-type"].startswith("image")


@pytest.mark.parametrize(
    "path", ["/token", "/live.json", "/jobs.sqlite", "/daemon.html", "/server.py", "/favicon.ico", "//"]
)
def test_nor_at_the_top(showing: Server, path: str) -> None:
    assert ask_in(showing, path).status == 404


def test_all_of_it_takes_the_token(showing: Server) -> None:
    paths = ["/", "/history", "/state.json", "/jobs.json", "/jobs/1", "/jobs/1.json", "/jobs/1/sheet.jpg", "/metrics"]
    for path in [*paths, "/jobs/16/preview.jpg", "/daemon.js", "/daemon.css", "/base.css"]:
        assert ask_in(showing, path).status == ask_in(showing, path, "HEAD").status == 200, path
        assert ask(showing, path).status == ask(showing, path, authorization="Bearer x").status == 403
        assert ask_in(showing, path, host="evil.example").status == 400
        assert ask_in(showing, path, origin="http://evil.example").status == 403
        assert post(showing, path).status == 405
    for act in ("retry", "cancel", "priority"):
        assert ask_in(showing, f"/jobs/1/{act}").status == 405
    assert ask(showing, "/healthz", host="evil.example").status == 400


def test_buttons(server: Server, state: states.State) -> None:
    failed, waiting, running = state.failed("a.mp4", "no"), state.add("b.mp4"), state.begin("c.mp4")
    answer = post(server, f"/jobs/{failed.id}/retry")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    again = state.table.entry(failed.id)
    assert again is not None and again.state is JobState.WAITING
    answer = post(server, f"/jobs/{waiting.id}/priority", b"priority=-12&back=job")
    assert (answer.status, answer.headers["location"]) == (303, f"/jobs/{waiting.id}")
    sooner = state.table.entry(waiting.id)
    assert sooner is not None and sooner.priority == -12
    assert post(server, f"/jobs/{waiting.id}/cancel", b"back=history").headers["location"] == "/history"
    gone = state.table.entry(waiting.id)
    assert gone is not None and gone.state is JobState.CANCELLED
    answer = post(server, f"/jobs/{running.id}/cancel", b"{}", content_type=JSON)
    assert (answer.status, json.loads(answer.text)) == (200, {"job": running.id})
    wished = state.table.entry(running.id)
    assert wished is not None and (wished.state, wished.wish) == (JobState.RUNNING, "cancel")
    state.say(running=(state.running(running),))
    assert "being cancelled" in told(ask_in(server)) and "being cancelled" in told(
        ask_in(server, f"/jobs/{running.id}")
    )


def test_a_button_leads_nowhere_else(server: Server, state: states.State) -> None:
    failed = state.failed("a.mp4", "no")
    answer = post(server, f"/jobs/{failed.id}/retry", b"back=https://evil.example/&back=//evil.example")
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_what_cannot_be_done_is_said(server: Server, state: states.State) -> None:
    done, waiting = state.done("a.mp4"), state.add("b.mp4")
    answer = post(server, f"/jobs/{done.id}/cancel")
    assert answer.status == 409 and f"job {done.id} cannot be cancelled: it is done" in told(answer)
    answer = post(server, f"/jobs/{waiting.id}/retry", b"{}", content_type=JSON)
    assert answer.status == 409 and "it is waiting" in json.loads(answer.text)["error"]
    assert post(server, "/jobs/999/retry").status == 409 and ask_in(server, "/jobs/999").status == 404
    for body in (b"", b"priority=", b"priority=x", b"priority=1.5", b"priority=99999999", b"priority=%D9%A3"):
        assert post(server, f"/jobs/{waiting.id}/priority", body).status == 400, body
    assert post(server, f"/jobs/{waiting.id}/priority", b"priority=9999999").status == 409
    for body in (b"[]", b"{", b"\xff", b"1", b"[" * 4000, b'{"priority": {}}', b'{"priority": null}'):
        assert post(server, f"/jobs/{waiting.id}/priority", body, content_type=JSON).status == 400, body
    assert post(server, f"/jobs/{waiting.id}/priority", b"a=1&" * 900).status == 400
    for number in ("0", "-1", "01", "x", "1.json", "9" * 30):
        assert post(server, f"/jobs/{number}/retry").status == 404
    assert post(server, f"/jobs/{waiting.id}/delete").status == 404


def test_what_one_has_is_not_sent_again(showing: Server) -> None:
    for path in ("/daemon.js", "/jobs/1", "/jobs/1/sheet.jpg"):
        first = ask_in(showing, path)
        assert ask_in(showing, path, if_none_match=first.headers["etag"]).status == 304


def test_a_share_that_does_not_answer_keeps_nobody_waiting(
    server: Server, state: states.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def hung(path: Path) -> int:
        answers.wait(60)
        return 5

    monkeypatch.setattr("pipeline.status.source.free_bytes", hung)
    begun = time.monotonic()
    try:
        assert ask_in(server).status == ask_in(server, "/healthz").status == 200
        assert time.monotonic() - begun < 30
    finally:
        answers.set()


def test_running_clips_of_a_daemon_that_is_gone_are_not_shown(server: Server, state: states.State) -> None:
    clip = Running(1, "/in/x.mp4", "/out/x.mp4", "swap", 1, 2, 1.0, None, 1.0, "")
    state.say(running=(clip,), time=time.time() - 100)
    assert "x.mp4" not in told(ask_in(server))
