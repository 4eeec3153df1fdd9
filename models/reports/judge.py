"""The judgement: how good a model is at faces it was never trained on, without anybody's eye.

    ssim/a, psnr/a            a's faces given back as a, against themselves
    identity/a>b              share of a's faces given as b that are still faces, and which a classifier calls b
                              rather than a
    sharpness/a>b             the swaps' fine detail against that of b's real faces: 1 is as sharp, less is blurred or
                              noisy, by that factor
    expression/a>b, pose/a>b  how far landmarks move in the swap, in inter-ocular distances: among themselves, and as
                              one. What the two faces differ in is part of the first, so nothing reaches 0
    landmarks_lost/a>b        share of the swaps in which no face is found any more

The mean of each over people or pairs stands under its bare name. What cannot be told is left out: identity where a
person has fewer than four faces or the classifier is often wrong about faces it knows the names of, expression and
pose where more than half of the swaps are no faces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import tensors
from models.autoencoder import Autoencoder
from models.reports import expression, identity, quality
from models.train import augment
from models.train.data import AnyFaces
from models.train.recipe import Judge as Config
from models.train.step import Stopped

#: Crops, each (S, S, 3) uint8 RGB, to their landmarks, (478, 2) float32 px, or None where no face is found.
Landmarks = Callable[[Sequence[NDArray[np.uint8]]], Sequence[NDArray[np.float32] | None]]

_BATCH = 8  # faces at a time: all that is in memory, and between two looks at whether an end is asked for
_MOST_PAIRS = 12  # who is given as whom, where there are many people
_KNOWN = 200  # faces of a person from which the classifier learns, at most
_SEES = 64  # px of a side that are kept of each
_TRUSTED = 0.75  # a classifier's accuracy below which its verdict says nothing
_FOUND = 0.5  # share of the faces without which a mean over them says nothing


@dataclass(frozen=True, slots=True)
class _Real:
    """What is known of a person's held-out faces: their median sharpness, and the landmarks of each."""

    sharpness: float
    landmarks: Sequence[NDArray[np.float32] | None]


