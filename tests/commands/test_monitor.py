"""`monitor`: the page of a folder as a training leaves it, and its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from models.train.journal import FILE, Journal
from pipeline.commands.monitor import Files
from pipeline.status import training
from tests.models.reports import journals
from tests.pipeline.status.serving import ask_in, serving
from tests.program import Program, as_json, the_error

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return journals.night(tmp_path / "night")


def test_once(program: Program, night: Path) -> None:
    code, out, _ = program("monitor", night, "--once")
    assert code == 0
    assert out.splitlines()[0] == "night: ended: stopped, 6 000 steps"
    assert "judged at step 6 000: ssim 0.891" in out and "out of memory" in out
    assert as_json(program("monitor", night, "--once", "--json")[1])["iteration"] == 6000


def test_refusals(program: Program, tmp_path: Path, night: Path) -> None:
    code, out, err = program("monitor", tmp_path / "nowhere")
    assert (code, out) == (5, "") and "does not exist" in the_error(err)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = program("monitor", night, "--port", str(port))
    assert (code, out) == (2, "") and "Address already in use" in the_error(err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_serves_without_torch_and_ends_with_a_signal(night: Path, number: signal.Signals, code: int) -> None:
    program = (
        "import sys; from pipeline.__main__ import main\n"
        "code = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'mediapipe', 'cv2', 'av'} & set(sys.modules)), flush=True)\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "monitor", str(night), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        url = as_json(running.stdout.readline())["url"]
        host, _, path = url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("GET", "/state.json", headers={"Authorization": f"Bearer {path.removeprefix('?token=')}"})
        assert json.loads(connection.getresponse().read())["iteration"] == 6000
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
        connection.close()
    assert (running.returncode, out) == (code, "[]\n")
    assert err == f"understudy: stopped by {number.name}\n"


def test_the_page_follows_the_training(tmp_path: Path) -> None:
    with serving(training.app(Files(tmp_path))) as server:
        assert "not begun" in ask_in(server).text
        journal = Journal(tmp_path, now=lambda: journals.START)
        journal.begin(journals.opening())
        journal.point(journals.point(10, 5))
        page = ask_in(server)
        assert "training" in page.text and ">10</dd>" in page.text
        assert ask_in(server, "/", if_none_match=page.headers["etag"]).status == 304
        journal.point(journals.point(20, 10))
        assert ">20</dd>" in ask_in(server, "/", if_none_match=page.headers["etag"]).text
        journal.close()
        assert '"state killed"' in ask_in(server).text
        (tmp_path / "preview.png").write_bytes(PNG)
        version = as_json(ask_in(server, "/state.json").text)["files"]["preview.png"]
        assert ask_in(server, f"/preview.png?v={version}").body == PNG


def test_folders_of_strangers(tmp_path: Path) -> None:
    folder = tmp_path / "<b>odd"
    folder.mkdir()
    (folder / FILE).write_bytes(
        b'{"kind": "session", "iteration": 3, "people": ["<i>x"], "architecture": "<u>"}\n\xff\x00\n[]'
    )
    (folder / "model.json").write_text("{")
    os.mkfifo(folder / "preview.png")
    (folder / "curves.png").mkdir()
    (folder / "kept").mkdir()
    (folder / "kept" / "best.json").write_text("null")
    with serving(training.app(Files(folder))) as server:
        page = ask_in(server)
        assert page.status == 200 and "&lt;i&gt;x" in page.text and "damaged" in page.text
        assert not {"<b>", "<i>x", "<u>"} & set(page.text.split(">"))
        assert "<b>odd" not in page.text and "<u>" not in page.text
        assert ask_in(server, "/preview.png").status == ask_in(server, "/curves.png").status == 404
        (folder / FILE).unlink()
        (folder / FILE).mkdir()
        assert "cannot be read" in ask_in(server).text


def test_a_folder_that_goes_away(night: Path) -> None:
    with serving(training.app(Files(night))) as server:
        assert ">6" in ask_in(server).text
        night.rename(night.with_name("elsewhere"))
        assert "does not exist" in ask_in(server).text
        night.with_name("elsewhere").rename(night)
        assert "6\u202f000" in ask_in(server).text
