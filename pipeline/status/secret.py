"""The token of a page that comes again: in a file that only its owner may read, made where there is none."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from pipeline.errors import ConfigError

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,256}", re.ASCII)
_LONGEST = 1024


def token_in(path: Path) -> str:
    """The token that the file holds; a new one of 256 bits where there is no such file.

    Raises:
        ConfigError: it cannot be read or made, others may read it, or it holds something else.
    """
    try:
        if not path.exists():
            _make(path)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            found = file.read(_LONGEST).decode("ascii", "replace").strip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"the page's token {path} cannot be read or made: {reason}") from error
    if mode & 0o077:
        raise ConfigError(f"others may read the page's token {path}; chmod 600 it, or remove it for another one")
    if not _TOKEN.fullmatch(found):
        raise ConfigError(
            f"the page's token {path} has to be 16 to 256 letters, digits and -._~; remove it for another one"
        )
    return found


def _make(path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.unlink(missing_ok=True)  # whoever has it open would read along
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
