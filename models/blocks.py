"""The pieces autoencoders are made of: a halving convolution, a doubling one, and the picture at the end.

All take and give float tensors (N, C, H, W). Convolutions have a bias and start from He's uniform distribution
(He et al. 2015, https://arxiv.org/abs/1502.01852), dense layers from Glorot's (Glorot and Bengio 2010). Doubling is
sub-pixel convolution (Shi et al. 2016, https://arxiv.org/abs/1609.05158).
"""

from __future__ import annotations

from torch import Tensor, nn

SLOPE = 0.1  # of the leaky rectifiers, left of zero


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size (or divides it by `stride`), started from He's uniform distribution."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def dense(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer started from Glorot's uniform distribution."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Down(nn.Sequential):
    """(N, inputs, H, W) to (N, outputs, H/2, W/2): a 5x5 convolution with stride 2, then a leaky rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(convolution(inputs, outputs, 5, stride=2), nn.LeakyReLU(SLOPE))


class Up(nn.Module):
    """(N, inputs, H, W) to (N, outputs, 2H, 2W): a 3x3 convolution, a leaky rectifier, pixels shuffled apart."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = convolution(inputs, outputs * 4, 3)
        self.activation = nn.LeakyReLU(SLOPE)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        shuffled: Tensor = self.shuffle(self.activation(self.convolution(x)))
        return shuffled


class Out(nn.Module):
    """(N, inputs, H, W) to (N, outputs, H, W) float32 in 0..1: a 5x5 convolution, then a sigmoid.

    The sigmoid runs in float32 whatever the weights are: bf16 has too few steps near 1 for 8-bit pictures.
    """

    def __init__(self, inputs: int, outputs: int = 3) -> None:
        super().__init__()
        self.convolution = convolution(inputs, outputs, 5)
        nn.init.xavier_uniform_(self.convolution.weight)  # a sigmoid follows, not a rectifier

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).float().sigmoid()
