"""The Original: one encoder shared by both people, one decoder each.

What both faces share (pose, expression, light) has to pass through the one encoder; what they don't share is left to
the decoders. A swap encodes a picture of one person and decodes it as the other.

    encoder: Down per width, flatten, dense, dense, reshape (side, side, base), Up latent   -> (latent, 2 side, 2 side)
    decoder: Up per width, Out 3                                                            -> (3, size, size)

At full size (64 px; widths 128, 256, 512, 1024) that is 69 662 976 parameters for the encoder, 6 199 747 for each
decoder. The dense layers have no activation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.blocks import Down, Out, Up, dense
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


class Encoder(nn.Module):
    """(N, 3, size, size) float 0..1 RGB to (N, latent, 2 side, 2 side)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = (3, *config.encoder)
        self.down = nn.Sequential(*(Down(a, b) for a, b in itertools.pairwise(widths)))
        seen = config.size >> len(config.encoder)
        side = config.size >> (len(config.decoder) + 1)
        self.squeeze = dense(config.encoder[-1] * seen * seen, config.dense)
        self.unfold = dense(config.dense, config.base * side * side)
        self.shape = (config.base, side, side)
        self.up = Up(config.base, config.latent)

    def forward(self, x: Tensor) -> Tensor:
        unfolded = self.unfold(self.squeeze(self.down(x).flatten(1)))
        latent: Tensor = self.up(unfolded.unflatten(1, self.shape))
        return latent


class Decoder(nn.Sequential):
    """(N, latent, 2 side, 2 side) to (N, 3, size, size) float32 0..1 RGB."""

    def __init__(self, config: Config) -> None:
        widths = (config.latent, *config.decoder)
        ups = (Up(a, b) for a, b in itertools.pairwise(widths))
        super().__init__(*ups, Out(config.decoder[-1], 3))


class Original(nn.Module):
    """One encoder, a decoder for each person, by name."""

    def __init__(self, config: Config, people: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoders = nn.ModuleDict({person: Decoder(config) for person in people})

    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, size, size) float 0..1 RGB to what the decoders are given."""
        latent: Tensor = self.encoder(x)
        return latent

    def decode(self, latent: Tensor, person: str) -> Tensor:
        """What `encode` gave, to (N, 3, size, size) float32 0..1 RGB, as `person`. KeyError on a stranger."""
        picture: Tensor = self.decoders[person](latent)
        return picture

    def forward(self, x: Tensor, to: str) -> Tensor:
        """The same faces as the person `to`; shapes and range as `encode` and `decode` say."""
        return self.decode(self.encode(x), to)

    swap = forward


def build(config: Config, people: Sequence[str]) -> Original:
    """A new network with random weights, drawn from torch's global generator."""
    return Original(config, people)
