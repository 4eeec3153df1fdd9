"""The daemon's page in a real browser: what it looks like, what it does by itself, and what names cannot make it do."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.jobs import State as JobState
from pipeline.jobs import Table
from pipeline.status import daemon
from pipeline.status.server import Server
from pipeline.status.source import Files
from tests.pipeline.status import states
from tests.pipeline.status.browser import Tab, browsing
from tests.pipeline.status.serving import serving


@pytest.fixture
def state(tmp_path: Path) -> Iterator[states.State]:
    made = states.busy(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def server(state: states.State) -> Iterator[Server]:
    with serving(daemon.app(Files(state.folder)), terms=daemon.TERMS) as server:
        yield server


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with browsing(tmp_path) as tab:
        yield tab


def at(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def state_of(state: states.State, job: int) -> tuple[JobState, int]:
    with Table.looking(state.folder / "jobs.sqlite") as table:
        entry = table.entry(job)
        assert entry is not None
        return entry.state, entry.priority


def test_the_page_in_a_browser(tab: Tab, server: Server, state: states.State, tmp_path: Path) -> None:
    tab.size(1400, 900)
    tab.open(server.url)
    assert tab.ask("location.href") == at(server, "/"), "the token is not left in the address"
    assert tab.ask("document.cookie") == "", "no script can read it"

    # nothing that a clip is called becomes anything but text
    names = f"[...document.querySelectorAll('*')].filter(e => e.textContent === {states.HTML!r}).length"
    assert tab.ask(names) >= 1 and tab.ask("document.querySelectorAll('img:not([src^=\"/jobs/\"])').length") == 0

    # pictures of frames that are being made come anew each second; the one that is not there is said to be missing
    tab.wait("document.querySelectorAll('.preview.missing').length === 1")
    tab.wait("document.querySelector('#preview-16 img').naturalWidth === 1280")
    states.picture(Path(state.live.running[0].preview), "later", 1000, 300)
    tab.wait("document.querySelector('#preview-16 img').naturalWidth === 1000")

    # what has changed is put in its place, and only that
    tab.ask(
        "window.mine = document.querySelector('#clip-16'); document.querySelector('#queue .wide').scrollTop = 300; 0"
    )
    later = states.replace(state.live.running[0], frame=640)
    state.say(running=(later,), state="paused", reason="the <i>disk</i> is full")
    tab.wait("document.querySelector('#clip-16 progress').value === 0.64")
    assert tab.ask("window.mine === document.querySelector('#clip-16')") and not tab.ask(
        "document.querySelector('#clip-17')"
    )
    assert tab.ask("document.querySelector('header .reason').textContent") == "the <i>disk</i> is full"
    assert tab.ask("document.querySelector('#queue .wide').scrollTop") == 300
    assert tab.ask("document.querySelector('time').textContent") == "2 h ago"

    # buttons: sooner, cancel, try again, with a question before what is lost
    tab.ask("document.querySelector('#waiting-25 [title=sooner]').click()")
    tab.wait("document.querySelector('#waiting-25 .n:nth-of-type(4)').textContent === '1'")
    assert state_of(state, 25) == (JobState.WAITING, 1)
    tab.ask("document.querySelector('#waiting-26 [title=cancel]').click()")
    tab.wait("!document.querySelector('#waiting-26')")
    tab.ask("document.querySelector('#trouble-13 button').click()")
    tab.wait("!document.querySelector('#trouble-13')")
    assert state_of(state, 13)[0] is JobState.WAITING
    tab.ask("document.querySelector('#clip-16 button').click()")
    tab.wait("document.querySelector('#clip-16').textContent.includes('being cancelled')")
    assert len(tab.asked) == 1

    # all of it fits, on any screen
    for width, light in ((1400, False), (1400, True), (400, False), (400, True)):
        tab.size(width, 900, light)
        assert tab.ask("document.documentElement.scrollWidth") <= width
        tab.screenshot(tmp_path / f"{width}-{light}.png")
        ground = tab.ask("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(245, 246, 247)" if light else "rgb(20, 22, 26)")
    for path in ("/history", "/jobs/1", "/jobs/14", "/jobs/12"):
        tab.open(at(server, path))
        assert tab.ask("document.documentElement.scrollWidth") <= 400, path
    missing = [text for text in tab.complaints if "/preview.jpg" in text or "/favicon.ico" in text]
    assert tab.complaints == missing, "no script failed, nothing was refused by the policy"
    assert not [text for text in tab.asked if text in ("1", "2")], "no name was run"


def test_without_scripts(tab: Tab, server: Server, state: states.State) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(server.url)
    assert tab.ask("document.querySelectorAll('#waiting-25 button').length") == 3
    press = "HTMLFormElement.prototype.submit.call(document.querySelector('{} form'))"
    tab.ask(press.format("#waiting-25"))
    deadline = time.monotonic() + 60
    while state_of(state, 25)[1] != 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state_of(state, 25) == (JobState.WAITING, 1), "a form is enough"
    assert tab.ask("location.pathname") == "/"


def test_no_other_site_gets_in(tab: Tab, server: Server, state: states.State) -> None:
    """Another port of this machine is the same site to a browser: the cookie is sent, and must not be enough."""
    target = at(server, "/jobs/25/cancel")
    evil = f"""<!doctype html><title>other</title>
        <form id=f method=post action="{target}"><input name=priority value=9></form>
        <iframe src="{at(server, "/")}"></iframe>""".encode()

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(evil)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            tab.open(server.url)
            tab.open(f"http://127.0.0.1:{other.server_port}/")
            assert tab.ask("document.title") == "other"
            fetching = "fetch({!r}, {}).then(a => a.type, e => 'refused')"
            send = "{method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams()}"
            assert tab.ask(fetching.format(target, send)) in ("opaque", "refused")
            assert tab.ask(fetching.format(at(server, "/state.json"), "{credentials: 'include'}")) == "refused"
            tab.ask(f"window.seen = new Image(); seen.src = {at(server, '/jobs/1/sheet.jpg')!r}; 0")
            tab.wait("seen.complete")
            assert tab.ask("seen.naturalWidth") == 0
            assert (
                tab.ask("frames.length") == 1
                and tab.ask("(() => { try { return frames[0].document.title } catch { return 'no' } })()") == "no"
            )
            tab.ask("document.getElementById('f').submit()")
            tab.wait(f"location.href === {target!r}")
            assert "another site may not" in tab.ask("document.body.textContent")
            assert state_of(state, 25) == (JobState.WAITING, 0)
        finally:
            other.shutdown()
            thread.join()
