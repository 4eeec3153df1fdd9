"""Speech-like sound that says nothing: a voice through vowel-shaped resonances, and the mouth that goes with it.

The source-filter model of speech: harmonics of a wandering pitch, each weighed by the resonances (formants) of the
vowel being "said". Formant frequencies are the textbook ones (Peterson and Barney 1952).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 48000
_HARMONICS = 28
_CONTROL_RATE = 200.0

#: Vowels: three formants in Hz, how far the jaw drops (0 to 1), how wide the lips are (-1 to 1).
_VOWELS = (
    ((730, 1090, 2440), 1.0, 0.1),
    ((530, 1840, 2480), 0.6, 0.5),
    ((270, 2290, 3010), 0.3, 0.9),
    ((570, 840, 2410), 0.75, -0.5),
    ((300, 870, 2240), 0.3, -1.0),
    ((660, 1720, 2410), 0.85, 0.3),
)


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: the pitch in Hz, and the formants against those of an adult man (1.0; a woman's lie 1.15 higher)."""

    pitch_hz: float
    formants: float


@dataclass(frozen=True, slots=True, repr=False)
class Speech:
    """Sound and the lips that make it.

    Attributes:
        samples: (S,) float32 in [-1, 1], mono, at `SAMPLE_RATE`.
        openness: (F,) float64 in [0, 1], the jaw at each video frame.
        width: (F,) float64 in [-1, 1], the lips at each video frame.
    """

    samples: NDArray[np.float32]
    openness: NDArray[np.float64]
    width: NDArray[np.float64]


def babble(voice: Voice, seconds: float, rate: float, seed: int) -> Speech:
    """Syllables, four or five a second, in phrases with pauses between them; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    control = np.arange(int(np.ceil(seconds * _CONTROL_RATE)) + 2) / _CONTROL_RATE
    loud, jaw, lips, formants = _syllables(rng, control)
    samples = _voiced(voice, rng, control, loud, formants, round(seconds * SAMPLE_RATE))
    frames = (np.arange(round(seconds * rate)) + 0.5) / rate
    return Speech(
        samples=samples,
        openness=np.interp(frames, control, jaw).clip(0, 1),
        width=np.interp(frames, control, lips).clip(-1, 1),
    )


def _syllables(
    rng: np.random.Generator, control: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Loudness, jaw, lips (each (C,)) and formants in Hz ((C, 3)) at the control times."""
    loud, jaw, lips = np.zeros_like(control), np.zeros_like(control), np.zeros_like(control)
    knots: list[tuple[float, tuple[int, int, int]]] = [(0.0, (500, 1500, 2500))]
    at, left = float(rng.uniform(0.05, 0.3)), int(rng.integers(4, 9))
    while at < control[-1]:
        length = float(rng.uniform(0.16, 0.3))
        shape, drop, width = _VOWELS[int(rng.integers(len(_VOWELS)))]
        stress = float(rng.uniform(0.55, 1.0))
        middle = at + length / 2
        bump = np.clip(1 - ((control - middle) / (length * 0.62)) ** 2, 0, 1)
        loud = np.maximum(loud, stress * bump**0.7)
        jaw = np.maximum(jaw, stress * drop * bump)
        lips += width * stress * np.exp(-(((control - middle) / (length * 0.5)) ** 2))
        knots.append((middle, shape))
        at += length
        left -= 1
        if left == 0:
            at, left = at + float(rng.uniform(0.25, 0.7)), int(rng.integers(4, 9))
    moments, shapes = zip(*knots, strict=True)
    formants = np.stack([np.interp(control, moments, column) for column in np.array(shapes, float).T], axis=1)
    return loud, jaw, lips, formants


def _voiced(
    voice: Voice,
    rng: np.random.Generator,
    control: NDArray[np.float64],
    loud: NDArray[np.float64],
    formants: NDArray[np.float64],
    count: int,
) -> NDArray[np.float32]:
    """(count,) float32: harmonics of the wandering pitch, shaped by the formants, and a little breath."""
    knots = np.arange(0, control[-1] + 0.4, 0.4)
    wobble = np.interp(control, knots, rng.uniform(-1, 1, len(knots)))
    pitch = voice.pitch_hz * (1 + 0.12 * wobble)
    times = np.arange(count) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(np.interp(times, control, pitch)) / SAMPLE_RATE
    sound = np.zeros(count)
    for harmonic in range(1, _HARMONICS + 1):
        offset = (harmonic * pitch)[:, None] - formants * voice.formants
        resonance = (1 / (1 + (offset / 90.0) ** 2) * (1.0, 0.6, 0.3)).sum(axis=1)
        sound += np.interp(times, control, loud * (resonance + 0.02) / harmonic**0.5) * np.sin(harmonic * phase)
    sound += 0.03 * np.interp(times, control, loud) * rng.standard_normal(count)
    peak = float(np.abs(sound).max()) if count else 0.0
    return (sound * (0.5 / peak if peak > 0 else 0.0)).astype(np.float32)
