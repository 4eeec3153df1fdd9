"""Villain: residual blocks at half of the picture's side, in encoder and decoders; very heavy on memory.

    encoder: Down; residual blocks, around them a shortcut; Down, shuffle, Down, shuffle, Down, Sep, Down, Sep, flatten,
             dense, dense, reshape (size / 16, size / 16, base), Up latent     -> (latent, size / 8, size / 8)
    decoder: Up and a residual block 3 times, Out 3                            -> (3, size, size)
    mask:    Up 3 times, Out 1, from the same latent                           -> (1, size, size)

Sep is a convolution of each channel by itself, then one across them. Pixels that are shuffled apart give twice the side
and a quarter of the channels: what follows sees details that a plain encoder has long folded away.

At full size (128 px) that is 112 027 904 parameters for the encoder, 21 543 555 for each decoder and 15 342 209 for
each mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models import initialisers, option_checks
from models.autoencoder import Decoder, SharedEncoder
from models.blocks import SLOPE, Layers, Stack, Unflatten
from models.initialisers import Start


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        size: px of the square it sees and gives.
        encoder: channels after the first halving; the last ones give 2, 4 and 8 times as many.
        residuals: how many residual blocks follow the first halving.
        deep: the encoder halves once more before it is flattened.
        nodes: width of the bottleneck.
        base: channels the bottleneck is unfolded to, on (size / 16) squared places.
        latent: channels of what the decoders are given, at twice that side.
        decoder: channels after a decoder's last doubling; twice as many after each one before it.
        deviation: of the normal distribution that convolutions start from, all but the masks' and the last ones. What
            suits the family's own widths is too narrow for much smaller ones, through which nothing would pass.
    """

    size: int = 128
    encoder: int = 128
    residuals: int = 16
    deep: bool = True
    nodes: int = 1024
    base: int = 1024
    latent: int = 512
    decoder: int = 128
    deviation: float = 0.02

    def __post_init__(self) -> None:
        name, widths = "villain", option_checks.WIDTHS
        option_checks.whole(name, self, size=range(64, 513, 32), encoder=range(4, 1025, 4), residuals=range(1, 65))
        option_checks.whole(name, self, decoder=range(2, 1025))
        option_checks.numbers(name, self, deviation=(1e-3, 1))
        option_checks.switches(name, self, "deep")
        option_checks.whole(name, self, nodes=option_checks.FEATURES, base=widths, latent=widths)

    @property
    def start(self) -> Start:
        """What most convolutions start from."""
        return initialisers.normal(self.deviation)

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
    "sketch": Config(64, 32, 2, True, 64, 64, 64, 16, 0.07),
    "lowmem": Config(residuals=8, deep=False, nodes=512),
    "villain": Config(),
}


class Detour(nn.Module):
    """A branch and a shortcut around it, added; what comes in is made active for each of them by itself."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.branch(x) + self.shortcut(x)
        return result


def _seen(config: Config, layers: Layers) -> list[nn.Module]:
    """From the picture to its features, flattened."""
    width, start = config.encoder, config.start
    residuals = (layers.residual(width, start=start) for _ in range(config.residuals))
    last = [layers.separable(4 * width, 8 * width, start=start)] if config.deep else []
    return [
        layers.down(3, width, None, start=start),
        Detour(Stack(layers.active(0.2), *residuals), layers.active(SLOPE)),
        layers.down(width, width, start=start),
        nn.PixelShuffle(2),
        layers.down(width // 4, width, start=start),
        nn.PixelShuffle(2),
        layers.down(width // 4, width, start=start),
        layers.separable(width, 2 * width, start=start),
        layers.down(2 * width, 4 * width, start=start),
        *last,
        nn.Flatten(),
    ]


def _encoder(config: Config, layers: Layers) -> Stack:
    channels, places = (8, config.size // 32) if config.deep else (4, config.size // 16)
    side = config.size // 16
    return Stack(
        *_seen(config, layers),
        layers.dense(channels * config.encoder * places * places, config.nodes),
        layers.dense(config.nodes, config.base * side * side),
        Unflatten(config.base, side),
        layers.up(config.base, config.latent, start=config.start),
    )


def _decoder(config: Config, layers: Layers) -> Decoder:
    widths = (config.latent, *(config.decoder << place for place in (2, 1, 0)))
    larger = (
        layers.up_residual(a, b, start=config.start, residual=config.start) for a, b in itertools.pairwise(widths)
    )
    mask = layers.branch(widths, 1) if layers.options.mask else None
    return Decoder(Stack(*larger, layers.out(widths[-1])), mask)


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    return SharedEncoder(people, _encoder(config, layers), (_decoder(config, layers) for _ in people))
