"""The textbook autoencoders: the Original as a plain PyTorch program has it, and the same with transposed convolutions.

Layers start as PyTorch makes them, not from He's distribution, unless the options name another. With `transposed`,
decoders double their side by transposed convolutions of 2x2 pixels, which never overlap, and end in a 3x3 convolution:

    decoder: Transposed per width, Out 3                                                    -> (3, size, size)
    mask:    Transposed per width, Out 1, from the same latent                              -> (1, size, size)

All else is as in `original`, parameter totals too; transposed decoders have 690 307 each, their masks 689 153.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from models import option_checks
from models.autoencoder import Decoder, SharedEncoder
from models.autoencoders import original
from models.blocks import SLOPE, Layers, Stack, SubPixel


@dataclass(frozen=True, slots=True)
class Config(original.Config):
    """How big it is; the options are the Original's and one more.

    Attributes:
        transposed: decoders are made of transposed convolutions, whatever up-scaler the options name.
    """

    family: ClassVar[str] = "textbook"

    transposed: bool = False

    def __post_init__(self) -> None:
        original.Config.__post_init__(self)
        option_checks.switches(self.family, self, "transposed")


#: From the one that a test can train to the family's two.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, (32, 64, 128, 256), 128, 128, 128, (64, 32, 16)),
    "textbook": Config(),
    "transposed": Config(transposed=True),
}


def _branch(config: Config, layers: Layers, channels: int) -> Stack:
    widths = (config.latent, *config.decoder)
    if not config.transposed:
        return layers.branch(widths, channels)
    larger = (layers.transposed(a, b, 2, 2, SLOPE) for a, b in itertools.pairwise(widths))
    return Stack(*larger, layers.out(widths[-1], channels, kernel=3))


def _start_as_torch(model: nn.Module, icnr: bool) -> None:
    """By every layer's own `reset_parameters`; with `icnr`, what doubles the side keeps its neighbours alike."""
    parts = list(model.modules())
    kept = {part.convolution for part in parts if isinstance(part, SubPixel)} if icnr else set()
    kinds = (nn.Conv2d, nn.Linear) if icnr else (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
    for part in parts:
        if isinstance(part, kinds) and part not in kept:
            part.reset_parameters()


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    unfolded = (config.base, config.size >> (len(config.decoder) + 1))
    model = SharedEncoder(
        people,
        original.encoder(layers, config.size, config.encoder, config.dense, unfolded, config.latent),
        (
            Decoder(_branch(config, layers, 3), _branch(config, layers, 1) if layers.options.mask else None)
            for _ in people
        ),
    )
    if layers.options.initialiser == "he":
        _start_as_torch(model, layers.options.icnr)
    return model
