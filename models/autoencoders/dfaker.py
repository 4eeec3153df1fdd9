"""Dfaker: gives twice the side it sees; the Original's encoder, and decoders with residual blocks.

    encoder: Down 4 times, each twice as wide, flatten, dense, dense, reshape (4, 4, base), Up latent -> (latent, 8, 8)
    decoder: Up, each half as wide, and a residual block after every one but the last; Out 3   -> (3, size, size)
    mask:    Up, each half as wide; Out 1, from the same latent                                -> (1, size, size)

At 128 px that is 69 662 976 parameters for the encoder, 21 833 923 for each decoder and 15 635 777 for each mask; at
256 px 119 994 624, 69 025 987 and 43 951 425.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from models import initialisers, option_checks
from models.autoencoder import Decoder, SharedEncoder
from models.autoencoders import original
from models.blocks import Layers, Stack

#: The residual blocks start from a narrower distribution than the rest.
_START = initialisers.normal(0.02)
_UNFOLDED, _HALVINGS = 4, 4


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        size: px of the square it gives, 128 or 256; it sees half of that.
        encoder: channels after the first halving, doubled by each of the other three.
        dense: width of the bottleneck.
        base: channels the bottleneck is unfolded to, on 4x4 places.
        latent: channels of what the decoders are given, on 8x8 places.
        decoder: channels after the last doubling; before each doubling there are twice as many as after it.
    """

    size: int = 128
    encoder: int = 128
    dense: int = 1024
    base: int = 1024
    latent: int = 512
    decoder: int = 64

    def __post_init__(self) -> None:
        widths, features = option_checks.WIDTHS, option_checks.FEATURES
        option_checks.one_of("dfaker", self, size=(128, 256))
        option_checks.whole("dfaker", self, dense=features, base=widths, latent=widths)
        option_checks.whole("dfaker", self, encoder=range(2, 1025), decoder=range(2, 513))

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return self.size // 2

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.size

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the latent and after each doubling of a decoder."""
        doublings = (self.size // (2 * _UNFOLDED)).bit_length() - 1
        return self.latent, *(self.decoder << place for place in reversed(range(doublings)))


#: From the one that a test can train to the larger of the two sizes.
PRESETS: dict[str, Config] = {
    "sketch": Config(128, 8, 32, 32, 32, 4),
    "128px": Config(),
    "256px": Config(256),
}


def _face(config: Config, layers: Layers) -> Stack:
    *before, last = itertools.pairwise(config.widths)
    larger = (layers.up_residual(a, b, residual=_START) for a, b in before)
    return Stack(*larger, layers.up(*last), layers.out(last[1]))


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    seen = [config.encoder << place for place in range(_HALVINGS)]
    unfolded = (config.base, _UNFOLDED)
    return SharedEncoder(
        people,
        original.encoder(layers, config.input_size, seen, config.dense, unfolded, config.latent),
        (
            Decoder(_face(config, layers), layers.branch(config.widths, 1) if layers.options.mask else None)
            for _ in people
        ),
    )
