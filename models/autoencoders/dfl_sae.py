"""DFL-SAE: wide and residual, wired in one of two ways, which its option `inters` chooses.

    trunk:   Down 4 times, each twice as wide, flatten                     -> (8 * 3 * encoder_dims * (size / 16)^2)
    inter:   dense, dense, reshape (size / 16, size / 16, base), Up base   -> (base, size / 8, size / 8)
    decoder: Up and two residual blocks 3 times, Out 3                     -> (3, size, size)
    mask:    Up 3 times, Out 1, from the same latent                       -> (1, size, size)

"df" has one inter, part of the encoder, and a decoder for each person. "liae" has one decoder; the first person's
latent is what the inter `both` gives, twice, and any other's what their own inter gives joined with it.

At full size (128 px) df has 75 961 012 parameters in the encoder, 27 023 853 in each decoder and 3 733 843 in each
mask; liae has 16 681 140 in the trunk, 34 375 936 in each inter, 36 313 581 in the decoder and 6 830 419 in the mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import option_checks
from models.autoencoder import Autoencoder, Decoded, PerPerson, SharedDecoder, SharedEncoder
from models.blocks import Layers, Stack, Unflatten

_HALVINGS, _COLOURS = 4, 3
#: Bottlenecks for `ae_dims` 0.
_AUTOMATIC = {"df": 512, "liae": 256}


@dataclass(frozen=True, slots=True)
class Config:
    """How big it is.

    Attributes:
        size: px of the square it sees and gives.
        inters: "df" (a decoder for each person) or "liae" (one decoder, an inter for each person after the first).
        encoder_dims: a third of the channels after the first halving.
        decoder_dims: a sixth of the channels after a decoder's last doubling.
        ae_dims: width of the bottleneck; 0 is 512 for df and 256 for liae, whose inters give twice as many channels.
        multiscale: decoders also give pictures of a quarter and a half of the side, to be compared each by itself.
    """

    size: int = 128
    inters: str = "df"
    encoder_dims: int = 42
    decoder_dims: int = 21
    ae_dims: int = 0
    multiscale: bool = False

    def __post_init__(self) -> None:
        name, dims = "dfl_sae", range(2, 86)
        option_checks.one_of(name, self, inters=tuple(_AUTOMATIC))
        option_checks.whole(name, self, size=range(64, 257, 16), encoder_dims=dims, decoder_dims=dims)
        option_checks.whole(name, self, ae_dims=range(0, 2049, 2))
        option_checks.switches(name, self, "multiscale")

    @property
    def input_size(self) -> int:
        """Px of the square it sees."""
        return self.size

    @property
    def output_size(self) -> int:
        """Px of the square it gives."""
        return self.size

    @property
    def bottleneck(self) -> int:
        """`ae_dims`, or what stands for 0."""
        return self.ae_dims or _AUTOMATIC[self.inters]

    @property
    def base(self) -> int:
        """Channels that an inter gives."""
        return self.bottleneck * (2 if self.inters == "liae" else 1)


#: From the one that a test can train to the family's own.
PRESETS: dict[str, Config] = {
    "sketch": Config(64, "df", 3, 2, 32),
    "df": Config(),
    "liae": Config(inters="liae"),
}


class ScaledDecoder(nn.Module):
    """A decoder with a picture after several of its stages, the smaller ones first."""

    def __init__(self, stages: Sequence[nn.Module], outs: Sequence[nn.Module | None], mask: nn.Module | None) -> None:
        """`outs`: what makes a picture after each of the stages; None where there is none."""
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.outs = nn.ModuleList(out or nn.Identity() for out in outs)
        self.pictured = tuple(out is not None for out in outs)
        self.mask = mask

    def forward(self, latent: Tensor) -> Decoded:
        x, pictures = latent, []
        for stage, out, pictured in zip(self.stages, self.outs, self.pictured, strict=True):
            x = stage(x)
            if pictured:
                pictures.append(out(x))
        return Decoded(tuple(pictures), None if self.mask is None else self.mask(latent))


class Liae(SharedDecoder):
    """One decoder, fed two inters' results joined by channel: a person's own, then everybody's (`both`).

    One person, `plain`, has no inter: their latent is everybody's, twice.
    """

    def __init__(
        self, people: Sequence[str], plain: str, encoder: nn.Module, inter: Callable[[], nn.Module], decoder: nn.Module
    ) -> None:
        """`inter`: makes one, from a code to half of a latent."""
        super().__init__(people, encoder, decoder)
        self.plain = plain
        self.both = inter()
        others = [person for person in people if person != plain]
        self.inters = PerPerson(others, (inter() for _ in others))

    def latent(self, code: Tensor, person: str) -> Tensor:
        """(N, features) to (N, C, H, W). KeyError on a stranger."""
        both = self.both(code)
        own = both if person == self.plain else self.inters[person](code)
        return torch.cat((own, both), 1)


def _trunk(config: Config, layers: Layers) -> list[nn.Module]:
    widths = (3, *(_COLOURS * config.encoder_dims << place for place in range(_HALVINGS)))
    return [*(layers.down(a, b) for a, b in itertools.pairwise(widths)), nn.Flatten()]


def _inter(config: Config, layers: Layers) -> list[nn.Module]:
    side, base = config.size >> _HALVINGS, config.base
    seen = (_COLOURS * config.encoder_dims << (_HALVINGS - 1)) * side * side
    return [
        layers.dense(seen, config.bottleneck),
        layers.dense(config.bottleneck, base * side * side),
        Unflatten(base, side),
        layers.up(base, base),
    ]


def _decoder(config: Config, layers: Layers, latent: int) -> ScaledDecoder:
    shrinking = (8, 4, 2)
    widths = (latent, *(_COLOURS * config.decoder_dims * times for times in shrinking))
    stages = [Stack(layers.up_residual(a, b), layers.residual(b)) for a, b in itertools.pairwise(widths)]
    last = len(stages) - 1
    pictured = [config.multiscale or place == last for place in range(len(stages))]
    outs = [layers.out(width) if wanted else None for width, wanted in zip(widths[1:], pictured, strict=True)]
    plain = (latent, *(config.decoder_dims * times for times in shrinking))
    return ScaledDecoder(stages, outs, layers.branch(plain, 1) if layers.options.mask else None)


def build(config: Config, people: Sequence[str], layers: Layers) -> Autoencoder:
    """A new network with random weights, drawn from torch's global generator."""
    trunk = Stack(*_trunk(config, layers))
    if config.inters == "liae":
        decoder = _decoder(config, layers, 2 * config.base)
        return Liae(people, people[0], trunk, lambda: Stack(*_inter(config, layers)), decoder)
    encoder = Stack(*trunk, *_inter(config, layers))
    return SharedEncoder(people, encoder, (_decoder(config, layers, config.base) for _ in people))
