"""The pieces autoencoders are made of, and the kit that makes them as `LayerOptions` say.

All take and give float tensors (N, C, H, W). Names in capitals are those of the architectures' usual diagrams. Unless
an architecture says otherwise, convolutions have a bias, keep the size ("same" padding) and start from He's uniform
distribution; dense layers from Glorot's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models import initialisers
from models.initialisers import Start
from models.layer_options import LayerOptions

SLOPE = 0.1  # of the leaky rectifiers, left of zero


class Stack(nn.Sequential):
    """A branch of a network: a Sequential that can forget its activations and compute them again on the way back.

    It keeps what goes into each of its layers and forgets what these made inside. A layer without parts keeps little
    else than its input, so it is left alone (and a batch norm sees each batch once); a Stack, or what has one inside,
    looks after itself.
    Chen et al. 2016, "Training deep nets with sublinear memory cost", https://arxiv.org/abs/1604.06174.
    """

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        forget = self.checkpointing and self.training and torch.is_grad_enabled()
        for layer in self:
            x = checkpoint(layer, x, use_reentrant=False) if forget and _has_parts(layer) else layer(x)
        return x


def _has_parts(layer: nn.Module) -> bool:
    inside = any(isinstance(part, Stack) for part in layer.modules())
    return not inside and next(layer.children(), None) is not None


def set_checkpointing(model: nn.Module, on: bool) -> None:
    """Whether every `Stack` in the model forgets its activations in training: less memory, a third more time."""
    for module in model.modules():
        if isinstance(module, Stack):
            module.checkpointing = on


class SubPixel(nn.Module):
    """UP: a convolution, an activation, pixels shuffled apart (Shi et al. 2016, https://arxiv.org/abs/1609.05158)."""

    def __init__(self, convolution: nn.Conv2d, scale: int, activation: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation = activation
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        shuffled: Tensor = self.shuffle(self.activation(self.convolution(x)))
        return shuffled


class TwoWays(nn.Module):
    """Two paths over the same input, their results joined by channel (HYB) or added (FAST)."""

    def __init__(self, shuffled: nn.Module, resized: nn.Module, joined: bool) -> None:
        super().__init__()
        self.shuffled = shuffled
        self.resized = resized
        self.joined = joined

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.shuffled(x), self.resized(x)
        return torch.cat((one, other), 1) if self.joined else one + other


class Residual(nn.Module):
    """RES: two 3x3 convolutions around an activation, added to the input, then another activation."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = first
        self.between = activation()
        self.second = second
        self.after = activation()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.after(x + self.second(self.between(self.first(x))))
        return result


class Out(nn.Module):
    """OUT: a convolution, then a sigmoid: float32 in 0..1 whatever the weights are.

    The sigmoid runs in float32: bf16 has too few steps near 1 for 8-bit pictures.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).float().sigmoid()


class ScalarNorm(nn.Module):
    """IN1: mean 0 and deviation 1 over channels and places of each picture together; one gain and one bias in all."""

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.var_mean(x.float(), dim=(1, 2, 3), correction=0, keepdim=True)
        return ((x - mean) * torch.rsqrt(deviation + self.eps) * self.gain + self.bias).to(x.dtype)


class Unflatten(nn.Module):
    """(N, C * H * W) to (N, C, H, W)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.shape = (channels, side, side)

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.shape)


@dataclass(frozen=True, slots=True)
class Layers:
    """The kit: makes layers as the options say. `activation` makes one for a slope left of zero."""

    options: LayerOptions = field(default_factory=LayerOptions)
    activation: Callable[[float], nn.Module] = nn.LeakyReLU

    def active(self, slope: float | None) -> nn.Module:
        """The activation; nothing where there is no slope."""
        return nn.Identity() if slope is None else self.activation(slope)

    def convolution(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        bias: bool = True,
        groups: int = 1,
        start: Start | None = None,
        shuffled: int = 1,
    ) -> nn.Conv2d:
        """Keeps the size, or divides it by `stride`; `shuffled` says by how much its pixels are shuffled apart."""
        padding = self.options.padding
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias, padding_mode=padding)
        self._start(start, shuffled)(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer

    def dense(self, inputs: int, outputs: int) -> nn.Linear:
        """FC: no activation."""
        layer = nn.Linear(inputs, outputs)
        initialisers.glorot_uniform(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def down(
        self, inputs: int, outputs: int, slope: float | None = SLOPE, *, start: Start | None = None
    ) -> nn.Sequential:
        """DOWN: to half the side by a 5x5 convolution; without a slope it has no activation (DOWN0)."""
        return nn.Sequential(self.convolution(inputs, outputs, 5, stride=2, start=start), self.active(slope))

    def up(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        scale: int = 2,
        slope: float | None = SLOPE,
        start: Start | None = None,
    ) -> nn.Module:
        """UP: to `scale` times the side, as `options.upscaler` says; without a slope it has no activation (UP0)."""
        return _UPSCALERS[self.options.upscaler](self, inputs, outputs, kernel, scale, slope, start)

    def subpixel(
        self, inputs: int, outputs: int, kernel: int, scale: int, slope: float | None, start: Start | None = None
    ) -> nn.Module:
        """UP by a convolution to `outputs` * scale^2 channels whose pixels are shuffled apart."""
        convolution = self.convolution(inputs, outputs * scale**2, kernel, start=start, shuffled=scale)
        return SubPixel(convolution, scale, self.active(slope))

    def resize(
        self, inputs: int, outputs: int, kernel: int, scale: int, slope: float | None, start: Start | None = None
    ) -> nn.Module:
        """UP by bilinear scaling, then a convolution."""
        larger = nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
        return nn.Sequential(larger, self.convolution(inputs, outputs, kernel, start=start), self.active(slope))

    def hybrid(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        scale: int = 2,
        slope: float | None = SLOPE,
        start: Start | None = None,
    ) -> nn.Module:
        """HYB: half of the channels by UP, the other half by a convolution that is then scaled, without activation."""
        shuffled = self.subpixel(inputs, outputs // 2, kernel, scale, slope, start)
        return TwoWays(shuffled, self._scaled(inputs, outputs - outputs // 2, scale, start), joined=True)

    def fast(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        scale: int = 2,
        slope: float | None = SLOPE,
        start: Start | None = None,
    ) -> nn.Module:
        """FAST: both ways of `hybrid` at full width, added."""
        shuffled = self.subpixel(inputs, outputs, kernel, scale, slope, start)
        return TwoWays(shuffled, self._scaled(inputs, outputs, scale, start), joined=False)

    def transposed(
        self, inputs: int, outputs: int, kernel: int, scale: int, slope: float | None, start: Start | None = None
    ) -> nn.Module:
        """UP by a transposed convolution whose kernel and stride are `scale`; `kernel` is not used.

        No two of its outputs overlap: it is a 1x1 sub-pixel convolution written otherwise, and starts out as one from
        the options' distribution. `start` is not used: it is meant for another kernel, and would be too narrow.
        """
        layer = nn.ConvTranspose2d(inputs, outputs, scale, scale)
        assert layer.bias is not None
        alike = torch.empty(outputs * scale**2, inputs, 1, 1, device=layer.weight.device)
        self._start(None, scale)(alike)
        with torch.no_grad():
            layer.weight.copy_(alike.view(outputs, scale, scale, inputs).permute(3, 0, 1, 2))
        nn.init.zeros_(layer.bias)
        return nn.Sequential(layer, self.active(slope))

    def up_residual(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        start: Start | None = None,
        residual: Start | None = None,
    ) -> nn.Sequential:
        """UP0, an activation of slope 0.2, RES: to twice the side; `start` is UP0's, `residual` that of RES."""
        larger = self.up(inputs, outputs, kernel=kernel, slope=None, start=start)
        return nn.Sequential(larger, self.active(0.2), self.residual(outputs, start=residual))

    def branch(self, widths: Sequence[int], channels: int, kernel: int = 3) -> Stack:
        """A decoder's branch: UP from each width to the next, then OUT with so many channels."""
        ups = (self.up(a, b, kernel=kernel) for a, b in itertools.pairwise(widths))
        return Stack(*ups, self.out(widths[-1], channels))

    def residual(self, channels: int, *, bias: bool = True, start: Start | None = None, slope: float = 0.2) -> Residual:
        """RES; without `bias` it is RES-nb."""
        first = self.convolution(channels, channels, 3, bias=bias, start=start)
        second = self.convolution(channels, channels, 3, bias=bias, start=initialisers.variance_scaling(0.2))
        return Residual(first, second, lambda: self.activation(slope))

    def separable(self, inputs: int, outputs: int, *, start: Start | None = None) -> nn.Sequential:
        """SEP: to half the side by a 5x5 convolution of each channel alone, then a 1x1 convolution and a rectifier."""
        alone = self.convolution(inputs, inputs, 5, stride=2, groups=inputs, bias=False, start=start)
        return nn.Sequential(alone, self.convolution(inputs, outputs, 1, start=start), nn.ReLU())

    def out(self, inputs: int, outputs: int = 3, kernel: int = 5) -> Out:
        """OUT."""
        return Out(self.convolution(inputs, outputs, kernel))

    def _scaled(self, inputs: int, outputs: int, scale: int, start: Start | None) -> nn.Sequential:
        larger = nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
        return nn.Sequential(self.convolution(inputs, outputs, 3, start=start), larger)

    def _start(self, start: Start | None, shuffled: int) -> Start:
        """What a convolution starts from, `start` or the options' own; see `convolution`."""
        start = start or _STARTS[self.options.initialiser]
        return initialisers.icnr(start, shuffled) if shuffled > 1 and self.options.icnr else start


_STARTS: dict[str, Start] = {"he": initialisers.he_uniform, "convolution_aware": initialisers.convolution_aware}

_UPSCALERS: dict[str, Callable[..., nn.Module]] = {
    "subpixel": Layers.subpixel,
    "resize": Layers.resize,
    "hybrid": Layers.hybrid,
    "fast": Layers.fast,
    "transposed": Layers.transposed,
}
