"""IAE: encoder and decoder are shared by everybody; what is a person's own lies between them, in an inter.

    encoder: Down per width, flatten                                    -> (places * last width)
    inter:   dense, dense, reshape (side, side, base)                   -> (base, side, side)
    decoder: Up per width, Out 3                                        -> (3, size, size)
    mask:    Up per width, Out 1, from the same latent                  -> (1, size, size)

Each person has an inter, and one more is everybody's; the latent is a person's and everybody's joined by channel. A
swap runs a picture of one person through another's inter. At full size (64 px) that is 17 214 720 parameters for the
encoder, 25 175 040 for each inter, 25 076 163 for the decoder and 25 072 961 for the mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import option_checks
from models.autoencoder import Decoder, PerPerson, SharedDecoder
from models.blocks import Layers, Stack, Unflatten


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        size: px of the square it sees and gives.
        encoder: channels after each halving.
        dense: width of each inter's bottleneck.
        base: channels that each inter gives, on (size / 2^len(decoder)) squared places.
        decoder: channels after each doubling.
    """

    size: int = 64
    encoder: tuple[int, ...] = (128, 256, 512, 1024)
    dense: int = 1024
    base: int = 512
    decoder: tuple[int, ...] = (512, 256, 128, 64)

    def __post_init__(self) -> None:
        option_checks.widths("iae", self, "encoder", "decoder")
        option_checks.whole("iae", self, dense=option_checks.FEATURES, base=option_checks.WIDTHS)
        step = 2 ** max(len(self.encoder), len(self.decoder))
        option_checks.whole("iae", self, size=range(max(16, 2 * step), 1025, step))

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return self.size

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.size


#: From the one that a test can train to the family's own.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, (16, 32, 64, 64), 64, 32, (32, 32, 16, 16)),
    "iae": Config(),
}


class IAE(SharedDecoder):
    """The network; `inters` are the people's own, `both` is everybody's."""

    def __init__(self, config: Config, people: Sequence[str], layers: Layers) -> None:
        downs = (layers.down(a, b) for a, b in itertools.pairwise((3, *config.encoder)))
        encoder = Stack(*downs, nn.Flatten())
        widths = (2 * config.base, *config.decoder)
        mask = layers.branch(widths, 1) if layers.options.mask else None
        super().__init__(people, encoder, Decoder(layers.branch(widths, 3), mask))
        self.inters = PerPerson(people, (_inter(config, layers) for _ in people))
        self.both = _inter(config, layers)

    def latent(self, code: Tensor, person: str) -> Tensor:
        """(N, places * last width) to (N, 2 base, side, side): the person's part, then everybody's."""
        return torch.cat((self.inters[person](code), self.both(code)), 1)


def _inter(config: Config, layers: Layers) -> Stack:
    seen, side = config.size >> len(config.encoder), config.size >> len(config.decoder)
    return Stack(
        layers.dense(config.encoder[-1] * seen * seen, config.dense),
        layers.dense(config.dense, config.base * side * side),
        Unflatten(config.base, side),
    )


def build(config: Config, people: Sequence[str], layers: Layers) -> IAE:
    """A new network with random weights, drawn from torch's global generator."""
    return IAE(config, people, layers)
