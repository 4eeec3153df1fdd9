"""The process of the daemon's page: python -m pipeline.status.serve STATE DESCRIPTOR HOST TOKEN_FILE plain|json

It serves until its standard input closes, which happens when the daemon says so and when that dies.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from pipeline import logs
from pipeline.status import daemon
from pipeline.status.listening import Listener
from pipeline.status.secret import token_in
from pipeline.status.server import Server
from pipeline.status.source import Files

_END_S = 0.5  # for answers that are on their way

#: The clips come first: who asks for pages without end shall not have much of their processor.
_GIVES_WAY = 5


def main(state: str, descriptor: str, host: str, token_file: str, kind: str) -> None:
    """Serves the page of the daemon in `state` at a socket that was inherited."""
    # the terminal's Ctrl-C and a service manager's SIGTERM go to the whole group: the daemon decides, the pipe tells
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # only a name in `ps` and `top`
        Path("/proc/self/comm").write_text("us-page")
    os.nice(_GIVES_WAY)
    logs.set_up(logging.ERROR, kind == "json")
    listener = Listener(socket.socket(fileno=int(descriptor)), host)
    with Server(daemon.app(Files(Path(state))), listener, token_in(Path(token_file)), daemon.TERMS) as server:
        # not in the main thread, where it would take signals
        serving = threading.Thread(target=_serve, args=(server,), daemon=True)
        serving.start()
        while os.read(0, 1024):
            pass
        server.stop()
        serving.join(_END_S)
    os._exit(0)


def _serve(server: Server) -> None:
    try:
        server.run()
    except BaseException:
        logging.getLogger(__name__).exception("a defect in the page")
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
