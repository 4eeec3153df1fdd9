"""Realface: sees one size and gives another; the first person, who is in the clips, has a lighter decoder.

    encoder:      Down and two residual blocks 3 times, each twice as wide; Down      -> (8 * encoder, in/16, in/16)
    decoders:     flatten, dense, dense, reshape (side, side, filters), Up filters    -> (filters, 2 side, 2 side)
    the first's:  a residual block; Up, each half as wide; Out 3                      -> (3, output, output)
    the others':  a residual block; Up and two of them, each half as wide; Up; Out 3  -> (3, output, output)
    masks:        Up, each half as wide; Out 1, from the first Up on                  -> (1, output, output)

The first person's decoder has two thirds of the others' widths. How small the code is unfolded (`side`) follows from
the sizes: a sixteenth or a thirty-second of the output, whichever is nearer to a sixteenth of the input.

At full size (64 to 128 px) that is 29 604 608 parameters for the encoder, 64 196 041 for the first person's decoder and
144 441 027 for any other; 12 915 697 and 17 643 505 for their masks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models import option_checks
from models.autoencoder import Decoded, SharedEncoder
from models.blocks import SLOPE, Layers, Stack, Unflatten

_HALVINGS = 4


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        input: px of the square it sees.
        output: px of the square it gives.
        nodes: width of the bottleneck, which is the decoders' own here.
        encoder: channels after the first halving, doubled by each of the other three.
        decoder: channels after the second doubling of a decoder, halved by each one after it.
        base: channels the bottleneck is unfolded to on 4x4 places; fewer on more places.
        mask: channels after the second doubling of a mask's branch, halved by each one after it.
    """

    input: int = 64
    output: int = 128
    nodes: int = 1536
    encoder: int = 128
    decoder: int = 512
    base: int = 1024
    mask: int = 384

    def __post_init__(self) -> None:
        name = "realface"
        option_checks.whole(name, self, input=range(64, 129, 16), output=range(64, 257, 32))
        option_checks.whole(name, self, nodes=range(2, option_checks.FEATURES[-1] + 1), encoder=range(2, 1025))
        # Two thirds of what is left after three halvings are at least two channels.
        option_checks.whole(name, self, decoder=range(24, 4097, 8), base=range(64, 4097, 64), mask=range(16, 4097, 8))

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return self.input

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.output

    @property
    def doublings(self) -> int:
        """How often a decoder doubles what its bottleneck is unfolded to."""
        known = [times for times in (4, 5) if self.output >> times < 10]
        return min(known, key=lambda times: abs((self.output >> times << _HALVINGS) - self.input))

    @property
    def side(self) -> int:
        """Places along the side of what a bottleneck is unfolded to."""
        return self.output >> self.doublings

    @property
    def filters(self) -> int:
        """Channels of the same: fewer where there are more places."""
        return self.base * (20 - self.side) // 256 * 16


#: From the one that a test can train to the largest.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, 64, 32, 8, 24, 64, 16),
    "64px": Config(output=64),
    "128px": Config(),
    "256px": Config(128, 256),
}


class ForkedDecoder(nn.Module):
    """A code to a picture and, where one is learned, to its mask, by branches that share their beginning."""

    def __init__(self, shared: nn.Module, face: nn.Module, mask: nn.Module | None) -> None:
        super().__init__()
        self.shared = shared
        self.face = face
        self.mask = mask

    def forward(self, code: Tensor) -> Decoded:
        fork = self.shared(code)
        return Decoded((self.face(fork),), None if self.mask is None else self.mask(fork))


def _encoder(config: Config, layers: Layers) -> Stack:
    *before, last = itertools.pairwise((3, *(config.encoder << place for place in range(_HALVINGS))))
    stages = (nn.Sequential(layers.down(a, b, slope=0.2), layers.residual(b), layers.residual(b)) for a, b in before)
    return Stack(*stages, layers.down(*last))


def _unfolded(config: Config, layers: Layers, nodes: int, filters: int) -> Stack:
    seen, side = config.input >> _HALVINGS, config.side
    return Stack(
        nn.Flatten(),
        layers.dense((config.encoder << (_HALVINGS - 1)) * seen * seen, nodes),
        layers.dense(nodes, filters * side * side),
        Unflatten(filters, side),
        layers.up(filters, filters, slope=None),
    )


def _widths(config: Config, filters: int, width: int) -> tuple[int, ...]:
    """Channels before and after each doubling that follows the first."""
    return filters, *(width >> place for place in range(config.doublings - 1))


def _mask(config: Config, layers: Layers, filters: int) -> Stack | None:
    if not layers.options.mask:
        return None
    return Stack(layers.active(SLOPE), *layers.branch(_widths(config, filters, config.mask), 1))


def _first(config: Config, layers: Layers) -> ForkedDecoder:
    """The decoder of the first person."""
    nodes, filters, width = (2 * full // 3 for full in (config.nodes, config.filters, config.decoder))
    start = (layers.active(0.2), layers.residual(filters, bias=False))
    face = Stack(*start, *layers.branch(_widths(config, filters, width), 3))
    return ForkedDecoder(_unfolded(config, layers, nodes, filters), face, _mask(config, layers, filters))


def _other(config: Config, layers: Layers) -> ForkedDecoder:
    """The decoder of anybody else."""
    filters = config.filters
    start = (layers.active(0.2), layers.residual(filters, bias=False))
    *before, last = itertools.pairwise(_widths(config, filters, config.decoder))
    stages = (nn.Sequential(_up_residual(layers, a, b), layers.residual(b)) for a, b in before)
    face = Stack(*start, *stages, layers.up(*last), layers.out(last[1]))
    return ForkedDecoder(_unfolded(config, layers, config.nodes, filters), face, _mask(config, layers, filters))


def _up_residual(layers: Layers, inputs: int, outputs: int) -> nn.Sequential:
    larger = layers.up(inputs, outputs, slope=None)
    return nn.Sequential(larger, layers.active(0.2), layers.residual(outputs, bias=False))


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    decoders = ((_other if place else _first)(config, layers) for place in range(len(people)))
    return SharedEncoder(people, _encoder(config, layers), decoders)
