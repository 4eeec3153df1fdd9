"""The invisible watermark: a keyed pattern of chips, a level or so of luma, that says a clip's payload in every frame.

Spread spectrum after Cox, Kilian, Leighton and Shamoon (IEEE Trans. Image Processing 6, 1997): each bit is carried by
thousands of weak chips all over the picture. The pattern stands still, as in Kalker, Depovere, Haitsma and Maes' JAWS
(SPIE 3657, 1999), so that an encoder pays for it once and not in every frame, and trimming or another rate changes
nothing. It lies on a grid that scales with the picture (`watermark_field.py`) and is read blindly, without the original
(`watermark_finder.py`).

How strong it is hangs on the picture: least where it is smooth, as skin and sky are, more where texture hides it,
nothing in black. Levels between two whole ones come by an ordered dither. All that is done to a frame hangs on the key,
the clip's payload and the frame's own samples, so a frame gets the same marks whatever was made before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import ConfigError
from pipeline.pixels import PixelFormat
from pipeline.types import Array, Clip, Picture
from stages.colour import is_full_range, matrix_of
from stages.watermark_field import KEY_NBYTES, chip_positions, field

#: No sample of luma (or of R'G'B') is ever changed by more than so many levels of 8 bits.
PEAK = 3

#: Levels in a smooth part of a picture of 720 lines: of clips up to the first length (s), from the second on, between.
_SHORT_S, _LONG_S = 2.0, 60.0
_OF_SHORT, _OF_LONG, _OF_UNKNOWN = 1.3, 0.8, 1.0

#: A chip of a larger picture has more samples to be seen by, so each may change less; and the other way about.
_LINES, _LEAST_SHARE, _MOST_SHARE = 720, 0.65, 1.25

#: Levels more for each level of activity: by how much samples differ from those around them, on average.
_PER_ACTIVITY = 0.15

#: Levels above black between which the mark comes in: what is dark shows it most.
_BLACK, _DARK = 4, 32

#: The pattern's slopes are so steep that most of a chip reaches its level.
_STEEPNESS = 2.5

#: Samples between which activity is looked for: so many on the shorter side.
_LOOKS = 270

#: Rows that are worked on at once: few enough that all of it stays in the processor's cache.
_BAND_SAMPLES = 1 << 17

#: Levels are counted in sixteenths until they are dithered.
_FINE_BITS = 4
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])


@dataclass(frozen=True, slots=True)
class Config:
    """Whether there is a watermark, and whose.

    Attributes:
        off_because: why there is none; empty: there is one.
        key: the file of the 32 bytes that the pattern hangs on (filled in by the program).
    """

    off_because: str = ""
    key: str = ""


def read_key(path: str) -> bytes:
    """The 32 bytes in a file. Raises ConfigError where there are not just that many, or it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            key = file.read(KEY_NBYTES + 1)
    except OSError as error:
        raise ConfigError(f"the watermark's key {path} cannot be read: {error.strerror}") from error
    if len(key) != KEY_NBYTES:
        raise ConfigError(f"the watermark's key {path} must have {KEY_NBYTES} bytes; put the file back as it was")
    return key


