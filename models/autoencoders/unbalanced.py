"""Unbalanced: the first person, who is in the clips, has a small decoder; everybody else has a large one.

A swap needs the large decoders alone; the small one is there so that the encoder learns the first person's faces, and
swaps towards the first person are not expected to work well.

    encoder:      Down 5 times (the first two with a norm), flatten, dense, dense, reshape  -> (base, size/16, size/16)
    the first's:  Up, dropout of channels, Up, dropout of channels, Up, Up; Out 3           -> (3, size, size)
    the others':  Up and a residual block 3 times, Up; Out 3                                -> (3, size, size)
    masks:        Up 4 times; Out 1, from the same latent                                   -> (1, size, size)

At full size (128 px) that is 83 964 932 parameters for the encoder, 43 633 827 for the first person's decoder and
79 447 427 for any other, 15 710 689 and 24 781 441 for their masks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from models import initialisers, option_checks
from models.autoencoder import Decoder, SharedEncoder
from models.blocks import SLOPE, Layers, ScalarNorm, Stack, Unflatten

_START = initialisers.normal(0.02)
_KERNEL = 5
_HALVINGS, _DOUBLINGS = 5, 4


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        size: px of the square it sees and gives.
        nodes: width of the bottleneck.
        base: channels the bottleneck is unfolded to, on (size / 16) squared places.
        encoder: channels after the first halving; 2, 4, 6 and 8 times as many after the others.
        decoder_a: channels of the first person's decoder after its first doubling.
        decoder_b: channels of the others' decoders after their first doubling.
        residual: the others' decoders have residual blocks; without, each doubling also halves their channels.
        dropout: share of the channels that training leaves out after the first person's first doubling.
        dropout_second: the same after the second doubling.
    """

    size: int = 128
    nodes: int = 1024
    base: int = 512
    encoder: int = 128
    decoder_a: int = 384
    decoder_b: int = 512
    residual: bool = True
    dropout: float = 0.25
    dropout_second: float = 0.25

    def __post_init__(self) -> None:
        name = "unbalanced"
        option_checks.whole(name, self, size=range(64, 513, 64), nodes=option_checks.FEATURES)
        option_checks.whole(name, self, base=option_checks.WIDTHS, encoder=range(2, 1025))
        option_checks.whole(name, self, decoder_a=range(16, 2049, 16), decoder_b=range(16, 2049, 16))
        option_checks.switches(name, self, "residual")
        option_checks.numbers(name, self, dropout=(0, 0.9), dropout_second=(0, 0.9))

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return self.size

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.size


_LOWMEM = Config(nodes=512, base=384, encoder=128, decoder_a=320, decoder_b=384, residual=False, dropout_second=0.15)

#: From the one that a test can train to the largest.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, 64, 32, 8, 16, 16),
    "lowmem": _LOWMEM,
    **{f"{size}px": Config(size) for size in range(64, 513, 64)},
}


def _down(layers: Layers, inputs: int, outputs: int, norm: bool) -> nn.Sequential:
    convolution = layers.convolution(inputs, outputs, 5, stride=2, start=_START)
    return nn.Sequential(convolution, *([ScalarNorm()] if norm else []), layers.active(SLOPE))


def _encoder(config: Config, layers: Layers) -> Stack:
    widths = (3, *(config.encoder * times for times in (1, 2, 4, 6, 8)))
    seen, side = config.size >> _HALVINGS, config.size >> _DOUBLINGS
    return Stack(
        *(_down(layers, a, b, norm=place < 2) for place, (a, b) in enumerate(itertools.pairwise(widths))),
        nn.Flatten(),
        layers.dense(widths[-1] * seen * seen, config.nodes),
        layers.dense(config.nodes, config.base * side * side),
        Unflatten(config.base, side),
    )


def _first_face(config: Config, layers: Layers) -> Stack:
    first, second, *rest = itertools.pairwise(_widths(config, config.decoder_a))
    return Stack(
        layers.up(*first, kernel=_KERNEL, start=_START),
        nn.Dropout2d(config.dropout),
        layers.up(*second, kernel=_KERNEL, start=_START),
        nn.Dropout2d(config.dropout_second),
        *(layers.up(a, b, kernel=_KERNEL, start=_START) for a, b in rest),
        layers.out(rest[-1][1]),
    )


def _other_face(config: Config, layers: Layers) -> Stack:
    if config.residual:
        widths = _widths(config, config.decoder_b)
        *before, last = itertools.pairwise(widths)
        larger = [layers.up_residual(a, b, kernel=_KERNEL, start=_START, residual=_START) for a, b in before]
        return Stack(*larger, layers.up(*last, kernel=_KERNEL, start=_START), layers.out(last[1]))
    widths = (config.base, *(config.decoder_b >> place for place in range(_DOUBLINGS)))
    plain = (layers.up(a, b, kernel=_KERNEL, start=_START) for a, b in itertools.pairwise(widths))
    return Stack(*plain, layers.out(widths[-1]))


def _widths(config: Config, width: int) -> tuple[int, ...]:
    return config.base, width, width, width // 2, width // 4


def _decoder(config: Config, layers: Layers, place: int) -> Decoder:
    face, width = (_other_face, config.decoder_b) if place else (_first_face, config.decoder_a)
    mask = layers.branch(_widths(config, width), 1) if layers.options.mask else None
    return Decoder(face(config, layers), mask)


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    decoders = (_decoder(config, layers, place) for place in range(len(people)))
    return SharedEncoder(people, _encoder(config, layers), decoders)
