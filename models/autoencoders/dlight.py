"""Dlight: an encoder that keeps its input's colours beside its features; heavy decoders for all but the first person.

    encoder:       Down 5 times, each joined with its input at half the side; flatten, dense, dense -> (base, 4, 4)
    the first's:   scaled `ratio` times; Hyb 4 times, each half as wide; Out 3               -> (3, output, output)
    others', good: Hyb `ratio` times and three residual blocks; Hyb 4 times with two, one, one and none; Out 3
    others', fast: Up `ratio` times; Fast 4 times, the first as wide, then each half; Out 3  -> (3, output, output)
    masks:         Hyb 4 times, each half as wide; Out 1, from the first scaling on          -> (1, output, output)

Hyb makes half of its channels by shuffling pixels and half by scaling; Fast adds the two. Both are the architecture's
own: the options' up-scaler is for the one Up. The first person is who is in the clips: the light decoder is there so
that the encoder learns their faces.

At full size (256 px, best, good) that is 61 783 296 parameters for the encoder, 6 869 523 for the first person's
decoder and 74 959 907 for any other, whose batch norms also keep 1 280 means and variances; 3 192 041 and 1 717 481 for
the masks. "fast" runs faster and is bigger (95 053 187): its first Up makes ratio^2 times its channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import option_checks
from models.autoencoder import SharedEncoder
from models.autoencoders.realface import ForkedDecoder
from models.blocks import SLOPE, Layers, Stack, Unflatten

_INPUT, _UNFOLDED = 128, 4
#: Width of the encoder's second stage and of the bottleneck.
_FEATURES = {"lowmem": (48, 640), "fair": (64, 1152), "best": (64, 1664)}


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        output: px of the square it gives, 128, 256 or 384; it sees 128.
        features: how much the encoder may tell: "lowmem", "fair" or "best".
        details: what the decoders make of it, all but the first person's: "fast" or "good".
        dropout: share of the bottleneck's numbers that training leaves out, twice.
        thinned: 1, 2, 4 or 8: all widths are divided by it, for small machines.
    """

    output: int = 256
    features: str = "best"
    details: str = "good"
    dropout: float = 0.05
    thinned: int = 1

    def __post_init__(self) -> None:
        option_checks.one_of("dlight", self, output=(128, 256, 384), features=tuple(_FEATURES))
        option_checks.one_of("dlight", self, details=("fast", "good"), thinned=(1, 2, 4, 8))
        option_checks.numbers("dlight", self, dropout=(0, 0.9))

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return _INPUT

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.output

    @property
    def ratio(self) -> int:
        """By how much a decoder's first scaling enlarges; four doublings follow."""
        return self.output // (_UNFOLDED << 4)

    @property
    def base(self) -> int:
        """Channels of what the decoders are given, on 4x4 places."""
        return 1024 // self.thinned

    def halved(self, width: int) -> tuple[int, ...]:
        """A width and three more, each half of the one before."""
        return tuple(width // self.thinned >> place for place in range(4))


#: From the one that a test can train to the largest.
PRESETS: dict[str, Config] = {
    "sketch": Config(128, "lowmem", thinned=8),
    "lowmem": Config(128, "lowmem"),
    "128px": Config(128),
    "256px": Config(),
    "384px": Config(384),
}


class DownJoined(nn.Module):
    """To half the side: what a convolution makes of it, joined by channel with the picture's averages."""

    def __init__(self, down: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.down = down
        self.pool = nn.AvgPool2d(2)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.down(x), self.activation(self.pool(x))), 1)


def _encoder(config: Config, layers: Layers) -> Stack:
    width, dense = (full // config.thinned for full in _FEATURES[config.features])
    made = (width // 2, width, 2 * width, 4 * width, 8 * width)
    # Each stage adds its channels to those before it.
    stages = zip(itertools.accumulate((3, *made)), made, strict=False)
    seen, places = 3 + sum(made), (_INPUT >> len(made)) ** 2
    return Stack(
        *(DownJoined(layers.down(a, b), layers.active(SLOPE)) for a, b in stages),
        nn.Flatten(),
        layers.dense(seen * places, dense),
        nn.Dropout(config.dropout),
        layers.dense(dense, config.base * _UNFOLDED**2),
        nn.Dropout(config.dropout),
        Unflatten(config.base, _UNFOLDED),
    )


def _hybrids(config: Config, layers: Layers, inputs: int, width: int, channels: int) -> Stack:
    """HYB four times, each half as wide, then OUT."""
    widths = (inputs, *config.halved(width))
    return Stack(*(layers.hybrid(a, b) for a, b in itertools.pairwise(widths)), layers.out(widths[-1], channels))


def _mask(config: Config, layers: Layers, inputs: int) -> Stack | None:
    return _hybrids(config, layers, inputs, 128, 1) if layers.options.mask else None


def _first(config: Config, layers: Layers) -> ForkedDecoder:
    """The decoder of the first person."""
    larger = nn.Upsample(scale_factor=config.ratio, mode="bilinear", align_corners=False)
    return ForkedDecoder(larger, _hybrids(config, layers, config.base, 256, 3), _mask(config, layers, config.base))


def _fast(config: Config, layers: Layers) -> ForkedDecoder:
    width, *_ = widths = config.halved(512)
    stages = (layers.fast(a, b) for a, b in itertools.pairwise((width, *widths)))
    face = Stack(*stages, layers.out(widths[-1]))
    return ForkedDecoder(layers.up(config.base, width, scale=config.ratio), face, _mask(config, layers, width))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _good(config: Config, layers: Layers) -> ForkedDecoder:
    wide, half, quarter, eighth = config.halved(512)
    face = Stack(
        layers.active(0.2),
        layers.residual(wide),
        layers.residual(wide, bias=False),
        layers.residual(wide, bias=False),
        _hybrid_active(layers, wide, wide),
        layers.residual(wide),
        layers.residual(wide, bias=False),
        _norm(wide),
        _hybrid_active(layers, wide, half),
        layers.residual(half),
        _hybrid_active(layers, half, quarter),
        layers.residual(quarter, bias=False),
        _norm(quarter),
        layers.hybrid(quarter, eighth),
        layers.out(eighth),
    )
    mask = _mask(config, layers, wide)
    return ForkedDecoder(
        layers.hybrid(config.base, wide, scale=config.ratio, slope=None),
        face,
        None if mask is None else Stack(layers.active(SLOPE), *mask),
    )


def _hybrid_active(layers: Layers, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(layers.hybrid(inputs, outputs, slope=None), layers.active(0.2))


_DETAILS = {"fast": _fast, "good": _good}


def build(config: Config, people: Sequence[str], layers: Layers) -> SharedEncoder:
    """A new network with random weights, drawn from torch's global generator."""
    other = _DETAILS[config.details]
    decoders = ((other if place else _first)(config, layers) for place in range(len(people)))
    return SharedEncoder(people, _encoder(config, layers), decoders)
