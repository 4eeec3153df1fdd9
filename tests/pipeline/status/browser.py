"""A real browser without a window, spoken to through a pipe: what a page becomes, once scripts and styles have run."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
_PATIENCE_S = 20.0

#: Nothing that goes out into the network, or needs what a small machine may lack.
_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *("--disable-sync", "--disable-breakpad", "--disable-crash-reporter", "--no-proxy-server", "--hide-scrollbars"),
)


def chromium() -> str:
    """The program; tests that ask for it skip where there is none."""
    found = os.environ.get("UNDERSTUDY_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        pytest.skip("no Chromium on PATH; install one or set UNDERSTUDY_CHROMIUM to it")
    return found


class Tab:
    """One page."""

    def __init__(self, sent: int, received: int) -> None:
        self._sent = sent
        self._received = received
        self._rest = b""
        self._last = 0
        self._session = ""
        #: What was said on the console, and what was thrown or refused.
        self.complaints: list[str] = []
        #: The questions that were asked; all are answered with yes.
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """What the browser answers."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._sent, json.dumps(message).encode() + b"\0")
        number = self._last
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            answer = self._next(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: Mapping[str, Any] = answer["result"]
                return result

    def _next(self, deadline: float) -> Mapping[str, Any]:
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._received], [], [], left)[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._received, 1 << 20)
            if not data:
                raise EOFError("the browser has gone")
            self._rest += data
        line, self._rest = self._rest.split(b"\0", 1)
        message: Mapping[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: Mapping[str, Any]) -> None:
        said = message.get("params", {})
        match message.get("method"):
            case "Page.javascriptDialogOpening":
                self.asked.append(said["message"])
                self._last += 1
                accept = {"id": self._last, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                os.write(self._sent, json.dumps({**accept, "sessionId": self._session}).encode() + b"\0")
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(said["args"]))
            case "Log.entryAdded":
                self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Goes there, and waits until all of it is there."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """What an expression is worth."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, patience_s: float = 60.0) -> None:
        """Until it is true."""
        deadline = time.monotonic() + patience_s
        while not self.ask(expression):
            assert time.monotonic() < deadline, f"never: {expression}"
            time.sleep(0.05)

    def size(self, width: int, height: int, light: bool = False) -> None:
        """What it is looked at with."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": "light" if light else "dark"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """What can be seen, or all there is."""
        content = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(content))


@contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    """A browser that keeps its things in `folder`, and its one tab."""
    program = chromium()
    theirs_in, sent = os.pipe()
    received, theirs_out = os.pipe()
    # It reads from 3 and writes to 4, which may be taken here: the shell puts ours there.
    line = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = ["bash", "-c", line, program, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    running = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(theirs_in, theirs_out),
        env=environment,
        start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        tab = Tab(sent, received)
        yield tab
        tab._session = ""
        tab.call("Browser.close")
        running.wait(60)
    finally:
        os.close(sent)
        os.close(received)
        if running.poll() is None:
            running.kill()
        running.wait()
