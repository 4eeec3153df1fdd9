"""What a puppet does at one moment, and the scripts that string such moments together."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from stages.puppets.speech import Speech

#: The widest turns a script asks for, in degrees.
MAX_YAW, MAX_PITCH, MAX_ROLL = 25.0, 12.0, 10.0


@dataclass(frozen=True, slots=True)
class Pose:
    """A head's attitude and the face on it. The default is the portrait as it is, with its lips closed.

    Attributes:
        yaw: degrees; above 0 the nose goes to the right of the picture.
        pitch: degrees; above 0 the face looks up.
        roll: degrees; above 0 the head tilts clockwise as seen.
        mouth: 0 lips closed, 1 wide open.
        smile: -1 lips drawn together ("oo"), 1 drawn wide ("ee").
        blink: 0 eyes as in the portrait, 1 shut.
        brow: -1 drawn down, 1 raised.
        gaze_x, gaze_y: -1 to 1, right and down in the picture.
        shift_x, shift_y: of the camera, as a share of the picture's height.
        zoom: of the camera; 1 is as in the portrait.
        light: gain on the picture's brightness; 1 is as in the portrait.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    mouth: float = 0.0
    smile: float = 0.0
    blink: float = 0.0
    brow: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 1.0
    light: float = 1.0


def script(speech: Speech, rate: float, seed: int) -> list[Pose]:
    """Poses for a clip as long as `speech`, at `rate` frames a second: turns, blinks, brows and gaze come from `seed`.

    Turns cover the whole range evenly rather than bunch at the middle: a face set made of the clip has to show the
    model every attitude it will meet.
    """
    count = len(speech.openness)
    rng = np.random.default_rng(seed)
    times = np.arange(count) / rate
    tracks: dict[str, NDArray[np.float64]] = {
        "yaw": _wander(rng, times, MAX_YAW, 0.55, 1.1),
        "pitch": _wander(rng, times, MAX_PITCH, 0.6, 1.3),
        "roll": _wander(rng, times, MAX_ROLL, 0.8, 1.6),
        "mouth": speech.openness,
        "smile": np.clip(speech.width + _wander(rng, times, 0.5, 1.0, 2.5), -1, 1),
        "blink": _blinks(rng, times),
        "brow": _wander(rng, times, 1.0, 0.5, 1.8),
        "gaze_x": _wander(rng, times, 1.0, 0.4, 1.5),
        "gaze_y": _wander(rng, times, 0.6, 0.5, 1.5),
        "shift_x": _wander(rng, times, 0.025, 1.5, 3.0),
        "shift_y": _wander(rng, times, 0.015, 1.5, 3.0),
        "zoom": 1 + _wander(rng, times, 0.05, 2.0, 4.0),
        "light": 1 + _wander(rng, times, 0.07, 1.0, 3.0),
    }
    names = [f.name for f in fields(Pose)]
    return [Pose(**{name: float(tracks[name][i]) for name in names}) for i in range(count)]


def _wander(
    rng: np.random.Generator, times: NDArray[np.float64], reach: float, shortest_s: float, longest_s: float
) -> NDArray[np.float64]:
    """Eases from point to point, drawn evenly from [-reach, reach]; each move takes between the two times."""
    end = float(times[-1]) + longest_s if len(times) else longest_s
    knots, values = [0.0], [float(rng.uniform(-reach, reach))]
    while knots[-1] < end:
        knots.append(knots[-1] + float(rng.uniform(shortest_s, longest_s)))
        values.append(float(rng.uniform(-reach, reach)))
    place = np.searchsorted(knots, times, side="right") - 1
    start, stop = np.take(knots, place), np.take(knots, place + 1)
    share = (times - start) / (stop - start)
    ease = share * share * (3 - 2 * share)
    return np.take(values, place) * (1 - ease) + np.take(values, place + 1) * ease


def _blinks(rng: np.random.Generator, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lids shut for about a fifth of a second, every one to three seconds; sometimes only half."""
    track = np.zeros_like(times)
    at = float(rng.uniform(0.3, 1.2))
    while len(times) and at < times[-1]:
        depth = float(rng.choice((1.0, 1.0, 0.5)))
        track = np.maximum(track, depth * np.clip(1.6 - np.abs(times - at) / 0.07, 0, 1))
        at += float(rng.uniform(1.0, 3.0))
    return track
