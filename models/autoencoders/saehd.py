"""SAEHD: df or liae with four additions, in any combination and at any size; the quality reference.

    trunk:   Down 4 times, each twice as wide, flatten                             -> (8 * encoder_dims * (size / 16)^2)
    inter:   dense, dense, reshape (side, side, base), Up base                     -> (base, size / 8, size / 8)
    decoder: Up and a residual block 3 times (8, 4, 2 times decoder_dims), Out 3   -> (3, size, size)
    mask:    Up 3 times (8, 4, 2 times mask_dims), Out 1, from the same latent     -> (1, size, size)

The additions are known by letters, and a variant by those it has ("liae-ud"):

    u (pixel_norm): the trunk's result is divided by its root mean square
    d (double):     the decoder stops at half the side; four convolutions each make one of every four pixels
    t (deep):       the trunk halves once more, a residual block at each end; the decoder doubles instead of the inter
    c (cosine):     activations are x cos(x)

Every decoder has its mask, whatever the options say. "df" has one inter, part of the encoder, and a decoder for each
person. "liae" has one decoder, fed two inters' results joined by channel. There the person who is put into clips, the
last, has what `both` gives, twice; any other p has what p's own inter gives, then what `both` gives. A swap towards the
last person so needs `both` alone, which has seen everybody.

The default (liae-ud, 128 px) has 4 306 560 parameters in the trunk, 19 933 440 in each inter and 38 203 115 in the
decoder with its mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models import option_checks
from models.autoencoder import Autoencoder, Decoder, SharedEncoder
from models.autoencoders.dfl_sae import Liae
from models.blocks import Layers, Stack, Unflatten


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        size: px of the square it sees and gives; in steps of 16, of 32 where `double` or `deep`.
        inters: "df" (a decoder for each person) or "liae" (one decoder, an inter for each person but the last).
        pixel_norm: u.
        double: d.
        deep: t.
        cosine: c.
        ae_dims: width of the bottleneck.
        encoder_dims: channels after the first halving.
        decoder_dims: half of the channels after a decoder's last doubling.
        mask_dims: the same for masks; 0 is a third of `decoder_dims`, rounded up to an even number.
    """

    size: int = 128
    inters: str = "liae"
    pixel_norm: bool = True
    double: bool = True
    deep: bool = False
    cosine: bool = False
    ae_dims: int = 256
    encoder_dims: int = 64
    decoder_dims: int = 64
    mask_dims: int = 0

    def __post_init__(self) -> None:
        name = "saehd"
        option_checks.one_of(name, self, inters=("df", "liae"))
        option_checks.switches(name, self, "pixel_norm", "double", "deep", "cosine")
        option_checks.whole(name, self, size=range(64, 641, 32 if self.double or self.deep else 16))
        option_checks.whole(name, self, ae_dims=range(2, 1025), encoder_dims=range(2, 257), decoder_dims=range(2, 257))
        option_checks.whole(name, self, mask_dims=range(0, 257, 2))

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return self.size

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.size

    @property
    def base(self) -> int:
        """Channels that an inter gives."""
        return self.ae_dims * (2 if self.inters == "liae" else 1)

    @property
    def trunk(self) -> tuple[int, ...]:
        """Channels after each halving."""
        return tuple(self.encoder_dims * times for times in ((1, 2, 4, 8, 8) if self.deep else (1, 2, 4, 8)))

    def widths(self, dims: int) -> tuple[int, ...]:
        """Channels after each of a decoder's doublings, for `decoder_dims` or the like."""
        return tuple(dims * times for times in ((8, 8, 4, 2) if self.deep else (8, 4, 2)))


#: From the one that a test can train; the others as people know them.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, ae_dims=32, encoder_dims=8, decoder_dims=4),
    "quick96": Config(96, "df", ae_dims=128, mask_dims=16),
    "df": Config(128, "df", pixel_norm=False, double=False),
    "df-ud": Config(128, "df"),
    "liae": Config(pixel_norm=False, double=False),
    "liae-ud": Config(),
    "liae-udt": Config(deep=True),
}


class Cosine(nn.Module):
    """x cos(x); has no slope, and takes one to stand for activations that have."""

    def __init__(self, slope: float) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.cos(x)


class PixelNorm(nn.Module):
    """(N, F) divided by its root mean square over F, in float32.

    Karras et al. 2018, "Progressive growing of GANs", https://arxiv.org/abs/1710.10196, section 4.2.
    """

    def forward(self, x: Tensor) -> Tensor:
        full = x.float()
        return (full * torch.rsqrt(full.square().mean(1, keepdim=True) + 1e-6)).to(x.dtype)


class QuarterOuts(nn.Module):
    """To twice the side: each of four convolutions makes one of every 2x2 pixels; float32 0..1, see `blocks.Out`."""

    def __init__(self, quarters: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.quarters = nn.ModuleList(quarters)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        # Shuffling takes neighbours in the picture from neighbouring channels.
        apart = torch.stack([quarter(x) for quarter in self.quarters], 2).flatten(1, 2)
        whole: Tensor = self.shuffle(apart)
        return whole.float().sigmoid()


def _trunk(config: Config, layers: Layers) -> list[nn.Module]:
    downs: list[nn.Module] = [layers.down(a, b) for a, b in itertools.pairwise((3, *config.trunk))]
    if config.deep:
        downs = [downs[0], layers.residual(config.trunk[0]), *downs[1:], layers.residual(config.trunk[-1])]
    return [*downs, nn.Flatten(), *([PixelNorm()] if config.pixel_norm else [])]


def _inter(config: Config, layers: Layers) -> Stack:
    seen, side = config.size >> len(config.trunk), config.size // (32 if config.double else 16)
    larger = [] if config.deep else [layers.up(config.base, config.base)]
    return Stack(
        layers.dense(config.trunk[-1] * seen * seen, config.ae_dims),
        layers.dense(config.ae_dims, config.base * side * side),
        Unflatten(config.base, side),
        *larger,
    )


def _face_out(config: Config, layers: Layers, width: int) -> nn.Module:
    if not config.double:
        return layers.out(width, 3, kernel=1)
    return QuarterOuts([layers.convolution(width, 3, kernel) for kernel in (1, 3, 3, 3)])


def _decoder(config: Config, layers: Layers, latent: int) -> Decoder:
    widths = (latent, *config.widths(config.decoder_dims))
    stages = (nn.Sequential(layers.up(a, b), layers.residual(b)) for a, b in itertools.pairwise(widths))
    face = Stack(*stages, _face_out(config, layers, widths[-1]))
    dims = config.mask_dims or -(-config.decoder_dims // 6) * 2
    masks = (latent, *config.widths(dims), *([dims] if config.double else []))
    ups = (layers.up(a, b) for a, b in itertools.pairwise(masks))
    return Decoder(face, Stack(*ups, layers.out(masks[-1], 1, kernel=1)))


def build(config: Config, people: Sequence[str], layers: Layers) -> Autoencoder:
    """A new network with random weights, drawn from torch's global generator."""
    if config.cosine:
        layers = replace(layers, activation=Cosine)
    trunk = Stack(*_trunk(config, layers))
    if config.inters == "liae":
        decoder = _decoder(config, layers, 2 * config.base)
        return Liae(people, people[-1], trunk, lambda: _inter(config, layers), decoder)
    encoder = Stack(trunk, _inter(config, layers))
    return SharedEncoder(people, encoder, (_decoder(config, layers, config.base) for _ in people))
