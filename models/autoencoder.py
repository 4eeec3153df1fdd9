"""What every architecture is: pictures to a code, and the code to a picture of a chosen person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Decoded(NamedTuple):
    """What a decoder gives.

    Attributes:
        pictures: (N, 3, s, s) float32 RGB 0..1 for each size it gives; the last is the model's, smaller ones before it.
        mask: (N, 1, out, out) float32, 1 is face; None where the model learns none.
    """

    pictures: tuple[Tensor, ...]
    mask: Tensor | None = None

    @property
    def picture(self) -> Tensor:
        """(N, 3, out, out) float32 RGB 0..1."""
        return self.pictures[-1]


class Autoencoder(nn.Module):
    """The base of every architecture. An architecture gives `encode` and `decode`; the rest follows.

    Attributes:
        people: whom it can give, by name, in the order of the training.
        code_is_a_face: whether the code alone is what a decoder is given. False where a person's own layers
            (inters) come between: then a code says nothing of how like two people's are.
    """

    code_is_a_face: ClassVar[bool] = True

    def __init__(self, people: Sequence[str]) -> None:
        super().__init__()
        self.people = tuple(people)

    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, in, in) float 0..1 RGB of anybody to the code, of a shape that is the architecture's own."""
        raise NotImplementedError

    def decode(self, code: Tensor, person: str) -> Decoded:
        """The code as `person`. KeyError on a stranger."""
        raise NotImplementedError

    def swap(self, x: Tensor, to: str) -> Decoded:
        """(N, 3, in, in) float 0..1 RGB of anybody as the person `to`."""
        return self.decode(self.encode(x), to)

    def forward(self, x: Mapping[str, Tensor]) -> tuple[dict[str, Decoded], dict[str, Tensor]]:
        """Each person's pictures as themselves, and their codes.

        All faces go through the shared encoder at once: the sum of the losses has the same gradient as a pass for
        each person, for half of the weights' traffic.
        """
        codes = dict(zip(x, self.encode(torch.cat(list(x.values()))).split([len(p) for p in x.values()]), strict=True))
        return {person: self.decode(code, person) for person, code in codes.items()}, codes
