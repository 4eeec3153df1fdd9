"""The Original: one encoder shared by everybody, one decoder each.

What faces share (pose, expression, light) has to pass through the one encoder; what they don't share is left to
the decoders. A swap encodes a picture of one person and decodes it as another.

    encoder: Down per width, flatten, dense, dense, reshape (side, side, base), Up latent   -> (latent, 2 side, 2 side)
    decoder: Up per width, Out 3                                                            -> (3, size, size)
    mask:    Up per width, Out 1, from the same latent                                      -> (1, size, size)

At full size (64 px; widths 128, 256, 512, 1024) that is 69 662 976 parameters for the encoder, 6 199 747 for each
decoder and 6 196 545 for each mask. The dense layers have no activation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from models import option_checks
from models.autoencoder import Decoder, SharedEncoder
from models.blocks import Layers, Stack, Unflatten


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        size: px of the square it sees and gives.
        encoder: channels after each halving.
        dense: width of the bottleneck, the only place where the whole face meets.
        base: channels the bottleneck is unfolded to, on (size / 2^(len(decoder) + 1)) squared places.
        latent: channels of what the decoders are given, at twice that side.
        decoder: channels after each doubling.
    """

    family: ClassVar[str] = "original"

    size: int = 64
    encoder: tuple[int, ...] = (128, 256, 512, 1024)
    dense: int = 1024
    base: int = 1024
    latent: int = 512
    decoder: tuple[int, ...] = (256, 128, 64)

    def __post_init__(self) -> None:
        option_checks.widths(self.family, self, "encoder", "decoder")
        widths, features = option_checks.WIDTHS, option_checks.FEATURES
        option_checks.whole(self.family, self, dense=features, base=widths, latent=widths)
        # The last halving still sees 4 px, the first doubling 2: a convolution needs as much to reflect at the edge.
        step = 2 ** max(len(self.encoder), len(self.decoder) + 1)
        option_checks.whole(self.family, self, size=range(max(16, 2 * step), 1025, step))

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return self.size

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.size


#: From the one that two CPU cores train in minutes to the one that the name comes from.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, (32, 64, 128, 256), 128, 128, 128, (64, 32, 16)),
    "light": Config(64, (64, 128, 256, 512), 512, 256, 256, (128, 64, 64)),
    "lowmem": Config(64, (128, 256, 512), 512),
    "original": Config(),
}


def encoder(
    layers: Layers, size: int, widths: Sequence[int], dense: int, unfolded: tuple[int, int], latent: int
) -> Stack:
    """(N, 3, size, size) float 0..1 RGB to (N, latent, 2 side, 2 side); `unfolded` is (channels, side)."""
    base, side = unfolded
    seen = size >> len(widths)
    return Stack(
        *(layers.down(a, b) for a, b in itertools.pairwise((3, *widths))),
        nn.Flatten(),
        layers.dense(widths[-1] * seen * seen, dense),
        layers.dense(dense, base * side * side),
        Unflatten(base, side),
        layers.up(base, latent),
    )


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    unfolded = (config.base, config.size >> (len(config.decoder) + 1))
    widths = (config.latent, *config.decoder)
    return SharedEncoder(
        people,
        encoder(layers, config.size, config.encoder, config.dense, unfolded, config.latent),
        (Decoder(layers.branch(widths, 3), layers.branch(widths, 1) if layers.options.mask else None) for _ in people),
    )
