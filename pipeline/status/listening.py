"""Where pages are served: a socket that listens, and what it is called.

It is apart from the server because it may be held by another process: a page that has died and comes again is found
at the same place.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

from pipeline.errors import ConfigError

#: Connections that the system keeps for a server that has not come to take them yet.
QUEUE = 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens; pickles only while a child is being spawned.

    Attributes:
        socket: the listening one.
        host: the name or address by which it is reached.
    """

    socket: socket.socket
    host: str

    @classmethod
    def at(cls, host: str, port: int, settings: tuple[str, str] = ("--host", "--port")) -> Listener:
        """Listens at a name or address of this machine; port 0 is any that is free.

        `settings` are what whoever chose these two calls them.

        Raises:
            ConfigError: it cannot listen there.
        """
        made = _listening(host, port, settings)
        everywhere = ipaddress.ip_address(made.getsockname()[0]).is_unspecified
        return cls(made, socket.gethostname() if everywhere else host)

    @property
    def port(self) -> int:
        """The one it listens at."""
        port: int = self.socket.getsockname()[1]
        return port

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self._address.is_loopback

    @property
    def is_everywhere(self) -> bool:
        """Whether it listens at all addresses of this machine."""
        return self._address.is_unspecified

    @property
    def url(self) -> str:
        """http://HOST:PORT/"""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def close(self) -> None:
        """No longer listens, as far as this process goes."""
        self.socket.close()

    @property
    def _address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.socket.getsockname()[0])


def _listening(host: str, port: int, settings: tuple[str, str]) -> socket.socket:
    if not 0 <= port <= 65535:  # which some resolvers take modulo 65536
        raise ConfigError(f"a port is a number from 0 (any that is free) to 65535, not {port}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=QUEUE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"the page cannot be served at {host}: that is no name or address of this machine") from error
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # create_server's own words are longer
        raise ConfigError(
            f"the page cannot be served at {host} port {port} ({reason}); choose another {settings[1]} "
            f"(0: any that is free) or {settings[0]}"
        ) from error
