"""pipeline.status.page, serve and secret: a page in a process of its own, which comes and goes."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ConfigError
from pipeline.status.listening import Listener
from pipeline.status.page import TOKEN, Page, PageConfig
from pipeline.status.secret import token_in
from tests.pipeline.status import states

ROOT = Path(__file__).parents[3]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[states.State]:
    made = states.State(tmp_path / "-state\n<b>")
    made.say()
    yield made
    made.close()


@pytest.fixture
def page(state: states.State) -> Iterator[Page]:
    made = Page(state.folder, PageConfig(port=0))
    try:
        yield made
    finally:
        made.stop()


def port_of(page: Page) -> int:
    return int(page.address.rstrip("/").rpartition(":")[2])


def fetched(port: int, path: str = "/healthz", token: str = "", timeout_s: float = 15.0) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def gone(pid: int, patience_s: float = 60.0) -> bool:
    deadline = time.monotonic() + patience_s
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not psutil.pid_exists(pid)


def child() -> psutil.Process:
    return next(each for each in psutil.Process().children() if "pipeline.status.serve" in each.cmdline())


def test_it_serves_until_it_is_stopped(page: Page, state: states.State, capfd: pytest.CaptureFixture[str]) -> None:
    assert not page.alive() and page.address == page.url == ""
    page.start()
    port, token = port_of(page), token_in(state.folder / TOKEN)
    assert page.address == f"http://127.0.0.1:{port}/" and page.url == f"{page.address}?token={token}"
    assert page.is_local and page.alive() and page.end == ""
    assert fetched(port) == (200, "ok\n")
    assert fetched(port, "/")[0] == 403
    status, text = fetched(port, "/", token)
    assert status == 200 and "running" in text
    process = child()
    assert token not in " ".join(process.cmdline()) and token not in " ".join(process.environ().values())
    loaded = Path(f"/proc/{process.pid}/maps").read_text()
    assert not [name for name in ("torch", "mediapipe", "cv2", "libav") if f"/{name}" in loaded]
    page.start()
    assert child().pid == process.pid, "it runs already"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    assert fetched(port) == (200, "ok\n"), "signals of the group are the daemon's to obey"
    page.stop()
    assert gone(process.pid) and not page.alive() and page.address == ""
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    page.stop()
    assert capfd.readouterr() == ("", "")


def test_one_that_dies_is_found_at_the_same_place_again(page: Page) -> None:
    page.start()
    port, url = port_of(page), page.url
    assert fetched(port) == (200, "ok\n")
    child().kill()
    deadline = time.monotonic() + 10
    while page.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert page.end == "was killed by signal 9"
    waiting = socket.create_connection(("127.0.0.1", port), timeout=15)
    waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    page.start()
    assert (port_of(page), page.url) == (port, url)
    assert waiting.recv(100).startswith(b"HTTP/1.1 200 OK"), "who asked meanwhile is answered"
    waiting.close()


def test_one_that_hangs_is_ended(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.status.page._PATIENCE_S", 0.3)
    page.start()
    assert fetched(port_of(page))[0] == 200
    process = child()
    process.suspend()
    page.stop()
    assert gone(process.pid)


def test_it_goes_with_the_daemon(state: states.State) -> None:
    program = (
        "import sys, time; from pathlib import Path; from pipeline.status.page import Page, PageConfig\n"
        "page = Page(Path(sys.argv[1]), PageConfig(port=0)); page.start()\n"
        "print(page.address, page._process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, os.fspath(state.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as dying:
        assert dying.stdout is not None
        address, pid = dying.stdout.readline().split()
        port = int(address.rstrip("/").rpartition(":")[2])
        assert fetched(port)[0] == 200
        dying.kill()
    assert gone(int(pid))
    Listener.at("127.0.0.1", port).close()


def test_idle_ones_do_not_lock_out_the_owner(page: Page, state: states.State) -> None:
    page.start()
    port, token = port_of(page), token_in(state.folder / TOKEN)
    assert fetched(port)[0] == 200
    idle = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(500)]
    try:
        begun = time.monotonic()
        assert fetched(port, "/", token)[0] == 200 and fetched(port)[0] == 200
        assert time.monotonic() - begun < 5
        assert child().num_fds() < 400
    finally:
        for connection in idle:
            connection.close()


def test_loading_the_settings_loads_no_server() -> None:
    heavy = "{'starlette', 'uvicorn', 'jinja2', 'torch'}"
    code = f"import sys, pipeline.status.page; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_ports() -> None:
    assert PageConfig() == PageConfig(True, "127.0.0.1", 8386, None)
    for port in (-1, 65536):
        with pytest.raises(ValueError, match="port must be from 0"):
            PageConfig(port=port)


def test_where_it_cannot_start(state: states.State) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        page = Page(state.folder, PageConfig(port=taken.getsockname()[1]))
        with pytest.raises(ConfigError, match=r"Address already in use.*choose another daemon\.page\.port"):
            page.start()
    assert not page.alive()
    page.start()
    page.stop()
    (state.folder / TOKEN).chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        page.start()
    assert not page.alive() and page.address == ""


def test_a_token_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "token"
    before = os.umask(0)
    try:
        made = token_in(file)
    finally:
        os.umask(before)
    assert len(made) >= 43 and file.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [file]
    assert token_in(file) == made
    assert token_in(tmp_path / "another") != made


@pytest.mark.parametrize(
    "content", ["", "short", "x" * 300, "sixteen letters and blanks", "ümläuteümläuteümläute", "a" * 20 + "\nb"]
)
def test_what_is_no_token(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="16 to 256 letters"):
        token_in(file)


def test_a_token_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        token_in(tmp_path / "nowhere" / "token")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        token_in(tmp_path / "folder")
