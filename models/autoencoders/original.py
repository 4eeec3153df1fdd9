"""The Original: one encoder shared by both people, one decoder each.

What both faces share (pose, expression, light) has to pass through the one encoder; what they don't share is left to
the decoders. A swap encodes a picture of one person and decodes it as the other.

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

from torch import Tensor, nn

from models.autoencoder import Autoencoder, Decoded
from models.blocks import Layers, Stack, Unflatten
from pipeline.errors import ConfigError


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

    size: int = 64
    encoder: tuple[int, ...] = (128, 256, 512, 1024)
    dense: int = 1024
    base: int = 1024
    latent: int = 512
    decoder: tuple[int, ...] = (256, 128, 64)

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            widths = getattr(self, name)
            if not isinstance(widths, tuple) or not widths or not all(_positive(width) for width in widths):
                raise ConfigError(f"original.{name} must be a list of positive whole numbers, not {widths!r}")
        for name in ("size", "dense", "base", "latent"):
            if not _positive(getattr(self, name)):
                raise ConfigError(f"original.{name} must be a positive whole number, not {getattr(self, name)!r}")
        step = 2 ** max(len(self.encoder), len(self.decoder) + 1)
        if self.size % step or self.size > 1024:
            raise ConfigError(f"original.size must be a multiple of {step} up to 1024, not {self.size}")

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return self.size

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.size


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


#: From the one that two CPU cores train in minutes to the one that the name comes from.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, (32, 64, 128, 256), 128, 128, 128, (64, 32, 16)),
    "light": Config(64, (64, 128, 256, 512), 512, 256, 256, (128, 64, 64)),
    "lowmem": Config(64, (128, 256, 512), 512),
    "original": Config(),
}


def encoder(config: Config, layers: Layers) -> Stack:
    """(N, 3, size, size) float 0..1 RGB to (N, latent, 2 side, 2 side)."""
    widths = (3, *config.encoder)
    seen = config.size >> len(config.encoder)
    side = config.size >> (len(config.decoder) + 1)
    return Stack(
        *(layers.down(a, b) for a, b in itertools.pairwise(widths)),
        nn.Flatten(),
        layers.dense(config.encoder[-1] * seen * seen, config.dense),
        layers.dense(config.dense, config.base * side * side),
        Unflatten(config.base, side),
        layers.up(config.base, config.latent),
    )


class Decoder(nn.Module):
    """(N, latent, 2 side, 2 side) to (N, 3, size, size) float32 0..1 RGB, and the mask where one is learned."""

    def __init__(self, config: Config, layers: Layers) -> None:
        super().__init__()
        self.face = self._branch(config, layers, 3)
        self.mask = self._branch(config, layers, 1) if layers.options.mask else None

    def forward(self, latent: Tensor) -> Decoded:
        return Decoded((self.face(latent),), None if self.mask is None else self.mask(latent))

    @staticmethod
    def _branch(config: Config, layers: Layers, channels: int) -> Stack:
        widths = (config.latent, *config.decoder)
        return Stack(*(layers.up(a, b) for a, b in itertools.pairwise(widths)), layers.out(widths[-1], channels))


class Original(Autoencoder):
    """One encoder, a decoder for each person, by name."""

    def __init__(self, config: Config, people: Sequence[str], layers: Layers) -> None:
        super().__init__(people)
        self.encoder = encoder(config, layers)
        self.decoders = nn.ModuleDict({person: Decoder(config, layers) for person in people})

    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) float 0..1 RGB to (N, latent, 2 side, 2 side)."""
        latent: Tensor = self.encoder(x)
        return latent

    def decode(self, code: Tensor, person: str) -> Decoded:
        """The latent as `person`. KeyError on a stranger."""
        decoded: Decoded = self.decoders[person](code)
        return decoded


def build(config: Config, people: Sequence[str], layers: Layers) -> Original:
    """A new network with random weights, drawn from torch's global generator."""
    return Original(config, people, layers)
