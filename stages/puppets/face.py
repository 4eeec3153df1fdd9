"""What moves on a face: lids, gaze and lips, worked into the portrait before the head is turned.

Lids and lips part, so they cannot be a smooth warp. Each is a backward map in a box of the canvas, column by column:
a lid slides over the eyeball and uncovers it unstretched, the lower lip goes with the jaw and uncovers the teeth.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.puppets import topology as topo
from stages.puppets.portrait import Portrait, mouth_lines

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]


class Eye:
    """One eye of a portrait."""

    def __init__(self, portrait: Portrait, upper: tuple[int, ...], lower: tuple[int, ...], iris: tuple[int, ...]):
        marks = portrait.landmarks
        self._upper, self._iris = list(upper), list(iris)
        corners = marks[[upper[0], upper[-1]], :2]
        self._width = float(corners[1, 0] - corners[0, 0])
        middle = corners.mean(axis=0)
        reach = 0.75 * self._width
        self._x0, self._y0 = int(middle[0] - reach), int(middle[1] - reach)
        side = int(2 * reach) + 1
        self.box = (slice(self._y0, self._y0 + side), slice(self._x0, self._x0 + side))
        rows, columns = np.mgrid[0:side, 0:side].astype(np.float64)
        self._rows, self._columns = rows + self._y0, columns + self._x0
        line = self._columns[0]
        self._top = np.interp(line, marks[list(upper), 0], marks[list(upper), 1])
        self._bottom = np.maximum(self._top, np.interp(line, marks[list(lower), 0], marks[list(lower), 1]))
        self._brow = self._top - 0.32 * self._width
        # A shut lid reaches a little over the lower one, and over the corners.
        beyond = np.abs(line - middle[0]) / (0.5 * self._width)
        self._overlap = 0.06 * self._width * _smooth((1.35 - beyond) / 0.3)
        centre = marks[iris[0], :2]
        squared = (self._columns - centre[0]) ** 2 + (self._rows - centre[1]) ** 2
        self._iris_weight = np.exp(-squared / (2 * (0.2 * self._width) ** 2))

    def draw(self, source: Picture, target: Picture, blink: float, gaze: tuple[float, float]) -> None:
        """Draws the eye of `source` into `target` (both canvas-sized): the lid down by `blink`, looking at `gaze`."""
        edge = self._top + blink * (self._bottom - self._top + self._overlap)
        # The lashes ride on the lid's edge as they are; the skin between them and the brow is drawn out.
        lashes = self._top - 0.10 * self._width
        stretch = (lashes - self._brow) / (lashes + edge - self._top - self._brow)
        drawn_out = self._brow + (self._rows - self._brow) * stretch
        lid_y = np.where(self._rows > self._brow, np.maximum(drawn_out, self._rows - (edge - self._top)), self._rows)
        lid = _sample(source, self._columns, lid_y)
        travel = 0.08 * self._width * self._iris_weight * ((self._rows > edge) & (self._rows < self._bottom))
        ball = _sample(source, self._columns - gaze[0] * travel, self._rows - 0.6 * gaze[1] * travel)
        target[self.box] = _mix(ball, lid, edge - self._rows + 0.5)

    def moved(self, marks: Array, blink: float, gaze: tuple[float, float]) -> None:
        """Moves the lid's and the iris's landmarks, in place, as `draw` moves the picture."""
        x = marks[self._upper, 0]
        gap = np.interp(x, self._columns[0], self._bottom - self._top)
        marks[self._upper, 1] += blink * gap
        marks[self._iris, :2] += 0.08 * self._width * np.array([gaze[0], 0.6 * gaze[1]])


class Mouth:
    """The lips and the jaw of a portrait."""

    def __init__(self, portrait: Portrait):
        marks = portrait.landmarks
        height, width = portrait.face_height, portrait.face_width
        corners = marks[[topo.LIP_INNER_UPPER[0], topo.LIP_INNER_UPPER[-1]], :2]
        middle = corners.mean(axis=0)
        chin = float(marks[topo.CHIN, 1])
        self._x0, self._y0 = int(middle[0] - 0.55 * width), int(middle[1] - 0.22 * height)
        w, h = int(1.1 * width), int(chin + 0.42 * height) - self._y0
        self.box = (slice(self._y0, self._y0 + h), slice(self._x0, self._x0 + w))
        rows, columns = np.mgrid[0:h, 0:w].astype(np.float64)
        self._rows, self._columns = rows + self._y0, columns + self._x0
        self._top, self._bottom = mouth_lines(marks, self._columns[0])
        self._line = (self._top + self._bottom) / 2
        half = (corners[1, 0] - corners[0, 0]) / 2
        down = np.clip((self._rows - self._line) / (chin - middle[1]), 0, 1)
        reach = half + (0.52 * width - half) * down**0.7
        aside = np.clip(1 - ((self._columns - middle[0]) / reach) ** 2, 0, 1) ** 1.2
        self._jaw = aside * _smooth(1 - (self._rows - chin) / (0.40 * height))
        lip = np.clip(1 - ((self._columns - middle[0]) / half) ** 2, 0, 1)
        self._lift = lip * _smooth(1 - (self._line - self._rows) / (0.16 * height))
        self._drop = 0.15 * height

    def draw(self, source: Picture, teeth: Picture, target: Picture, openness: float) -> None:
        """Draws the lower face of `source` into `target` with its lips parted by `openness` (0 to 1) over the teeth."""
        jaw, lift = self._moves(openness)
        below = self._inverse(jaw)
        above = self._inverse(-lift)
        # The upper lip's edge reaches a pixel further than the lower's, so that closed lips let nothing through.
        inside = _sample(teeth, self._columns, above)
        with_upper = _mix(inside, _sample(source, self._columns, above), self._top - above + 1.5)
        target[self.box] = _mix(with_upper, _sample(source, self._columns, below), below - self._bottom + 0.5)

    def moved(self, marks: Array, openness: float) -> None:
        """Moves the landmarks of lips and jaw, in place, as `draw` moves the picture."""
        jaw, lift = self._moves(openness)
        x, y = marks[:, 0] - self._x0, marks[:, 1] - self._y0
        line = np.interp(marks[:, 0], self._columns[0], self._line)
        lower = marks[:, 1] > line
        lower[list(topo.LIP_INNER_LOWER[1:-1])] = True
        lower[list(topo.LIP_INNER_UPPER)] = False
        marks[:, 1] += np.where(lower, _at(jaw, x, y), -_at(lift, x, y))

    def _moves(self, openness: float) -> tuple[Array, Array]:
        """How far each place in the box goes down with the jaw, and up with the upper lip, px.

        A portrait that smiles shows a gap which differs from column to column: closing takes away each column's own.
        """
        gap = self._bottom - self._top
        drop = openness * self._drop * self._jaw - (1 - openness) * gap * _smooth(1 - (self._rows - self._line) / 60.0)
        return drop, 0.12 * openness * self._drop * self._lift

    def _inverse(self, move: Array) -> Array:
        """For each place the row that `move` brings to it (fixed point; the moves are gentle enough to converge)."""
        field = move.astype(np.float32)
        x = (self._columns - self._x0).astype(np.float32)
        target = (self._rows - self._y0).astype(np.float32)
        source = target
        for _ in range(6):
            source = target - cv2.remap(field, x, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return source.astype(np.float64) + self._y0


def eyes_of(portrait: Portrait) -> tuple[Eye, Eye]:
    """The person's right eye and left eye."""
    return (
        Eye(portrait, topo.RIGHT_LID_UPPER, topo.RIGHT_LID_LOWER, topo.RIGHT_IRIS),
        Eye(portrait, topo.LEFT_LID_UPPER, topo.LEFT_LID_LOWER, topo.LEFT_IRIS),
    )


def _smooth(share: Array) -> Array:
    clipped = np.clip(share, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)


def _sample(picture: Picture, x: Array, y: Array) -> Picture:
    sampled = cv2.remap(
        picture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(sampled, np.uint8)


def _mix(under: Picture, over: Picture, share: Array) -> Picture:
    alpha = np.clip(share, 0, 1).astype(np.float32)[..., None]
    return (under + alpha * (over.astype(np.float32) - under)).astype(np.uint8)


def _at(field: Array, x: Array, y: Array) -> Array:
    points = cv2.remap(
        field.astype(np.float32),
        x.astype(np.float32)[:, None],
        y.astype(np.float32)[:, None],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return points[:, 0].astype(np.float64)
