"""What a clip's invisible watermark says: 48 bits that follow from what the clip is and what is made of it.

The same clip, made into the same thing, always gets the same: so a resumed result is that of an unbroken run, and the
audit (`understudy audit list --payload`) leads from a picture found somewhere back to the job that made it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from models.durable import open_regular
from pipeline.errors import InputError

BITS = 48

#: So much is read of a file's start and of its end.
_LOOK_NBYTES = 1 << 16


def of_file(path: str, salt: str) -> int:
    """The payload for a file, 1 to 2^48 - 1: of its size, its first and last 64 KiB, and `salt`. Raises InputError."""
    digest = hashlib.sha256(salt.encode())
    try:
        with open_regular(Path(path)) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "big") + file.read(_LOOK_NBYTES))
            file.seek(max(0, size - _LOOK_NBYTES))
            digest.update(file.read(_LOOK_NBYTES))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return int.from_bytes(digest.digest()[: BITS // 8], "big") or 1


def drawn() -> int:
    """One by chance, for a stream of which nothing is known before it is over."""
    return 1 + secrets.randbelow((1 << BITS) - 1)
