"""What every architecture is: pictures to a code, and the code to a picture of a chosen person.

`SharedEncoder` and `SharedDecoder` are the two ways to wire one; an architecture gives them their parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

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

    def split(self, counts: Sequence[int]) -> list[Decoded]:
        """The first so many faces, the next so many, and so on."""
        pictures = zip(*(picture.split(list(counts)) for picture in self.pictures), strict=True)
        masks = [None] * len(counts) if self.mask is None else self.mask.split(list(counts))
        return [Decoded(group, mask) for group, mask in zip(pictures, masks, strict=True)]


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

    def train(self, mode: bool = True) -> Self:
        """As torch's, but what is frozen also keeps its running statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

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
        return self.decode_each(codes), codes

    def decode_each(self, codes: Mapping[str, Tensor]) -> dict[str, Decoded]:
        """Each person's codes as themselves."""
        return {person: self.decode(code, person) for person, code in codes.items()}

    def drop_masks(self) -> None:
        """Takes the branches away that learned the masks, for who wants pictures alone: they cost time.

        Wherever a decoder has such a branch, it is called `mask`.
        """
        for part in self.modules():
            if isinstance(getattr(part, "mask", None), nn.Module):
                part.register_module("mask", None)


class PerPerson(nn.ModuleDict):
    """Parts of a network, one for each person, by name.

    An ordinary ModuleDict refuses a person who is called like one of its methods: "train", say, or "type".
    """

    def __init__(self, people: Sequence[str], parts: Iterable[nn.Module]) -> None:
        super().__init__(dict(zip(people, parts, strict=True)))

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Takes any name: parts are looked up by `[name]`, never as attributes."""
        self._modules[name] = module  # type: ignore[assignment]  # torch declares it narrower than its own method


class Decoder(nn.Module):
    """A code to a picture and, where one is learned, to its mask, by branches that share nothing."""

    def __init__(self, face: nn.Module, mask: nn.Module | None = None) -> None:
        super().__init__()
        self.face = face
        self.mask = mask

    def forward(self, code: Tensor) -> Decoded:
        return Decoded((self.face(code),), None if self.mask is None else self.mask(code))


class SharedEncoder(Autoencoder):
    """One encoder for everybody, a decoder for each person.

    What faces share (pose, expression, light) has to pass through the one encoder; what they don't share is left to
    the decoders.
    """

    def __init__(self, people: Sequence[str], encoder: nn.Module, decoders: Iterable[nn.Module]) -> None:
        """`decoders`: from a code to Decoded, in the order of `people`."""
        super().__init__(people)
        self.encoder = encoder
        self.decoders = PerPerson(people, decoders)

    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, in, in) float 0..1 RGB to what the decoders are given."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, code: Tensor, person: str) -> Decoded:
        """The code as `person`. KeyError on a stranger."""
        decoded: Decoded = self.decoders[person](code)
        return decoded


class SharedDecoder(Autoencoder):
    """One encoder and one decoder for everybody; what is a person's own comes between them, in `latent`."""

    code_is_a_face = False

    def __init__(self, people: Sequence[str], encoder: nn.Module, decoder: nn.Module) -> None:
        """`decoder`: from a latent to Decoded."""
        super().__init__(people)
        self.encoder = encoder
        self.decoder = decoder

    def latent(self, code: Tensor, person: str) -> Tensor:
        """What the decoder is given for a code as `person`. KeyError on a stranger."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, in, in) float 0..1 RGB to what the layers between are given."""
        code: Tensor = self.encoder(x)
        return code

    def decode(self, code: Tensor, person: str) -> Decoded:
        """The code as `person`. KeyError on a stranger."""
        decoded: Decoded = self.decoder(self.latent(code, person))
        return decoded

    def decode_each(self, codes: Mapping[str, Tensor]) -> dict[str, Decoded]:
        """Each person's codes as themselves: all of them go through the one decoder at once."""
        latents = torch.cat([self.latent(code, person) for person, code in codes.items()])
        decoded: Decoded = self.decoder(latents)
        return dict(zip(codes, decoded.split([len(code) for code in codes.values()]), strict=True))
