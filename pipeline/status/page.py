"""The daemon's page from the daemon's side: a process of its own, which may die without any clip noticing.

The daemon holds the socket, so a page that has died is found at the same place when it is started again, and the pipe
that tells the page to go, which closes by itself when the daemon dies. This module loads nothing of what the page
needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UnderstudyError
from pipeline.status.listening import Listener
from pipeline.status.secret import token_in

#: What the token is called in the daemon's folder.
TOKEN = "token"  # noqa: S105  a file's name

#: What its host and port are called in the configuration.
_SETTINGS = ("daemon.page.host", "daemon.page.port")

_PATIENCE_S = 3.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class PageConfig:
    """The page of the daemon.

    Attributes:
        enabled: whether there is one.
        host: the name or address of this machine at which it can be reached; nothing is encrypted.
        port: its port; 0 for any that is free.
        token_file: the file with the token that lets one in, made where there is none; None: in the daemon's folder.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8386
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 (any that is free) to 65535, not {self.port}")


class Page:
    """The process of the page. Nothing of it waits, but for `stop`, which does so for a moment."""

    def __init__(self, state: Path, config: PageConfig, as_json: bool = False) -> None:
        """`state` is the daemon's folder; with `as_json` what the page logs to stderr is JSON lines."""
        self._state = state.absolute()
        self._config = config
        self._as_json = as_json
        self._token_file = (config.token_file or self._state / TOKEN).absolute()
        self._listener: Listener | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """http://HOST:PORT/; empty before the first start."""
        return self._listener.url if self._listener is not None else ""

    @property
    def url(self) -> str:
        """The address that lets one in: not for logs. Raises ConfigError as `start`."""
        return f"{self.address}?token={token_in(self._token_file)}" if self._listener is not None else ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self._listener is None or self._listener.is_local

    def start(self) -> None:
        """Starts it, the first time or again; nothing happens where it runs. It answers in a second or so.

        Raises:
            ConfigError: it cannot listen there, or its token cannot be read.
            UnderstudyError: the system has no room for another process.
        """
        if self.alive():
            return
        self._end()
        token_in(self._token_file)  # what is wrong with it is said here
        if self._listener is None:
            self._listener = Listener.at(self._config.host, self._config.port, _SETTINGS)
        descriptor = self._listener.socket.fileno()
        what = ["-P", "-m", "pipeline.status.serve", os.fspath(self._state), str(descriptor), self._listener.host]
        what += [os.fspath(self._token_file), "json" if self._as_json else "plain"]
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        try:
            self._process = subprocess.Popen(
                [sys.executable, *what],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[descriptor],
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as error:
            raise UnderstudyError(f"no process could be started for the page: {error.strerror or error}") from error

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def end(self) -> str:
        """How it ended, for a log; empty where it has not."""
        code = self._process.poll() if self._process is not None else None
        if code is None:
            return ""
        return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"

    def stop(self) -> None:
        """Ends it, and listens no more; it may be started again."""
        self._end()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _end(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
