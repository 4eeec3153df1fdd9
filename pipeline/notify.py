"""What a service says to systemd, by the protocol of sd_notify(3): ready, at this, going, still alive.

A line or two in a datagram to the socket that systemd names in the environment. Where there is none, or nobody
listens, nothing happens: a daemon that was started by hand runs all the same.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Self

from pipeline.logs import printable

#: What systemd leaves in the environment for the service itself; taken out of it, no child speaks in its name.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

#: How long a systemd that does not keep up may hold up the daemon for one message.
_PATIENCE_S = 1.0


class Notifier:
    """Speaks to the service manager, where there is one. No method raises.

    Attributes:
        watchdog_s: the service is taken for dead after so long without `alive`; say it twice as often. 0: it is not.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """`address` is a path, or @NAME for a socket in the abstract namespace; empty or anything else: nobody."""
        self.watchdog_s = watchdog_s
        place = os.fsencode(address)
        self._address = b"\0" + place[1:] if place.startswith(b"@") else place if place.startswith(b"/") else b""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """As systemd says in `environ`, which is left as it is: take `VARIABLES` out before children are started."""
        limit_us, meant = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        watched = limit_us.isdecimal() and meant in ("", str(os.getpid()))
        return cls(environ.get("NOTIFY_SOCKET", ""), int(limit_us[:18]) / 1e6 if watched else 0.0)

    def ready(self, status: str = "") -> bool:
        """It is up, or has re-read its settings."""
        return self._say("READY=1", *_status(status))

    def status(self, status: str) -> bool:
        """What it is at, for `systemctl status`: a sentence."""
        return self._say(*_status(status))

    def reloading(self) -> bool:
        """It re-reads its settings; `ready` says when that is over."""
        return self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> bool:
        """It is on its way out."""
        return self._say("STOPPING=1", *_status(status))

    def alive(self) -> bool:
        """It is not stuck."""
        return self._say("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """Starting or stopping takes longer than the unit allows: another `seconds` from now."""
        return self._say(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _say(self, *lines: str) -> bool:
        """Whether somebody was told."""
        if not self._address or not lines:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                speaker.settimeout(_PATIENCE_S)
                speaker.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True


def _status(status: str) -> tuple[str, ...]:
    return (f"STATUS={printable(status)}",) if status else ()
