"""The visible label: a few words on a dark box, in a corner of the picture as it is meant to be seen.

It is drawn once for a clip and mixed into the frame's own planes: its height counts against the picture as it is shown
(turned, mirrored, with its sample aspect ratio), its samples are in the format that the frame has. Outside its box no
sample is touched. GB 45438-2025 (5.3) asks for letters of at least 5 % of the shorter side, on from a clip's first
picture for at least 2 s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from pipeline.errors import ConfigError
from pipeline.pixels import PixelFormat
from pipeline.types import Array, Clip, Colour, Picture
from stages.chroma import Box
from stages.colour import coding
from stages.geometry import apply, invert, stored_to_upright
from stages.lettering import Font, Lines
from stages.paste import Layer, grid, layers, mix

Place = Literal["top-left", "top-right", "bottom-left", "bottom-right", "top", "bottom"]

#: The least that the letters may have of the picture's shorter side, and how long they must be seen.
LEAST_HEIGHT, LEAST_S = 0.05, 2.0
_MOST_HEIGHT = 0.5

#: What is written where the text does not fit; letters that are smaller than this cannot be read.
SHORT = "AI"
_LEGIBLE_PX = 9

_LONGEST = 120

#: Fewer letters say nothing.
_LETTERS = 2

#: As shares of the letters' height: from the letters to the box's edge, and from there to the picture's.
_ROOMY, _TIGHT = (0.55, 0.6), (0.15, 0.0)

#: Of the picture's height, the most that the text may take before its short form is better.
_SHARE = 0.5

#: R'G'B' of the box and of the letters (0..255), and how much of the picture the box covers.
_DARK, _LIGHT, _COVER = 16, 255, 0.65
#: BT.2408: graphics white is 58 % of PQ's code values (H.273 transfer 16) and 75 % of HLG's (18).
_HDR_LIGHT = {16: 148, 18: 191}

#: A px this much wider than high, or higher than wide, is a mistake in the file: it counts as square.
_MOST_STRETCH = 8

_ONE = 1 << 16


@dataclass(frozen=True, slots=True)
class Config:
    """What the label says, where and how long.

    Attributes:
        text: the words.
        place: the corner or edge, of the picture as it is shown.
        height: of a capital letter, as a share of the picture's shorter side.
        seconds: how long from the first picture on; "all": throughout.
        font: a TrueType or OpenType file; None: a Latin one that is built in.
        off_because: why there is no label, in a few words that go into the manifest and the audit; empty: there is one.
    """

    text: str = "AI-generated: face replaced"
    place: Place = "bottom-left"
    height: float = 0.05
    seconds: float | Literal["all"] = 4.0
    font: Path | None = None
    off_because: str = ""

    def __post_init__(self) -> None:
        if len(self.text) > _LONGEST or not self.text.isprintable():
            raise ConfigError(f"disclose.label.text must be at most {_LONGEST} printable characters on one line")
        if sum(map(str.isalpha, self.text)) < _LETTERS:  # a dot would be no label, and need no reason
            raise ConfigError("disclose.label.text must be words; for none, say why in disclose.label.off_because")
        if not LEAST_HEIGHT <= self.height <= _MOST_HEIGHT:
            raise ConfigError(
                f"disclose.label.height must be from {LEAST_HEIGHT} to {_MOST_HEIGHT} of the shorter side, "
                f"not {self.height}"
            )
        if self.seconds != "all" and not self.seconds >= LEAST_S:
            raise ConfigError(f"disclose.label.seconds must be all, or at least {LEAST_S:g}, not {self.seconds}")

    @property
    def until_s(self) -> float:
        """`seconds` as a number; infinity is all of the clip."""
        return math.inf if self.seconds == "all" else self.seconds


def font_for(config: Config) -> Font:
    """The font that the text is written in. Raises ConfigError: it cannot be read, or lacks a character."""
    font = Font(config.font)
    if lacking := font.lacking(config.text):
        which = f"the font {config.font}" if config.font else "the font that is built in"
        raise ConfigError(
            f"disclose.label.text has characters that {which} lacks: {lacking[:10]}; "
            "set disclose.label.font to a TrueType or OpenType file that has them"
        )
    return font


class Label:
    """One clip's label.

    Attributes:
        text: what is written, which is short where the picture is too small for all of it.
    """

    def __init__(self, config: Config, clip: Clip, font: Font | None = None) -> None:
        """`font` is `font_for(config)`, which need not be loaded for each clip. Raises ConfigError as that does."""
        self._until_s = config.until_s
        self._colour = clip.colour
        self._turn = _quarter_turn(clip.display_matrix)
        self._aspect = _sane(float(clip.sample_aspect_ratio))
        _, shown = self._upright(clip.width, clip.height)
        # A picture that is stretched to be shown has fewer rows, or columns, to make a letter of.
        legible_px = math.ceil(_LEGIBLE_PX * max(self._aspect, 1 / self._aspect))
        self._place = config.place
        self._lettering = _fitted(config, font or font_for(config), shown, legible_px)
        self.text = self._lettering.text
        self._layers: tuple[Layer, ...] = ()
        self._shape: tuple[str, int, int] | None = None

    def draw(self, picture: Picture, seconds: float) -> bool:
        """Writes into the picture's planes, which must be writable; `seconds` count from the clip's first picture.

        Returns:
            Whether it is time for it: a frame's label hangs on that alone.
        """
        if seconds > self._until_s:
            return False
        shape = (picture.format.name, picture.width, picture.height)
        if shape != self._shape:
            self._layers, self._shape = tuple(self._made(picture)), shape
        for layer in self._layers:
            mix(picture, layer)
        return True

    def _upright(self, width: int, height: int) -> tuple[Array, tuple[int, int]]:
        return stored_to_upright(self._turn, width, height, self._aspect)

    def _made(self, picture: Picture) -> Iterator[Layer]:
        """The label in code values of such a picture."""
        ink = self._lettering.padded()
        to_upright, shown = self._upright(picture.width, picture.height)
        x, y = self._lettering.corner(self._place, shown, (ink.shape[1], ink.shape[0]))
        corners = np.array([(x - 0.5, y - 0.5), (x + ink.shape[1] - 0.5, y + ink.shape[0] - 0.5)])
        edges = np.rint(np.sort(apply(invert(to_upright), corners) + 0.5, axis=0)).astype(int)
        (left, top), (right, bottom) = edges.tolist()
        size = (max(1, right - left), max(1, bottom - top))
        turned = _as_stored(ink, to_upright[:, :2])
        if size != (turned.shape[1], turned.shape[0]):
            turned = cv2.resize(turned, size, interpolation=cv2.INTER_AREA)
        box = _on_the_grid((left, top, left + size[0], top + size[1]), picture)
        channels = _channels(picture, self._colour, turned)
        around = (left - box[0], top - box[1], box[2] - left - size[0], box[3] - top - size[1])
        return layers(picture, self._colour, _surrounded(channels, around, picture.format), box)


@dataclass(frozen=True, slots=True)
class _Lettering:
    """The words and the space around them, in px of the picture as it is shown."""

    text: str
    lines: Lines
    padding: int
    margin: int

    def padded(self) -> Array:
        """The ink with the box's dark edge around it, (h, w) uint8."""
        return np.pad(self.lines.ink, self.padding)

    def corner(self, place: Place, shown: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Where the box's upper left corner lies in a picture of the size `shown`."""
        free_x, free_y = shown[0] - size[0], shown[1] - size[1]
        across = self.margin if "left" in place else free_x - self.margin if "right" in place else free_x // 2
        down = self.margin if place.startswith("top") else free_y - self.margin
        return max(0, min(across, free_x)), max(0, min(down, free_y))


def _fitted(config: Config, font: Font, shown: tuple[int, int], legible_px: int) -> _Lettering:
    """The largest lettering that suits a picture of this size, the whole text before its short form."""
    centred = config.place in ("top", "bottom")
    for face, text, letter_px, roomy in _attempts(config, font, min(shown), legible_px):
        padding, margin = (round(letter_px * share) for share in (_ROOMY if roomy else _TIGHT))
        around = 2 * (padding + margin)
        lines = face.lines(text, letter_px, shown[0] - around, centred)
        room = min(shown[1] - around, shown[1] if text == SHORT else round(shown[1] * _SHARE))
        if lines is not None and lines.ink.shape[0] <= room:
            return _Lettering(text, lines, padding, margin)
    return _Lettering("", Lines(np.zeros((1, 1), np.uint8), ()), 1, 0)


def _attempts(config: Config, font: Font, shorter_px: int, legible_px: int) -> Iterator[tuple[Font, str, int, bool]]:
    """Fonts, texts, letters' heights, and whether there shall be space around: the best first.

    Only the last ones, for pictures of a few px, go below what is asked for.
    """
    most, least = (max(math.ceil(share * shorter_px), legible_px) for share in (config.height, LEAST_HEIGHT))
    plain = Font()
    for letter_px in _descending(most, least):
        yield font, config.text, letter_px, True
    for letter_px in _descending(most, least):
        yield plain, SHORT, letter_px, True
    for letter_px in _descending(least, 1):
        yield plain, SHORT, letter_px, False


def _descending(first: int, last: int) -> Iterator[int]:
    """Heights from `first` to `last`, by a tenth less each."""
    height = first
    while height > last:
        yield height
        height = max(last, min(height - 1, round(height * 0.9)))
    yield last


def _quarter_turn(display_matrix: tuple[int, ...] | None) -> tuple[int, ...]:
    """The display matrix (nine integers) of the quarter turn, mirrored or not, that is nearest to the one given."""
    linear = stored_to_upright(display_matrix, 1, 1)[0][:, :2]
    (a, c), (b, d) = linear.tolist()
    if abs(a) >= abs(b):
        b = c = 0.0
    else:
        a = d = 0.0
    signs = [int(math.copysign(_ONE, one)) if one else 0 for one in (a, b, c, d)]
    return (signs[0], signs[1], 0, signs[2], signs[3], 0, 0, 0, 1 << 30)


def _sane(aspect: float) -> float:
    return aspect if 1 / _MOST_STRETCH <= aspect <= _MOST_STRETCH else 1.0


def _as_stored(ink: Array, to_upright: Array) -> Array:
    """An upright picture, turned and mirrored as the stored one is, by the linear part of `stored_to_upright`."""
    (a, c), (b, d) = to_upright.tolist()
    if a:
        across, down, turned = a, d, ink
    else:
        across, down, turned = b, c, ink.T
    return np.ascontiguousarray(turned[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _on_the_grid(box: Box, picture: Picture) -> Box:
    """The box widened to whole chroma samples, of which the last may lie over the picture's edge."""
    (across, down), (x0, y0, x1, y1) = grid(picture.format), box
    return x0 // across * across, y0 // down * down, -(-x1 // across) * across, -(-y1 // down) * down


def _channels(picture: Picture, colour: Colour, ink: Array) -> dict[str, Array]:
    """Code values of letters and box by component, and "alpha"; (h, w), uint8, or float32 for deeper pictures.

    A picture's own alpha channel ("a") becomes opaque as far as the label covers: what cannot be seen is no label.
    """
    format = picture.format
    light = _HDR_LIGHT.get(colour.transfer, _LIGHT)
    letter = ink.astype(np.float32) / 255
    alpha = 1 - (1 - _COVER) * (1 - letter)
    # Letters over box over picture, as one colour and its share of what comes out.
    level = (letter * light + (1 - letter) * _COVER * _DARK) / alpha
    code = coding(format, colour, picture.width, picture.height)
    gains, zeros = code.from_rgb[:, :3].sum(axis=1), code.from_rgb[:, 3]
    found = {
        name: np.clip(level * gain + zero, 0, format.peak)
        for name, gain, zero in zip(code.components, gains, zeros, strict=True)
    }
    found |= {"a": np.full_like(level, format.peak), "alpha": alpha if format.depth > 8 else alpha * 255}
    if format.depth > 8:
        return {name: values.astype(np.float32) for name, values in found.items()}
    return {name: np.rint(values).astype(np.uint8) for name, values in found.items()}


def _surrounded(channels: dict[str, Array], around: Box, format: PixelFormat) -> dict[str, Array]:
    """With so many px more at the left, above, right and below, and a chroma sample's besides (`stages.paste.layers`).

    Code values go on there, but have no share in what comes out.
    """
    across, down = grid(format)
    left, top, right, bottom = around
    sides = (top + down, bottom + down, left + across, right + across)
    kinds = {name: cv2.BORDER_CONSTANT if name == "alpha" else cv2.BORDER_REPLICATE for name in channels}
    return {name: cv2.copyMakeBorder(values, *sides, kinds[name]) for name, values in channels.items()}
