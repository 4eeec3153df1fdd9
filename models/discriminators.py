"""Networks that tell: pictures that were made from real ones, and one person's codes from another's.

Spectral normalisation (Miyato et al. 2018, https://arxiv.org/abs/1802.05957) bounds how fast their verdicts can
change, which keeps the slope a model climbs from growing without end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

_SLOPE = 0.2
_TINY = 1e-8


class PatchDiscriminator(nn.Module):
    """Which patches, and which places, of a picture are real; with a verdict of its own for each person.

    The way down judges patches of about an eighth of the side, as PatchGAN does (Isola et al. 2017, "Image-to-image
    translation with conditional adversarial networks", https://arxiv.org/abs/1611.07004). The way up, which sees the
    way down beside it, judges every place in view of its surroundings (Schönfeld et al. 2020, "A U-Net based
    discriminator for generative adversarial networks", https://arxiv.org/abs/2002.12655). All people share it but
    for the last layers, so that it grows with them hardly at all.
    """

    def __init__(self, size: int, people: int, width: int = 16) -> None:
        super().__init__()
        # A patch is 3 * 2^halvings px: 12 at 64 and 128 px, 24 at 256.
        halvings = max(2, round(math.log2(size / 8 / 3)))
        widths = [min(width << level, 16 * width) for level in range(halvings + 1)]
        self.first = spectral_norm(nn.Conv2d(3, widths[0], 3, padding=1))
        self.down = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in itertools.pairwise(widths))
        self.patches = spectral_norm(nn.Conv2d(widths[-1], people, 1))
        up = []
        inner = widths[-1]
        for beside in reversed(widths[:-1]):
            up.append(spectral_norm(nn.Conv2d(inner + beside, beside, 3, padding=1)))
            inner = beside
        self.up = nn.ModuleList(up)
        self.places = spectral_norm(nn.Conv2d(inner, people, 1))

    def forward(self, pictures: Tensor, people: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, above 0 for real.

        Args:
            pictures: (N, 3, size, size) float32 RGB 0..1.
            people: (N,) int64, whom each is meant to show.

        Returns:
            Of patches (N, h, w) and of places (N, size, size).
        """
        x = F.leaky_relu(self.first(2 * pictures - 1), _SLOPE)
        beside = []
        for layer in self.down:
            beside.append(x)
            x = F.leaky_relu(layer(x), _SLOPE)
        row = torch.arange(len(pictures), device=pictures.device)
        patches = self.patches(x)[row, people]
        for layer in self.up:
            skipped = beside.pop()
            x = F.interpolate(x, skipped.shape[-2:])
            x = F.leaky_relu(layer(torch.cat((x, skipped), 1)), _SLOPE)
        return patches, self.places(x)[row, people]


class CodeDiscriminator(nn.Module):
    """Whose face a code was made of.

    Takes codes of `shape`, (C, h, w) or (C,), whose mean square over all people is made 1 first: a model must not
    hide by making all its codes small.
    """

    def __init__(self, shape: Sequence[int], people: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, *sides = shape
        while len(sides) == 2 and max(sides) > 4:
            layers += [spectral_norm(nn.Conv2d(channels, width, 3, 2, 1)), nn.LeakyReLU(_SLOPE)]
            channels, sides = width, [(side + 1) // 2 for side in sides]
        layers += [nn.Flatten(), spectral_norm(nn.Linear(channels * math.prod(sides), 2 * width)), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Linear(2 * width, people))

    def forward(self, codes: Tensor) -> Tensor:
        """(N, *shape) float32 to (N, people) logits."""
        logits: Tensor = self.layers(codes * (codes.detach().square().mean() + _TINY).rsqrt())
        return logits
