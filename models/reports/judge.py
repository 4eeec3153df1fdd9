"""The judgement: how good a model is at faces it was never trained on, without anybody's eye.

    ssim/a, psnr/a            a's faces given back as a, against themselves
    identity/a>b              share of a's faces given as b that a classifier calls b
    expression/a>b, pose/a>b  how far landmarks move in the swap, in inter-ocular distances: among themselves, and as one
    sharpness/a>b             the swaps' sharpness against that of b's real faces; 1 is as sharp, up to 1
    landmarks_lost/a>b        share of the swaps in which no face is found any more

The mean of each over people or pairs stands under its bare name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

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

#: Crops, each (S, S, 3) uint8 RGB, to their landmarks, (478, 2) float32 px, or None where no face is found.
Landmarks = Callable[[Sequence[NDArray[np.uint8]]], Sequence[NDArray[np.float32] | None]]

_BATCH = 8
_MOST_PAIRS = 12  # of many people; evenly chosen
_KNOWN = 200  # faces of a person from which the classifier learns, at most
_SEES = 64  # px


class Judge:
    """Judges a model by always the same faces; draws nothing from torch's global generator."""

    def __init__(
        self,
        config: Config,
        held: Mapping[str, AnyFaces],
        trained: Mapping[str, AnyFaces],
        sizes: tuple[int, int],
        landmarks: Landmarks | None = None,
    ) -> None:
        """`held` are faces that are never trained on; the classifier learns from `trained`."""
        self._held = held
        self._trained = trained
        self._sizes = sizes
        self._landmarks = landmarks
        self._chosen = {person: spread(len(faces), config.faces) for person, faces in held.items()}
        pairs = list(itertools.permutations(held, 2))
        self._pairs = [pairs[place] for place in spread(len(pairs), _MOST_PAIRS).tolist()]
        self._classifiers: dict[tuple[str, str], identity.Classifier | None] = {}

    def __call__(self, model: Autoencoder) -> dict[str, float]:
        """The metrics by name; the model's mode is what it was afterwards."""
        device = next(model.parameters()).device
        found: dict[str, float] = {}
        with _in_eval(model), torch.inference_mode():
            for person in self._held:
                real = self._real(person, self._sizes[1])
                given = self._given(model, person, person, device)
                found[f"ssim/{person}"] = quality.ssim(given, real).mean().item()
                found[f"psnr/{person}"] = quality.psnr(given, real).mean().item()
            for person, to in self._pairs:
                found |= {f"{name}/{person}>{to}": value for name, value in self._swapped(model, person, to, device)}
        for name in dict.fromkeys(key.partition("/")[0] for key in found):
            found[name] = float(np.mean([value for key, value in found.items() if key.startswith(f"{name}/")]))
        return found

    def _swapped(self, model: Autoencoder, person: str, to: str, device: torch.device) -> Iterator[tuple[str, float]]:
        given = self._given(model, person, to, device)
        classifier = self._classifier(person, to)
        pictures = list(tensors.to_bytes(given))
        if classifier is not None:
            yield "identity", float((classifier.probability_b(pictures) > 0.5).mean())
        wanted = quality.sharpness(self._real(to, self._sizes[1])).median().clamp_min(1e-3)
        yield "sharpness", (quality.sharpness(given) / wanted).clamp_max(1).mean().item()
        if self._landmarks is not None:
            real = list(tensors.to_bytes(self._real(person, self._sizes[1])))
            yield from _moved(self._landmarks(real), self._landmarks(pictures))

    def _real(self, person: str, size: int) -> Tensor:
        return augment.plain(self._held[person], self._chosen[person], size).cpu()

    def _given(self, model: Autoencoder, person: str, to: str, device: torch.device) -> Tensor:
        """(N, 3, out, out) float32 on the CPU: the person's faces as `to`."""
        seen = self._real(person, self._sizes[0])
        return torch.cat([model.swap(part.to(device), to).picture.float().cpu() for part in seen.split(_BATCH)])

    def _classifier(self, person: str, to: str) -> identity.Classifier | None:
        """Tells the two apart; made when first asked for. None where there are too few faces of one."""
        a, b = sorted((person, to))
        if (a, b) not in self._classifiers:
            crops = [self._known(name) for name in (a, b)]
            enough = min(len(part) for part in crops) >= identity.LEAST
            with torch.inference_mode(False), torch.enable_grad():
                self._classifiers[a, b] = identity.train_classifier(*crops) if enough else None
        made = self._classifiers[a, b]
        return made if made is None or (person, to) == (a, b) else made.turned()

    def _known(self, person: str) -> NDArray[np.uint8]:
        faces = self._trained[person]
        return tensors.to_bytes(augment.plain(faces, spread(len(faces), _KNOWN), _SEES))


def spread(count: int, most: int) -> Tensor:
    """(n,) int64: at most `most` of `count` places, evenly."""
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most).round().long()


def _moved(
    before: Sequence[NDArray[np.float32] | None], after: Sequence[NDArray[np.float32] | None]
) -> Iterator[tuple[str, float]]:
    found = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if found:
        errors = [expression.expression_and_pose(a, b) for a, b in found]
        yield "expression", float(np.mean([error for error, _ in errors]))
        yield "pose", float(np.mean([error for _, error in errors]))
    seen = sum(a is not None for a in before)
    if seen:
        yield "landmarks_lost", 1 - len(found) / seen


@contextmanager
def _in_eval(model: Autoencoder) -> Iterator[None]:
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
