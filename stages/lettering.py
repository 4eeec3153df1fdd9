"""Words as pictures: fonts, which characters they have, lines that fit a width, and how much of each px is ink."""

from __future__ import annotations

import io
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.durable import open_regular
from pipeline.errors import ConfigError
from pipeline.types import Array

#: No font is larger: those of a hundred thousand characters have about 30 MB.
_LARGEST_NBYTES = 1 << 28

#: At how many px a font is measured.
_PROBE_PX = 100

#: No character at all (Unicode keeps it free for ever): every font shows its sign for "I have not got that".
_NOWHERE = "\uffff"

#: Space between two lines' ink, as a share of the letters' height.
_LEADING = 0.45


class Lines(NamedTuple):
    """Words that were drawn.

    Attributes:
        ink: (h, w) uint8: 255 where a px is all letter, 0 where it is none; nothing but the ink's own box.
        text: the lines, from the top.
    """

    ink: Array
    text: tuple[str, ...]


class Font:
    """A typeface at any size: a file's, or the one that comes with Pillow (Aileron: Latin without accents)."""

    def __init__(self, file: Path | None = None) -> None:
        """Raises ConfigError: the file cannot be read, or is no TrueType or OpenType font."""
        self._file = file
        self._content = None if file is None else _content(file)
        self._sized = lru_cache(maxsize=8)(self._load)
        self._sized(_PROBE_PX)

    def _load(self, size: int) -> ImageFont.FreeTypeFont:
        if self._content is None:
            found = ImageFont.load_default(size)
            assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
            return found
        try:
            return ImageFont.truetype(io.BytesIO(self._content), size)
        except OSError as error:
            raise ConfigError(
                f"disclose.label.font: {self._file} is no font that can be read; give a TrueType or OpenType file"
            ) from error

    def lacking(self, text: str) -> str:
        """The characters of `text` that the font has no shape for, each once."""
        font = self._sized(_PROBE_PX)
        nothing = _shape(font, _NOWHERE)
        seen = dict.fromkeys(c for c in text if not c.isspace() and unicodedata.category(c) != "Cf")
        return "".join(c for c in seen if _shape(font, c) in (nothing, _shape(font, " ")))

    def lines(self, text: str, letter_px: int, width: int, centred: bool = False) -> Lines | None:
        """The words in letters of this height, broken into lines that are no wider than `width` px.

        Args:
            text: what to write.
            letter_px: the height of a capital H, at least.
            width: the most that a line may have.
            centred: whether lines stand under each other's middle, or begin where the first does.

        Returns:
            None where a word alone is too wide.
        """
        font = self._of_height(letter_px)
        broken = _broken(font, text, width)
        return None if broken is None else Lines(_drawn(font, broken, letter_px, centred), tuple(broken))

    def _of_height(self, letter_px: int) -> ImageFont.FreeTypeFont:
        """The font at the size at which a capital H is so high."""
        size = max(1, letter_px * _PROBE_PX // max(1, _cap_px(self._sized(_PROBE_PX))))
        while _cap_px(self._sized(size)) < letter_px:  # sizes are rounded to the px grid, each in its own way
            size += 1
        return self._sized(size)


def _content(file: Path) -> bytes:
    try:
        with open_regular(file) as opened:
            content = opened.read(_LARGEST_NBYTES + 1)
    except OSError as error:
        why = error.strerror or "it is no regular file"
        raise ConfigError(f"disclose.label.font: {file} cannot be read: {why}") from error
    if len(content) > _LARGEST_NBYTES:
        raise ConfigError(f"disclose.label.font: {file} is larger than any font ({_LARGEST_NBYTES >> 20} MiB)")
    return content


def _shape(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def _cap_px(font: ImageFont.FreeTypeFont) -> int:
    """How high a capital H is; where a font has none, it shows a sign of about that height."""
    _, top, _, bottom = font.getbbox("H", anchor="ls")
    return max(1, int(bottom - top))


def _broken(font: ImageFont.FreeTypeFont, text: str, width: int) -> list[str] | None:
    """Lines of at most `width` px, each as full as can be; None where a piece that cannot be broken is wider."""
    lines = [""]
    for piece in _pieces(text):
        if _width(font, lines[-1] + piece.rstrip()) <= width:
            lines[-1] += piece
            continue
        lines.append(piece)
        if _width(font, piece.rstrip()) > width:
            return None
    return [line.strip() for line in lines if line.strip()]


def _pieces(text: str) -> list[str]:
    """Where a line may be broken: after spaces and hyphens, and around the wide characters of East Asia."""
    pieces: list[str] = []
    for part in re.findall(r"[^\s-]*[\s-]+|[^\s-]+", text):
        narrow = ""
        for character in part:
            if unicodedata.east_asian_width(character) in "WF":
                pieces += [narrow, character]
                narrow = ""
            else:
                narrow += character
        pieces.append(narrow)
    return [piece for piece in pieces if piece]


def _width(font: ImageFont.FreeTypeFont, line: str) -> int:
    left, _, right, _ = font.getbbox(line, anchor="ls")
    return int(right - left)


def _drawn(font: ImageFont.FreeTypeFont, lines: list[str], letter_px: int, centred: bool) -> Array:
    """(h, w) uint8: the lines' ink and nothing around it."""
    boxes = [[int(edge) for edge in font.getbbox(line, anchor="ls")] for line in lines]
    top, bottom = min(box[1] for box in boxes), max(box[3] for box in boxes)
    step = bottom - top + round(_LEADING * letter_px)
    widths = [max(1, box[2] - box[0]) for box in boxes]
    sheet = Image.new("L", (max(widths), max(1, step * (len(lines) - 1) + bottom - top)))
    pen = ImageDraw.Draw(sheet)
    for number, (line, box, width) in enumerate(zip(lines, boxes, widths, strict=True)):
        indent = (sheet.width - width) // 2 if centred else 0
        pen.text((indent - box[0], step * number - top), line, fill=255, font=font, anchor="ls")
    return np.asarray(sheet)
