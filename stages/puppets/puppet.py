"""A portrait that moves: the head turns in depth, the hair and the neck follow, and there is no edge to tear at.

The turn is a displacement field on a coarse grid: each place of the canvas has a depth (a thin-plate spline through
the landmarks' own, carried on to the back of the head) and a share in the head's motion (1 on the head, 0 on the wall).
Frames are pulled through the field's inverse, found by fixed-point iteration.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.puppets import topology as topo
from stages.puppets.face import Mouth, eyes_of
from stages.puppets.portrait import CANVAS_H, CANVAS_W, Portrait
from stages.puppets.pose import Pose

Array = NDArray[np.float64]

#: Grid step of the displacement field, canvas px.
STEP = 4
#: The steepest depth, px of depth a px across. A steeper one would fold the picture over itself in the widest turns.
MAX_SLOPE = 1.25


class Puppet:
    """Draws a portrait in any pose."""

    def __init__(self, portrait: Portrait):
        self.portrait = portrait
        self._eyes, self._mouth = eyes_of(portrait), Mouth(portrait)
        ys, xs = np.mgrid[0 : CANVAS_H // STEP + 1, 0 : CANVAS_W // STEP + 1]
        self._x, self._y = xs * float(STEP), ys * float(STEP)
        self._pivot = self._neck()
        self._z = self._depth()
        self._share = self._head_share()

    def render(self, pose: Pose, size: tuple[int, int]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB: the person in `pose`, the canvas covering a frame of `size` (w, h) px."""
        canvas = self.portrait.picture.copy()
        for eye in self._eyes:
            eye.draw(self.portrait.picture, canvas, pose.blink, (pose.gaze_x, pose.gaze_y))
        self._mouth.draw(self.portrait.picture, self.portrait.teeth, canvas, pose.mouth)
        width, height = size
        scale, at_x, at_y = _camera(pose, size)
        field = self._displacement(pose)
        nodes_x = np.arange(0, width + STEP, STEP, dtype=np.float32)
        nodes_y = np.arange(0, height + STEP, STEP, dtype=np.float32)
        x, y = np.meshgrid((nodes_x - at_x) / scale, (nodes_y - at_y) / scale)
        source_x, source_y = _inverse(field, x.astype(np.float32), y.astype(np.float32))
        frame = cv2.remap(
            canvas,
            _densified(source_x, STEP, size),
            _densified(source_y, STEP, size),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return np.asarray(cv2.convertScaleAbs(frame, alpha=pose.light), np.uint8)

    def landmarks(self, pose: Pose, size: tuple[int, int]) -> NDArray[np.float32]:
        """(478, 2) float32, px of the frame that `render` gives: where it has put the landmarks."""
        marks = self.portrait.landmarks.copy()
        for eye in self._eyes:
            eye.moved(marks, pose.blink, (pose.gaze_x, pose.gaze_y))
        self._mouth.moved(marks, pose.mouth)
        at = (marks[:, :2] / STEP).astype(np.float32)
        moved = cv2.remap(
            self._displacement(pose), at[:, :1], at[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[:, 0]
        scale, at_x, at_y = _camera(pose, size)
        placed: NDArray[np.float32] = ((marks[:, :2] + moved) * scale + (at_x, at_y)).astype(np.float32)
        return placed

    def _displacement(self, pose: Pose) -> NDArray[np.float32]:
        """(rows, columns, 2) float32: where each node of the grid goes, canvas px."""
        move_x, move_y = self._expression(pose)
        x, y = self._x + move_x - self._pivot[0], self._y + move_y - self._pivot[1]
        rotation = _rotation(pose)
        turned = [row[0] * x + row[1] * y + row[2] * self._z for row in rotation]
        distance = 7.0 * self.portrait.face_width
        depth = distance / (distance - turned[2] + self._z.mean())
        head_x, head_y = turned[0] * depth + self._pivot[0], turned[1] * depth + self._pivot[1]
        return np.dstack(
            [
                self._share * (head_x - self._x),
                self._share * (head_y - self._y),
            ]
        ).astype(np.float32)

    def _expression(self, pose: Pose) -> tuple[Array, Array]:
        """Smooth moves before the turn: brows, and the lips drawn wide or together."""
        marks, width = self.portrait.landmarks, self.portrait.face_width
        move_x, move_y = np.zeros_like(self._x), np.zeros_like(self._y)
        for brow in (topo.RIGHT_BROW, topo.LEFT_BROW):
            middle = marks[list(brow), :2].mean(axis=0)
            move_y -= 0.030 * width * pose.brow * self._bump(middle, 0.17 * width, 0.085 * width)
        corners = marks[[topo.LIP_OUTER_UPPER[0], topo.LIP_OUTER_UPPER[-1]], :2]
        middle = corners.mean(axis=0)
        bump = self._bump(middle, 0.26 * width, 0.16 * width)
        aside = (self._x - middle[0]) / (corners[1, 0] - middle[0])
        move_x += 0.035 * width * pose.smile * np.clip(aside, -1.5, 1.5) * bump
        move_y -= 0.020 * width * pose.smile * np.clip(np.abs(aside) - 0.4, 0, 1.0) * bump
        return move_x, move_y

    def _bump(self, middle: Array, across: float, along: float) -> Array:
        return np.exp(-(((self._x - middle[0]) / across) ** 2) / 2 - (((self._y - middle[1]) / along) ** 2) / 2)

    def _neck(self) -> tuple[float, float]:
        """What the head turns about: midway between the cheeks, at the height of the mouth."""
        marks = self.portrait.landmarks
        middle = (marks[topo.LEFT_CHEEK, 0] + marks[topo.RIGHT_CHEEK, 0]) / 2
        return float(middle), float(marks[topo.LIP_INNER_LOWER[5], 1])

    def _depth(self) -> Array:
        """Depth at each node, px towards the camera from the axis the head turns about."""
        portrait = self.portrait
        marks, width = portrait.landmarks, portrait.face_width
        axis = (marks[topo.LEFT_CHEEK, 2] + marks[topo.RIGHT_CHEEK, 2]) / 2 - 0.12 * width
        oval = marks[list(topo.OVAL)]
        middle = oval[:, :2].mean(axis=0)
        rings = []
        for reach, back in ((1.35, 0.12), (1.9, 0.10), (3.2, 0.10)):
            place = middle + (oval[::3, :2] - middle) * reach
            crown = np.clip((middle[1] - oval[::3, 1]) / np.ptp(oval[:, 1]), 0, None)
            rings.append(np.column_stack([place, axis + (back + 0.25 * crown) * width]))
        points = np.concatenate([marks[:468], *rings])
        coarse = _thin_plate(points, self._x[::2, ::2], self._y[::2, ::2]) - axis
        depth = _densified(coarse.astype(np.float32), 2, self._x.shape[::-1]).astype(np.float64)
        gentle = _no_steeper(np.clip(depth, 0.0, None), MAX_SLOPE)
        return np.asarray(cv2.GaussianBlur(gentle, (0, 0), 8.0 / STEP), np.float64)

    def _head_share(self) -> Array:
        """1 on face and hair, falling to 0 over the neck and over the wall beside the head."""
        portrait = self.portrait
        width, height = portrait.face_width, portrait.face_height
        chin = float(portrait.landmarks[topo.CHIN, 1])
        middle_y = chin - 0.72 * height
        reach = np.hypot((self._x - self._pivot[0]) / (0.86 * width), (self._y - middle_y) / (0.86 * height))
        share = _fall(reach, 1.0, 1.95) * _fall((self._y - chin) / height, 0.0, 0.75)
        return share


def _camera(pose: Pose, size: tuple[int, int]) -> tuple[float, float, float]:
    """Scale, and where the canvas's corner comes to lie: the canvas covers the frame, its middle in the middle."""
    width, height = size
    scale = pose.zoom * max(width / CANVAS_W, height / CANVAS_H)
    at_x = (width - 1) / 2 + pose.shift_x * height - scale * (CANVAS_W - 1) / 2
    at_y = (height - 1) / 2 + pose.shift_y * height - scale * (CANVAS_H - 1) / 2
    return scale, at_x, at_y


def _rotation(pose: Pose) -> Array:
    """3x3 for x right, y down, z towards the camera."""
    yaw, pitch, roll = np.radians([pose.yaw, pose.pitch, pose.roll])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    rotation: Array = about_z @ about_x @ about_y
    return rotation


def _inverse(
    field: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The canvas places that `field` (on its grid) brings to the places x, y."""
    source_x, source_y = x, y
    for _ in range(12):
        moved = cv2.remap(field, source_x / STEP, source_y / STEP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        source_x, source_y = x - moved[..., 0], y - moved[..., 1]
    return source_x, source_y


def _densified(nodes: NDArray[np.float32], step: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Values at `size` (w, h) places from values at every `step`-th of them (node k at place k * step), linearly."""
    to_nodes = np.array([[1 / step, 0, 0], [0, 1 / step, 0]])
    dense = cv2.warpAffine(
        nodes, to_nodes, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(dense, np.float32)


def _fall(value: Array, start: float, end: float) -> Array:
    share = np.clip((end - value) / (end - start), 0, 1)
    return share * share * (3 - 2 * share)


def _no_steeper(depth: Array, slope: float) -> Array:
    """The lowest surface above `depth` (on the grid) that nowhere falls faster than `slope`."""
    surface = np.pad(depth, 1, mode="edge")
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    for _ in range(int(np.ceil(depth.max() / (slope * STEP)))):
        for dy, dx in steps:
            surface = np.maximum(surface, np.roll(surface, (dy, dx), (0, 1)) - slope * STEP * np.hypot(dy, dx))
    return surface[1:-1, 1:-1]


def _thin_plate(points: Array, x: Array, y: Array) -> Array:
    """Thin-plate spline through points (N, 3), evaluated at x, y (Duchon 1977), slightly smoothed."""

    def kernel(squared: Array) -> Array:
        return 0.5 * squared * np.log(squared + 1e-9)

    place, value = points[:, :2] / 100.0, points[:, 2]
    count = len(points)
    flat = np.column_stack([np.ones(count), place])
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = kernel(((place[:, None] - place[None]) ** 2).sum(axis=2)) + 1e-3 * np.eye(count)
    system[:count, count:], system[count:, :count] = flat, flat.T
    weights = np.linalg.solve(system, np.concatenate([value, np.zeros(3)]))
    where = np.column_stack([x.ravel(), y.ravel()]) / 100.0
    squared = (where**2).sum(axis=1)[:, None] + (place**2).sum(axis=1)[None] - 2 * where @ place.T
    result = kernel(np.maximum(squared, 0)) @ weights[:count]
    result += np.column_stack([np.ones(len(where)), where]) @ weights[count:]
    return result.reshape(x.shape)
