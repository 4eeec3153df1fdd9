"""Lightweight: the Original with a smaller encoder and a narrower bottleneck; its decoders are wider.

At full size (64 px; widths 128, 256, 512) that is 29 806 336 parameters for the encoder, 10 630 019 for each decoder
and 10 623 617 for each mask.
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

    family: ClassVar[str] = "lightweight"

    encoder: tuple[int, ...] = (128, 256, 512)
    dense: int = 512
    base: int = 512
    latent: int = 256
    decoder: tuple[int, ...] = (512, 256, 128)


#: From the one that a test can train to the family's own.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, (16, 32, 64), 64, 32, 32, (64, 32, 16)),
    "lightweight": Config(),
}


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    return original.build(config, people, layers)
