"""Picture files that nobody vouches for: how large they are before they are decoded, then their pixels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models import durable
from pipeline.errors import InputError

#: Extensions of the pictures that are read here, in small letters.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

#: The shortest side, in px, and the largest area, in px, of a picture that is of use: a file of a few KiB can
#: claim to be gigabytes of pixels.
MIN_SIDE, MAX_PIXELS = 16, 8192 * 8192

#: JPEG's start-of-frame markers: C0 to CF but for DHT, JPG and DAC (ITU-T T.81, table B.1).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def dimensions(content: bytes) -> tuple[int, int] | None:
    """Width and height in px as a PNG, JPEG, WebP or BMP file's header claims them, None where there is no such header.

    A JPEG's EXIF turn is not looked at.
    """
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack_from(">II", content, 16)
        if content.startswith(b"\xff\xd8"):
            return _jpeg(content)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _webp(content)
        if content.startswith(b"BM"):
            old = struct.unpack_from("<I", content, 14)[0] == 12
            width, height = struct.unpack_from("<HH" if old else "<ii", content, 18)
            return width, abs(height)
    except (struct.error, IndexError):
        pass  # the header is cut off
    return None


def _jpeg(content: bytes) -> tuple[int, int] | None:
    place = 2
    while content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # fill
            place += 1
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, place + 5)
            return width, height
        else:
            place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    return None


def _webp(content: bytes) -> tuple[int, int] | None:
    """RFC 9649: the three kinds of a WebP file's first chunk."""
    kind = content[12:16]
    if kind == b"VP8X":
        wide, high = content[24:27], content[27:30]
        return 1 + int.from_bytes(wide, "little"), 1 + int.from_bytes(high, "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def refusal(content: bytes) -> str:
    """Why a picture file cannot be used, as the end of a sentence that begins with its name; empty where it can."""
    found = dimensions(content)
    if found is None:
        return "is no picture or is damaged (PNG, JPEG, WebP and BMP are read)"
    width, height = found
    if min(width, height) < MIN_SIDE:
        return f"is {width}x{height} px; a face needs at least {MIN_SIDE} px a side"
    if width * height > MAX_PIXELS:
        return f"is {width}x{height} px, more than {MAX_PIXELS} px in all"
    return ""


def read(file: Path, flags: int = cv2.IMREAD_COLOR) -> NDArray[Any]:
    """The picture as OpenCV decodes it: uint8 BGR, or what `flags` ask for.

    Raises:
        InputError: the file is missing, no picture, too small or too large.
    """
    try:
        content = file.read_bytes()
        if reason := refusal(content):
            raise InputError(f"the face {file} {reason}")
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except (OSError, cv2.error) as error:
        raise InputError(f"the face {file} cannot be read: {error}") from error
    if picture is None:
        raise InputError(f"the face {file} is no picture or is damaged")
    return picture


def write(file: Path, picture: NDArray[Any]) -> None:
    """Writes a uint8 BGR or gray picture as a quickly packed PNG, for its owner alone (0600).

    Raises:
        InputError: the disk refuses.
    """
    done, content = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done, "PNG takes any 8-bit picture"
    try:
        with open(file, "wb", opener=durable.for_owner) as out:
            out.write(content.tobytes())
    except OSError as error:
        raise InputError(f"the face {file} cannot be written: {error}") from error


def square(picture: NDArray[Any], size: int) -> NDArray[Any]:
    """The picture's middle square, at `size` px."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = np.ascontiguousarray(picture[top : top + side, left : left + side])
    if side == size:
        return middle
    return cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def png(picture: NDArray[np.uint8]) -> bytes:
    """An (H, W, 3) uint8 RGB picture as a PNG file's content."""
    done, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done, "PNG takes any 8-bit picture"
    return bytes(content.tobytes())
