"""What can be chosen in every architecture alike; loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """How the layers of a network are made.

    Attributes:
        mask: decoders also learn the face's mask, in a branch of their own.
        upscaler: how a decoder doubles: "subpixel" (convolution, then pixels shuffled apart), "resize" (bilinear, then
            convolution), "hybrid" (half of the channels either way), "fast" (the sum of both) or "transposed".
        initialiser: of the convolutions for which the architecture names none: He's uniform distribution, or
            "convolution_aware".
        icnr: sub-pixel convolutions start out as nearest-neighbour scaling, which keeps chequerboards away.
        padding: what convolutions see beyond the edge.
    """

    mask: bool = False
    upscaler: Literal["subpixel", "resize", "hybrid", "fast", "transposed"] = "subpixel"
    initialiser: Literal["he", "convolution_aware"] = "he"
    icnr: bool = False
    padding: Literal["zeros", "reflect"] = "zeros"
