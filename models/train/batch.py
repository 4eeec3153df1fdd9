"""What one person adds to a training step."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """N faces of one person.

    Attributes:
        input: (N, 3, in, in) float32 RGB 0..1, what the network sees.
        target: (N, 3, out, out) float32 RGB 0..1, what it shall give.
        mask, eyes, mouth: (N, 1, out, out) float32 0..1, where in the target the face and these parts of it are.
    """

    input: Tensor
    target: Tensor
    mask: Tensor
    eyes: Tensor
    mouth: Tensor

    def __len__(self) -> int:
        return len(self.input)

    def parts(self, count: int) -> list[Batch]:
        """The same faces in `count` batches of nearly equal size, at most as many as there are faces."""
        columns = [getattr(self, f.name).chunk(min(count, len(self))) for f in fields(self)]
        return [Batch(*row) for row in zip(*columns, strict=True)]