class Watermark:
    """The mark of one clip; made once, then laid into each of its pictures."""

    def __init__(self, key: bytes, clip: Clip) -> None:
        """Takes two bytes of memory for each pixel, four above 8 bits. Raises ValueError for a key that is none."""
        format = clip.pixel_format
        self._format, self._size = format, (clip.width, clip.height)
        self._places = _places(format, matrix_of(format, clip.colour, clip.width, clip.height) == 0)
        low, high = (0, 255) if is_full_range(format, clip.colour) else (16, 235)
        self._step = max(1, round(min(self._size) / _LOOKS))
        self._strong, self._shade = _strengths(strength(clip.duration_s, min(self._size))), _shades(low)
        looks = -(-clip.height // self._step), -(-clip.width // self._step)
        dither = np.tile(_BAYER.astype(format.dtype), (looks[0] // 4 + 1, looks[1] // 4 + 1))
        self._dither = dither[: looks[0], : looks[1]]
        self._rows = self._step * max(1, _BAND_SAMPLES // clip.width // self._step)
        self._low, self._high = (_all(level, self._rows, clip.width, format) for level in (low, high))
        self._brighter, self._darker, self._room = (np.empty_like(self._low) for _ in range(3))
        self._up, self._down = _pattern(field(key).of(clip.payload), clip, looks[0] * self._step)

    def apply(self, picture: Picture) -> None:
        """Lays the mark into the picture's own planes: luma, or R', G' and B' alike.

        Samples inside the legal range stay inside; those outside it are never taken further out. Raises ValueError
        for a picture that is not as its clip says.
        """
        if picture.format != self._format or (picture.width, picture.height) != self._size:
            raise ValueError(f"{picture} is not of the clip that this watermark was made for")
        samples = [
            picture.planes[plane] if at is None else picture.planes[plane][..., at] for plane, at in self._places
        ]
        levels = self._levels(samples[0])
        for top in range(0, picture.height, self._rows):
            rows = slice(top, min(top + self._rows, picture.height))
            self._lay([one[rows] for one in samples], rows, levels)

    def _lay(self, targets: list[Array], rows: slice, levels: Array) -> None:
        """One band of rows. Arithmetic saturates: what would be below zero is zero."""
        count, looks = rows.stop - rows.start, levels[rows.start // self._step : -(-rows.stop // self._step), None]
        for pattern, change in ((self._up, self._brighter), (self._down, self._darker)):
            steps = pattern[rows.start : rows.start + len(looks) * self._step].reshape(len(looks), self._step, -1)
            np.minimum(steps, looks, out=change[: len(looks) * self._step].reshape(steps.shape))
        up, down, room = self._brighter[:count], self._darker[:count], self._room[:count]
        sources = [np.ascontiguousarray(target) for target in targets]
        for source in sources:
            cv2.min(up, cv2.subtract(self._high[:count], source, room), up)
            cv2.min(down, cv2.subtract(source, self._low[:count], room), down)
        for source, target in zip(sources, targets, strict=True):
            np.copyto(target, cv2.subtract(cv2.add(source, up, room), down, room))

    def _levels(self, luma: Array) -> Array:
        """(looks down, width) in the plane's dtype: the most that samples may change, each row for `_step` of them."""
        format, step = self._format, self._step
        seen = (luma[::step, ::step] >> (format.shift + format.depth - 8)).astype(np.uint8)
        around = cv2.blur(seen, (3, 3))
        activity = cv2.blur(cv2.absdiff(seen, around), (5, 5))
        fine = cv2.min(cv2.LUT(activity, self._strong), cv2.LUT(around, self._shade))
        levels: Array = fine.astype(format.dtype)
        levels *= _unit(format)
        levels += self._dither
        levels >>= _FINE_BITS
        levels <<= format.shift
        # As many channels as columns: much the fastest way to say each value so many times over.
        wide: Array = cv2.merge([levels] * step)
        return wide.reshape(len(levels), -1)[:, : self._size[0]]


def strength(seconds: float | None, lines: int) -> float:
    """Levels of 8 bits by which a smooth part changes, on average, of a clip of so many seconds (None: nobody knows).

    `lines` is the pictures' shorter side in px.
    """
    share = min(max(math.sqrt(_LINES / lines), _LEAST_SHARE), _MOST_SHARE)
    if seconds is None:
        return _OF_UNKNOWN * share
    along = math.log(min(max(seconds, _SHORT_S), _LONG_S) / _SHORT_S) / math.log(_LONG_S / _SHORT_S)
    return (_OF_SHORT + (_OF_LONG - _OF_SHORT) * along) * share


def _strengths(smooth: float) -> Array:
    """(256,) uint8: sixteenths of a level for each activity."""
    levels = np.minimum(smooth + _PER_ACTIVITY * np.arange(256), PEAK)
    return np.round(levels * (1 << _FINE_BITS)).astype(np.uint8)


def _shades(low: int) -> Array:
    """(256,) uint8: sixteenths of a level that each brightness bears."""
    share = np.clip((np.arange(256.0) - low - _BLACK) / (_DARK - _BLACK), 0, 1)
    return np.round(share * PEAK * (1 << _FINE_BITS)).astype(np.uint8)


def _unit(format: PixelFormat) -> int:
    """A level of 8 bits, in the format's own levels before their shift."""
    return 1 << (format.depth - 8)


def _all(level: int, rows: int, columns: int, format: PixelFormat) -> Array:
    """An array full of a level of 8 bits; 255 means the format's own peak."""
    value = format.peak if level == 255 else level * _unit(format)
    return np.full((rows, columns), value << format.shift, format.dtype)


def luma_of(picture: Picture) -> Array:
    """(height, width) of the samples that the mark was laid into (of R'G'B' the green ones), in levels of 8 bits.

    A view of uint8 samples; a float32 copy of deeper ones.
    """
    format = picture.format
    plane, at = _places(format, identity=False)[0]
    samples = picture.planes[plane] if at is None else picture.planes[plane][..., at]
    if format.depth == 8:
        return samples
    return np.asarray(samples >> format.shift, np.float32) / np.float32(_unit(format))


def _places(format: PixelFormat, identity: bool) -> list[tuple[int, int | None]]:
    """Plane, and where in it each sample lies (None: the plane holds nothing else), of what the mark is laid into.

    Luma; or green, red and blue, which a YUV format with the identity matrix holds in its three planes.
    """
    if format.model == "yuv" and identity:
        return [(0, None), (1, None), (2, None)]
    wanted = "grb" if format.model == "rgb" else "y"
    places = []
    for name in wanted:
        plane = next(at for at, layout in enumerate(format.planes) if name in layout.components)
        components = format.planes[plane].components
        places.append((plane, components.index(name) if len(components) > 1 else None))
    return places


def _pattern(chips: Array, clip: Clip, rows: int) -> tuple[Array, Array]:
    """Two arrays in the planes' dtype: how much brighter and how much darker, PEAK levels at most.

    As wide as the clip's pictures, and `rows` high: it may be a few more than theirs.
    """
    across, down = chip_positions(clip.width, clip.height, float(clip.sample_aspect_ratio))
    format = clip.pixel_format
    brighter, darker = (np.zeros((rows, clip.width), format.dtype) for _ in range(2))
    band = max(1, _BAND_SAMPLES // clip.width)
    for top in range(0, clip.height, band):
        x, y = np.meshgrid(across, down[top : top + band])
        level = cv2.remap(chips, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP) * _STEEPNESS
        whole = np.round(np.clip(level, -PEAK, PEAK) * _unit(format)).astype(np.int32)
        brighter[top : top + len(y)] = np.maximum(whole, 0) << format.shift
        darker[top : top + len(y)] = np.maximum(-whole, 0) << format.shift
    return brighter, darker