class Judge:
    """Judges a model by the same faces each time, and leaves no trace in it nor in torch's generators."""

    def __init__(
        self,
        config: Config,
        held: Mapping[str, AnyFaces],
        trained: Mapping[str, AnyFaces],
        sizes: tuple[int, int],
        landmarks: Landmarks | None = None,
        coverage: float = 1.0,
    ) -> None:
        """`held` are faces that are never trained on; the classifier learns from `trained`.

        Args:
            sizes: px of the side of what the model sees, and of what it gives.
            landmarks: finds them on crops of what the model gives; without it expression and pose are left out.
            coverage: the model's; the classifier looks at the square of coverage 1 within.
        """
        self._held = held
        self._trained = trained
        self._sizes = sizes
        self._landmarks = landmarks
        self._coverage = coverage
        self._chosen = {person: spread(len(faces), config.faces) for person, faces in held.items()}
        self._pairs = _pairs(list(held))
        self._real: dict[str, _Real] = {}
        self._classifiers: dict[tuple[str, str], identity.Classifier | None] = {}

    def __call__(self, model: Autoencoder, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """The metrics by name.

        Raises:
            Stopped: `stop` said so on the way; there is no judgement then.
            InputError: a face can no longer be read.
        """
        found: dict[str, float] = {}
        with _undisturbed(model), torch.no_grad():
            for person in self._held:
                found |= self._person(model, person, stop)
        for name in dict.fromkeys(key.partition("/")[0] for key in found):
            found[name] = float(np.mean([value for key, value in found.items() if key.startswith(f"{name}/")]))
        return found

    def _person(self, model: Autoencoder, person: str, stop: Callable[[], bool]) -> dict[str, float]:
        """The person's faces as themselves and as those they are paired with; each face is encoded once."""
        device = next(model.parameters()).device
        others = [to for of, to in self._pairs if of == person]
        known = {name: self._known(name, stop) for name in (person, *others)}
        given = _Given()
        swapped = {to: _Swapped(known[to].sharpness, self._classifier(person, to), self._coverage) for to in others}
        for number, part in enumerate(self._chosen[person].split(_BATCH)):
            seen, real = (augment.plain(self._held[person], part, size).cpu() for size in self._sizes)
            before = known[person].landmarks[number * _BATCH :][:_BATCH]
            code = model.encode(seen.to(device))
            given.take(model.decode(code, person).picture.float().cpu(), real)
            for to, swaps in swapped.items():
                _ask(stop)
                pictures = model.decode(code, to).picture.float().cpu()
                swaps.take(pictures, before, self._landmarks)
        metrics = {f"{name}/{person}": value for name, value in given.metrics()}
        return metrics | {
            f"{name}/{person}>{to}": value for to, swaps in swapped.items() for name, value in swaps.metrics()
        }

    def _known(self, person: str, stop: Callable[[], bool]) -> _Real:
        """The same at each judgement, so it is looked at once."""
        if person not in self._real:
            sharp: list[float] = []
            landmarks: list[NDArray[np.float32] | None] = []
            for part in self._chosen[person].split(_BATCH):
                _ask(stop)
                real = augment.plain(self._held[person], part, self._sizes[1]).cpu()
                sharp += quality.sharpness(real).tolist()
                landmarks += [] if self._landmarks is None else self._landmarks(list(tensors.to_bytes(real)))
            self._real[person] = _Real(float(np.median(sharp)), landmarks)
        return self._real[person]

    def _classifier(self, person: str, to: str) -> identity.Classifier | None:
        """Tells the two apart; made when first asked for. None where it would know no better."""
        a, b = sorted((person, to))
        if (a, b) not in self._classifiers:
            self._classifiers[a, b] = self._learned(a, b)
        made = self._classifiers[a, b]
        return made if made is None or (person, to) == (a, b) else made.turned()

    def _learned(self, a: str, b: str) -> identity.Classifier | None:
        if min(len(self._trained[a]), len(self._trained[b])) < identity.LEAST:
            return None
        with torch.enable_grad():
            made = identity.train_classifier(self._crops(a), self._crops(b))
        return made if made.accuracy >= _TRUSTED else None

    def _crops(self, person: str) -> NDArray[np.uint8]:
        """The faces that the classifier learns from, (N, 64, 64, 3) uint8 RGB at coverage 1."""
        faces = self._trained[person]
        parts = spread(len(faces), _KNOWN).split(_BATCH)
        pictures = (augment.plain(faces, part, self._sizes[1]) for part in parts)
        crops = [crop for part in pictures for crop in _cut(tensors.to_bytes(part), self._coverage)]
        return np.stack([cv2.resize(crop, (_SEES, _SEES), interpolation=cv2.INTER_AREA) for crop in crops])


class _Given:
    """A person's faces given back as themselves."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def take(self, pictures: Tensor, real: Tensor) -> None:
        """Both (n, 3, S, S) float32 0..1."""
        self._values["ssim"] += quality.ssim(pictures, real).tolist()
        self._values["psnr"] += quality.psnr(pictures, real).tolist()

    def metrics(self) -> Iterator[tuple[str, float]]:
        """Name and value."""
        for name, values in self._values.items():
            yield name, float(np.mean(values))


class _Swapped:
    """A person's faces given as another's."""

    def __init__(self, sharpness: float, classifier: identity.Classifier | None, coverage: float) -> None:
        """`sharpness` is that of the other's real faces."""
        self._wanted = sharpness
        self._classifier = classifier
        self._coverage = coverage
        self._sharp: list[float] = []
        self._other: list[bool] = []
        self._moved: list[tuple[float, float]] = []
        self._found = 0

    def take(self, given: Tensor, before: Sequence[NDArray[np.float32] | None], landmarks: Landmarks | None) -> None:
        """Swaps, (n, 3, S, S) float32 0..1; `before` are the landmarks of what they were made from."""
        pictures = tensors.to_bytes(given)
        self._sharp += quality.sharpness(given).tolist()
        after = None if landmarks is None else landmarks(list(pictures))
        if self._classifier is not None:
            other = self._classifier.probability_b(_cut(pictures, self._coverage)) > 0.5
            if after is not None:  # of what is no face, a classifier says anything
                other &= [now is not None for now in after]
            self._other += other.tolist()
        for was, now in zip(before, after or (), strict=True):
            self._found += was is not None
            if was is not None and now is not None:
                self._moved.append(expression.expression_and_pose(was, now))

    def metrics(self) -> Iterator[tuple[str, float]]:
        """Name and value."""
        yield "sharpness", _alike(float(np.median(self._sharp)), self._wanted)
        if self._other:
            yield "identity", float(np.mean(self._other))
        if self._found:
            if len(self._moved) >= _FOUND * self._found:
                for name, value in zip(("expression", "pose"), np.mean(self._moved, 0), strict=True):
                    yield name, float(value)
            yield "landmarks_lost", 1 - len(self._moved) / self._found


def spread(count: int, most: int) -> Tensor:
    """(n,) int64: at most `most` of `count` places, evenly."""
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most, dtype=torch.float64).round().long()


def _pairs(people: Sequence[str]) -> list[tuple[str, str]]:
    """Who is given as whom: everybody as everybody else; of many people evenly chosen, each as often on either side."""
    count = len(people)
    rings = [(one, people[(place + step) % count]) for step in range(1, count) for place, one in enumerate(people)]
    nearest = rings[: max(count, _MOST_PAIRS)]
    return [nearest[place] for place in spread(len(nearest), _MOST_PAIRS).tolist()]


def _cut(pictures: NDArray[np.uint8], coverage: float) -> NDArray[np.uint8]:
    """The square of coverage 1 in the middle of (N, S, S, 3) pictures of any coverage."""
    side = pictures.shape[1]
    edge = round((side - side / max(1.0, coverage)) / 2)
    return pictures[:, edge : side - edge, edge : side - edge]


def _alike(one: float, other: float) -> float:
    """The smaller over the larger: 0..1, 1 where they are the same."""
    low, high = sorted((one, other))
    return low / high if high > 0 else 1.0


def _ask(stop: Callable[[], bool]) -> None:
    if stop():
        raise Stopped


@contextmanager
def _undisturbed(model: Autoencoder) -> Iterator[None]:
    """Ready to be judged within; afterwards each part of it is in the mode that it was in."""
    before = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
