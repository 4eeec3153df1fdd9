"""Finds the invisible watermark in pictures, without the original: whose mark, which payload, and how sure that is.

Each picture is brought to one size, its own content is taken out (what is left after the surroundings' mean, divided by
their variance: the best linear detector where noise differs from place to place), and what is left is summed up. The
pattern stands still, the content does not. Where it lies is found as Kalker et al. (JAWS, SPIE 3657, 1999) do, by
correlating in the frequency domain, here with the chips of synchronisation, over sizes, places and the eight
ways of turning and mirroring; then every chip is read and the code decoded.

How sure: had the picture been marked with another key or with none, signs and chips would be strangers, and by
Hoeffding's inequality (J. Am. Stat. Assoc. 58, 1963) a sum of chips would exceed t times its root sum of squares with
a chance of exp(-t^2 / 2) at most, whatever the picture shows. So `Found.chance` is a bound: of any of the 2^48 payloads
agreeing with the chips so well by accident, times that of synchronising so well at any of the places that are tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.types import Array
from stages.watermark_code import CODED_BITS, PAYLOAD_BITS, SLOTS, coded, decoded, slot_of
from stages.watermark_field import ROWS, Field, field, plausible
from stages.watermark_samples import samples
from stages.watermark_search import BEST, Place, blurred, chips_at, places, refined, turned

#: Samples for each chip of a picture that is whole.
_FINENESS = 4

#: Of a picture that is longer, only so many times its shorter side is looked at.
_LONGEST = 3

#: Of Gaussian windows, in samples: what an encoder rounds off; the surroundings; where variance is taken.
_SMOOTH, _AROUND, _NEAR = 0.7, 3.0, 2.5

#: Levels squared that every place's variance has at least.
_FLOOR = 0.3

#: A mark is believed where the chance of finding one that is not there is below this.
_BELIEVED = 1e-6

#: No chance is said to be smaller.
_LEAST = 1e-99

#: Places that are tried without one's neighbours in the fine search, counted generously: of whole pictures; of all.
_TRIALS, _THOROUGH_TRIALS = 1e9, 1e12


#: A coarse score that places without a mark do not reach: 5.5 was the most with other keys, marked clips have 10 to 60.
_SEEN = 6.0


@dataclass(frozen=True, slots=True)
class Found:
    """A mark that was found.

    Attributes:
        payload: the 48 bits that it says.
        confidence: 0..1; 1 - `chance`.
        chance: a bound of the chance that there is no such mark.
        agreement: share of the 210 coded bits that were read as they were written; 1 is a mark without damage.
        strength: how far the payload's chips stand out of noise, in standard deviations.
        synchronisation: the same of the chips that say where the mark lies.
        others: payloads of further marks in the same pictures, weaker ones: what was marked twice.
    """

    payload: int
    confidence: float
    chance: float
    agreement: float
    strength: float
    synchronisation: float
    others: tuple[int, ...] = ()


class Finder:
    """Looks at pictures of one clip, then says what is in them. Needs about 2 MB, however many there are."""

    def __init__(self, key: bytes) -> None:
        """Raises ValueError for a key that has not 32 bytes."""
        self._field = field(key)
        self._sum: Array | None = None

    def look(self, luma: Array, aspect: float = 1.0) -> None:
        """Takes in a picture: (h, w) uint8, or float32 in levels of 8 bits; a sample is `aspect` times as wide as high.

        `watermark.luma_of` gives that of a frame's picture. All pictures should be of one size.
        """
        left = _content_removed(_brought_to_size(luma, aspect, None if self._sum is None else self._sum.shape))
        self._sum = left if self._sum is None else cv2.add(self._sum, left)

    def found(self, thoroughly: bool = True) -> Found | None:
        """The surest mark; None: there is none that can be believed.

        Pictures that are whole (scaled or turned, cut only from the longer side or not at all) are tried first.
        `thoroughly` goes on with those that were cropped or set into larger ones, which takes seconds; without it,
        places where the coarse search saw next to nothing are not read at all.
        """
        if self._sum is None:
            return None
        chip = min(self._sum.shape) / ROWS
        for search in (False, True)[: 1 + thoroughly]:
            likely = places(self._sum, self._field.sync, chip, search)
            worth = [place for place in likely if thoroughly or place.score > _SEEN]
            hits = [hit for place in worth for hit in self._read(place, search)]
            if hits:
                return _surest(hits)
        return None

    def _read(self, place: Place, thoroughly: bool) -> list[Found]:
        """What the chips at a place say, each slot of payloads on its own."""
        assert self._sum is not None
        plane = blurred(turned(self._sum, place.turn), place.across)
        place = refined(plane, self._field.sync, place)
        chips = chips_at(plane, place)
        soft, power = _soft(self._field, chips)
        trials = _THOROUGH_TRIALS if thoroughly else _TRIALS
        hits = []
        for slot, payload in enumerate(decoded(soft)):
            if payload is None or slot_of(payload) != slot:
                continue
            written = coded(payload)
            strength = float((soft[slot] * written).sum()) / power
            chance = _chance(place.score, strength, trials)
            if chance < _BELIEVED:
                agreement = float(np.mean(soft[slot] * written > 0))
                hits.append(Found(payload, 1.0 - chance, chance, agreement, strength, place.score))
        return hits


def detect(path: str, key: bytes, frames: int = 32) -> Found | None:
    """Looks for a mark in at most `frames` pictures of a file, spread over it.

    It takes seconds, not minutes, whatever the file: a long one is looked at in places, a short one throughout.

    Raises:
        InputError: the file cannot be opened or read as a video.
        ValueError: the key has not 32 bytes.
    """
    finder = Finder(key)
    for luma, aspect in samples(path, frames):
        finder.look(luma, aspect)
    return finder.found()


def _brought_to_size(luma: Array, aspect: float, shape: tuple[int, ...] | None) -> Array:
    """float32 (h, w): `_FINENESS` samples for each chip of a whole picture; or, given its `shape`, as another has."""
    luma, aspect = _cut(luma, plausible(aspect))
    height, shown = luma.shape[0], luma.shape[1] * aspect
    scale = ROWS * _FINENESS / min(height, shown)
    rows, columns = shape or (max(1, round(height * scale)), max(1, round(shown * scale)))
    way = cv2.INTER_AREA if rows < height else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(luma, (columns, rows), interpolation=way), np.float32)


def _cut(luma: Array, aspect: float) -> tuple[Array, float]:
    """The middle of a picture that is longer than `_LONGEST` times its shorter side."""
    height, width = luma.shape
    most_high = max(1, min(height, round(width * aspect * _LONGEST)))
    most_wide = max(1, min(width, round(height / aspect * _LONGEST)))
    top, left = (height - most_high) // 2, (width - most_wide) // 2
    return luma[top : top + most_high, left : left + most_wide], aspect


def _content_removed(luma: Array) -> Array:
    """What differs from the surroundings, by its expected square: noise counts for less the more there is of it."""
    smooth = cv2.GaussianBlur(luma, (0, 0), _SMOOTH)
    left = cv2.subtract(smooth, cv2.GaussianBlur(smooth, (0, 0), _AROUND))
    variance = cv2.GaussianBlur(cv2.multiply(left, left), (0, 0), _NEAR)
    return np.asarray(left / (variance + np.float32(_FLOOR)), np.float32)


def _soft(chips_of: Field, chips: Array) -> tuple[Array, float]:
    """(64, 210) float, by slot: how much each coded bit is +1 rather than -1; and the chips' root sum of squares."""
    there = np.flatnonzero((chips_of.roles >= 0) & (chips != 0))
    roles, read = chips_of.roles.ravel()[there], chips.ravel()[there]
    soft = np.empty((SLOTS, CODED_BITS), np.float32)
    for slot in range(SLOTS):
        signs = chips_of.slot_signs(slot).ravel()[there]
        soft[slot] = np.bincount(roles, weights=read * signs, minlength=CODED_BITS)
    return soft, math.sqrt(float(np.square(read).sum())) or 1.0


def _chance(sync: float, payload: float, trials: float) -> float:
    """A bound of the chance of such sums without a mark: see the module's text."""
    said = min(1.0, 2 * BEST * math.exp(PAYLOAD_BITS * math.log(2) - max(0.0, payload) ** 2 / 2))
    synchronised = min(1.0, trials * math.exp(-(max(0.0, sync) ** 2) / 2))
    return max(_LEAST, said * synchronised)


def _surest(hits: list[Found]) -> Found:
    """The best of them; the others' payloads go into it."""
    best = max(hits, key=lambda hit: hit.strength)
    others = {hit.payload for hit in hits} - {best.payload}
    return replace(best, others=tuple(sorted(others)))
