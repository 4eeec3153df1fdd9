"""DFL-H128: the Original at 128 px, with as many channels around the bottleneck as the bottleneck is wide.

At full size (widths 128, 256, 512, 1024; 512 around the bottleneck) that is 77 018 880 parameters for the encoder,
15 348 611 for each decoder and 15 342 209 for each mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from models.autoencoder import SharedEncoder
from models.autoencoders import original
from models.blocks import Layers


@dataclass(frozen=True, slots=True)
class Config(original.Config):
    """How big it is; the options are the Original's."""

    family: ClassVar[str] = "dfl_h128"

    size: int = 128
    dense: int = 512
    base: int = 512
    latent: int = 512
    decoder: tuple[int, ...] = (512, 256, 128)


#: From the one that a test can train to the family's own.
PRESETS: dict[str, Config] = {
    "sketch": Config(128, (8, 16, 32, 64), 32, 32, 32, (32, 16, 8)),
    "lowmem": Config(dense=256, base=256, latent=256, decoder=(256, 128, 64)),
    "dfl_h128": Config(),
}


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    return original.build(config, people, layers)
